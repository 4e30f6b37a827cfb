"""What an expert did, from wherever it comes, as one dataset."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.preprocessing import is_image_space

from sb3_ext.offline import (
    OfflineDataset,
    episode_starts_after,
    from_minari,
    from_replay_buffer,
    from_trajectories,
)
from sb3_ext.offline.buffer import seen_by_sb3
from sb3_ext.offline.learning import resolve_data
from sb3_ext.offline.readers import load_dataset
from sb3_ext.offline.spaces import Space, differences


def resolve_demonstrations(given: Any, spaces: tuple[Space, Space] | None) -> OfflineDataset:
    """The dataset that an argument names.

    :param given: an ``OfflineDataset``; a file, a folder or ``minari:ID`` (see
        :func:`~sb3_ext.offline.load_dataset`); a Minari dataset; trajectories or transitions of the
        package imitation, with or without rewards
    :param spaces: the environment's, for what does not say its own
    :raises TypeError: if it is none of these
    :raises ValueError: if there are no demonstrations in it, or a trajectory lacks its last
        observation
    """
    if isinstance(given, OfflineDataset):
        return given
    if isinstance(given, ReplayBuffer):
        return from_replay_buffer(given)
    if isinstance(given, (str, os.PathLike)):
        if str(given).endswith((".pkl", ".pickle")):
            resolve_data(given)  # refuses, and says why
        # Images of an environment have their channels first by now, and those of a file last.
        fits = spaces is not None and not is_image_space(spaces[0])
        dataset: OfflineDataset = load_dataset(given, **({"env": spaces} if fits else {}))
        return dataset
    if all(hasattr(given, name) for name in ("obs", "acts", "next_obs", "dones")):
        return _of_transitions(given, spaces)
    if hasattr(given, "iterate_episodes"):
        return from_minari(given)
    if isinstance(given, Sequence) or hasattr(given, "__iter__"):
        return from_trajectories(_with_rewards(list(given)), env=spaces)
    raise TypeError(
        "demonstrations must be an OfflineDataset, a file, minari:ID, a Minari dataset, or "
        f"imitation's trajectories, got {type(given).__name__}"
    )


def _with_rewards(trajectories: Sequence[Any]) -> list[Any]:
    """The same with a reward of 0 where there is none: imitation does not look at rewards."""
    if not trajectories:
        raise ValueError("there are no demonstrations: the list of trajectories is empty")
    found = []
    for one in trajectories:
        if not (hasattr(one, "obs") and hasattr(one, "acts")):
            raise TypeError(
                "a trajectory has obs, acts and terminal, as those of the package imitation; got "
                f"{type(one).__name__}"
            )
        if len(one.obs) != len(one.acts) + 1:
            raise ValueError(
                "a trajectory has one observation more than actions, the last being what the last "
                f"action led to; got {len(one.obs)} observations and {len(one.acts)} actions. "
                "Without it nobody knows what followed: record again, or leave the last action out"
            )
        rewards = getattr(one, "rews", None)
        infos = getattr(one, "infos", None)
        found.append(
            SimpleNamespace(
                obs=one.obs,
                acts=one.acts,
                rews=np.zeros(len(one.acts), np.float32) if rewards is None else rewards,
                # Where nothing says whether a time limit ended it, nothing here depends on it.
                infos=[{"TimeLimit.truncated": False}] * len(one.acts) if infos is None else infos,
                terminal=bool(getattr(one, "terminal", True)),
            )
        )
    return found


def _of_transitions(given: Any, spaces: tuple[Space, Space] | None) -> OfflineDataset:
    """imitation's flat ``Transitions``."""
    if spaces is None:
        raise ValueError("transitions do not say their spaces: pass an env")
    if not len(given.acts):
        raise ValueError("there are no demonstrations: the transitions are empty")
    ends = np.asarray(given.dones, dtype=np.bool_).copy()
    last = np.zeros_like(ends)
    last[-1] = not ends[-1]
    rewards = getattr(given, "rews", None)
    return OfflineDataset(
        observations=given.obs,
        actions=given.acts,
        rewards=np.zeros(len(ends), np.float32) if rewards is None else rewards,
        next_observations=given.next_obs,
        terminated=ends,
        truncated=last,
        episode_starts=episode_starts_after(ends | last),
        observation_space=spaces[0],
        action_space=spaces[1],
        source={"format": "transitions"},
    )


def require_fits(dataset: OfflineDataset, observation_space: Space, action_space: Space) -> None:
    """Refuse demonstrations of another environment.

    :raises ValueError: with every difference
    """
    found = [
        *differences(seen_by_sb3(dataset.observation_space), observation_space, "observations"),
        *differences(dataset.action_space, action_space, "actions", actions=True),
    ]
    if found:
        raise ValueError(
            "the demonstrations and the environment do not fit each other: "
            + "; ".join(found)
            + ". Imitate in the environment that they were recorded in, or wrap it alike"
        )


def require_one_horizon(dataset: OfflineDataset) -> None:
    """Refuse demonstrations whose episodes ended by themselves, some earlier than others.

    :raises ValueError: saying why that matters, and how to go on nevertheless
    """
    ends = [episode.stop - 1 for episode in dataset.episodes()]
    lengths = dataset.lengths()
    if dataset.terminated[ends].any() and len(set(lengths.tolist())) > 1:
        raise variable_horizon("demonstrations", int(lengths.min()), int(lengths.max()))


def variable_horizon(whose: str, one: int, other: int) -> ValueError:
    """The error for episodes of different lengths."""
    return ValueError(
        f"all episodes must be equally long, and the {whose} have some of {one} and of {other} "
        "steps. When an episode ends tells of the task's reward, and a learned reward of one sign "
        "pays for staying alive (softplus) or for ending early (logsigmoid) whatever the expert "
        "did: so results with variable horizons may have nothing to do with imitation. If you know "
        "that, pass allow_variable_horizon=True, with the reward_form that the task needs; or let "
        "every episode run to its time limit"
    )


def layout(dataset: OfflineDataset, observation_space: Space) -> tuple[Any, Any, Any, Any]:
    """Observations, actions, next observations and ends, as the environment's arrays.

    :return: ``[N, *shape]`` each; images with their channels where the environment has them
    """
    parts = []
    for held in (dataset.observations, dataset.next_observations):
        rows: Any = held
        if is_image_space(observation_space) and rows.shape[1:] != observation_space.shape:
            rows = np.moveaxis(rows, -1, 1)
        parts.append(rows)
    ends = dataset.terminated | dataset.truncated
    return parts[0], dataset.actions, parts[1], ends
