"""The weighting axis: how much each sample of a batch is believed.

A *config* (a frozen dataclass such as ``LikelihoodFree(temperature=5)``) is what users write and
what is saved; its ``build(algorithm)`` makes the living ``Weighting``, which may hold networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor

if TYPE_CHECKING:
    from sb3_ext.algorithms.composable import Composable
    from sb3_ext.replay.storage import Replay
    from sb3_ext.updates import Draw


class Weighting(Protocol):
    """Gives every sample of a batch its weight in the critic's loss.

    Inherit from it and write ``weigh``; the other methods have defaults that do nothing. The
    weights touch the critic only, as LFIW and PER define them: actor, entropy and targets see the
    batch unweighted.
    """

    def weigh(self, draw: Draw, replay: Replay) -> Tensor:
        """Weigh a batch, training whatever estimates the weights on the way.

        Under a sampler that is not uniform the batch is not distributed as the replay buffer:
        use ``draw.weights`` as correction for any expectation over the buffer.

        :param draw: the batch, B transitions
        :param replay: the buffer that it came from
        :return: ``[B, 1]``, finite, >= 0, without gradient; mean 1 keeps the loss's scale
        """
        raise NotImplementedError(f"{type(self).__name__} must define weigh(draw, replay)")

    def training_starts(self, replay: Replay, timesteps: int) -> None:
        """Called by ``learn`` before the first step; the place for warnings.

        :param timesteps: environment steps that this call of ``learn`` will take
        """

    def fitted(self) -> WeightingConfig | None:
        """The config as it really is, if building it changed an option; it is saved instead."""
        return None

    def metrics(self) -> Mapping[str, float]:
        """Scalars for the logger, by their full key (``"lfiw/weight_max"``)."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What ``save`` keeps: tensors and plain values only."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Put back what ``state_dict`` gave."""


@runtime_checkable
class WeightingConfig(Protocol):
    """What ``weighting=`` takes: plain data that can build its living part."""

    def build(self, algorithm: Composable) -> Weighting:
        """Make the weighting for an algorithm whose policy and buffer exist already."""
        ...
