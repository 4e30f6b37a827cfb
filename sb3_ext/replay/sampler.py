"""The sampler axis: which transitions of the buffer make the next batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from sb3_ext.replay.window import Indices, Window

if TYPE_CHECKING:
    from sb3_ext.algorithms.composable import Composable
    from sb3_ext.updates import Clock


@dataclass(frozen=True)
class Drawn:
    """A sampler's answer.

    :param indices: transition indices ``[n]`` (``row * n_envs + env``)
    :param weights: importance weights ``[n, 1]`` that correct the critic's loss, or None for ones
    """

    indices: Indices
    weights: Tensor | None = None


class Sampler(Protocol):
    """Chooses transitions; never touches the data. Uniform replay is SB3's own and needs none.

    Inherit from it and write ``draw``; the other methods have defaults that do nothing.
    """

    def draw(self, n: int, window: Window, clock: Clock) -> Drawn:
        """Choose ``n`` transitions of the window.

        :param n: batch size
        :param window: the valid part of the buffer
        :param clock: which gradient step this is
        """
        raise NotImplementedError(f"{type(self).__name__} must define draw(n, window, clock)")

    def added(self, indices: Indices) -> None:
        """New transitions were written at these indices."""

    def observe(self, indices: Indices, td_error: Tensor) -> None:
        """The TD errors ``[n, n_critics]`` of drawn transitions, from before the update."""

    def training_starts(self, window: Window, timesteps: int) -> None:
        """Called by ``learn`` before the first step; the place for warnings.

        :param window: what the buffer holds
        :param timesteps: environment steps that this call of ``learn`` will take
        """

    def episodes_begin(self) -> None:
        """All environments were reset, and no end of the episodes under way was stored."""

    def fitted(self) -> SamplerConfig | None:
        """The config as it really is, if building it changed an option; it is saved instead."""

    def metrics(self) -> Mapping[str, float]:
        """Health figures for the logger, by their keys (``per/beta``)."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """All that ``draw`` uses beside its arguments: arrays, tensors and plain values.

        A resumed run goes on with it; the buffer's data need not be in it.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what ``state_dict`` gave."""


def require_drawn(drawn: Any, n: int, window: Window, sampler: Sampler) -> None:
    """Refuse an answer of a sampler that would end in an error elsewhere, or in a wrong batch.

    :param drawn: what ``draw`` gave
    :param n: how many were asked for
    :param window: of which
    :param sampler: who answered
    :raises TypeError: for what is no ``Drawn`` with ``n`` integers
    :raises ValueError: for a transition that the window does not hold
    """
    name = type(sampler).__name__
    if not isinstance(drawn, Drawn):
        raise TypeError(
            f"{name}.draw must return sb3_ext.Drawn(indices, weights), got {type(drawn).__name__}"
        )
    indices = drawn.indices
    if not isinstance(indices, np.ndarray) or indices.dtype.kind != "i" or indices.shape != (n,):
        array = isinstance(indices, np.ndarray)
        found = f"{indices.dtype} {list(indices.shape)}" if array else type(indices).__name__
        raise TypeError(
            f"{name}.draw must return {n} indices in a NumPy array of int64, got {found}"
        )
    # A full ring holds every index that it has, which two bounds tell in less time.
    held = (
        window.contains(indices).all()
        if window.length < window.capacity
        else indices.min(initial=0) >= 0 and indices.max(initial=0) < window.size
    )
    if not held:
        raise ValueError(
            f"{name}.draw must return transitions that the buffer holds, got indices from "
            f"{indices.min()} to {indices.max()} of which {(~window.contains(indices)).sum()} are "
            f"not among its {window.size}"
        )


@runtime_checkable
class SamplerConfig(Protocol):
    """What ``replay=`` takes: plain data that can build its living part."""

    def build(self, algorithm: Composable) -> Sampler:
        """Make the sampler for an algorithm whose buffer exists already."""
        ...
