"""Small environments that tests share."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

PUSHES = np.array([[-1.5, 0.5], [1.5, 0.0], [0.0, -1.0]])


class Drift(gym.Env):
    """A random walk that actions push; cheap, episodic, with terminations and time limits."""

    def __init__(self, kind: str = "box", discrete: bool = False) -> None:
        self.kind = kind
        vector = spaces.Box(-5, 5, (3,), np.float64)
        self.observation_space = {
            "box": vector,
            "dict": spaces.Dict({"a": vector, "b": spaces.Box(-1, 1, (2,), np.float32)}),
            "image": spaces.Box(0, 255, (36, 36, 1), np.uint8),
        }[kind]
        self.action_space = (
            spaces.Discrete(len(PUSHES)) if discrete else spaces.Box(-2, 2, (2,), np.float32)
        )

    def _observe(self) -> Any:
        if self.kind == "dict":
            return {"a": self.state, "b": np.tanh(self.state[:2]).astype(np.float32)}
        if self.kind == "image":
            image = np.zeros((36, 36, 1), np.uint8)
            x, y = ((np.tanh(self.state[:2]) + 1) * 17).astype(int)
            image[x, y] = 255
            return image
        return self.state.copy()

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.state, self.t = self.np_random.normal(size=3) / 2, 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> Any:
        self.t += 1
        if isinstance(self.action_space, spaces.Discrete):
            action = PUSHES[action]
        push = np.append(action, action.sum()) / 10
        self.state = np.clip(self.state + push + self.np_random.normal(size=3) / 5, -5, 5)
        terminated = bool(abs(self.state[0]) > 2.5)
        return self._observe(), float(-abs(self.state).sum()), terminated, self.t >= 25, {}


def make_env(
    kind: str = "box", n_envs: int = 1, normalize: bool = False, discrete: bool = False
) -> Any:
    """``n_envs`` of them in SB3's vectorised form, normalised if wanted."""
    env = DummyVecEnv([lambda: Drift(kind, discrete)] * n_envs)
    return VecNormalize(env) if normalize else env
