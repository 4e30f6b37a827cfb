"""Discrete BCQ: the constrained target, and the threshold between cloning and Q-learning."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from sb3_ext import DiscreteBCQ
from sb3_ext.offline import OfflineDataset
from sb3_ext.testing.environments import kit_env
from sb3_ext.testing.offline import kit_dataset

SMALL: dict[str, Any] = {"policy_kwargs": {"net_arch": [16]}, "seed": 0, "device": "cpu"}
#: Behaviour probabilities and values of three actions.
G, Q = [0.6, 0.3, 0.1], [1.0, 2.0, 10.0]


def with_answers(threshold: float) -> DiscreteBCQ:
    """A model whose networks say G and Q everywhere, and whose target says 100 times Q."""
    data = kit_dataset(kit_env(action="Discrete"))
    model = DiscreteBCQ("MlpPolicy", dataset=data, threshold=threshold, **SMALL)
    answers = {"behavior_net": np.log(G), "q_net": Q, "q_net_target": [100 * q for q in Q]}
    for name, answer in answers.items():
        last = getattr(model, name).q_net[-1]
        with th.no_grad():
            last.weight.zero_()
            last.bias.copy_(th.as_tensor(answer))
    return model


@pytest.mark.parametrize(("threshold", "best"), [(0, 2), (0.3, 1), (0.51, 0), (1, 0)])
def test_acting_and_target_are_constrained_alike(threshold: float, best: int) -> None:
    model = with_answers(threshold)
    assert model.predict(np.zeros((2, 3), np.float32), deterministic=True)[0].tolist() == [best] * 2
    zeros = th.zeros(2, 3)
    batch = ReplayBufferSamples(
        zeros, th.zeros(2, 1), zeros, th.tensor([[0.0], [1.0]]), th.tensor([[1.0], [1.0]])
    )
    expected = [1 + 0.99 * 100 * Q[best], 1.0]
    assert model.bellman_target(batch).flatten().tolist() == pytest.approx(expected)


def bandit(seed: int = 0) -> OfflineDataset:
    """Three actions, taken with G and rewarded by Q / 10, in episodes of one step."""
    actions = np.random.default_rng(seed).choice(3, size=2000, p=G)
    state = np.zeros((2000, 1), np.float32)
    return OfflineDataset(
        state,
        actions,
        np.asarray(Q)[actions] / 10,
        state,
        np.ones(2000, bool),
        np.zeros(2000, bool),
        np.arange(2000),
        spaces.Box(-1, 1, (1,), np.float32),
        spaces.Discrete(3),
    )


def test_it_learns_behaviour_and_values() -> None:
    model = DiscreteBCQ("MlpPolicy", dataset=bandit(), batch_size=256, **SMALL)
    model.learn(1500)
    state = th.zeros(1, 1)
    with th.no_grad():
        behavior = model.behavior_net(state).softmax(dim=1)[0].tolist()
        values = model.q_net(state)[0].tolist()
    assert behavior == pytest.approx(G, abs=0.05)
    assert values == pytest.approx([0.1, 0.2, 1.0], abs=0.05)


@pytest.mark.parametrize(("threshold", "best"), [(0.0, 2), (0.3, 1), (1.0, 0)])
def test_the_dial_from_values_to_cloning(threshold: float, best: int) -> None:
    """What Q-learning takes, what the constraint takes, what cloning takes: three actions."""
    model = DiscreteBCQ("MlpPolicy", dataset=bandit(), threshold=threshold, batch_size=256, **SMALL)
    model.learn(1000)
    assert model.predict(np.zeros((1, 1), np.float32), deterministic=True)[0].item() == best


def test_predictions_are_never_exploring() -> None:
    model = with_answers(0.3).learn(20)
    assert model.exploration_rate == 0.0


@pytest.mark.parametrize(("option", "value"), [("threshold", 1.5), ("logit_penalty", -1.0)])
def test_options_out_of_range_are_refused(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=option):
        DiscreteBCQ("MlpPolicy", kit_env(action="Discrete"), **{option: value}, **SMALL)


def test_a_threshold_can_be_changed_on_load(tmp_path: Any) -> None:
    with_answers(1.0).save(tmp_path / "model")
    loaded = DiscreteBCQ.load(tmp_path / "model", threshold=0.0, device="cpu")
    assert loaded.predict(np.zeros((1, 3), np.float32), deterministic=True)[0].item() == 2
