"""What all readers share: arrays of the final length that are filled piece by piece.

A reader asks for the lengths first, makes the arrays once, and fills them from slices of its
source. So no more than the data and one slice lie in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sb3_ext.offline.arrays import (
    Array,
    Observations,
    cast,
    dtype_of,
    map_observations,
    out_of_bounds,
    slices,
)
from sb3_ext.offline.dataset import OfflineDataset, episode_starts_after
from sb3_ext.offline.spaces import Space, require_supported

OutOfBounds = Literal["raise", "clip"]
NonFinite = Literal["raise", "drop"]


class Columns:
    """The arrays of a dataset that is being read.

    :param length: most transitions that there can be
    :param observation_space: of the environment
    :param action_space: of the environment
    :raises TypeError: for spaces that SB3 cannot take
    :raises ValueError: if there is nothing to read
    """

    def __init__(self, length: int, observation_space: Space, action_space: Space) -> None:
        require_supported(observation_space, action_space)
        if length <= 0:
            raise ValueError(
                "there is nothing to read: no transition is left in the data. (A transition whose "
                "next observation was not recorded counts only where the episode terminated)"
            )
        self.observation_space, self.action_space = observation_space, action_space
        self._length = length
        self.rewards = np.empty(length, dtype=np.float32)
        self.terminated = np.zeros(length, dtype=np.bool_)
        self.truncated = np.zeros(length, dtype=np.bool_)
        self.log_prob: Array | None = None
        self.filled = 0
        self.unfinished = 0
        self.notes: list[str] = []

    # The large arrays are made when they are first written to, so that a reader whose source lies
    # in memory can let go of one array before the next is there twice.

    @cached_property
    def observations(self) -> Observations:
        """``[length, *shape]``, or a dict of such arrays."""
        return self._observations()

    @cached_property
    def next_observations(self) -> Observations:
        """As ``observations``."""
        return self._observations()

    @cached_property
    def actions(self) -> Array:
        """``[length, *shape]``, in the environment's units."""
        space = self.action_space
        dtype = np.dtype(np.float32) if isinstance(space, spaces.Box) else dtype_of(space)
        return np.empty((self._length, *(space.shape or ())), dtype=dtype)

    def _observations(self) -> Observations:
        def make(space: Space) -> Array:
            return np.empty((self._length, *(space.shape or ())), dtype=dtype_of(space))

        if isinstance(self.observation_space, spaces.Dict):
            return {key: make(part) for key, part in self.observation_space.spaces.items()}
        return make(self.observation_space)

    # -- filling -----------------------------------------------------------------------------

    def put_observations(self, name: str, at: int, values: Any) -> None:
        """Write ``observations`` or ``next_observations`` from row ``at`` on."""
        space = self.observation_space
        if not isinstance(space, spaces.Dict):
            put(getattr(self, name), at, values, space, name)
            return
        if not isinstance(values, Mapping) or set(values) != set(space.spaces):
            found = sorted(values) if isinstance(values, Mapping) else type(values).__name__
            raise ValueError(
                f"{name} must have the keys of the Dict space, {sorted(space.spaces)}, got {found}"
            )
        for key, part in space.spaces.items():
            put(getattr(self, name)[key], at, values[key], part, f"{name}[{key!r}]")

    def put_actions(self, at: int, values: Any) -> None:
        """Write actions from row ``at`` on."""
        put(self.actions, at, values, self.action_space, "actions")

    def put_log_prob(self, at: int, values: Any) -> None:
        """Write the behaviour's log-probabilities from row ``at`` on."""
        if self.log_prob is None:
            self.log_prob = np.full(len(self.rewards), np.nan, dtype=np.float32)
        values = np.asarray(values).reshape(-1)
        self.log_prob[at : at + len(values)] = values

    def put_episode(
        self,
        observations: Any,
        actions: Any,
        rewards: Any,
        terminated: Any,
        truncated: Any,
        log_prob: Any = None,
    ) -> int:
        """Append an episode as environments give it.

        With T + 1 observations all T transitions count. With T, as some formats have it, the last
        has no next observation: it counts only if the episode terminated there, where none is
        needed (its place is filled with the observation itself).

        :param terminated: ``[T]``, or one value for the last transition
        :param truncated: likewise
        :return: how many transitions were appended
        """
        length, start = count_rows(actions), self.filled
        if not length:
            return 0
        if count_rows(rewards) != length:
            raise ValueError(
                f"an episode must have as many rewards as actions, got {count_rows(rewards)} and "
                f"{length}"
            )
        n_observations = count_rows(observations)
        ends = [_flags(given, length) for given in (terminated, truncated)]
        kept = kept_of_episode(n_observations, length, bool(ends[0][-1]))
        # The flag at the end of what is kept may stand at a transition that is dropped.
        if kept:
            has_next = min(n_observations - 1, kept)
            self.put_observations("observations", start, _rows(observations, 0, kept))
            self.put_observations("next_observations", start, _rows(observations, 1, has_next + 1))
            if has_next < kept:
                last = _rows(observations, kept - 1, kept)
                self.put_observations("next_observations", start + kept - 1, last)
            self.put_actions(start, np.asarray(actions)[:kept])
            self.rewards[start : start + kept] = np.asarray(rewards).reshape(length)[:kept]
            self.terminated[start : start + kept] = ends[0][:kept]
            self.truncated[start : start + kept] = ends[1][:kept]
            if log_prob is not None:
                self.put_log_prob(start, np.asarray(log_prob)[:kept])
            self.unfinished += self.cut(start + kept - 1) and kept == length
        self.filled += kept
        return kept

    def cut(self, row: int) -> bool:
        """End the episode at this row, unless it ended there anyhow.

        :return: whether that had to be
        """
        ended = bool(self.terminated[row] or self.truncated[row])
        self.truncated[row] |= not ended
        return not ended

    def keep(self, rows: NDArray[np.bool_]) -> None:
        """Leave out all rows but these."""
        self._shorten(rows)
        self.filled = int(rows.sum())

    # -- the end -----------------------------------------------------------------------------

    def dataset(
        self,
        source: Mapping[str, Any],
        *,
        out_of_bounds: OutOfBounds = "raise",
        non_finite: NonFinite = "raise",
    ) -> OfflineDataset:
        """What was filled, as a dataset; the notes go into its source.

        :param out_of_bounds: ``"clip"`` sets actions on the bound that lie over it
        :param non_finite: ``"drop"`` leaves out episodes with NaN or infinity
        :raises ValueError: for either, if it says ``"raise"``
        """
        require_choice("out_of_bounds", out_of_bounds, ("raise", "clip"))
        require_choice("non_finite", non_finite, ("raise", "drop"))
        length = self.filled
        if not length:
            raise ValueError("there is nothing to read: no transition is left in the data")
        self.unfinished += self.cut(length - 1)
        if self.unfinished:
            self.notes.append(
                f"{self.unfinished} episodes ended neither way, and count as cut where they stop"
            )
        self._shorten(slice(0, length))
        found: dict[str, int] = {}
        if non_finite == "drop":
            found["non_finite_dropped"] = self._drop_non_finite()
        if out_of_bounds == "clip":
            found["out_of_bounds"] = self._clip()
        if self.log_prob is not None and not np.isfinite(self.log_prob).all():
            self.log_prob = None
            self.notes.append("behavior_log_prob left out: it is not finite everywhere")
        return OfflineDataset(
            observations=self.observations,
            actions=self.actions,
            rewards=self.rewards,
            next_observations=self.next_observations,
            terminated=self.terminated,
            truncated=self.truncated,
            episode_starts=episode_starts_after(self.terminated | self.truncated),
            observation_space=self.observation_space,
            action_space=self.action_space,
            source={
                **{key: value for key, value in source.items() if value is not None},
                "notes": self.notes,
                "found": found,
            },
            behavior_log_prob=self.log_prob,
        )

    def _shorten(self, rows: Any) -> None:
        # One array after the other, so that a copy needs no second set of them.
        for name in ("observations", "next_observations"):
            setattr(self, name, map_observations(lambda values: values[rows], getattr(self, name)))
        for name in ("actions", "rewards", "terminated", "truncated", "log_prob"):
            held = getattr(self, name)
            setattr(self, name, None if held is None else held[rows])

    def _drop_non_finite(self) -> int:
        bad = np.zeros(len(self.rewards), dtype=np.bool_)

        def look(values: Array) -> None:
            if values.dtype.kind == "f":
                for rows in slices(values):
                    part = values[rows].reshape(len(values[rows]), -1)
                    bad[rows] |= ~np.isfinite(part).all(axis=1)

        for held in (self.observations, self.next_observations, self.actions, self.rewards):
            map_observations(look, held)
        if not bad.any():
            return 0
        starts = episode_starts_after(self.terminated | self.truncated)
        lengths = np.diff(starts, append=len(bad))
        keep = np.repeat(~np.logical_or.reduceat(bad, starts), lengths)
        if not keep.any():
            raise ValueError("every episode holds NaN or infinity: nothing is left")
        self._shorten(keep)
        dropped = int((~keep).sum())
        self.notes.append(
            f"{dropped} transitions left out, the episodes in which {int(bad.sum())} held NaN or "
            "infinity"
        )
        return dropped

    def _clip(self) -> int:
        space = self.action_space
        if not isinstance(space, spaces.Box):
            return 0
        count, _, _ = out_of_bounds(self.actions, space)
        if count:
            low, high = space.low.astype(np.float32), space.high.astype(np.float32)
            np.clip(self.actions, low, high, out=self.actions)
            self.notes.append(f"{count} actions lay out of bounds and were set on the bound")
        return count


def put(target: Array, at: int, values: Any, space: Space, what: str) -> None:
    """Write rows of a space into a column, as its dtype.

    A trailing dimension of one is taken off or put on, and floats that are whole numbers may stand
    for the integers of a Discrete space: formats differ in both.

    :raises TypeError: if the values are no numbers of the space's kind
    :raises ValueError: if the shape of the rows is not the space's
    """
    array = np.asarray(values)
    shape = tuple(space.shape or ())
    if array.shape[1:] != shape:
        same = [n for n in array.shape[1:] if n != 1] == [n for n in shape if n != 1]
        if array.ndim == 0 or not same:
            raise ValueError(
                f"{what} must have rows of shape {list(shape)}, as the space {space} says, got "
                f"{list(array.shape[1:])}: does the data belong to this environment?"
            )
        array = array.reshape(len(array), *shape)
    for rows in slices(array):
        part = array[rows]
        if target.dtype.kind in "iu" and part.dtype.kind == "f" and (part == np.rint(part)).all():
            part = part.astype(np.int64)
        stop = at + rows.start + len(part)
        target[at + rows.start : stop] = cast(part, target.dtype, what, type(space).__name__)


def kept_of_episode(n_observations: int, length: int, terminated: bool) -> int:
    """How many transitions of an episode have all that they need.

    :param n_observations: T + 1, or T where the last one was not recorded
    :param length: number T of actions
    :param terminated: whether the last transition ended the task
    :raises ValueError: for any other number of observations
    """
    if n_observations == length + 1:
        return length
    if n_observations == length:
        return length if terminated else max(length - 1, 0)
    raise ValueError(
        f"an episode with {length} actions must have {length + 1} observations (or {length}, where "
        f"the last one was not recorded), got {n_observations}"
    )


def count_rows(values: Any) -> int:
    """Number of rows, of an array or of a dict of arrays."""
    while isinstance(values, Mapping):
        values = next(iter(values.values()))
    return len(values)


def require_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Refuse an option's value that is none of its choices.

    :raises ValueError: naming them
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _rows(values: Any, start: int, stop: int) -> Any:
    if isinstance(values, Mapping):
        return {key: _rows(part, start, stop) for key, part in values.items()}
    return np.asarray(values)[start:stop]


def _flags(given: Any, length: int) -> Array:
    flags = np.asarray(given)
    if flags.ndim == 0:
        at_end = np.zeros(length, dtype=np.bool_)
        at_end[-1] = bool(flags)
        return at_end
    return flags.reshape(length).astype(np.bool_)
