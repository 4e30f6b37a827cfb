"""Next observations that are read from the observations, and kept apart only where they differ.

NumPy only. In a ring of transitions the next observation of a row is, nearly always, the
observation of the row after it. It is not where an episode ended, where the environment was reset
by hand, under the write head, and where somebody wrote rows in another order. Which of the two it
is, is found by comparing the bits, never by what the transition says of its end.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

#: In the table of slots: the next observation is the observation of the row after this one.
SHARED = -1
#: Slot of a row that was never written; it holds zeros, as a new array would.
_ZEROS = 0
_NOBODY = -1
#: Bytes of the side store that are asked for at once.
_CHUNK = 2**20


class NextObservations:
    """An array ``[rows, n_envs, ...]`` that stores hardly anything beside ``observations``.

    It is written row by row, each time in two steps: ``make_way(row)`` before the observations of
    the row are written, ``self[row] = values`` after it. Whoever writes to ``observations`` without
    them changes the next observations of the row before.

    :param observations: ``[rows, n_envs, ...]``, new; the same array, not a copy, is read later
    """

    def __init__(self, observations: Array) -> None:
        rows, n_envs = observations.shape[:2]
        self.observations = observations
        #: Where each next observation lies, ``[rows, n_envs]``: ``SHARED``, or its slot.
        self.slots = np.zeros((rows, n_envs), dtype=np.int32)
        # The newest row has nothing to share with yet. Its slots are always the same, so that in
        # the usual case a write finds no slot, frees none, and moves nothing.
        self._newest = _NOBODY
        self._newest_slots = np.arange(1, 1 + n_envs, dtype=np.int32)
        at_most = 1 + n_envs + rows * n_envs
        at_once = _CHUNK // max(observations[0, 0].nbytes, 1)
        self._per_chunk = max(1 + n_envs, min(at_most, at_once))
        self._chunks = [self._new_chunk()]
        self._used = 1 + n_envs
        self._free: list[int] = []

    # -- as an array -------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """``(rows, n_envs, ...)``."""
        return self.observations.shape

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return self.observations.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the observations."""
        return self.observations.dtype

    @property
    def nbytes(self) -> int:
        """Bytes that it holds itself: the table of slots and the side store."""
        return self.slots.nbytes + sum(chunk.nbytes for chunk in self._chunks)

    @property
    def kept_apart(self) -> int:
        """How many next observations lie in the side store."""
        return int(np.count_nonzero(self.slots > _ZEROS))

    def __len__(self) -> int:
        return len(self.observations)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError(
                "next observations of a compact buffer lie in several places, so an array of them "
                "is always a copy, got copy=False: leave it out"
            )
        values = self[:]
        return values if dtype is None else values.astype(dtype, copy=False)

    def __getitem__(self, key: Any) -> Array:
        """A copy of what NumPy would give.

        :param key: rows, or rows and envs, each an integer, a slice or an array of integers; then
            anything for the axes of an observation
        """
        rows, envs, rest = self._split(key)
        if np.ndim(rows) == np.ndim(envs) == 0:  # NumPy would give a view, and we write into it
            alone: Array = self[(np.asarray([rows]), np.asarray([envs]), *rest)][0]
            return alone
        found: Array = self.observations[(rows + 1) % len(self), envs]
        slots = self.slots[rows, envs]
        apart = slots != SHARED
        if apart.any():
            found[apart] = self._kept(slots[apart])
        if any(one != slice(None) for one in rest):
            inner: Array = found[(*[slice(None)] * slots.ndim, *rest)]
            return inner
        return found

    def __setitem__(self, row: int, values: Array) -> None:
        """Write the next observations of a row, whose observations are written already.

        :param row: an integer
        :param values: ``[n_envs, ...]``
        """
        if not isinstance(row, (int, np.integer)):
            raise TypeError(
                "the next observations of a compact buffer are written one row at a time, got "
                f"{row!r} as row: use the buffer's add(), or extend() for several rows"
            )
        row = int(row) % len(self)
        if self._newest != _NOBODY:
            self._settle()
        self._free += [slot for slot in self.slots[row].tolist() if slot > len(self._newest_slots)]
        self._of_newest()[...] = values
        self.slots[row] = self._newest_slots
        self._newest = row

    def make_way(self, row: int) -> None:
        """The observations of a row will be overwritten: keep those that are next ones, too.

        :param row: an integer
        """
        before = (row - 1) % len(self)
        if before == self._newest:  # it has its own until it is compared with what comes now
            return
        for env in np.flatnonzero(self.slots[before] == SHARED):
            self.slots[before, env] = self._keep(self.observations[row, env])

    def column(self, env: int) -> NextObservations:
        """The same of one environment, ``[rows, 1, ...]``, to read; shares all memory.

        :param env: which
        """
        view = copy.copy(self)
        view.observations = self.observations[:, env : env + 1]
        view.slots = self.slots[:, env : env + 1]
        view.slots.flags.writeable = False
        return view

    # -- as plain data -----------------------------------------------------------------------

    def state_dict(self, rows: int) -> dict[str, Any]:
        """All of the first rows that the observations do not say; equal if the contents are.

        :param rows: how many
        :return: ``newest``, the row that was written last; ``kinds`` ``[rows, n_envs]``, -1 shared,
            0 never written, 1 apart; ``values`` ``[n, ...]``, those apart, row by row
        """
        slots = self.slots[:rows]
        return {
            "newest": self._newest,
            "kinds": np.sign(slots).astype(np.int8),
            "values": self._kept(slots[slots > _ZEROS]),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what ``state_dict`` gave, beside the same observations.

        :param state: of as many environments, and of at most as many rows
        """
        self.slots[:] = _ZEROS
        self._chunks, self._free, self._used = [self._new_chunk()], [], 1 + self.shape[1]
        self._newest = int(state["newest"])
        kinds = state["kinds"]
        self.slots[: len(kinds)] = np.minimum(kinds, _ZEROS)
        apart = np.argwhere(kinds > 0).tolist()
        for (row, env), values in zip(apart, state["values"], strict=True):
            if row == self._newest:
                self._of_newest()[env] = values
                self.slots[row, env] = self._newest_slots[env]
            else:
                self.slots[row, env] = self._keep(values)

    # -- the side store ----------------------------------------------------------------------

    def _new_chunk(self) -> Array:
        return np.zeros((self._per_chunk, *self.shape[2:]), dtype=self.dtype)

    def _of_newest(self) -> Array:
        """The next observations of the newest row, ``[n_envs, ...]``; a view."""
        view: Array = self._chunks[0][1 : 1 + len(self._newest_slots)]
        return view

    def _settle(self) -> None:
        """The newest row is the newest no longer: share what the next one holds, keep the rest."""
        newest, self._newest = self._newest, _NOBODY
        values, after = self._of_newest(), self.observations[(newest + 1) % len(self)]
        # By their bits: NaN would never be equal to itself, and 0.0 would pass for -0.0.
        if values.tobytes() == after.tobytes():  # so at nearly every step
            self.slots[newest] = SHARED
            return
        bits = np.dtype(f"u{self.dtype.itemsize}")
        same = (values.view(bits) == after.view(bits)).reshape(len(values), -1).all(axis=1)
        for env, alike in enumerate(same):
            self.slots[newest, env] = SHARED if alike else self._keep(values[env])

    def _keep(self, values: Array) -> int:
        """Copy one next observation into the side store; its slot."""
        if self._free:
            slot = self._free.pop()
        else:
            slot = self._used
            self._used += 1
        chunk, place = divmod(slot, self._per_chunk)
        if chunk == len(self._chunks):
            self._chunks.append(self._new_chunk())
        self._chunks[chunk][place] = values
        return slot

    def _kept(self, slots: Array) -> Array:
        """What lies in these slots, ``[n, ...]``; a copy.

        :param slots: ``[n]``
        """
        values = np.empty((len(slots), *self.shape[2:]), dtype=self.dtype)
        chunks, places = np.divmod(slots, self._per_chunk)
        for chunk in np.unique(chunks):
            inside = chunks == chunk
            values[inside] = self._chunks[chunk][places[inside]]
        return values

    def _split(self, key: Any) -> tuple[Any, Any, tuple[Any, ...]]:
        """Rows and envs as integers or arrays that broadcast as in NumPy, and the rest."""
        parts = key if isinstance(key, tuple) else (key,)
        rows, envs = (_indices(one, n) for one, n in zip(_two(parts), self.shape, strict=False))
        sliced = [isinstance(one, slice) for one in _two(parts)]
        if sliced[0] and np.ndim(envs):  # a grid: rows are an axis of their own
            rows = rows.reshape(-1, *[1] * np.ndim(envs))
        elif sliced[1] and np.ndim(rows):
            rows = rows[..., None]
        return rows, envs, parts[2:]


def _two(parts: tuple[Any, ...]) -> tuple[Any, Any]:
    return parts[0], parts[1] if len(parts) > 1 else slice(None)


def _indices(key: Any, n: int) -> Any:
    """An integer or an array of integers, as they are; of a slice or mask those that it chooses."""
    if isinstance(key, (int, np.integer)):
        return int(key)
    if isinstance(key, slice):
        return np.arange(n)[key]
    found = np.asarray(key)
    return np.arange(n)[found] if found.dtype == np.bool_ else found
