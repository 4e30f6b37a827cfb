"""What a run was and what it logged: the run directory, SB3's logger, Weights & Biases.

    model.learn(100_000, callback=Track("runs/my-run", wandb=True))

Nothing is sent anywhere unasked: W&B runs are offline unless the caller or ``WANDB_MODE`` says
otherwise, and ``wandb sync`` uploads them later.
"""

from sb3_ext.resume import ResumableCheckpoint
from sb3_ext.tracking.config import DISTRIBUTIONS, git_state, model_config
from sb3_ext.tracking.directory import RunDirectory
from sb3_ext.tracking.loggers import run_logger
from sb3_ext.tracking.progress import CSVOutputFormat
from sb3_ext.tracking.track import Track
from sb3_ext.tracking.wandb_runs import WandbOutputFormat, start_wandb

__all__ = [
    "DISTRIBUTIONS",
    "CSVOutputFormat",
    "ResumableCheckpoint",
    "RunDirectory",
    "Track",
    "WandbOutputFormat",
    "git_state",
    "model_config",
    "run_logger",
    "start_wandb",
]
