"""A round: the generator acts for learned rewards, then the discriminator learns from its steps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import (
    VecEnv,
    VecEnvWrapper,
    VecNormalize,
    unwrap_vec_normalize,
)

from sb3_ext.offline.spaces import Space

Batch = dict[str, NDArray[Any]]
#: imitation's names of a transition's parts.
NAMES = ("obs", "acts", "next_obs", "dones")


class GeneratedSamples:
    """The newest transitions of the generator, to draw from uniformly with replacement.

    :param capacity: how many
    """

    def __init__(self, capacity: int, observation_space: Space, action_space: Space) -> None:
        self.written = 0
        shapes = (observation_space, action_space, observation_space)
        self.arrays = [np.zeros((capacity, *(one.shape or ())), one.dtype) for one in shapes]
        self.arrays.append(np.zeros(capacity, np.bool_))

    @property
    def size(self) -> int:
        """How many there are."""
        return min(self.written, len(self.arrays[0]))

    def add(self, observations: Any, actions: Any, following: Any, dones: Any) -> None:
        """Write one transition of each environment, over the oldest ones."""
        rows = (self.written + np.arange(len(dones))) % len(self.arrays[0])
        given = (observations, actions, following, dones)
        for held, values in zip(self.arrays, given, strict=True):
            held[rows] = np.asarray(values).reshape(len(dones), *held.shape[1:])
        self.written += len(dones)

    def sample(self, n: int) -> Batch:
        """Draw ``n`` of them, from NumPy's global generator as SB3's buffers do."""
        rows = np.random.randint(self.size, size=n)
        return {name: held[rows] for name, held in zip(NAMES, self.arrays, strict=True)}


class LearnedRewards(VecEnvWrapper):
    """The generator's environment, whose rewards the discriminator gives.

    Only a rollout sees it: ``model.get_env()`` stays what the user gave, so callbacks find what
    they know. Under ``VecNormalize`` the rewards are exchanged below it: it then normalises learned
    rewards, and the discriminator sees what the environment says itself, as the demonstrations do.

    :param env: the model's environment
    :param model: gives rewards and keeps transitions
    """

    def __init__(self, env: VecEnv, model: Any) -> None:
        super().__init__(env)
        self.normalizer = env if isinstance(env, VecNormalize) else None
        below = env if self.normalizer is None else self.normalizer.venv
        self.exchange = _Exchange(below, model)
        self.model = model
        #: Whether the next step is the first of a rollout.
        self.begins = True

    def reset(self) -> Any:
        """As the environment's."""
        return self.venv.reset()

    def step_wait(self) -> Any:
        """As the environment's."""
        return self.venv.step_wait()

    def step(self, actions: Any) -> Any:
        """One step, for learned rewards."""
        if self.begins:
            self.begins = False
            self.model.before_rollout()
        if self.normalizer is None:
            self.exchange.seen = self.model._last_obs
            return self.exchange.step(actions)
        self.exchange.seen = self.normalizer.get_original_obs()
        below = self.normalizer.venv
        self.normalizer.venv = self.exchange
        try:
            return self.normalizer.step(actions)
        finally:
            self.normalizer.venv = below


class _Exchange(VecEnvWrapper):
    """Below the normalisation: rewards go out, others come in."""

    seen: Any = None

    def __init__(self, env: VecEnv, model: Any) -> None:
        super().__init__(env)
        self.model = model

    def reset(self) -> Any:
        return self.venv.reset()

    def step_async(self, actions: Any) -> None:
        # Copies: some environments write the next observation over the last.
        self.before, self.actions = np.array(self.seen), np.array(actions)
        self.venv.step_async(actions)

    def step_wait(self) -> Any:
        observations, _, dones, infos = self.venv.step_wait()
        following: Any = np.array(observations)
        for env in np.flatnonzero(dones):  # what really followed; the environment has begun anew
            if infos[env].get("terminal_observation") is not None:
                following[env] = infos[env]["terminal_observation"]
        rewards = self.model.rewards_for_step(self.before, self.actions, following, dones, infos)
        return observations, rewards, dones, infos


def space_below(env: VecEnv) -> Space:
    """The observation space that the discriminator sees: the environment's, not normalised.

    :raises ValueError: if something changes observations after they were normalised
    """
    if isinstance(env, VecNormalize):
        return env.venv.observation_space
    normalizer = unwrap_vec_normalize(env)
    if normalizer is not None and (normalizer.norm_obs or normalizer.norm_reward):
        raise ValueError(
            "VecNormalize must be the outermost wrapper, because demonstrations hold the "
            f"environment's own observations; it lies under {type(env).__name__}"
        )
    return env.observation_space
