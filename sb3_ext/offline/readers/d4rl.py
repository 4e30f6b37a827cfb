"""D4RL's HDF5 files: flat arrays with ``terminals`` and ``timeouts``."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from sb3_ext.offline.dataset import OfflineDataset
from sb3_ext.offline.readers.columns import NonFinite, OutOfBounds
from sb3_ext.offline.readers.flat import flags, read_flat, timeouts_by_limit
from sb3_ext.offline.readers.opening import (
    observation_space_like,
    open_hdf5,
    require_action_space,
    spaces_of,
)
from sb3_ext.offline.spaces import Space

_LOG_PROB = "infos/action_log_probs"


def from_d4rl(
    path: str | os.PathLike[str],
    env: Any = None,
    *,
    observation_space: Space | None = None,
    action_space: Space | None = None,
    time_limit: int | None = None,
    out_of_bounds: OutOfBounds = "raise",
    non_finite: NonFinite = "raise",
) -> OfflineDataset:
    """Read a D4RL file.

    Without ``next_observations``, the row at each time limit is dropped, since its next observation
    is of another episode. ``infos/action_log_probs`` becomes ``behavior_log_prob``.

    :param path: of the HDF5 file
    :param env: what gives the spaces, which the file lacks: an id, an environment or two spaces
    :param observation_space: default: the environment's, else any float
    :param action_space: default: the environment's
    :param time_limit: of a file without ``timeouts``: steps after which episodes were cut
    :param out_of_bounds: ``"clip"`` sets actions on the bound that lie over it
    :param non_finite: ``"drop"`` leaves out episodes with NaN or infinity
    :raises ValueError: if it is not such a file, or spaces or time limits are not known
    """
    with open_hdf5(path) as file:
        missing = [name for name in ("observations", "actions", "terminals") if name not in file]
        if missing:
            raise ValueError(
                f"{path} is no D4RL file: it lacks {', '.join(missing)}; it has "
                f"{', '.join(sorted(file))}"
            )
        require_rewards(file, path)
        observation_space, action_space, env_id = spaces_of(env, observation_space, action_space)
        action_space = require_action_space(action_space, str(path))
        if observation_space is None:
            held = file["observations"]
            observation_space = observation_space_like(held.shape[1:], held.dtype, str(path))
        terminated = flags(file, "terminals")
        notes = []
        if time_limit is not None:
            timeouts = timeouts_by_limit(terminated, time_limit)
            notes.append(f"episodes cut after {time_limit} steps, as time_limit says")
        elif "timeouts" in file:
            timeouts = flags(file, "timeouts")
        elif "next_observations" in file:
            timeouts = _breaks(file, terminated)
            notes.append(
                f"no timeouts in the file: {int(timeouts.sum())} episodes end where a transition "
                "is not followed by the next"
            )
        else:
            raise ValueError(
                f"{path} has no timeouts, so where an episode was cut the next one would look like "
                "its continuation: pass time_limit=1000, say, the limit of the environment"
            )
        log_prob = _LOG_PROB if _LOG_PROB in file else None
        columns = read_flat(file, terminated, timeouts, observation_space, action_space, log_prob)
    columns.notes = notes + columns.notes
    return columns.dataset(
        {"format": "d4rl", "path": str(path), "env_id": env_id},
        out_of_bounds=out_of_bounds,
        non_finite=non_finite,
    )


def require_rewards(file: Any, path: Any) -> None:
    """Refuse a file without rewards.

    :raises ValueError: naming the file
    """
    if "rewards" not in file:
        raise ValueError(
            f"{path} has no rewards: offline reinforcement learning needs one a transition"
        )


def _breaks(file: Any, terminated: np.ndarray[Any, np.dtype[np.bool_]]) -> Any:
    """Rows that are not followed by the next row, though the episode did not terminate."""
    length, step = len(terminated), 1 << 14
    breaks = np.zeros(length, dtype=np.bool_)
    for start in range(0, length - 1, step):
        stop = min(start + step, length - 1)
        said = file["next_observations"][start:stop].reshape(stop - start, -1)
        came = file["observations"][start + 1 : stop + 1].reshape(stop - start, -1)
        breaks[start:stop] = (said != came).any(axis=1)
    return breaks & ~terminated
