"""The second stage: the best trials and the defaults again, on seeds that chose nothing.

A study's best score is the luckiest of many, and so too good. Here its best trials and the default
configuration are run again on fresh seeds, one of them is chosen by these, and then run once more,
beside the defaults, on seeds that nothing was chosen by: only that figure is to be believed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from sb3_ext.catalog import find_algorithm
from sb3_ext.evaluation import Interval, bootstrap_interval, interquartile_mean
from sb3_ext.tuning.callbacks import Report
from sb3_ext.tuning.options import CHOOSING, TESTING, TuneOptions
from sb3_ext.tuning.queue import FAILURE, JobQueue
from sb3_ext.tuning.spaces import hyperparameters, with_defaults
from sb3_ext.tuning.study import OpenStudy, Told, best_trials
from sb3_ext.tuning.trials import DEFAULTS, run_once, why

#: User attributes of the trials of the second stage: of which trial the configuration is (-1: the
#: defaults), the seed, and what the seed is for.
OF, SEED, PURPOSE = "of", "seed", "purpose"
DEFAULT = -1
_PURPOSES = {"choosing": CHOOSING, "testing": TESTING}


@dataclass(frozen=True)
class Candidate:
    """One configuration of the second stage.

    :param of: number of its trial; -1 for the defaults
    :param params: what that trial drew, by the space's names
    :param tuned: its score in the study, which chose it; None if the study did not run it
    :param scores: by purpose, ``"choosing"`` and ``"testing"``: one for each fresh seed, NaN where
        the run failed
    :param failures: a sentence for each run that failed: for what, which seed, and why
    """

    of: int
    params: Mapping[str, Any]
    tuned: float | None
    scores: Mapping[str, Sequence[float]] = field(default_factory=dict)
    failures: Sequence[str] = ()

    @property
    def name(self) -> str:
        """``defaults`` or ``trial 7``."""
        return _name(self.of)

    def estimate(self, purpose: str) -> Interval | None:
        """Interquartile mean over the seeds and its interval; None if a run failed or none was."""
        found = np.asarray(self.scores.get(purpose, ()), dtype=np.float64)
        if not len(found) or not np.isfinite(found).all():
            return None
        return bootstrap_interval(found, interquartile_mean)


@dataclass(frozen=True)
class Finals:
    """The result of the second stage.

    :param candidates: the best trials and the defaults, by their estimate over the choosing seeds;
        the defaults come first among equals
    :param chosen: the first of them; None if each of them failed on a choosing seed
    :param gap: of the chosen one to the defaults over the testing seeds: the difference of their
        interquartile means, its interval by resampling the seeds in pairs. None if the defaults
        were chosen, or a run failed
    """

    candidates: Sequence[Candidate]
    chosen: Candidate | None
    gap: Interval | None

    @property
    def defaults(self) -> Candidate:
        """The candidate that is the default configuration."""
        return next(one for one in self.candidates if one.of == DEFAULT)


def work_on_finals(opened: OpenStudy, purpose: str, *, tell: Told = print) -> None:
    """Do runs of the second stage until none is waiting; other processes may do so, too.

    :param purpose: ``"choosing"``, and when that is done by all, ``"testing"``
    """
    candidates = _wanted(opened, purpose)
    if candidates:
        _run(opened, candidates, purpose, tell=tell)


def under_way(opened: OpenStudy, purpose: str) -> list[str]:
    """The runs of the second stage that a process is at work on, by name."""
    study = _load(opened, purpose)
    if study is None:
        return []
    jobs = _jobs(opened, _wanted(opened, purpose), purpose)
    return [
        f"{_name(one.user_attrs[OF])} (seed {one.user_attrs[SEED]})"
        for one in JobQueue(study, opened.storage, jobs).slots()
        if one.state == TrialState.RUNNING
    ]


def further_runs(options: TuneOptions) -> int:
    """How many runs the second stage has at most."""
    return (options.top + 1 + 2) * options.final_seeds if options.top else 0


def finals(opened: OpenStudy) -> Finals | None:
    """What the second stage has found, if it is finished."""
    ranked = _ranked(_with_scores(opened, _candidates(opened)))
    if not ranked or any("choosing" not in one.scores for one in ranked):
        return None
    chosen = _chosen(ranked)
    found = Finals(ranked, chosen, None)
    if chosen is None:
        return found
    if any("testing" not in one.scores for one in (chosen, found.defaults)):
        return None
    return Finals(ranked, chosen, gain(chosen, found.defaults))


def runs_of_finals(opened: OpenStudy) -> list[FrozenTrial]:
    """Every run of the second stage that ended, those for nothing, too."""
    studies = [_load(opened, purpose) for purpose in _PURPOSES]
    return [
        one
        for study in studies
        if study is not None
        for one in study.get_trials(deepcopy=False)
        if one.state.is_finished()
    ]


# -- the parts -------------------------------------------------------------------------------------


def _candidates(opened: OpenStudy) -> list[Candidate]:
    """The best trials that are not the defaults, and these; no configuration twice."""
    slots = opened.queue.slots()
    tried = [one for one in slots if not one.user_attrs.get(DEFAULTS)]
    known = [_arguments(opened, {})]
    found: list[Candidate] = []
    for one in best_trials(tried, len(tried)):
        arguments = _arguments(opened, one.params)
        if arguments not in known and len(found) < opened.options.top:
            known.append(arguments)
            found.append(Candidate(one.number, one.params, one.value))
    if not found:
        return []
    default = next((one for one in slots if one.user_attrs.get(DEFAULTS)), None)
    return [*found, Candidate(DEFAULT, {}, default.value if default else None)]


def _arguments(opened: OpenStudy, params: Mapping[str, Any]) -> dict[str, Any]:
    """What the constructor gets and would not have taken anyway."""
    _, cls = find_algorithm(opened.options.algorithm)
    fixed = opened.options.hyperparameters
    _, own = with_defaults(cls, fixed, opened.atoms)
    drawn = {name: value for name, value in params.items() if name not in own or value != own[name]}
    return hyperparameters(fixed, drawn)


def _name(of: int) -> str:
    return "defaults" if of == DEFAULT else f"trial {of}"


def _wanted(opened: OpenStudy, purpose: str) -> list[Candidate]:
    """Who is run for this purpose."""
    candidates = _with_scores(opened, _candidates(opened))
    if purpose == "choosing":
        return candidates
    chosen = _chosen(_ranked(candidates))
    return [one for one in candidates if chosen is not None and one.of in (chosen.of, DEFAULT)]


def _study_name(opened: OpenStudy, purpose: str) -> str:
    return f"{opened.options.study}.{purpose}"


def _load(opened: OpenStudy, purpose: str) -> optuna.Study | None:
    name = _study_name(opened, purpose)
    if name not in optuna.get_all_study_names(opened.storage):
        return None
    return optuna.load_study(study_name=name, storage=opened.storage)


def _jobs(opened: OpenStudy, candidates: Sequence[Candidate], purpose: str) -> list[dict[str, Any]]:
    seeds = opened.options.seeds_for(_PURPOSES[purpose], opened.options.final_seeds)
    return [{OF: one.of, SEED: seed, PURPOSE: purpose} for one in candidates for seed in seeds]


def _run(opened: OpenStudy, candidates: Sequence[Candidate], purpose: str, *, tell: Told) -> None:
    """Work off one part of the second stage: a study whose trials are single runs."""
    study = optuna.create_study(
        study_name=_study_name(opened, purpose),
        storage=opened.storage,
        direction="maximize",
        load_if_exists=True,
    )
    queue = JobQueue(study, opened.storage, _jobs(opened, candidates, purpose))
    queue.sweep()
    drawn = {one.of: one.params for one in candidates}
    while (trial := queue.claim()) is not None:
        job = trial.user_attrs
        try:
            with queue.kept_alive(trial):
                state, value = _run_job(trial, opened.options, drawn[job[OF]], opened.folder)
        except BaseException:
            queue.give_up(trial)
            raise
        if queue.finish(trial, state, value):
            told = f"failed: {trial.user_attrs[FAILURE]}" if value is None else f"{value:.1f}"
            tell(f"{purpose}: {_name(job[OF])}, seed {job[SEED]}: {told}")


def _run_job(
    trial: Trial, options: TuneOptions, drawn: Mapping[str, Any], folder: Path
) -> tuple[TrialState, float | None]:
    job = trial.user_attrs
    name = "defaults" if job[OF] == DEFAULT else f"{job[OF]:04d}"
    where = folder / job[PURPOSE] / name / f"seed_{job[SEED]}"
    if where.exists():  # of a process that died, whose job this is again
        where = where.with_name(f"{where.name}_again_{trial.number}")
    limit = None if options.trial_timeout is None else time.monotonic() + options.trial_timeout
    report = Report(optuna.trial.FixedTrial({}))
    tags = {"stage": job[PURPOSE], "trial": job[OF]}
    try:
        run_once(options, drawn, job[SEED], where, report, limit=limit, tags=tags, keep_model=True)
        return TrialState.COMPLETE, report.score()
    except Exception as error:  # as in a trial
        trial.set_user_attr(FAILURE, why(error))
        return TrialState.FAIL, None


def _with_scores(opened: OpenStudy, candidates: Sequence[Candidate]) -> list[Candidate]:
    scores: dict[int, dict[str, list[float]]] = {one.of: {} for one in candidates}
    failures: dict[int, list[str]] = {one.of: [] for one in candidates}
    for purpose in _PURPOSES:
        study = _load(opened, purpose)
        if study is None:
            continue
        for one in candidates:
            jobs = _jobs(opened, [one], purpose)
            slots = JobQueue(study, opened.storage, jobs).slots()
            done = {run.user_attrs[SEED]: run for run in slots if run.state.is_finished()}
            if len(done) < len(jobs):
                continue
            runs = [done[job[SEED]] for job in jobs]
            scores[one.of][purpose] = [
                np.nan if run.value is None else float(run.value) for run in runs
            ]
            failures[one.of] += [
                f"{purpose}, seed {run.user_attrs[SEED]}: {run.user_attrs.get(FAILURE)}"
                for run in runs
                if run.value is None
            ]
    return [
        Candidate(one.of, one.params, one.tuned, scores[one.of], failures[one.of])
        for one in candidates
    ]


def _ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Best first, the defaults before their equals; who failed on a seed comes last."""

    def key(one: Candidate) -> tuple[float, bool]:
        found = one.estimate("choosing")
        return float("inf") if found is None else -found.estimate, one.of != DEFAULT

    return sorted(candidates, key=key)


def _chosen(ranked: Sequence[Candidate]) -> Candidate | None:
    """The first, if there is anything that it could be chosen by."""
    first = next(iter(ranked), None)
    return None if first is None or first.estimate("choosing") is None else first


def gain(chosen: Candidate, defaults: Candidate) -> Interval | None:
    """The difference of the two figures that the table shows, the seeds resampled in pairs."""
    both = np.asarray([chosen.scores["testing"], defaults.scores["testing"]])
    if chosen.of == DEFAULT or not np.isfinite(both).all():
        return None

    def difference(seeds: Any, axis: int) -> Any:
        mine, theirs = both[:, np.asarray(seeds, dtype=np.intp)]
        return interquartile_mean(mine, axis=axis) - interquartile_mean(theirs, axis=axis)

    return bootstrap_interval(np.arange(both.shape[1]), difference)
