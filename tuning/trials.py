"""One trial of a study: its runs, one seed after the other, and what becomes of their scores."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import Trial, TrialState
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ext.errors import NonFiniteError, UsageError
from sb3_ext.running import train
from sb3_ext.tuning.callbacks import Report
from sb3_ext.tuning.options import TUNING, TuneOptions
from sb3_ext.tuning.queue import FAILURE
from sb3_ext.tuning.spaces import draw

DEFAULTS, SCORES, SECONDS = "defaults", "scores", "seconds"
"""User attributes of a trial: whether it is the default one, the scores of its runs, its time."""


class TrialFailedError(RuntimeError):
    """A trial has no score: its run diverged, crashed or took too long."""


class _Limit(BaseCallback):
    """Stops a run after its last step, and one that takes too long.

    SB3's on-policy algorithms would finish their rollout. With a longer one, a trial would train
    for longer than the others, and have its last evaluations where these have none.

    :param steps: of the run
    :param ends_at: by ``time.monotonic``; None for no limit
    """

    def __init__(self, steps: int, ends_at: float | None) -> None:
        super().__init__()
        self.steps, self.ends_at = steps, ends_at
        self.is_over = False

    def _on_step(self) -> bool:
        self.is_over = self.ends_at is not None and time.monotonic() > self.ends_at
        return not self.is_over and self.num_timesteps < self.steps


def drawn_values(
    trial: Trial, atoms: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """What the trial draws.

    The default configuration is left as it is, and of it only what has a value in the space is
    recorded: Optuna would draw one for the rest, and take it for what gave the score.

    :param defaults: see :func:`~sb3_ext.tuning.spaces.with_defaults`
    """
    if trial.user_attrs.get(DEFAULTS):
        for name in defaults:
            draw(trial, name, atoms[name])
        return {}
    return {name: draw(trial, name, atom) for name, atom in atoms.items()}


def run_trial(
    trial: Trial,
    options: TuneOptions,
    atoms: Mapping[str, Any],
    folder: Path,
    defaults: Mapping[str, Any],
) -> tuple[TrialState, float | None]:
    """Train with each tuning seed, report, and score; never raises for what the runs did.

    :param folder: of the study; the runs lie in ``trials/NUMBER/seed_SEED``
    :param defaults: the default configuration's values in the space
    :return: the state to record, and the score of a complete trial: the median over seeds
    :raises KeyboardInterrupt: as it comes
    """
    began = time.monotonic()
    scores: list[float] = []
    try:
        drawn = drawn_values(trial, atoms, defaults)
        for seed in options.seeds_for(TUNING, options.seeds):
            limit = None
            if options.trial_timeout is not None:
                limit = began + options.trial_timeout
            report = Report(trial, before=scores, offset=len(scores) * options.steps)
            where = folder / "trials" / f"{trial.number:04d}" / f"seed_{seed}"
            tags = {"trial": trial.number, "defaults": bool(trial.user_attrs.get(DEFAULTS))}
            run_once(options, drawn, seed, where, report, limit=limit, tags=tags)
            scores.append(report.score())
            trial.set_user_attr(SCORES, scores)
        return TrialState.COMPLETE, statistics.median(scores)
    except optuna.TrialPruned:
        return TrialState.PRUNED, None
    except Exception as error:  # a stranger's algorithm or environment may raise anything
        trial.set_user_attr(FAILURE, why(error))
        return TrialState.FAIL, None
    finally:
        with contextlib.suppress(Exception):
            trial.set_user_attr(SECONDS, round(time.monotonic() - began, 3))


def why(error: Exception) -> str:
    """The reason of a failed run, as it is recorded and shown: one line."""
    told = " ".join(str(error).split())
    if isinstance(error, NonFiniteError):  # what it says further is for who has the model at hand
        told = told.partition("; this transition was not stored")[0]
    name = "" if isinstance(error, TrialFailedError) else f"{type(error).__name__}: "
    return f"{name}{told}"[:1000]


def run_once(
    options: TuneOptions,
    drawn: Mapping[str, Any],
    seed: int,
    where: Path,
    report: Report,
    *,
    limit: float | None = None,
    tags: Mapping[str, Any],
    keep_model: bool | None = None,
) -> None:
    """One training run in a folder of its own; ``report`` has its evaluations afterwards.

    :param limit: when it must have ended, by ``time.monotonic``
    :param tags: told to W&B beside study and seed
    :raises TrialFailedError: if it diverged or took too long
    """
    run = options.run_options(drawn, seed=seed)
    timed = _Limit(run.steps, limit)
    config = {"study": options.study, "seed": seed, **tags}
    name = " ".join(f"{key}={value}" for key, value in tags.items())
    train(
        run,
        where,
        callbacks=(timed,),  # after the evaluation of the same step
        after_evaluation=report,
        wandb={
            "group": options.study,
            "job_type": "tune",
            "name": f"{options.study} {name} seed={seed}",
            "tags": [options.study, f"seed={seed}", *(f"{k}={v}" for k, v in tags.items())],
        },
        config=config,
    )
    if not (options.keep_models if keep_model is None else keep_model):
        for zipped in (where / "model.zip", where / "best_model.zip"):
            zipped.unlink(missing_ok=True)
    if timed.is_over:
        raise TrialFailedError(f"it took longer than {options.trial_timeout:g} seconds")
    if report.is_diverged:
        raise TrialFailedError(
            f"the mean return of evaluation {len(report.means)} was {report.means[-1]}"
        )
    if not report.is_pruned and not report.means:
        raise UsageError(f"{run.algorithm} did no evaluation in {run.steps} steps")
