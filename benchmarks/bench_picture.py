"""The picture of `make bench`: every ratio with its range and its bar."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

#: How the rows of others begin, and of the second copies that show the noise.
PEERS = ("stock", "SBX", "Subproc", "Dummy", "TD3 of", "again")


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """One bar a row that has a ratio, group by group; the range is a thin line, the bar a tick.

    :param rows: as bench.py makes them
    :param path: the PNG
    """
    shown = [one for one in rows if one["ratio"] is not None]
    if not shown:
        return
    groups = list(dict.fromkeys((one["part"], one["setting"]) for one in shown))
    at, ticks, labels, heads = 0.0, [], [], []
    figure, axes = plt.subplots(figsize=(9, 1 + 0.21 * (len(shown) + 1.6 * len(groups))))
    for group in groups:
        heads.append((at, f"{group[0]}: {group[1]}"))
        at += 1
        for one in [row for row in shown if (row["part"], row["setting"]) == group]:
            ours = not one["variant"].startswith(PEERS)
            axes.barh(at, one["ratio"], color="tab:blue" if ours else "0.75", height=0.75)
            if one["ratio_min"] is not None:
                axes.plot([one["ratio_min"], one["ratio_max"]], [at, at], color="black", lw=0.8)
            if one["bar"] is not None and one["bar"].startswith("ratio"):
                bar = float(one["bar"].split()[-1])
                axes.plot([bar, bar], [at - 0.45, at + 0.45], color="tab:red", lw=2)
            ticks.append(at)
            labels.append(one["variant"])
            at += 1
        at += 0.6
    axes.axvline(1, color="0.4", lw=0.8, ls=":")
    axes.set_yticks(ticks, labels, fontsize=7)
    for where, head in heads:
        axes.text(0, where, f" {head}", fontsize=8, weight="bold", va="center")
    axes.set_ylim(at, -1)
    axes.set_xlabel(
        "peer's time / this one's, above 1 is faster; red: the bar; line: the rounds' range"
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
