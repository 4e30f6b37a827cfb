"""A slice of the ring that nobody trains on, to see whether what was learned holds beyond it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sb3_ext.replay.window import Indices, Window

_GOLDEN = 0.6180339887498949


def held_out(
    indices: Indices, window: Window, fraction: float, run: int | None = None
) -> NDArray[np.bool_]:
    """Which transitions belong to the held-out slice: whole runs of neighbouring rows.

    Neighbours in time are nearly equal, so a single row held out would be known through the rows
    beside it. Which runs are out depends on their place in the ring alone: a transition keeps its
    side for as long as it lives, if the run's length stays.

    :param indices: transition indices ``[n]``
    :param window: of which they are
    :param fraction: share held out, in [0, 1)
    :param run: rows of a run; None for a hundredth of the window, which must not grow then
    :return: ``[n]``
    """
    rows = indices // window.n_envs
    # Of runs with a length of their own the first is all that a young buffer has: it is trained on.
    runs = rows // max(window.length // 100, 1) if run is None else rows // run + 1
    # Multiples of the golden ratio fill [0, 1) evenly, for any fraction and any stretch of runs.
    return (runs * _GOLDEN) % 1.0 < fraction


def draw_split(
    window: Window,
    n: int,
    rng: np.random.Generator,
    fraction: float,
    out: bool,
    run: int | None = None,
) -> Indices:
    """``n`` transition indices from one side of the split, uniform and with replacement.

    :param window: from which they are drawn
    :param n: how many
    :param rng: source of randomness
    :param fraction: share held out, in [0, 1)
    :param out: True for the held-out side, False for the one that is trained on
    :param run: as for :func:`held_out`
    :return: ``[n]``; from the whole window where the wanted side is empty (tiny windows)
    """
    if fraction == 0:
        return window.draw(n, rng)
    found: Indices = np.empty(0, dtype=np.int64)
    # By rejection: the sides are fixed, and neither is rare.
    for _ in range(8):
        # A little more than is needed on average, so that one round nearly always does.
        drawn = window.draw(int(n / (fraction if out else 1 - fraction) * 1.2) + 16, rng)
        found = np.concatenate([found, drawn[held_out(drawn, window, fraction, run) == out]])
        if len(found) >= n:
            return found[:n]
    return np.resize(found, n) if len(found) else window.draw(n, rng)
