"""Importance sampling against hand calculation, and against every episode that can happen."""

from __future__ import annotations

import numpy as np
import pytest

from sb3_ext.offline.importance import (
    by_episode,
    discounted_returns,
    doubly_robust,
    effective_sample_size,
    importance_sampling,
    log_weights,
    normalized_weights,
    per_decision,
)
from tests.offline.tabular import BEHAVIOR, N_ACTIONS, N_STATES, TARGET, TabularMDP

# Two episodes, gamma 0.5: rewards 1, 2 with ratios 2, 1/2; and reward 4 with ratio 3.
STARTS = np.array([0, 2])
REWARDS = by_episode([1, 2, 4], STARTS)
RATIOS = by_episode(np.log([2, 0.5, 3]), STARTS)
Q_TAKEN = by_episode([1.5, 1, 3], STARTS)
VALUES = np.array([[2.0, 1.0, 0.0], [5.0, 0.0, 0.0]])
MDP = TabularMDP()
HORIZON = 4


def test_flat_values_become_one_row_an_episode():
    np.testing.assert_array_equal(REWARDS, [[1, 2], [4, 0]])
    np.testing.assert_array_equal(by_episode([1, 2, 4], np.array([0, 1]), -1), [[1, -1], [2, 4]])


@pytest.mark.parametrize(
    ("estimator", "normalize", "contributions"),
    [
        # Weights of the episodes 2 * 1/2 = 1 and 3; returns 1 + 0.5 * 2 = 2 and 4.
        (importance_sampling, False, [2, 12]),
        (importance_sampling, True, [1 / 2 * 2, 3 / 2 * 4]),
        # 2 * 1 + 0.5 * 1 * 2
        (per_decision, False, [3, 12]),
        # Mean weights 2.5 at the first step and 2 at the second, where the short episode keeps 3.
        (per_decision, True, [0.8 * 1 + 0.5 * 0.5 * 2, 1.2 * 4]),
    ],
)
def test_two_episodes_by_hand(estimator, normalize, contributions):
    found = estimator(REWARDS, RATIOS, 0.5, normalize=normalize)
    np.testing.assert_allclose(found, contributions, rtol=1e-14)


def test_doubly_robust_by_hand():
    # DR_1 = 1 + 0.5 * (2 - 1) = 1.5; DR_0 = 2 + 2 * (1 + 0.5 * 1.5 - 1.5) = 2.5.  5 + 3 * (4 - 3).
    found = doubly_robust(REWARDS, RATIOS, Q_TAKEN, VALUES, 0.5)
    np.testing.assert_allclose(found, [2.5, 8], rtol=1e-14)


def test_doubly_robust_adds_the_value_at_the_cut():
    values = VALUES.copy()
    values[0, 2] = 4.0  # cut after two steps: 0.5 ** 2 * (2 * 1/2) * 4 = 1 more
    values[1, 1] = 6.0  # after one: 0.5 * 3 * 6 = 9 more
    found = doubly_robust(REWARDS, RATIOS, Q_TAKEN, values, 0.5)
    np.testing.assert_allclose(found, [3.5, 17], rtol=1e-14)


def test_weighted_doubly_robust_by_hand():
    # t = 0: V with weight 1; weights 0.8, 1.2. t = 1: V with 0.8, 1.2; weights 0.5, 1.5.
    first = 2 + 0.8 * (1 - 1.5) + 0.5 * (0.8 * 1 + 0.5 * (2 - 1))
    second = 5 + 1.2 * (4 - 3)
    found = doubly_robust(REWARDS, RATIOS, Q_TAKEN, VALUES, 0.5, normalize=True)
    np.testing.assert_allclose(found, [first, second], rtol=1e-14)


def test_doubly_robust_is_the_recursion_of_the_paper():
    rng = np.random.default_rng(0)
    rewards, ratios, q = rng.normal(size=(3, 7, 5))
    values = rng.normal(size=(7, 6))
    recursion = values[:, -1]
    for t in reversed(range(5)):
        recursion = values[:, t] + np.exp(ratios[:, t]) * (
            rewards[:, t] + 0.9 * recursion - q[:, t]
        )
    np.testing.assert_allclose(doubly_robust(rewards, ratios, q, values, 0.9), recursion, rtol=1e-9)


def test_without_a_q_function_doubly_robust_is_per_decision():
    zeros = np.zeros_like(REWARDS)
    for normalize in (False, True):
        np.testing.assert_allclose(
            doubly_robust(REWARDS, RATIOS, zeros, np.zeros((2, 3)), 0.5, normalize=normalize),
            per_decision(REWARDS, RATIOS, 0.5, normalize=normalize),
            rtol=1e-14,
        )


def test_on_policy_every_estimator_is_the_mean_return():
    zeros = np.zeros_like(REWARDS)
    returns = discounted_returns(REWARDS, 0.5)
    np.testing.assert_array_equal(returns, [2, 4])
    for estimator in (importance_sampling, per_decision):
        for normalize in (False, True):
            found = estimator(REWARDS, zeros, 0.5, normalize=normalize)
            np.testing.assert_array_equal(found, returns)
    assert effective_sample_size(log_weights(zeros)[:, -1]) == 2


# -- bias and variance, exactly --------------------------------------------------------------------


def all_episodes(mdp=MDP, behavior=BEHAVIOR, target=TARGET, q=None, horizon=HORIZON):
    """Probabilities of all episodes, and what the estimators take."""
    episodes = list(mdp.enumerate(behavior, horizon))
    probabilities = np.array([one.probability for one in episodes])
    assert probabilities.sum() == pytest.approx(1)
    q = np.zeros((N_STATES, N_ACTIONS)) if q is None else q
    return probabilities, mdp.arrays(episodes, behavior, target, q)


def moments(probabilities, contributions):
    mean = probabilities @ contributions
    return mean, probabilities @ (contributions - mean) ** 2


@pytest.mark.parametrize("estimator", [importance_sampling, per_decision])
def test_the_expectation_is_the_value_within_the_horizon(estimator):
    probabilities, arrays = all_episodes()
    mean, _ = moments(probabilities, estimator(arrays["rewards"], arrays["log_ratios"], MDP.gamma))
    assert mean == pytest.approx(MDP.value(TARGET, HORIZON), abs=1e-12)
    # The horizon and the policy both matter here, so the test can fail.
    assert abs(mean - MDP.value(TARGET)) > 0.05
    assert abs(mean - MDP.value(BEHAVIOR, HORIZON)) > 0.05


def test_doubly_robust_with_a_wrong_q_is_unbiased_within_the_horizon():
    wrong = np.random.default_rng(1).normal(size=(N_STATES, N_ACTIONS)) * 3
    probabilities, arrays = all_episodes(q=wrong)
    values = arrays["values"].copy()
    lengths = (arrays["q_taken"] != 0).sum(1)
    values[np.arange(len(values)), lengths] = 0.0
    arrays["values"] = values
    mean, _ = moments(probabilities, doubly_robust(**arrays, gamma=MDP.gamma))
    assert mean == pytest.approx(MDP.value(TARGET, HORIZON), abs=1e-12)


def test_doubly_robust_with_the_value_at_the_cut_sees_the_infinite_horizon():
    """With the exact Q; per-decision weights alone see four steps of it."""
    probabilities, arrays = all_episodes(q=MDP.q(TARGET))
    mean, variance = moments(probabilities, doubly_robust(**arrays, gamma=MDP.gamma))
    assert mean == pytest.approx(MDP.value(TARGET), abs=1e-12)
    _, without = moments(
        probabilities, per_decision(arrays["rewards"], arrays["log_ratios"], MDP.gamma)
    )
    assert variance < without / 2


def test_where_nothing_is_random_but_the_actions_an_exact_q_leaves_no_variance():
    following = np.array([[1, 2], [2, 0], [0, 1]])
    mdp = TabularMDP(transitions=np.eye(N_STATES)[following], start=np.array([1.0, 0, 0]))
    probabilities, arrays = all_episodes(mdp, q=mdp.q(TARGET))
    mean, variance = moments(probabilities, doubly_robust(**arrays, gamma=mdp.gamma))
    assert mean == pytest.approx(mdp.value(TARGET), abs=1e-12)
    assert variance == pytest.approx(0, abs=1e-20)


def test_per_decision_has_less_variance_where_rewards_come_first():
    """Later ratios are then noise of mean 1 and no more, so it must be so."""
    probabilities, arrays = all_episodes()
    rewards = arrays["rewards"].copy()
    rewards[:, 1:] = 0.0
    whole = moments(probabilities, importance_sampling(rewards, arrays["log_ratios"], 0.9))
    single = moments(probabilities, per_decision(rewards, arrays["log_ratios"], 0.9))
    assert whole[0] == pytest.approx(single[0], abs=1e-12)
    assert whole[1] > 1.5 * single[1]


@pytest.mark.parametrize("estimator", [importance_sampling, per_decision])
def test_self_normalised_weights_are_biased_and_consistent(estimator):
    probabilities, arrays = all_episodes(horizon=2)
    rewards, ratios = arrays["rewards"], arrays["log_ratios"]
    truth = MDP.value(TARGET, 2)
    # One episode: the weight cancels, so it is the behaviour's value.
    alone = [
        estimator(rewards[[i]], ratios[[i]], 0.9, normalize=True)[0] for i in range(len(rewards))
    ]
    bias_of_one = probabilities @ np.array(alone) - truth
    assert bias_of_one == pytest.approx(MDP.value(BEHAVIOR, 2) - truth, abs=1e-12)
    # Two episodes, over all pairs: less, but there.
    pairs = [
        (p * q, estimator(rewards[[i, j]], ratios[[i, j]], 0.9, normalize=True).mean())
        for i, p in enumerate(probabilities)
        for j, q in enumerate(probabilities)
    ]
    bias_of_two = sum(p * estimate for p, estimate in pairs) - truth
    assert 0.02 < abs(bias_of_two) < abs(bias_of_one)
    # Very many: as often as they are probable, which is the limit.
    counts = np.round(probabilities * 20_000).astype(int)
    many = estimator(rewards.repeat(counts, 0), ratios.repeat(counts, 0), 0.9, normalize=True)
    assert many.mean() == pytest.approx(truth, abs=2e-3)


# -- numbers that get out of hand ------------------------------------------------------------------


def test_two_thousand_steps_stay_in_floating_point():
    ratios = np.stack([np.full(2000, 1.0), np.full(2000, -1.0)])
    rewards = np.ones_like(ratios)
    for estimator in (importance_sampling, per_decision):
        with pytest.raises(OverflowError, match=r"e\^2000.*too far apart.*[Ss]elf-normalised"):
            estimator(rewards, ratios, 0.99)
        assert np.isfinite(estimator(rewards, ratios, 0.99, normalize=True)).all()
    # All the weight is the first episode's.
    weighted = importance_sampling(rewards, ratios, 0.99, normalize=True)
    assert weighted.mean() == pytest.approx(discounted_returns(rewards, 0.99)[0])


@pytest.mark.parametrize(
    ("weights", "size"),
    [([1, 1, 1, 1], 4), ([1, 0, 0], 1), ([3, 1], 16 / 10), ([0, 0], 0)],
)
def test_effective_sample_size_by_hand(weights, size):
    with np.errstate(divide="ignore"):
        logs = np.log(np.array(weights, float))
    assert effective_sample_size(logs) == pytest.approx(size)
    assert effective_sample_size(logs + 5000) == pytest.approx(size), "only ratios count"


def test_an_action_the_target_never_takes_ends_an_episode_s_weight():
    ratios = np.array([[-np.inf, 3.0], [0.0, 0.0]])
    rewards = np.ones((2, 2))
    np.testing.assert_array_equal(importance_sampling(rewards, ratios, 1.0), [0, 2])
    np.testing.assert_array_equal(importance_sampling(rewards, ratios, 1.0, normalize=True), [0, 4])
    nobody = np.full((2, 2), -np.inf)
    np.testing.assert_array_equal(normalized_weights(nobody), np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: by_episode([[1.0]], np.array([0])), "must be flat"),
        (lambda: by_episode([1.0, 2.0], np.array([0, 2])), "stay below 2"),
        (lambda: by_episode([1.0, 2.0], np.array([1])), "ascend from 0"),
        (lambda: by_episode([1.0, 2.0], np.array([0, 1, 1])), "ascend from 0"),
        (lambda: log_weights(np.array([[np.inf]])), "the behaviour's probability of an action"),
        (lambda: log_weights(np.array([[np.nan, 0]])), "1 of 2 log ratios"),
        (lambda: importance_sampling(REWARDS, RATIOS[:1], 0.9), "one shape"),
        (lambda: per_decision(REWARDS[0], RATIOS[0], 0.9), "one shape"),
        (lambda: per_decision(REWARDS, RATIOS, 1.1), r"gamma must lie in \[0, 1\], got 1.1"),
        (lambda: doubly_robust(REWARDS, RATIOS, Q_TAKEN, Q_TAKEN, 0.9), "one column more"),
    ],
)
def test_what_cannot_be_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
