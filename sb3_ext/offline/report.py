"""What a dataset holds, in numbers and as a short text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from sb3_ext.offline.arrays import Array, map_observations, slices

if TYPE_CHECKING:
    from sb3_ext.offline.dataset import OfflineDataset

#: An action this near to a bound, in shares of the range, counts as on it.
SATURATED = 1e-3


@dataclass(frozen=True)
class Spread:
    """Smallest, mean and largest."""

    min: float
    mean: float
    max: float

    @classmethod
    def of(cls, values: Array) -> Spread:
        """The spread of some numbers."""
        found = values.min(), values.mean(dtype=np.float64), values.max()
        return cls(*(float(value) + 0.0 for value in found))  # a zero without a sign

    def __str__(self) -> str:
        return f"min {self.min:.6g}, mean {self.mean:.6g}, max {self.max:.6g}"


@dataclass(frozen=True)
class DatasetReport:
    """A look at a dataset before training; ``print(dataset.report())`` is its text.

    :param transitions: how many
    :param episodes: how many
    :param lengths: transitions an episode
    :param returns: undiscounted, an episode
    :param rewards: a transition
    :param terminated: share of transitions that end the task
    :param truncated: share of transitions at which an episode was cut
    :param unfinished: share of episodes that end neither way
    :param saturation: share of actions on a bound, for each dimension of a Box, else empty
    :param action_shares: share of each action of a Discrete space, else empty
    :param duplicates: share of transitions that stood in the data before
    :param out_of_bounds: actions that the reader set on the bound
    :param non_finite_dropped: transitions that the reader left out, with their whole episodes,
        because of NaN or infinity
    :param has_behavior_log_prob: whether the behaviour's probabilities are known
    :param megabytes: of the arrays
    :param source: where it is from
    """

    transitions: int
    episodes: int
    lengths: Spread
    returns: Spread
    rewards: Spread
    terminated: float
    truncated: float
    unfinished: float
    saturation: tuple[float, ...]
    action_shares: tuple[float, ...]
    duplicates: float
    out_of_bounds: int
    non_finite_dropped: int
    has_behavior_log_prob: bool
    megabytes: float
    source: dict[str, Any]

    def __str__(self) -> str:
        origin = " ".join(
            str(self.source[key])
            for key in ("format", "id", "path", "env_id")
            if key in self.source
        )
        lines = [
            f"{self.transitions} transitions in {self.episodes} episodes, {self.megabytes:.3g} MB"
            + (f" ({origin})" if origin else ""),
            f"returns      {self.returns}",
            f"lengths      {self.lengths}",
            f"rewards      {self.rewards}",
            f"terminated   {_percent(self.terminated)} of transitions, truncated "
            f"{_percent(self.truncated)}; {_percent(self.unfinished)} of episodes end neither way",
        ]
        if self.saturation:
            shares = ", ".join(_percent(share) for share in self.saturation[:8])
            more = ", ..." if len(self.saturation) > 8 else ""
            lines.append(f"on a bound   {shares}{more} of actions, per dimension")
        if self.action_shares:
            shares = ", ".join(_percent(share) for share in self.action_shares[:18])
            more = ", ..." if len(self.action_shares) > 18 else ""
            lines.append(f"actions      {shares}{more}")
        lines.append(
            f"duplicates   {_percent(self.duplicates)} of transitions; set on a bound "
            f"{self.out_of_bounds} actions; NaN or infinity none"
            + (f" ({self.non_finite_dropped} left out)" if self.non_finite_dropped else "")
        )
        same = self.lengths.min == self.lengths.max and self.episodes > 1
        if same and not self.truncated and self.terminated:
            lines.append(
                f"note         all {self.episodes} episodes terminate after "
                f"{self.lengths.min:.0f} steps: is that a time limit?"
            )
        known = "known" if self.has_behavior_log_prob else "unknown"
        lines.append(f"behaviour    its probabilities are {known}")
        lines += [f"note         {note}" for note in self.source.get("notes", ())]
        return "\n".join(lines)


def make_report(dataset: OfflineDataset) -> DatasetReport:
    """Look at a dataset once through."""
    lengths = dataset.lengths()
    last = dataset.episode_starts + lengths - 1
    ended = dataset.terminated[last] | dataset.truncated[last]
    found = dataset.source.get("found", {})
    return DatasetReport(
        transitions=len(dataset),
        episodes=dataset.n_episodes,
        lengths=Spread.of(lengths),
        returns=Spread.of(dataset.returns()),
        rewards=Spread.of(dataset.rewards),
        terminated=float(dataset.terminated.mean()),
        truncated=float(dataset.truncated.mean()),
        unfinished=1 - float(ended.mean()),
        saturation=_saturation(dataset),
        action_shares=_action_shares(dataset),
        duplicates=_duplicates(dataset),
        out_of_bounds=int(found.get("out_of_bounds", 0)),
        non_finite_dropped=int(found.get("non_finite_dropped", 0)),
        has_behavior_log_prob=dataset.behavior_log_prob is not None,
        megabytes=dataset.nbytes / 1e6,
        source=dict(dataset.source),
    )


def _saturation(dataset: OfflineDataset) -> tuple[float, ...]:
    space = dataset.action_space
    if not isinstance(space, spaces.Box):
        return ()
    low, high = (end.astype(np.float64).reshape(-1) for end in (space.low, space.high))
    # An infinite range has no near: its actions are nowhere on a bound.
    with np.errstate(invalid="ignore"):
        margin = np.where(np.isfinite(high - low), SATURATED * (high - low), 0.0)
    flat = dataset.actions.reshape(len(dataset), -1)
    count = np.zeros(flat.shape[1], dtype=np.int64)
    for rows in slices(flat):
        count += ((flat[rows] <= low + margin) | (flat[rows] >= high - margin)).sum(axis=0)
    return tuple((count / len(dataset)).tolist())


def _action_shares(dataset: OfflineDataset) -> tuple[float, ...]:
    space = dataset.action_space
    if not isinstance(space, spaces.Discrete):
        return ()
    counts = np.bincount(dataset.actions - space.start, minlength=int(space.n))
    return tuple((counts / len(dataset)).tolist())


def _duplicates(dataset: OfflineDataset) -> float:
    """Share of transitions whose bits all stood before, by a hash of 64 bits.

    Of a million different transitions, two share one with a probability of 3e-8.
    """
    hashes = np.zeros(len(dataset), dtype=np.uint64)
    place = 0

    def mix(values: Array) -> None:
        nonlocal place
        flat = values.reshape(len(values), -1)
        spare = -flat[:1].nbytes % 8
        width = (flat[:1].nbytes + spare) // 8
        # A word counts by where it stands, so that two that change places make another sum.
        keys = _mixed(np.arange(place, place + width, dtype=np.uint64))
        place += width
        for rows in slices(flat):
            part = np.ascontiguousarray(flat[rows]).view(np.uint8).reshape(len(flat[rows]), -1)
            if spare:
                part = np.pad(part, ((0, 0), (0, spare)))
            hashes[rows] += _mixed(part.view(np.uint64) ^ keys).sum(axis=1, dtype=np.uint64)

    for held in (dataset.observations, dataset.actions, dataset.rewards, dataset.next_observations):
        map_observations(mix, held)
    mix(dataset.terminated)
    return 1 - len(np.unique(hashes)) / len(dataset)


def _mixed(values: Array) -> Array:
    """The finaliser of SplitMix64: every bit of the input moves half of the output's."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Array = (values ^ (values >> np.uint64(31))) + np.uint64(0x9E3779B97F4A7C15)
    return mixed


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
