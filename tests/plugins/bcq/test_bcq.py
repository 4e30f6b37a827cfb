"""Continuous BCQ: the gradient step, the dial between cloning and Q-learning, acting."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from sb3_ext import BCQ
from sb3_ext.offline import OfflineDataset
from sb3_ext.plugins.bcq.networks import resolve_net_arch
from sb3_ext.testing.environments import kit_env
from sb3_ext.testing.offline import kit_dataset

SMALL: dict[str, Any] = {"policy_kwargs": {"net_arch": [16]}, "seed": 0, "device": "cpu"}


def bandit(actions: np.ndarray, rewards: np.ndarray) -> OfflineDataset:
    """Episodes of one step in one state."""
    count = len(actions)
    state = np.zeros((count, 1), np.float32)
    return OfflineDataset(
        state,
        actions.reshape(count, 1).astype(np.float32),
        rewards,
        state,
        np.ones(count, bool),
        np.zeros(count, bool),
        np.arange(count),
        spaces.Box(-1, 1, (1,), np.float32),
        spaces.Box(-1, 1, (1,), np.float32),
    )


def two_modes(share: float) -> OfflineDataset:
    """A share of the actions is good (0.8), the others are bad (-0.8); none is in between."""
    rng = np.random.default_rng(0)
    good = rng.random(1000) < share
    actions = np.where(good, 0.8, -0.8) + rng.normal(0, 0.03, 1000)
    return bandit(np.clip(actions, -1, 1), np.where(good, 1.0, 0.0))


def set_to(network: th.nn.Sequential, value: list[float]) -> None:
    """Make a network's answer a constant."""
    last = [layer for layer in network if isinstance(layer, th.nn.Linear)][-1]
    with th.no_grad():
        last.weight.zero_()
        last.bias.copy_(th.tensor(value))


def test_the_papers_networks_are_the_default() -> None:
    model = BCQ("MlpPolicy", kit_env(), device="cpu")
    sizes = {
        name: [p.shape[0] for p in network.parameters() if p.ndim == 2]
        for name, network in (
            ("encoder", model.vae.encoder),
            ("decoder", model.vae.decoder),
            ("actor", model.actor.direction),
            ("critic", model.critic.q_networks[1]),
        )
    }
    assert sizes == {
        "encoder": [750, 750],
        "decoder": [750, 750, 2],
        "actor": [400, 300, 2],
        "critic": [400, 300, 1],
    }
    assert (model.vae.latent_dim, model.batch_size, model.gamma, model.tau) == (4, 100, 0.99, 0.005)
    assert {o.param_groups[0]["lr"] for o in model.optimizers()} == {1e-3}


@pytest.mark.parametrize(
    ("options", "fused", "foreach"),
    [
        ({}, True, None),
        ({"eps": 1e-5}, True, None),
        ({"foreach": True}, None, True),
        ({"fused": False}, False, True),  # the loop's choice, where nobody made another
    ],
)
def test_adam_goes_over_its_tensors_once_unless_the_user_chose(
    options: dict[str, Any], fused: bool | None, foreach: bool | None
) -> None:
    data = kit_dataset(kit_env())
    model = BCQ("MlpPolicy", dataset=data, policy_kwargs={"optimizer_kwargs": options})
    model.learn(1)
    for optimizer in model.optimizers():
        group = optimizer.param_groups[0]
        assert (group["fused"], group["foreach"]) == (fused, foreach)


def test_another_optimizer_is_made_as_it_is_asked_for() -> None:
    chosen = {"optimizer_class": th.optim.SGD, "optimizer_kwargs": {"momentum": 0.5}}
    model = BCQ("MlpPolicy", dataset=kit_dataset(kit_env()), policy_kwargs=chosen)
    model.learn(1)
    assert {type(o) for o in model.optimizers()} == {th.optim.SGD}
    assert {o.param_groups[0]["momentum"] for o in model.optimizers()} == {0.5}


def test_net_arch_takes_a_name_a_list_and_a_mapping() -> None:
    assert resolve_net_arch("small")["vae"] == [256, 256]
    assert resolve_net_arch([8]) == {"pi": [8], "qf": [8], "vae": [8]}
    with pytest.raises(ValueError, match="'paper', 'small'"):
        resolve_net_arch("tiny")
    with pytest.raises(ValueError, match="vae"):
        resolve_net_arch({"pi": [8], "qf": [8]})


def test_latents_are_clipped_not_drawn_again() -> None:
    model = BCQ("MlpPolicy", kit_env(), **SMALL)
    latents = model.vae.sample_latents(20_000)
    assert latents.abs().max() == 0.5
    on_the_bound = (latents.abs() == 0.5).float().mean().item()
    assert on_the_bound == pytest.approx(0.617, abs=0.01)


def test_the_target_by_hand() -> None:
    """Two candidates that decode alike; critics are set to 1 and 3, so the mixture is 1.5."""
    model = BCQ("MlpPolicy", dataset=kit_dataset(kit_env()), n_sampled_actions=2, **SMALL)
    for network, value in zip(model.critic_target.q_networks, ([1.0], [3.0]), strict=True):
        set_to(network, value)
    column = th.tensor([[1.0], [2.0]])
    observations = th.zeros(2, 3)
    batch = ReplayBufferSamples(
        observations, th.zeros(2, 2), observations, th.tensor([[0.0], [1.0]]), column
    )
    target = model.bellman_target(batch)
    assert target.flatten().tolist() == pytest.approx([1 + 0.99 * 1.5, 2.0])


@pytest.mark.parametrize(("states", "candidates"), [(5, 3), (60, 10)])
def test_the_target_asks_the_best_candidate_of_each_state(states: int, candidates: int) -> None:
    """Against a loop over states and candidates; of 600 of these, not all go at once."""
    data = kit_dataset(kit_env())
    model = BCQ("MlpPolicy", dataset=data, n_sampled_actions=candidates, **SMALL)
    batch: Any = model.replay_buffer.sample(states)  # type: ignore[union-attr]
    th.manual_seed(7)
    found = model.bellman_target(batch)
    th.manual_seed(7)
    latents = model.vae.sample_latents(states * candidates).reshape(states, candidates, -1)
    with th.no_grad():
        for row in range(states):
            values = []
            for latent in latents[row]:
                state = batch.next_observations[row : row + 1]
                action = model.vae.decode(state, latent[None])
                action = model.actor_target(state, action)
                q1, q2 = model.critic_target(state, action)
                values.append(0.75 * min(q1, q2) + 0.25 * max(q1, q2))
            expected = batch.rewards[row] + (1 - batch.dones[row]) * 0.99 * max(values)
            assert found[row].item() == pytest.approx(expected.item(), abs=1e-5)


def test_each_loss_trains_its_own_network_only() -> None:
    model = BCQ("MlpPolicy", dataset=kit_dataset(kit_env()), tau=0.0, **SMALL)
    batch: Any = model.replay_buffer.sample(16)  # type: ignore[union-attr]
    loss, _ = model._perturbation_loss(batch)
    loss.backward()
    assert all(p.grad is None for p in model.vae.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.actor.parameters())


def test_without_phi_and_with_one_candidate_it_clones() -> None:
    """The action is the decoder's, for the same latent, whatever the critic says."""
    model = BCQ("MlpPolicy", kit_env(), phi=0, n_eval_actions=1, **SMALL)
    observation = np.ones((4, 3), np.float32)
    actions, _ = model.predict(observation, deterministic=True)
    latents = model.policy._fixed_latents().repeat(4, 1)
    with th.no_grad():
        decoded = model.vae.decode(th.as_tensor(observation), latents).numpy()
    assert np.allclose(model.policy.scale_action(actions), decoded, atol=1e-6)


def test_with_a_constant_critic_it_samples_what_the_decoder_does() -> None:
    model = BCQ("MlpPolicy", kit_env(), phi=0, n_eval_actions=10, **SMALL)
    set_to(model.critic.q_networks[0], [2.0])
    observation = th.ones(1, 3)
    with th.no_grad():
        th.manual_seed(3)
        acted = model.policy(observation.repeat(2000, 1))
        th.manual_seed(4)
        latents = model.vae.sample_latents(2000)
        decoded = model.vae.decode(observation.repeat(2000, 1), latents)
    error = decoded.std(dim=0) * (2 / 2000) ** 0.5
    assert ((acted.mean(dim=0) - decoded.mean(dim=0)).abs() < 4 * error).all()
    assert th.allclose(acted.std(dim=0), decoded.std(dim=0), rtol=0.1)


@pytest.mark.parametrize(("phi", "reached"), [(2.0, 0.6), (0.05, -0.55)])
def test_phi_is_how_far_it_may_go(phi: float, reached: float) -> None:
    """Data at -0.6 only, and a critic that knows 0.6 to be best: Phi decides what is reached."""
    model = BCQ("MlpPolicy", dataset=bandit(np.full(64, -0.6), np.zeros(64)), phi=phi, **SMALL)

    class Hill(th.nn.Module):
        def forward(self, pairs: th.Tensor) -> th.Tensor:
            return -(pairs[:, 1:] - 0.6).square()

    model.critic.q_networks[0] = Hill()
    set_to(model.actor.direction, [0.0])  # beyond the clip there would be no gradient back
    set_to(model.vae.decoder, [float(np.arctanh(-0.6))])
    batch: Any = model.replay_buffer.sample(64)  # type: ignore[union-attr]
    for _ in range(600):
        loss, _ = model._perturbation_loss(batch)
        model.actor.optimizer.zero_grad()
        loss.backward()
        model.actor.optimizer.step()
    with th.no_grad():
        action = model.actor(th.zeros(1, 1), th.tensor([[-0.6]])).item()
    assert action == pytest.approx(reached, abs=0.02)


def test_deterministic_actions_are_the_same_in_another_process(tmp_path: Any) -> None:
    model = BCQ("MlpPolicy", kit_env(), **SMALL)
    model.save(tmp_path / "model")
    observation = np.ones((1, 3), np.float32)
    first, _ = model.predict(observation, deterministic=True)
    model.predict(observation)  # draws latents in between
    th.manual_seed(123)
    loaded = BCQ.load(tmp_path / "model", device="cpu")
    assert np.array_equal(first, loaded.predict(observation, deterministic=True)[0])


def test_bounds_by_dimension_are_kept() -> None:
    """Actions of the kit's environment lie in [-2, 1] and [0, 3]."""
    model = BCQ("MlpPolicy", dataset=kit_dataset(kit_env()), phi=2.0, **SMALL).learn(20)
    actions, _ = model.predict(np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32))
    assert (actions >= [-2, 0]).all() and (actions <= [1, 3]).all()
    assert actions[:, 1].max() > 1


@pytest.mark.parametrize(
    ("option", "value"),
    [("phi", 2.5), ("phi", -0.1), ("q_mix_lambda", 1.1), ("n_sampled_actions", 0)],
)
def test_options_out_of_range_are_refused(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=option):
        BCQ("MlpPolicy", kit_env(), **{option: value}, **SMALL)


TOY: dict[str, Any] = {"seed": 0, "device": "cpu", "policy_kwargs": {"net_arch": [64, 64]}}


def test_it_picks_the_good_mode_of_two() -> None:
    """Two actions in five are good: cloning takes either, BCQ the good ones."""
    data, state = two_modes(0.4), np.zeros((200, 1), np.float32)
    chosen = BCQ("MlpPolicy", dataset=data, n_eval_actions=20, **TOY).learn(1500)
    assert (chosen.predict(state)[0] > 0.25).mean() > 0.95
    clone = BCQ("MlpPolicy", dataset=data, phi=0, n_eval_actions=1, **TOY).learn(1500)
    assert 0.2 < (clone.predict(state)[0] > 0.25).mean() < 0.6


def test_a_rare_mode_is_beyond_the_clipped_latents() -> None:
    """One in five lies above the 80 % quantile of a latent, and 0.5 is its 69 % quantile."""
    model = BCQ("MlpPolicy", dataset=two_modes(0.2), **TOY).learn(1000)
    with th.no_grad():
        proposed = model.vae.decode(th.zeros(500, 1), model.vae.sample_latents(500))
        unclipped = model.vae.decode(th.zeros(500, 1), th.randn(500, 2))
    assert proposed.max() < 0 < unclipped.max()
