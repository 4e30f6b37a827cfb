"""A sum tree: draws in proportion to priorities, and sums over ranges of them.

NumPy only. The leaves are non-negative float64 masses; every inner node is the sum of its two
children, always added up anew and never by differences, so that nothing drifts and the nodes are
a function of the leaves alone. Below ``_TOP`` nodes there is no tree but their running sum, which
is cheaper to search than ten more levels of Python calls.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sb3_ext.replay.window import Indices

Masses = NDArray[np.float64]

# Number of nodes in the widest row that is searched by its running sum; measured with
# benchmarks/replay.py, from 512 to 8192 it makes little difference.
_TOP = 1024
# So many writes may wait for a question; a long time without one must not fill the memory.
_WAITING = 1024


class SumTree:
    """Non-negative masses of ``capacity`` leaves, all 0 at first.

    ``set`` writes leaves at once and sums only when somebody asks, so that writing one leaf costs
    next to nothing; many writes between two questions share one pass up the tree.

    :param capacity: number of leaves
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self.capacity = capacity
        self.width = 1 << (capacity - 1).bit_length()
        # The children of node i are 2i and 2i + 1; the leaves begin at ``width``.
        self._nodes = np.zeros(2 * self.width)
        self._top = min(_TOP, self.width)
        self._depth = self.width.bit_length() - self._top.bit_length()
        # Mass before each node of the top row, and all of it at the end.
        self._before = np.zeros(self._top + 1)
        self._unsummed: list[Indices] = []

    @property
    def leaves(self) -> Masses:
        """The masses ``[capacity]``; read only."""
        view = self._nodes[self.width : self.width + self.capacity]
        view.flags.writeable = False
        return view

    @property
    def total(self) -> float:
        """The sum of all masses."""
        self._sum_up()
        return float(self._before[-1])

    @property
    def nbytes(self) -> int:
        """Memory of the tree in bytes."""
        return self._nodes.nbytes + self._before.nbytes

    def set(self, indices: Indices, masses: Masses | float) -> None:
        """Give leaves new masses; of an index that occurs twice the last counts.

        :param indices: leaves ``[n]``
        :param masses: ``[n]`` or one for all; finite and >= 0
        :raises ValueError: for a mass that is not; the tree is then as before
        """
        least = most = masses
        if isinstance(masses, np.ndarray):
            least, most = masses.min(initial=0.0), masses.max(initial=0.0)
        # NaN compares false; infinity would swallow every other mass.
        if not (least >= 0 and most < np.inf):
            raise ValueError("masses of a sum tree must be finite and >= 0")
        leaves = indices + self.width
        self._nodes[leaves] = masses
        self._unsummed.append(leaves)
        if len(self._unsummed) >= _WAITING:
            self._sum_up()

    def fill(self, masses: Masses) -> None:
        """Give the first ``len(masses)`` leaves these masses, and all others 0."""
        self._unsummed.clear()
        self._nodes[self.width :] = 0.0
        self._nodes[self.width : self.width + len(masses)] = masses
        row = self.width
        while row > self._top:
            row //= 2
            children = self._nodes[2 * row : 4 * row]
            np.add(children[::2], children[1::2], out=self._nodes[row : 2 * row])
        self._sum_top()

    def mass_before(self, leaf: int) -> float:
        """The sum of the masses of all leaves below one.

        :param leaf: from 0 to ``capacity``
        """
        self._sum_up()
        at = leaf + self.width
        if at >= 2 * self.width:  # all there is
            return float(self._before[-1])
        mass = 0.0
        for _ in range(self._depth):
            if at & 1:
                mass += float(self._nodes[at - 1])
            at >>= 1
        return mass + float(self._before[at - self._top])

    def find(self, masses: Masses) -> Indices:
        """The leaf in which each mass lies, when all are laid end to end.

        Never a leaf of mass 0, whatever the rounding.

        :param masses: ``[n]``, each in [0, total]
        :return: ``[n]``
        :raises ValueError: if the tree is empty
        """
        self._sum_up()
        before, nodes = self._before, self._nodes
        if before[-1] <= 0:
            raise ValueError("cannot draw from a sum tree whose masses are all 0")
        rest = np.minimum(masses, np.nextafter(before[-1], 0.0))
        at = before.searchsorted(rest, "right") - 1
        rest -= before.take(at)
        at += self._top
        left, right = np.empty_like(rest), np.empty(rest.shape, dtype=bool)
        for _ in range(self._depth):
            at <<= 1
            nodes.take(at, out=left, mode="clip")  # no index is outside; "raise" would copy twice
            np.greater_equal(rest, left, out=right)
            left *= right
            rest -= left
            at += right
        return self._without_empty(at)

    def _without_empty(self, at: Indices) -> Indices:
        """Leaves by number instead of by node, none of them without mass."""
        masses = self._nodes.take(at)
        if masses.min(initial=np.inf) <= 0:
            empty = masses <= 0
            at[empty] = [self._next_to(leaf) for leaf in at[empty]]
        found: Indices = at - self.width
        return found

    def _next_to(self, leaf: int) -> int:
        """The last leaf before this one that has mass: rounding went one too far to the right."""
        while self._nodes[leaf] <= 0:
            # Up to the first left brother with mass, and down its right side.
            while leaf % 2 == 0 or self._nodes[leaf - 1] <= 0:
                leaf //= 2
            leaf -= 1
            while leaf < self.width:
                leaf = 2 * leaf + (self._nodes[2 * leaf + 1] > 0)
        return leaf

    def _sum_up(self) -> None:
        """Bring the inner nodes up to date with the leaves written since."""
        if not self._unsummed:
            return
        nodes, left, right = self._nodes, self._nodes[::2], self._nodes[1::2]
        at = _all_of(self._unsummed)
        for _ in range(self._depth):
            at >>= 1
            nodes[at] = left[at] + right[at]
        self._sum_top()

    def _sum_top(self) -> None:
        np.cumsum(self._nodes[self._top : 2 * self._top], out=self._before[1:])


class Extreme:
    """The smallest or largest mass above 0 of a tree, without a second tree.

    Leaves lie in blocks, and of each block it is known which leaf holds the extreme. A question
    looks again at those blocks alone in which the holder was written or a better one came. It
    takes less than 1/64 of the memory that a tree of minima would.

    :param tree: whose leaves
    :param kind: ``"min"`` or ``"max"``
    """

    BLOCK = 64

    def __init__(self, tree: SumTree, kind: str) -> None:
        self._pick = {"min": np.minimum, "max": np.maximum}[kind]
        self._place = {"min": np.argmin, "max": np.argmax}[kind]
        self._beyond = {"min": np.less, "max": np.greater}[kind]
        self._nothing = np.inf if kind == "min" else 0.0
        self._size = min(self.BLOCK, tree.width)
        self._tree = tree
        n_blocks = tree.width // self._size
        self._of_blocks = np.full(n_blocks, self._nothing)
        self._holders = np.zeros(n_blocks, dtype=np.uint8)
        self._value = 0.0
        self._written: list[Indices] = []

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return self._of_blocks.nbytes + self._holders.nbytes

    @property
    def value(self) -> float:
        """Of all masses above 0; 0 if there is none."""
        if self._written:
            self._look_at(_all_of(self._written))
        return self._value

    def touch(self, indices: Indices) -> None:
        """Leaves were written."""
        self._written.append(indices)
        if len(self._written) >= _WAITING:
            self._look_at(_all_of(self._written))

    def refill(self) -> None:
        """All leaves were written."""
        self._written.clear()
        self._look(np.arange(len(self._of_blocks)))

    @property
    def _leaves(self) -> Masses:
        """Those of the tree, seen anew each time: a view that is kept would not be copied along."""
        return self._tree._nodes[self._tree.width :]

    def _look_at(self, leaves: Indices) -> None:
        """Look again at the blocks that these leaves may have changed."""
        blocks, place = leaves // self._size, leaves % self._size
        masses = self._above_0(self._leaves.take(leaves))
        known = self._of_blocks.take(blocks)
        lost = (self._holders.take(blocks) == place) & (masses != known)
        changed = self._beyond(masses, known) | lost
        if changed.any():
            self._look(blocks[changed])

    def _look(self, blocks: Indices) -> None:
        masses = self._above_0(self._leaves.reshape(-1, self._size)[blocks])
        holders = self._place(masses, axis=1)
        self._holders[blocks] = holders
        self._of_blocks[blocks] = masses[np.arange(len(blocks)), holders]
        found = float(self._pick.reduce(self._of_blocks))
        self._value = found if np.isfinite(found) else 0.0

    def _above_0(self, masses: Masses) -> Masses:
        """Masses of 0 out of the way of a minimum; in that of a maximum they are not."""
        return np.where(masses > 0, masses, np.inf) if self._nothing else masses


def _all_of(waiting: list[Indices]) -> Indices:
    """What waits in the list, in one array of its own; the list is empty then."""
    together = np.concatenate(waiting)
    waiting.clear()
    return together
