"""ACER's policy as SB3's users ask an actor-critic policy, in the environment's units."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env
from torch.distributions import Categorical, Normal

from sb3_ext import ACER
from sb3_ext.offline import evaluate_policy_offline, from_policy, from_replay_buffer
from sb3_ext.plugins.acer.policies import ACERPolicy

SEEN = spaces.Box(-1, 1, (3,), np.float32)
SPACES: dict[str, Any] = {
    "Discrete": spaces.Discrete(4),
    "MultiDiscrete": spaces.MultiDiscrete([3, 2]),
    "Box": spaces.Box(np.array([-2, 0], np.float32), np.array([1, 3], np.float32)),
    "matrix": spaces.Box(-2, 3, (2, 2), np.float32),
}
every_space = pytest.mark.parametrize("kind", SPACES)
shared = pytest.mark.parametrize("share", [True, False])


def policy_of(kind: str, share: bool = True) -> ACERPolicy:
    th.manual_seed(0)
    kwargs: dict[str, Any] = {"share_features_extractor": share, "ortho_init": False}
    return ACERPolicy(SEEN, SPACES[kind], lambda _: 1e-3, net_arch=[8], action_std=0.4, **kwargs)


def expected_of(policy: ACERPolicy, kind: str, seen: Any, actions: Any) -> tuple[Any, Any, Any]:
    """Values, log probabilities and entropies by torch's distributions, from the raw heads."""
    outputs, _, latent = policy.heads(seen)
    values = policy.value_net(latent)
    if kind == "Discrete":
        made = Categorical(logits=outputs)
        return (made.probs * values).sum(1), made.log_prob(actions), made.entropy()
    if kind == "MultiDiscrete":
        parts = [Categorical(logits=part) for part in outputs.split([3, 2], dim=1)]
        logs = [one.log_prob(actions[:, i]) for i, one in enumerate(parts)]
        return values[:, 0], sum(logs), sum(one.entropy() for one in parts)
    space = SPACES[kind]
    low, high = (th.as_tensor(one.reshape(-1)) for one in (space.low, space.high))
    normal = Normal(low + (outputs + 1) / 2 * (high - low), 0.4 * (high - low) / 2)
    flat = actions.reshape(len(actions), -1)
    return values[:, 0], normal.log_prob(flat).sum(1), normal.entropy().sum(1)


@every_space
@shared
def test_it_answers_as_sb3s_policies_do(kind: str, share: bool) -> None:
    policy, seen = policy_of(kind, share), th.randn(50, 3)
    actions, values, log_prob = policy(seen)
    assert actions.shape == (50, *SPACES[kind].shape)
    wanted, logs, entropy = expected_of(policy, kind, seen, actions)
    assert values.shape == (50, 1) and th.allclose(values[:, 0], wanted, atol=1e-5)
    assert th.allclose(policy.predict_values(seen), values, atol=1e-6)
    assert log_prob.shape == (50,) and th.allclose(log_prob, logs, atol=1e-4)
    again = policy.evaluate_actions(seen, actions)
    assert again[2] is not None
    for found, by_hand in zip(again, (values, logs, entropy), strict=True):
        assert found.shape == by_hand.shape and th.allclose(found, by_hand, atol=1e-4)
    flat = actions.reshape(50, -1).squeeze(1)
    assert th.allclose(policy.get_distribution(seen).log_prob(flat), logs, atol=1e-4)
    mode = policy(seen, deterministic=True)[0]
    best = policy.get_distribution(seen).get_actions(deterministic=True)
    assert th.allclose(mode.reshape(50, -1), best.reshape(50, -1))
    assert th.allclose(policy._predict(seen, deterministic=True), mode, atol=1e-6)
    again[1].sum().backward()
    assert policy.action_net.weight.grad is not None


@pytest.mark.parametrize("kind", ["Box", "matrix"])
def test_it_draws_what_acer_draws(kind: str) -> None:
    """``behave`` in [-1, 1] and ``forward`` in the environment's units are one policy."""
    policy, seen = policy_of(kind), th.randn(1, 3).expand(20_000, 3)
    with th.no_grad():
        drawn = policy.behave(seen)[0].numpy()
        given = policy(seen)[0].reshape(20_000, -1).numpy()
    space = SPACES[kind]
    low, high = space.low.reshape(-1), space.high.reshape(-1)
    in_units = low + (drawn + 1) / 2 * (high - low)
    assert in_units.mean(0) == pytest.approx(given.mean(0), abs=0.05)
    assert in_units.std(0) == pytest.approx(given.std(0), rel=0.05)
    acted, _ = policy.predict(seen.numpy()[:500], deterministic=False)
    assert (acted >= space.low).all() and (acted <= space.high).all()


def test_a_dimension_without_width_has_a_density() -> None:
    space = spaces.Box(np.array([0, 1], np.float32), np.array([0, 2], np.float32))
    policy = ACERPolicy(SEEN, space, lambda _: 1e-3)
    assert all(bool(one.isfinite().all()) for one in policy(th.zeros(5, 3)))
    assert (policy.predict(np.zeros((5, 3), np.float32))[0][:, 0] == 0).all()


@every_space
def test_a_policy_goes_through_a_file(kind: str, tmp_path: Any) -> None:
    policy, seen = policy_of(kind), th.randn(5, 3)
    policy.save(tmp_path / "policy.zip")
    loaded = ACERPolicy.load(tmp_path / "policy.zip")
    assert loaded.action_std == 0.4
    pairs = zip(policy(seen, True), loaded(seen, True), strict=True)
    assert all(th.equal(a, b) for a, b in pairs)


def test_stock_a2c_refuses_acers_zip_in_words(tmp_path: Any) -> None:
    ACER("MlpPolicy", "CartPole-v1", device="cpu").save(tmp_path / "acer")
    with pytest.raises(TypeError, match=r"load a zip of ACER's with sb3_ext\.ACER\.load"):
        A2C.load(tmp_path / "acer")


# -- what rests on it ------------------------------------------------------------------------


def trained(env_id: str, **changes: Any) -> ACER:
    env = make_vec_env(env_id, 2, seed=0)
    options: dict[str, Any] = {"n_steps": 10, "replay_start": 100, "device": "cpu", "seed": 0}
    return ACER("MlpPolicy", env, **{**options, "replay_ratio": 0.5, **changes}).learn(900)


def test_a_dataset_of_a_box_policy_has_densities() -> None:
    model = trained("Pendulum-v1", action_std=0.1)
    dataset = from_policy(model, n_episodes=2, seed=0)
    assert dataset.terminated.sum() == 0 and dataset.truncated.sum() == 2
    assert dataset.behavior_log_prob is not None, "no action was clipped"
    seen, taken = (th.as_tensor(one) for one in (dataset.observations, dataset.actions))
    with th.no_grad():
        told = model.policy.evaluate_actions(seen, taken)[1].numpy()
    assert dataset.behavior_log_prob == pytest.approx(told, abs=1e-4)
    other = from_policy(ACER("MlpPolicy", "Pendulum-v1", seed=0), n_episodes=2, seed=0)
    assert len(other) == 400


def test_off_policy_evaluation_of_a_box_policy_by_itself() -> None:
    """All ratios are 1, so importance sampling gives the recorded returns."""
    model = trained("Pendulum-v1", action_std=0.1)
    dataset = from_policy(model, n_episodes=4, seed=0)
    assert dataset.behavior_log_prob is not None, "no action was clipped"
    found = evaluate_policy_offline(model, dataset, 1.0, ["is"], n_resamples=10)
    assert found.estimates[0].value == pytest.approx(dataset.returns().mean(), rel=1e-3)
    clipping = from_policy(trained("Pendulum-v1", action_std=1.5), n_episodes=2, seed=0)
    assert clipping.behavior_log_prob is None and np.abs(clipping.actions).max() == 2


@pytest.mark.parametrize("action_std", [0.3, 0.8])
def test_the_replay_buffer_is_a_dataset(action_std: float) -> None:
    """Pendulum never terminates; what was drawn beyond the bounds is on them, in its units."""
    model = trained("Pendulum-v1", action_std=action_std)
    buffer = model.replay_buffer
    dataset = from_replay_buffer(buffer)
    assert dataset.terminated.sum() == 0
    assert dataset.truncated.sum() == buffer.timeouts.sum() + 2 == 6  # the buffer stops in two
    rows = buffer.pos
    taken = np.clip(buffer.actions[:rows], -1, 1).transpose(1, 0, 2).reshape(-1, 1) * 2
    assert dataset.actions == pytest.approx(taken, abs=1e-6)
    # Pendulum's angle moves by its speed / 20, also at the time limit.
    angle = np.arctan2(dataset.observations[:, 1], dataset.observations[:, 0])
    after = np.arctan2(dataset.next_observations[:, 1], dataset.next_observations[:, 0])
    moved = (after - angle - dataset.next_observations[:, 2] * 0.05 + np.pi) % (2 * np.pi) - np.pi
    assert np.abs(moved).max() < 1e-3


def test_the_replay_buffer_of_cartpole_knows_its_probabilities() -> None:
    model = trained("CartPole-v1")
    dataset = from_replay_buffer(model.replay_buffer)
    assert dataset.terminated.sum() == (model.replay_buffer.dones[:450]).sum()
    ends = dataset.terminated & (dataset.next_observations == dataset.observations).all(axis=1)
    assert ends.sum() >= dataset.terminated.sum() - 2  # no reset's observation stands there
    held = model.replay_buffer.behavior[:450].transpose(1, 0, 2).reshape(-1, 2)
    expected = held[np.arange(900), dataset.actions]
    assert dataset.behavior_log_prob == pytest.approx(expected, abs=1e-6)
