"""Environments and models from a run's options."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from sb3_ext.errors import UsageError
from sb3_ext.resume import ResumableEnv
from sb3_ext.running.hyperparameters import constructor_values
from sb3_ext.running.options import TrainOptions
from sb3_ext.vec_env import PackedSubprocVecEnv

VEC_ENV_CLASSES: dict[str, Any] = {
    "dummy": DummyVecEnv,
    "subproc": SubprocVecEnv,
    "packed": PackedSubprocVecEnv,
}


def require_env(options: TrainOptions) -> None:
    """Refuse an environment that is not registered or cannot be made.

    :raises UsageError: with the near miss
    """
    try:
        env = gym.make(options.env, **options.env_kwargs)
    except gym.error.NameNotFound as error:
        near = difflib.get_close_matches(options.env, gym.registry, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"no environment {options.env!r} is registered{hint}") from error
    except (gym.error.Error, ImportError, TypeError, ValueError) as error:
        told = " ".join(str(error).split())
        raise UsageError(f"the environment {options.env!r} cannot be made: {told}") from error
    try:  # one with a wrong argument may say so at its first step only
        env.reset(seed=0)
        env.step(env.action_space.sample())
    except Exception as error:
        told = " ".join(str(error).split())
        raise UsageError(
            f"the environment {options.env!r} fails at its first step "
            f"({type(error).__name__}: {told})"
        ) from error
    finally:
        env.close()


def make_env(
    options: TrainOptions,
    *,
    n_envs: int,
    seed: int | None,
    monitor: Path | None,
    append: bool = False,
) -> VecEnv:
    """The vectorised environment of a run, without ``VecNormalize``."""
    return make_vec_env(
        options.env,
        n_envs,
        seed=seed,
        env_kwargs=dict(options.env_kwargs),
        monitor_dir=None if monitor is None else str(monitor),
        monitor_kwargs={"override_existing": not append},
        wrapper_class=_in_worker if options.vec_env == "subproc" else ResumableEnv,
        vec_env_cls=VEC_ENV_CLASSES[options.vec_env],
    )


def _in_worker(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """Resumable, in a process of its own.

    Ctrl-C reaches a terminal's whole family: the parent decides when it ends, and asks its workers
    for their state before.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return ResumableEnv(env)


def make_film_env(options: TrainOptions) -> gym.Env[Any, Any]:
    """One of them, to be filmed."""
    return gym.make(options.env, **{**options.env_kwargs, "render_mode": "rgb_array"})


def require_film(options: TrainOptions) -> None:
    """Refuse to film what cannot be rendered, before anything is trained.

    :raises UsageError: with the reason
    """
    try:
        env = make_film_env(options)
        try:
            env.reset(seed=0)
            frame = env.render()
        finally:
            env.close()
        if frame is None:
            raise ValueError("render() returned None")
    except Exception as error:  # a stranger's renderer may do anything
        told = " ".join(str(error).split())
        raise UsageError(
            f"the environment {options.env!r} cannot be filmed ({told}). Without a display, MuJoCo "
            "needs the variable MUJOCO_GL=egl or osmesa; or leave videos out"
        ) from error


def make_model(
    cls: Any, options: TrainOptions, env: VecEnv, *, allow_pickle: bool = False
) -> BaseAlgorithm:
    """The algorithm, from plain values.

    :param allow_pickle: whether a dataset may be a pickle
    :raises UsageError: if the class refuses them
    """
    if options.device.startswith("cuda") and not th.cuda.is_available():
        raise UsageError(
            f"the device {options.device!r} is not there: torch finds no CUDA; sb3-ext doctor says "
            "more. Leave --device out to take what there is"
        )
    policy = options.policy or default_policy(cls, env)
    if policy not in cls.policy_aliases:
        near = difflib.get_close_matches(policy, cls.policy_aliases, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(cls.policy_aliases)}"
        raise UsageError(f"{options.algorithm} has no policy {policy!r}; {hint}")
    values = constructor_values(cls, options.hyperparameters, env)
    data = getattr(cls, "data_argument", None)
    if data is not None and values.get(data) is None:
        raise UsageError(f"{options.algorithm} learns from data: give --set {data}=FILE")
    values = _with_pickled_data(values, data, env, allow_pickle)
    try:
        model: BaseAlgorithm = cls(
            policy, env, seed=options.seed, device=options.device, verbose=0, **values
        )
    except (ValueError, TypeError, AssertionError, KeyError, RuntimeError, OSError) as error:
        told = " ".join(str(error).split())
        raise UsageError(f"{options.algorithm} cannot be made: {told}") from error
    return model


def _with_pickled_data(
    values: dict[str, Any], name: str | None, env: VecEnv, trusted: bool
) -> dict[str, Any]:
    """The same with a pickled dataset read, if the user trusts it."""
    data = values.get(name or "")
    if name is None or not isinstance(data, str):
        return values
    from sb3_ext.offline.readers.any import is_pickle, load_dataset, load_demonstrations

    if not Path(data).expanduser().exists() and not data.startswith("minari:"):
        raise UsageError(
            f"there is no dataset {data}; a run whose data were moved goes on with --set "
            f"{name}=FILE"
        )
    if not is_pickle(data):
        return values
    if not trusted:
        raise UsageError(
            f"{data} is a pickle, and reading one runs the code of whoever wrote it. If you trust "
            "it, `train` takes it with --allow-pickle; load_dataset(path, allow_pickle=True)"
            '.save("data.npz"), of sb3_ext.offline, writes what needs no trust'
        )

    load = load_dataset if name == "dataset" else load_demonstrations
    try:
        return {**values, name: load(data, env=env, allow_pickle=True)}
    except (ValueError, TypeError, OSError) as error:
        raise UsageError(" ".join(str(error).split())) from error


def default_policy(cls: Any, env: VecEnv) -> str:
    """The policy that fits the observations."""
    if isinstance(env.observation_space, gym.spaces.Dict):
        fitting = "MultiInput"
    else:
        fitting = "Cnn" if is_image_space(env.observation_space) else "Mlp"
    names: Mapping[str, Any] = cls.policy_aliases
    for name in (f"{fitting}Policy", f"{fitting}LstmPolicy"):
        if name in names:
            return name
    raise UsageError(
        f"{cls.__name__} has no policy for observations like {env.observation_space}; "
        f"it has {', '.join(names)}"
    )
