"""Stacked observations: an array ``[n, ...]``, or a dict or tuple of such."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def joined(parts: Sequence[Any]) -> Any:
    """All rows of the parts, one part after the other, in new arrays."""
    first = parts[0]
    if isinstance(first, dict):
        return {key: np.concatenate([part[key] for part in parts]) for key in first}
    if isinstance(first, tuple):
        return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return np.concatenate(parts)


def row(stacked: Any, i: int) -> Any:
    """A copy of one row."""
    if isinstance(stacked, dict):
        return {key: array[i].copy() for key, array in stacked.items()}
    if isinstance(stacked, tuple):
        return tuple(array[i].copy() for array in stacked)
    return stacked[i].copy()


def put(stacked: Any, which: Sequence[int], rows: Any) -> None:
    """Write rows in the place of those at these positions."""
    if isinstance(stacked, np.ndarray):
        stacked[which] = rows
        return
    for key in stacked if isinstance(stacked, dict) else range(len(stacked)):
        stacked[key][which] = rows[key]
