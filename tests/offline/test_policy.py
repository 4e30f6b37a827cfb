"""A policy recorded in an environment."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize, VecTransposeImage

from sb3_ext.offline import from_policy
from tests.offline.test_replay_buffer import played
from tests.offline.worlds import EPISODES, Counting, Episode, assert_is, behaviour, steps

th.set_num_threads(1)


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("n_steps", [1, 3, 7, 12])
def test_every_number_is_in_its_place(n_envs, n_steps):
    venv = DummyVecEnv([lambda i=i: Counting(first=i, stride=n_envs) for i in range(n_envs)])
    dataset = from_policy(behaviour, venv, n_steps=n_steps)
    each = -(-n_steps // n_envs)
    rows, terminated, truncated = [], set(), set()
    for env in range(n_envs):
        seen, ends, cuts = played(each, n_envs, env)
        rows += seen
        terminated |= ends
        truncated |= cuts if seen[-1] in ends else cuts | {seen[-1]}
    assert_is(dataset, rows, terminated, truncated)


def test_whole_episodes_are_shared_out_among_the_environments():
    """The second environment plays three episodes of one step while the first plays one of six."""
    long, short = Episode(0, 6, "terminated"), Episode(1, 1, "truncated")
    venv = DummyVecEnv([lambda: Counting((long,), first=0), lambda: Counting((short,), first=10)])
    dataset = from_policy(behaviour, venv, n_episodes=3)
    assert dataset.lengths().tolist() == [6, 1, 1]
    rows = [*steps(long), (10, 0), (11, 0)]
    assert_is(dataset, rows, {(0, 5)}, {(10, 0), (11, 0)})


def test_blocks_do_not_show(monkeypatch):
    monkeypatch.setattr("sb3_ext.offline.readers.policy._BLOCK", 4)
    dataset = from_policy(behaviour, Counting(), n_episodes=3)
    assert_is(dataset, steps(*EPISODES), {(0, 2), (2, 3)}, {(1, 4)})


def test_dict_observations_keep_the_real_last_one():
    env = Counting(dict_observations=True)
    dataset = from_policy(lambda seen: behaviour(seen["a"]), env, n_episodes=3)
    assert dataset.next_observations["b"].tolist() == [1, 2, 3, 1, 2, 3, 4, 5, 1, 2, 3, 4]
    assert dataset.next_observations["a"][:, 1].tolist() == [1, 2, 3, 1, 2, 3, 4, 5, 1, 2, 3, 4]


def test_vec_normalize_shows_the_policy_its_own_and_the_data_the_truth():
    venv = VecNormalize(DummyVecEnv([Counting]), clip_obs=0.5)
    venv.obs_rms.mean[:], venv.obs_rms.var[:] = 1.0, 4.0
    shown = []

    def policy(seen):
        shown.append(seen.copy())
        return np.zeros((1, 2), np.float32)

    dataset = from_policy(policy, venv, n_episodes=3)
    assert dataset.observations.astype(int).tolist() == [list(row) for row in steps(*EPISODES)]
    assert dataset.next_observations[7].tolist() == [1, 5]  # not clipped on its way
    assert dataset.rewards[:3].tolist() == [0, 1, 2]
    # (0 - 1) / 2 = -0.5; (1 - 1) / 2 = 0
    assert np.allclose(shown[1], [[-0.5, 0.0]], atol=1e-4)
    assert venv.obs_rms.mean.tolist() == [1, 1]


class Images(gym.Env):
    """Black, with channels last; pays 1 a step."""

    observation_space = spaces.Box(0, 255, (36, 36, 3), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros((36, 36, 3), np.uint8), {}

    def step(self, action):
        return np.zeros((36, 36, 3), np.uint8), 1.0, False, False, {}


def test_vec_normalize_under_other_wrappers():
    """SB3 itself wraps so: images turned, rewards normalised below."""
    below = VecNormalize(DummyVecEnv([Images]), norm_obs=False)
    below.ret_rms.var = np.array(100.0)
    dataset = from_policy(lambda seen: np.zeros(1, int), VecTransposeImage(below), n_steps=4)
    assert dataset.rewards.tolist() == [1] * 4
    assert below.ret_rms.var == 100
    assert below.training
    below.norm_obs = True
    with pytest.raises(ValueError, match="VecNormalize must be the outermost"):
        from_policy(lambda seen: np.zeros(1, int), VecTransposeImage(below), n_steps=4)


def test_recording_leaves_the_generators_and_the_training_alone():
    model = TD3("MlpPolicy", Counting(), buffer_size=50, learning_starts=40, seed=0)
    model.learn(4)  # into the second episode
    np.random.seed(7)
    th.manual_seed(7)
    from_policy(model, n_steps=6, seed=0)
    drawn = np.random.random(), th.rand(1).item()
    np.random.seed(7)
    th.manual_seed(7)
    assert drawn == (np.random.random(), th.rand(1).item())
    # It goes on from a reset: the environment is elsewhere than where training left it.
    model.learn(3, reset_num_timesteps=False)
    assert model.replay_buffer.observations[4, 0, 1] == 0


def test_the_same_seed_gives_the_same_data():
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, seed=0)
    one, two, other = (
        from_policy(model, "CartPole-v1", n_steps=60, seed=seed, n_envs=2) for seed in (1, 1, 2)
    )
    assert (one.observations == two.observations).all()
    assert (one.actions == two.actions).all()
    assert len(one) == 60
    assert other.observations[0].tolist() != one.observations[0].tolist()
    assert one.source["env_id"] == "CartPole-v1"
    assert one.source["policy"] == "PPO"


def test_the_models_own_environment_and_its_episodes():
    model = A2C("MlpPolicy", "CartPole-v1", seed=0)
    dataset = from_policy(model, n_episodes=4, seed=3)
    assert dataset.n_episodes == 4
    assert dataset.terminated.sum() == 4
    assert (dataset.returns() == dataset.lengths()).all()  # CartPole pays 1 a step


# -- probabilities -------------------------------------------------------------------------------


def test_discrete_probabilities_are_those_of_the_softmax():
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, seed=0)
    with th.no_grad():
        model.policy.action_net.bias += th.tensor([1.0, 0.0])
    dataset = from_policy(model, n_steps=200, seed=0)
    with th.no_grad():
        seen = th.as_tensor(dataset.observations)
        logits = model.policy.action_net(model.policy.mlp_extractor.forward_actor(seen)).numpy()
    exp = np.exp(logits)
    expected = np.log(exp[np.arange(200), dataset.actions] / exp.sum(axis=1))
    assert np.allclose(dataset.behavior_log_prob, expected, atol=1e-5)
    assert set(dataset.actions) == {0, 1}
    sure = from_policy(model, n_steps=20, seed=0, deterministic=True)
    assert (sure.behavior_log_prob == 0).all()


class Wide(Counting):
    """An action of two dimensions with ranges of 40 and 10."""

    action_space = spaces.Box(np.array([-20, 0], np.float32), np.array([20, 10], np.float32))


def test_a_gaussian_has_its_density_in_the_environments_units():
    env = Wide()
    env.action_space = spaces.Box(-100, 100, (2,))
    model = A2C("MlpPolicy", env, seed=0)
    dataset = from_policy(model, n_steps=50, seed=0)
    with th.no_grad():
        features = model.policy.mlp_extractor.forward_actor(th.as_tensor(dataset.observations))
        mean = model.policy.action_net(features).numpy()
    # log_std starts at 0: a standard normal around the mean.
    expected = -0.5 * ((dataset.actions - mean) ** 2).sum(axis=1) - np.log(2 * np.pi)
    assert np.allclose(dataset.behavior_log_prob, expected, atol=1e-4)


def test_actions_that_were_set_on_a_bound_have_no_density():
    model = A2C("MlpPolicy", Counting(), seed=0)  # the second range is [0, 1]: most are over it
    dataset = from_policy(model, n_steps=30, seed=0)
    assert dataset.behavior_log_prob is None
    assert "were set on a bound" in " ".join(dataset.source["notes"])
    assert ((dataset.actions >= [-2, 0]) & (dataset.actions <= [2, 1])).all()


def test_a_squashed_gaussian_has_its_density_in_the_environments_units():
    model = SAC("MlpPolicy", Wide(), seed=0, buffer_size=10)
    dataset = from_policy(model, n_steps=40, seed=0)
    low, high = Wide.action_space.low, Wide.action_space.high
    half = (high - low) / 2
    u = np.arctanh(np.clip((dataset.actions - low) / half - 1, -1 + 1e-6, 1 - 1e-6))
    with th.no_grad():
        mean, log_std, _ = model.actor.get_action_dist_params(th.as_tensor(dataset.observations))
    mean, std = mean.numpy(), np.exp(log_std.numpy())
    normal = -0.5 * ((u - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)
    # a = low + half * (1 + tanh(u)), so da/du = half * (1 - tanh(u) ** 2)
    expected = (normal - np.log(half * (1 - np.tanh(u) ** 2))).sum(axis=1)
    inside = (np.abs(np.tanh(u)) < 0.999).all(axis=1)
    assert inside.sum() > 20
    assert np.allclose(dataset.behavior_log_prob[inside], expected[inside], atol=2e-2)
    sure = from_policy(model, n_steps=10, deterministic=True)
    assert sure.behavior_log_prob is None


def test_epsilon_greedy():
    model = DQN("MlpPolicy", "CartPole-v1", seed=0, buffer_size=10)
    model.exploration_rate = 0.5
    dataset = from_policy(model, n_steps=2000, seed=0, n_envs=1)
    best = model.predict(dataset.observations, deterministic=True)[0]
    greedy = dataset.actions == best
    # 0.5 / 2 for any action, and 0.5 more for the best.
    assert np.allclose(np.exp(dataset.behavior_log_prob), np.where(greedy, 0.75, 0.25))
    assert abs(greedy.mean() - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 2000)
    assert (from_policy(model, n_steps=5, deterministic=True).behavior_log_prob == 0).all()


def test_a_function_may_tell_its_own():
    def coin(seen):
        return np.zeros((len(seen), 2), np.float32), np.full(len(seen), np.log(0.5))

    dataset = from_policy(coin, Counting(), n_steps=9)
    assert np.allclose(dataset.behavior_log_prob, np.log(0.5))
    assert from_policy(behaviour, Counting(), n_steps=9).behavior_log_prob is None


def test_unknown_where_it_is_not_one_density():
    sde = SAC("MlpPolicy", Counting(), use_sde=True, buffer_size=10, seed=0)
    td3 = TD3("MlpPolicy", Counting(), buffer_size=10, seed=0)
    for model in (sde, td3):
        assert from_policy(model, n_steps=9, seed=0).behavior_log_prob is None


# -- what is wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({}, ValueError, "either n_steps or n_episodes"),
        ({"n_steps": 1, "n_episodes": 1}, ValueError, "either n_steps or n_episodes"),
        ({"n_steps": 0}, ValueError, "at least one step"),
        ({"n_steps": 3, "policy": "ppo"}, TypeError, "got 'ppo'"),
        ({"n_steps": 3, "env": None}, ValueError, "no environment"),
    ],
)
def test_what_cannot_be_is_refused(options, error, told):
    given = {"policy": behaviour, "env": Counting()} | options
    with pytest.raises(error, match=told):
        from_policy(given.pop("policy"), given.pop("env"), **given)


def test_actions_out_of_bounds_are_refused():
    with pytest.raises(ValueError, match=r"3 of 3 transitions do not.*9 in \[0, 1\]"):
        from_policy(lambda seen: np.full((1, 2), 9.0), Counting(), n_steps=3)


def test_images_are_turned_as_the_policy_has_them():
    model = DQN("CnnPolicy", Images(), buffer_size=4)
    dataset = from_policy(model, Images(), n_steps=3)
    assert dataset.observation_space.shape == (3, 36, 36)
    dataset.require_fits(model)
