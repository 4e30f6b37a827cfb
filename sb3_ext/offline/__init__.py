"""Offline reinforcement learning: recorded transitions in and out.

dataset = from_minari("mujoco/hopper/medium-v0")
print(dataset.report())
"""

from sb3_ext.offline.dataset import OfflineDataset, episode_starts_after
from sb3_ext.offline.readers import (
    from_d3rlpy,
    from_d4rl,
    from_minari,
    from_policy,
    from_replay_buffer,
    from_trajectories,
    load_dataset,
)
from sb3_ext.offline.recording import (
    ConcurrentLearner,
    record_final_buffer,
    record_imitation,
    record_imperfect_demonstrations,
)
from sb3_ext.offline.report import DatasetReport
from sb3_ext.offline.writers import to_minari, to_replay_buffer

__all__ = [
    "ConcurrentLearner",
    "DatasetReport",
    "OfflineDataset",
    "episode_starts_after",
    "from_d3rlpy",
    "from_d4rl",
    "from_minari",
    "from_policy",
    "from_replay_buffer",
    "from_trajectories",
    "load_dataset",
    "record_final_buffer",
    "record_imitation",
    "record_imperfect_demonstrations",
    "to_minari",
    "to_replay_buffer",
]
