"""Environments and datasets whose observations show the previous action, or noise in its place.

CONFOUNDED: an expert that acts smoothly makes its previous action the best predictor of the next
one, and an imitator that has learned that repeats itself for ever. ORIGINAL: the same slot holds
noise, which tells nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.preprocessing import is_image_space

from sb3_ext.offline import OfflineDataset
from sb3_ext.offline.arrays import map_observations
from sb3_ext.plugins.causal.digits import DIGIT_SHAPE, draw_number

Mode = Literal["confounded", "original"]
MODES = ("confounded", "original")
#: What the new factor is called, and the new key of Dict observations.
PREVIOUS_ACTION = "previous action"


class Slot:
    """Where the previous action stands in an observation.

    Vectors get it appended, Dicts as a further key, images as a white number on black near the
    lower left corner.

    :param observation_space: without it
    :param action_space: Discrete or Box (for images, Discrete)
    :param one_hot: a Discrete action as zeros and a one, and not as its number
    :raises TypeError: for other spaces
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        one_hot: bool = False,
    ) -> None:
        if not isinstance(action_space, (spaces.Discrete, spaces.Box)):
            raise TypeError(f"the previous action is shown if Discrete or Box, got {action_space}")
        self.action_space, self.one_hot = action_space, one_hot
        self.inner = observation_space
        self.is_image = is_image_space(observation_space)
        low, high = self._bounds()
        if isinstance(observation_space, spaces.Dict):
            added = spaces.Box(low, high, dtype=np.float32)
            self.space: spaces.Space[Any] = spaces.Dict(
                {**observation_space.spaces, PREVIOUS_ACTION: added}
            )
        elif self.is_image:
            if not isinstance(action_space, spaces.Discrete):
                raise TypeError(f"in an image the number of an action is drawn, got {action_space}")
            self.space = observation_space
        elif isinstance(observation_space, spaces.Box) and len(observation_space.shape) == 1:
            kind: Any = observation_space.dtype
            ends = [observation_space.low, low], [observation_space.high, high]
            joined = [np.concatenate(one).astype(kind) for one in ends]
            self.space = spaces.Box(joined[0], joined[1], dtype=kind)
        else:
            raise TypeError(
                "the previous action is shown in vectors, images and Dicts, got "
                f"{observation_space}: flatten it, with gymnasium.wrappers.FlattenObservation say"
            )

    def _bounds(self) -> tuple[NDArray[Any], NDArray[Any]]:
        space = self.action_space
        if isinstance(space, spaces.Box):
            return space.low.reshape(-1), space.high.reshape(-1)
        if self.one_hot:
            return np.zeros(int(space.n), np.float32), np.ones(int(space.n), np.float32)
        first = float(space.start)
        return np.array([first], np.float32), np.array([first + int(space.n) - 1], np.float32)

    @property
    def factors(self) -> dict[str, list[Any]] | None:
        """The layout: each dimension (key) of the observation, and the previous action as one.

        None for images, whose pixels are no factors.
        """
        if self.is_image:
            return None
        if isinstance(self.inner, spaces.Dict):
            return {key: [key] for key in self.space.spaces}  # type: ignore[attr-defined]
        size, total = (int(np.prod(one.shape or ())) for one in (self.inner, self.space))
        own = {f"x{i}": [i] for i in range(size)}
        return {**own, PREVIOUS_ACTION: list(range(size, total))}

    def random(self, generator: np.random.Generator, size: int) -> NDArray[Any]:
        """Uniform actions, ``[size, ...]``."""
        space = self.action_space
        if isinstance(space, spaces.Discrete):
            return int(space.start) + generator.integers(int(space.n), size=size)
        assert isinstance(space, spaces.Box)
        if not np.isfinite([space.low, space.high]).all():
            raise ValueError(f"noise needs actions with finite bounds, got {space}")
        drawn: NDArray[Any] = generator.uniform(space.low, space.high, (size, *space.shape))
        return drawn.astype(space.dtype)

    def encoded(self, actions: NDArray[Any]) -> NDArray[Any]:
        """Actions ``[B, ...]`` as columns, ``[B, k]``."""
        space = self.action_space
        if isinstance(space, spaces.Box):
            return actions.reshape(len(actions), -1)
        if self.one_hot:
            rows: NDArray[Any] = np.eye(int(space.n), dtype=np.float32)
            encoded: NDArray[Any] = rows[actions.reshape(-1) - int(space.start)]
            return encoded
        return actions.reshape(-1, 1).astype(np.float32)

    def show(self, observations: Any, actions: NDArray[Any]) -> Any:
        """Observations with these actions in the slot.

        :param observations: ``[B, ...]``, or a dict of such
        :param actions: ``[B, ...]``
        """
        if isinstance(observations, dict):
            return {**observations, PREVIOUS_ACTION: self.encoded(actions).astype(np.float32)}
        if self.is_image:
            pictures = np.array(observations)
            for picture, action in zip(pictures, actions.reshape(-1), strict=True):
                draw_number(picture, int(action))
            return pictures
        return np.concatenate([observations, self.encoded(actions).astype(observations.dtype)], 1)


class PreviousAction(gym.Wrapper[Any, Any, Any, Any]):
    """Shows the previous action, or noise of the same shape.

    The first observation of an episode has a random action in the slot, in both modes. Draw
    images' before frames are stacked. ``factors`` is the layout that ``CausalBC`` finds.

    :param env: of Box or Dict observations, and Discrete or Box actions
    :param mode: ``"confounded"``: the action that was executed; ``"original"``: a uniform one,
        drawn anew for each observation
    :param one_hot: a Discrete action as zeros and a one
    :raises ValueError: for another mode
    """

    def __init__(
        self, env: gym.Env[Any, Any], mode: Mode = "confounded", one_hot: bool = False
    ) -> None:
        super().__init__(env)
        require_mode(mode)
        self.mode = mode
        self.slot = Slot(env.observation_space, env.action_space, one_hot)
        if self.slot.is_image:
            require_room(env.observation_space)
        self.observation_space = self.slot.space

    @property
    def factors(self) -> dict[str, list[Any]] | None:
        """See :attr:`Slot.factors`."""
        return self.slot.factors

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """As the environment's, with a random action in the slot."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._shown(observation, self.slot.random(self.np_random, 1)), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the environment's."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        before = np.asarray(action)[None]
        if self.mode == "original":
            before = self.slot.random(self.np_random, 1)
        return self._shown(observation, before), reward, terminated, truncated, info

    def _shown(self, observation: Any, action: NDArray[Any]) -> Any:
        if isinstance(observation, dict):
            shown = self.slot.show(observation, action)
            return {**shown, PREVIOUS_ACTION: shown[PREVIOUS_ACTION][0]}
        return self.slot.show(np.asarray(observation)[None], action)[0]


class RichStart(gym.Wrapper[Any, Any, Any, Any]):
    """MountainCar from anywhere: position uniform in [-1, 0.5], velocity of N(0, 0.07).

    The authors record their demonstrations so; imitators are tested from the usual start.
    """

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """As the environment's, and then somewhere else."""
        _, info = self.env.reset(seed=seed, options=options)
        car: Any = self.env.unwrapped
        if not hasattr(car, "max_speed"):
            raise TypeError(f"RichStart is for MountainCar, not for {car}")
        speed = np.clip(self.np_random.normal(0.0, 0.07), -car.max_speed, car.max_speed)
        car.state = np.array([self.np_random.uniform(-1.0, 0.5), speed])
        return np.array(car.state, dtype=np.float32), info


def with_previous_action(
    dataset: OfflineDataset,
    mode: Mode = "confounded",
    *,
    one_hot: bool = False,
    first_step: Literal["drop", "random"] = "drop",
    seed: int = 0,
) -> OfflineDataset:
    """A dataset of an environment as one of the same environment in :class:`PreviousAction`.

    :param dataset: without the previous action
    :param mode: as there
    :param one_hot: as there
    :param first_step: the first step of an episode has no previous action. It is left out, as by
        the authors, or gets a random one, as in the environment
    :param seed: of the noise, and of first steps
    :raises ValueError: for another mode, and where no episode has a second step to keep
    """
    require_mode(mode)
    if first_step not in ("drop", "random"):
        raise ValueError(f"first_step must be 'drop' or 'random', got {first_step!r}")
    slot = Slot(dataset.observation_space, dataset.action_space, one_hot)
    if slot.is_image:
        require_room(dataset.observation_space)
    generator = np.random.default_rng(seed)
    before, after = [], []
    for part in dataset.episodes():
        actions = dataset.actions[part]
        length = len(actions)
        first = slot.random(generator, 1).astype(actions.dtype)
        noise = slot.random(generator, length).astype(actions.dtype)
        slots = np.concatenate([first, actions if mode == "confounded" else noise])
        before.append(slots[:-1])
        after.append(slots[1:])
    source: dict[str, Any] = {**dataset.source, "previous_action": mode, "one_hot": one_hot}
    if slot.factors is not None:
        source["factors"] = slot.factors
    shown = replace(
        dataset,
        observations=slot.show(dataset.observations, np.concatenate(before)),
        next_observations=slot.show(dataset.next_observations, np.concatenate(after)),
        observation_space=slot.space,
        source=source,
    )
    return shown if first_step == "random" else _without_first_steps(shown)


def _without_first_steps(dataset: OfflineDataset) -> OfflineDataset:
    kept = np.ones(len(dataset), bool)
    kept[dataset.episode_starts] = False
    if not kept.any():
        raise ValueError(
            "no episode has a second step, and a first one has no previous action: pass "
            'first_step="random"'
        )
    columns = ("observations", "next_observations", "actions", "rewards", "terminated", "truncated")
    cut: dict[str, Any] = {
        name: map_observations(lambda values: values[kept], getattr(dataset, name))
        for name in columns
    }
    lengths = dataset.lengths() - 1
    lengths = lengths[lengths > 0]
    log_prob = dataset.behavior_log_prob
    return replace(
        dataset,
        **cut,
        episode_starts=np.cumsum(lengths) - lengths,
        behavior_log_prob=None if log_prob is None else log_prob[kept],
    )


def make_with_previous_action(
    env_id: str | None = None, mode: Mode = "confounded", one_hot: bool = False, **options: Any
) -> PreviousAction:
    """A registered environment in :class:`PreviousAction`, for commands, where it is
    ``sb3_ext.plugins.causal.confounding:PreviousAction-v0``.

    :param env_id: of the environment inside
    :param options: its own
    :raises ValueError: if nothing says which environment is inside
    """
    if env_id is None:
        raise ValueError(
            "PreviousAction-v0 shows the previous action of another environment, and nothing says "
            "of which: give PreviousAction(gym.make('MountainCar-v0')) in Python, or "
            "gym.make(..., env_id='MountainCar-v0'); --env-set env_id=MountainCar-v0 on the "
            "command line"
        )
    return PreviousAction(gym.make(env_id, **options), mode, one_hot)


if "PreviousAction-v0" not in gym.registry:
    gym.register("PreviousAction-v0", f"{__name__}:make_with_previous_action")


def require_mode(mode: str) -> None:
    """Refuse other modes."""
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(map(repr, MODES))}, got {mode!r}")


def require_room(space: spaces.Space[Any]) -> None:
    """Refuse images that are too small for a number.

    :raises ValueError: with what is needed
    """
    sides: Sequence[int] = sorted(space.shape or ())[1:]
    least = 4 * max(DIGIT_SHAPE)
    if min(sides) < least:
        raise ValueError(f"a number needs an image of at least {least} pixels a side, got {space}")
