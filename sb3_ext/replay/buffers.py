"""SB3's own door to a sampler: ``replay_buffer_class=`` and ``replay_buffer_kwargs=``.

Under one of our bases such a class is never made: it stands for SB3's buffer with the sampler,
which is what ``replay=`` says, too. What differs is stock SB3, which makes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext.replay.sampler import Sampler, SamplerConfig
from sb3_ext.replay.storage import Replay
from sb3_ext.signatures import require_known
from sb3_ext.updates import Clock

#: Of SB3's buffers; all other keywords are the sampler's.
_BUFFER_ARGUMENTS = ("handle_timeout_termination",)


class SamplerReplayBuffer(ReplayBuffer):
    """A sampler as a replay buffer class; inherit and name its ``config``.

    :raises TypeError: always under a stock class, unless a subclass can do without TD errors
    """

    config: ClassVar[type[Any]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        name = type(self).__name__
        raise TypeError(
            f"{name} learns from the TD errors of every update, which the classes of "
            "stable_baselines3 and sb3_contrib do not hand out: take the class of the same name "
            f"from sb3_ext (`from sb3_ext import SAC`, say), with replay_buffer_class={name} as it "
            "is"
        )

    @classmethod
    def split(cls, kwargs: Mapping[str, Any] | None) -> tuple[SamplerConfig, dict[str, Any]]:
        """The sampler's config in ``replay_buffer_kwargs``, and what is left for SB3's buffer.

        :raises TypeError: for a misspelt argument, with the near miss
        """
        if getattr(cls, "config", None) is None:
            raise TypeError(f"{cls.__name__} must name its sampler's options: config = MyConfig")
        given = dict(kwargs or {})
        require_known(cls.config, given, where=cls.__name__, also=_BUFFER_ARGUMENTS)
        names = {field.name for field in fields(cls.config)}
        options = {name: value for name, value in given.items() if name in names}
        rest = {name: value for name, value in given.items() if name not in names}
        config: SamplerConfig = cls.config(**options)
        return config, rest


class DrawingReplayBuffer(SamplerReplayBuffer):
    """One that also works under stock SB3: its sampler needs neither TD errors nor a clock.

    For Dict observations it makes its own subclass of SB3's ``DictReplayBuffer``.
    """

    for_dicts: ClassVar[type[ReplayBuffer]]

    def __new__(cls, buffer_size: int, observation_space: Any, *args: Any, **kwargs: Any) -> Any:
        """As SB3 calls it; a Dict space gets the class for dicts."""
        if not isinstance(observation_space, spaces.Dict):
            return object.__new__(cls)
        if not issubclass(getattr(cls, "for_dicts", object), cls):
            raise TypeError(
                f"{cls.__name__} has no class for Dict observations: define one that inherits from "
                f"{cls.__name__} and DictReplayBuffer, and name it {cls.__name__}.for_dicts"
            )
        return object.__new__(cls.for_dicts)

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (self.buffer_size, self.observation_space)

    def __init__(
        self,
        buffer_size: int,
        observation_space: Any,
        action_space: Any,
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        **options: Any,
    ) -> None:
        if "n_steps" in options:
            raise TypeError(
                f"{type(self).__name__} sums no rewards under a class of stable_baselines3 or "
                f"sb3_contrib, got n_steps={options['n_steps']!r}: take the class of the same name "
                f"from sb3_ext, with n_steps={options['n_steps']!r} among its own arguments"
            )
        config, _ = self.split(options)
        plain: Any = DictReplayBuffer if isinstance(self, DictReplayBuffer) else ReplayBuffer
        plain.__init__(
            *(self, buffer_size, observation_space, action_space, device, n_envs),
            *(optimize_memory_usage, handle_timeout_termination),
        )
        self.sampler = self.make_sampler(config)
        if Sampler not in type(self.sampler).__mro__:
            raise TypeError(
                f"{type(self).__name__}.make_sampler must return a sb3_ext.Sampler, got "
                f"{self.sampler!r}"
            )

    def make_sampler(self, config: Any) -> Sampler:
        """The living part, without an algorithm.

        :raises ValueError: for options that need one of our bases
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define make_sampler(config), which gives the living part"
        )

    def add(self, *args: Any, **kwargs: Any) -> None:
        """As in SB3; the sampler is told."""
        row = self.pos
        super().add(*args, **kwargs)
        self.sampler.added(row * self.n_envs + np.arange(self.n_envs))

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:
        """As in SB3, of the transitions that the sampler chooses."""
        draw = Replay(self, env, self.sampler).draw(batch_size, Clock(0, 1, 1.0))
        if not (draw.weights == 1).all():
            raise TypeError(
                f"{type(self.sampler).__name__} gave importance weights, for which a class of "
                f"stable_baselines3 or sb3_contrib has no place: use {type(self).__name__} with "
                "the class of the same name from sb3_ext"
            )
        return draw.samples


def plain_buffer(buffer: ReplayBuffer) -> ReplayBuffer:
    """SB3's own buffer with the arrays of one that draws by itself; any other as it is."""
    if not isinstance(buffer, DrawingReplayBuffer):
        return buffer
    kind = DictReplayBuffer if isinstance(buffer, DictReplayBuffer) else ReplayBuffer
    plain: ReplayBuffer = object.__new__(kind)
    plain.__dict__ |= {name: held for name, held in vars(buffer).items() if name != "sampler"}
    return plain
