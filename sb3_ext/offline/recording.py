"""Recorders for the four datasets of the BCQ paper (Fujimoto et al. 2019).

=========================== ==================================================================
final buffer                :func:`record_final_buffer`: train with noise, keep everything
concurrent                  :class:`ConcurrentLearner`: another agent learns from the same data
imitation                   :func:`record_imitation`: a trained policy without noise
imperfect demonstrations    :func:`record_imperfect_demonstrations`: with errors and noise
=========================== ==================================================================

Standard deviations are in scaled units: [-1, 1] is an action's whole range, so 0.3 is 0.3 of half
the range.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger, configure
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_ext.offline.behaviour import Imperfect, acting
from sb3_ext.offline.dataset import OfflineDataset
from sb3_ext.offline.random_state import RandomState
from sb3_ext.offline.readers.policy import forget_last_observation, from_policy, record, vec_env
from sb3_ext.offline.readers.replay_buffer import from_replay_buffer


def record_final_buffer(
    model: OffPolicyAlgorithm,
    total_timesteps: int,
    *,
    noise_std: float | None = 0.5,
    **learn: Any,
) -> OfflineDataset:
    """Train a model with action noise, and keep all that it saw.

    :param model: any off-policy algorithm of SB3's, with a buffer for the whole training
    :param total_timesteps: environment steps
    :param noise_std: of the Gaussian noise on its actions; None leaves the model's own exploration
        (the only choice for Discrete actions)
    :param learn: of ``model.learn``: callback, progress_bar, ...
    :raises ValueError: if the buffer could not keep everything, before anything is trained
    """
    if hasattr(model, "set_dataset"):
        raise TypeError(
            f"{type(model).__name__} learns from a dataset, and never acts to record one"
        )
    if not isinstance(model, OffPolicyAlgorithm):
        raise TypeError(
            f"{type(model).__name__} has no replay buffer to keep: record with an off-policy "
            "algorithm, or let the trained model act, by record_imitation or from_policy"
        )
    require_room(model, total_timesteps)
    with _noise(model, noise_std):
        model.learn(total_timesteps, **learn)
    return _whole_buffer(model, {"protocol": "final_buffer", "noise_std": noise_std})


def record_imitation(
    model: Any,
    env: Any = None,
    *,
    n_steps: int | None = None,
    n_episodes: int | None = None,
    seed: int | None = None,
    n_envs: int = 1,
) -> OfflineDataset:
    """A trained policy without noise; arguments as in :func:`from_policy`."""
    dataset = from_policy(
        model,
        env,
        n_steps=n_steps,
        n_episodes=n_episodes,
        deterministic=True,
        seed=seed,
        n_envs=n_envs,
    )
    return _with_source(dataset, {"protocol": "imitation"})


def record_imperfect_demonstrations(
    model: Any,
    env: Any = None,
    *,
    random_action_probability: float = 0.3,
    noise_std: float = 0.3,
    n_steps: int | None = None,
    n_episodes: int | None = None,
    seed: int | None = None,
    n_envs: int = 1,
) -> OfflineDataset:
    """A trained policy with errors: at times a uniform random action, else its own with noise.

    :param random_action_probability: of a uniform random action, at each step
    :param noise_std: of the Gaussian noise on the other actions; Discrete ones take none
    :raises TypeError: for actions that are neither Box nor Discrete
    :raises ValueError: for a probability that is none, a negative deviation, or actions without
        bounds
    """
    if not 0 <= random_action_probability <= 1:
        raise ValueError(
            f"random_action_probability must lie in [0, 1], got {random_action_probability}"
        )
    if noise_std < 0:
        raise ValueError(f"noise_std must not be negative, got {noise_std}")
    venv, env_id = vec_env(model, env, n_envs)
    if not isinstance(venv.action_space, (spaces.Box, spaces.Discrete)):
        raise TypeError(
            "imperfect demonstrations are defined for Box and Discrete actions, got "
            f"{venv.action_space}"
        )
    act = Imperfect(
        acting(model, venv.action_space, True, seed),
        venv.action_space,
        random_action_probability,
        noise_std,
        np.random.default_rng(seed),
    )
    source = {
        "format": "policy",
        "protocol": "imperfect_demonstrations",
        "env_id": env_id,
        "random_action_probability": random_action_probability,
        "noise_std": noise_std,
        "seed": seed,
    }
    forget_last_observation(model, venv)
    return record(act, venv, n_steps=n_steps, n_episodes=n_episodes, seed=seed, source=source)


class ConcurrentLearner(BaseCallback):
    """A second agent learns, step by step, from the data of the one that acts.

        behaviour.learn(100_000, callback=ConcurrentLearner(learner))

    Both draw from one replay buffer that grows as the behaviour acts; the learner never acts. It
    takes as many gradient steps as the behaviour does, at the same times. It draws its batches from
    random numbers of its own, so the behaviour is to the bit what it would be alone.

    :param learner: an off-policy algorithm of SB3's or ours, for the same spaces
    :param gradient_steps: a rollout; default: as the behaviour's, -1 for one a transition
    :param learning_starts: transitions before it learns; default: the behaviour's
    :param seed: of the learner's batches
    """

    def __init__(
        self,
        learner: OffPolicyAlgorithm,
        *,
        gradient_steps: int | None = None,
        learning_starts: int | None = None,
        seed: int = 0,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        self.learner, self.gradient_steps = learner, gradient_steps
        self.learning_starts = learning_starts
        self._random = RandomState(seed, learner.device)
        self._steps_before = 0

    def _on_training_start(self) -> None:
        model, learner = self.model, self.learner
        if not isinstance(model, OffPolicyAlgorithm) or model.replay_buffer is None:
            raise TypeError(
                "ConcurrentLearner needs a behaviour with a replay buffer, an off-policy algorithm "
                f"of SB3's, got {type(model).__name__}"
            )
        if not isinstance(learner, OffPolicyAlgorithm):
            raise TypeError(
                "the learner must be an off-policy algorithm of SB3's, got "
                f"{type(learner).__name__}"
            )
        if learner is model:
            raise ValueError("the learner must be another model than the behaviour")
        for name in ("observation_space", "action_space"):
            mine, theirs = getattr(learner, name), getattr(model, name)
            if mine != theirs:
                raise ValueError(
                    f"the learner has the {name} {mine}, the behaviour {theirs}: make both for the "
                    "same environment"
                )
        learner.replay_buffer = model.replay_buffer
        # SB3 has one only within learn, and train writes to it.
        if not hasattr(learner, "_logger"):
            learner.set_logger(_silent())
        self._steps_before = model.num_timesteps

    def _on_step(self) -> bool:
        model, learner = self.model, self.learner
        learner.num_timesteps = model.num_timesteps
        learner._current_progress_remaining = model._current_progress_remaining
        learner._on_step()  # DQN's target network
        return True

    def _on_rollout_end(self) -> None:
        model, learner = self.model, self.learner
        assert isinstance(model, OffPolicyAlgorithm)
        collected = model.num_timesteps - self._steps_before
        self._steps_before = model.num_timesteps
        starts = model.learning_starts if self.learning_starts is None else self.learning_starts
        if model.num_timesteps <= starts:
            return
        steps = model.gradient_steps if self.gradient_steps is None else self.gradient_steps
        steps = collected if steps < 0 else steps
        if steps:
            with self._random:
                learner.train(gradient_steps=steps, batch_size=learner.batch_size)

    def dataset(self) -> OfflineDataset:
        """The data that both learned from."""
        assert isinstance(self.model, OffPolicyAlgorithm)
        return _whole_buffer(self.model, {"protocol": "concurrent"})


def require_room(model: OffPolicyAlgorithm, total_timesteps: int) -> None:
    """Refuse a replay buffer that could not keep everything.

    :raises ValueError: with the size that would
    """
    buffer = model.replay_buffer
    if buffer is None:
        raise ValueError("the model has no replay buffer: it must be an off-policy algorithm")
    if buffer.optimize_memory_usage:
        raise ValueError(
            "a buffer with optimize_memory_usage=True loses the last observations of episodes and "
            "their time limits: make the model without it"
        )
    rows = buffer.size() + -(-total_timesteps // buffer.n_envs)
    if rows > buffer.buffer_size:
        raise ValueError(
            f"the buffer must keep everything: {rows * buffer.n_envs} transitions, but it has room "
            f"for {buffer.buffer_size * buffer.n_envs}: make the model with "
            f"buffer_size={rows * buffer.n_envs}"
        )


def _whole_buffer(model: OffPolicyAlgorithm, source: dict[str, Any]) -> OfflineDataset:
    buffer = model.replay_buffer
    if buffer is None:
        raise ValueError("the model has no replay buffer")
    if buffer.full and (buffer.pos or model.num_timesteps > buffer.buffer_size * buffer.n_envs):
        warnings.warn(
            f"the replay buffer went round: its oldest transitions are lost, and "
            f"{buffer.buffer_size * buffer.n_envs} are kept",
            UserWarning,
            stacklevel=3,
        )
    venv = model.get_env()
    env_id = vec_env(model, venv)[1] if venv is not None else None
    dataset = from_replay_buffer(buffer, env_id=env_id)
    return _with_source(dataset, {**source, "algorithm": type(model).__name__})


def _with_source(dataset: OfflineDataset, more: dict[str, Any]) -> OfflineDataset:
    from dataclasses import replace

    return replace(dataset, source={**dataset.source, **more})


@contextlib.contextmanager
def _noise(model: OffPolicyAlgorithm, noise_std: float | None) -> Iterator[None]:
    if noise_std is None:
        yield
        return
    if noise_std < 0:
        raise ValueError(f"noise_std must not be negative, got {noise_std}")
    space = model.action_space
    if not isinstance(space, spaces.Box):
        raise ValueError(f"only Box actions take noise, got {space}: pass noise_std=None")
    before = model.action_noise
    size = int(np.prod(space.shape))
    model.action_noise = NormalActionNoise(np.zeros(size), np.full(size, noise_std))
    try:
        yield
    finally:
        model.action_noise = before


def _silent() -> Logger:
    return configure(None, [])
