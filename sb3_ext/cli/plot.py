"""`sb3-ext plot`: learning curves of runs, seeds aggregated; a picture and a table."""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sb3_ext.cli.curves import Group, find_runs, panels_of, with_curves
from sb3_ext.cli.parsing import add_command
from sb3_ext.cli.tables import print_table
from sb3_ext.errors import UsageError

MORE = """\
Runs of one algorithm on one environment are the seeds of one curve: bold is the interquartile
mean over seeds, around it a 95 % bootstrap band, thin are the single seeds. A run is a folder
that Track or `sb3-ext train` wrote: its config.json names algorithm, environment and seed, and
evaluations.npz (SB3's EvalCallback) holds the returns; without it, the training episodes in
monitor.csv (SB3's Monitor) are drawn. A folder that holds runs stands for all runs below it.

Several environments give one picture each, FILE-hopper-v5.png and so on.

In the table, a final return is the mean of a run's last three evaluations, and the area is the
area under the curve over its length: the mean return along training."""
PICTURES = (".png", ".pdf", ".svg")
HEADER = ("algorithm", "env", "seeds", "steps", "final mean", "final IQM [95 %]", "area")
COLUMNS = (
    *("algorithm", "env", "folder", "seeds", "steps", "final_mean", "final_iqm"),
    *("final_iqm_low", "final_iqm_high", "area"),
)


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "plot",
        "draw learning curves of runs, and print a table",
        examples=(
            "plot runs",
            "plot runs/sac/Hopper-v5_* runs/lfiw_sac/Hopper-v5_* --out hopper.png",
            "plot runs/lr_1e-3 runs/lr_3e-4 --group-by folder --csv rates.csv",
        ),
        more=MORE,
    )
    add = parser.add_argument
    add("runs", type=Path, nargs="+", metavar="RUN_DIR", help="a run, or a folder that holds runs")
    add(
        "--out",
        type=Path,
        default=Path("learning_curves.png"),
        metavar="FILE",
        help="the picture: .png, .pdf or .svg (%(default)s)",
    )
    add("--csv", type=Path, metavar="FILE", help="write the table, too")
    add(
        "--group-by",
        choices=("algorithm", "env", "folder"),
        default="algorithm",
        help="what a curve is: an algorithm, with a picture for each environment; an environment, "
        "with a picture for each algorithm; or the folder that holds the runs, which tells "
        "settings of one algorithm apart (%(default)s)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Draw, write and print."""
    by: str = arguments.group_by
    _require_writable(arguments.out, "--out", picture=True)
    if arguments.csv is not None:
        _require_writable(arguments.csv, "--csv")
    runs = with_curves(find_runs(arguments.runs))
    panels = panels_of(runs, by)
    pictures = _pictures(arguments.out, list(panels))
    rows = [_row(group) for groups in panels.values() for group in groups]
    header = (*(("folder",) if by == "folder" else ()), *HEADER)
    print_table(header, [_cells(row, by) for row in rows], numbers=5)
    print()
    for (name, groups), picture in zip(panels.items(), pictures, strict=True):
        _draw(name, groups, picture)
        print(f"picture: {picture}")
    if arguments.csv is not None:
        _write_csv(arguments.csv, rows)
        print(f"table: {arguments.csv}")
    return 0


def _require_writable(path: Path, option: str, *, picture: bool = False) -> None:
    """Refuse a name before anything is read."""
    if path.is_dir():
        raise UsageError(f"{option} must name a file, but {path} is a folder")
    if picture and path.suffix.lower() not in PICTURES:
        raise UsageError(
            f"{option} must end in {', '.join(PICTURES[:-1])} or {PICTURES[-1]}, got {path}"
        )


def _pictures(out: Path, panels: Sequence[str]) -> list[Path]:
    """One file each; a single picture has the very name that was asked for."""
    if len(panels) == 1:
        return [out]
    endings = [re.sub(r"[^a-z0-9._]+", "-", panel.lower()).strip("-") for panel in panels]
    for i, ending in enumerate(endings):
        if ending in endings[:i]:  # names that differ in signs or case only
            endings[i] = f"{ending}-{i + 1}"
    return [out.with_name(f"{out.stem}-{ending}{out.suffix}") for ending in endings]


def _draw(title: str, groups: Sequence[Group], picture: Path) -> None:
    from sb3_ext.evaluation import interquartile_mean
    from sb3_ext.plots import plot_learning_curves

    windows = {group.runs[0].window for group in groups}
    ylabel = "evaluation return"
    if windows != {0}:  # several environments in one picture may be both
        ylabel = (
            "return" if len(windows) > 1 else f"training return, mean of {max(windows)} episodes"
        )
    try:
        plot_learning_curves(
            {
                group.label: [(group.steps, returns) for returns in group.returns]
                for group in groups
            },
            picture,
            title,
            statistic=interquartile_mean,
            ylabel=ylabel,
        )
    except OSError as error:
        raise UsageError(f"{picture} cannot be written: {error.strerror}") from error


def _row(group: Group) -> dict[str, Any]:
    """One line of the table, by the names of the CSV's columns; the label is not one of them."""
    from sb3_ext.evaluation import bootstrap_interval

    interval = bootstrap_interval(group.final)
    first = group.runs[0]
    folders = {str(one.path.parent) for one in group.runs}
    return {
        "label": group.label,
        "algorithm": first.name,
        "env": first.env,
        "folder": folders.pop() if len(folders) == 1 else "",
        "seeds": len(group.runs),
        "steps": int(group.steps[-1]),
        "final_mean": float(group.final.mean()),
        "final_iqm": interval.estimate,
        "final_iqm_low": interval.low,
        "final_iqm_high": interval.high,
        "area": group.area,
    }


def _cells(row: dict[str, Any], by: str) -> tuple[str, ...]:
    """The line as people read it."""
    iqm = _short(row["final_iqm"])
    if row["seeds"] > 1:
        iqm += f" [{_short(row['final_iqm_low'])}, {_short(row['final_iqm_high'])}]"
    told = (row["algorithm"], row["env"], str(row["seeds"]), f"{row['steps']:,}")
    numbers = (_short(row["final_mean"]), iqm, _short(row["area"]))
    return (*((row["label"],) if by == "folder" else ()), *told, *numbers)


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Full precision; what one seed has no interval of is an empty cell."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for row in rows:
                cells = (row[name] for name in COLUMNS)
                writer.writerow(["" if cell != cell else cell for cell in cells])
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
