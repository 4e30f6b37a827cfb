"""What an intervention found: scored graphs, the factors' weights, a table and a picture."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from scipy import stats

from sb3_ext.plots import PALETTE
from sb3_ext.plugins.causal.equations import (
    Floats,
    Graphs,
    RidgePosterior,
    best_graph,
    default_temperature,
    edge_probabilities,
    fit_energy,
)

Kind = Literal["policy execution", "expert query"]
#: What a factor is, by where the interval of its weight lies.
VERDICTS = {
    1: "drives the expert",
    -1: "nuisance: it harms",
    0: "not told apart: harmless, or too little seen",
}
_COLOURS = {1: PALETTE[0], -1: PALETTE[1], 0: PALETTE[-1]}
_UNITS: dict[Kind, tuple[str, str]] = {
    "policy execution": ("episodes", "return"),
    "expert query": ("queries", "log-likelihood of the expert"),
}


@dataclass(frozen=True, eq=False)
class Posterior:
    """The graphs that were tried, what they scored, and what follows for each factor.

    A weight is what a factor's presence adds to the score, all else alike.

    :param kind: how graphs were scored: by returns, or by an expert's actions
    :param factors: n names
    :param graphs: ``[N, n]``
    :param scores: ``[N]``; larger is better
    :param cost: episodes, or queries
    :param temperature: tau of ``p(G)``; None is a tenth of the range of the scores
    :param ridge: of the regression
    """

    kind: Kind
    factors: tuple[str, ...]
    graphs: Graphs
    scores: Floats
    cost: int
    temperature: float | None = None
    ridge: float = 1.0

    @cached_property
    def fit(self) -> RidgePosterior:
        """The distribution of the weights; flat where nothing was tried."""
        if not len(self.scores):
            zeros = np.zeros(len(self.factors))
            return RidgePosterior(zeros, np.full_like(zeros, np.inf), 1, 0.0)
        return fit_energy(self.graphs, self.scores, self.ridge)

    @property
    def weights(self) -> dict[str, float]:
        """w, by factor."""
        return dict(zip(self.factors, self.fit.mean.tolist(), strict=True))

    @property
    def probabilities(self) -> dict[str, float]:
        """``sigma(w / tau)``: how likely a factor is in the next graph that is tried."""
        tau = default_temperature(self.scores) if self.temperature is None else self.temperature
        values = edge_probabilities(self.fit.mean, tau)
        return dict(zip(self.factors, values.tolist(), strict=True))

    @property
    def is_exact(self) -> bool:
        """Whether all graphs were scored, without the noise of episodes."""
        return self.kind == "expert query" and len(self.scores) == 2 ** len(self.factors)

    @property
    def graph(self) -> dict[str, bool]:
        """The best, where all were scored; else ``arg max_G p(G)``: the weights above 0."""
        found = self.graphs[self.scores.argmax()] if self.is_exact else best_graph(self.fit.mean)
        return dict(zip(self.factors, found.tolist(), strict=True))

    @property
    def effects(self) -> dict[str, float]:
        """The best score of a graph with a factor minus the best of one without it, by factor.

        Where all graphs were scored, that is what the factor is worth: near 0 for a harmless one.
        NaN where only one of the two was tried.
        """
        found = {}
        for name, present in zip(self.factors, self.graphs.T, strict=True):
            parts = self.scores[present], self.scores[~present]
            best = [part.max() if len(part) else np.nan for part in parts]
            found[name] = float(best[0] - best[1])
        return found

    def intervals(self, level: float = 0.95) -> NDArray[np.float64]:
        """Of each weight, ``[n, 2]``: they hold it with probability ``level``.

        :raises ValueError: unless 0 < level < 1
        """
        if not 0 < level < 1:
            raise ValueError(f"0 < level < 1 must hold, got {level}")
        reach = stats.t.ppf((1 + level) / 2, self.fit.degrees_of_freedom) * self.fit.scale
        return np.stack([self.fit.mean - reach, self.fit.mean + reach], axis=1)

    def verdicts(self, level: float = 0.95) -> dict[str, int]:
        """1 for a factor whose weight is surely positive, -1 surely negative, 0 neither.

        A harmless nuisance cannot be told from a cause that is not needed: both are 0.
        """
        low, high = self.intervals(level).T
        signs = np.where(low > 0, 1, np.where(high < 0, -1, 0)).tolist()
        return dict(zip(self.factors, signs, strict=True))

    def table(self, level: float = 0.95) -> str:
        """A row a factor: weight, interval, whether the policy looks at it, and what it is."""
        unit, score = _UNITS[self.kind]
        verdicts, graph = self.verdicts(level), self.graph
        worth = ("best with - without",) if self.is_exact else ()
        rows = [("factor", "weight", f"{level:.0%} interval", *worth, "in graph", "verdict")]
        for name, weight, (low, high) in zip(
            self.factors, self.fit.mean, self.intervals(level), strict=True
        ):
            kept = "yes" if graph[name] else "no"
            span = f"[{low:.3g}, {high:.3g}]"
            gained = (f"{self.effects[name]:.3g}",) if worth else ()
            rows.append((name, f"{weight:.3g}", span, *gained, kept, VERDICTS[verdicts[name]]))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        head = f"{self.kind}, {self.cost} {unit}, {len(self.scores)} graphs; weights in {score}"
        return "\n".join([head, lines[0], "-" * len(lines[0]), *lines[1:]])

    def plot(self, path: str | os.PathLike[str], level: float = 0.95) -> Path:
        """Draw the weights as bars with their intervals.

        :param path: the picture's file; folders are made
        """
        unit, score = _UNITS[self.kind]
        verdicts = [self.verdicts(level)[name] for name in self.factors]
        low, high = self.intervals(level).T
        figure = Figure(figsize=(7.2, 1.6 + 0.36 * len(self.factors)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        rows = np.arange(len(self.factors))
        finite = np.isfinite(low)
        reach = np.where(finite, [self.fit.mean - low, high - self.fit.mean], 0.0)
        axes.barh(rows, self.fit.mean, color=[_COLOURS[one] for one in verdicts], height=0.62)
        axes.errorbar(
            self.fit.mean, rows, xerr=reach, fmt="none", ecolor="#222222", elinewidth=1, capsize=3
        )
        axes.axvline(0.0, color="#222222", linewidth=0.8)
        axes.set_yticks(rows, self.factors)
        axes.invert_yaxis()
        axes.set_xlabel(f"weight: what the factor adds to the {score}")
        axes.set_title(f"{self.kind}, {self.cost} {unit}", loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        kinds = [one for one in VERDICTS if one in verdicts]
        patches = [
            Patch(color=_COLOURS[one], label=VERDICTS[one].partition(":")[0]) for one in kinds
        ]
        figure.legend(handles=patches, loc="outside lower center", ncols=3, frameon=False)
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, dpi=150)
        return target

    # -- plain values --------------------------------------------------------------------------

    def with_scores(self, graphs: Graphs, scores: Floats, cost: int) -> Posterior:
        """The same with more graphs.

        :param graphs: ``[k, n]``
        :param scores: ``[k]``
        :param cost: of all together
        """
        return replace(
            self,
            graphs=np.concatenate([self.graphs, graphs]),
            scores=np.concatenate([self.scores, scores]),
            cost=cost,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; :meth:`from_dict` gives an equal one."""
        return {
            "kind": self.kind,
            "factors": list(self.factors),
            "graphs": self.graphs.astype(int).tolist(),
            "scores": self.scores.tolist(),
            "cost": self.cost,
            "temperature": self.temperature,
            "ridge": self.ridge,
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Posterior:
        """What :meth:`to_dict` gave."""
        graphs = np.array(saved["graphs"], dtype=bool).reshape(-1, len(saved["factors"]))
        arrays = {"graphs": graphs, "scores": np.array(saved["scores"], dtype=float)}
        return cls(**{**saved, "factors": tuple(saved["factors"]), **arrays})

    def save(self, path: str | os.PathLike[str], **more: Any) -> None:
        """Write it as JSON, whole or not at all.

        :param more: plain values to keep beside it
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f"{target.name}.part")
        beside.write_text(json.dumps({**self.to_dict(), **more}), encoding="utf-8")
        beside.replace(target)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Posterior:
        """Read what :meth:`save` wrote."""
        known = {"kind", "factors", "graphs", "scores", "cost", "temperature", "ridge"}
        saved = json.loads(Path(path).read_text(encoding="utf-8"))
        return cls.from_dict({name: saved[name] for name in known})
