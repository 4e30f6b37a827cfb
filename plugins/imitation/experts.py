"""Who is asked what to do: a model, a run, a function, or a human."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext.offline.spaces import Space, differences

#: Observations ``[n, ...]`` and whether episodes begin ``[n]`` -> actions ``[n, ...]``.
Expert = Callable[[Any, NDArray[np.bool_]], Any]


def resolve_expert(
    expert: Any, observation_space: Space, action_space: Space, *, allow_pickle: bool = False
) -> Expert:
    """The expert that an argument names, whose answers are checked.

    :param expert: a model or policy of SB3's; a run directory of ``sb3-ext train``; a zip of SB3's,
        if ``allow_pickle``; a function of observations; or ``"human"``
    :raises TypeError: if it is none of these
    :raises ValueError: if it is of other spaces, or a zip that nobody trusts
    """
    if isinstance(expert, str) and expert == "human":
        ask: Expert = HumanExpert(action_space)
    elif isinstance(expert, (str, os.PathLike)):
        ask = _of_path(Path(expert), allow_pickle, observation_space, action_space)
    elif hasattr(expert, "predict"):
        ask = _of_model(expert, observation_space, action_space)
    elif callable(expert):
        ask = lambda observations, starts: expert(observations)  # noqa: E731
    else:
        raise TypeError(
            "expert must be a model of SB3's, a run directory, a zip, a function of observations, "
            f"or 'human', got {type(expert).__name__}"
        )
    return lambda observations, starts: checked(
        ask(observations, starts), len(starts), action_space
    )


def checked(answer: Any, n: int, action_space: Space) -> Any:
    """An expert's actions, if they can be played.

    :raises ValueError: for another shape, NaN, or what is not in the space
    """
    shape = (n, *(action_space.shape or ()))
    actions = np.asarray(answer)
    if actions.shape != shape:
        raise ValueError(
            f"an expert must answer {n} observations with actions of shape {list(shape)}, got "
            f"{list(actions.shape)}"
        )
    if actions.dtype.kind not in "iufb" or not np.isfinite(actions).all():
        raise ValueError(f"an expert's actions must be finite numbers, got {actions.tolist()}")
    if isinstance(action_space, spaces.Box):
        low, high = action_space.low, action_space.high
        slack = 1e-6 * np.maximum(1, np.where(np.isfinite(high - low), high - low, 1))
        outside = ((actions < low - slack) | (actions > high + slack)).reshape(n, -1).any(axis=1)
        actions = np.clip(actions, low, high).astype(action_space.dtype)
    else:
        whole = actions == np.floor(actions)
        typed = actions.astype(action_space.dtype)
        outside = ~np.array([bool(np.all(w)) for w in whole])
        outside |= ~np.array([action_space.contains(_one(action)) for action in typed])
        actions = typed
    if outside.any():
        bad = np.asarray(answer)[int(np.argmax(outside))]
        raise ValueError(
            f"an expert's actions must be in {action_space}, got {np.asarray(bad).tolist()}: it is "
            "of another environment, or its actions need scaling"
        )
    return actions


def _one(action: Any) -> Any:
    return action.item() if np.ndim(action) == 0 else action


def _of_model(model: Any, observation_space: Space, action_space: Space) -> Expert:
    found: list[str] = []
    for name, space in (("observation", observation_space), ("action", action_space)):
        own = getattr(model, f"{name}_space", None)
        if own is not None:
            found += differences(own, space, f"{name}s", actions=name == "action")
    if found:
        raise ValueError(
            f"the expert and the environment do not fit each other: {'; '.join(found)}. Pass a "
            "function that turns these observations into what the expert knows"
        )
    state: Any = None

    def ask(observations: Any, starts: NDArray[np.bool_]) -> Any:
        nonlocal state
        actions, state = model.predict(
            observations, state=state, episode_start=starts, deterministic=True
        )
        return actions

    return ask


def _of_path(path: Path, allow_pickle: bool, *env_spaces: Space) -> Expert:
    if path.is_dir():
        return _of_run(path, *env_spaces)
    if not path.exists() and not path.with_suffix(".zip").exists():
        raise ValueError(f"there is no expert {path}: give a run directory, or a zip of SB3's")
    if not allow_pickle:
        raise ValueError(
            f"{path} is a zip of SB3, which is read by unpickling: that runs the code of whoever "
            "wrote it. Pass allow_pickle=True if you trust it, or give the model itself or a run "
            "directory of sb3-ext train"
        )
    from sb3_ext.algorithms import checkpoints
    from sb3_ext.catalog import find_algorithm

    summary = checkpoints.inspect(path)
    name = summary.saved_by or summary.family
    if name is None:
        raise ValueError(
            f"{path} does not say which algorithm saved it: load it, and give the model"
        )
    return _of_model(find_algorithm(name)[1].load(path, device="cpu"), *env_spaces)


def _of_run(path: Path, *env_spaces: Space) -> Expert:
    """A run's best agent, which is read without unpickling, behind its VecNormalize."""
    from sb3_ext.catalog import find_algorithm
    from sb3_ext.parameters import load_parameters
    from sb3_ext.running.agents import find_agent
    from sb3_ext.running.making import make_env, make_model
    from sb3_ext.running.options import run_options
    from sb3_ext.statistics import load_statistics

    options = dataclasses.replace(run_options(path), vec_env="dummy", device="cpu")
    agent = find_agent(path)
    env: Any = make_env(options, n_envs=1, seed=None, monitor=None)
    if options.normalize:
        env = VecNormalize(env, training=False, norm_reward=False)
        load_statistics(agent.with_suffix(""), env)
    model: Any = make_model(find_algorithm(options.algorithm)[1], options, env)
    load_parameters(model, agent)
    env.close()
    ask = _of_model(model, *env_spaces)
    if not options.normalize:
        return ask
    return lambda observations, starts: ask(env.normalize_obs(observations), starts)


class HumanExpert:
    """Asks who sits at the keyboard, for each observation; an answer that cannot be is asked again.

    :param action_space: what is asked for
    """

    def __init__(self, action_space: Space) -> None:
        self.space = action_space

    def __call__(self, observations: Any, starts: NDArray[np.bool_]) -> Any:
        return np.stack([self._ask(one) for one in observations])

    def _ask(self, observation: Any) -> Any:
        print(f"observation {np.array2string(np.asarray(observation), precision=3)}")
        if isinstance(self.space, spaces.Discrete):
            wanted = (
                f"a whole number from {self.space.start} to {self.space.start + self.space.n - 1}"
            )
        else:
            wanted = f"{int(np.prod(self.space.shape or ()))} numbers, in {self.space}"
        while True:
            text = input(f"action ({wanted}): ")
            try:
                numbers = np.array([float(word) for word in text.replace(",", " ").split()])
                answer = numbers.reshape(1, *(self.space.shape or ()))
                return checked(answer, 1, self.space)[0]
            except ValueError as error:
                print(error)
