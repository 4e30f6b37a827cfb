"""What a gradient step leaves behind, and what a variant can replace in it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import stable_baselines3 as sb3
import torch as th

from sb3_ext import DDPG, DQN, QRDQN, SAC, TD3, TQC, Composable, CrossQ
from sb3_ext.td import weighted_huber_error
from sb3_ext.updates import Clock
from tests.environments import make_env

BASES = (SAC, TD3, DDPG, DQN, TQC, QRDQN, CrossQ)
ERROR_BASES = (SAC, TD3, DDPG, DQN, CrossQ)
SMALL: dict[str, Any] = {"policy_kwargs": {"net_arch": [8, 8]}, "seed": 0, "device": "cpu"}
SMALL |= {"learning_starts": 20, "batch_size": 16, "buffer_size": 200}


def learned(cls: Any, **kwargs: Any) -> Any:
    env = make_env(discrete=cls.supported_actions != Composable.supported_actions)
    return cls("MlpPolicy", env, **copy.deepcopy(SMALL) | kwargs).learn(60)


def drawn(model: Any) -> Any:
    np.random.seed(1)
    samples = model.replay_view.draw(16, Clock(0, 1, 0.5)).samples
    model.clock = Clock(0, 1, 0.5)
    th.manual_seed(1)
    model.policy.set_training_mode(True)
    return samples


def estimate(model: Any, batch: Any) -> th.Tensor:
    """The critics' values ``[B, n_critics]`` of the batch, by SB3's own networks."""
    with th.no_grad():
        if isinstance(model, DQN):
            return model.q_net(batch.observations).gather(1, batch.actions.long())
        if isinstance(model, QRDQN):
            return model.quantile_net(batch.observations).mean(1).gather(1, batch.actions.long())
        if isinstance(model, TQC):
            return model.critic(batch.observations, batch.actions).mean(2)
        return th.cat(model.critic(batch.observations, batch.actions), dim=1)


@pytest.mark.parametrize("cls", BASES)
def test_the_td_error_is_estimate_minus_target_from_before_the_step(cls: Any) -> None:
    model = learned(cls)
    batch = drawn(model)
    before = copy.deepcopy(model)
    error = model.gradient_step(batch, th.ones(16, 1)).td_error
    assert not error.requires_grad
    assert error.shape == (16, {SAC: 2, TD3: 2, TQC: 2, CrossQ: 2}.get(cls, 1))
    if cls is CrossQ:  # its estimate depends on the target's half of the batch
        return
    drawn(before)
    if cls in (SAC, TQC):  # the actor's draw for s comes first
        before.actor.action_log_prob(batch.observations)
    target = before.bellman_target(batch)
    expected = estimate(before, batch) - target.mean(dim=1, keepdim=True)
    th.testing.assert_close(error, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("cls", "width"), [(TQC, 2 * 25 - 2 * 2), (QRDQN, 200), (DQN, 1)])
def test_a_distributional_target_has_a_row_of_quantiles_a_sample(cls: Any, width: int) -> None:
    model = learned(cls)
    assert model.bellman_target(drawn(model)).shape == (16, width)


@pytest.mark.parametrize("cls", BASES)
def test_a_variant_replaces_the_target(cls: Any) -> None:
    class Pessimist(cls):
        def bellman_target(self, batch: Any, **joint: Any) -> th.Tensor:
            return super().bellman_target(batch, **joint) * 0 - 1000

    assert learned(cls).gradient_step(drawn(learned(cls)), th.ones(16, 1)).td_error.max() < 100
    model = learned(cls)
    model.__class__ = Pessimist
    assert model.gradient_step(drawn(model), th.ones(16, 1)).td_error.min() > 900


@pytest.mark.parametrize("cls", ERROR_BASES)
def test_a_variant_replaces_the_critics_loss(cls: Any) -> None:
    class Robust(cls):
        def critic_error(self, errors: th.Tensor, weights: th.Tensor) -> th.Tensor:
            return weighted_huber_error(errors, weights, threshold=1e-3)

    losses = {}
    for kind in (cls, Robust):
        model = learned(cls)
        model.__class__ = kind
        metrics = model.gradient_step(drawn(model), th.ones(16, 1)).metrics
        losses[kind] = metrics.get("critic_loss", metrics.get("loss")).item()
    assert 0 < losses[Robust] < 0.05 * losses[cls]


def test_a_base_that_does_not_say_its_loss_is_told() -> None:
    with pytest.raises(NotImplementedError, match="QRDQN must say in critic_error"):
        learned(QRDQN).critic_error(th.ones(1, 2, 1), th.ones(2, 1))


# -- double Q-learning -----------------------------------------------------------------------------


def q_networks(model: Any, online: list[float], target: list[float]) -> None:
    """Let both networks give the same values in every state."""
    for network, values in ((model.q_net, online), (model.q_net_target, target)):
        last = network.q_net[-1]
        with th.no_grad():
            last.weight.zero_()
            last.bias.copy_(th.tensor(values))


@pytest.mark.parametrize(("double_q", "value"), [(False, 7.0), (True, 2.0)])
def test_under_double_q_the_online_network_chooses_and_the_target_network_values(
    double_q: bool, value: float
) -> None:
    model = learned(DQN, double_q=double_q, gamma=0.5)
    q_networks(model, online=[0.0, 3.0, 1.0], target=[7.0, 2.0, 5.0])
    batch = drawn(model)
    expected = batch.rewards + (1 - batch.dones) * 0.5 * value
    th.testing.assert_close(model.bellman_target(batch), expected)


# -- CrossQ ----------------------------------------------------------------------------------------


def test_crossqs_target_alone_is_that_of_the_step_and_moves_no_statistics() -> None:
    model = learned(CrossQ)
    batch = drawn(model)
    before = [buffer.clone() for buffer in model.policy.buffers()]
    alone = model.bellman_target(batch)
    assert all(th.equal(a, b) for a, b in zip(before, model.policy.buffers(), strict=True))
    drawn(model)  # the same random numbers again
    joint = model.joint_pass(batch)
    assert th.equal(alone, model.bellman_target(batch, joint=joint))
    now = list(model.critic.buffers())
    assert any(not th.equal(a, b) for a, b in zip(before[-len(now) :], now, strict=True))
    error = th.cat(joint.q_values, dim=1) - alone
    model = learned(CrossQ)
    step = model.gradient_step(drawn(model), th.ones(16, 1))
    th.testing.assert_close(step.td_error, error.detach())


def test_no_gradient_comes_back_from_crossqs_next_states() -> None:
    model = learned(CrossQ)
    joint = model.joint_pass(drawn(model))
    assert all(value.requires_grad for value in joint.q_values)
    assert not any(value.requires_grad for value in joint.next_q_values)
    assert not joint.next_log_prob.requires_grad


# -- value networks --------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", BASES)
def test_the_value_optimizer_learns_the_value_network(cls: Any) -> None:
    model = learned(cls)
    learns = {id(p) for group in model.value_optimizer.param_groups for p in group["params"]}
    assert learns <= {id(p) for p in model.value_network.parameters()}
    assert model.value_optimizer in model.optimizers()
    batch = drawn(model)
    network = model.value_network
    features = network.extract_features(batch.observations, network.features_extractor)
    assert features.shape == (16, 3)


@pytest.mark.parametrize(
    ("ours", "stock"),
    [
        (SAC, sb3.SAC),
        (DQN, sb3.DQN),
        (TQC, sb3_contrib.TQC),
        (QRDQN, sb3_contrib.QRDQN),
        (CrossQ, sb3_contrib.CrossQ),
    ],
)
def test_what_is_logged_has_the_names_of_stock_sb3(ours: Any, stock: Any) -> None:
    logged = []
    for cls in (ours, stock):
        env = make_env(discrete="DQN" in cls.__name__)
        model = cls("MlpPolicy", env, **copy.deepcopy(SMALL))
        model.set_logger(sb3.common.logger.configure(None, []))
        model.learn(80, log_interval=10_000)
        logged.append({k: v for k, v in model.logger.name_to_value.items() if "train/" in k})
    assert logged[0].keys() == logged[1].keys()
    for name, value in logged[1].items():
        assert logged[0][name] == pytest.approx(value, rel=1e-4), name
