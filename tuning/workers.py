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
from sb3_ext.tuning.finals import Finals, finals, further_runs, under_way, work_on_finals
from sb3_ext.tuning.interrupts import be_a_worker, interrupt, terminated_as_interrupted
from sb3_ext.tuning.options import TuneOptions
from sb3_ext.tuning.queue import FAILURE
from sb3_ext.tuning.results import best_options, write_results
from sb3_ext.tuning.study import OpenStudy, Told, create, open_study, quiet_optuna, work
from sb3_ext.tuning.words import count, summary

STAGES = ("trials", "choosing", "testing")
_PATIENCE = 1.0
"""Seconds between two looks at what other processes do."""


@dataclass(frozen=True)
class TuneResult:
    """What came out of a study.

    :param folder: where it lies, with ``best.yaml``, ``trials.csv``, ``report.md`` and ``plots``
    :param study: Optuna's
    :param best: the options of a run with the chosen configuration
    :param finals: the second stage, or None without one
    :param summary: what was found and what it is worth, in sentences
    """

    folder: Path
    study: optuna.Study
    best: TrainOptions
    finals: Finals | None
    summary: tuple[str, ...]


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
    ``if __name__ == "__main__":`` if there are several workers: they import the script. In the main
    thread, SIGTERM interrupts it as Ctrl-C does: what runs is given up, and waits for a next call.

    :param folder: of the study's files; by default ``studies/NAME``
    :param storage: see ``open_storage``; by default a journal in the folder
    :param workers: processes of this machine; others may join by the same call, with a storage that
        they can reach
    :param tell: gets a line for each trial
    :raises UsageError: for what cannot work, before anything is trained; or if nothing worked; the
        report is there nevertheless where all of the second stage failed
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

    Where other processes are at work on it, their runs are waited for.

    :raises UsageError: if nothing came out of it
    """
    opened = open_study(folder, storage)
    options = opened.options
    ends_at = None if options.timeout is None else time.time() + options.timeout
    opened.queue.sweep()
    _tell_the_cost(opened, tell)
    with terminated_as_interrupted():
        if workers > 1:
            _in_parallel(folder, storage, workers, ends_at)
        for stage in _stages(options):
            # Here and not in a process of its own: with one worker all, else what a death has left.
            _finish(stage, opened, ends_at, tell)
            if stage == "trials":
                _require_a_score(opened, ends_at)
        found = finals(opened) if options.top else None
        write_results(opened, found)
    best = best_options(opened, found)
    return TuneResult(folder, opened.study, best, found, tuple(summary(opened, found)))


def _stages(options: TuneOptions) -> tuple[str, ...]:
    return STAGES if options.top else STAGES[:1]


def _tell_the_cost(opened: OpenStudy, tell: Told) -> None:
    """What there is to do, unless all of it is done."""
    options, slots = opened.options, opened.queue.slots()
    done = sum(one.state.is_finished() for one in slots)
    if done == len(slots) and (not options.top or finals(opened) is not None):
        return
    further = further_runs(options)
    tell(
        f"{options.study}: {count(len(slots), 'trial')} of {count(options.seeds, 'run')}"
        + (f" and up to {count(further, 'further run')}" if further else "")
        + f", each of {count(options.steps, 'step')}"
        + (f"; {count(done, 'trial')} done before" if done else "")
    )


def _in_parallel(folder: Path, storage: str | None, workers: int, ends_at: float | None) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_worker, args=(folder, storage, ends_at)) for _ in range(workers)
    ]
    try:
        for one in processes:
            one.start()
        for one in processes:
            one.join()
    except BaseException:
        interrupt(processes)
        raise
    if any(one.exitcode == 2 for one in processes):
        raise UsageError("a worker ended; its reason stands above")


def _worker(folder: Path, storage: str | None, ends_at: float | None) -> None:
    """A process of its own."""
    try:
        be_a_worker()
        quiet_optuna()
        opened = open_study(folder, storage)
        for stage in _stages(opened.options):
            _finish(stage, opened, ends_at, _tell_from_worker, told=True)
    except UsageError as error:
        print(f"sb3-ext: {error}", flush=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _tell_from_worker(line: str) -> None:
    print(line, flush=True)


def _finish(
    stage: str, opened: OpenStudy, ends_at: float | None, tell: Told, *, told: bool = False
) -> None:
    """Work on a stage until all of it is done, also by others: the next one is made of its scores.

    :param told: the waiting is nothing to tell
    """
    while True:
        _work_on(stage, opened, ends_at, tell)  # what another's death has left, too
        others = _under_way(stage, opened)
        if not others:
            return
        if not told:
            tell(f"waiting for other processes, which are at work on {', '.join(others)}")
            told = True
        time.sleep(_PATIENCE)


def _work_on(stage: str, opened: OpenStudy, ends_at: float | None, tell: Told) -> None:
    if stage == "trials":
        opened.queue.sweep()
        work(opened, ends_at=ends_at, tell=tell)
    else:
        work_on_finals(opened, stage, tell=tell)


def _under_way(stage: str, opened: OpenStudy) -> list[str]:
    if stage != "trials":
        return under_way(opened, stage)
    slots = opened.queue.slots()
    return [f"trial {one.number}" for one in slots if one.state == TrialState.RUNNING]


def _require_a_score(opened: OpenStudy, ends_at: float | None) -> None:
    """Nothing is chosen where there is nothing to choose from."""
    slots = opened.queue.slots()
    if any(one.state == TrialState.COMPLETE for one in slots):
        return
    states = [one.state.name.lower() for one in slots]
    told = ", ".join(f"{states.count(name)} {name}" for name in dict.fromkeys(states))
    last = next((one.user_attrs[FAILURE] for one in slots if FAILURE in one.user_attrs), None)
    why = f" One failed with: {last}." if last else ""
    late = " The timeout left no time for one." if ends_at and time.time() > ends_at else ""
    raise UsageError(
        f"no trial of the study {opened.options.study!r} was completed ({told}), so there is "
        f"nothing to choose.{why}{late}"
    )
