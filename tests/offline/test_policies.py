"""The probabilities that policies give: against SB3's own, closed forms, and integrals."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC, CrossQ, MaskablePPO, RecurrentPPO
from scipy.stats import norm

from sb3_ext.offline import OfflineDataset, from_policy
from sb3_ext.offline.policies import as_policy
from sb3_ext.offline.regression import estimate_behavior
from tests.environments import Drift, make_env
from tests.offline.recorded import record
from tests.offline.tabular import BEHAVIOR, N_STATES, TabularMDP


def small():
    """Made anew each time: SB3 writes into ``policy_kwargs``."""
    return {"policy_kwargs": {"net_arch": [8]}, "seed": 0, "device": "cpu"}


def on_policy(kind: str = "box", discrete: bool = False, policy: str = "MlpPolicy"):
    return sb3.PPO(policy, make_env(kind, discrete=discrete), n_steps=8, batch_size=8, **small())


@pytest.mark.parametrize("kind", ["box", "dict", "image"])
def test_actor_critic_policies_of_discrete_actions(kind):
    name = {"box": "MlpPolicy", "dict": "MultiInputPolicy", "image": "CnnPolicy"}[kind]
    model, data = on_policy(kind, True, name), record(kind, discrete=True, n=40)
    policy = as_policy(model, data)
    chances = policy.probabilities(data.observations)
    assert chances.shape == (40, 3)
    np.testing.assert_allclose(chances.sum(1), 1, rtol=1e-5)
    found = policy.log_prob(data.observations, data.actions)
    np.testing.assert_allclose(found, np.log(chances[np.arange(40), data.actions]), rtol=1e-4)
    seen = model.policy.obs_to_tensor(data.observations)[0]
    _, stock, _ = model.policy.evaluate_actions(seen, th.as_tensor(data.actions))
    np.testing.assert_allclose(found, stock.detach().numpy(), rtol=1e-5)


def test_a_clipped_gaussian_has_probabilities_on_the_bounds():
    model, data = on_policy(), record(n=4)
    data.actions[:] = [[0.5, -1.0], [2.0, 0.0], [-2.0, 2.0], [1.9, -1.9]]
    with th.no_grad():
        model.policy.log_std.fill_(0.3)
        seen = model.policy.obs_to_tensor(data.observations)[0]
        mean = model.policy.get_distribution(seen).distribution.mean.numpy()
    expected, std = np.zeros((4, 2)), np.exp(0.3)
    for row, column in np.ndindex(4, 2):
        action, law = data.actions[row, column], norm(mean[row, column], std)
        tail = {2.0: law.logsf(2.0), -2.0: law.logcdf(-2.0)}
        expected[row, column] = tail.get(float(action), law.logpdf(action))
    found = as_policy(model, data).log_prob(data.observations, data.actions)
    np.testing.assert_allclose(found, expected.sum(1), rtol=1e-5)


class Lopsided(gym.Env):
    """One continuous action in [-2, 3]: neither centred nor of unit scale."""

    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Box(-2, 3, (1,))

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, True, False, {}


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        (sb3.SAC, {}),
        (sb3.SAC, {"use_sde": True}),
        (TQC, {}),
        (CrossQ, {}),
        (sb3.PPO, {"n_steps": 8, "batch_size": 8}),
        (sb3.A2C, {"use_sde": True, "squash": True}),
    ],
    ids=["sac", "sac-sde", "tqc", "crossq", "ppo", "a2c-squashed"],
)
def test_densities_integrate_to_one_in_the_environment_s_units(algorithm, options):
    """So the tanh's Jacobian and that of the scale are in them, and no probability is lost."""
    extra = {"net_arch": [8]} | ({"squash_output": True} if "squash" in options else {})
    model = algorithm(
        "MlpPolicy", Lopsided(), seed=0, device="cpu", policy_kwargs=extra,
        **{key: value for key, value in options.items() if key != "squash"},
    )  # fmt: skip
    grid = np.linspace(-2, 3, 20_001, dtype=np.float32)[:, None]
    data = OfflineDataset(
        observations=np.zeros((2, 2), np.float32),
        actions=np.zeros((2, 1), np.float32),
        rewards=np.zeros(2),
        next_observations=np.zeros((2, 2), np.float32),
        terminated=np.array([False, True]),
        truncated=np.zeros(2, bool),
        episode_starts=np.array([0]),
        observation_space=Lopsided.observation_space,
        action_space=Lopsided.action_space,
    )
    policy = as_policy(model, data)
    chance = np.exp(policy.log_prob(np.zeros((len(grid), 2), np.float32), grid))
    total = np.trapezoid(chance[1:-1], grid[1:-1, 0])
    if not model.policy.squash_output:
        total += chance[0] + chance[-1]
    assert total == pytest.approx(1, abs=2e-3)
    drawn = policy.sample(np.zeros((4000, 2), np.float32))
    mean = np.trapezoid(chance[1:-1] * grid[1:-1, 0], grid[1:-1, 0])
    if not model.policy.squash_output:
        mean += 3 * chance[-1] - 2 * chance[0]
    if not getattr(model, "use_sde", False):  # whose noise is drawn once, not for each action
        assert drawn.mean() == pytest.approx(mean, abs=4 * drawn.std() / np.sqrt(4000))


@pytest.mark.parametrize("algorithm", [sb3.DQN, QRDQN])
def test_greedy_policies_need_an_epsilon(algorithm):
    model, data = algorithm("MlpPolicy", make_env(discrete=True), **small()), record(discrete=True)
    with pytest.raises(ValueError, match=r"is greedy.* say\s+epsilon="):
        as_policy(model, data)
    greedy = model.predict(data.observations, deterministic=True)[0]
    policy = as_policy(model, data, epsilon=0.3)
    expected = np.where(data.actions == greedy, 0.7 + 0.1, 0.1)
    found = policy.log_prob(data.observations, data.actions)
    np.testing.assert_allclose(np.exp(found), expected, rtol=1e-9)
    drawn = np.array([policy.sample(data.observations) == greedy for _ in range(40)])
    assert drawn.mean() == pytest.approx(0.8, abs=0.02)
    none = as_policy(model, data, epsilon=0.0).log_prob(data.observations, 2 - greedy)
    assert (none[greedy != 1] == -np.inf).all()
    with pytest.raises(ValueError, match=r"epsilon must lie in \[0, 1\], got 2"):
        as_policy(model, data, epsilon=2)


def test_deterministic_policies_have_no_probabilities_but_actions():
    model, data = sb3.TD3("MlpPolicy", make_env(), **small()), record()
    policy = as_policy(model, data)
    with pytest.raises(TypeError, match=r"TD3Policy is deterministic .* methods=\(\"fqe\",\)"):
        policy.log_prob(data.observations, data.actions)
    np.testing.assert_array_equal(
        policy.sample(data.observations), model.predict(data.observations, deterministic=True)[0]
    )


def test_observations_pass_through_the_model_s_normalisation():
    model = sb3.PPO("MlpPolicy", make_env(normalize=True), n_steps=64, batch_size=64, **small())
    model.learn(64)
    data, env = record(n=50), model.get_vec_normalize_env()
    policy = as_policy(model, data)
    seen = model.policy.obs_to_tensor(env.normalize_obs(data.observations))[0]
    _, stock, _ = model.policy.evaluate_actions(seen, th.as_tensor(data.actions))
    inside = (abs(data.actions) < 2).all(1)
    found = policy.log_prob(data.observations, data.actions)
    np.testing.assert_allclose(found[inside], stock.detach().numpy()[inside], rtol=1e-5)


def test_functions_are_held_to_be_log_probabilities():
    data = record(discrete=True, n=20)
    uniform = as_policy(lambda s, a: np.full(len(a), -np.log(3)), data)
    np.testing.assert_allclose(uniform.probabilities(data.observations), 1 / 3)
    for function, words in (
        (lambda s, a: np.full(len(a), 1 / 3), "did it return probabilities"),
        (lambda s, a: np.full(len(a), -0.5), "sum to 1 over the actions, got a sum of 1.82"),
        (lambda s, a: np.zeros((len(a), 1)), r"shape \[20\], got \[20, 1\]"),
        (lambda s, a: np.full(len(a), np.nan), "NaN"),
    ):
        with pytest.raises(ValueError, match=words):
            as_policy(function, data).probabilities(data.observations)
    continuous = as_policy(lambda s, a: np.zeros(len(a)), record(n=20))
    with pytest.raises(TypeError, match=r"Pass an object that has sample\(observations\)"):
        continuous.sample(data.observations)


@pytest.mark.parametrize("algorithm", [MaskablePPO, RecurrentPPO])
def test_policies_that_need_more_than_the_observation_are_refused(algorithm):
    name = "MlpPolicy" if algorithm is MaskablePPO else "MlpLstmPolicy"
    model = algorithm(name, make_env(discrete=True), n_steps=8, batch_size=8, **small())
    with pytest.raises(TypeError, match=r"acts on more than the observation"):
        as_policy(model, record(discrete=True, n=20), epsilon=0.1)


def test_what_is_no_policy_or_of_another_space_is_refused():
    with pytest.raises(TypeError, match=r"must be a model or policy of SB3.* got int"):
        as_policy(3, record(n=20))
    with pytest.raises(ValueError, match="do not fit each other"):
        as_policy(on_policy(discrete=True), record(n=20))


@pytest.mark.parametrize("algorithm", ["PPO", "SAC", "DQN"])
def test_probabilities_are_those_that_were_recorded(algorithm):
    """The recorder computes them as it acts, from its own code."""
    discrete = algorithm != "SAC"
    options = {"n_steps": 8, "batch_size": 8} if algorithm == "PPO" else {}
    env = make_env(discrete=discrete)
    model = getattr(sb3, algorithm)("MlpPolicy", env, **options, **small())
    if algorithm == "DQN":
        model.exploration_rate = 0.25  # as it is in the midst of training
    data = from_policy(model, make_env(discrete=discrete), n_steps=200, seed=1)
    policy = as_policy(model, data, epsilon=0.25)
    found = policy.log_prob(data.observations, data.actions)
    differences = np.abs(found - data.behavior_log_prob)
    # A squashed action next to a bound has few digits left as a float32, from which tanh is undone.
    inside = (discrete | (np.abs(data.actions) < 1.99)).reshape(len(data), -1).all(axis=1)
    assert differences[inside].max() < 5e-3
    assert differences.max() < 0.2
    assert inside.mean() > 0.9


# -- behaviours that are estimated -----------------------------------------------------------------


def test_counts_are_the_most_likely_tabular_behaviour():
    mdp = TabularMDP()
    episodes = mdp.sample(BEHAVIOR, 1000, 5, np.random.default_rng(1))
    data = mdp.dataset(episodes)
    policy = estimate_behavior(data)
    for state in range(N_STATES):
        share = data.actions[data.observations == state].mean()
        found = policy.probabilities(np.array([state]))[0]
        np.testing.assert_allclose(found, [1 - share, share])
        assert share == pytest.approx(BEHAVIOR[state, 1], abs=0.06)


def test_a_gaussian_behaviour_is_found():
    """a ~ N(0.3 * x, 0.4), clipped at 2: mean, spread and the mass on the bound."""
    rng, n = np.random.default_rng(0), 3000
    x = rng.uniform(-3, 3, (n, 1)).astype(np.float32)
    actions = np.clip(rng.normal(0.6 * x, 0.4), -2, 1.5).astype(np.float32)
    data = OfflineDataset(
        observations=x, actions=actions, rewards=np.zeros(n), next_observations=x,
        terminated=np.zeros(n, bool), truncated=np.arange(n) % 10 == 9,
        episode_starts=np.arange(0, n, 10), observation_space=spaces.Box(-3, 3, (1,)),
        action_space=spaces.Box(-2, 1.5, (1,)),
    )  # fmt: skip
    policy = estimate_behavior(data, net_arch=(32,), n_steps=1500, learning_rate=3e-3)
    points = np.array([[-2.0], [0.0], [1.0], [2.5]], np.float32)
    taken = np.array([[-1.0], [0.3], [0.6], [1.5]], np.float32)
    expected = [norm(-1.2, 0.4).logpdf(-1.0), norm(0, 0.4).logpdf(0.3)]
    expected += [norm(0.6, 0.4).logpdf(0.6), norm(1.5, 0.4).logsf(1.5)]
    np.testing.assert_allclose(policy.log_prob(points, taken), expected, atol=0.15)


def test_a_softmax_behaviour_is_found_and_the_global_generators_are_left_alone():
    chances = np.array([0.6, 0.3, 0.1])
    rng = np.random.default_rng(0)
    data = record(discrete=True, n=1500, policy=lambda seen: int(rng.choice(3, p=chances)))
    th.manual_seed(0)
    before = th.get_rng_state()
    policy = estimate_behavior(data, net_arch=(8,), n_steps=600, learning_rate=3e-3)
    assert th.equal(before, th.get_rng_state())
    assert isinstance(data.action_space, spaces.Discrete) and isinstance(Drift(), gym.Env)
    found = policy.probabilities(data.observations).mean(0)
    np.testing.assert_allclose(found, chances, atol=0.05)


def test_other_action_spaces_are_refused():
    data = record(discrete=True, n=20)
    several = OfflineDataset(
        **{
            **{key: getattr(data, key) for key in ("observations", "next_observations", "rewards")},
            **{key: getattr(data, key) for key in ("terminated", "truncated", "episode_starts")},
        },
        actions=np.zeros((20, 2), np.int64),
        observation_space=data.observation_space,
        action_space=spaces.MultiDiscrete([2, 2]),
    )
    with pytest.raises(TypeError, match="Discrete and Box actions"):
        estimate_behavior(several)
