"""A small environment of any kind of spaces, for the suites."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

ACTIONS = ("Box", "Discrete", "MultiDiscrete", "MultiBinary")
OBSERVATIONS = ("Box", "Dict")
SIDE = 36  # of an image: the least that SB3's NatureCNN takes


class KitEnv(gym.Env[Any, Any]):
    """A drifting point that actions push; ends by itself or after 20 steps.

    :param action: kind of the action space
    :param observation: kind of the observation space; ``"Image"`` is a Box of bytes
    :param nan_at: the step, counted over episodes, at which the reward is NaN
    """

    def __init__(
        self, action: str = "Box", observation: str = "Box", nan_at: int | None = None
    ) -> None:
        vector = spaces.Box(-5.0, 5.0, (3,), np.float32)
        made: dict[str, gym.Space[Any]] = {
            "Box": vector,
            "Dict": spaces.Dict({"a": vector, "b": spaces.Box(-1.0, 1.0, (2,), np.float32)}),
            "Image": spaces.Box(0, 255, (SIDE, SIDE, 1), np.uint8),
        }
        self.observation_space = made[observation]
        # Bounds that are not symmetric: an algorithm that forgets to scale its actions shows.
        self.action_space = {
            "Box": spaces.Box(np.array([-2, 0], np.float32), np.array([1, 3], np.float32)),
            "Discrete": spaces.Discrete(3),
            "MultiDiscrete": spaces.MultiDiscrete([3, 2]),
            "MultiBinary": spaces.MultiBinary(2),
        }[action]
        self.nan_at, self.total = nan_at, 0
        #: What was handed out, and a copy: who changes the one is found by the other.
        self.given: list[tuple[Any, Any]] = []

    def _observe(self) -> Any:
        state = self.state.astype(np.float32)
        if isinstance(self.observation_space, spaces.Dict):
            return {"a": state, "b": np.tanh(state[:2])}
        if len(self.observation_space.shape or ()) == 3:
            return self._picture()
        return state

    def _picture(self) -> Any:
        """A white square where the point is."""
        picture = np.zeros((SIDE, SIDE, 1), np.uint8)
        x, y = ((self.state[:2] + 5) / 10 * (SIDE - 6)).astype(int)
        picture[x : x + 6, y : y + 6] = 255
        return picture

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.state, self.t = self.np_random.normal(size=3), 0
        return self._observe(), {}

    def step(self, action: Any) -> Any:
        self.given.append((action, np.array(action)))
        self.t, self.total = self.t + 1, self.total + 1
        push = np.resize(np.asarray(action, dtype=np.float64), 3) / 10
        self.state = np.clip(self.state + push + self.np_random.normal(size=3) / 5, -5, 5)
        reward = float("nan") if self.total == self.nan_at else float(-abs(self.state).sum())
        return self._observe(), reward, bool(abs(self.state[0]) > 3), self.t >= 20, {}


def kit_env(n_envs: int = 1, **options: Any) -> DummyVecEnv:
    """``n_envs`` of them, each in a Monitor."""
    return DummyVecEnv([lambda: Monitor(KitEnv(**options)) for _ in range(n_envs)])
