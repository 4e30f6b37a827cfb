"""What an expert did, from wherever it comes, as one dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from stable_baselines3.common.preprocessing import is_image_space

from sb3_ext.offline import OfflineDataset, episode_starts_after, from_minari
from sb3_ext.offline.buffer import rows_for, seen_by_sb3
from sb3_ext.offline.demonstrations import resolve_demonstrations
from sb3_ext.offline.spaces import Space, differences


def read_demonstrations(given: Any, spaces: tuple[Space, Space] | None) -> OfflineDataset:
    """The dataset that an argument names.

    :param given: what :func:`~sb3_ext.offline.demonstrations.resolve_demonstrations` takes (a
        dataset, a file, ``minari:ID``, trajectories of the package imitation), a Minari dataset, or
        imitation's flat transitions
    :param spaces: the environment's, for what does not say its own
    :raises TypeError: if it is none of these
    :raises ValueError: if there are no demonstrations in it, or a trajectory lacks its last
        observation
    """
    if all(hasattr(given, name) for name in ("obs", "acts", "next_obs", "dones")):
        return _of_transitions(given, spaces)
    if hasattr(given, "iterate_episodes"):
        return from_minari(given)
    if isinstance(given, Sequence) and not isinstance(given, str):
        for one in given:
            _require_last_observation(one)
    # Images of an environment have their channels first by now, and those of a file last.
    fits = spaces is not None and not is_image_space(spaces[0])
    return resolve_demonstrations(given, spaces if fits else None)


def _require_last_observation(trajectory: Any) -> None:
    """A discriminator may look at what an action led to, so the last one's is needed, too."""
    if not (hasattr(trajectory, "obs") and hasattr(trajectory, "acts")):
        return  # another sentence says so
    n_observations, n_actions = len(trajectory.obs), len(trajectory.acts)
    if n_observations != n_actions + 1:
        raise ValueError(
            "a trajectory has one observation more than actions, the last being what the last "
            f"action led to; got {n_observations} observations and {n_actions} actions. Without it "
            "nobody knows what followed: record it again, or leave out the last action"
        )


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


def require_one_horizon(dataset: OfflineDataset) -> int | None:
    """Refuse demonstrations whose episodes ended by themselves, some earlier than others.

    :return: how long they are; None where data merely stop, maybe in the midst of an episode
    :raises ValueError: saying why that matters, and how to go on nevertheless
    """
    ends = [episode.stop - 1 for episode in dataset.episodes()]
    lengths = dataset.lengths()
    if not dataset.terminated[ends].any():
        return None
    if len(set(lengths.tolist())) > 1:
        raise variable_horizon(
            f"the demonstrations have some of {lengths.min()} and of {lengths.max()} steps"
        )
    return int(lengths[0])


def variable_horizon(found: str) -> ValueError:
    """The error for episodes of different lengths.

    :param found: which have which
    """
    return ValueError(
        f"all episodes must be equally long, and {found}. When an episode ends tells of the task's "
        "reward, and a learned reward of one sign pays for staying alive (softplus) or for ending "
        "early (logsigmoid) whatever the expert did: so results with variable horizons may have "
        "nothing to do with imitation. If you know that, pass allow_variable_horizon=True, with "
        "the reward_form that the task needs; or let every episode run to its time limit"
    )


def require_rows(
    observation_space: Space,
    action_space: Space,
    observations: Any,
    actions: Any,
    next_observations: Any,
    dones: Any,
) -> list[Any]:
    """Transitions as arrays, one a row.

    :raises ValueError: for other shapes than the spaces', and another number of rows
    """
    shapes = (observation_space.shape, action_space.shape, observation_space.shape, ())
    names = ("observations", "actions", "next_observations", "dones")
    found = []
    for name, shape, given in zip(
        names, shapes, (observations, actions, next_observations, dones), strict=True
    ):
        array = np.asarray(given)
        wanted = tuple(shape or ())
        if array.shape[1:] != wanted or not array.ndim:
            hint = f"; of a single one, give {name}[None]" if array.shape == wanted else ""
            raise ValueError(
                f"{name} must have the shape [B{''.join(f', {n}' for n in wanted)}], one a row, "
                f"got {list(array.shape)}{hint}"
            )
        found.append(array)
    if len({len(array) for array in found}) > 1:
        counts = ", ".join(f"{len(a)} {name}" for name, a in zip(names, found, strict=True))
        raise ValueError(f"a transition has one of each, got {counts}")
    return found


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


def with_channels_of(dataset: OfflineDataset, observation_space: Space) -> OfflineDataset:
    """The same dataset, its images with their channels where a model's observations have them.

    :param observation_space: of the model
    """
    if dataset.observation_space.shape == observation_space.shape:
        return dataset
    columns = ("observations", "next_observations")
    moved = {name: rows_for(getattr(dataset, name), observation_space) for name in columns}
    return replace(dataset, **moved, observation_space=observation_space)
