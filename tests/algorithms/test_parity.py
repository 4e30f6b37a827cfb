"""With nothing switched on, and with weights of one, ours is SB3's: the same bits.

On the reference engine, that is; tests/engines/test_steps.py holds the fast one to that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import stable_baselines3 as sb3
import torch as th
from stable_baselines3.common.noise import NormalActionNoise

from sb3_ext.algorithms.crossq import CrossQ
from sb3_ext.algorithms.dqn import DQN
from sb3_ext.algorithms.qrdqn import QRDQN
from sb3_ext.algorithms.sac import SAC
from sb3_ext.algorithms.td3 import DDPG, TD3
from sb3_ext.algorithms.tqc import TQC
from sb3_ext.testing.oracle import weighted_critic
from sb3_ext.updates import Draw
from sb3_ext.weighting import Weighting
from tests.environments import make_env

UPDATES = 300


@dataclass
class Ones:
    """A weighting that believes everything alike."""

    def build(self, algorithm: Any) -> Weighting:
        return OnesWeighting()


class OnesWeighting(Weighting):
    def weigh(self, draw: Draw, replay: Any) -> th.Tensor:
        return th.ones(len(draw.samples.rewards), 1)


def by_reward(batch: Any) -> th.Tensor:
    """Arbitrary weights, a function of the batch alone, so that both sides can compute them."""
    return (batch.rewards.sin() + 1.1) * (batch.actions[:, :1].abs() + 0.2)


@dataclass
class ByReward:
    def build(self, algorithm: Any) -> Weighting:
        return ByRewardWeighting()


class ByRewardWeighting(Weighting):
    def weigh(self, draw: Draw, replay: Any) -> th.Tensor:
        return by_reward(draw.samples)


def trained(cls: Any, env: Any, updates: int = UPDATES, **kwargs: Any) -> Any:
    policy = kwargs.pop("policy", "MlpPolicy")
    kwargs = {"learning_starts": 40, "batch_size": 20, "seed": 3, "buffer_size": 250} | kwargs
    if "replay_buffer_kwargs" in kwargs:  # SB3 writes into it
        kwargs["replay_buffer_kwargs"] = dict(kwargs["replay_buffer_kwargs"])
    kwargs = reference(cls) | kwargs
    net = nets_of(cls.__name__) | kwargs.pop("policy_kwargs", {})
    model = cls(policy, env, policy_kwargs=net, device="cpu", **kwargs)
    while model._n_updates < updates:
        model.learn(200, reset_num_timesteps=False)
    return model


def reference(cls: Any) -> dict[str, Any]:
    return {"engine": "reference"} if cls.__module__.startswith("sb3_ext.") else {}


def nets_of(name: str) -> dict[str, Any]:
    """Small ones, and of QRDQN fewer quantiles than its 200, whose loss compares each with each."""
    return {"net_arch": [16, 16]} | ({"n_quantiles": 20} if name == "QRDQN" else {})


def everything(model: Any) -> dict[str, Any]:
    """All that learning changed: parameters, optimiser moments, entropy coefficient."""
    found = {f"{k}.{n}": t for k, s in model.get_parameters().items() for n, t in flat(s)}
    if getattr(model, "log_ent_coef", None) is not None:
        found["log_ent_coef"] = model.log_ent_coef.detach()
    return found


def flat(state: Any, prefix: str = "") -> Any:
    if isinstance(state, dict):
        for key, value in state.items():
            yield from flat(value, f"{prefix}/{key}")
    elif isinstance(state, th.Tensor):
        yield prefix, state


def assert_same_bits(ours: Any, stock: Any) -> None:
    mine, theirs = everything(ours), everything(stock)
    assert mine.keys() == theirs.keys()
    assert len(mine) > 20
    different = [name for name in mine if not th.equal(mine[name], theirs[name])]
    assert not different, different


def refuse_stock_train(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(self: Any, *args: Any, **kwargs: Any) -> None:
        raise AssertionError("stock train was called")

    for cls in set(STOCK.values()) - {sb3.DDPG}:
        monkeypatch.setattr(cls, "train", train)


def without(settings: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != name}


SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "train_freq 4": {"train_freq": 4},
    "gradient_steps 4": {"gradient_steps": 4},
    "gradient_steps -1": {"train_freq": 4, "gradient_steps": -1},
    "episodes": {"train_freq": (1, "episode"), "gradient_steps": -1},
    "odd batch": {"batch_size": 37},
    "schedule": {"learning_rate": lambda progress: 1e-3 * (0.1 + abs(progress))},
    "VecNormalize": {"env": {"normalize": True}},
    "Dict": {"env": {"kind": "dict"}, "policy": "MultiInputPolicy"},
    "3 envs": {"env": {"n_envs": 3}},
    "3 envs, VecNormalize, -1": {
        "env": {"n_envs": 3, "normalize": True},
        "gradient_steps": -1,
    },
    "n_steps 3": {"n_steps": 3},
    "n_steps 3, 3 envs": {"n_steps": 3, "env": {"n_envs": 3}},
    "memory": {
        "optimize_memory_usage": True,
        "replay_buffer_kwargs": {"handle_timeout_termination": False},
    },
    "action noise": {"action_noise": NormalActionNoise(np.zeros(2), 0.1 * np.ones(2))},
    "dropped-in network": {"policy_kwargs": {"net_arch": [8, 6], "activation_fn": th.nn.Tanh}},
}
SAC_SETTINGS: dict[str, dict[str, Any]] = {
    "target interval 3": {"target_update_interval": 3, "gradient_steps": 4},
    "target interval 3, one step": {"target_update_interval": 3},
    "fixed entropy": {"ent_coef": 0.1},
    "auto entropy from 0.3": {"ent_coef": "auto_0.3"},
    "gSDE": {"use_sde": True, "sde_sample_freq": 4},
    "three critics": {"policy_kwargs": {"n_critics": 3}},
    "shared encoder": {
        "env": {"kind": "image"},
        "policy": "CnnPolicy",
        "policy_kwargs": {
            "features_extractor_kwargs": {"features_dim": 8},
            "share_features_extractor": True,
        },
        "updates": 30,
    },
}
IMAGE: dict[str, Any] = {
    "env": {"kind": "image"},
    "policy": "CnnPolicy",
    "policy_kwargs": {"features_extractor_kwargs": {"features_dim": 8}},
}
DQN_SETTINGS: dict[str, dict[str, Any]] = {
    "target interval 50": {"target_update_interval": 50, "tau": 0.5},
    "target interval 50, 3 envs": {"target_update_interval": 50, "env": {"n_envs": 3}},
    "clipped hard": {"max_grad_norm": 0.1},
    "exploration": {"exploration_fraction": 0.9, "exploration_final_eps": 0.3},
}
CROSSQ_SETTINGS: dict[str, dict[str, Any]] = {
    "policy delay 1": {"policy_delay": 1},
    "after the warm-up of batch renormalisation": {
        "policy_kwargs": {"renorm_warmup_steps": 50, "net_arch": [16, 16]}
    },
    "no batch norm": {"policy_kwargs": {"batch_norm": False}},
}
ENTROPY = ("fixed entropy", "auto entropy from 0.3", "gSDE")
NEWER: dict[str, dict[str, dict[str, Any]]] = {
    "TQC": SETTINGS
    | SAC_SETTINGS
    | {
        "drop 0": {"top_quantiles_to_drop_per_net": 0},
        "drop 5": {"top_quantiles_to_drop_per_net": 5, "policy_kwargs": {"n_quantiles": 9}},
        "image": IMAGE,
    },
    # sb3-contrib's CrossQ has no policy for Dict observations, and DQN takes no action noise.
    "CrossQ": without(SETTINGS, "Dict") | {n: SAC_SETTINGS[n] for n in ENTROPY} | CROSSQ_SETTINGS,
    "DQN": without(SETTINGS, "action noise") | DQN_SETTINGS | {"image": IMAGE},
    "QRDQN": without(SETTINGS, "action noise") | DQN_SETTINGS | {"image": IMAGE},
}
CORE = ("default", "gradient_steps 4", "Dict", "3 envs, VecNormalize, -1", "n_steps 3")
CASES = [
    *(pytest.param("SAC", s, id=f"SAC-{n}") for n, s in (SETTINGS | SAC_SETTINGS).items()),
    *(pytest.param("TD3", s, id=f"TD3-{n}") for n, s in SETTINGS.items()),
    *(pytest.param("TD3", s, id="TD3-delay 3") for s in [{"policy_delay": 3}]),
    *(
        pytest.param("DDPG", SETTINGS[n], id=f"DDPG-{n}")
        for n in ("default", "gradient_steps 4", "Dict", "3 envs", "n_steps 3")
    ),
    pytest.param("SAC", IMAGE, id="SAC-image"),
    pytest.param("TD3", IMAGE, id="TD3-image"),
    *(
        pytest.param(name, s, id=f"{name}-{n}", marks=[] if n in CORE else pytest.mark.slow)
        for name, settings in NEWER.items()
        for n, s in settings.items()
    ),
]
OURS = {
    "SAC": SAC,
    "TD3": TD3,
    "DDPG": DDPG,
    "DQN": DQN,
    "TQC": TQC,
    "QRDQN": QRDQN,
    "CrossQ": CrossQ,
}
STOCK: dict[str, Any] = {
    name: getattr(sb3, name, None) or getattr(sb3_contrib, name) for name in OURS
}
# SB3's defaults for these two train at every fourth step.
OFTEN: dict[str, dict[str, Any]] = {"DQN": {"train_freq": 1}, "QRDQN": {"train_freq": 1}}


def env_for(name: str, **options: Any) -> Any:
    return make_env(discrete=name in OFTEN, **options)


@pytest.mark.parametrize(("name", "setting"), CASES)
def test_nothing_switched_on_and_unit_weights_are_stock_sb3(
    name: str, setting: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = OFTEN.get(name, {}) | setting
    env = setting.pop("env", {})
    stock = trained(STOCK[name], env_for(name, **env), **setting)
    refuse_stock_train(monkeypatch)
    assert_same_bits(trained(OURS[name], env_for(name, **env), **setting), stock)
    assert_same_bits(trained(OURS[name], env_for(name, **env), weighting=Ones(), **setting), stock)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("setting", ["default", "gradient_steps 4", "Dict", "n_steps 3"])
def test_any_weights_are_a_scaled_backward_pass_of_stock_sb3(name: str, setting: str) -> None:
    if (name, setting) == ("CrossQ", "Dict"):
        pytest.skip("sb3-contrib has no CrossQ policy for Dict observations")
    options = OFTEN.get(name, {}) | SETTINGS[setting]
    env = options.pop("env", {})
    policy = options.pop("policy", "MlpPolicy")
    options |= {"policy_kwargs": nets_of(name), "seed": 3, "learning_starts": 40}
    options |= {"batch_size": 32, "buffer_size": 250, "device": "cpu"}
    ours_only = {"engine": "reference"}
    stock = STOCK[name](policy, env_for(name, **env), **options)
    # Rounding grows from update to update, so each setting gets as many.
    steps = 40 + UPDATES // options.get("gradient_steps", 1)
    with weighted_critic(stock, by_reward):
        stock.learn(steps)
    ours = OURS[name](policy, env_for(name, **env), weighting=ByReward(), **options, **ours_only)
    ours.learn(steps)
    assert UPDATES - 10 <= ours._n_updates <= UPDATES + 10
    mine, theirs = everything(ours), everything(stock)
    for key in mine:
        th.testing.assert_close(mine[key], theirs[key], rtol=1e-4, atol=1e-6, msg=key)
    plain = OURS[name](policy, env_for(name, **env), **options, **ours_only).learn(steps)
    network = "policy./" + (
        "quantile_net" if name == "QRDQN" else "q_net" if name == "DQN" else "actor"
    )
    weight = next(k for k in mine if k.startswith(network) and k.endswith("weight"))
    assert not th.allclose(mine[weight], everything(plain)[weight], atol=1e-4)


def test_the_oracle_itself_changes_stock_sb3_unless_weights_are_one() -> None:
    plain = trained(sb3.SAC, make_env(), updates=50)
    for weigh, same in ((lambda b: th.ones_like(b.rewards), True), (by_reward, False)):
        model = sb3.SAC(
            "MlpPolicy",
            make_env(),
            policy_kwargs={"net_arch": [16, 16]},
            seed=3,
            learning_starts=40,
            batch_size=20,
            buffer_size=250,
            device="cpu",
        )
        with weighted_critic(model, weigh):
            model.learn(200, reset_num_timesteps=False)
        equal = all(th.equal(everything(plain)[k], v) for k, v in everything(model).items())
        assert equal is same


def test_layers_put_in_afterwards_are_followed_as_in_sb3() -> None:
    models = []
    for cls in (sb3.SAC, SAC):
        model = trained(cls, make_env(), updates=10)
        th.manual_seed(0)
        model.critic.qf0[-1] = th.nn.Linear(16, 1)
        model.critic.optimizer = th.optim.Adam(model.critic.parameters(), lr=3e-4)
        models.append(model.learn(60, reset_num_timesteps=False))
    assert_same_bits(models[1], models[0])


@pytest.mark.parametrize("name", [name for name in OURS if name != "DDPG"])
def test_a_policy_put_in_afterwards_is_followed_by_its_own_target(name: str) -> None:
    """As in SB3, ``_create_aliases`` is all that such a change takes."""
    models = []
    options = OFTEN.get(name, {})
    for cls in (STOCK[name], OURS[name]):
        model, other = (
            trained(cls, env_for(name), updates=10, seed=seed, **options) for seed in (3, 4)
        )
        model.policy = other.policy
        model._create_aliases()
        models.append(model.learn(60, reset_num_timesteps=False))
    assert_same_bits(models[1], models[0])
