"""d3rlpy's HDF5 files, read without d3rlpy (which pins an old Gymnasium)."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_ext.offline.dataset import OfflineDataset
from sb3_ext.offline.readers.columns import Columns, NonFinite, OutOfBounds, kept_of_episode
from sb3_ext.offline.readers.d4rl import require_rewards
from sb3_ext.offline.readers.flat import flags, read_flat
from sb3_ext.offline.readers.opening import (
    observation_space_like,
    open_hdf5,
    require_action_space,
    spaces_of,
)
from sb3_ext.offline.spaces import Space


def from_d3rlpy(
    path: str | os.PathLike[str],
    env: Any = None,
    *,
    observation_space: Space | None = None,
    action_space: Space | None = None,
    out_of_bounds: OutOfBounds = "raise",
    non_finite: NonFinite = "raise",
) -> OfflineDataset:
    """Read a file of d3rlpy's, of version 2.1 or 1.

    Neither holds an episode's final observation. So the last transition counts only where the
    episode terminated; where it was cut, it is dropped.

    :param path: of the HDF5 file
    :param env: what gives the spaces, which the file lacks: an id, an environment or two spaces
    :param observation_space: default: the environment's, else any float. For tuples of observations
        a Dict, whose keys are taken in their order
    :param action_space: default: the environment's
    :param out_of_bounds: ``"clip"`` sets actions on the bound that lie over it
    :param non_finite: ``"drop"`` leaves out episodes with NaN or infinity
    :raises ValueError: if it is not such a file, or the spaces are not known
    """
    with open_hdf5(path) as file:
        observation_space, action_space, env_id = spaces_of(env, observation_space, action_space)
        action_space = require_action_space(action_space, str(path))
        if "num_episodes" in file:
            version = _text(file["version"][()]) if "version" in file else "2"
            if version == "2.0":
                raise ValueError(
                    f"{path} is of d3rlpy's version 2.0, which d3rlpy itself no longer reads: save "
                    "it anew with d3rlpy 2.1 or later"
                )
            columns = _read_episodes(file, path, observation_space, action_space)
        elif "terminals" in file and "observations" in file:
            version = "1"
            require_rewards(file, path)
            if observation_space is None:
                held = file["observations"]
                observation_space = observation_space_like(held.shape[1:], held.dtype, str(path))
            terminated = flags(file, "terminals")
            ends = flags(file, "episode_terminals") if "episode_terminals" in file else terminated
            columns = read_flat(
                file, terminated, ends & ~terminated, observation_space, action_space
            )
        else:
            raise ValueError(f"{path} is no file of d3rlpy's: it has {', '.join(sorted(file)[:8])}")
    return columns.dataset(
        {"format": f"d3rlpy {version}", "path": str(path), "env_id": env_id},
        out_of_bounds=out_of_bounds,
        non_finite=non_finite,
    )


def _read_episodes(
    file: Any, path: Any, observation_space: Space | None, action_space: Space
) -> Columns:
    """Version 2.1: arrays ``observations_i``, ``actions_i``, ``rewards_i``, ``terminated_i``."""
    count = int(file["num_episodes"][()])
    if not count:
        raise ValueError(f"{path} is empty: it has no episodes")
    if "rewards_0" not in file:
        require_rewards({}, path)
    names, observation_space = _observation_names(file, path, observation_space)
    lengths = [int(file[f"rewards_{i}"].shape[0]) for i in range(count)]
    terminated = [bool(file[f"terminated_{i}"][()]) for i in range(count)]
    length = sum(map(kept_of_episode, lengths, lengths, terminated))
    columns = Columns(length, observation_space, action_space)
    for i in range(count):
        if isinstance(names, dict):
            seen: Any = {key: file[name.format(i)][()] for key, name in names.items()}
        else:
            seen = file[names.format(i)][()]
        columns.put_episode(
            seen,
            file[f"actions_{i}"][()],
            file[f"rewards_{i}"][()],
            terminated[i],
            not terminated[i],
        )
    if sum(lengths) > length:
        columns.notes.append(
            f"{sum(lengths) - length} transitions dropped, the last of each episode that did not "
            "terminate, because d3rlpy does not store its next observation"
        )
    return columns


def _observation_names(
    file: Any, path: Any, space: Space | None
) -> tuple[str | dict[str, str], Space]:
    """The names of the datasets of observations, with a place for the episode, and their space."""
    if "observations_0" in file:
        held = file["observations_0"]
        return "observations_{}", space or observation_space_like(
            held.shape[1:], held.dtype, str(path)
        )
    n_parts = 0
    while f"observations_0_{n_parts}" in file:
        n_parts += 1
    if not isinstance(space, spaces.Dict) or len(space.spaces) != n_parts:
        raise ValueError(
            f"{path} has {n_parts} arrays of observations an episode: pass observation_space=, a "
            "Dict of as many spaces in the same order"
        )
    return {key: f"observations_{{}}_{j}" for j, key in enumerate(space.spaces)}, space


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(np.asarray(value))
