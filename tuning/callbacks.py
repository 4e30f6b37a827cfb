"""Evaluations reported to a trial, which may be pruned for them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import optuna
from optuna.study import StudyDirection
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EvalCallback
from stable_baselines3.common.vec_env import VecEnv

LAST = 3
"""Evaluations whose mean is a run's score: one alone is too noisy to choose by."""


class Report(BaseCallback):
    """After each evaluation of an ``EvalCallback``: tell the trial, and stop if it is pruned.

    For several runs a trial, one after the other: each reports the mean of the runs before it and
    of its own evaluation, at the steps of all of them. Trials whose runs have the same seeds are
    then compared like with like.

    :param trial: of a study
    :param last: how many evaluations make the score
    :param before: the scores of the trial's earlier runs
    :param offset: and their steps together
    """

    def __init__(
        self,
        trial: optuna.trial.BaseTrial,
        *,
        last: int = LAST,
        before: Sequence[float] = (),
        offset: int = 0,
    ) -> None:
        super().__init__()
        if last < 1:
            raise ValueError(f"last must be at least 1, got {last}")
        self.trial, self.last, self.before, self.offset = trial, last, list(before), offset
        self.means: list[float] = []
        self.is_pruned = self.is_diverged = False

    def _on_step(self) -> bool:
        mean = float(getattr(self.parent, "last_mean_reward", math.nan))
        self.means.append(mean)
        if not math.isfinite(mean):
            self.is_diverged = True
            return False
        value = statistics.fmean([*self.before, mean])
        self.trial.report(value, self.offset + self.num_timesteps)
        self.is_pruned = self.trial.should_prune()
        if self.is_pruned:  # for who looks at the run, in W&B say, and not at the study
            self.logger.record("tune/pruned", 1)
            self.logger.dump(self.num_timesteps)
        return not self.is_pruned

    def score(self) -> float:
        """The mean of the last evaluations; NaN if the run diverged, which Optuna takes for failed.

        :raises optuna.TrialPruned: if the trial was pruned
        :raises ValueError: if there was no evaluation
        """
        if self.is_pruned:
            raise optuna.TrialPruned
        if not self.means:
            raise ValueError(
                "no evaluation was done, so the trial has no score: eval_freq must not be above "
                "the steps of learn (it counts calls of env.step, each of all environments)"
            )
        return math.nan if self.is_diverged else statistics.fmean(self.means[-self.last :])


class TrialEvalCallback(EvalCallback):
    """SB3's ``EvalCallback`` inside an objective of your own::

        callback = TrialEvalCallback(make_vec_env("Pendulum-v1"), trial, eval_freq=2_000)
        model.learn(20_000, callback=callback)
        return callback.score()

    Each evaluation is reported to the trial; if the study's pruner says so, training stops, and
    ``score`` raises ``optuna.TrialPruned``.

    :param eval_env: as in SB3; not the training's
    :param trial: as the objective got it, of a study with ``direction="maximize"``; or a
        ``FixedTrial``
    :param n_eval_episodes: as in SB3, but 10
    :param eval_freq: as in SB3: calls of ``env.step``, so divide by ``n_envs``
    :param last: how many evaluations make the score
    :param kwargs: ``EvalCallback``'s
    :raises ValueError: if the study minimizes, or has several objectives
    """

    def __init__(
        self,
        eval_env: gym.Env[Any, Any] | VecEnv,
        trial: optuna.trial.BaseTrial,
        n_eval_episodes: int = 10,
        eval_freq: int = 10_000,
        last: int = LAST,
        **kwargs: Any,
    ) -> None:
        if not hasattr(trial, "should_prune"):
            raise TypeError(
                f"trial must be what Optuna hands to the objective, got {trial!r}; the environment "
                "comes first: TrialEvalCallback(eval_env, trial)"
            )
        _require_maximizing(trial)
        self.report = Report(trial, last=last)
        after = kwargs.pop("callback_after_eval", None)
        super().__init__(
            eval_env,
            callback_after_eval=self.report if after is None else _Both(self.report, after),
            n_eval_episodes=n_eval_episodes,
            eval_freq=eval_freq,
            **{"verbose": 0, **kwargs},
        )
        self.report.parent = self

    @property
    def is_pruned(self) -> bool:
        """Whether the pruner stopped the training."""
        return self.report.is_pruned

    def score(self) -> float:
        """The mean return of the last evaluations.

        :raises optuna.TrialPruned: if the trial was pruned
        :raises ValueError: if there was no evaluation
        """
        return self.report.score()


def _require_maximizing(trial: optuna.trial.BaseTrial) -> None:
    """Refuse a study that would prune and choose by the wrong end, or cannot be reported to."""
    study = getattr(trial, "study", None)  # a FixedTrial has none
    if study is None:
        return
    directions = list(study.directions)
    if len(directions) > 1:
        raise ValueError(
            f"the study must have one objective, since Optuna prunes by one only, got "
            f"{len(directions)}: evaluate with SB3's EvalCallback instead, which reports nothing"
        )
    if directions[0] == StudyDirection.MINIMIZE:
        raise ValueError(
            "the study must maximize, since a higher return is better, and this one minimizes: "
            'make it with optuna.create_study(direction="maximize")'
        )


class _Both(CallbackList):
    """Ours and the user's, each with the evaluation as its parent."""

    def __init__(self, report: Report, other: BaseCallback) -> None:
        super().__init__([report, other])

    def _init_callback(self) -> None:
        super()._init_callback()
        for one in self.callbacks:
            one.parent = self.parent
