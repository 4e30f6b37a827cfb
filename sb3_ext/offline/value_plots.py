"""Value estimates and true values on one axis, over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from sb3_ext.plots import Curve, plot_learning_curves

Run: TypeAlias = str | Path | Mapping[str, Sequence[float]]

#: Which of the logged values are drawn beside each other, and how the axis calls them.
PAIRS = {
    "start": ("estimate_start", "true_start", "discounted value at the start"),
    "visited": ("estimate_visited", "true_visited", "discounted value of visited states"),
    "buffer": ("estimate_buffer", "true_visited", "discounted value, buffer and visited states"),
}


def plot_value_estimates(
    runs: Mapping[str, Sequence[Run]] | Sequence[Run],
    path: str | Path,
    title: str = "Value estimates and true values",
    *,
    of: str = "start",
    yscale: str = "linear",
    xlabel: str = "environment steps",
) -> Path:
    """Draw what :class:`~sb3_ext.offline.diagnostics.ValueDiagnostic` recorded.

    One thin line a seed, their mean bold with its bootstrap band, in two colours.

    :param runs: one a seed: the file that was saved, or ``history``. With labels, a mapping of such
        lists: the estimates of several algorithms beside each other
    :param path: the picture's file; folders are made
    :param of: ``"start"`` or ``"visited"``, of which both are about the same states and actions; or
        ``"buffer"``, the author of BCQ's estimate, to which the truth of visited states is nearest
    :param yscale: ``"symlog"`` if estimates diverge
    :param xlabel: ``"gradient steps"`` for offline training
    :raises ValueError: for an unknown ``of``, or runs without finite values
    """
    if of not in PAIRS:
        raise ValueError(f"of must be one of {list(PAIRS)}, got {of!r}")
    estimate, truth, ylabel = PAIRS[of]
    labelled = runs if isinstance(runs, Mapping) and not _is_history(runs) else {"": runs}
    curves: dict[str, list[Curve]] = {}
    for label, seeds in labelled.items():
        prefix = f"{label}: " if label else ""
        histories = [_read(one) for one in _listed(seeds)]
        curves[f"{prefix}estimate"] = [_finite(one, estimate) for one in histories]
        curves[f"{prefix}true"] = [_finite(one, truth) for one in histories]
    return plot_learning_curves(curves, path, title, ylabel=ylabel, xlabel=xlabel, yscale=yscale)


def _is_history(runs: Any) -> bool:
    return isinstance(runs, Mapping) and "timesteps" in runs


def _listed(seeds: Any) -> list[Any]:
    return [seeds] if isinstance(seeds, (str, Path)) or _is_history(seeds) else list(seeds)


def _read(run: Run) -> Mapping[str, Any]:
    if isinstance(run, Mapping):
        return run
    with np.load(run, allow_pickle=False) as stored:
        return dict(stored)


def _finite(history: Mapping[str, Any], name: str) -> Curve:
    if name not in history:
        raise ValueError(f"a run has no {name!r}; it has {sorted(history)}: of= chooses others")
    steps, values = np.asarray(history["timesteps"]), np.asarray(history[name], dtype=float)
    kept = np.isfinite(values)
    if not kept.any():
        raise ValueError(f"a run has no finite {name!r}: of= chooses other values")
    return steps[kept], values[kept]
