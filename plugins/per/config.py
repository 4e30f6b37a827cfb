"""The options of PER and LAP, as users write them and as they are saved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from sb3_ext.algorithms.composable import Composable
from sb3_ext.options import NON_NEGATIVE, POSITIVE, Law, between, check_options, one_of
from sb3_ext.plugins.per.equations import (
    REDUCTIONS,
    Column,
    clipped_masses,
    proportional_masses,
)
from sb3_ext.plugins.per.sampler import PrioritizedSampler

_SHARED: dict[str, Law] = {
    "alpha": NON_NEGATIVE,
    "max_priority": one_of("running", "buffer"),
    "reduce": one_of(*REDUCTIONS),
    "backend": one_of("numpy", "numba"),
}


@dataclass(frozen=True)
class Prioritized:
    """Proportional prioritised replay (Schaul et al. 2016) for any base.

    :param alpha: how much priorities count; 0 is uniform (paper: 0.6)
    :param beta: how much of the draws' bias the weights take back, at the start (paper: 0.4)
    :param beta_end: and at the end of training (paper: 1)
    :param eps: added to every ``|delta|``, so that nothing is never drawn again
    :param normalize: divide the weights by the largest ``"batch"`` or by the largest that any
        transition of the ``"buffer"`` would have: the first moves with the batch, the second makes
        all of them small if one transition has almost no priority
    :param max_priority: a new transition gets the largest priority so far (``"running"``, paper) or
        the largest that the buffer holds (``"buffer"``; Fujimoto et al. 2023 reset it likewise)
    :param reduce: ``"max"`` or ``"mean"`` of ``|delta|`` over the critics
    :param backend: ``"numpy"``, or ``"numba"`` if that is installed: the same draws, faster
    """

    alpha: float = 0.6
    beta: float = 0.4
    beta_end: float = 1.0
    eps: float = 1e-6
    normalize: str = "batch"
    max_priority: str = "running"
    reduce: str = "max"
    backend: str = "numpy"

    def __post_init__(self) -> None:
        check_options(self, _SHARED | _LAWS)

    @property
    def betas(self) -> tuple[float, float] | None:
        """At the start and at the end."""
        return self.beta, self.beta_end

    def masses(self, errors: Column) -> Column:
        """What ``|delta|`` is worth, ``[n]``."""
        return proportional_masses(errors, self.alpha, self.eps)

    def build(self, algorithm: Composable) -> PrioritizedSampler:
        """The living part."""
        return PrioritizedSampler.of(self, algorithm)


@dataclass(frozen=True)
class LAP:
    """Loss-adjusted prioritised replay (Fujimoto et al. 2020): clipped priorities, no weights.

    Its correction is in the loss, so the critic learns with Huber's unless ``critic_loss=`` says
    otherwise; distributional critics keep their own, which is Huber's on quantiles.

    :param alpha: how much priorities count (paper: 0.4 for continuous control, 0.6 for Atari)
    :param min_priority: errors below count alike, and the loss turns from quadratic to linear
        there (paper: 1, Atari 0.01); in units of return
    :param max_priority: as in :class:`Prioritized`
    :param reduce: as in :class:`Prioritized`
    :param backend: as in :class:`Prioritized`
    """

    alpha: float = 0.4
    min_priority: float = 1.0
    max_priority: str = "running"
    reduce: str = "max"
    backend: str = "numpy"

    def __post_init__(self) -> None:
        check_options(self, _SHARED | {"min_priority": POSITIVE})

    #: No weights: the correction is in the loss.
    betas: ClassVar[None] = None
    normalize: ClassVar[str] = "none"

    def masses(self, errors: Column) -> Column:
        """What ``|delta|`` is worth, ``[n]``."""
        return clipped_masses(errors, self.alpha, self.min_priority)

    @property
    def critic_loss(self) -> dict[str, Any]:
        """The loss that the method is defined with."""
        return {"name": "huber", "threshold": self.min_priority}

    def build(self, algorithm: Composable) -> PrioritizedSampler:
        """The living part."""
        return PrioritizedSampler.of(self, algorithm)


_LAWS: dict[str, Law] = {
    "beta": between(0, 1),
    "beta_end": between(0, 1),
    "eps": NON_NEGATIVE,
    "normalize": one_of("batch", "buffer"),
}
