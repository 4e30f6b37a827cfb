"""Actions between the environment's units and SB3's [-1, 1], each dimension by its own bounds."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sb3_ext.offline.arrays import Array


def scaled(actions: Array, space: spaces.Box) -> NDArray[np.float32]:
    """``2 * (a - low) / (high - low) - 1``.

    :param actions: ``[n, dimensions]``, in the units of the space
    :return: of the same shape, in [-1, 1]
    :raises ValueError: if the space has no bounds
    """
    low, high = _bounds(space)
    # A dimension without width has one action, in the middle.
    span = np.where(high > low, high - low, 1.0)
    return (2.0 * (actions.astype(np.float64) - low) / span - (high > low)).astype(np.float32)


def unscaled(actions: Array, space: spaces.Box) -> NDArray[np.float32]:
    """``low + (a + 1) / 2 * (high - low)``.

    :param actions: ``[n, dimensions]``, in [-1, 1]
    :return: of the same shape, in the units of the space
    :raises ValueError: if they are not in [-1, 1], or the space has no bounds
    """
    low, high = _bounds(space)
    worst = float(np.abs(actions).max(initial=0.0))
    if worst > 1 + 1e-5:
        raise ValueError(
            "SB3 stores Box actions scaled to [-1, 1], but this buffer holds "
            f"{worst:.6g}: if it was filled by hand in the environment's units, pass "
            "scaled_actions=False"
        )
    return (low + 0.5 * (actions.astype(np.float64) + 1.0) * (high - low)).astype(np.float32)


def _bounds(space: spaces.Box) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if not space.is_bounded():
        raise ValueError(
            f"actions of a space without bounds cannot be scaled to [-1, 1], got {space}: give the "
            "environment's actions bounds, with gymnasium.wrappers.RescaleAction say"
        )
    return space.low.astype(np.float64).reshape(-1), space.high.astype(np.float64).reshape(-1)
