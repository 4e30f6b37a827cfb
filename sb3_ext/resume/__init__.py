"""Exact resume: a killed run goes on where its last checkpoint was."""

from sb3_ext.resume.callback import ResumableCheckpoint
from sb3_ext.resume.environments import ResumableEnv, register_env_state
from sb3_ext.resume.store import latest_checkpoint

__all__ = ["ResumableCheckpoint", "ResumableEnv", "latest_checkpoint", "register_env_state"]
