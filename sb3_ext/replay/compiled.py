"""The sum tree compiled by numba: the same bits as :class:`SumTree`, in less time.

Importing numba takes a second and a hundred megabytes, so it is asked for by ``backend="numba"``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sb3_ext.replay.sum_tree import Masses, SumTree, _all_of
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


# Level by level and without a branch: the next element need not wait for this one's cache miss.
@numba.njit(cache=True)
def _find(nodes: Any, before: Any, masses: Any, width: int, top: int, found: Any) -> bool:
    last = np.nextafter(before[top], 0.0)
    rest = np.empty(masses.size)
    for i in range(masses.size):
        rest[i] = min(masses[i], last)
        found[i] = 0
    step = top >> 1
    while step > 0:  # to the last entry that is not beyond it
        for i in range(masses.size):
            found[i] += step * (before[found[i] + step] <= rest[i])
        step >>= 1
    for i in range(masses.size):
        rest[i] -= before[found[i]]
        found[i] += top
    while top < width:
        for i in range(masses.size):
            at = 2 * found[i]
            left = nodes[at]
            right = rest[i] >= left
            rest[i] -= left * right
            found[i] = at + right
        top <<= 1
    empty = False
    for i in range(masses.size):
        empty |= nodes[found[i]] <= 0
    return empty


class CompiledSumTree(SumTree):
    """As :class:`SumTree`."""

    def find(self, masses: Masses) -> Indices:
        """As :meth:`SumTree.find`."""
        self._sum_up()
        if self._before[-1] <= 0:
            raise ValueError("cannot draw from a sum tree whose masses are all 0")
        at = np.empty(len(masses), dtype=np.int64)
        if _find(self._nodes, self._before, masses, self.width, self._top, at):
            return self._without_empty(at)
        at -= self.width
        return at

    def _sum_up(self) -> None:
        if self._unsummed:
            _sum_up(self._nodes, self._before, _all_of(self._unsummed), self._top)
