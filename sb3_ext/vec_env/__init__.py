"""Vectorised environments: several environments in each worker process."""

from sb3_ext.vec_env.packed import PackedSubprocVecEnv

__all__ = ["PackedSubprocVecEnv"]
