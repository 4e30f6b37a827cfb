"""The four protocols of the BCQ paper."""

import numpy as np
import pytest
import torch as th
from stable_baselines3 import DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv

import sb3_ext
from sb3_ext.offline import (
    ConcurrentLearner,
    from_replay_buffer,
    record_final_buffer,
    record_imitation,
    record_imperfect_demonstrations,
)
from tests.offline.worlds import ACTIONS, Counting, Episode

th.set_num_threads(1)


def small(**options):
    """Made anew each time: SB3 writes into policy_kwargs."""
    return {"batch_size": 8, "policy_kwargs": {"net_arch": [8]}, "seed": 0, **options}


def ddpg(buffer_size=60, env=None, kind=DDPG, **options):
    given = small(**{"learning_starts": 8, "buffer_size": buffer_size, **options})
    return kind("MlpPolicy", env or Counting(), **given)


def vec(n_envs):
    return DummyVecEnv([lambda i=i: Counting(first=i, stride=n_envs) for i in range(n_envs)])


# -- final buffer --------------------------------------------------------------------------------


@pytest.mark.parametrize("n_envs", [1, 2])
def test_the_final_buffer_keeps_everything(n_envs):
    model = ddpg(env=vec(n_envs))
    dataset = record_final_buffer(model, 60)
    assert len(dataset) == 60
    acts = np.concatenate([env.unwrapped.acts for env in model.env.envs])
    assert np.allclose(dataset.actions, acts, atol=1e-6)
    assert dataset.source["protocol"] == "final_buffer"
    assert dataset.source["algorithm"] == "DDPG"
    assert model.action_noise is None  # as it was


def test_the_noise_of_the_final_buffer_is_in_scaled_units():
    """An actor that always says 0: what is recorded is the noise alone, clipped to [-1, 1]."""
    model = ddpg(2000, learning_starts=0, gradient_steps=0)
    with th.no_grad():
        for parameter in model.actor.parameters():
            parameter.zero_()
    record_final_buffer(model, 2000, noise_std=0.5)
    stored = model.replay_buffer.actions.reshape(-1)
    # Of a normal with 0.5, 2.275 % lie beyond each of -1 and 1: twice the standard deviation.
    assert np.mean(stored == 1) == pytest.approx(0.02275, abs=4 * np.sqrt(0.02275 / 4000))
    assert np.mean(np.abs(stored) < 0.5) == pytest.approx(0.6827, abs=4 * np.sqrt(0.22 / 4000))


def test_a_buffer_that_is_too_small_is_refused_before_training():
    model = ddpg(50)
    with pytest.raises(ValueError, match=r"keep everything: 60 .*room for 50.*buffer_size=60"):
        record_final_buffer(model, 60)
    assert model.num_timesteps == 0
    model = ddpg(70)
    model.learn(20)
    with pytest.raises(ValueError, match="buffer_size=80"):  # the first 20 lie in it
        record_final_buffer(model, 60)
    saving = ddpg(
        optimize_memory_usage=True, replay_buffer_kwargs={"handle_timeout_termination": False}
    )
    with pytest.raises(ValueError, match="optimize_memory_usage"):
        record_final_buffer(saving, 60)
    with pytest.raises(ValueError, match="must not be negative"):
        record_final_buffer(ddpg(), 60, noise_std=-1)


def test_discrete_actions_take_no_noise():
    model = DQN("MlpPolicy", "CartPole-v1", **small(learning_starts=8, buffer_size=60))
    with pytest.raises(ValueError, match="pass noise_std=None"):
        record_final_buffer(model, 60)
    dataset = record_final_buffer(model, 60, noise_std=None)
    assert len(dataset) == 60
    assert dataset.source["env_id"] == "CartPole-v1"


# -- concurrent ----------------------------------------------------------------------------------


def weights(model):
    return th.cat([p.detach().reshape(-1) for p in model.policy.parameters()])


def test_both_learn_from_the_same_buffer():
    model, learner = ddpg(), ddpg(kind=TD3)
    before = weights(learner)
    callback = ConcurrentLearner(learner)
    model.learn(40, callback=callback)
    assert learner.replay_buffer is model.replay_buffer
    assert learner.num_timesteps == 40
    assert learner._n_updates == model._n_updates == 32
    assert not th.equal(weights(learner), before)
    dataset = callback.dataset()
    assert len(dataset) == 40
    assert dataset.source["protocol"] == "concurrent"


@pytest.mark.parametrize("kind", [DDPG, SAC])
def test_the_behaviour_is_to_the_bit_what_it_would_be_alone(kind):
    alone, watched = ddpg(kind=kind), ddpg(kind=kind)
    learner = ddpg(kind=SAC, seed=5)
    alone.set_random_seed(0)
    alone.learn(40)
    watched.set_random_seed(0)
    watched.learn(40, callback=ConcurrentLearner(learner))
    assert th.equal(weights(alone), weights(watched))
    assert np.array_equal(alone.replay_buffer.actions, watched.replay_buffer.actions)


def test_the_learner_never_sees_what_is_not_there_yet():
    """Step by step: at its first update the buffer holds nine transitions, then one more each."""
    sizes = []
    learner = ddpg()
    train = learner.train
    learner.train = lambda gradient_steps, batch_size: (
        sizes.append((learner.replay_buffer.size(), gradient_steps)),
        train(gradient_steps, batch_size),
    )
    ddpg().learn(14, callback=ConcurrentLearner(learner))
    assert sizes == [(9, 1), (10, 1), (11, 1), (12, 1), (13, 1), (14, 1)]


def test_as_many_updates_as_the_behaviour_takes():
    # Two environments, -1: one update a transition. 12 steps of two: the first 4 are too early.
    model, learner = ddpg(env=vec(2), gradient_steps=-1), ddpg(env=vec(2))
    model.learn(24, callback=ConcurrentLearner(learner))
    assert learner._n_updates == model._n_updates == 16
    model, learner = ddpg(), ddpg()
    model.learn(20, callback=ConcurrentLearner(learner, gradient_steps=3, learning_starts=10))
    assert learner._n_updates == 3 * 10
    model, learner = ddpg(train_freq=(1, "episode"), gradient_steps=-1), ddpg()
    model.learn(24, callback=ConcurrentLearner(learner))
    assert learner._n_updates == model._n_updates


def test_a_dqn_learner_renews_its_target_and_ours_its_sampler():
    options = {"learning_starts": 8, "buffer_size": 60}
    model = DQN("MlpPolicy", "CartPole-v1", **small(**options))
    learner = DQN("MlpPolicy", "CartPole-v1", target_update_interval=10, **small(**options))
    model.learn(30, callback=ConcurrentLearner(learner))
    # At step 30 the target is renewed, and then the last update is made: not equal, but near.
    before = th.nn.utils.parameters_to_vector(learner.q_net_target.parameters())
    fresh = DQN("MlpPolicy", "CartPole-v1", **small(**options))
    start = th.nn.utils.parameters_to_vector(fresh.q_net_target.parameters())
    assert not th.equal(before, start)
    ours = ddpg(kind=sb3_ext.SAC, replay="per")
    ddpg().learn(30, callback=ConcurrentLearner(ours))
    assert ours._n_updates == 22


@pytest.mark.parametrize(
    ("learner", "error", "told"),
    [
        (lambda: ddpg(env=DummyVecEnv([lambda: Other()])), ValueError, "has the action_space"),
        (lambda: PPO("MlpPolicy", Counting()), TypeError, "must be an off-policy algorithm"),
    ],
)
def test_what_cannot_learn_with_it_is_refused(learner, error, told):
    with pytest.raises(error, match=told):
        ddpg().learn(10, callback=ConcurrentLearner(learner()))


def test_other_refusals():
    model = ddpg()
    with pytest.raises(ValueError, match="another model"):
        model.learn(10, callback=ConcurrentLearner(model))
    with pytest.raises(TypeError, match="needs a behaviour with a replay buffer"):
        PPO("MlpPolicy", Counting(), n_steps=8, batch_size=8).learn(
            8, callback=ConcurrentLearner(ddpg())
        )


class Other(Counting):
    action_space = type(ACTIONS)(-1.0, 1.0, (2,))


def test_a_ring_that_went_round_is_told():
    model = ddpg(30)
    callback = ConcurrentLearner(ddpg())
    model.learn(40, callback=callback)
    with pytest.warns(UserWarning, match="went round.* 30 are kept"):
        assert len(callback.dataset()) == 30


# -- imitation and imperfect demonstrations ------------------------------------------------------


def test_imitation_is_the_policy_without_noise():
    model = ddpg()
    dataset = record_imitation(model, vec(2), n_steps=30, seed=0)
    assert np.allclose(dataset.actions, model.predict(dataset.observations)[0], atol=1e-6)
    assert dataset.source["protocol"] == "imitation"


@pytest.mark.parametrize("n_envs", [1, 3])
def test_imperfect_demonstrations_have_errors_and_noise(n_envs):
    """A policy that always plays the middle of each range, so that the mixture can be counted."""
    n = 6000
    middle = (ACTIONS.low + ACTIONS.high) / 2
    episodes = (Episode(0, 100, "terminated"),)
    venv = DummyVecEnv([lambda: Counting(episodes)] * n_envs)
    policy = lambda seen: np.tile(middle, (len(seen), 1))  # noqa: E731
    dataset = record_imperfect_demonstrations(policy, venv, n_steps=n, seed=0)
    scaled = (dataset.actions - middle) / (ACTIONS.high - ACTIONS.low) * 2
    # |x| < 0.3 has probability 0.3 when uniform, 0.6827 for one standard deviation; 1 is 3.33.
    near = np.mean(np.abs(scaled) < 0.3, axis=0)
    expected = 0.3 * 0.3 + 0.7 * 0.6827
    assert near == pytest.approx(expected, abs=4 * np.sqrt(0.25 / n))
    # Uniform actions are drawn for the whole vector: both dimensions are then far out together.
    far = np.mean((np.abs(scaled) > 0.9).all(axis=1))
    assert far == pytest.approx(0.3 * 0.1**2, abs=4 * np.sqrt(0.003 / n))
    assert dataset.behavior_log_prob is None
    assert dataset.source["random_action_probability"] == 0.3


def test_without_errors_and_noise_it_is_imitation():
    model = ddpg()
    given = {"n_steps": 20, "seed": 0}
    clean = record_imperfect_demonstrations(
        model, Counting(), random_action_probability=0.0, noise_std=0.0, **given
    )
    assert np.allclose(
        clean.actions, record_imitation(model, Counting(), **given).actions, atol=1e-6
    )


def test_discrete_imperfect_demonstrations_know_their_probabilities():
    model = DQN("MlpPolicy", "CartPole-v1", **small(buffer_size=10))
    dataset = record_imperfect_demonstrations(model, n_steps=2000, seed=0)
    best = model.predict(dataset.observations, deterministic=True)[0]
    same = dataset.actions == best
    assert np.allclose(np.exp(dataset.behavior_log_prob), np.where(same, 0.85, 0.15))
    assert abs(same.mean() - 0.85) < 4 * np.sqrt(0.85 * 0.15 / 2000)


@pytest.mark.parametrize("options", [{"random_action_probability": 1.2}, {"noise_std": -0.1}])
def test_impossible_errors_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        record_imperfect_demonstrations(ddpg(), Counting(), n_steps=5, **options)


def test_a_recorded_buffer_reads_as_the_readers_do():
    model = ddpg()
    dataset = record_final_buffer(model, 60)
    again = from_replay_buffer(model.replay_buffer)
    assert (again.observations == dataset.observations).all()
