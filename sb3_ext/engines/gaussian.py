"""SAC's actor: a Gaussian through tanh, its log-density, and the gradients of both by hand.

With ``g = mean + std * noise`` and ``a = tanh(g)``, the reparametrised density is
``log pi(a) = sum_j [-noise_j^2 / 2 - log std_j - log(2 pi) / 2 - log(1 - a_j^2 + eps)]``
(Haarnoja et al. 2018, appendix C, with SB3's ``eps``). Torch only.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch as th
from torch import Tensor

#: SB3's bounds of log std, and its guard of the logarithm.
LOG_STD_MIN, LOG_STD_MAX, EPSILON = -20.0, 2.0, 1e-6
_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


class Squashed(NamedTuple):
    """Actions drawn, and what their gradients need; each ``[n, A]``.

    :param actions: in [-1, 1]
    :param slope: ``1 - actions ** 2``
    :param deviation: ``std * noise``
    :param inside: where log std was not cut off, as 0 or 1; None if nowhere
    """

    actions: Tensor
    slope: Tensor
    deviation: Tensor
    inside: Tensor | None

    def first(self, n: int) -> Squashed:
        """Those of the first ``n`` rows."""
        inside = None if self.inside is None else self.inside[:n]
        return Squashed(self.actions[:n], self.slope[:n], self.deviation[:n], inside)


def draw(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Squashed, Tensor]:
    """Actions and their log-density.

    :param mean: ``[n, A]``
    :param log_std: ``[n, A]``, before it is cut to SB3's bounds
    :param noise: ``[n, A]``, standard normal
    :return: the actions, and ``log pi`` ``[n, 1]``
    """
    bounded = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
    deviation = bounded.exp().mul_(noise)
    actions = (mean + deviation).tanh_()
    slope = 1 - actions.square()
    terms = (slope + EPSILON).log_().add_(bounded).add_(noise.square(), alpha=0.5)
    log_prob = -terms.sum(1, keepdim=True) - mean.shape[1] * _HALF_LOG_TAU
    cut = bool((bounded != log_std).any())
    inside = (bounded == log_std).to(mean.dtype) if cut else None
    return Squashed(actions, slope, deviation, inside), log_prob


def parameter_gradient(drawn: Squashed, action: Tensor, log_prob: float | Tensor) -> Tensor:
    """The gradient of what the Gaussian's two parameters get, side by side.

    :param drawn: what ``draw`` gave
    :param action: the loss's gradient by the actions, as far as it does not come by ``log pi``,
        ``[n, A]``
    :param log_prob: its gradient by ``log pi``, the same for all rows
    :return: ``[n, 2 A]``: of mean, then of log std
    """
    slope = drawn.slope
    # By the Gaussian's value g; log pi depends on it by -log(1 - tanh(g)^2 + eps) alone.
    density = drawn.actions * slope / (slope + EPSILON)
    mean = (action * slope).add_(density.mul_(2 * log_prob))
    log_std = (mean * drawn.deviation).sub_(log_prob)
    if drawn.inside is not None:
        log_std *= drawn.inside
    return th.cat([mean, log_std], dim=1)
