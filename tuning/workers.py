"""The whole of ``tune``: both stages, by as many processes as asked for, and the results."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import TrialState

from sb3_ext.errors import UsageError
from sb3_ext.running import TrainOptions
from sb3_ext.tuning.finals import Finals, finals, work_on_finals
from sb3_ext.tuning.options import TuneOptions
from sb3_ext.tuning.queue import FAILURE
from sb3_ext.tuning.results import best_options, write_results
from sb3_ext.tuning.study import OpenStudy, Told, create, open_study, quiet_optuna, work

STAGES = ("trials", "choosing", "testing")


@dataclass(frozen=True)
class TuneResult:
    """What came out of a study.

    :param folder: where it lies, with ``best.yaml``, ``trials.csv``, ``report.md`` and ``plots``
    :param study: Optuna's
    :param best: the options of a run with the chosen configuration
    :param finals: the second stage, or None without one
    """

    folder: Path
    study: optuna.Study
    best: TrainOptions
    finals: Finals | None


def tune(
    options: TuneOptions,
    folder: str | Path | None = None,
    *,
    storage: str | None = None,
    workers: int = 1,
    tell: Told = print,
) -> TuneResult:
    """Search hyperparameters, and say what the search was worth.

    A study of this name that is there already goes on. In a script, call this under
    ``if __name__ == "__main__":`` if there are several workers: they import the script.

    :param folder: of the study's files; by default ``studies/NAME``
    :param storage: see ``open_storage``; by default a journal in the folder
    :param workers: processes of this machine; others may join by the same call, with a storage that
        they can reach
    :param tell: gets a line for each trial
    :raises UsageError: for what cannot work, before anything is trained; or if nothing worked
    """
    if workers < 1:
        raise UsageError(f"workers must be at least 1, got {workers}")
    where = Path("studies") / options.study if folder is None else Path(folder)
    quiet_optuna()
    create(options, where, storage)
    return go_on(where, storage=storage, workers=workers, tell=tell)


def go_on(
    folder: Path, *, storage: str | None = None, workers: int = 1, tell: Told = print
) -> TuneResult:
    """Do what is left of a study that was set up before.

    :raises UsageError: if nothing came out of it, or other processes are still at work on it
    """
    opened = open_study(folder, storage)
    options = opened.options
    ends_at = None if options.timeout is None else time.time() + options.timeout
    stages = STAGES if options.top else STAGES[:1]
    for stage in stages:
        opened.queue.sweep()
        _in_parallel(stage, folder, storage, workers, ends_at)
        # Here and not in a process of its own: with one worker all, else what a death has left.
        _work_on(stage, opened, ends_at, tell)
        if stage == "trials":
            _require_finished(opened, ends_at)
    found = finals(opened) if options.top else None
    write_results(opened, found)
    return TuneResult(folder, opened.study, best_options(opened, found), found)


def _in_parallel(
    stage: str, folder: Path, storage: str | None, workers: int, ends_at: float | None
) -> None:
    if workers == 1:
        return
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_worker, args=(stage, folder, storage, ends_at))
        for _ in range(workers)
    ]
    for one in processes:
        one.start()
    try:
        for one in processes:
            one.join()
    except BaseException:  # the terminal told the workers, too: they give up their trials
        for one in processes:
            one.join()
        raise
    if any(one.exitcode == 2 for one in processes):
        raise UsageError("a worker ended; its reason stands above")


def _worker(stage: str, folder: Path, storage: str | None, ends_at: float | None) -> None:
    """A process of its own."""
    quiet_optuna()
    try:
        opened = open_study(folder, storage)
        _work_on(stage, opened, ends_at, lambda line: print(line, flush=True))
    except UsageError as error:
        print(f"sb3-ext: {error}", flush=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _work_on(stage: str, opened: OpenStudy, ends_at: float | None, tell: Told) -> None:
    if stage == "trials":
        opened.queue.sweep()
        work(opened, ends_at=ends_at, tell=tell)
    else:
        work_on_finals(opened, stage, tell=tell)


def _require_finished(opened: OpenStudy, ends_at: float | None) -> None:
    """Nothing is chosen while trials are under way, or where there is nothing to choose from."""
    slots = opened.queue.slots()
    running = [one.number for one in slots if one.state == TrialState.RUNNING]
    if running:
        raise UsageError(
            f"other processes are at work on the trials {', '.join(map(str, running))}: when they "
            f"have ended, go on with sb3-ext tune --resume {opened.folder}"
        )
    if not any(one.state == TrialState.COMPLETE for one in slots):
        states = [one.state.name.lower() for one in slots]
        told = ", ".join(f"{states.count(name)} {name}" for name in dict.fromkeys(states))
        last = next((one.user_attrs[FAILURE] for one in slots if FAILURE in one.user_attrs), None)
        why = f" One failed with: {last}." if last else ""
        late = " The timeout left no time for one." if ends_at and time.time() > ends_at else ""
        raise UsageError(
            f"no trial of the study {opened.options.study!r} was completed ({told}), so there is "
            f"nothing to choose.{why}{late}"
        )
