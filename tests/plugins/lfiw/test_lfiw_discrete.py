"""LFIW on discrete actions, and on the bases whose critic is no pair of Q-functions."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from stable_baselines3.common.logger import configure

from sb3_ext import DQN, LFIWDQN, QRDQN, TQC, CrossQ, LikelihoodFree
from sb3_ext.plugins.lfiw.weighting import LikelihoodFreeWeighting
from sb3_ext.updates import Clock, Draw
from tests.environments import make_env

PLAIN: dict[str, Any] = {"learning_starts": 20, "batch_size": 32, "buffer_size": 200, "seed": 0}
PLAIN |= {"policy_kwargs": {"net_arch": [16, 16]}, "device": "cpu"}
LFIW: dict[str, Any] = {"fast_buffer_size": 40, "ratio_net_arch": (16, 16)}


def small(cls: Any = LFIWDQN, env: Any = None, policy: str = "MlpPolicy", **kwargs: Any) -> Any:
    options = copy.deepcopy(PLAIN | (LFIW if cls is LFIWDQN else {})) | kwargs
    return cls(policy, make_env(discrete=True) if env is None else env, **options)


def parameters(model: Any) -> list[th.Tensor]:
    return [p.detach().clone() for p in model.policy.parameters()]


def same(one: Any, other: Any) -> bool:
    return all(th.equal(a, b) for a, b in zip(parameters(one), parameters(other), strict=True))


def test_its_weights_are_active_on_cartpole() -> None:
    model = small(env="CartPole-v1", train_freq=1, ratio_learning_rate=1e-3)
    model.learn(150)
    assert model.weigher.updates > 100
    assert model.weigher.metrics()["lfiw/active"] == 1
    replay = model.replay_view
    draw = replay.draw(64, Clock(0, 1, 1.0))
    weights = model.weigher.weigh(draw, replay)
    assert weights.mean().item() == pytest.approx(1, abs=1e-5)
    assert weights.std() > 1e-3
    plain = small(DQN, env="CartPole-v1", train_freq=1).learn(150)
    assert not same(model, plain)


def test_until_the_slow_buffer_outgrows_the_fast_one_it_is_stock_dqn_to_the_bit() -> None:
    ours = small(fast_buffer_size=199, train_freq=1)
    with pytest.warns(UserWarning, match="weights will stay at 1"):
        ours.learn(199)
    assert same(ours, small(sb3.DQN, train_freq=1).learn(199))


@pytest.mark.parametrize("newest", [0, 1, 2])
@pytest.mark.parametrize("n_envs", [1, 2])
def test_the_action_of_the_newer_policy_is_recognised(newest: int, n_envs: int) -> None:
    """The same states throughout; older rows hold two actions, the newest only the third."""
    env = make_env(discrete=True, n_envs=n_envs)
    model = small(
        env=env, buffer_size=2400, fast_buffer_size=400, batch_size=128, ratio_learning_rate=3e-3
    )
    model.set_logger(configure(None, []))
    buffer, rng = model.replay_buffer, np.random.default_rng(0)
    older = np.array([action for action in range(3) if action != newest])
    rows = 2400 // n_envs
    for row in range(rows):
        observation = rng.normal(size=(n_envs, 3))
        fast = row >= rows - 400 // n_envs
        actions = np.full((n_envs, 1), newest) if fast else rng.choice(older, (n_envs, 1))
        nothing = np.zeros(n_envs)
        buffer.add(observation, observation, actions, nothing, nothing, [{}] * n_envs)
    model.train(gradient_steps=150, batch_size=128)

    replay = model.replay_view
    samples: Any = replay.gather(replay.window.indices()[:512])
    state, ratios = samples.observations[:1].expand(512, 3), []
    for action in range(3):
        asked = samples._replace(actions=th.full((512, 1), action))
        with th.no_grad():
            inputs = (
                model.weigher._features(asked.observations),
                model.weigher._actions(asked.actions),
            )
            ratios.append(model.weigher.network(*inputs).mean().item())
    assert ratios[newest] > max(ratios[action] for action in older) + 0.5
    # And in one batch of equal states, the newer action weighs more.
    actions = th.as_tensor(np.arange(512) % 3)[:, None]
    mixed = samples._replace(observations=state, actions=actions)
    weights = model.weigher.weigh(Draw(mixed, th.ones(512, 1)), replay)
    means = [weights[actions == action].mean().item() for action in range(3)]
    assert means[newest] > 1.1 * max(means[action] for action in older)
    assert model.weigher.metrics()["lfiw/holdout_accuracy"] > 0.8


def test_the_ratio_network_sees_a_discrete_action_as_one_hot() -> None:
    model = small()
    assert model.weigher.network.layers[0].in_features == 3 + 3
    codes = model.weigher._actions(th.tensor([[0], [2], [1]]))
    assert codes.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert codes.dtype == th.float32


def test_images_are_weighed_by_the_q_networks_encoder() -> None:
    kwargs = {"net_arch": [8], "features_extractor_kwargs": {"features_dim": 6}}
    env = make_env("image", discrete=True)
    model = small(env=env, policy="CnnPolicy", policy_kwargs=kwargs).learn(60)
    assert model.weigher.network.layers[0].in_features == 6 + 3
    for parameter in model.q_net.features_extractor.parameters():
        parameter.grad = None
    replay = model.replay_view
    model.weigher.weigh(replay.draw(8, Clock(0, 1, 1.0)), replay)
    assert all(p.grad is None for p in model.q_net.features_extractor.parameters())


@pytest.mark.parametrize("cls", [DQN, QRDQN, TQC, CrossQ])
def test_the_other_bases_take_it_as_a_weighting(cls: Any) -> None:
    env = make_env(discrete=cls in (DQN, QRDQN))
    model = small(cls, env, train_freq=1, weighting=LikelihoodFree(**LFIW)).learn(100)
    assert isinstance(model.weigher, LikelihoodFreeWeighting)
    assert model.weigher.metrics()["lfiw/active"] == 1
    if cls is DQN:
        assert same(model, small(train_freq=1).learn(100))


def test_the_learning_rate_follows_the_q_networks_schedule() -> None:
    model = small(learning_rate=lambda progress: 1e-3 * (0.5 + progress / 2)).learn(100)
    rate = model.weigher.optimizer.param_groups[0]["lr"]
    assert rate == model.policy.optimizer.param_groups[0]["lr"] < 6e-4


def test_double_q_is_an_argument_of_it_too() -> None:
    assert small(double_q=True).double_q
