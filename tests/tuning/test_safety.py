"""What would lose work, or record what was not so."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import optuna
import pytest
from optuna.trial import TrialState
from stable_baselines3 import TD3

from sb3_ext import cli, registry
from sb3_ext.errors import UsageError
from sb3_ext.offline import from_policy
from sb3_ext.tuning import TuneOptions, open_storage, tune
from sb3_ext.tuning.queue import TrialQueue
from sb3_ext.tuning.spaces import (
    declared_space,
    draw,
    hyperparameters,
    study_space,
    with_defaults,
)
from sb3_ext.tuning.study import JOURNAL, open_study
from sb3_ext.tuning.workers import go_on

SMALL: dict[str, Any] = {
    "algorithm": "sb3:A2C",
    "env": "CartPole-v1",
    "study": "small",
    "trials": 3,
    "steps": 60,
    "evaluations": 2,
    "eval_episodes": 1,
    "top": 0,
    "ranges": {"gamma": [0.9, 0.95]},
    "hyperparameters": {"policy_kwargs": {"net_arch": [4]}},
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def silent(_: str) -> None:
    pass


def small(**options: Any) -> TuneOptions:
    return TuneOptions(**{**SMALL, **options})


def algorithms() -> list[str]:
    specs = registry.public_names().values()
    return sorted({one.public_name for one in specs if one.kind == "algorithm"})


@pytest.mark.parametrize("name", algorithms())
def test_a_drawn_point_of_every_declared_space_makes_a_model(name):
    """DDPG is a TD3, and takes no policy_delay."""
    cls = registry.load(name)
    spec = registry.spec_of(cls)
    env = {"Box": "Pendulum-v1", "Discrete": "CartPole-v1"}[spec.action_spaces[0]]
    atoms = declared_space(cls, {})
    # Of GAIL and AIRL it is the discriminator's; the generator's stands among its own arguments.
    own = "disc_learning_rate" if name in ("AIRL", "GAIL") else "learning_rate"
    assert own in atoms
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    drawn = {key: draw(trial, key, atom) for key, atom in atoms.items()}
    drawn |= {"buffer_size": 200_000} if "buffer_size" in drawn else {}
    cls("MlpPolicy", gym.make(env), device="cpu", **hyperparameters({}, drawn))


def test_the_defaults_are_recorded_with_what_they_had_and_nothing_else():
    """A default that is None, or of the networks, has no place in a range."""
    ranges = {"gamma": [0.9, 0.95], "policy_kwargs.ortho_init": [False]}
    ranges["max_grad_norm"] = {"low": 0.1, "high": 0.4}
    result = tune(small(ranges=ranges, trials=2), tell=silent)
    first, second = result.study.trials
    assert first.params == {"gamma": 0.99, "max_grad_norm": 0.5}
    assert set(second.params) == set(ranges)


def test_what_has_no_default_in_its_range_is_left_out_of_the_default_trial():
    cls = registry.load("LFIWSAC")
    _, defaults = with_defaults(cls, {}, study_space(cls, {}, ["ratio_learning_rate", "tau"]))
    assert defaults == {"tau": 0.005}


def test_another_study_does_not_overwrite_a_folder():
    tune(small(), "folder", tell=silent)
    before = Path("folder/study.yaml").read_text()
    with pytest.raises(UsageError, match="is of the study 'small', not of 'other'"):
        tune(small(study="other"), "folder", tell=silent)
    with pytest.raises(UsageError, match="is stored in"):
        tune(small(), "folder", storage="sqlite:///other.db", tell=silent)
    assert Path("folder/study.yaml").read_text() == before
    assert not Path("other.db").exists()
    assert len(go_on(Path("folder"), tell=silent).study.trials) == 3


@pytest.mark.parametrize("storage", [None, "sqlite:///study.db", "a.journal"])
def test_a_study_is_resumed_from_any_working_directory(storage, tmp_path, monkeypatch):
    tune(small(), "folder", storage=storage, tell=silent)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    found = go_on(Path("../folder"), tell=silent)
    assert len(found.study.trials) == 3
    assert not list((tmp_path / "sub").iterdir())


def test_a_folder_can_be_moved_and_copied():
    tune(small(), "folder", tell=silent)
    shutil.copytree("folder", "copy")
    assert cli.main(["tune", "--resume", "copy", "--trials", "4"]) == 0
    assert len(open_study(Path("copy")).study.trials) == 4
    assert len(open_study(Path("folder")).study.trials) == 3


def test_a_storage_that_is_gone_is_not_made_anew():
    tune(small(), "folder", tell=silent)
    Path("folder", JOURNAL).unlink()
    with pytest.raises(UsageError, match=r"study\.log is not there"):
        go_on(Path("folder"), tell=silent)
    assert not Path("folder", JOURNAL).exists()


def test_fewer_trials_than_were_done_are_refused(capsys):
    tune(small(), "folder", tell=silent)
    best = Path("folder/best.yaml").read_text()
    with pytest.raises(UsageError, match="has done 3 trials already"):
        tune(small(trials=2), "folder", tell=silent)
    assert cli.main(["tune", "--resume", "folder", "--trials", "1"]) == 2
    assert "may only ask for more, got 1" in capsys.readouterr().err
    assert "trials: 3" in Path("folder/study.yaml").read_text()
    assert Path("folder/best.yaml").read_text() == best


def test_a_queue_never_drops_what_was_done():
    study = optuna.create_study(study_name="s", storage=open_storage("journal"))
    queue = TrialQueue(study, open_storage("journal"), 4)
    queue.fill()
    for _ in range(3):
        assert queue.finish(queue.claim(), TrialState.COMPLETE, 0.0)
    assert len(TrialQueue(study, open_storage("journal"), 1).slots()) == 3


def test_a_lost_trial_is_the_next_one():
    """So that what a study sees is in the same order as without the death."""
    storage = open_storage("journal")
    queue = TrialQueue(optuna.create_study(study_name="s", storage=storage), storage, 4)
    queue.fill()
    trial = queue.claim()
    drawn = trial.suggest_float("x", 0, 1)
    queue.give_up(trial)
    assert queue.claim().suggest_float("x", 0, 1) == drawn


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"algorithm": "SAC", "ranges": {}}, "supports Box action spaces"),
        ({"hyperparameters": {"learning_rate": "high"}}, "learning_rate"),
        ({"ranges": {"gamma": [0.9, "much"]}}, "gamma='much'"),
        ({"ranges": {"policy_kwargs.n_critics": [1, 2]}}, "policy_kwargs.n_critics=1"),
        ({"ranges": {"n_steps": [5, 500]}}, "500 steps, and a run has 60"),
        ({"steps": 4, "evaluations": 1}, "ask for more --steps, or a smaller n_steps"),
    ],
)
def test_a_line_that_cannot_work_leaves_the_name_free(options, told):
    with pytest.raises(UsageError, match=told):
        tune(small(**options), tell=silent)
    assert not Path("studies/small").exists()
    tune(small(), tell=silent)


def test_a_file_that_is_something_else_is_left_alone():
    path = Path("notes.txt")
    path.write_text("my notes\n")
    with pytest.raises(UsageError, match="no journal of Optuna's"):
        tune(small(), storage=str(path), tell=silent)
    assert path.read_text() == "my notes\n"
    open_storage("sqlite:///a.db")
    with pytest.raises(UsageError, match="write sqlite:///"):
        open_storage("a.db")


def test_what_is_set_cannot_be_searched():
    cls = registry.load("DQN")
    with pytest.raises(UsageError, match="gamma is set to a value, so it cannot be searched"):
        study_space(cls, {"gamma": 0.9}, ["gamma"])
    with pytest.raises(UsageError, match="net_arch is set"):
        study_space(cls, {"policy_kwargs": {"net_arch": [8]}}, ["net_arch"])


def test_a_sampler_s_options_beside_its_name_are_explained(capsys):
    words = ["--set", "replay=per", "--set", "replay.beta=0.5"]
    assert cli.main(["tune", "SAC", "--env", "Pendulum-v1", *words]) == 2
    assert "replay.name=per replay.beta=0.5" in capsys.readouterr().err


def test_the_search_is_shown_before_it_begins(capsys):
    words = ["--trials", "2", "--steps", "60", "--evaluations", "2", "--eval-episodes", "1"]
    space = ["--space", "learning_rate,gamma", "--final-seeds", "1", "--top", "1"]
    small_run = ["--set", "learning_starts=20", "--set", "buffer_size=100"]
    assert cli.main(["tune", "DQN", "--env", "CartPole-v1", *words, *space, *small_run]) == 0
    head = capsys.readouterr().out.splitlines()[:3]
    assert head[1].startswith("searched: learning_rate 1e-05 to 0.003 log; gamma 0.95 | 0.98")


def test_a_study_goes_on_where_its_data_are_now(capsys):
    behaviour = TD3("MlpPolicy", "Pendulum-v1", device="cpu")
    from_policy(behaviour, n_steps=30, seed=0).save("data.npz")
    begin = ["tune", "BCQ", "--env", "Pendulum-v1", "--set", "dataset=data.npz", "--space", "phi"]
    begin += ["--set", "policy_kwargs.net_arch=[4]", "--steps", "2", "--evaluations", "1"]
    begin += ["--eval-episodes", "1", "--top", "0", "--trials", "1", "--dir", "study"]
    assert cli.main(begin) == 0
    Path("data.npz").rename("moved.npz")
    go_on_with = ["tune", "--resume", "study", "--trials", "2"]
    assert cli.main(go_on_with) == 2  # and not a failed trial
    assert "goes on with --set dataset=FILE" in capsys.readouterr().err
    assert cli.main([*go_on_with, "--set", "phi=1"]) == 2
    assert "data that were moved" in capsys.readouterr().err
    assert cli.main([*go_on_with, "--set", "dataset=moved.npz"]) == 0
    told = capsys.readouterr().out
    assert "2 complete" in told
    assert cli.main(["tune", "--resume", "study", "--trials", "3"]) == 0
