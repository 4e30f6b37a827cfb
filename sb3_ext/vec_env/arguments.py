"""What a ``PackedSubprocVecEnv`` is made from, checked before a process is started."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env.base_vec_env import CloudpickleWrapper

from sb3_ext.options import is_integer

Spaces = tuple[gym.Space[Any], gym.Space[Any]]

MAIN_GUARD = (
    "If this is a script, what makes the environments must stand under "
    "`if __name__ == '__main__':`, since the start methods 'forkserver' and 'spawn' import the "
    "script again."
)


def require_functions(env_fns: Any) -> None:
    """Refuse what is no list of functions.

    :raises ValueError: with what was found
    """
    if not isinstance(env_fns, (list, tuple)):
        raise ValueError(
            "env_fns must be a list of functions that each make an environment, got "
            f"{type(env_fns).__name__}"
        )
    if not env_fns:
        raise ValueError("env_fns must hold at least one function, got an empty list")
    for i, fn in enumerate(env_fns):
        if not callable(fn):
            hint = "; write `lambda: gym.make(...)`" if isinstance(fn, gym.Env) else ""
            raise ValueError(
                f"env_fns must be a list of functions that each make an environment; element {i} "
                f"is {type(fn).__name__}, which cannot be called{hint}"
            )


def worker_count(n_processes: int | None, n_envs: int) -> int:
    """How many workers there will be.

    :raises ValueError: unless it is an integer from 1 to ``n_envs``
    """
    if n_processes is None:
        return min(_usable_cores(), n_envs)
    if not is_integer(n_processes) or n_processes > n_envs:
        raise ValueError(
            f"n_processes must be an integer from 1 to the number of environments, which is "
            f"{n_envs}, got {n_processes!r}"
        )
    return int(n_processes)


def chosen_start_method(name: str | None) -> str:
    """The start method, or SB3's default.

    :raises ValueError: if this platform has no such method
    """
    known = multiprocessing.get_all_start_methods()
    if name is None:
        return "forkserver" if "forkserver" in known else "spawn"
    if name not in known:
        raise ValueError(f"start_method must be one of {', '.join(known)} here, got {name!r}")
    return name


def pickled(i: int, fn: Callable[[], Any], method: str) -> bytes:
    """A function in SB3's wrapper, as bytes; by itself, so that two share nothing in a worker.

    :raises ValueError: if it holds what cannot be pickled
    """
    try:
        return pickle.dumps(CloudpickleWrapper(fn))
    except Exception as error:  # whatever a stranger's __reduce__ raises
        raise ValueError(
            f"start_method {method!r} sends env_fns to other processes, and element {i} cannot be "
            f"pickled ({type(error).__name__}: {error}); make what it holds inside of the "
            "function, or use start_method='fork'"
        ) from error


def require_same(spaces: Sequence[Spaces]) -> None:
    """Refuse environments that do not fit into one array.

    :param spaces: of observations and actions, of each environment
    :raises ValueError: with the first that differs from environment 0
    """
    for i, found in enumerate(spaces):
        for kind, one, first in zip(("observation", "action"), found, spaces[0], strict=True):
            if one != first:
                raise ValueError(
                    f"all environments must have the same {kind} space; environment {i} has {one}, "
                    f"environment 0 has {first}"
                )


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # fewer than there are, in a container or a job's slot
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
