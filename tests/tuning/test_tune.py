"""Studies from one line: the objective, the second stage, what they leave, and what they refuse."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml

from sb3_ext import cli
from sb3_ext.errors import UsageError
from sb3_ext.running import TrainOptions, train
from sb3_ext.tuning import TuneOptions, TuneResult, tune
from sb3_ext.tuning.finals import DEFAULT, finals
from sb3_ext.tuning.study import open_study
from sb3_ext.tuning.workers import go_on

RANGES = {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "gamma": [0.9, 0.99]}
BUDGET: dict[str, Any] = {
    "algorithm": "sb3:A2C",
    "env": "CartPole-v1",
    "study": "small",
    "trials": 4,
    "steps": 100,
    "evaluations": 4,
    "eval_episodes": 1,
    "top": 1,
    "final_seeds": 2,
    "ranges": RANGES,
    "hyperparameters": {"policy_kwargs": {"net_arch": [4]}},
}


class Crashing(gym.Env[Any, Any]):
    """Breaks in the way that its argument says."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, how: str = "reward", after: int = 10, render_mode: Any = None) -> None:
        self.render_mode = render_mode
        self.how, self.after, self.t = how, after, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        broken = self.t > self.after
        if broken and self.how == "crash":
            raise RuntimeError("the simulator is gone")
        reward = math.nan if broken else 1.0
        return np.zeros(1, np.float32), reward, self.t % 5 == 0, False, {}


gym.register("Crashing-v0", Crashing)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def silent(_: str) -> None:
    pass


def small(**options: Any) -> TuneOptions:
    return TuneOptions(**{**BUDGET, **options})


def test_a_study_leaves_all_that_is_asked_of_it():
    told: list[str] = []
    result = tune(small(), tell=told.append)
    assert isinstance(result, TuneResult)
    assert result.folder == Path("studies/small")
    assert len(result.study.trials) == 4
    assert len([line for line in told if line.startswith("trial ")]) == 4
    there = {path.name for path in result.folder.iterdir()}
    assert {"best.yaml", "trials.csv", "report.md", "plots", "study.yaml", "study.log"} <= there
    assert {path.name for path in (result.folder / "plots").iterdir()} >= {
        "history.png",
        "slice.png",
        "parallel.png",
        "intermediate.png",
    }
    with (result.folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == ["0", "1", "2", "3"]
    assert [row["defaults"] for row in rows] == ["True", "False", "False", "False"]
    # The agents of the second stage are kept, those of trials are not.
    assert list(result.folder.glob("testing/*/seed_*/model.zip"))
    assert not list(result.folder.glob("trials/*/seed_*/model.zip"))
    report = (result.folder / "report.md").read_text()
    assert "Chosen: " in report
    assert "seeds that chose nothing" in report


def test_the_best_configuration_can_be_trained_by_its_yaml():
    result = tune(small(), tell=silent)
    values = yaml.safe_load((result.folder / "best.yaml").read_text())
    assert TrainOptions(**values) == result.best
    chosen = result.finals.chosen
    for name, value in chosen.params.items():
        assert result.best.hyperparameters[name] == value
    assert cli.main(["train", "--config", str(result.folder / "best.yaml"), "--no-progress"]) == 0


def test_a_trial_s_score_is_that_of_a_run_of_its_seed():
    result = tune(small(seeds=2, pruner="none", top=0), tell=silent)
    trial = result.study.trials[2]
    options = open_study(result.folder).options
    scores = []
    for seed in (0, 1):
        run = options.run_options(trial.params, seed=seed)
        folder = Path(f"again_{seed}")
        train(run, folder)
        means = np.load(folder / "evaluations.npz")["results"].mean(axis=1)
        scores.append(means[-3:].mean())
    assert trial.user_attrs["scores"] == pytest.approx(scores)
    assert trial.value == pytest.approx(np.median(scores))
    # 4 evaluations of each seed, the second one's after the first one's steps
    assert list(trial.intermediate_values) == [25, 50, 75, 100, 125, 150, 175, 200]
    assert result.finals is None
    assert "too good: no second stage was run." in (result.folder / "report.md").read_text()


def test_a_run_ends_at_its_last_step_whatever_a_rollout_is():
    """Else a long rollout has evaluations that a short one has not, and two seeds' steps meet."""
    nets = {"policy_kwargs": {"net_arch": [4]}}  # of 64: the second rollout would end at step 128
    result = tune(small(trials=1, seeds=2, top=0, hyperparameters={"n_steps": 64, **nets}))
    steps = list(result.study.trials[0].intermediate_values)
    assert steps == [25, 50, 75, 100, 125, 150, 175, 200]
    for evaluations in result.folder.glob("trials/*/*/evaluations.npz"):
        assert list(np.load(evaluations)["timesteps"]) == [25, 50, 75, 100]


def test_with_several_environments_the_last_step_is_the_first_that_reaches_it():
    options = small(trials=1, seeds=2, top=0, n_envs=8, evaluations=10)
    trial = tune(options, tell=silent).study.trials[0]
    steps = list(trial.intermediate_values)
    assert steps == [*range(8, 105, 8), *range(108, 205, 8)]


def test_the_first_trial_is_the_default_configuration():
    result = tune(small(trials=1, top=0), tell=silent)
    assert result.best.hyperparameters == BUDGET["hyperparameters"]
    assert result.study.trials[0].params == {"learning_rate": 7e-4, "gamma": 0.99}
    other = tune(small(study="other", trials=1, top=0, enqueue=False), tell=silent)
    assert other.study.trials[0].params != result.study.trials[0].params


def test_the_second_stage_uses_seeds_of_its_own_and_pairs_them():
    result = tune(small(), tell=silent)
    seeds = {
        stage: {int(path.name.split("_")[1]) for path in result.folder.glob(f"{stage}/*/seed_*")}
        for stage in ("trials", "choosing", "testing")
    }
    assert seeds["trials"] == {0}
    assert seeds["choosing"] == {100_000, 100_001}
    assert seeds["testing"] == {200_000, 200_001}
    found = result.finals
    assert [one.of for one in found.candidates].count(DEFAULT) == 1
    assert len(found.candidates) == 2
    for one in found.candidates:
        assert len(one.scores["choosing"]) == 2
    best = max(found.candidates, key=lambda one: np.mean(one.scores["choosing"]))
    assert found.chosen == best
    if found.chosen.of != DEFAULT:
        defaults = next(one for one in found.candidates if one.of == DEFAULT)
        gains = np.subtract(found.chosen.scores["testing"], defaults.scores["testing"])
        assert found.gap.estimate == pytest.approx(gains.mean())


def test_a_run_of_the_second_stage_that_was_killed_is_done_again():
    options = small()
    tune(small(top=0), tell=silent)
    for stage, first in (("choosing", 100_000), ("testing", 200_000)):
        left = Path("studies/small") / stage / "defaults" / f"seed_{first}"
        left.mkdir(parents=True)
        (left / "progress.csv").write_text("what a killed process has left")
    result = tune(options, tell=silent)
    defaults = next(one for one in result.finals.candidates if one.of == DEFAULT)
    for stage in ("choosing", "testing"):
        assert np.isfinite(defaults.scores[stage]).all()
        assert len(list((result.folder / stage / "defaults").glob("seed_*_again_*"))) == 1


def test_a_study_goes_on_where_it_was_and_may_grow():
    first = tune(small(), tell=silent)
    before = [(one.number, one.params, one.value) for one in first.study.trials]
    told: list[str] = []
    again = tune(small(), tell=told.append)
    assert told == []  # nothing was left to do
    assert again.finals == first.finals
    larger = tune(small(trials=6), tell=told.append)
    assert len(larger.study.trials) == 6
    assert [(one.number, one.params, one.value) for one in larger.study.trials[:4]] == before
    assert len({json.dumps(one.params) for one in larger.study.trials}) == 6
    opened = open_study(larger.folder)
    assert finals(opened) == larger.finals


def test_a_study_is_the_same_again():
    one, other = (tune(small(study=name, top=0), tell=silent) for name in ("one", "other"))
    for a, b in zip(one.study.trials, other.study.trials, strict=True):
        assert (a.params, a.value, a.intermediate_values) == (
            b.params,
            b.value,
            b.intermediate_values,
        )


def test_workers_share_the_trials():
    result = tune(small(trials=6), workers=2, tell=silent)
    states = [one.state.name for one in result.study.trials]
    assert len(states) == 6
    assert set(states) <= {"COMPLETE", "PRUNED"}
    assert os.getpid() not in {one.user_attrs["worker"]["pid"] for one in result.study.trials}
    assert result.finals is not None


def test_each_run_is_a_wandb_run_of_the_study_s_group(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    result = tune(small(trials=1, top=0, track="wandb"), tell=silent)
    (found,) = result.folder.rglob("run-*.wandb")
    command = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", str(found)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for part in ('"small"', "seed=0", "trial=0", '"tune"', "eval/mean_reward"):
        assert part in told, part


@pytest.mark.parametrize(("how", "why"), [("reward", "nan"), ("crash", "simulator is gone")])
def test_failed_trials_are_told_with_the_reason_and_stop_a_study_of_nothing_else(how, why):
    options = small(env="Crashing-v0", env_kwargs={"how": how, "after": 20}, trials=9)
    with pytest.raises(
        UsageError,
        match=f"the first 3 trials beside the defaults all failed; the last one: .*{why}",
    ):
        tune(options, tell=silent)
    trials = open_study(Path("studies/small")).study.trials
    assert [one.state.name for one in trials[:3]] == ["FAIL"] * 3
    assert all(why in one.user_attrs["failure"] for one in trials[:3])
    assert all(one.value is None for one in trials)


def test_a_trial_that_takes_too_long_fails():
    with pytest.raises(UsageError, match=r"all failed; .* it took longer than 1e-06 seconds"):
        tune(small(trial_timeout=1e-6), tell=silent)


def test_nothing_completed_is_told():
    with pytest.raises(UsageError, match=r"no trial .* was completed \(4 waiting\).* no time for"):
        tune(small(timeout=1e-9), tell=silent)
    with pytest.raises(UsageError, match=r"no trial .* was completed"):  # its limit is kept
        go_on(Path("studies/small"), tell=silent)


def test_a_study_of_another_kind_is_refused():
    tune(small(top=0, trials=1), tell=silent)
    for change, told in (
        ({"steps": 200}, "has steps 100, and this asks for 200"),
        ({"env": "Acrobot-v1"}, 'has env "CartPole-v1", and this asks for "Acrobot-v1"'),
        ({"algorithm": "sb3:PPO"}, "has algorithm"),
        ({"ranges": {"gamma": [0.9, 0.99]}}, "has space"),
    ):
        with pytest.raises(UsageError, match=told):
            tune(small(top=0, trials=1, **change), tell=silent)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"trials": 0}, "trials must be an integer of at least 1, got 0"),
        ({"steps": 0}, "steps must be an integer of at least 1"),
        ({"evaluations": 200}, "evaluations must not be more than steps, got 200 and 100"),
        ({"sampler": "gp"}, "sampler must be one of tpe, random, got 'gp'"),
        ({"pruner": "x"}, "pruner must be one of median, halving, none"),
        ({"study": "a/b"}, "study must be a name of letters, digits"),
        ({"timeout": 0}, "timeout must be a number of seconds above 0"),
        ({"space": ()}, "space must be a list of names"),
        ({"space": ("gama",)}, "no 'gama' in its search space; did you mean 'gamma'"),
        ({"algorithm": "sb3:A3C"}, "no algorithm 'sb3:A3C'"),
        ({"hyperparameters": {"gama": 1}}, "unknown argument 'gama'"),
        ({"env": "CartPol-v1"}, "did you mean 'CartPole-v1'"),
    ],
)
def test_bad_options_are_one_sentence_before_anything_is_trained(options, told):
    with pytest.raises(UsageError, match=told):
        tune(small(**options), tell=silent)
    assert not Path("studies").exists()
