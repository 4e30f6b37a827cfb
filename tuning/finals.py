"""The second stage: the best trials and the defaults again, on seeds that chose nothing.

A study's best score is the luckiest of many, and so too good. Here its best trials and the default
configuration are run again on fresh seeds, one of them is chosen by these, and then run once more,
beside the defaults, on seeds that nothing was chosen by: only that figure is to be believed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import Trial, TrialState

from sb3_ext.evaluation import Interval, bootstrap_interval, interquartile_mean, paired_difference
from sb3_ext.tuning.callbacks import Report
from sb3_ext.tuning.options import CHOOSING, TESTING, TuneOptions
from sb3_ext.tuning.queue import FAILURE, JobQueue
from sb3_ext.tuning.study import OpenStudy, Told, best_trials
from sb3_ext.tuning.trials import DEFAULTS, run_once

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
    """

    of: int
    params: Mapping[str, Any]
    tuned: float | None
    scores: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """``defaults`` or ``trial 7``."""
        return "defaults" if self.of == DEFAULT else f"trial {self.of}"

    def estimate(self, purpose: str) -> Interval | None:
        """Interquartile mean over the seeds and its interval; None if a run failed or none was."""
        found = np.asarray(self.scores.get(purpose, ()), dtype=np.float64)
        if not len(found) or not np.isfinite(found).all():
            return None
        return bootstrap_interval(found, interquartile_mean)


@dataclass(frozen=True)
class Finals:
    """The result of the second stage.

    :param candidates: the best trials and the defaults, by their estimate over the choosing seeds
    :param chosen: the first of them
    :param gap: of the chosen one to the defaults over the testing seeds, paired by seed; None if
        the defaults were chosen, or a run failed
    """

    candidates: Sequence[Candidate]
    chosen: Candidate
    gap: Interval | None


def work_on_finals(opened: OpenStudy, purpose: str, *, tell: Told = print) -> None:
    """Do runs of the second stage until none is waiting; other processes may do so, too.

    :param purpose: ``"choosing"``, and when that is done by all, ``"testing"``
    """
    candidates = _with_scores(opened, _candidates(opened))
    if purpose == "testing" and candidates:
        ranked = _ranked(candidates)
        candidates = [one for one in candidates if one.of in (ranked[0].of, DEFAULT)]
    if candidates:
        _run(opened, candidates, purpose, tell=tell)


def finals(opened: OpenStudy) -> Finals | None:
    """What the second stage has found, if it is finished."""
    ranked = _ranked(_with_scores(opened, _candidates(opened)))
    if not ranked or "testing" not in ranked[0].scores:
        return None
    defaults = next(one for one in ranked if one.of == DEFAULT)
    gap = None
    if ranked[0].of != DEFAULT and "testing" in defaults.scores:
        both = np.asarray([ranked[0].scores["testing"], defaults.scores["testing"]])
        gap = paired_difference(*both) if np.isfinite(both).all() else None
    return Finals(ranked, ranked[0], gap)


# -- the parts -------------------------------------------------------------------------------------


def _candidates(opened: OpenStudy) -> list[Candidate]:
    """The best trials that are not the defaults, and these."""
    slots = opened.queue.slots()
    tried = [one for one in slots if not one.user_attrs.get(DEFAULTS)]
    best = best_trials(tried, opened.options.top)
    if not best:
        return []
    default = next((one for one in slots if one.user_attrs.get(DEFAULTS)), None)
    found = [Candidate(one.number, one.params, one.value) for one in best]
    return [*found, Candidate(DEFAULT, {}, default.value if default else None)]


def _study_name(opened: OpenStudy, purpose: str) -> str:
    return f"{opened.options.study}.{purpose}"


def _run(opened: OpenStudy, candidates: Sequence[Candidate], purpose: str, *, tell: Told) -> None:
    """Work off one part of the second stage: a study whose trials are single runs."""
    seeds = opened.options.seeds_for(_PURPOSES[purpose], opened.options.final_seeds)
    jobs = [{OF: one.of, SEED: seed, PURPOSE: purpose} for one in candidates for seed in seeds]
    study = optuna.create_study(
        study_name=_study_name(opened, purpose),
        storage=opened.storage,
        direction="maximize",
        load_if_exists=True,
    )
    queue = JobQueue(study, opened.storage, jobs)
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
            name = "defaults" if job[OF] == DEFAULT else f"trial {job[OF]}"
            told = f"{value:.1f}" if value is not None else "failed"
            tell(f"{purpose}: {name}, seed {job[SEED]}: {told}")


def _run_job(
    trial: Trial, options: TuneOptions, drawn: Mapping[str, Any], folder: Path
) -> tuple[TrialState, float | None]:
    job = trial.user_attrs
    name = "defaults" if job[OF] == DEFAULT else f"{job[OF]:04d}"
    where = folder / job[PURPOSE] / name / f"seed_{job[SEED]}"
    if where.exists():  # of a process that died, whose job this is again
        where = where.with_name(f"{where.name}_again_{trial.number}")
    report = Report(optuna.trial.FixedTrial({}))
    tags = {"stage": job[PURPOSE], "trial": job[OF]}
    try:
        run_once(options, drawn, job[SEED], where, report, tags=tags, keep_model=True)
        return TrialState.COMPLETE, report.score()
    except Exception as error:  # as in a trial
        told = " ".join(str(error).split())
        trial.set_user_attr(FAILURE, f"{type(error).__name__}: {told}"[:1000])
        return TrialState.FAIL, None


def _with_scores(opened: OpenStudy, candidates: Sequence[Candidate]) -> list[Candidate]:
    scores: dict[int, dict[str, list[float]]] = {one.of: {} for one in candidates}
    names = optuna.get_all_study_names(opened.storage)
    for purpose, first in _PURPOSES.items():
        if _study_name(opened, purpose) not in names:
            continue
        study = optuna.load_study(study_name=_study_name(opened, purpose), storage=opened.storage)
        seeds = opened.options.seeds_for(first, opened.options.final_seeds)
        for of in scores:
            jobs = [{OF: of, SEED: seed, PURPOSE: purpose} for seed in seeds]
            done = [
                one
                for one in JobQueue(study, opened.storage, jobs).slots()
                if one.state.is_finished()
            ]
            by_seed = {one.user_attrs[SEED]: one.value for one in done}
            if len(by_seed) == len(seeds):
                found = [by_seed[seed] for seed in seeds]
                scores[of][purpose] = [np.nan if one is None else float(one) for one in found]
    return [Candidate(one.of, one.params, one.tuned, scores[one.of]) for one in candidates]


def _ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Best first; who failed on a seed comes last."""

    def key(one: Candidate) -> float:
        found = one.estimate("choosing")
        return float("inf") if found is None else -found.estimate

    return sorted(candidates, key=key)
