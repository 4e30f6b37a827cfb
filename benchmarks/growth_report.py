"""From the times of benchmarks/growth.py to plain rows, and from these to tables and a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from throughput import SEED

from sb3_ext.plots import GRID, INK, PALETTE, QUIET

Row = dict[str, Any]
Line = tuple[str, str]  # what is timed, and of whom

WHAT = {
    "update": "an update",
    "store": "storing a step of one environment",
    "draw": "a batch of 256 that is drawn after an update",
}
#: Sweep and what is timed, in the order of the panels.
PANELS = {
    ("batch", "update"): "Batch size",
    ("width", "update"): "Width of both hidden layers",
    ("members", "update"): "Members of STEVE's ensembles, H=3",
    ("envs", "update"): "Environments: an update",
    ("envs", "store"): "Environments: storing one's step",
    ("envs", "draw"): "Environments: a draw",
    ("buffer", "update"): "Transitions in the buffer: an update",
    ("buffer", "draw"): "Transitions in the buffer: a draw",
}
LOGARITHMIC = (("batch", "update"), ("width", "update"), ("envs", "store"))  # in time, too
COLOURS = {
    "stock SAC": QUIET,
    "SB3's uniform": QUIET,
    "SAC": PALETTE[0],
    "LFIWSAC": PALETTE[1],
    "LFIW's fast rows": PALETTE[1],
    "SAC, PER": PALETTE[2],
    "PER": PALETTE[2],
    "PER, mass in 10,000": PALETTE[5],
    "SAC, ERE": PALETTE[3],
    "ERE": PALETTE[3],
    "STEVE, n x n": PALETTE[0],
    "STEVE, n x 1": PALETTE[4],
}


def exponent(x: Sequence[float], y: Any) -> Any:
    """The k of ``y ~ x^k``: the slope of the least-squares line through the logarithms.

    :param x: ``[n]``, > 0 and not all alike
    :param y: ``[..., n]``, in any unit
    :return: ``[...]``; NaN where a ``y`` is not positive
    """
    positive = np.where(np.asarray(y) > 0, y, np.nan)
    return slope(np.log(x), np.log(positive))


def slope(x: Any, y: Any) -> Any:
    """Of the least-squares line: ``x`` is ``[n]``, ``y`` ``[..., n]``, the answer ``[...]``."""
    apart = np.asarray(x, dtype=float) - np.mean(x)
    return (np.asarray(y) * apart).sum(axis=-1) / (apart**2).sum()


def upper_half(x: Sequence[float]) -> int:
    """Where the upper half of a range begins on its log scale; it keeps two points or more."""
    middle = np.sqrt(min(x) * max(x))
    return min(int(np.searchsorted(np.asarray(x), middle * (1 - 1e-9))), len(x) - 2)


def line(
    sweep: str, named: Line, unit: str, x: Sequence[int], times: np.ndarray, draws: int = 500
) -> Row:
    """One line of a table, and of a panel, as plain values.

    :param named: what is timed, and of whom
    :param unit: of the times
    :param x: ``[points]``
    :param times: ``[rounds, points]``
    :param draws: bootstrap samples of whole rounds, so that what disturbed a round stays together
    """
    start, (what, variant) = upper_half(x), named
    chosen = np.random.default_rng(SEED).integers(len(times), size=(draws, len(times)))
    low, middle, high = np.quantile(times, (0.25, 0.5, 0.75), axis=0)
    row: Row = {"sweep": sweep, "what": what, "variant": variant, "unit": unit, "x": list(x)}
    row |= {"median": middle.tolist(), "low": low.tolist(), "high": high.tolist()}
    row |= {"fit_from": x[start], "rounds": len(times)}
    fits = {
        "exponent": exponent(x[start:], times[:, start:]),
        "per_doubling": slope(np.log2(x), times),
    }
    for name, of_rounds in fits.items():
        told = np.full(3, np.nan)
        if np.isfinite(of_rounds).all():
            bounds = np.quantile(np.median(of_rounds[chosen], axis=1), (0.025, 0.975))
            told = np.array([np.median(of_rounds), *bounds])
        for key, value in zip(("", "_low", "_high"), told.tolist(), strict=True):
            row[name + key] = value if np.isfinite(value) else None
    return row


def spread(row: Row, name: str, digits: int) -> str:
    """A fit with the middle 95 % of its bootstrap samples."""
    if any(row[name + end] is None for end in ("", "_low", "_high")):
        return "none"
    ends = ", ".join(f"{row[name + end]:.{digits}f}" for end in ("_low", "_high"))
    return f"**{row[name]:.{digits}f}** [{ends}]"


def tables(rows: Sequence[Row]) -> Iterator[str]:
    """Markdown: a table for each sweep and each thing that was timed."""
    for what in dict.fromkeys((row["sweep"], row["what"]) for row in rows):
        chosen = [row for row in rows if (row["sweep"], row["what"]) == what]
        unit, xs, doubling = chosen[0]["unit"], chosen[0]["x"], what[0] == "buffer"
        heads = [f"CPU {unit}: {WHAT[what[1]]}", *(f"{x:,}" for x in xs)]
        heads += [f"exponent from {chosen[0]['fit_from']:,}"]
        heads += [f"{unit} a doubling"] if doubling else []
        yield f"\n{what[0]}, median of {chosen[0]['rounds']} rounds\n"
        yield f"| {' | '.join(heads)} |"
        yield f"| --- | {'--: | ' * (len(heads) - 1)}".rstrip()
        for row in chosen:
            cells = [row["variant"], *(figure(value) for value in row["median"])]
            cells += [spread(row, "exponent", 2)]
            cells += [spread(row, "per_doubling", 3 if unit == "ms" else 1)] if doubling else []
            yield f"| {' | '.join(cells)} |"


def figure(value: float) -> str:
    """Three digits that count, as few as may be."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def picture(rows: Sequence[Row], path: Path) -> Path:
    """A panel for each sweep and each thing that was timed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    drawn = [of for of in PANELS if any((row["sweep"], row["what"]) == of for row in rows)]
    columns = min(4, len(drawn))
    lines = -(-len(drawn) // columns)
    size = (3.4 * columns, 3.1 * lines + 0.6)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).flatten()
    for axes, of in zip(grid, drawn, strict=False):
        panel(axes, [row for row in rows if (row["sweep"], row["what"]) == of])
        axes.set_title(PANELS[of], loc="left", fontsize=10, color=INK)
    for axes in grid[len(drawn) :]:
        axes.axis("off")
    figure.suptitle("How CPU time grows, one thread", x=0.01, ha="left", fontsize=13, color=INK)
    told = (
        "Medians over interleaved rounds, and the middle half of the rounds. k: time ~ x^k, fitted "
        "to the upper half of the range."
    )
    figure.supxlabel(told, x=0.01, ha="left", fontsize=9, color=QUIET)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    # A palette is a third of the bytes, and nothing that is seen is lost.
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    image.quantize(128).save(path, optimize=True)
    return path


def panel(axes: Any, rows: Sequence[Row]) -> None:
    """One line a row, with its exponent in the legend."""
    of = rows[0]["sweep"], rows[0]["what"]
    for row in rows:
        if "beyond" in row["variant"]:
            continue  # differences are in the tables
        k = "" if row["exponent"] is None else f", k={row['exponent']:.2f}"
        colour = COLOURS[row["variant"]]
        axes.fill_between(row["x"], row["low"], row["high"], color=colour, alpha=0.2, linewidth=0)
        axes.plot(
            row["x"], row["median"], "o-", color=colour, markersize=3.5, label=row["variant"] + k
        )
    xs, top = rows[0]["x"], max(max(row["high"]) for row in rows)
    if of[0] != "members":
        axes.set_xscale("log")
    if of not in LOGARITHMIC:
        axes.set_ylim(0, 1.7 * top)
    else:
        axes.set_yscale("log")
        bottom = min(min(row["low"]) for row in rows)
        axes.set_ylim(bottom / 1.3, top * (top / bottom) ** 0.5 * 1.3)
    axes.set_xticks(xs, [short(x) for x in xs], fontsize=8)
    axes.minorticks_off()
    axes.set_ylabel(f"CPU {rows[0]['unit']}", fontsize=9, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.tick_params(colors=QUIET, labelsize=8)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=7.5, loc="upper left", labelcolor=INK)


def short(x: int) -> str:
    """A tick's label: 30,000 is 30k."""
    if x >= 1_000_000:
        return f"{x // 1_000_000}M"
    return f"{x // 1000}k" if x >= 10_000 else str(x)
