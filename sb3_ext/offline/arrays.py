"""Arrays of a dataset: made of one kind, and checked against a space, a slice at a time.

Checks read slices, so that a million transitions need no second copy of themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sb3_ext.offline.spaces import Space

Array: TypeAlias = NDArray[Any]
Observations: TypeAlias = Array | dict[str, Array]

#: Numbers that a check looks at together.
_SLICE = 1 << 20


def slices(values: Array) -> Iterator[slice]:
    """Slices of rows with at most about a million numbers each."""
    rows = max(_SLICE // max(values[:1].size, 1), 1)
    for start in range(0, len(values), rows):
        yield slice(start, start + rows)


def map_observations(
    function: Callable[..., Any], *observations: Observations
) -> Any:  # of the kind that the function gives
    """The function of the arrays, or of each key's."""
    first = observations[0]
    if isinstance(first, dict):
        return {key: function(*(one[key] for one in observations)) for key in first}
    return function(*observations)


def dtype_of(space: Space) -> np.dtype[Any]:
    """What a dataset keeps values of this space in: float32 for every float, integers as are."""
    if isinstance(space, spaces.Discrete):
        return np.dtype(np.int64)
    dtype = np.dtype(space.dtype)
    return np.dtype(np.float32) if np.issubdtype(dtype, np.floating) else dtype


def tolerance(space: spaces.Box) -> NDArray[np.float64]:
    """How far float32 may round an action over a bound, per dimension."""
    ends = np.stack([np.abs(space.low), np.abs(space.high)]).astype(np.float64)
    slack: NDArray[np.float64] = 1e-6 + 1e-5 * np.where(np.isfinite(ends), ends, 0.0).max(axis=0)
    return slack


def cast(values: Any, dtype: np.dtype[Any], what: str, kind: str) -> Array:
    """An array of the dtype, without a copy where it is one already.

    :param what: whose it is, for the error
    :param kind: of the space, for the error
    :raises TypeError: if the values are no numbers, or floats where integers belong
    """
    array = np.asarray(values)
    if array.dtype == dtype:
        return array
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"{what} must be an array of numbers, got dtype {array.dtype}"
            + (": rows of unequal length?" if array.dtype == object else "")
        )
    if dtype.kind != "f" and array.dtype.kind == "f":
        raise TypeError(
            f"{what} must be integers, as the {kind} space says, got {array.dtype}: convert them "
            f"with .astype({dtype}) if they are whole numbers"
        )
    if dtype.kind in "iu" and len(array):
        found, limits = (int(array.min()), int(array.max())), np.iinfo(dtype)
        if found[0] < limits.min or found[1] > limits.max:
            raise ValueError(
                f"{what} lie in [{found[0]}, {found[1]}], outside of {dtype}, which the {kind} "
                "space is of"
            )
    return array.astype(dtype)


def observation_array(values: Any, space: Space, what: str) -> Array:
    """Observations of one space, checked.

    :param values: ``[N, *shape]``
    :param what: their name, for the errors
    :raises TypeError: for a dtype that the space does not allow
    :raises ValueError: for a shape that is not the space's, NaN, infinity, or numbers outside of a
        Discrete, MultiDiscrete or MultiBinary space
    """
    array = _of_space(values, space, what, dtype_of(space))
    if not isinstance(space, spaces.Box):
        _require_members(array, space, what)
    return array


def action_array(values: Any, space: Space) -> Array:
    """Actions in the environment's units, checked.

    What lies over a bound by no more than float32 rounds is set on the bound, in a copy.

    :raises TypeError: for a dtype that the space does not allow
    :raises ValueError: for a shape that is not the space's, NaN, infinity, or actions out of bounds
    """
    box = isinstance(space, spaces.Box)
    array = _of_space(values, space, "actions", np.dtype(np.float32) if box else dtype_of(space))
    if not isinstance(space, spaces.Box):
        _require_members(array, space, "actions")
        return array
    outside, worst, rounded = out_of_bounds(array, space)
    if outside:
        raise ValueError(
            f"actions must lie within the bounds of the action space: {outside} of {len(array)} "
            f"transitions do not, first {_example(array, space, worst)}. Actions are in the "
            "environment's units, not in [-1, 1]; if this is how the data was recorded, the "
            'readers set them on the bound with out_of_bounds="clip"'
        )
    if rounded:
        array = np.clip(array, space.low.astype(np.float32), space.high.astype(np.float32))
    return array


def out_of_bounds(actions: Array, space: spaces.Box) -> tuple[int, int, bool]:
    """How many rows lie outside, the first of them (or -1), and whether any is over by rounding."""
    slack, count, first, rounded = tolerance(space), 0, -1, False
    # float32's own rounding of a float64 bound is no overshoot.
    low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    axes = tuple(range(1, actions.ndim))
    for rows in slices(actions):
        beyond = np.maximum(low - actions[rows], actions[rows] - high)
        rounded = rounded or bool((beyond > 0).any())
        bad = (beyond > slack).any(axis=axes)
        if bad.any() and first < 0:
            first = rows.start + int(np.argmax(bad))
        count += int(bad.sum())
    return count, first, rounded


def _example(actions: Array, space: spaces.Box, row: int) -> str:
    beyond = np.maximum(space.low - actions[row], actions[row] - space.high)
    place = tuple(int(i) for i in np.unravel_index(int(np.argmax(beyond)), beyond.shape))
    return (
        f"transition {row}, dimension {list(place)}: {actions[row][place]:.6g} in "
        f"[{space.low[place]:.6g}, {space.high[place]:.6g}]"
    )


def _of_space(values: Any, space: Space, what: str, dtype: np.dtype[Any]) -> Array:
    kind, shape = type(space).__name__, tuple(space.shape or ())
    array = np.asarray(values)
    if array.ndim == 0 or array.shape[1:] != shape:
        remedy = ""
        if array.ndim == 2 and array.shape[1] == 1 and shape == ():
            remedy = f": pass {what}.reshape(-1)"
        elif array.ndim == 1 and shape == (1,):
            remedy = f": pass {what}.reshape(-1, 1)"
        raise ValueError(
            f"{what} must have shape [N{''.join(f', {n}' for n in shape)}], as the {kind} space "
            f"says, got {list(array.shape)}{remedy}"
        )
    array = cast(array, dtype, what, kind)
    require_finite(array, what)
    return array


def require_finite(values: Array, what: str) -> None:
    """Refuse NaN and infinity.

    :raises ValueError: with their number, and where the first is
    """
    if values.dtype.kind != "f":
        return
    count, first = 0, -1
    for rows in slices(values):
        bad = ~np.isfinite(values[rows]).reshape(len(values[rows]), -1).all(axis=1)
        if bad.any() and first < 0:
            first = rows.start + int(np.argmax(bad))
        count += int(bad.sum())
    if count:
        raise ValueError(
            f"{what} must be finite: {count} of {len(values)} transitions hold NaN or infinity, "
            f"first transition {first}: repair them, or leave their episodes out"
        )


def _require_members(array: Array, space: Space, what: str) -> None:
    """Refuse integers outside of a Discrete, MultiDiscrete or MultiBinary space."""
    if not len(array):
        return
    if isinstance(space, spaces.Discrete):
        low, high = np.asarray(space.start), np.asarray(space.start + space.n - 1)
    elif isinstance(space, spaces.MultiDiscrete):
        low, high = space.start, space.start + space.nvec - 1
    else:
        low, high = np.asarray(0), np.asarray(1)
    outside = (array.min(axis=0) < low) | (array.max(axis=0) > high)
    if np.any(outside):
        raise ValueError(
            f"{what} must lie in {space}, which is {np.asarray(low).tolist()} to "
            f"{np.asarray(high).tolist()}; found {array.min(axis=0).tolist()} to "
            f"{array.max(axis=0).tolist()}"
        )
