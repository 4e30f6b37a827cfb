"""What PER is for, as a test: the task of its paper, which a wrong sign would fail."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_ext import Prioritized
from sb3_ext.errors import NonFiniteError
from sb3_ext.plugins.per.sampler import PrioritizedSampler

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "cliffwalk.py"
SPEC = importlib.util.spec_from_file_location("benchmarks_cliffwalk", SCRIPT)
cliffwalk: Any = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(cliffwalk)

N, SEEDS = 7, range(10)


@dataclass(frozen=True)
class SmallErrors(Prioritized):
    """Priorities turned around."""

    def masses(self, errors: np.ndarray) -> np.ndarray:
        return 1 / super().masses(errors)


class Inverted(cliffwalk.Stochastic):
    config = SmallErrors(alpha=0.6, beta=0.0, beta_end=0.0)


# -- the task --------------------------------------------------------------------------------------


def test_true_values_by_hand():
    """gamma is 2/3; the right actions are 0, 1, 0."""
    expected = [4 / 9, 0, 0, 2 / 3, 1, 0]
    np.testing.assert_allclose(cliffwalk.true_values(3), expected, rtol=1e-12)
    assert cliffwalk.true_values(1).tolist() == [1, 0]


@pytest.mark.parametrize("n", [1, 2, 5, 10])
def test_the_memory_is_what_all_sequences_see(n):
    kinds = cliffwalk.memory(n, np.random.default_rng(0))
    assert len(kinds) == 2 ** (n + 1) - 2
    counts = np.zeros(2 * n, int)
    for actions in product((0, 1), repeat=n):
        for state, action in enumerate(actions):
            counts[2 * state + action] += 1
            if action != state % 2:
                break
    assert np.bincount(kinds).tolist() == counts.tolist()
    assert counts[cliffwalk.right_kinds(n)[-1]] == 1, "one transition has the reward"


@pytest.mark.parametrize("linear", [False, True])
def test_the_true_values_have_no_error_and_no_td_error(linear):
    learner = cliffwalk.QLearner(5, np.random.default_rng(0), linear)
    truth = cliffwalk.true_values(5)
    learner.own = (truth - np.tile(learner.bias, 5)).tolist()
    assert [learner.td_error(kind) for kind in range(10)] == pytest.approx([0] * 10)


def test_td_errors_by_hand():
    learner = cliffwalk.QLearner(2, np.random.default_rng(0))
    learner.own = [0.25, -0.5, 0.125, 0.75]
    # Right is 0, then 1; gamma is 1/2.
    assert [learner.td_error(kind) for kind in range(4)] == [0.25 - 0.375, -0.5, 0.125, -0.25]


@pytest.mark.parametrize("linear", [False, True])
def test_the_error_that_is_kept_is_the_error(linear):
    rng = np.random.default_rng(1)
    learner = cliffwalk.QLearner(6, rng, linear)
    for kind in rng.integers(12, size=500).tolist():
        error = learner.td_error(kind)
        before = learner.values()
        told = learner.squares + learner.change(kind, -0.25 * error)
        learner.learn(kind, error)
        off = learner.values() - cliffwalk.true_values(6)
        assert learner.squares == pytest.approx(told) == pytest.approx(np.square(off).sum())
        assert learner.mean_squared_error == pytest.approx(np.square(off).mean())
        moved = (2 if linear else 1) * -0.25 * error
        assert (learner.values() - before)[kind] == pytest.approx(moved)


def test_the_oracle_takes_the_best_and_greedy_the_largest():
    rng = np.random.default_rng(2)
    learner, kinds = cliffwalk.QLearner(4, rng), cliffwalk.memory(4, rng)
    best = kinds[cliffwalk.Oracle(kinds, learner, 0).choose()]
    left = []
    for kind in range(8):
        values = learner.values()
        values[kind] -= 0.25 * learner.td_error(kind)
        left.append(np.square(values - cliffwalk.true_values(4)).mean())
    assert best == np.argmin(left)
    greedy = cliffwalk.Greedy(kinds, learner, 0)
    for place in range(len(kinds)):
        greedy.observe(place, -0.5 if place == 11 else 0.1)
    assert greedy.choose() == 11


# -- what PER does there ---------------------------------------------------------------------------


def test_per_needs_far_fewer_updates_than_uniform_replay_and_small_errors_do_not():
    """In every seed; with priorities turned around, half of what uniform needs is not enough."""
    for seed in SEEDS:
        uniform = cliffwalk.updates_needed(cliffwalk.Uniform, N, seed)
        half = uniform // 2
        assert cliffwalk.updates_needed(cliffwalk.Stochastic, N, seed, limit=half) < half
        assert cliffwalk.updates_needed(Inverted, N, seed, limit=half) == math.inf


def test_the_oracle_needs_the_fewest():
    for seed in SEEDS:
        oracle = cliffwalk.updates_needed(cliffwalk.Oracle, N, seed)
        greedy = cliffwalk.updates_needed(cliffwalk.Greedy, N, seed)
        assert 2 * N < oracle < greedy < cliffwalk.updates_needed(cliffwalk.Uniform, N, seed)


def test_greedy_looks_at_every_transition_first():
    """New ones have the largest priority (section 3.2), so the memory's size is a floor."""
    for seed in SEEDS:
        assert cliffwalk.updates_needed(cliffwalk.Greedy, N, seed) >= 2 ** (N + 1) - 2


def test_a_sampler_without_an_algorithm_names_the_transition():
    sampler = PrioritizedSampler(Prioritized(), 4, seed=0)
    with pytest.raises(NonFiniteError, match="of transition 2 is not finite: the networks"):
        sampler.observe(np.array([2]), th.tensor([[math.nan]]))
