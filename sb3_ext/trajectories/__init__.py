"""Trajectories with the probabilities that made them, and returns that correct for them."""

from sb3_ext.trajectories.replay import TrajectoryReplayBuffer, Windows

__all__ = ["TrajectoryReplayBuffer", "Windows"]
