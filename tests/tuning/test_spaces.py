"""What a study searches: declared, chosen, overridden, and wide enough for the defaults."""

from __future__ import annotations

import optuna
import pytest
import stable_baselines3 as sb3

import sb3_ext
from sb3_ext.errors import UsageError
from sb3_ext.spec import Choice, Float, Int
from sb3_ext.tuning.spaces import (
    declared_space,
    draw,
    flat,
    hyperparameters,
    plain_space,
    study_space,
    that_learns,
    with_defaults,
)


def test_a_method_s_space_stands_before_its_base_s_and_the_networks_size_after():
    names = list(declared_space(sb3_ext.LFIWSAC, {}))
    assert {"temperature", "fast_buffer_size"} < set(names)
    assert {"learning_rate", "tau", "train_freq", "ent_coef"} < set(names)
    assert names[-1] == "net_arch"
    assert declared_space(sb3.PPO, {}) == {}


def test_what_is_fixed_is_not_searched():
    fixed = {"tau": 0.01, "policy_kwargs": {"net_arch": [8]}}
    found = declared_space(sb3_ext.SAC, fixed)
    assert not {"tau", "net_arch"} & set(found)
    assert "learning_rate" in found


@pytest.mark.parametrize("per", ["per", {"name": "per", "beta": 0.5}])
def test_a_sampler_that_is_fixed_brings_its_own_space(per):
    found = declared_space(sb3_ext.SAC, {"replay": per})
    assert found["replay.alpha"] == Float(0.2, 1.0)
    assert ("replay.beta" in found) == (per == "per")
    assert "weighting.temperature" not in found


def test_ranges_override_and_add():
    ranges = {
        "temperature": {"low": 2, "high": 8},
        "batch_size": [32, 64],
        "target_entropy": {"low": -3, "high": -1},
        "ent_coef": {"low": 0.01, "high": 1, "log": True},
    }
    found = study_space(sb3_ext.LFIWSAC, {}, ranges=ranges)
    assert found["temperature"] == Float(2.0, 8.0)  # declared as a real number, and so it stays
    assert found["batch_size"] == Choice((32, 64))
    assert found["target_entropy"] == Int(-3, -1)
    assert found["ent_coef"] == Float(0.01, 1.0, log=True)
    only = study_space(sb3_ext.LFIWSAC, {}, ["target_entropy"], ranges)
    assert list(only) == ["target_entropy"]


@pytest.mark.parametrize(
    ("ranges", "only", "told"),
    [
        ({"temprature": [1, 2]}, None, "no argument 'temprature'; did you mean 'temperature'"),
        ({"temperature": {"low": 8, "high": 2}}, None, "temperature: low < high must hold"),
        ({"temperature": {"low": 0, "high": 2, "log": True}}, None, "low > 0 must hold on a log"),
        ({"temperature": 5}, None, "must be a list of choices, or low and high.* got 5"),
        (
            {"temperature": {"low": 1, "high": 2, "lgo": 1}},
            None,
            "high, log and step, .*'lgo'",
        ),
        ({"temperature": {"low": "a", "high": 2}}, None, "low and high must be numbers"),
        ({"batch_size": []}, None, "options must not be empty"),
        ({"gamma": [0.9, 0.99]}, None, "gamma is set to a value and given a range"),
        ({}, ["temprature"], "no 'temprature' in its search space; did you mean 'temperature'"),
    ],
)
def test_an_impossible_space_is_one_sentence(ranges, only, told):
    with pytest.raises(UsageError, match=told):
        study_space(sb3_ext.LFIWSAC, {"gamma": 0.9}, only, ranges)


def test_without_a_declared_space_ranges_are_asked_for():
    with pytest.raises(UsageError, match="PPO declares no search space: give ranges, as in"):
        study_space(sb3.PPO, {})
    assert study_space(sb3.PPO, {}, ranges={"gamma": [0.9, 0.99]}) == {"gamma": Choice((0.9, 0.99))}


def test_the_space_is_made_to_hold_the_defaults():
    atoms = {
        "temperature": Float(6.0, 9.0),  # 5
        "batch_size": Choice((32, 64)),  # 256
        "ratio_updates": Int(2, 8, step=2),  # 1: not on the grid
        "ent_coef": Float(0.01, 1.0),  # "auto": no number
        "gradient_steps": Int(1, 4),
        "net_arch": Choice(("small", "default")),
    }
    wide, defaults = with_defaults(sb3_ext.LFIWSAC, {}, atoms)
    assert wide["temperature"] == Float(5.0, 9.0)
    assert wide["batch_size"] == Choice((32, 64, 256))
    assert wide["ratio_updates"] == atoms["ratio_updates"]
    assert defaults == {
        "temperature": 5.0,
        "batch_size": 256,
        "gradient_steps": 1,
        "net_arch": "default",
    }
    part = with_defaults(sb3_ext.SAC, {"replay": "per"}, {"replay.alpha": Float(0.7, 1.0)})
    assert part == ({"replay.alpha": Float(0.6, 1.0)}, {"replay.alpha": 0.6})


def test_the_defaults_of_every_algorithm_are_a_trial_of_its_space():
    for name in ("SAC", "TD3", "DQN", "LFIWSAC", "LFIWDQN", "CrossQ"):
        cls = getattr(sb3_ext, name)
        wide, defaults = with_defaults(cls, {}, declared_space(cls, {}))
        drawn = {key: draw(optuna.trial.FixedTrial(defaults), key, wide[key]) for key in defaults}
        assert drawn == defaults
        # Of None, which says "as the base", there is no number.
        assert set(wide) - set(defaults) <= {"ratio_learning_rate"}, name


def test_a_short_run_is_not_all_random_steps():
    atoms = declared_space(sb3_ext.SAC, {})
    assert atoms["learning_starts"] == Choice((100, 1_000, 10_000))
    assert that_learns(atoms, 20_000)["learning_starts"] == Choice((100, 1_000, 10_000))
    assert that_learns(atoms, 19_999)["learning_starts"] == Choice((100, 1_000))
    assert "learning_starts" not in that_learns(atoms, 150)
    assert that_learns({"tau": Float(0.0, 1.0)}, 1) == {"tau": Float(0.0, 1.0)}


def test_what_a_trial_drew_goes_where_it_belongs():
    fixed = {"replay": "per", "policy_kwargs": {"n_critics": 1}}
    drawn = {"replay.alpha": 0.5, "net_arch": "big", "gamma": 0.9}
    assert hyperparameters(fixed, drawn) == {
        "replay": {"name": "per", "alpha": 0.5},
        "policy_kwargs": {"n_critics": 1, "net_arch": [400, 300]},
        "gamma": 0.9,
    }
    assert fixed == {"replay": "per", "policy_kwargs": {"n_critics": 1}}
    assert hyperparameters({}, {"net_arch": "default"}) == {}


def test_plain_forms():
    assert flat({"a": {"b": 1, "c": {}}, "d": None}) == {"a.b": 1, "a.c": {}, "d": None}
    plain = plain_space({"a": Choice((1, "x")), "b": Float(0.0, 1.0)})
    assert plain == {"a": [1, "x"], "b": {"low": 0.0, "high": 1.0, "log": False, "step": None}}
