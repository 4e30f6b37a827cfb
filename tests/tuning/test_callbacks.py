"""Evaluations reported to a trial."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import optuna
import pytest
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_ext.tuning import TrialEvalCallback
from sb3_ext.tuning.callbacks import Report


class Told(optuna.trial.FixedTrial):
    """Keeps what is reported, and prunes at a given step."""

    def __init__(self, prune_at: float = math.inf) -> None:
        super().__init__({})
        self.reports: dict[int, float] = {}
        self.prune_at = prune_at

    def report(self, value: float, step: int) -> None:
        self.reports[step] = value

    def should_prune(self) -> bool:
        return max(self.reports) >= self.prune_at


class Paying(gym.Env[Any, Any]):
    """Every step pays the number of episodes begun so far; an episode has five."""

    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, scale: float = 1.0) -> None:
        self.scale, self.episodes = scale, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.episodes += 1
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        return np.zeros(1, np.float32), self.scale * self.episodes, self.t == 5, False, {}


def learn(trial: Any, steps: int = 60, scale: float = 1.0, **kwargs: Any) -> TrialEvalCallback:
    kwargs = {"eval_freq": 20, "n_eval_episodes": 1, **kwargs}
    model = A2C("MlpPolicy", make_vec_env(Paying), n_steps=5, seed=0)
    evaluation = make_vec_env(lambda: Paying(scale))
    callback = TrialEvalCallback(evaluation, trial, **kwargs)
    model.learn(steps, callback=callback)
    return callback


def test_each_evaluation_is_reported_and_the_last_ones_are_the_score():
    trial = Told()
    callback = learn(trial, steps=100)
    # SB3 resets once before the first episode of an evaluation, and VecEnv after each.
    assert list(trial.reports) == [20, 40, 60, 80, 100]
    means = list(trial.reports.values())
    assert means == sorted(means)
    assert len(set(means)) == 5
    assert callback.score() == pytest.approx(sum(means[-3:]) / 3)
    assert learn(Told(), steps=100, last=1).score() == pytest.approx(means[-1])


def test_a_pruned_trial_stops_at_once_and_says_so_by_its_score():
    trial = Told(prune_at=40)
    callback = learn(trial, steps=1000)
    assert list(trial.reports) == [20, 40]
    assert callback.is_pruned
    assert callback.num_timesteps == 40
    with pytest.raises(optuna.TrialPruned):
        callback.score()


def test_a_diverged_run_has_no_good_score():
    trial = Told()
    callback = learn(trial, scale=math.nan)
    assert trial.reports == {}
    assert math.isnan(callback.score())
    study = optuna.create_study(direction="maximize")
    study.optimize(lambda trial: learn(trial, scale=math.nan).score(), n_trials=1)
    assert study.trials[0].state == optuna.trial.TrialState.FAIL


def test_an_objective_that_never_reports_is_told():
    with pytest.raises(ValueError, match=r"no evaluation was done, .* eval_freq must not be above"):
        learn(Told(), steps=10).score()


def test_swapped_arguments_are_told():
    with pytest.raises(TypeError, match=r"comes first: TrialEvalCallback\(eval_env, trial\)"):
        TrialEvalCallback(Told(), make_vec_env("CartPole-v1"))
    with pytest.raises(ValueError, match="last must be at least 1, got 0"):
        Report(Told(), last=0)


def test_a_callback_of_the_user_s_is_called_too():
    means: list[float] = []

    class Seen(BaseCallback):
        def _on_step(self) -> bool:
            means.append(self.parent.last_mean_reward)
            return True

    trial = Told()
    learn(trial, callback_after_eval=Seen())
    assert means == list(trial.reports.values())


def test_several_runs_of_a_trial_report_at_the_steps_of_all_and_the_mean_of_all():
    trial = Told()
    report = Report(trial, before=[10.0, 20.0], offset=200)
    report.parent = type("Evaluation", (), {"last_mean_reward": 30.0})()
    report.num_timesteps = 50
    assert report._on_step()
    assert trial.reports == {250: 20.0}
    assert report.score() == 30.0


def test_a_study_that_would_choose_the_worst_is_told_before_training():
    evaluation = make_vec_env("CartPole-v1")
    minimizing = optuna.create_study()
    with pytest.raises(ValueError, match=r'minimizes: make it with .*direction="maximize"'):
        TrialEvalCallback(evaluation, minimizing.ask())
    several = optuna.create_study(directions=["maximize", "maximize"])
    with pytest.raises(ValueError, match=r"must have one objective, .* got 2: evaluate with SB3's"):
        TrialEvalCallback(evaluation, several.ask())
    for trial in (optuna.create_study(direction="maximize").ask(), optuna.trial.FixedTrial({})):
        assert not TrialEvalCallback(evaluation, trial).is_pruned
