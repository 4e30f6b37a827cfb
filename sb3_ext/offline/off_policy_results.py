"""What off-policy evaluation answers: estimates, intervals, and how far to trust them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sb3_ext.evaluation import Interval

METHODS = {
    "is": "importance sampling",
    "wis": "self-normalised importance sampling",
    "pdis": "per-decision importance sampling",
    "wpdis": "self-normalised per-decision importance sampling",
    "dr": "doubly robust",
    "wdr": "weighted doubly robust",
    "fqe": "fitted Q evaluation",
}


@dataclass(frozen=True)
class Estimate:
    """What one method says of the discounted value at the start of an episode.

    :param method: its short name, a key of ``METHODS``
    :param interval: estimate and confidence interval; nan where there is none
    :param beyond_the_cut: whether the value after a time limit is part of it
    """

    method: str
    interval: Interval
    beyond_the_cut: bool

    @property
    def value(self) -> float:
        """The estimate."""
        return self.interval.estimate


@dataclass(frozen=True)
class OfflineEvaluation:
    """Estimates by several methods, and how far to trust them. ``print`` shows a table.

    :param estimates: one for each method asked for
    :param effective_sample_size: how many episodes the weights of whole episodes leave; nan if no
        method used weights
    :param mean_ratio: of all actions; 1 in expectation
    :param behavior: where the behaviour's probabilities are from
    :param notes: what a reader of the numbers should know
    """

    estimates: tuple[Estimate, ...]
    gamma: float
    n_episodes: int
    n_cut: int
    effective_sample_size: float
    mean_ratio: float
    behavior: str
    notes: tuple[str, ...]

    def __getitem__(self, method: str) -> Estimate:
        for one in self.estimates:
            if one.method == method:
                return one
        raise KeyError(f"{method!r} is none of {[one.method for one in self.estimates]}")

    def rows(self) -> list[dict[str, Any]]:
        """The table as plain values, for pandas or JSON."""
        return [
            {
                "method": one.method,
                "estimate": one.value,
                "low": one.interval.low,
                "high": one.interval.high,
                "beyond_the_cut": one.beyond_the_cut,
            }
            for one in self.estimates
        ]

    def __str__(self) -> str:
        lines = [
            f"value at the start of an episode, gamma {self.gamma:g}, {self.n_episodes} episodes"
            f" ({self.n_cut} cut)"
        ]
        for one in self.estimates:
            low, high = one.interval.low, one.interval.high
            told = f"[{low:.4g}, {high:.4g}]" if np.isfinite([low, high]).all() else "no interval"
            what = "with what follows a cut" if one.beyond_the_cut else "within recorded steps"
            shown = f"  {METHODS[one.method]:<48} {one.value:>10.4g}  {told:<22}"
            lines.append(f"{shown} {what}" if self.n_cut else shown.rstrip())
        if np.isfinite(self.effective_sample_size):
            lines.append(
                f"effective sample size {self.effective_sample_size:.1f} of {self.n_episodes} "
                f"episodes, mean ratio {self.mean_ratio:.3g}; behaviour: {self.behavior}"
            )
        return "\n".join([*lines, *(f"- {note}" for note in self.notes)])


@dataclass
class Told:
    """Notes while they are collected, and those of them that are also warned of."""

    notes: list[str] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)

    def note(self, words: str, *, alarm: bool = False) -> None:
        if words not in self.notes:
            self.notes.append(words)
            if alarm:
                self.alarms.append(words)
