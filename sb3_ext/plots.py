"""Learning curves: of several methods over seeds, and of one run with what it logged.

Drawn on a figure of their own through the Agg canvas: pyplot's global state and the user's
matplotlib settings for the screen are left alone.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from sb3_ext.evaluation import Floats, Statistic, interquartile_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve: TypeAlias = tuple[ArrayLike, ArrayLike]

# Okabe and Ito (2008): told apart with every common form of colour blindness.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5B5B5B")
INK, QUIET, GRID = "#222222", "#6F6F6F", "#E3E3E3"
SB3_NAMESPACES = frozenset({"rollout", "time", "train", "eval"})


def plot_learning_curves(
    curves: Mapping[str, Sequence[Curve]],
    path: str | Path,
    title: str,
    *,
    statistic: Statistic = np.mean,
    confidence: float = 0.95,
    ylabel: str = "evaluation return",
    xlabel: str = "environment steps",
    yscale: str = "linear",
) -> Path:
    """Draw one bold curve per label with a bootstrap band over its seeds, and every seed thinly.

    :param curves: label -> one (timesteps, returns) pair per seed, each of shape [points]. Seeds
        evaluated at different timesteps are interpolated on the range that all of them cover.
    :param path: the picture's file; folders are made
    :param statistic: over seeds, called with ``axis=0``: ``numpy.mean`` or
        :func:`interquartile_mean`
    :param yscale: as matplotlib has it; ``"symlog"`` where some curves leave all others behind
    :raises ValueError: if there is no curve, or a label has no seed
    """
    figure, (axes,) = _figure(title, heights=(4.4,))
    if not curves or not all(curves.values()):
        raise ValueError("nothing to draw: each label needs at least one seed's curve")
    for colour, (label, seeds) in zip(_colours(len(curves)), curves.items(), strict=True):
        steps, returns = _on_shared_steps(seeds)
        for own_steps, own_returns in seeds:
            axes.plot(own_steps, own_returns, color=colour, linewidth=0.7, alpha=0.35)
        if len(seeds) > 1:
            axes.fill_between(
                steps, *_band(returns, statistic, confidence), color=colour, alpha=0.16, linewidth=0
            )
        centre = statistic(returns, axis=0)
        hidden = any(np.array_equal(centre, line.get_ydata()) for line in axes.lines[-200:])
        style = (0, (2, 2)) if hidden else "-"  # dashes show both of two equal curves
        axes.plot(steps, centre, color=colour, linewidth=2.2, linestyle=style, label=label)
    axes.set(xlabel=xlabel, ylabel=ylabel, yscale=yscale)
    _legend(axes, columns=4)
    name = "interquartile mean" if statistic is interquartile_mean else statistic.__name__
    counts = sorted({len(seeds) for seeds in curves.values()})
    seeds_text = f"{'-'.join(map(str, counts))} seed{'s' if counts[-1] > 1 else ''} each"
    caption = f"{seeds_text}; bold: {name} over seeds; thin: single seeds"
    if counts[-1] > 1:
        caption += f"; band: {confidence:.0%} bootstrap interval of the {name}"
    figure.supxlabel(caption, x=0.01, ha="left", fontsize=8, color=QUIET)
    return _save(figure, path)


def plot_training_run(
    run_dir: str | Path,
    path: str | Path | None = None,
    *,
    title: str | None = None,
    diagnostics: Sequence[str] | None = None,
    xlabel: str = "environment steps",
) -> Path:
    """Draw one run: training episodes, evaluations and, below, what the method said about itself.

    Reads what is there of ``monitor.csv``, ``evaluations.npz`` and ``progress.csv``. The first row
    where a ``*/active`` metric is 1 gets a vertical line. Where ``config.json`` says that others
    than the agent played the episodes, the legend says it, too.

    :param path: the picture's file, ``run_dir/learning_curve.png`` by default
    :param diagnostics: columns of ``progress.csv`` to draw; by default up to four whose namespace
        is none of SB3's own
    :param xlabel: what its steps are; offline, gradient steps
    :raises FileNotFoundError: if the folder holds neither episodes nor evaluations
    """
    run_dir = Path(run_dir)
    metrics = _progress(run_dir / "progress.csv")
    if diagnostics is None:
        own = [key for key in metrics if key.partition("/")[0] not in SB3_NAMESPACES]
        diagnostics = [key for key in own if "/" in key and not key.endswith("/active")][:4]
    shown = [key for key in diagnostics if key in metrics]
    figure, (top, *panels) = _figure(title or run_dir.name, heights=(3.9, *[1.05] * len(shown)))
    if not (_draw_episodes(top, run_dir) | _draw_evaluations(top, run_dir / "evaluations.npz")):
        raise FileNotFoundError(f"{run_dir} holds neither a monitor.csv nor an evaluations.npz")
    top.set_ylabel("episode return")
    for panel, key, colour in zip(panels, shown, _colours(len(shown) + 2)[2:], strict=True):
        panel.plot(*metrics[key], color=colour, linewidth=1.3)
        panel.set_title(key.partition("/")[2].replace("_", " "), loc="left", fontsize=9, color=INK)
        panel.margins(y=0.2)
    for key, (steps, values) in metrics.items():
        if key.endswith("/active") and (values >= 1.0).any():
            start = steps[values >= 1.0][0]
            for axes in (top, *panels):
                axes.axvline(start, color=INK, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
            top.lines[-1].set_label(f"{key.partition('/')[0]} active")
    top.set_xlim(left=0.0)
    _legend(top, columns=3)
    (panels[-1] if panels else top).set_xlabel(xlabel)
    return _save(figure, path or run_dir / "learning_curve.png")


def _draw_episodes(axes: Axes, run_dir: Path) -> bool:
    if not list(run_dir.glob("*monitor.csv")):
        return False
    from stable_baselines3.common.monitor import load_results

    episodes = load_results(str(run_dir))
    if episodes.empty:
        return False
    steps, returns = episodes["l"].cumsum(), episodes["r"]
    window = int(np.clip(len(returns) // 20, 5, 100))
    smooth = returns.rolling(window, min_periods=1).mean()
    axes.plot(steps, returns, ".", color=PALETTE[0], markersize=5.5, alpha=0.3, markeredgewidth=0)
    label = f"{_played_by(run_dir) or 'training'} (mean of {window} episodes)"
    axes.plot(steps, smooth, color=PALETTE[0], linewidth=1.6, label=label)
    return True


def _played_by(run_dir: Path) -> str | None:
    """Who played the episodes, where ``config.json`` says that it was not the agent alone."""
    try:
        config = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config.get("episodes_played_by") if isinstance(config, dict) else None


def _draw_evaluations(axes: Axes, path: Path) -> bool:
    if not path.exists():
        return False
    with np.load(path) as stored:
        steps, results = stored["timesteps"], stored["results"]
    low, high = results.min(axis=1), results.max(axis=1)
    label = f"evaluation (mean and range of {results.shape[1]})"
    axes.fill_between(steps, low, high, color=PALETTE[1], alpha=0.15, linewidth=0)
    axes.plot(
        steps,
        results.mean(axis=1),
        "o-",
        color=PALETTE[1],
        linewidth=2.2,
        markersize=4,
        label=label,
    )
    return True


def _progress(path: Path) -> dict[str, tuple[Floats, Floats]]:
    """SB3's ``progress.csv`` as column -> (timesteps, values), without the empty cells."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for key, cell in row.items():
            try:
                point = float(row["time/total_timesteps"]), float(cell)
            except (KeyError, TypeError, ValueError):
                continue  # an empty cell, or text
            columns.setdefault(key, []).append(point)
    arrays = {key: np.asarray(points).T for key, points in columns.items()}
    return {key: (steps, values) for key, (steps, values) in arrays.items()}


def _on_shared_steps(seeds: Sequence[Curve]) -> tuple[Floats, Floats]:
    """Timesteps within the range that all seeds cover [points], and returns [seeds, points]."""
    arrays = [(np.asarray(x, dtype=float), np.asarray(y, dtype=float)) for x, y in seeds]
    first = max(steps[0] for steps, _ in arrays)
    last = min(steps[-1] for steps, _ in arrays)
    grid = max((steps for steps, _ in arrays), key=len)
    grid = grid[(grid >= first) & (grid <= last)]
    return grid, np.stack([np.interp(grid, steps, returns) for steps, returns in arrays])


def _band(returns: Floats, statistic: Statistic, confidence: float) -> tuple[Floats, Floats]:
    """Percentile bootstrap over seeds at every point; BCa is undefined where seeds agree."""
    from scipy.stats import bootstrap

    interval = bootstrap(
        (returns,),
        statistic,
        vectorized=True,
        axis=0,
        confidence_level=confidence,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return np.asarray(interval.low), np.asarray(interval.high)


def _colours(n: int) -> list[str]:
    return [PALETTE[i % len(PALETTE)] for i in range(n)]


def _figure(title: str, heights: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """A figure with one column of axes that share x, of these heights in inches."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(8.0, sum(heights) + 0.6), dpi=150, layout="constrained")
    grid = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)
    for axes in (column := list(grid[:, 0])):
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(QUIET)
        axes.tick_params(colors=QUIET, labelsize=9)
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.margins(x=0.015)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    return figure, column


def _legend(axes: Axes, columns: int) -> None:
    """Above the axes, where it hides no data."""
    axes.legend(
        frameon=False,
        loc="lower left",
        bbox_to_anchor=(-0.01, 0.99),
        ncols=columns,
        fontsize=9,
        labelcolor=INK,
        columnspacing=1.6,
        handlelength=1.8,
    )


def _save(figure: Figure, path: str | Path) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_figure(path)
    return path
