"""Comparing observations and parameters, bit by bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th


def same(one: Any, other: Any) -> bool:
    """Whether two trees of tensors, arrays and plain values are equal to the bit.

    In arrays, NaN equals NaN; in tensors, which are parameters, it does not.
    """
    if isinstance(one, th.Tensor):
        return (
            isinstance(other, th.Tensor) and one.shape == other.shape and bool(th.equal(one, other))
        )
    if isinstance(one, np.ndarray):
        numbers = one.dtype.kind in "fc"  # of others, NumPy cannot say whether they are NaN
        return isinstance(other, np.ndarray) and np.array_equal(one, other, equal_nan=numbers)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def finite(tree: Any) -> bool:
    """Whether all tensors in it are finite."""
    if isinstance(tree, th.Tensor):
        return bool(th.isfinite(tree).all())
    if isinstance(tree, dict):
        return all(map(finite, tree.values()))
    return all(map(finite, tree)) if isinstance(tree, (list, tuple)) else True


def snapshot(model: Any) -> Any:
    """A copy of all that ``get_parameters`` gives: networks and optimisers."""
    return _copy(model.get_parameters())


def _copy(tree: Any) -> Any:
    if isinstance(tree, th.Tensor):
        return tree.detach().clone()
    if isinstance(tree, dict):
        return {key: _copy(value) for key, value in tree.items()}
    return type(tree)(map(_copy, tree)) if type(tree) in (list, tuple) else tree
