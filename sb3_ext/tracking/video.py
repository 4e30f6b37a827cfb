"""An episode of the current policy as a small film, in an environment of its own."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    VecVideoRecorder,
    is_vecenv_wrapped,
    unwrap_vec_normalize,
)
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

VideoEnv = Callable[[], gym.Env[Any, Any] | VecEnv]

#: Wrappers that a film needs not: they keep records.
RECORDERS = (
    "stable_baselines3.common.monitor:Monitor",
    "sb3_ext.resume.environments:ResumableEnv",
)
FRAMES_PER_SECOND = 30  # Hopper renders 125 a second, which no browser shows
OWN = "pass video_env=, a function that makes the environment with render_mode='rgb_array'"


@dataclass(frozen=True)
class Film:
    """One recorded episode."""

    path: Path
    reward: float
    length: int


class EpisodeRecorder:
    """Plays one episode of a model and keeps it as a GIF, which needs no further package.

    Nothing of the training is touched: the environment is another one, and observations are
    normalised with the training's statistics.

    :param model: its environment is made again, with the same wrappers
    :param folder: where the films go
    :param make_env: makes the environment instead
    :param max_steps: an episode is cut after so many steps
    :param seed: of the environment; by default the model's
    :param deterministic: whether the best actions are taken
    """

    def __init__(
        self,
        model: BaseAlgorithm,
        folder: Path,
        make_env: VideoEnv | None = None,
        max_steps: int = 1_000,
        *,
        seed: int | None = None,
        deterministic: bool = True,
    ) -> None:
        self.model, self.folder, self.max_steps = model, folder, max_steps
        self.seed, self.deterministic = seed, deterministic
        training = model.get_env()
        if training is None:
            raise ValueError("videos need a model that has an environment; this one has none")
        made = _make_again(training) if make_env is None else make_env()
        self.env = made if isinstance(made, VecEnv) else _wrapped_alike(made, training)
        image = is_vecenv_wrapped(training, VecTransposeImage)
        if image and not is_vecenv_wrapped(self.env, VecTransposeImage):
            self.env = VecTransposeImage(self.env)  # SB3 adds this one unasked
        self._require_fit()
        self._seed()
        self.env.reset()
        try:  # what cannot be rendered says so now, not after hours
            self._frame()
        except Exception as error:
            self.env.close()
            raise ValueError(
                f"videos need an environment that can be rendered: {error}. Without a display, "
                "MuJoCo needs the variable MUJOCO_GL=egl or osmesa before Python starts"
            ) from error
        rate = float((self.env.get_attr("metadata")[0] or {}).get("render_fps") or 30)
        self.stride = max(1, round(rate / FRAMES_PER_SECOND))
        self.rate = rate / self.stride

    def record(self, step: int) -> Film:
        """The film of a training step."""
        return self.film(self.folder / f"step-{step:010d}.gif")

    def film(self, path: Path) -> Film:
        """Play and write one episode; it starts in the same state each time."""
        self._use_statistics()
        self._seed()
        observation = self.env.reset()
        state, starts, done = None, np.ones(1, dtype=bool), False
        frames, reward, length = [], 0.0, 0
        while not done and length < self.max_steps:
            if length % self.stride == 0:
                frames.append(self._frame())
            action, state = self.model.predict(
                observation,  # type: ignore[arg-type]
                state=state,
                episode_start=starts,
                deterministic=self.deterministic,
            )
            observation, rewards, starts, _ = self.env.step(action)
            reward, length, done = reward + float(rewards[0]), length + 1, bool(starts[0])
        self._write(frames, path)
        return Film(path, reward, length)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _require_fit(self) -> None:
        wanted, got = self.model.observation_space, self.env.observation_space
        if self.env.num_envs != 1 or got != wanted:
            raise ValueError(
                f"the environment for videos must be a single one that gives {wanted}, as the "
                f"training's does; got {self.env.num_envs} that give {got}: {OWN}"
            )
        if self.model.get_vec_normalize_env() and not unwrap_vec_normalize(self.env):
            raise ValueError(
                "the training normalises observations (VecNormalize), and the environment for "
                "videos does not: wrap it in a VecNormalize, too"
            )

    def _use_statistics(self) -> None:
        training, own = self.model.get_vec_normalize_env(), unwrap_vec_normalize(self.env)
        if training is not None and own is not None and hasattr(training, "obs_rms"):
            own.obs_rms = copy.deepcopy(training.obs_rms)
            own.training = False

    def _seed(self) -> None:
        self.env.seed((self.model.seed or 0) if self.seed is None else self.seed)

    def _frame(self) -> np.ndarray:
        if self.env.render_mode != "rgb_array":
            raise ValueError(f"render_mode is {self.env.render_mode!r}; {OWN}")
        frame = self.env.render()
        if frame is None:
            raise ValueError(f"it rendered nothing; {OWN}")
        return frame

    def _write(self, frames: list[np.ndarray], path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        octree = Image.Quantize.FASTOCTREE  # five times as fast as Pillow's default
        first, *rest = [Image.fromarray(frame).quantize(method=octree) for frame in frames]
        centiseconds = max(2, round(100 / self.rate))  # a GIF counts in these; browsers from 2 on
        first.save(path, save_all=True, append_images=rest, duration=10 * centiseconds, loop=0)


def _make_again(training: VecEnv) -> gym.Env[Any, Any]:
    """The first environment of the training once more, to be rendered."""
    spec = training.get_attr("spec")[0]
    if spec is None:
        raise ValueError(f"an environment that is not registered cannot be made again: {OWN}")
    wrappers = tuple(one for one in spec.additional_wrappers if one.entry_point not in RECORDERS)
    for wrapper in wrappers:
        if wrapper.kwargs is None:
            raise ValueError(
                f"{spec.id} with its wrapper {wrapper.name} cannot be made again, for the wrapper "
                f"does not keep its arguments (gymnasium's RecordConstructorArgs): {OWN}"
            )
    spec = dataclasses.replace(spec, additional_wrappers=wrappers)
    return gym.make(spec, render_mode="rgb_array")


def _wrapped_alike(env: gym.Env[Any, Any], training: VecEnv) -> VecEnv:
    """The environment under the wrappers of the training's ``VecEnv``."""
    wrappers, inner = [], training
    while isinstance(inner, VecEnvWrapper):
        wrappers.append(inner)
        inner = inner.venv
    made: VecEnv = DummyVecEnv([lambda: env])
    for wrapper in reversed(wrappers):
        if isinstance(wrapper, VecNormalize):
            made = VecNormalize(
                made,
                training=False,
                norm_obs=wrapper.norm_obs,
                norm_reward=False,
                clip_obs=wrapper.clip_obs,
                epsilon=wrapper.epsilon,
                norm_obs_keys=wrapper.norm_obs_keys,
            )
        elif isinstance(wrapper, VecTransposeImage):
            made = VecTransposeImage(made)
        elif isinstance(wrapper, VecFrameStack):
            stack = wrapper.stacked_obs
            made = VecFrameStack(made, stack.n_stack, _channels_order(stack))
        elif not isinstance(wrapper, (VecMonitor, VecCheckNan, VecVideoRecorder)):
            raise ValueError(
                f"videos do not know how to make {type(wrapper).__name__} again: {OWN} "
                "and wraps it in a VecEnv with all that the model needs"
            )
    return made


def _channels_order(stack: StackedObservations[Any]) -> str | dict[str, str]:
    if hasattr(stack, "sub_stacked_observations"):
        parts = stack.sub_stacked_observations.items()
        return {key: "first" if part.channels_first else "last" for key, part in parts}
    return "first" if stack.channels_first else "last"
