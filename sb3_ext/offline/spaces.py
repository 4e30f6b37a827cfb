"""Spaces of a dataset: which ones it may have, as JSON and back, and how two differ, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

Space = spaces.Space[Any]

#: What SB3 turns into a tensor; a Dict of them is legal for observations.
FLAT = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def require_supported(observation_space: Space, action_space: Space) -> None:
    """Refuse spaces that SB3 cannot take.

    :raises TypeError: if one is no space, or of a kind that SB3 has no tensors for
    """
    if not isinstance(action_space, FLAT):
        raise TypeError(
            "action_space must be Box, Discrete, MultiDiscrete or MultiBinary, "
            f"got {action_space!r}: wrap the environment so that its actions are one of these"
        )
    parts = (
        dict(observation_space.spaces)
        if isinstance(observation_space, spaces.Dict)
        else {"": observation_space}
    )
    if not parts:
        raise TypeError("observation_space is a Dict without keys: there is nothing to observe")
    for key, part in parts.items():
        if not isinstance(part, FLAT):
            where = f"observation_space[{key!r}]" if key else "observation_space"
            raise TypeError(
                f"{where} must be Box, Discrete, MultiDiscrete or MultiBinary, got {part!r}; SB3 "
                "takes a Dict of these, but no Tuple and no Dict within a Dict: flatten it, with "
                "gymnasium.wrappers.FlattenObservation say"
            )


def space_to_json(space: Space) -> dict[str, Any]:
    """A space as plain JSON values; :func:`space_from_json` gives an equal one.

    :raises TypeError: for a kind of space that a dataset cannot have
    """
    kind = type(space).__name__
    if isinstance(space, spaces.Box):
        return {
            "type": kind,
            "dtype": str(space.dtype),
            "shape": list(space.shape),
            "low": _bound(space.low),
            "high": _bound(space.high),
        }
    if isinstance(space, spaces.Discrete):
        return {"type": kind, "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {
            "type": kind,
            "dtype": str(space.dtype),
            "nvec": space.nvec.tolist(),
            "start": space.start.tolist(),
        }
    if isinstance(space, spaces.MultiBinary):
        return {"type": kind, "n": [int(n) for n in space.shape]}
    if isinstance(space, spaces.Dict):
        # Pairs, not an object: the order of the keys is the order of the networks' inputs.
        return {
            "type": kind,
            "spaces": [[key, space_to_json(part)] for key, part in space.spaces.items()],
        }
    raise TypeError(f"a dataset cannot have a space of the kind {kind}: {space!r}")


def space_from_json(saved: Mapping[str, Any]) -> Space:
    """The space that :func:`space_to_json` wrote; Minari's JSON is understood, too.

    :raises ValueError: if it is not a space's description
    """
    try:
        kind = saved["type"]
        if kind == "Box":
            dtype, shape = np.dtype(saved["dtype"]), tuple(saved["shape"])
            low, high = (
                np.broadcast_to(np.asarray(saved[end], dtype=dtype), shape)
                for end in ("low", "high")
            )
            return spaces.Box(low.copy(), high.copy(), shape, dtype.type)
        if kind == "Discrete":
            return spaces.Discrete(saved["n"], start=saved.get("start", 0))
        if kind == "MultiDiscrete":
            nvec, start = np.array(saved["nvec"]), saved.get("start")
            dtype = np.dtype(saved.get("dtype", "int64"))
            return spaces.MultiDiscrete(nvec, dtype.type, start=start)
        if kind == "MultiBinary":
            n = saved["n"]
            # Gymnasium tells a number from a shape of one dimension, though both mean the same.
            return spaces.MultiBinary(n[0] if isinstance(n, list) and len(n) == 1 else n)
        if kind == "Dict":
            parts = saved["subspaces"].items() if "subspaces" in saved else saved["spaces"]
            return spaces.Dict({key: space_from_json(part) for key, part in parts})
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise ValueError(f"not the description of a space ({error!r}): {dict(saved)!r}") from error
    raise ValueError(
        f"a space of the kind {kind!r} cannot be used: SB3 takes Box, Discrete, MultiDiscrete, "
        "MultiBinary, and for observations a Dict of these"
    )


def _bound(values: np.ndarray[Any, Any]) -> Any:
    """One number if all are equal, as in images, whose bounds would be longer than they are."""
    if values.size and (values == values.flat[0]).all():
        return values.flat[0].item()
    return values.tolist()


def differences(ours: Space, theirs: Space, what: str, *, actions: bool = False) -> Iterator[str]:
    """Sentences that say how two spaces differ; none if data of one can be used with the other.

    float32 and float64 count as the same, because datasets hold float32. A bound of an observation
    that is infinite on either side agrees with any other: there it only says "unknown".

    :param ours: the dataset's
    :param theirs: the environment's
    :param what: what the space is of, for the sentences
    :param actions: whether infinite bounds are compared, too
    """
    if isinstance(ours, spaces.Dict) and isinstance(theirs, spaces.Dict):
        if set(ours.spaces) != set(theirs.spaces):
            yield (
                f"{what}: the dataset has the keys {sorted(ours.spaces)}, the environment "
                f"{sorted(theirs.spaces)}"
            )
        for key in ours.spaces:
            if key in theirs.spaces:
                yield from differences(ours[key], theirs[key], f"{what}[{key!r}]")
    elif type(ours) is not type(theirs):
        yield (
            f"{what}: the dataset has {type(ours).__name__}, the environment "
            f"{type(theirs).__name__}"
        )
    elif ours.shape != theirs.shape:
        yield f"{what}: shape {_shape(ours)} in the dataset, {_shape(theirs)} in the environment"
        if len(ours.shape or ()) == 3 and sorted(ours.shape or ()) == sorted(theirs.shape or ()):
            yield (
                f"{what}: these are images with the channels in different places; "
                "stable_baselines3.common.vec_env.VecTransposeImage puts them first"
            )
    elif isinstance(ours, spaces.Box) and isinstance(theirs, spaces.Box):
        yield from _boxes_differ(ours, theirs, what, actions)
    elif ours != theirs:
        yield f"{what}: {ours} in the dataset, {theirs} in the environment"


def _boxes_differ(ours: spaces.Box, theirs: spaces.Box, what: str, actions: bool) -> Iterator[str]:
    kinds = [np.dtype(space.dtype) for space in (ours, theirs)]
    if kinds[0] != kinds[1] and not all(np.issubdtype(kind, np.floating) for kind in kinds):
        yield f"{what}: {kinds[0]} in the dataset, {kinds[1]} in the environment"
    for end in ("low", "high"):
        mine, other = (
            np.asarray(getattr(space, end), dtype=np.float64) for space in (ours, theirs)
        )
        unequal = ~np.isclose(mine, other, rtol=1e-5, atol=1e-6)
        if not actions:
            unequal &= np.isfinite(mine) & np.isfinite(other)
        if unequal.any():
            first = tuple(int(i) for i in np.argwhere(unequal)[0])
            yield (
                f"{what}: {end} differs in {int(unequal.sum())} of {unequal.size} dimensions, "
                f"first in {list(first)}: {mine[first]:.6g} in the dataset, {other[first]:.6g} in "
                "the environment"
            )


def _shape(space: Space) -> list[int]:
    return list(space.shape or ())
