"""SB3's replay buffers, seen by the loop, by samplers and by weightings.

Nothing is copied or replaced: ``Replay`` is a view of the buffer that the algorithm holds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import (
    DictReplayBuffer,
    NStepReplayBuffer,
    ReplayBuffer,
)
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from sb3_ext.replay.next_observations import NextObservations
from sb3_ext.replay.sampler import Sampler, require_drawn
from sb3_ext.replay.window import Indices, Window
from sb3_ext.updates import Batch, Clock, Draw

Observations = Tensor | dict[str, Tensor]

_RING_ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


#: What is known to index its arrays by rows and environments, and by rows alone, and no more.
_OF_SB3 = tuple(kind._get_samples for kind in (ReplayBuffer, DictReplayBuffer, NStepReplayBuffer))


class _AtEnvs:
    """An array ``[rows, n_envs, ...]`` that gives, for any environments, those that were chosen."""

    __slots__ = ("array", "envs")

    def __init__(self, array: Any, envs: Indices) -> None:
        self.array, self.envs = array, envs

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, tuple):  # whole rows
            return self.array[key]
        rows, envs, *rest = key
        return self.array[(rows, self.envs.reshape(envs.shape), *rest)]

    def __setitem__(self, key: Any, values: Any) -> None:
        self.array[key] = values


class Replay:
    """A view of one SB3 replay buffer.

    :param buffer: any SB3 replay buffer; uniform draws are its own ``sample()``
    :param vec_normalize: normalises observations and rewards on the way out, as in SB3
    :param sampler: chooses the transitions, or None for uniform replay
    """

    def __init__(
        self,
        buffer: ReplayBuffer,
        vec_normalize: VecNormalize | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        self.buffer = buffer
        self.vec_normalize = vec_normalize
        self.sampler = sampler

    @property
    def window(self) -> Window:
        """The rows that hold a complete transition.

        With ``optimize_memory_usage`` the next observation is the following row's, so once the
        ring is full the row under the write head has lost its own and is left out.
        """
        buffer = self.buffer
        length = buffer.buffer_size - buffer.optimize_memory_usage if buffer.full else buffer.pos
        return Window(buffer.pos, length, buffer.buffer_size, buffer.n_envs)

    @property
    def normalizes_observations(self) -> bool:
        """Whether observations leave the buffer normalised by VecNormalize."""
        return self.vec_normalize is not None and self.vec_normalize.norm_obs

    def draw(self, batch_size: int, clock: Clock) -> Draw:
        """A batch of ``batch_size`` transitions."""
        if self.sampler is None:
            with _rows_noted(self.buffer) as rows:
                samples = self.buffer.sample(batch_size, env=self.vec_normalize)
            ones = th.ones(batch_size, 1, device=self.buffer.device)
            return Draw(samples, ones, rows=rows[0] if len(rows) == 1 else None)
        window = self.window
        drawn = self.sampler.draw(batch_size, window, clock)
        require_drawn(drawn, batch_size, window, self.sampler)
        weights = th.ones(batch_size, 1) if drawn.weights is None else drawn.weights
        return Draw(
            self.gather(drawn.indices),
            th.as_tensor(weights, device=self.buffer.device),
            drawn.indices,
            drawn.indices // self.buffer.n_envs,
        )

    def observe(self, draw: Draw, td_error: Tensor) -> None:
        """Tell the sampler how wrong the critic was about the batch."""
        if self.sampler is not None and draw.indices is not None:
            self.sampler.observe(draw.indices, td_error)

    def observations_and_actions(self, indices: Indices) -> tuple[Observations, Tensor]:
        """What a policy sees of these transitions, ready for a network.

        Cheaper than ``gather`` by the next observations, rewards and ends.

        :param indices: transition indices ``[n]``
        :return: observations ``[n, ...]`` (a dict of them for Dict spaces) and actions
            ``[n, action_dim]`` as stored (scaled to [-1, 1] for Box)
        """
        buffer = self.buffer
        rows, envs = np.divmod(indices, buffer.n_envs)
        stored: Any = buffer.observations
        if isinstance(stored, dict):
            raw: Any = {key: array[rows, envs] for key, array in stored.items()}
        else:
            raw = stored[rows, envs]
        seen: Any = buffer._normalize_obs(raw, self.vec_normalize)
        actions = buffer.to_torch(buffer.actions[rows, envs], copy=False)
        if isinstance(seen, dict):
            return {k: buffer.to_torch(v, copy=False) for k, v in seen.items()}, actions
        return buffer.to_torch(seen, copy=False), actions

    def gather(self, indices: Indices) -> Batch:
        """SB3's batch of exactly these transitions, in this order.

        SB3's ``_get_samples`` takes rows and draws the environments itself. It is asked on a view
        of the buffer in which the environments are chosen already; so n-step returns and the
        memory-saving layout stay SB3's own.

        :param indices: transition indices ``[n]``
        """
        env = self.vec_normalize
        return self._gathered(indices, lambda view, rows: view._get_samples(rows, env=env))

    def single_steps(self, indices: Indices) -> Batch:
        """The same, each of one step: also where the buffer makes n-step returns.

        :param indices: transition indices ``[n]``
        """
        if not isinstance(self.buffer, NStepReplayBuffer):
            return self.gather(indices)
        single, env = ReplayBuffer._get_samples, self.vec_normalize
        return self._gathered(indices, lambda view, rows: single(view, rows, env=env))

    def _gathered(
        self, indices: Indices, samples_of: Callable[[ReplayBuffer, Indices], Batch]
    ) -> Batch:
        rows, envs = np.divmod(indices, self.buffer.n_envs)
        if self.buffer.n_envs == 1:
            return samples_of(self.buffer, rows)
        if type(self.buffer)._get_samples in _OF_SB3:
            return samples_of(self._at(envs), rows)
        # A user's own code may do anything with the arrays: it gets one environment at a time.
        order = np.argsort(envs, kind="stable")
        parts = [samples_of(self._column(env), rows[envs == env]) for env in np.unique(envs)]
        back = th.as_tensor(np.argsort(order, kind="stable"), device=self.buffer.device)
        fields = zip(*parts, strict=True)
        return type(parts[0])(*(_join(list(columns), back) for columns in fields))

    def _at(self, envs: Indices) -> ReplayBuffer:
        """The buffer as if it had one environment, which of each row is in ``envs`` ``[n]``."""
        return self._of_one_environment(lambda array: _AtEnvs(array, envs))

    def _column(self, env: int) -> ReplayBuffer:
        """The buffer as if it had only this environment; shares all memory."""
        return self._of_one_environment(lambda array: _column_of(array, env))

    def _of_one_environment(self, seen: Callable[[Any], Any]) -> ReplayBuffer:
        """The buffer with each of its arrays as it is ``seen``, for one environment."""
        view = copy.copy(self.buffer)
        view.n_envs = 1  # where SB3 draws no random numbers to choose one
        for name in _RING_ARRAYS:
            array: Any = getattr(self.buffer, name, None)
            if isinstance(array, dict):
                setattr(view, name, {key: seen(one) for key, one in array.items()})
            elif array is not None:
                setattr(view, name, seen(array))
        return view


def _column_of(array: np.ndarray | NextObservations, env: int) -> np.ndarray | NextObservations:
    """One environment of ``[rows, n_envs, ...]``, in an axis of length 1; a view."""
    if isinstance(array, NextObservations):
        return array.column(env)
    return array[:, env : env + 1]


@contextmanager
def _rows_noted(buffer: ReplayBuffer) -> Iterator[list[Indices]]:
    """Within the block, note which rows the buffer's own ``sample()`` chooses."""
    rows: list[Indices] = []
    get_samples = buffer._get_samples

    def noting(batch_inds: Indices, env: VecNormalize | None = None) -> Any:
        rows.append(batch_inds)
        return get_samples(batch_inds, env=env)

    buffer._get_samples = noting  # type: ignore[method-assign]
    try:
        yield rows
    finally:
        del buffer._get_samples  # the class's own shows again


def _join(columns: list[Any], order: Tensor) -> Any:
    """Concatenate one field of several batches and put the rows in order."""
    first = columns[0]
    if first is None:
        return None
    if isinstance(first, dict):
        return {key: _join([column[key] for column in columns], order) for key in first}
    return th.cat(columns)[order]
