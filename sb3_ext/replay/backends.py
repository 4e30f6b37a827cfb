"""Which sum tree: NumPy's, or one that numba compiles if it is installed."""

from __future__ import annotations

from sb3_ext.replay.sum_tree import SumTree


def make_sum_tree(capacity: int, backend: str = "numpy") -> SumTree:
    """A sum tree in NumPy, or one compiled by numba that gives the same bits.

    :param backend: ``"numpy"`` or ``"numba"``
    :raises ImportError: if numba is asked for and not installed
    """
    if backend == "numpy":
        return SumTree(capacity)
    from sb3_ext.replay.compiled import CompiledSumTree

    return CompiledSumTree(capacity)
