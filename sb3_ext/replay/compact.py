"""A replay buffer that stores each observation once, as float32, and loses none.

``replay_buffer_class=CompactReplayBuffer`` says how transitions are *stored*; which of them are
drawn, and what they weigh, is said elsewhere (``replay=``, ``weighting=``). All else is SB3's own
code, which finds the arrays that it expects.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common import buffers
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer

from sb3_ext.replay.next_observations import NextObservations
from sb3_ext.signatures import require_known


class CompactReplayBuffer(ReplayBuffer):
    """SB3's replay buffer in about half the memory, a quarter where observations are float64.

    Each observation is stored once, and next observations are read from the following row unless
    they differ (see :class:`NextObservations`); so time limits, terminal observations and the row
    under the write head are right, which SB3's ``optimize_memory_usage`` must give up. Observations
    of float64 are stored as float32, which is what policies of SB3 make of them; other types stay.

    Dict observations and n-step returns have variants, which this class makes by itself: for
    ``n_steps`` and ``gamma`` in ``replay_buffer_kwargs``, or from a base of ours for its
    ``n_steps``.

    Write through ``add`` and ``extend``. Writing into ``observations`` changes next observations.

    :param buffer_size: transitions of all environments together, as in SB3
    :param observation_space: as in SB3
    :param action_space: as in SB3
    :param device: as in SB3
    :param n_envs: as in SB3
    :param optimize_memory_usage: SB3's own, which must be off
    :param handle_timeout_termination: as in SB3
    :param options: ``n_steps`` and ``gamma``, as of SB3's ``NStepReplayBuffer``
    """

    next_observations: Any

    def __new__(
        cls, buffer_size: Any = None, observation_space: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """As SB3 calls it; and without arguments, as ``copy`` and ``pickle`` do."""
        if cls is not CompactReplayBuffer:
            return object.__new__(cls)
        if isinstance(observation_space, spaces.Dict):
            return object.__new__(CompactDictReplayBuffer)
        return object.__new__(CompactNStepReplayBuffer if "n_steps" in kwargs else cls)

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
        name = type(self).__name__
        if optimize_memory_usage:
            raise ValueError(
                f"{name} stores each observation once by itself, so optimize_memory_usage must be "
                "False, got True: leave it out"
            )
        of_dicts = isinstance(self, DictReplayBuffer)
        if isinstance(observation_space, spaces.Dict) != of_dicts:
            raise TypeError(
                f"{name} stores {'Dict' if of_dicts else 'no Dict'} observations, got "
                f"{observation_space}: use CompactReplayBuffer, which chooses by itself, or let a "
                f"class of your own inherit from Compact{'' if of_dicts else 'Dict'}ReplayBuffer"
            )
        if of_dicts and options:
            raise ValueError(
                "CompactReplayBuffer sums no rewards with Dict observations, for which SB3 has no "
                f"n-step buffer, got {', '.join(sorted(options))}: leave n_steps at 1"
            )
        require_known(NStepReplayBuffer, options, where=name)
        # With one row: SB3 would make the arrays, and warn of memory, that are not needed.
        super().__init__(
            *(n_envs, observation_space, action_space, device, n_envs),
            **{"handle_timeout_termination": handle_timeout_termination, **options},
        )
        self.buffer_size = max(buffer_size // n_envs, 1)
        for array in ("actions", "rewards", "dones", "timeouts"):
            setattr(self, array, self._of_all_rows(getattr(self, array)))
        stored: Any = self.observations
        if isinstance(stored, dict):
            self.observations = {key: self._of_all_rows(one) for key, one in stored.items()}  # type: ignore[assignment]
            self.next_observations = {
                key: NextObservations(one)
                for key, one in self.observations.items()  # type: ignore[attr-defined]
            }
        else:
            self.observations = self._of_all_rows(stored)
            self.next_observations = NextObservations(self.observations)
        self._warn_of_memory()

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, the side store of next observations included."""
        held: list[Any] = [*self._arrays(), *self._next_observations()]
        return sum(one.nbytes for one in held)

    def add(self, *args: Any, **kwargs: Any) -> None:
        """As in SB3."""
        for one in self._next_observations():
            one.make_way(self.pos)
        super().add(*args, **kwargs)

    def _of_all_rows(self, one_row: np.ndarray) -> np.ndarray:
        dtype = np.float32 if one_row.dtype == np.float64 else one_row.dtype
        return np.zeros((self.buffer_size, *one_row.shape[1:]), dtype=dtype)

    def _arrays(self) -> list[np.ndarray]:
        seen: Any = self.observations
        own = [self.actions, self.rewards, self.dones, self.timeouts]
        return [*(seen.values() if isinstance(seen, dict) else [seen]), *own]

    def _next_observations(self) -> list[NextObservations]:
        held = self.next_observations
        return list(held.values()) if isinstance(held, dict) else [held]

    def _warn_of_memory(self) -> None:
        """As SB3 does, with what this buffer will need; the side store's growth is not known."""
        psutil: Any = getattr(buffers, "psutil", None)  # None where it is not installed
        available = None if psutil is None else psutil.virtual_memory().available
        if available is not None and self.nbytes > available:
            warnings.warn(
                f"{type(self).__name__} will need {self.nbytes / 1e9:.2f}GB when it is full, and "
                f"this system has {available / 1e9:.2f}GB: take a smaller buffer_size",
                stacklevel=3,
            )


class CompactDictReplayBuffer(CompactReplayBuffer, DictReplayBuffer):
    """The same for Dict observations; ``CompactReplayBuffer`` makes it."""


class CompactNStepReplayBuffer(CompactReplayBuffer, NStepReplayBuffer):
    """The same with n-step returns; ``CompactReplayBuffer`` makes it."""
