"""What a study leaves: the chosen configuration, all trials as a table, plots, a report."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import yaml

from sb3_ext.cli.tables import print_table
from sb3_ext.running import TrainOptions
from sb3_ext.tuning.finals import DEFAULT, Candidate, Finals
from sb3_ext.tuning.queue import FAILURE
from sb3_ext.tuning.study import OpenStudy, best_trials
from sb3_ext.tuning.trials import DEFAULTS, SCORES, SECONDS

BEST, TRIALS, REPORT, PLOTS = "best.yaml", "trials.csv", "report.md", "plots"
#: Name of a picture -> Optuna's function for it.
PICTURES = {
    "history": "plot_optimization_history",
    "importance": "plot_param_importances",
    "slice": "plot_slice",
    "parallel": "plot_parallel_coordinate",
    "intermediate": "plot_intermediate_values",
}


def best_options(opened: OpenStudy, found: Finals | None) -> TrainOptions:
    """A run with the chosen configuration: of the second stage, or of the best trial."""
    if found is not None:
        params = dict(found.chosen.params)
    else:
        (best,) = best_trials(opened.queue.slots(), 1)
        params = {} if best.user_attrs.get(DEFAULTS) else dict(best.params)
    run = opened.options.run_options(params, seed=opened.options.seed)
    return dataclasses.replace(run, checkpoint_every=TrainOptions.checkpoint_every)


def write_results(opened: OpenStudy, found: Finals | None) -> None:
    """Write all of it into the study's folder."""
    best = dataclasses.asdict(best_options(opened, found))
    head = "".join(f"# {line}\n" for line in summary(opened, found))
    (opened.folder / BEST).write_text(head + yaml.safe_dump(best, sort_keys=False))
    _write_trials(opened)
    lines = [f"# {opened.options.study}", "", *summary(opened, found), ""]
    header, rows = table(opened, found)
    lines += ["| " + " | ".join(header) + " |", "| " + " | ".join("---" for _ in header) + " |"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    drawn = write_plots(opened.study, opened.folder / PLOTS)
    lines += ["", *(f"![{path.stem}]({PLOTS}/{path.name})" for path in drawn)]
    (opened.folder / REPORT).write_text("\n".join(lines) + "\n")


def summary(opened: OpenStudy, found: Finals | None) -> list[str]:
    """Sentences: how many trials, what was chosen, and what it is worth."""
    options = opened.options
    counts = Counter(one.state.name.lower() for one in opened.queue.slots())
    told = ", ".join(f"{number} {state}" for state, number in counts.items())
    lines = [f"{options.algorithm} on {options.env}, {options.steps:,} steps a run: {told}."]
    if found is None:
        (best,) = best_trials(opened.queue.slots(), 1)
        lines.append(
            f"Best: {_name(best)} with {best.value:.4g} over {options.seeds} tuning seed(s), the "
            "luckiest of all and so too good: no second stage was run."
        )
        return lines
    chosen = found.chosen
    tested = chosen.estimate("testing")
    lines.append(
        f"Chosen: {chosen.name}. On {options.final_seeds} seeds that chose nothing it has "
        f"{tested if tested is not None else 'failed'} (interquartile mean and its 95 % interval); "
        f"in the study it had {_number(chosen.tuned)}."
    )
    defaults = next(one for one in found.candidates if one.of == DEFAULT)
    if chosen.of == DEFAULT:
        lines.append("No trial was better than the defaults on fresh seeds.")
    elif found.gap is not None:
        lines.append(
            f"The defaults have {defaults.estimate('testing')} on the same seeds; the mean gain by "
            f"seed is {found.gap}."
        )
    return lines


def table(opened: OpenStudy, found: Finals | None) -> tuple[list[str], list[list[str]]]:
    """The configurations of the second stage, or the best trials without one."""
    seeds = opened.options.final_seeds
    if found is None:
        header = ["configuration", "score", "hyperparameters"]
        best = best_trials(opened.queue.slots(), 5)
        return header, [[_name(one), _number(one.value), _params(one.params)] for one in best]
    header = [
        *("configuration", "in the study", f"{seeds} seeds to choose", f"{seeds} seeds to test"),
        "hyperparameters",
    ]
    return header, [_row(one) for one in found.candidates]


def print_results(opened: OpenStudy, found: Finals | None) -> None:
    """The table and the sentences, for a terminal."""
    header, rows = table(opened, found)
    print_table(header, rows, wraps="hyperparameters")
    for line in summary(opened, found):
        print(line)


def write_plots(study: optuna.Study, folder: Path) -> list[Path]:
    """Optuna's pictures as PNG, and as HTML where plotly is installed.

    :return: the PNGs; what cannot be drawn of these trials is left out
    """
    import matplotlib.pyplot as plt

    folder.mkdir(exist_ok=True)
    drawn = []
    for name, function in PICTURES.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                axes = getattr(optuna.visualization.matplotlib, function)(study)
                figure: Any = plt.gcf() if hasattr(axes, "flat") else axes.figure
                figure.savefig(folder / f"{name}.png", dpi=120, bbox_inches="tight")
                drawn.append(folder / f"{name}.png")
            except (ValueError, RuntimeError, ImportError):  # too few trials, one parameter only
                continue
            finally:
                plt.close("all")
            if importlib.util.find_spec("plotly") is not None:
                picture = getattr(optuna.visualization, function)(study)
                picture.write_html(folder / f"{name}.html")
    return drawn


# -- the parts -------------------------------------------------------------------------------------


def _write_trials(opened: OpenStudy) -> None:
    trials = opened.study.get_trials(deepcopy=False)
    params = list(dict.fromkeys(name for one in trials for name in one.params))
    with (opened.folder / TRIALS).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["trial", "state", "score", "scores", "seconds", "defaults", *params, "why"]
        )
        for one in trials:
            told = one.user_attrs
            writer.writerow(
                [
                    *(one.number, one.state.name.lower(), one.value, told.get(SCORES)),
                    *(told.get(SECONDS), bool(told.get(DEFAULTS))),
                    *(one.params.get(name) for name in params),
                    told.get(FAILURE),
                ]
            )


def _row(one: Candidate) -> list[str]:
    def told(purpose: str) -> str:
        found = one.estimate(purpose)
        return ("failed" if purpose in one.scores else "") if found is None else str(found)

    return [one.name, _number(one.tuned), told("choosing"), told("testing"), _params(one.params)]


def _name(trial: optuna.trial.FrozenTrial) -> str:
    return "defaults" if trial.user_attrs.get(DEFAULTS) else f"trial {trial.number}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _params(params: Any) -> str:
    return ", ".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in params.items()
    )
