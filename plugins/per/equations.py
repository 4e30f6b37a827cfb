"""The equations of prioritised replay as pure functions: NumPy and torch only."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Column = NDArray[np.float64]
_Numbers = TypeVar("_Numbers", Tensor, Column)

REDUCTIONS = ("max", "mean")


def absolute_errors(td_error: Tensor, reduce: str = "max") -> Tensor:
    """How wrong the critics were about each transition: ``|delta|``, over critics.

    Signs go first: errors of two critics that cancel out are no small error.

    :param td_error: ``[n, n_critics]``, estimate minus target
    :param reduce: ``"max"`` (Fujimoto et al. 2020) or ``"mean"`` over the critics
    :return: ``[n]``, in units of return
    """
    errors = td_error.abs()
    return errors.amax(dim=1) if reduce == "max" else errors.mean(dim=1)


def proportional_masses(errors: Column, alpha: float, eps: float) -> Column:
    """``(|delta| + eps) ** alpha``, a transition's share of the draws before normalisation.

    Schaul et al. 2016, eq. 1, with the proportional priority of section 3.3.

    :param errors: ``[n]``, |delta|
    :param alpha: 0 for uniform draws, 1 for draws in proportion to the error
    :param eps: > 0 keeps transitions of no error alive
    :return: ``[n]``
    """
    return np.power(errors + eps, alpha)


def clipped_masses(errors: Column, alpha: float, min_priority: float) -> Column:
    """``max(|delta|, min_priority) ** alpha``: LAP's priority (Fujimoto et al. 2020).

    :param errors: ``[n]``, |delta|
    :param alpha: in [0, 1]
    :param min_priority: below it the loss is quadratic, and draws are uniform
    :return: ``[n]``
    """
    return np.power(np.maximum(errors, min_priority), alpha)


def sampling_probabilities(priorities: Tensor, alpha: float) -> Tensor:
    """``P(i) = p_i ** alpha / sum_j p_j ** alpha`` (Schaul et al. 2016, eq. 1).

    The sampler never makes this vector; it is here to be read, and to test the sampler against.

    :param priorities: ``[n]``, >= 0 and not all 0
    :param alpha: 0 is uniform over all, also over those of priority 0
    :return: ``[n]``, sums to 1
    """
    masses = priorities**alpha
    return masses / masses.sum()


def importance_weights(probabilities: _Numbers, size: int, beta: float) -> _Numbers:
    """``(N * P(i)) ** -beta``: what the draws' bias costs (Schaul et al. 2016, section 3.4).

    Not normalised: divide by the largest of the batch, or of the buffer, as the paper does for
    stability. With ``beta`` 1 the weighted mean over draws is the mean over the buffer.

    :param probabilities: ``[n]``, of the transitions that were drawn; > 0; NumPy's or torch's
    :param size: number N of transitions that could have been drawn
    :param beta: 0 for no correction, 1 for all of it
    :return: ``[n]``
    """
    return (size * probabilities) ** -beta


def annealed_beta(progress: float, beta: float, beta_end: float) -> float:
    """``beta + (beta_end - beta) * progress``, linear in environment steps.

    :param progress: share of training that is done, from 0 to 1
    :param beta: at the start
    :param beta_end: at the end
    """
    return beta + (beta_end - beta) * min(max(progress, 0.0), 1.0)


def stratified(n: int, rng: np.random.Generator) -> Column:
    """One uniform number from each of n equal parts of [0, 1): a draw that covers them all.

    Schaul et al. 2016, appendix B.2.1.

    :param n: how many
    :param rng: source of randomness
    :return: ``[n]``, ascending
    """
    parts = rng.random(n)
    parts += np.arange(n)
    parts /= n
    return parts
