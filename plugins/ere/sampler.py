"""The living part of ERE: a window that shrinks from update to update."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from torch import Tensor

from sb3_ext.plugins.ere.equations import annealed_eta, window_size
from sb3_ext.replay.sampler import Drawn, Sampler, require_drawn
from sb3_ext.replay.window import Indices, Window
from sb3_ext.updates import Clock

if TYPE_CHECKING:
    from sb3_ext.plugins.ere.config import EmphasizeRecent

#: Length of a virtual round before the first episode has ended, and how many episodes count.
_FIRST_ROUND = 1000
_EPISODES = 100
#: A call of train with fewer updates sees too few windows to be a round: with K = 2 the newest
#: tenth would get 42 % of the draws instead of 65.
_SHORTEST_ROUND = 16


class RecentSampler(Sampler):
    """Draws from the newest c_k transitions, uniformly or by an inner sampler.

    :param config: the options, fitted to the buffer
    :param inner: who draws within the window, or None
    :param seed: of its own generator; None takes torch's
    :param buffer: whose ends of episodes are counted
    """

    def __init__(
        self,
        config: EmphasizeRecent,
        inner: Sampler | None,
        *,
        seed: int | None,
        buffer: ReplayBuffer,
    ) -> None:
        self.config = config
        self.c_min: int = config.c_min or 1
        #: The options as they are saved, if the inner sampler changed its own.
        self.own_fitted: EmphasizeRecent | None = None
        self.inner = inner
        self.buffer = buffer
        self.rng = np.random.Generator(np.random.PCG64(th.initial_seed() if seed is None else seed))
        #: Update k of the virtual round, and its length K.
        self.k, self.round = 0, self._next_round()
        self._running = np.zeros(buffer.n_envs, dtype=np.int64)
        self._lengths: deque[int] = deque(maxlen=_EPISODES)
        self._metrics: dict[str, float] = {}
        self._warned = config.eta == 1 and config.eta_end in (None, 1)  # it was asked for
        self._foretold = False  # a stock class says nothing when training starts

    # -- what the loop calls -----------------------------------------------------------------

    def draw(self, n: int, window: Window, clock: Clock) -> Drawn:
        """Choose ``n`` transitions of the window's newest."""
        eta = self.config.eta
        if self.config.eta_end is not None:
            eta = annealed_eta(1 - clock.progress_remaining, eta, self.config.eta_end)
        full = window.capacity * window.n_envs
        size = full if self.config.size == "capacity" else window.size
        if self.config.cycle == "age" and self.inner is None:
            return self._draw_ages(n, window, size, eta)
        newest = window.newest(window_size(*self._position(clock, window), size, eta, self.c_min))
        self._metrics = {"ere/eta": eta, "ere/window": float(newest.size)}
        if self.inner is not None:
            drawn = self.inner.draw(n, newest, clock)
            require_drawn(drawn, n, newest, self.inner)
            return drawn
        return Drawn(newest.draw(n, self.rng))

    def added(self, indices: Indices) -> None:
        """Count the lengths of episodes, for the virtual round."""
        if self.inner is not None:
            self.inner.added(indices)
        if self.config.cycle == "auto" and len(indices) == self.buffer.n_envs:
            rows, envs = np.divmod(indices, self.buffer.n_envs)
            self._running[envs] += 1
            for env in envs[self.buffer.dones[rows, envs] > 0]:
                self._lengths.append(int(self._running[env]))
                self._running[env] = 0

    def observe(self, indices: Indices, td_error: Tensor) -> None:
        """For the inner sampler."""
        if self.inner is not None:
            self.inner.observe(indices, td_error)

    def training_starts(self, window: Window, timesteps: int) -> None:
        """Warn, once, if this call of ``learn`` ends before any window leaves something out."""
        if self.inner is not None:
            self.inner.training_starts(window, timesteps)
        self._foretold = True
        reached = min(window.size + timesteps, window.capacity * window.n_envs)
        when = f"in this call of learn, which ends with {reached} transitions in the replay buffer"
        self._warn_if_whole(window, reached, when)

    def episodes_begin(self) -> None:
        """The episodes under way were cut off."""
        self._running[:] = 0
        if self.inner is not None:
            self.inner.episodes_begin()

    def fitted(self) -> EmphasizeRecent | None:
        """The config with what the inner sampler changed in its own."""
        return self.own_fitted

    def metrics(self) -> Mapping[str, float]:
        """The window and eta of the last update, and what the inner sampler says."""
        return {**self._metrics, **({} if self.inner is None else self.inner.metrics())}

    def state_dict(self) -> dict[str, Any]:
        """Where the round is, lengths of episodes, the generator, and the inner sampler's state."""
        return {
            "k": self.k,
            "round": self.round,
            "running": self._running.copy(),
            "lengths": list(self._lengths),
            "rng": self.rng.bit_generator.state,
            "inner": None if self.inner is None else self.inner.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what ``state_dict`` gave."""
        if self.inner is not None:
            self.inner.load_state_dict(state["inner"])
        self.k, self.round = int(state["k"]), int(state["round"])
        if isinstance(self.config.cycle, int) and self.round != self.config.cycle:
            self.k, self.round = 0, self.config.cycle  # loaded with another cycle
        self._running = np.array(state["running"], dtype=np.int64)
        self._lengths = deque(state["lengths"], maxlen=_EPISODES)
        self.rng.bit_generator.state = state["rng"]

    # -- the parts ---------------------------------------------------------------------------

    def _warn_if_whole(self, window: Window, held: int, when: str) -> None:
        """Say once that no window leaves anything out while so many transitions are held."""
        full = window.capacity * window.n_envs
        size = full if self.config.size == "capacity" else held
        shrunk = window_size(1, 1, size, min(self.config.eta, self.config.eta_end or 1.0), 1)
        told, remedies = [], []
        if self.c_min >= held:
            told.append(f"no window is smaller than c_min={self.c_min}")
            remedies.append("lower c_min")
        if shrunk >= held:
            told.append(f"its smallest window is {shrunk} transitions (of a buffer_size of {full})")
            remedies.append("set size='current' (or lower buffer_size to what will be filled)")
        if told:
            self._warn(f"{when}: {' and '.join(told)}. To change that, {' and '.join(remedies)}")

    def _warn_if_stock(self, window: Window) -> None:
        """After a round of updates, where nobody said how long the training would be."""
        if not self._foretold:
            when = f"until now, with {window.size} transitions in the replay buffer"
            self._warn_if_whole(window, window.size, when)

    def _warn(self, told: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"ERE draws uniformly {told}", stacklevel=4)

    def _position(self, clock: Clock, window: Window) -> tuple[float, float]:
        """Update k and length K of the round that this draw is in."""
        if self.config.cycle == "age":  # one window for the batch, since its inner draws from one
            return float(self.rng.random()), 1.0
        whole = self.config.cycle == "auto" and clock.n_updates >= _SHORTEST_ROUND
        if self.config.cycle == "round" and clock.n_updates == 1:
            self._warn(
                "under cycle='round' while a call of train does one update, which sees all. Set "
                "cycle='auto', or train_freq=(1, 'episode') and gradient_steps=-1"
            )
        if self.config.cycle == "round" or whole:
            return clock.update, clock.n_updates
        position = self.k, self.round
        self.k += 1
        if self.k >= self.round:
            self.k, self.round = 0, self._next_round()
            self._warn_if_stock(window)
        return position

    def _next_round(self) -> int:
        if isinstance(self.config.cycle, int):
            return self.config.cycle
        lengths = getattr(self, "_lengths", ())
        return max(1, round(sum(lengths) / len(lengths))) if lengths else _FIRST_ROUND

    def _draw_ages(self, n: int, window: Window, size: int, eta: float) -> Drawn:
        """Each transition from a window of its own: together they follow the closed-form law."""
        self.k += 1
        if self.k == _FIRST_ROUND:
            self._warn_if_stock(window)
        windows = np.maximum(size * eta ** (1000 * self.rng.random(n)), self.c_min)
        # Whole rows, or the first environments would be drawn more often than the last.
        windows = np.ceil(windows / window.n_envs) * window.n_envs
        windows = np.minimum(windows, window.size)
        self._metrics = {"ere/eta": eta, "ere/window": float(windows.mean())}
        return Drawn(window.of_age((self.rng.random(n) * windows).astype(np.int64)))
