"""MVE's and STEVE's equations: hand cases, closed forms and a loop over all candidates."""

import itertools

import numpy as np
import pytest
import torch as th

from sb3_ext.plugins.steve.equations import (
    alive,
    expanded_values,
    inverse_variance_target,
    inverse_variance_weights,
    moments,
)
from sb3_ext.td import td_target

GENERATOR = np.random.default_rng(0)


def filled(*shape: int, like: float) -> th.Tensor:
    return th.full(shape, like, dtype=th.float64)


def test_the_hand_case():
    """r = 1, gamma 0.5, an imagined reward of 2, an end with 0.25, critics {4, 6} and {8, 12}.

    T_0 = {3, 4}; T_1 = 1 + 0.5 * 2 + 0.75 * 0.25 * {8, 12} = {3.5, 4.25}. Variances 0.25 and
    0.140625, weights 0.36 and 0.64, target 0.36 * 3.5 + 0.64 * 3.875 = 3.74.
    """
    continues = alive(filled(1, 1, 1, like=0.25))
    assert continues.flatten().tolist() == [1.0, 0.75]
    q_values = th.tensor([[4.0, 6.0], [8.0, 12.0]], dtype=th.float64).view(2, 2, 1, 1)
    values = expanded_values(
        filled(1, 1, 1, 1, like=2.0), continues, q_values, 0.5, filled(2, 1, 1, like=0.0)
    )
    one, none = filled(1, like=1.0), filled(1, like=0.0)
    candidates = td_target(one, none, 0.5, values)
    assert candidates.flatten().tolist() == [3.0, 4.0, 3.5, 4.25]
    means, variances = moments(candidates)
    assert means.flatten().tolist() == pytest.approx([3.5, 3.875])
    assert variances.flatten().tolist() == pytest.approx([0.25, 0.140625])
    assert inverse_variance_weights(variances).flatten().tolist() == pytest.approx([0.36, 0.64])
    assert inverse_variance_target(means, variances).item() == pytest.approx(3.74)


@pytest.mark.parametrize("horizon", [0, 1, 4])
def test_every_candidate_against_a_loop(horizon):
    models, rewards_n, critics, batch, gamma = 3, 2, 4, 5, 0.9
    ends = th.as_tensor(GENERATOR.random((horizon, models, batch)))
    rewards = th.as_tensor(GENERATOR.normal(size=(horizon, rewards_n, models, batch)))
    q_values = th.as_tensor(GENERATOR.normal(size=(horizon + 1, critics, models, batch)))
    bonus = th.as_tensor(GENERATOR.normal(size=(horizon + 1, models, batch)))
    found = expanded_values(rewards, alive(ends), q_values, gamma, bonus)
    assert found.shape == (horizon + 1, models, rewards_n, critics, batch)
    for i, m, n, k, b in itertools.product(*map(range, found.shape)):
        value, reached = 0.0, 1.0  # with what probability, discounted, a step is taken at all
        for j in range(i):
            value += reached * (rewards[j, n, m, b] + bonus[j, m, b]).item()
            reached *= gamma * (1 - ends[j, m, b].item())
        value += reached * (q_values[i, k, m, b] + bonus[i, m, b]).item()
        assert found[i, m, n, k, b].item() == pytest.approx(value)


def test_an_imagined_end_keeps_its_reward_and_drops_what_follows():
    """The first imagined step ends the episode: reward 1 stays, reward 2 and the bootstrap go."""
    ends = th.tensor([1.0, 0.0]).view(2, 1, 1)
    rewards = th.tensor([10.0, 100.0]).view(2, 1, 1, 1)
    q_values = th.tensor([3.0, 1e3, 1e4]).view(3, 1, 1, 1)
    found = expanded_values(rewards, alive(ends), q_values, 0.5, th.zeros(3, 1, 1))
    assert found.flatten().tolist() == [3.0, 10.0, 10.0]


def test_a_real_end_leaves_the_reward_alone_with_equal_weights():
    values = th.as_tensor(GENERATOR.normal(size=(3, 2, 2, 2, 1))) * 1e3
    end = filled(1, like=1.0)
    means, variances = moments(td_target(7 * end, end, 0.9, values))
    assert (means == 7).all() and (variances == 0).all()
    assert inverse_variance_weights(variances).flatten().tolist() == pytest.approx([1 / 3] * 3)
    assert inverse_variance_target(means, variances).item() == pytest.approx(7)


def test_a_horizon_on_which_all_agree_takes_all():
    values = th.as_tensor(GENERATOR.normal(size=(4, 2, 2, 2, 6)))
    values[2] = 5.0
    means, variances = moments(values)
    assert (inverse_variance_weights(variances)[2] > 1 - 1e-6).all()
    assert inverse_variance_target(means, variances).tolist() == pytest.approx([5.0] * 6, abs=1e-5)


def test_the_weights_have_the_least_variance_of_all_that_sum_to_one():
    """Of independent estimates: nothing nearby is better (Buckman et al. 2018, eq. 10)."""
    variances = th.tensor([[0.5], [2.0], [0.1]], dtype=th.float64)
    best = inverse_variance_weights(variances)
    least = (best.square() * variances).sum()
    assert least.item() == pytest.approx(1 / (1 / 0.5 + 1 / 2.0 + 1 / 0.1))
    for _ in range(50):
        other = best + th.as_tensor(GENERATOR.normal(size=(3, 1))) * 0.1
        other = other / other.sum()
        assert (other.square() * variances).sum() >= least


def test_moments_keep_their_digits_in_float32():
    """Values of 1e4 that differ by 0.01: their squares would lose the variance."""
    values = 1e4 + 0.01 * th.as_tensor(GENERATOR.normal(size=(2, 4, 4, 4, 3)))
    exact = values.flatten(1, 3)
    means, variances = moments(values.float())
    assert variances.double().numpy() == pytest.approx(exact.var(dim=1, correction=0), rel=0.2)
    assert means.double().numpy() == pytest.approx(exact.mean(dim=1), abs=1e-3)


@pytest.mark.parametrize("horizon", [1, 2, 3, 4])
def test_a_perfect_model_shrinks_the_target_s_error_by_gamma_to_the_2h(horizon):
    """On a ring of states with Q = V + 3 the error of V_H is 3 gamma^H (Feinberg et al. 2018)."""
    gamma, n = 0.9, 6
    reward = GENERATOR.normal(size=n)  # on leaving a state, to the next one of the ring
    move = np.roll(np.eye(n), 1, axis=1)
    value = np.linalg.solve(np.eye(n) - gamma * move, reward)
    paths = (np.arange(n) + np.arange(horizon + 1)[:, None]) % n
    found = expanded_values(
        th.as_tensor(reward[paths[:-1]]).view(horizon, 1, 1, n),
        alive(th.zeros(horizon, 1, n, dtype=th.float64)),
        th.as_tensor(value[paths] + 3).view(horizon + 1, 1, 1, n),
        gamma,
        th.zeros(horizon + 1, 1, n, dtype=th.float64),
    )
    errors = (found.flatten(1).numpy() - value) ** 2
    assert errors[-1] / errors[0] == pytest.approx([gamma ** (2 * horizon)] * n)


def test_a_linear_system_whose_q_is_known():
    """By the true model every horizon gives the same value, V(s) = -p s^2.

    s' = a s + b u, u = -k s, r = -s^2 - u^2: Q(s, u) = -(s^2 + u^2) - gamma p (a s + b u)^2 with
    p = (1 + k^2) / (1 - gamma (a - b k)^2).
    """
    a, b, k, gamma = 0.9, 0.5, 0.6, 0.95
    p = (1 + k**2) / (1 - gamma * (a - b * k) ** 2)
    states = [th.linspace(-2, 2, 7, dtype=th.float64)]
    for _ in range(5):
        states.append((a - b * k) * states[-1])
    path = th.stack(states)
    rewards = -(1 + k**2) * path[:-1].square()
    q_values = -(1 + k**2) * path.square() - gamma * p * ((a - b * k) * path).square()
    found = expanded_values(
        rewards[:, None, None],
        th.ones(6, 1, 7, dtype=th.float64),
        q_values[:, None, None],
        gamma,
        th.zeros(6, 1, 7, dtype=th.float64),
    ).flatten(1)
    truth = -p * path[0].square()
    assert th.allclose(found, truth.expand_as(found))
    wrong = expanded_values(
        rewards[:, None, None],
        th.ones(6, 1, 7, dtype=th.float64),
        q_values[:, None, None] + 3,
        gamma,
        th.zeros(6, 1, 7, dtype=th.float64),
    ).flatten(1)
    squares = (wrong - truth).square()
    shares = gamma ** (2 * th.arange(6, dtype=th.float64))
    assert th.allclose(squares / squares[0], shares[:, None].expand_as(squares))


def test_shapes_that_do_not_belong_together():
    rewards, q_values = th.zeros(2, 3, 4, 5), th.zeros(3, 2, 4, 5)
    good = th.zeros(3, 4, 5)
    with pytest.raises(ValueError, match=r"continues must have shape .* \[3, 4, 5\]"):
        expanded_values(rewards, th.zeros(2, 4, 5), q_values, 0.9, good)
    with pytest.raises(ValueError, match="bonus must have shape"):
        expanded_values(rewards, good, q_values, 0.9, th.zeros(3, 4, 1))
    with pytest.raises(ValueError, match=r"q_values must have shape .* \[3, L, 4, 5\]"):
        expanded_values(rewards, good, th.zeros(3, 4, 2, 5), 0.9, good)
    with pytest.raises(ValueError, match=r"\[H \+ 1, B\]"):
        inverse_variance_target(th.zeros(3, 2), th.zeros(3))
