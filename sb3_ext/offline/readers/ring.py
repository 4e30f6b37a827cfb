"""A replay buffer's ring, row by row in the order of time, one environment after the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sb3_ext.offline.arrays import Array, map_observations, slices
from sb3_ext.offline.readers.columns import Columns
from sb3_ext.offline.scaling import unscaled
from sb3_ext.offline.spaces import Space

#: Copied together: a compact buffer's next observations are no array of which there are views.
_ROWS = 4096


def read_ring(
    held: dict[str, Any],
    observation_space: Space,
    action_space: Space,
    *,
    scaled: bool = True,
    time_limit: int | None = None,
) -> Columns:
    """Columns from the attributes of a replay buffer; arrays leave ``held`` once they are copied.

    :param held: the attributes, ``[size, n_envs, ...]``
    :param scaled: whether Box actions are in [-1, 1]
    :param time_limit: see :func:`~sb3_ext.offline.from_replay_buffer`
    :raises ValueError: if the buffer is empty
    """
    ring = _Ring(held)
    if not ring.rows:
        raise ValueError("the replay buffer is empty: it holds no transitions yet")
    columns = Columns(ring.rows * ring.n_envs, observation_space, action_space)
    columns.filled = ring.rows * ring.n_envs
    ring.put_ends(columns, time_limit)
    if ring.saving:
        ring.copy_observations(columns, "next_observations", held["observations"], shift=1)
    ring.copy_observations(columns, "observations", held.pop("observations"))
    if not ring.saving:
        ring.copy_observations(columns, "next_observations", held.pop("next_observations"))
    ring.copy_actions(columns, held.pop("actions"), scaled)
    for env, at, run in ring.pieces():
        columns.rewards[at : at + run.stop - run.start] = held["rewards"][run, env]
    if ring.trajectories:
        _place_finals(columns, ring)
        _put_log_prob(columns, ring)
    elif ring.saving:
        _repair_ends(columns, ring)
    else:
        _cut_where_broken(columns)
    if ring.wrapped:
        columns.notes.append("the ring had wrapped: first episodes may lack their beginnings")
    return columns


class _Ring:
    """Which rows are valid, oldest first."""

    def __init__(self, held: dict[str, Any]) -> None:
        self.held = held
        self.size, self.n_envs = held["rewards"].shape[:2]
        pos, self.wrapped = int(held["pos"]), bool(held["full"])
        #: With optimize_memory_usage, a next observation is the next row's observation.
        self.saving = held.get("next_observations") is None
        #: A TrajectoryReplayBuffer does likewise, but keeps time limits and what came last at them.
        self.trajectories = self.saving and "final_slots" in held
        if self.wrapped:
            # There, the newest next observation lies where the oldest observation was.
            runs = [slice(pos + self.saving, self.size), slice(0, pos)]
        else:
            runs = [slice(0, pos)]
        self.runs = [run for run in runs if run.stop > run.start]
        self.rows = sum(run.stop - run.start for run in self.runs)

    def pieces(self) -> Iterator[tuple[int, int, slice]]:
        """Environment, first row in the columns, rows of the ring; in the order of time."""
        for env in range(self.n_envs):
            at = env * self.rows
            for run in self.runs:
                yield env, at, run
                at += run.stop - run.start

    def newest(self) -> NDArray[np.int64]:
        """The last row of each environment in the columns."""
        rows: NDArray[np.int64] = (np.arange(self.n_envs) + 1) * self.rows - 1
        return rows

    def copy_observations(self, columns: Columns, name: str, values: Any, shift: int = 0) -> None:
        """Copy what lies ``shift`` rows behind each row; the last row is followed by the first."""
        for env, at, run in self.pieces():
            start, stop = run.start + shift, run.stop + shift
            for rows in (slice(start, min(stop, self.size)), slice(0, max(stop - self.size, 0))):
                for first in range(rows.start, rows.stop, _ROWS):
                    few = slice(first, min(first + _ROWS, rows.stop))
                    columns.put_observations(name, at, map_observations(_taker(few, env), values))
                    at += few.stop - first

    def copy_actions(self, columns: Columns, stored: Array, scaled: bool) -> None:
        space, beyond = columns.action_space, 0
        for env, at, run in self.pieces():
            part = stored[run, env]
            if not (isinstance(space, spaces.Box) and scaled):
                columns.put_actions(at, part.reshape(len(part), *(space.shape or ())))
                continue
            for rows in slices(part):
                taken = part[rows]
                if self.trajectories:  # as they were drawn: the environment got them clipped
                    taken = np.clip(taken, -1, 1)
                    beyond += int((taken != part[rows]).any(axis=1).sum())
                in_units = unscaled(taken, space)
                columns.put_actions(at + rows.start, in_units.reshape(-1, *space.shape))
        if beyond:
            columns.notes.append(
                f"{beyond} actions were drawn beyond [-1, 1] and are on the bound, where the "
                "environment got them; if they are in its own units, pass scaled_actions=False"
            )

    def put_ends(self, columns: Columns, time_limit: int | None) -> None:
        """Terminations and cuts; an episode that the buffer stops in is cut there."""
        stored = self.held.get("timeouts")
        if self.saving and not self.trajectories:
            unknown = "optimize_memory_usage"
        elif stored is None:
            unknown = "the version of SB3 that wrote it"
        elif not self.held.get("handle_timeout_termination", True):
            unknown = "handle_timeout_termination=False"
        else:
            unknown = ""
        for env, at, run in self.pieces():
            rows = slice(at, at + run.stop - run.start)
            dones = self.held["dones"][run, env].astype(np.bool_)
            if not unknown and stored is not None:
                columns.truncated[rows] = dones & stored[run, env].astype(np.bool_)
            columns.terminated[rows] = dones & ~columns.truncated[rows]
        if unknown and time_limit is None:
            columns.notes.append(
                f"time limits count as terminations: {unknown} does not tell them apart; "
                "time_limit= would"
            )
        elif unknown and time_limit is not None:
            columns.notes.append(f"episodes of {time_limit} steps count as cut, not as terminated")
            for env in range(self.n_envs):
                rows = slice(env * self.rows, (env + 1) * self.rows)
                cut = _at_limit(columns.terminated[rows], time_limit, self.wrapped)
                columns.truncated[rows] |= cut
                columns.terminated[rows] &= ~cut
        for row in self.newest():
            columns.unfinished += columns.cut(int(row))


def _at_limit(dones: NDArray[np.bool_], time_limit: int, begun_before: bool) -> NDArray[np.bool_]:
    """Ends of episodes that are as long as the limit; of one whose beginning is lost, any end."""
    if time_limit < 1:
        raise ValueError(f"time_limit must be at least 1, got {time_limit}")
    ends = np.flatnonzero(dones)
    lengths = np.diff(ends, prepend=-1)
    if len(lengths) and lengths.max() > time_limit:
        raise ValueError(
            f"time_limit={time_limit}, but the buffer holds an episode of {int(lengths.max())} "
            "steps: pass the limit of the environment that it was recorded in"
        )
    cut = np.zeros_like(dones)
    cut[ends[lengths == time_limit]] = True
    if begun_before:
        cut[ends[:1]] = True
    return cut


def _cut_where_broken(columns: Columns) -> None:
    """End episodes that the next row does not go on with, though nothing says they ended."""
    broken = np.zeros(columns.filled, dtype=np.bool_)

    def compare(seen: Array, follow: Array) -> None:
        for rows in slices(seen[1:]):
            stop = min(rows.stop, len(seen) - 1)
            after = seen[rows.start + 1 : stop + 1].reshape(stop - rows.start, -1)
            said = follow[rows.start : stop].reshape(stop - rows.start, -1)
            # Unequal to itself is NaN, which is another check's business.
            unequal = (after != said) & (after == after) & (said == said)
            broken[rows.start : stop] |= unequal.any(axis=1)

    map_observations(compare, columns.observations, columns.next_observations)
    broken &= ~(columns.terminated | columns.truncated)
    columns.truncated |= broken
    if broken.any():
        columns.notes.append(
            f"{int(broken.sum())} episodes cut where the next transition begins elsewhere, as "
            "after a reset"
        )


def _repair_ends(columns: Columns, ring: _Ring) -> None:
    """With memory saved, an episode's last next observation was overwritten by a reset's.

    Where it terminated none is needed, and the observation itself takes the place; where it was
    cut, the transition is dropped. Only the newest row of all still has its own.
    """
    ends = np.flatnonzero(columns.terminated)

    def fill(seen: Array, follow: Array) -> None:
        follow[ends] = seen[ends]

    map_observations(fill, columns.observations, columns.next_observations)
    lost = columns.truncated.copy()
    lost[ring.newest()] = False
    if lost.any():
        before = np.flatnonzero(lost) - 1
        before = before[before >= 0]
        ended = columns.terminated | columns.truncated
        columns.truncated[before[~ended[before]]] = True
        columns.keep(~lost)
        columns.notes.append(
            f"{int(lost.sum())} transitions dropped, the last before each time limit, whose next "
            "observations optimize_memory_usage overwrote"
        )


def _place_finals(columns: Columns, ring: _Ring) -> None:
    """A trajectory buffer keeps what came last at each cut; where it terminated none is needed.

    There the observation itself takes the place, but for the newest rows, which have their own.
    """
    for env, at, run in ring.pieces():
        slots = ring.held["final_slots"][run, env]
        for row in np.flatnonzero(slots >= 0):
            last = map_observations(
                lambda one: np.asarray(one)[None], ring.held["final_observations"][slots[row]]
            )
            columns.put_observations("next_observations", at + int(row), last)
    lost = columns.terminated.copy()
    lost[ring.newest()] = False
    ends = np.flatnonzero(lost)

    def fill(seen: Array, follow: Array) -> None:
        follow[ends] = seen[ends]

    map_observations(fill, columns.observations, columns.next_observations)
    if len(ends):
        columns.notes.append(
            f"{len(ends)} terminated episodes: a trajectory buffer does not keep their last "
            "observation, and the one before it stands in its place"
        )


def _put_log_prob(columns: Columns, ring: _Ring) -> None:
    """What a trajectory buffer says of a Discrete action, where it says log probabilities."""
    space, held = columns.action_space, ring.held["behavior"]
    if not isinstance(space, spaces.Discrete) or held.shape[2] != space.n:
        return
    for env, at, run in ring.pieces():
        logs = held[run, env].astype(np.float64)
        if not np.allclose(np.exp(logs).sum(axis=1), 1, atol=1e-4):
            columns.log_prob = None  # parameters of another kind
            return
        taken = columns.actions[at : at + len(logs)].astype(np.int64) - int(space.start)
        columns.put_log_prob(at, logs[np.arange(len(logs)), taken])


def _taker(rows: slice, env: int) -> Any:
    return lambda values: values[rows, env]
