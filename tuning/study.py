"""A study from its options: made or found again, and worked on."""

from __future__ import annotations

import contextlib
import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from sb3_ext.catalog import find_algorithm
from sb3_ext.errors import UsageError
from sb3_ext.running.making import require_env
from sb3_ext.tuning.checks import require_makeable, require_room
from sb3_ext.tuning.options import STUDY, TuneOptions, read_study, write_study
from sb3_ext.tuning.queue import FAILURE, TrialQueue
from sb3_ext.tuning.storage import at_home, is_there, masked, open_storage
from sb3_ext.tuning.trials import DEFAULTS, run_trial

IDENTITY = "sb3_ext"
"""User attribute of a study: what all of its trials share."""

JOURNAL = "study.log"
"""The study itself, in its folder, unless it is stored elsewhere."""

Told = Callable[[str], None]


@dataclass(frozen=True)
class OpenStudy:
    """A study and what is needed to work on it."""

    options: TuneOptions
    folder: Path
    storage: BaseStorage
    study: Study
    atoms: dict[str, Any]
    defaults: dict[str, Any]
    queue: TrialQueue


def create(options: TuneOptions, folder: Path, storage: str | None = None) -> TuneOptions:
    """Set a study up in a new folder, or check that the folder's is the same.

    :param storage: see ``open_storage``; None for a journal in the folder
    :return: the options, with canonical names
    :raises UsageError: for what cannot work, before anything is trained
    """
    options = options.resolved()
    require_env(options.run_options({}, seed=options.seed))
    kept = None if storage is None else at_home(storage)
    _require_own_folder(folder, options, kept)
    where = kept or str(folder / JOURNAL)
    identity = _identity(options)
    before = _identity_in(where, options)
    if before is None:
        require_makeable(options)
    else:
        _require_same(before, identity, options.study)
    folder.mkdir(parents=True, exist_ok=True)
    write_study(folder, options, None if kept is None else masked(kept))
    opened = _open(options, folder, where)
    name_identity(opened.study, options)
    opened.queue.sweep()
    return options


def name_identity(study: Study, options: TuneOptions) -> None:
    """Write into a study what it is about, so that no other begins under its name."""
    study.set_user_attr(IDENTITY, _identity(options))


def _identity(options: TuneOptions) -> dict[str, Any]:
    _, cls = find_algorithm(options.algorithm)
    plain: dict[str, Any] = _plain(options.identity(cls))
    return plain


def work(opened: OpenStudy, *, ends_at: float | None = None, tell: Told = print) -> None:
    """Do trials of a study until none is waiting; other processes may do so, too.

    :param ends_at: when no further trial is begun, by ``time.time``
    :param tell: gets a line for each trial
    :raises UsageError: if the first trials all failed
    """
    while ends_at is None or time.time() < ends_at:
        trial = opened.queue.claim()
        if trial is None:
            return
        began = time.monotonic()
        try:
            with opened.queue.kept_alive(trial):
                state, value = run_trial(
                    trial, opened.options, opened.atoms, opened.folder, opened.defaults
                )
        except BaseException:
            opened.queue.give_up(trial)
            raise
        if not opened.queue.finish(trial, state, value):
            tell(f"trial {trial.number} was given to another process meanwhile; dropped")
            continue
        tell(_line(opened.study.get_trials(deepcopy=False)[trial.number], time.monotonic() - began))
        _require_some_success(opened)


def open_study(folder: Path, storage: str | None = None) -> OpenStudy:
    """A study that was set up before.

    :raises UsageError: if there is none, or its storage cannot be reached
    """
    options, kept = read_study(folder)
    stored = storage or kept
    where = str(folder / JOURNAL) if stored is None else at_home(stored)
    if "***" in where:
        raise UsageError(
            f"the password of {where} is not written down: give --storage again to go on"
        )
    if not is_there(where):
        raise UsageError(f"the study's storage {where} is not there: was it moved or removed?")
    return _open(options, folder, where, there=True)


# -- the parts -------------------------------------------------------------------------------------


def quiet_optuna() -> None:
    """Optuna's own line for each trial is less than ours, and its news of experiments is noise."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def _open(options: TuneOptions, folder: Path, where: str, *, there: bool = False) -> OpenStudy:
    storage = open_storage(where)
    _, cls = find_algorithm(options.algorithm)
    atoms, defaults = options.search_space(cls)
    named: Any = {"study_name": options.study, "storage": storage}
    if not there:
        # Another process may be faster.
        with contextlib.suppress(DuplicatedStudyError):
            optuna.create_study(direction="maximize", load_if_exists=True, **named)
    try:
        study = optuna.load_study(pruner=make_pruner(options), **named)
    except KeyError as error:
        raise UsageError(f"the study {options.study!r} is not in {masked(where)}") from error
    queue = TrialQueue(
        study,
        storage,
        options.trials,
        sampler=lambda number: make_sampler(options, number),
        first=[defaults] if options.enqueue else [],
        attributes=[{DEFAULTS: True}] if options.enqueue else [],
    )
    return OpenStudy(options, folder, storage, study, atoms, defaults, queue)


def make_sampler(options: TuneOptions, number: int) -> optuna.samplers.BaseSampler:
    """A sampler for one trial, with randomness of its own."""
    seed = int(np.random.SeedSequence([options.seed, number]).generate_state(1)[0])
    if options.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed)


def make_pruner(options: TuneOptions) -> optuna.pruners.BasePruner:
    """The pruner; the first third of a trial's steps is never pruned."""
    total = options.steps * options.seeds
    if options.pruner == "none":
        return optuna.pruners.NopPruner()
    if options.pruner == "halving":
        first = max(1, options.steps // 4)
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=2)
    return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=total // 3)


def _require_own_folder(folder: Path, options: TuneOptions, storage: str | None) -> None:
    """Refuse a folder that is another study's: its files would be overwritten.

    :raises UsageError: with whose it is
    """
    if not (folder / STUDY).is_file():
        return
    there, kept = read_study(folder)
    if there.study != options.study:
        raise UsageError(
            f"{folder} is of the study {there.study!r}, not of {options.study!r}: give another "
            "--dir, or leave it out"
        )
    if kept != (None if storage is None else masked(storage)):
        found = kept or f"{folder / JOURNAL}"
        raise UsageError(
            f"the study in {folder} is stored in {found}: leave --storage as it was, or give "
            "another --dir"
        )


def _identity_in(where: str, options: TuneOptions) -> dict[str, Any] | None:
    """What a study of this name is about, if it is there."""
    name = options.study
    if not is_there(where):
        return None
    storage = open_storage(where)
    with contextlib.suppress(KeyError):
        found = optuna.load_study(study_name=name, storage=storage)
        known = found.user_attrs.get(IDENTITY)
        require_room(found, options)
        if known is None and found.get_trials(deepcopy=False):
            raise UsageError(
                f"the study {name!r} in {masked(where)} was not made by sb3-ext tune: choose "
                "another name"
            )
        return known
    return None


def _require_same(before: dict[str, Any], now: dict[str, Any], name: str) -> None:
    differing = [key for key in now if before.get(key) != now[key]]
    if differing:
        key = differing[0]
        raise UsageError(
            f"the study {name!r} has {key} {json.dumps(before.get(key))}, and this asks for "
            f"{json.dumps(now[key])}: their trials cannot be compared. Choose another name for "
            "--study, or go on with --resume"
        )


def _require_some_success(opened: OpenStudy, first: int = 3) -> None:
    """A study of which nothing works is stopped before it has spent its budget.

    The defaults may work where nothing else does.
    """
    slots = opened.queue.slots()
    done = [one for one in slots if one.state.is_finished() and not one.user_attrs.get(DEFAULTS)]
    if len(done) >= first and all(one.state == TrialState.FAIL for one in done):
        raise UsageError(
            f"the first {len(done)} trials beside the defaults all failed; the last one: "
            f"{done[-1].user_attrs.get(FAILURE, 'no reason known')}"
        )


def _line(trial: FrozenTrial, seconds: float) -> str:
    params = ", ".join(f"{name}={_short(value)}" for name, value in trial.params.items())
    if trial.user_attrs.get(DEFAULTS):
        params = "the defaults"
    told = {
        TrialState.COMPLETE: f"{trial.value:.1f}" if trial.value is not None else "",
        TrialState.PRUNED: "pruned",
        TrialState.FAIL: f"failed: {trial.user_attrs.get(FAILURE, '')}",
    }[trial.state]
    return f"trial {trial.number}: {told} ({seconds:.0f} s; {params})"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _plain(values: Any) -> Any:
    """As it comes back from a storage."""
    return json.loads(json.dumps(values))


def best_trials(trials: Sequence[FrozenTrial], number: int) -> list[FrozenTrial]:
    """The complete trials with the highest scores, best first."""
    complete = [one for one in trials if one.state == TrialState.COMPLETE and one.value is not None]
    return sorted(complete, key=lambda one: -float(one.value or 0.0))[:number]
