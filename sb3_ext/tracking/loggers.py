"""SB3's logger for a run directory."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from stable_baselines3.common.logger import KVWriter, Logger, make_output_format

from sb3_ext.tracking.progress import CSVOutputFormat
from sb3_ext.tracking.wandb_runs import WandbOutputFormat

if TYPE_CHECKING:
    import wandb


def has_tensorboard(asked: bool | None) -> bool:
    """Whether TensorBoard files shall be written; by default, where it is installed."""
    installed = importlib.util.find_spec("tensorboard") is not None
    if asked and not installed:
        raise ImportError(
            "TensorBoard logs need tensorboard, which is not installed: "
            'pip install "sb3-ext[tracking]"'
        )
    return installed if asked is None else asked


def run_logger(
    run_dir: str | Path,
    *,
    wandb_run: wandb.Run | None = None,
    tensorboard: bool | None = None,
    verbose: int = 0,
    append: bool = False,
) -> Logger:
    """SB3's logger for a run: ``progress.csv``, ``tensorboard/`` and, if given, a W&B run.

    :param tensorboard: by default, where it is installed
    :param verbose: from 1 on, SB3's table is printed too
    :param append: keep the rows of ``progress.csv`` and write after them
    """
    folder = Path(run_dir)
    with_tensorboard = has_tensorboard(tensorboard)
    folder.mkdir(parents=True, exist_ok=True)
    writers: list[KVWriter] = [CSVOutputFormat(str(folder / "progress.csv"), append=append)]
    if with_tensorboard:
        writers.append(make_output_format("tensorboard", str(folder / "tensorboard")))
    if wandb_run is not None:
        writers.append(WandbOutputFormat(wandb_run))
    if verbose > 0:
        writers.append(make_output_format("stdout", str(folder)))
    return Logger(str(folder), writers)
