"""What a run was, ready for JSON: algorithm, environment, hyperparameters, versions, commit."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import inspect
import math
import os
import platform
import subprocess
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

from sb3_ext import registry
from sb3_ext.signatures import constructor_arguments

DISTRIBUTIONS = ("sb3-ext", "stable_baselines3", "torch", "gymnasium", "mujoco", "numpy")
NOT_PLAIN = object()
GIT_SECONDS = 5.0


def model_config(model: BaseAlgorithm) -> dict[str, Any]:
    """What identifies a run, ready for JSON.

    Hyperparameters are the constructor's arguments, over all classes of the model, as the model
    holds them. A class or function is given as ``module:name``, a dataclass by its fields; what
    has no plain form is left out. ``wrappers`` and ``vec_env`` name classes, outermost first.
    ``git`` is the commit of the working directory, ``None`` where there is none.
    """
    hyperparameters = {}
    elsewhere = {"env", "seed", "verbose", "tensorboard_log", "_init_setup_model"}
    for name in constructor_arguments(type(model)):
        if name not in elsewhere and hasattr(model, name):
            value = plain(getattr(model, name))
            if value is not NOT_PLAIN:
                hyperparameters[name] = value
    hyperparameters["policy"] = _name(type(model.policy))
    env = model.get_env()
    played_by = getattr(type(model), "episodes_played_by", None)
    return {
        "algorithm": _name(type(model)),
        **_source(type(model)),
        "env": _env_id(env),
        "wrappers": _wrappers(env),
        "vec_env": _vec_env(env),
        "n_envs": model.n_envs,
        "seed": model.seed,
        "hyperparameters": hyperparameters,
        # Whose returns a training's episodes tell, where it is not the agent alone.
        **({} if played_by is None else {"episodes_played_by": played_by}),
        "versions": _versions(),
        "git": git_state(),
    }


def git_state() -> dict[str, Any] | None:
    """The commit of the working directory and whether tracked files differ from it.

    ``None`` without git, without a repository, and where git takes long. No hook, file-system
    monitor or pager of the repository is run, and no lock is taken.
    """
    commit = _git("rev-parse", "--verify", "HEAD")
    if not commit:
        return None
    changes = _git("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all")
    return {"commit": commit.strip(), "dirty": None if changes is None else bool(changes)}


def _git(*arguments: str) -> str | None:
    switches = ["--no-optional-locks", "--no-pager"]
    switches += ["-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}"]
    try:
        ended = subprocess.run(
            ["git", *switches, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return ended.stdout


def _source(cls: type) -> dict[str, Any]:
    """The plugin that a class is, if any, and the distribution that brought it."""
    spec = registry.spec_of(cls)
    if spec is not None:
        row, _ = registry.find(spec.name)
        source = {"name": row.distribution, "version": row.version}
        return {"plugin": spec.name, "distribution": source}
    top = cls.__module__.partition(".")[0]
    for name in _providers().get(top, ()):
        return {
            "plugin": None,
            "distribution": {"name": name, "version": importlib.metadata.version(name)},
        }
    return {"plugin": None, "distribution": None}


@functools.cache
def _providers() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def _env_id(env: VecEnv | None) -> str | None:
    try:
        specs = env.get_attr("spec") if env is not None else []
    except Exception:  # a VecEnv of another package may have no such door
        return None
    return next((spec.id for spec in specs if spec is not None), None)


def _vec_env(env: VecEnv | None) -> list[str]:
    names = []
    while env is not None:
        names.append(type(env).__name__)
        env = env.venv if isinstance(env, VecEnvWrapper) else None
    return names


def _wrappers(env: VecEnv | None) -> list[str]:
    """The wrappers of the first environment."""
    if env is None:
        return []
    inner = env.unwrapped
    if isinstance(inner, DummyVecEnv):
        names, one = [], inner.envs[0]
        while isinstance(one, gym.Wrapper):
            names.append(type(one).__name__)
            one = one.env
        return names
    try:  # in another process there are no objects to look at, only gymnasium's description:
        # "<Monitor<TimeLimit<PendulumEnv<Pendulum-v1>>>>", or "<MyEnv instance>" without an id
        described = str(inner.env_method("__str__", indices=0)[0])
    except Exception:
        return []
    known = _env_id(env)
    classes = described.partition(f"<{known}>" if known else " instance")[0].split("<")[1:]
    return [name for name in classes[:-1] if name.isidentifier()]


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for distribution in DISTRIBUTIONS:
        try:
            versions[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _name(value: Any) -> str:
    return f"{value.__module__}:{value.__qualname__}"


def plain(value: Any) -> Any:
    """The value in JSON's types, or ``NOT_PLAIN``."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no infinity
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, th.device):
        return str(value)
    if isinstance(value, FloatSchedule):
        return plain(value.value_schedule)
    if isinstance(value, ConstantSchedule):
        return plain(value.val)
    if isinstance(value, (ActionNoise, LinearSchedule)):
        return repr(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {"name": type(value).__name__, **plain(fields)}
    if isinstance(value, Mapping):
        items = {str(key): plain(item) for key, item in value.items()}
        return {key: item for key, item in items.items() if item is not NOT_PLAIN}
    if isinstance(value, (tuple, list)):
        entries = [plain(getattr(item, "value", item)) for item in value]
        return NOT_PLAIN if any(item is NOT_PLAIN for item in entries) else entries
    if isinstance(value, type) or inspect.isfunction(value):
        return _name(value)
    return NOT_PLAIN
