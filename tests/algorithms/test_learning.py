"""Do they learn? Small tasks that a wrong sign anywhere in the step would fail."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.noise import NormalActionNoise

from sb3_ext import DDPG, DQN, LFIWDQN, LFIWSAC, LFIWTD3, QRDQN, SAC, TD3, TQC, CrossQ


class Match(gym.Env):
    """Four steps of answering each number with itself; best 0, random about -2.7."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.x, self.t = self.np_random.uniform(-1, 1, 1).astype(np.float32), 0
        return self.x, {}

    def step(self, action: np.ndarray) -> Any:
        reward, self.t = -float((action - self.x).item() ** 2), self.t + 1
        self.x = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.x, reward, self.t == 4, False, {}


class MatchDiscrete(Match):
    """The same with answers -2/3, 0 and 2/3; best about -0.15."""

    action_space = spaces.Discrete(3)

    def step(self, action: Any) -> Any:
        return super().step(np.float32((int(action) - 1) * 2 / 3))


@pytest.mark.parametrize("cls", [SAC, TD3, DDPG, TQC, CrossQ, LFIWSAC, LFIWTD3])
def test_every_algorithm_learns_to_match(cls: Any) -> None:
    options: dict[str, Any] = {"learning_rate": 3e-3, "gamma": 0.5, "learning_starts": 100}
    if "TD3" in cls.__name__ or cls is DDPG:
        options["action_noise"] = NormalActionNoise(np.zeros(1), 0.3 * np.ones(1))
    if "LFIW" in cls.__name__:
        options |= {"fast_buffer_size": 200, "ratio_net_arch": (32, 32)}
    model = cls(
        "MlpPolicy",
        Match(),
        batch_size=64,
        policy_kwargs={"net_arch": [32, 32]},
        buffer_size=5000,
        device="cpu",
        seed=0,
        **options,
    )
    before, _ = evaluate_policy(model, Match(), n_eval_episodes=30, warn=False)
    model.learn(1200)
    after, _ = evaluate_policy(model, Match(), n_eval_episodes=30, warn=False)
    assert before < -0.8
    assert after > -0.25


@pytest.mark.parametrize(
    ("cls", "changes"), [(DQN, {}), (DQN, {"double_q": True}), (QRDQN, {}), (LFIWDQN, {})]
)
def test_every_discrete_algorithm_learns_to_match(cls: Any, changes: dict[str, Any]) -> None:
    options: dict[str, Any] = {"learning_rate": 3e-3, "gamma": 0.5, "learning_starts": 100}
    options |= {"train_freq": 1, "target_update_interval": 50, "exploration_fraction": 0.5}
    if cls is LFIWDQN:
        options |= {"fast_buffer_size": 200, "ratio_net_arch": (32, 32)}
    model = cls(
        "MlpPolicy",
        MatchDiscrete(),
        batch_size=64,
        policy_kwargs={"net_arch": [32, 32]},
        buffer_size=5000,
        device="cpu",
        seed=0,
        **options | changes,
    )
    before, _ = evaluate_policy(model, MatchDiscrete(), n_eval_episodes=30, warn=False)
    model.learn(1200)
    after, _ = evaluate_policy(model, MatchDiscrete(), n_eval_episodes=30, warn=False)
    assert before < -0.8
    assert after > -0.3


@pytest.mark.slow
def test_lfiwsac_solves_pendulum() -> None:
    model = LFIWSAC("MlpPolicy", "Pendulum-v1", fast_buffer_size=1000, seed=0, device="cpu")
    model.learn(8000)
    mean, _ = evaluate_policy(model, model.get_env(), n_eval_episodes=20)
    assert mean > -250  # a random policy has about -1200, a solved task about -150
