"""An environment of which only the spaces are known: what SB3 needs to build a model."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ext.offline.spaces import Space


class SpacesOnly(gym.Env[Any, Any]):
    """Can be reset, and not be stepped.

    :param observation_space: of the dataset
    :param action_space: of the dataset
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - as gymnasium has it

    def __init__(self, observation_space: Space, action_space: Space) -> None:
        # Copies: sampling from them moves their generators.
        self.observation_space = copy.deepcopy(observation_space)
        self.action_space = copy.deepcopy(action_space)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Some observation, always the same."""
        super().reset(seed=seed)
        self.observation_space.seed(0)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        """Refused: there is nothing to act in."""
        raise RuntimeError(
            "this model was made from a dataset, without an environment to act in: make one of "
            "its own, and pass it to evaluate_policy, EvalCallback or set_env"
        )


def spaces_only_env(observation_space: Space, action_space: Space) -> DummyVecEnv:
    """The stand-in as a VecEnv."""
    return DummyVecEnv([lambda: SpacesOnly(observation_space, action_space)])
