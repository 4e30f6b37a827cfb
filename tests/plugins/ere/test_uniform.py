"""Where ERE's windows leave nothing out it is uniform, and says so."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import stable_baselines3 as sb3

import sb3_ext
from sb3_ext import EmphasizeRecent, EREReplayBuffer
from tests.environments import make_env

SMALL = {"learning_starts": 30, "batch_size": 16, "buffer_size": 200, "seed": 3}
NET = {"net_arch": [8]}


def sac(replay: Any, **kwargs: Any) -> Any:
    return sb3_ext.SAC(
        "MlpPolicy", make_env(), replay=replay, policy_kwargs=NET, **{**SMALL, **kwargs}
    )


def stock(**options: Any) -> Any:
    return sb3.SAC(
        "MlpPolicy",
        make_env(),
        replay_buffer_class=EREReplayBuffer,
        replay_buffer_kwargs=options,
        policy_kwargs=NET,
        **SMALL,
    )


def test_a_run_too_short_for_any_window_is_told():
    model = sac(EmphasizeRecent(c_min=10), buffer_size=100_000)
    with pytest.warns(UserWarning, match=r"draws uniformly .* ends with 60 .* window is 1816"):
        model.learn(60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sac(EmphasizeRecent(c_min=10, size="current"), buffer_size=100_000).learn(60)


def uniform_warnings(model: Any, *steps: int) -> list[str]:
    """What is said about ERE that is uniform, over several calls of learn."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for number in steps:
            model.learn(number, reset_num_timesteps=False)
    return [str(one.message) for one in caught if "ERE draws uniformly" in str(one.message)]


def test_a_c_min_that_leaves_nothing_out_is_told_once():
    for options in ({}, {"size": "current"}, {"cycle": "age"}):
        replay = EmphasizeRecent(c_min=200, **options)
        (told,) = uniform_warnings(sac(replay), 60, 60, 200)
        assert "no window is smaller than c_min=200. To change that, lower c_min" in told
    assert uniform_warnings(sac(EmphasizeRecent(c_min=200, eta=1.0)), 60) == []  # it was asked for
    assert len(uniform_warnings(sac(EmphasizeRecent(c_min=200, eta=1.0, eta_end=0.99)), 60)) == 1


def test_all_that_must_change_is_told_at_once():
    (told,) = uniform_warnings(sac("ere", buffer_size=100_000), 60)
    assert "c_min=5000 and its smallest window is 1816" in told
    assert "lower c_min and set size='current'" in told


def test_rounds_of_one_update_are_told_and_longer_ones_are_not():
    replay = EmphasizeRecent(c_min=10, cycle="round")
    (told,) = uniform_warnings(sac(replay), 60, 60)
    assert "cycle='round' while a call of train does one update" in told
    assert uniform_warnings(sac(replay, gradient_steps=4), 60) == []


def test_a_stock_class_says_so_after_the_first_round():
    (told,) = uniform_warnings(stock(c_min=150, cycle=20), 60, 20)  # 30 first steps, 20 updates
    assert "until now, with 50 transitions in the replay buffer: no window is smaller" in told
    (told,) = uniform_warnings(stock(c_min=200, cycle="age"), 60, 970)  # after 1,000 updates
    assert "until now" in told
    for size in ("capacity", "current"):
        assert uniform_warnings(stock(c_min=10, cycle=20, size=size), 100) == []
