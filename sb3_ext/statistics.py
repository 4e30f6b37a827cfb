"""The running means of ``VecNormalize``, kept as plain arrays beside a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize


def statistics_path(stem: Path) -> Path:
    """``best_model`` -> ``best_model_statistics.npz``."""
    return stem.with_name(f"{stem.name}_statistics.npz")


def save_statistics(stem: Path, env: VecNormalize | None) -> None:
    """Write them; without ``VecNormalize`` there is nothing to do."""
    if env is None:
        return
    arrays: dict[str, Any] = {}
    for name, one in _running_means(env).items():
        arrays |= {f"{name}.mean": one.mean, f"{name}.var": one.var, f"{name}.count": one.count}
    np.savez(statistics_path(stem), **arrays)


def load_statistics(stem: Path, env: VecNormalize) -> None:
    """Put them into an environment that was wrapped alike."""
    with np.load(statistics_path(stem), allow_pickle=False) as arrays:
        for name, one in _running_means(env).items():
            one.mean, one.var = arrays[f"{name}.mean"], arrays[f"{name}.var"]
            one.count = float(arrays[f"{name}.count"])


def _running_means(env: VecNormalize) -> dict[str, RunningMeanStd]:
    found = {"return": env.ret_rms}
    if env.norm_obs and isinstance(env.obs_rms, Mapping):
        found |= {f"observation.{key}": one for key, one in env.obs_rms.items()}
    elif env.norm_obs:
        found["observation"] = env.obs_rms
    return found
