"""Readers: each makes an :class:`~sb3_ext.offline.OfflineDataset` of one kind of source."""

from sb3_ext.offline.readers.any import load_dataset
from sb3_ext.offline.readers.d3rlpy import from_d3rlpy
from sb3_ext.offline.readers.d4rl import from_d4rl
from sb3_ext.offline.readers.minari import from_minari
from sb3_ext.offline.readers.policy import from_policy
from sb3_ext.offline.readers.replay_buffer import from_replay_buffer
from sb3_ext.offline.readers.trajectories import from_trajectories

__all__ = [
    "from_d3rlpy",
    "from_d4rl",
    "from_minari",
    "from_policy",
    "from_replay_buffer",
    "from_trajectories",
    "load_dataset",
]
