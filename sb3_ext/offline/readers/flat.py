"""Flat HDF5 files, one row a transition, without next observations: D4RL's and d3rlpy's first."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sb3_ext.offline.arrays import Array
from sb3_ext.offline.readers.columns import Columns
from sb3_ext.offline.spaces import Space

#: Bytes that are read together.
_PIECE = 1 << 22


def read_flat(
    file: Any,
    terminated: NDArray[np.bool_],
    timeouts: NDArray[np.bool_],
    observation_space: Space,
    action_space: Space,
    log_prob: str | None = None,
) -> Columns:
    """Columns from ``observations``, ``actions``, ``rewards`` and maybe ``next_observations``.

    Without the last, an observation's follower is the next row's. At a time limit that row is of
    another episode, so the transition is dropped, and the one before ends the episode; where the
    episode terminated, no follower is needed, and its place is filled with the observation itself.

    :param file: an open HDF5 file
    :param terminated: ``[N]``
    :param timeouts: ``[N]``, where an episode was cut by a time limit
    :param log_prob: name of the dataset of the behaviour's log-probabilities, if there is one
    """
    has_next = "next_observations" in file
    keep, truncated = kept_rows(terminated, timeouts, has_next)
    columns = Columns(int(keep.sum()), observation_space, action_space)
    width = max(_bytes_a_row(file["observations"]), _bytes_a_row(file["actions"]), 1)
    step = max(_PIECE // width, 1)
    at = 0
    for start in range(0, len(keep), step):
        stop = min(start + step, len(keep))
        chosen = keep[start:stop]
        count = int(chosen.sum())
        if not count:
            continue
        seen = file["observations"][start : stop + (not has_next)]
        columns.put_observations("observations", at, seen[: stop - start][chosen])
        if has_next:
            follow = file["next_observations"][start:stop]
        else:
            follow = seen[1:]
            if len(follow) < stop - start:  # the last row of all
                follow = np.concatenate([follow, seen[-1:]])
            ended = terminated[start:stop]
            follow[ended] = seen[: stop - start][ended]
        columns.put_observations("next_observations", at, follow[chosen])
        columns.put_actions(at, file["actions"][start:stop][chosen])
        rewards = file["rewards"][start:stop].reshape(-1)
        columns.rewards[at : at + count] = rewards[chosen]
        if log_prob is not None:
            columns.put_log_prob(at, file[log_prob][start:stop].reshape(-1)[chosen])
        at += count
    columns.terminated[:] = terminated[keep]
    columns.truncated[:] = truncated[keep]
    columns.filled = at
    dropped = len(keep) - at
    if dropped:
        columns.notes.append(
            f"{dropped} transitions dropped, the last before each time limit (or the end of the "
            "data), because their next observations were not recorded"
        )
    return columns


def kept_rows(
    terminated: NDArray[np.bool_], timeouts: NDArray[np.bool_], has_next: bool
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which rows are transitions, and where episodes are then cut.

    :param has_next: whether next observations were recorded
    :return: both ``[N]``
    """
    timeouts = timeouts & ~terminated
    keep = np.ones(len(terminated), dtype=np.bool_)
    if has_next:
        return keep, timeouts.copy()
    ends = terminated | timeouts
    dropped = timeouts.copy()
    dropped[-1:] |= ~ends[-1:]
    before = np.flatnonzero(dropped) - 1
    before = before[before >= 0]
    truncated = np.zeros_like(keep)
    # An episode of one row is gone as a whole: what stands before it is another's end.
    truncated[before[~ends[before]]] = True
    return ~dropped, truncated


def timeouts_by_limit(terminated: NDArray[np.bool_], time_limit: int) -> NDArray[np.bool_]:
    """Where a time limit cut episodes of which only the terminations are known.

    :param time_limit: steps after which an episode is cut
    :return: ``[N]``
    :raises ValueError: if the limit is no positive number
    """
    if time_limit < 1:
        raise ValueError(f"time_limit must be at least 1, got {time_limit}")
    timeouts = np.zeros_like(terminated)
    start = 0
    for end in [*(np.flatnonzero(terminated) + 1).tolist(), len(terminated)]:
        timeouts[start + time_limit - 1 : end : time_limit] = True
        start = end
    return timeouts & ~terminated


def flags(file: Any, name: str) -> NDArray[np.bool_]:
    """A dataset of booleans, however it is stored."""
    read: Array = file[name][()].reshape(-1)
    return read.astype(np.bool_)


def _bytes_a_row(dataset: Any) -> int:
    size: int = math.prod(dataset.shape[1:]) * dataset.dtype.itemsize
    return size
