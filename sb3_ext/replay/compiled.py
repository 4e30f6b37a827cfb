"""The sum tree compiled by numba: the same bits as :class:`SumTree`, in less time.

Importing numba takes a second and a hundred megabytes, so it is asked for by ``backend="numba"``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sb3_ext.replay.sum_tree import Masses, SumTree
from sb3_ext.replay.window import Indices

try:
    import numba
except ImportError as error:
    raise ImportError(
        "backend='numba' needs numba, which is not installed: pip install numba, or leave backend "
        "at 'numpy', which makes the same draws"
    ) from error


@numba.njit(cache=True)
def _sum_up(nodes: Any, before: Any, at: Any, top: int) -> None:
    for i in range(at.size):
        node = at[i] >> 1
        while node >= top:
            nodes[node] = nodes[2 * node] + nodes[2 * node + 1]
            node >>= 1
    total = 0.0
    for i in range(top):
        total += nodes[top + i]
        before[i + 1] = total


@numba.njit(cache=True)
def _find(nodes: Any, before: Any, masses: Any, width: int, top: int, found: Any) -> None:
    last = np.nextafter(before[top], 0.0)
    for i in range(masses.size):
        rest = min(masses[i], last)
        low, high = 0, top
        while low < high:  # the first entry beyond it
            middle = (low + high) >> 1
            if before[middle + 1] > rest:
                high = middle
            else:
                low = middle + 1
        rest -= before[low]
        at = low + top
        while at < width:
            at <<= 1
            left = nodes[at]
            if rest >= left:
                rest -= left
                at += 1
        found[i] = at


class CompiledSumTree(SumTree):
    """As :class:`SumTree`."""

    def find(self, masses: Masses) -> Indices:
        """As :meth:`SumTree.find`."""
        self._sum_up()
        if self._before[-1] <= 0:
            raise ValueError("cannot draw from a sum tree whose masses are all 0")
        at = np.empty(len(masses), dtype=np.int64)
        _find(self._nodes, self._before, masses, self.width, self._top, at)
        return self._without_empty(at)

    def _sum_up(self) -> None:
        if self._unsummed:
            at = np.concatenate(self._unsummed)
            self._unsummed.clear()
            _sum_up(self._nodes, self._before, at, self._top)
