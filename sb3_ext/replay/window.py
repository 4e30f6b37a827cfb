"""Ring-buffer arithmetic: which rows are valid, and which of them are the newest.

NumPy only. A replay buffer is a ring of ``capacity`` *rows*; a row holds one transition of each
of ``n_envs`` environments. A *transition index* counts transitions row by row,
``row * n_envs + env``, so it names a transition exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """The newest ``length`` rows of a ring, as LFIW's fast buffer and ERE need them.

    :param head: the row that is written next; the newest row lies just before it
    :param length: how many rows the window holds
    :param capacity: how many rows the ring has
    :param n_envs: transitions in a row
    """

    head: int
    length: int
    capacity: int
    n_envs: int = 1

    def __post_init__(self) -> None:
        if not (0 <= self.length <= self.capacity and 0 <= self.head < self.capacity):
            raise ValueError(
                "0 <= length <= capacity and 0 <= head < capacity must hold, but got "
                f"length={self.length}, head={self.head}, capacity={self.capacity}"
            )
        if self.n_envs < 1:
            raise ValueError(f"n_envs must be at least 1, but got n_envs={self.n_envs}")

    @property
    def size(self) -> int:
        """Number of transitions in the window."""
        return self.length * self.n_envs

    def newest(self, n_transitions: int) -> Window:
        """The window of the newest ``ceil(n_transitions / n_envs)`` rows, or all if fewer.

        :param n_transitions: how many of the newest transitions are wanted, at least 0
        """
        rows = -(-max(n_transitions, 0) // self.n_envs)
        return Window(self.head, min(rows, self.length), self.capacity, self.n_envs)

    def rows(self) -> Indices:
        """The rows of the window, oldest first, ``[length]``."""
        return (self.head - self.length + np.arange(self.length, dtype=np.int64)) % self.capacity

    def indices(self) -> Indices:
        """The transition indices of the window, oldest first, ``[size]``."""
        return (self.rows()[:, None] * self.n_envs + np.arange(self.n_envs)).reshape(-1)

    def draw(self, n: int, rng: np.random.Generator) -> Indices:
        """``n`` transition indices, uniform over the window and with replacement.

        :param n: how many
        :param rng: source of randomness; NumPy's global generator is never touched
        :return: ``[n]``
        :raises ValueError: if the window is empty
        """
        if self.length == 0:
            raise ValueError("cannot draw from an empty window: nothing has been stored yet")
        return self.of_age(rng.integers(self.size, size=n))

    def of_age(self, ages: Indices) -> Indices:
        """The transition indices of given ages, ``[n]``.

        :param ages: counted backwards row by row; those of one row are of one time: below
            ``n_envs`` is the newest row, ``size - 1`` is in the oldest
        :raises ValueError: for an age that no transition of the window has
        """
        if len(ages) and (ages.min() < 0 or ages.max() >= self.size):
            raise ValueError(
                f"ages must be between 0 and {self.size - 1}, got {ages.min()} to {ages.max()}"
            )
        rows = (self.head - 1 - ages // self.n_envs) % self.capacity
        return rows * self.n_envs + ages % self.n_envs

    def contains(self, indices: Indices) -> NDArray[np.bool_]:
        """Which of the transition indices lie in the window, ``[n]``."""
        age = (self.head - 1 - indices // self.n_envs) % self.capacity
        # The ring's arithmetic would wrap an index that lies outside of it.
        inside = (indices >= 0) & (indices < self.capacity * self.n_envs)
        return inside & (age < self.length)
