"""What a study leaves: the chosen configuration, all trials as a table, plots, a report."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from pathlib import Path

import yaml
from optuna.trial import FrozenTrial, TrialState

from sb3_ext.cli.tables import print_table
from sb3_ext.errors import UsageError
from sb3_ext.running import TrainOptions
from sb3_ext.tuning.finals import Finals
from sb3_ext.tuning.pictures import write_plots
from sb3_ext.tuning.queue import FAILURE
from sb3_ext.tuning.report import report
from sb3_ext.tuning.study import OpenStudy, best_trials
from sb3_ext.tuning.trials import DEFAULTS, SCORES, SECONDS
from sb3_ext.tuning.words import summary, table

BEST, TRIALS, REPORT, PLOTS = "best.yaml", "trials.csv", "report.md", "plots"
TRAINING = 300_000
"""Where the seeds begin that a study never uses: an agent to be kept is trained with one."""


def best_options(opened: OpenStudy, found: Finals | None) -> TrainOptions:
    """A run with the chosen configuration: of the second stage, or of the best trial.

    :raises UsageError: if the second stage chose nothing
    """
    if found is None:
        (best,) = best_trials(opened.queue.slots(), 1)
        params = {} if best.user_attrs.get(DEFAULTS) else dict(best.params)
    elif found.chosen is None:
        reasons = "; ".join(f"{one.name}, {one.failures[0]}" for one in found.candidates)
        raise UsageError(
            f"nothing was chosen, since every configuration failed on a choosing seed ({reasons}): "
            f"there is no {BEST}, and {opened.folder / REPORT} has the rest"
        )
    else:
        params = dict(found.chosen.params)
    (seed,) = opened.options.seeds_for(TRAINING, 1)
    run = opened.options.run_options(params, seed=seed)
    return dataclasses.replace(run, checkpoint_every=TrainOptions.checkpoint_every)


def write_results(opened: OpenStudy, found: Finals | None) -> None:
    """Write all of it into the study's folder."""
    folder = opened.folder
    if found is not None and found.chosen is None:
        (folder / BEST).unlink(missing_ok=True)  # an earlier one would look like this one's
    else:
        best = dataclasses.asdict(best_options(opened, found))
        head = "".join(f"# {line}\n" for line in summary(opened, found))
        _write(folder / BEST, head + yaml.safe_dump(best, sort_keys=False))
    _write(folder / TRIALS, _trials(opened))
    drawn = write_plots(opened.study, folder / PLOTS)
    _write(folder / REPORT, report(opened, found, [f"{PLOTS}/{path.name}" for path in drawn]))


def print_results(opened: OpenStudy, found: Finals | None) -> None:
    """The table and the sentences, for a terminal."""
    header, rows = table(opened, found)
    print_table(header, rows, wraps="hyperparameters")
    for line in summary(opened, found):
        print(line)


# -- the parts -------------------------------------------------------------------------------------


def _write(path: Path, text: str) -> None:
    """At one stroke: processes that share the study end together, and write the same."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    draft.write_text(text)
    draft.replace(path)


def _trials(opened: OpenStudy) -> str:
    trials = opened.study.get_trials(deepcopy=False)
    params = list(dict.fromkeys(name for one in trials for name in one.params))
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    told = ("trial", "state", "score", "scores", "pruned_at", "last_report", "seconds", "defaults")
    writer.writerow([*told, *params, "why"])
    for one in trials:
        writer.writerow(
            [
                *(one.number, one.state.name.lower(), *_scored(one)),
                *(one.user_attrs.get(SECONDS), bool(one.user_attrs.get(DEFAULTS))),
                *(one.params.get(name) for name in params),
                one.user_attrs.get(FAILURE),
            ]
        )
    return file.getvalue()


def _scored(trial: FrozenTrial) -> list[object]:
    """The score, the scores of its runs, and where and at what it was pruned.

    Optuna gives a pruned trial its last report as its value: one evaluation, no score.
    """
    scores = trial.user_attrs.get(SCORES)
    if trial.state != TrialState.PRUNED or trial.last_step is None:
        return [trial.value, scores, None, None]
    return [None, scores, trial.last_step, trial.intermediate_values[trial.last_step]]
