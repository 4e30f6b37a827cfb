"""Offline reinforcement learning: recorded transitions in and out.

dataset = from_minari("mujoco/hopper/medium-v0")
print(dataset.report())
"""

from sb3_ext.offline.dataset import OfflineDataset, episode_starts_after
from sb3_ext.offline.report import DatasetReport

__all__ = ["DatasetReport", "OfflineDataset", "episode_starts_after"]
