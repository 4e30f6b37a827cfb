"""The sampler axis: which transitions of the buffer make the next batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

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


@runtime_checkable
class SamplerConfig(Protocol):
    """What ``replay=`` takes: plain data that can build its living part."""

    def build(self, algorithm: Composable) -> Sampler:
        """Make the sampler for an algorithm whose buffer exists already."""
        ...
