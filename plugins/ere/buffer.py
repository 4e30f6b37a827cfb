"""ERE by SB3's own door: ``replay_buffer_class=EREReplayBuffer``."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.buffers import DictReplayBuffer

from sb3_ext.plugins.ere.config import EmphasizeRecent
from sb3_ext.plugins.ere.sampler import RecentSampler
from sb3_ext.replay.buffers import DrawingReplayBuffer


class EREReplayBuffer(DrawingReplayBuffer):
    """Emphasising recent experience, also under SB3's and sb3-contrib's own classes.

    ``replay_buffer_kwargs`` takes the options of :class:`EmphasizeRecent`. A stock class has no
    clock: there it counts its own draws for the virtual round, and what needs more is refused
    (``eta_end``, ``cycle="round"``, ``inner``).
    """

    config = EmphasizeRecent

    def make_sampler(self, config: Any) -> RecentSampler:
        """The living part, without an algorithm.

        :raises ValueError: for what only one of our bases can do
        """
        needs = {
            "eta_end": (config.eta_end is not None, "how far the training is"),
            "cycle": (config.cycle == "round", "which update of a call of train it is"),
            "inner": (config.inner is not None, "TD errors"),
        }
        for name, (asked, missing) in needs.items():
            if asked:
                raise ValueError(
                    f"EREReplayBuffer: {name}={getattr(config, name)!r} needs to know {missing}, "
                    "which the classes of stable_baselines3 and sb3_contrib do not tell a buffer: "
                    f"leave {name} out, or take the class of the same name from sb3_ext"
                )
        fitted = config.fitted_to(self.buffer_size * self.n_envs)
        return RecentSampler(fitted, None, seed=None, buffer=self)


class DictEREReplayBuffer(EREReplayBuffer, DictReplayBuffer):
    """The same for Dict observations; ``EREReplayBuffer`` makes it."""


EREReplayBuffer.for_dicts = DictEREReplayBuffer
