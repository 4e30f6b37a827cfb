"""Fitted Q evaluation against values that linear algebra gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_ext.offline.dataset import OfflineDataset
from sb3_ext.offline.fitted_q import fit_q
from tests.offline.tabular import BEHAVIOR, N_ACTIONS, N_STATES, TARGET, Episode, TabularMDP

MDP = TabularMDP(gamma=0.8)
LOG_TARGET = np.log(TARGET)


def target(observations, actions):
    return LOG_TARGET[observations, actions]


def full_coverage(times: int = 10) -> OfflineDataset:
    """Each pair with its successors exactly as often as they are probable."""
    episodes = []
    for state in range(N_STATES):
        for action in range(N_ACTIONS):
            row = MDP.transitions[state, action]
            for following in range(N_STATES):
                n = round(times * row[following])
                assert n == pytest.approx(times * row[following])
                episodes += [Episode(np.nan, [state], [action], False, following)] * n
            n = round(times * (1 - row.sum()))
            episodes += [Episode(np.nan, [state], [action], True, state)] * n
    return MDP.dataset(episodes)


def one_hot(observations, actions):
    return np.eye(N_STATES * N_ACTIONS)[observations * N_ACTIONS + actions]


@pytest.mark.parametrize("options", [{}, {"features": one_hot}], ids=["tabular", "linear"])
def test_on_full_coverage_it_is_exact(options):
    """Each episode is one step that a time limit cut: a time limit taken for an end would show."""
    q = fit_q(target, full_coverage(), MDP.gamma, **options)
    states, actions = np.divmod(np.arange(N_STATES * N_ACTIONS), N_ACTIONS)
    truth = MDP.q(TARGET)
    np.testing.assert_allclose(q.q(states, actions), truth[states, actions], atol=1e-6)
    np.testing.assert_allclose(q.value(np.arange(N_STATES)), (TARGET * truth).sum(1), atol=1e-6)


def test_a_network_comes_close_in_both_forms():
    data, truth = full_coverage(), MDP.q(TARGET)
    states, actions = np.divmod(np.arange(N_STATES * N_ACTIONS), N_ACTIONS)
    for options in ({"tau": 0.05}, {"tau": 1.0, "target_update_interval": 50}):
        q = fit_q(
            target, data, MDP.gamma, model="network", net_arch=(32,), n_steps=1200,
            batch_size=128, learning_rate=3e-3, **options,
        )  # fmt: skip
        found = q.q(states, actions)
        assert np.abs(found - truth[states, actions]).max() < 0.15 * np.ptp(truth)
        # Another policy's Q is further away than that.
        assert np.abs(found - MDP.q(BEHAVIOR)[states, actions]).max() > 0.3 * np.ptp(truth)


def test_pairs_without_data_are_zero_and_told():
    unseen = [one for one in MDP.enumerate(BEHAVIOR, 1) if (one.states, one.actions) != ([1], [0])]
    with pytest.warns(UserWarning, match=r"in 1 of 3 states .* never do .*0\.3\); their Q is set"):
        q = fit_q(target, MDP.dataset(unseen), MDP.gamma)
    assert q.q(np.array([1]), np.array([0]))[0] == 0.0


def test_features_that_depend_on_each_other_are_told():
    doubled = lambda s, a: np.concatenate([one_hot(s, a)] * 2, axis=1)  # noqa: E731
    with pytest.warns(UserWarning, match="tell 6 of 12 coefficients"):
        q = fit_q(target, full_coverage(), MDP.gamma, features=doubled)
    np.testing.assert_allclose(q.value(np.arange(3)), (TARGET * MDP.q(TARGET)).sum(1), atol=1e-6)


# -- continuous actions: the reward is the action, the policy N(0.5, 0.1) --------------------------


class Fixed:
    """A Gaussian around ``mean``; densities are not needed here."""

    def __init__(self, mean: float, std: float) -> None:
        self.mean, self.std = mean, std

    def log_prob(self, observations, actions):
        flat = (actions[:, 0] - self.mean) / self.std
        return -0.5 * flat**2 - np.log(self.std * np.sqrt(2 * np.pi))

    def sample(self, observations):
        return np.random.normal(self.mean, self.std, (len(next(iter(observations.values()))), 1))


def continuous(n: int = 400, dict_observations: bool = True) -> OfflineDataset:
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (n, 1)).astype(np.float32)
    observations = {"a": np.zeros((n, 2), np.float32), "b": rng.integers(0, 3, n)}
    return OfflineDataset(
        observations=observations,
        actions=actions,
        rewards=actions[:, 0],
        next_observations={"a": observations["a"], "b": np.roll(observations["b"], 1)},
        terminated=np.zeros(n, bool),
        truncated=np.arange(n) % 5 == 4,
        episode_starts=np.arange(0, n, 5),
        observation_space=spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Discrete(3)),
        action_space=spaces.Box(-1, 1, (1,)),
    )


def test_continuous_actions_and_dict_observations():
    """Q(s, a) = a + gamma * 0.5 / (1 - gamma) = a + 0.5 at gamma 1/2, whatever the state."""
    data, policy = continuous(), Fixed(0.5, 0.1)
    actions = np.linspace(-0.9, 0.9, 7)[:, None].astype(np.float32)
    states = {key: values[:7] for key, values in data.observations.items()}
    np.random.seed(0)
    linear = fit_q(
        policy, data, 0.5, features=lambda s, a: np.stack([a[:, 0], np.ones(len(a))], axis=1),
        n_action_samples=50,
    )  # fmt: skip
    np.testing.assert_allclose(linear.q(states, actions), actions[:, 0] + 0.5, atol=0.01)
    np.testing.assert_allclose(linear.value(states), 1.0, atol=0.05)
    network = fit_q(policy, data, 0.5, net_arch=(32,), n_steps=800, learning_rate=3e-3, tau=0.05)
    np.testing.assert_allclose(network.q(states, actions), actions[:, 0] + 0.5, atol=0.1)


def test_the_same_seed_fits_the_same_network():
    data, policy = continuous(), Fixed(0.5, 0.1)
    ends = [
        fit_q(policy, data, 0.5, net_arch=(8,), n_steps=20, seed=seed).network.state_dict()
        for seed in (1, 1, 2)
    ]
    assert th.equal(ends[0]["mlp.0.weight"], ends[1]["mlp.0.weight"])
    assert not th.equal(ends[0]["mlp.0.weight"], ends[2]["mlp.0.weight"])


def test_divergence_is_told():
    data = continuous()
    with pytest.warns(UserWarning, match="it diverged"):
        fit_q(
            Fixed(900.0, 0.1), data, 0.99, net_arch=(8,), n_steps=400, learning_rate=0.01, tau=1.0
        )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gamma": 1.0}, r"gamma in \[0, 1\), got 1.0"),
        ({"model": "linear"}, "needs features="),
        ({"model": "forest"}, "must be one of"),
        ({"model": "tabular"}, "needs Discrete observations"),
        ({"features": lambda s, a: np.ones(len(a))}, r"one row a transition, \[400, k\]"),
        ({"features": lambda s, a: np.full((len(a), 1), np.nan)}, "finite"),
        ({"n_steps": 0}, "n_steps must be at least 1"),
        ({"tau": 0.0}, r"tau must lie in \(0, 1\]"),
    ],
)
def test_what_cannot_be_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        fit_q(Fixed(0, 1), continuous(), **options)


def test_options_of_another_model_are_refused():
    with pytest.raises(TypeError, match=r"\['n_steps'\] are options of model='network'"):
        fit_q(target, full_coverage(), 0.5, n_steps=5)
