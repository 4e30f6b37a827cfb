"""The equations of ERE as pure functions: NumPy only.

Source: Wang and Ross, "Boosting Soft Actor-Critic: Emphasizing Recent Experience without
Forgetting the Past", arXiv 1906.04009, section 4. Throughout, ``k`` counts the K updates of a
round, N transitions are in the buffer, and an *age* counts back from the newest, from 1.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def window_size(k: float, n_updates: float, size: int, eta: float, c_min: int) -> int:
    """``c_k = max(N * eta ** (k * 1000 / K), c_min)``, but not more than N.

    The first update of a round sees all, the last ones the newest only; the exponent makes the end
    of a round, ``N * eta ** 1000``, the same for every K.

    :param k: which update of the round, from 0 (the paper counts from 1) to K
    :param n_updates: number K of updates in the round
    :param size: number N of transitions
    :param eta: in (0, 1]; 1 is uniform
    :param c_min: no window is smaller
    :return: number of transitions in the window, rounded down
    """
    shrunk: float = size * eta ** (k * 1000 / n_updates)
    return min(size, max(math.floor(shrunk), c_min))


def annealed_eta(progress: float, eta: float, eta_end: float) -> float:
    """``eta_t = eta_0 + (eta_T - eta_0) * t / T``, linear in environment steps.

    :param progress: share t / T of training that is done, from 0 to 1
    :param eta: eta_0, at the start
    :param eta_end: eta_T, at the end (paper: 1)
    """
    return eta + (eta_end - eta) * min(max(progress, 0.0), 1.0)


def age_probabilities(size: int, eta: float, c_min: int) -> NDArray[np.float64]:
    """How often each age is drawn in a long round: the closed form of ERE's mixture of windows.

    With ``L = -1000 ln eta`` and ``c_e = N eta ** 1000``,
    ``P(i) = (1 / max(i, c_min, c_e) - 1 / N) / L``, and for ``i <= c_min`` in addition
    ``max(ln(c_min / c_e), 0) / (L c_min)``, the updates whose window is the smallest. (Derived
    here, for a continuous k.) The sampler draws from this law without making it.

    :param size: number N of transitions
    :param eta: in (0, 1]
    :param c_min: in [1, N]
    :return: ``[N]``, by age, the newest first; sums to 1
    """
    if eta == 1:
        return np.full(size, 1 / size)
    rate, smallest = -1000 * math.log(eta), size * eta**1000
    age = np.arange(1, size + 1)
    law = (1 / np.maximum(age, max(c_min, smallest)) - 1 / size) / rate
    law[:c_min] += max(math.log(c_min / smallest), 0) / (rate * c_min)
    return law / law.sum()  # type: ignore[no-any-return]
