"""The world model: what it imagines against its own networks one by one, and what it learns."""

from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_ext.ensembles import member_batches
from sb3_ext.plugins.steve.world_model import Standardizer, WorldModel

GENERATOR = np.random.default_rng(1)


def world(n_models: int = 3, n_rewards: int = 2) -> WorldModel:
    th.manual_seed(0)
    made = WorldModel(4, 2, n_models, n_rewards, (16, 16))
    seen = th.randn(100, 4) * th.tensor([1.0, 10.0, 0.1, 3.0]) + 2
    made.observe(seen, seen + 0.3 * th.randn(100, 4), 5 * th.randn(100, 1) - 1)
    return made


def policy(states: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    return states[:, :2].tanh(), 0.1 * states[:, 2]


def test_statistics_of_batches_are_those_of_all_at_once():
    rows = th.randn(90, 3) * 4 + 7
    seen = Standardizer(3)
    for part in rows.split([10, 50, 30]):
        seen.observe(part)
    th.testing.assert_close(seen.mean, rows.mean(0))
    th.testing.assert_close(seen.std, rows.std(0, correction=0))
    th.testing.assert_close(seen.back(seen(rows)), rows)


def test_a_number_that_never_varies_is_left_in_its_units():
    seen = Standardizer(2)
    seen.observe(th.tensor([[1.0, 5.0], [3.0, 5.0]]))
    assert seen(th.tensor([[2.0, 6.0]])).tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((np.zeros((5, 4)), th.zeros(5, 2)), r"observations must be a tensor .*, got \[5, 4\]"),
        ((th.zeros(4), th.zeros(2)), r"observations must be a tensor of shape \[n, 4\], got \[4\]"),
        ((th.zeros(5, 4), th.zeros(5, 3)), r"actions must be a tensor of shape \[n, 2\]"),
        ((th.zeros(5, 4).double(), th.zeros(5, 2)), "observations must be of torch.float32"),
    ],
    ids=str,
)
def test_inputs_that_do_not_fit(given: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        world().predict(*given)
    if "observations" in told:
        with pytest.raises(ValueError, match=told):
            world().rollout(given[0], policy, 2)
    with pytest.raises(ValueError, match="horizon must be at least 0"):
        world().rollout(th.zeros(5, 4), policy, -1)


@pytest.mark.parametrize("constant", [0.1, 100.1, -1_234.5])
def test_what_rounding_varies_is_left_in_its_units(constant: float) -> None:
    seen = Standardizer(1)
    for _ in range(200):
        seen.observe(th.full((256, 1), constant))
    assert seen.std.item() == 1
    apart = Standardizer(1)
    apart.observe(constant + 0.001 * abs(constant) * th.randn(256, 1))
    assert apart.std.item() == pytest.approx(0.001 * abs(constant), rel=0.2)


@th.no_grad()
@pytest.mark.parametrize("horizon", [0, 1, 3])
def test_paths_against_networks_one_by_one(horizon):
    """One model for dynamics and ends of a whole path, and each reward model on every path."""
    model, seen = world(), th.randn(5, 4)
    found = model.rollout(seen, policy, horizon)
    assert found.rewards.shape == (horizon, 2, 3, 5)
    dynamics, ends = model.transitions.members(), model.ends.members()
    worth = model.rewards.members()
    state_of, step_of, reward_of = (
        model.observations_seen,
        model.differences_seen,
        model.rewards_seen,
    )
    for m in range(3):
        state, goes_on = seen, th.ones(5)
        for k in range(horizon + 1):
            action, bonus = policy(state)
            th.testing.assert_close(found.observations[k, m], state)
            th.testing.assert_close(found.actions[k, m], action)
            th.testing.assert_close(found.bonus[k, m], bonus)
            th.testing.assert_close(found.continues[k, m], goes_on)
            if k == horizon:
                break
            before = th.cat([state_of(state), action], 1)
            after = state + step_of.back(dynamics[m](before))
            joint = th.cat([state_of(after), before], 1)
            for n in range(2):
                reward = reward_of.back(worth[n](joint)).squeeze(1)
                th.testing.assert_close(found.rewards[k, n, m], reward)
            goes_on = goes_on * (1 - ends[m](joint).squeeze(1).sigmoid())
            state = after


@th.no_grad()
def test_predict_and_open_loop_are_the_same_steps():
    model, seen = world(), th.randn(5, 4)
    path = model.rollout(seen, policy, 2)
    following, rewards, ended = model.predict(seen, policy(seen)[0])
    th.testing.assert_close(following, path.observations[1])
    th.testing.assert_close(rewards, path.rewards[0])
    th.testing.assert_close(1 - ended, path.continues[1])
    fixed = th.rand(2, 5, 2)
    by_hand, _, _ = model.predict(seen, fixed[0])
    found = model.open_loop(seen, fixed)
    th.testing.assert_close(found[0], by_hand)
    for m in range(3):
        th.testing.assert_close(found[1, m], model.predict(by_hand[m], fixed[1])[0][m])


def test_losses_by_hand():
    """One member each: no split, so the losses are plain means."""
    model = world(1, 1)
    seen, actions = th.randn(6, 4), th.rand(6, 2)
    after, rewards = seen + th.randn(6, 4), th.randn(6, 1)
    dones = th.tensor([0.0, 1, 0, 0, 1, 0])[:, None]
    found = model.losses(seen, actions, after, rewards, dones)
    state = model.observations_seen(seen)
    before = th.cat([state, actions], 1)
    joint = th.cat([model.observations_seen(after), before], 1)
    missed = model.transitions(before)[0] - model.differences_seen(after - seen)
    ended = model.ends(joint)[0].sigmoid()
    entropy = -(dones * ended.log() + (1 - dones) * (1 - ended).log())
    off = model.rewards(joint)[0] - model.rewards_seen(rewards)
    th.testing.assert_close(found["transition"], 0.5 * missed.square().sum(1).mean())
    th.testing.assert_close(found["termination"], entropy.mean())
    th.testing.assert_close(found["reward"], 0.5 * off.square().mean())


def test_losses_of_several_members_against_a_loop():
    """Seven samples among three models and two reward models: parts that are not equal."""
    model = world(3, 2)
    seen, actions, after = th.randn(7, 4), th.rand(7, 2), th.randn(7, 4)
    rewards, dones = th.randn(7, 1), (th.rand(7, 1) < 0.5).float()
    found = model.losses(seen, actions, after, rewards, dones, th.Generator().manual_seed(4))
    generator = th.Generator().manual_seed(4)
    state = model.observations_seen(seen)
    before = th.cat([state, actions], 1)
    joint = th.cat([model.observations_seen(after), before], 1)
    sums = dict.fromkeys(("transition", "termination", "reward"), 0.0)
    for m, (rows, own) in enumerate(zip(*member_batches(7, 3, generator), strict=True)):
        for i in rows[own.bool()].tolist():
            missed = model.transitions.members()[m](before[i])
            missed = missed - model.differences_seen((after - seen)[i])
            sums["transition"] += 0.5 * missed.square().sum().item() / 7
            ended = model.ends.members()[m](joint[i]).sigmoid().item()
            right = ended if dones[i] else 1 - ended
            sums["termination"] -= np.log(right) / 7
    for n, (rows, own) in enumerate(zip(*member_batches(7, 2, generator), strict=True)):
        for i in rows[own.bool()].tolist():
            off = model.rewards.members()[n](joint[i]) - model.rewards_seen(rewards[i])
            sums["reward"] += 0.5 * off.square().item() / 7
    assert {name: one.item() for name, one in found.items()} == pytest.approx(sums, rel=1e-4)


def test_every_sample_trains_one_member_of_each_ensemble():
    """The gradient's sum over members for one sample comes from a single member."""
    model = world(3, 2)
    losses = model.losses(
        th.randn(1, 4), th.rand(1, 2), th.randn(1, 4), th.randn(1, 1), th.zeros(1, 1)
    )
    for name, ensemble in (("transition", model.transitions), ("reward", model.rewards)):
        (gradient,) = th.autograd.grad(losses[name], ensemble.weights[-1], retain_graph=True)
        moved = gradient.flatten(1).abs().sum(1) > 0
        assert moved.sum() == 1


def test_it_learns_a_system_with_rewards_and_ends():
    """s' = 0.9 s + a with an end beyond 2 and the reward -s'; three steps ahead, too."""
    th.manual_seed(0)
    model = WorldModel(1, 1, 2, 2, (32, 32))
    optimizer = th.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(600):
        seen, actions = 2 * th.randn(64, 1), 2 * th.rand(64, 1) - 1
        after = 0.9 * seen + actions
        data = (seen, actions, after, -after, (after > 2).float())
        model.observe(seen, after, -after)
        loss = th.stack(list(model.losses(*data).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with th.no_grad():
        seen = th.tensor([[-1.0], [0.0], [1.5]])
        path = model.rollout(seen, lambda s: (0 * s + 0.5, 0 * s[:, 0]), 3)
        following = 0.9 * seen + 0.5
        assert (path.observations[1] - following).abs().max() < 0.1
        assert (path.rewards[0].squeeze() + following.squeeze()).abs().max() < 0.1
        third = 0.9 * (0.9 * following + 0.5) + 0.5
        assert (path.observations[3] - third).abs().max() < 0.2
        far, near = th.tensor([[3.0]]), th.tensor([[0.0]])
        nothing = th.zeros(1, 1)
        assert (model.predict(far, nothing)[2] > 0.9).all()
        assert (model.predict(near, nothing)[2] < 0.1).all()
