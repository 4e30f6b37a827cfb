"""Intervals of estimates that are sums of ratios of means over episodes.

Every importance sampling estimate is ``sum_k mean_i(numerators_ik) / mean_i(denominators_ik)``:
ordinary ones with denominators of 1, self-normalised ones with weights there. So a resample of the
episodes needs only how often each was drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sb3_ext.evaluation import Interval, bootstrap_interval
from sb3_ext.offline.importance import (
    Floats,
    doubly_robust,
    importance_sampling,
    log_weights,
    per_decision,
    scaled_weights,
)

#: Beyond, the corrections of BCa are small, and their cost, which grows with the square, is not.
MOST_EPISODES_FOR_BCA = 1000
_NUMBERS = 4_000_000


@dataclass(frozen=True)
class RatioOfMeans:
    """``sum_k mean(numerators[:, k]) / mean(denominators[:, k])``, with 0 / 0 = 0.

    :param numerators: ``[E, K]``
    :param denominators: ``[E, K]`` or ``[E, 1]``, >= 0
    """

    numerators: Floats
    denominators: Floats

    def estimates(self, counts: Floats) -> Floats:
        """The estimate for each row of counts ``[R, E]``: how often an episode counts."""
        above, below = counts @ self.numerators, counts @ self.denominators
        found: Floats = (above / np.where(below > 0, below, 1.0)).sum(axis=-1)
        return found

    def estimate(self) -> float:
        """On the data as they are."""
        return float(self.estimates(np.ones(len(self.numerators))))

    def interval(self, confidence: float, n_resamples: int, seed: int) -> Interval:
        """Bootstrap over episodes: BCa, or for many episodes percentiles.

        :param confidence: in (0, 1)
        """
        n = len(self.numerators)
        if n <= MOST_EPISODES_FOR_BCA:
            episodes = np.arange(n)
            return bootstrap_interval(episodes, self._of_indices, confidence, n_resamples, seed)
        generator, found = np.random.default_rng(seed), []
        for rows in _chunks(n_resamples, n):
            counts = generator.multinomial(n, np.full(n, 1 / n), rows)
            found.append(self.estimates(counts.astype(np.float64)))
        low, high = np.quantile(np.concatenate(found), [(1 - confidence) / 2, (1 + confidence) / 2])
        return Interval(self.estimate(), float(low), float(high), confidence, n)

    def _of_indices(self, values: Any, axis: int) -> Any:
        """The statistic that SciPy asks for, of episodes' numbers instead of scores."""
        drawn = np.moveaxis(np.asarray(values), axis, -1).astype(np.int64)
        flat, n = drawn.reshape(-1, drawn.shape[-1]), len(self.numerators)
        found, start = [], 0
        for rows in _chunks(len(flat), n):
            part = flat[start : start + rows]
            offsets = np.arange(len(part))[:, None] * n
            counts = np.bincount((part + offsets).ravel(), minlength=len(part) * n)
            found.append(self.estimates(counts.reshape(len(part), n).astype(np.float64)))
            start += rows
        return np.concatenate(found).reshape(drawn.shape[:-1])


def ratio_of_means(
    method: str,
    rewards: Floats,
    log_ratios: Floats,
    gamma: float,
    q_taken: Floats | None = None,
    values: Floats | None = None,
) -> RatioOfMeans:
    """One of the estimators of :mod:`sb3_ext.offline.importance`, ready for a bootstrap.

    :param method: ``"is"``, ``"wis"``, ``"pdis"``, ``"wpdis"``, ``"dr"`` or ``"wdr"``
    :raises OverflowError: for the first, third and fifth, if a weight is too large for a float64
    """
    ones = np.ones((len(rewards), 1))
    if method in ("is", "pdis"):
        estimator = importance_sampling if method == "is" else per_decision
        return RatioOfMeans(estimator(rewards, log_ratios, gamma)[:, None], ones)
    discounts = np.power(float(gamma), np.arange(rewards.shape[1] + 1))
    weights = scaled_weights(log_weights(log_ratios))
    if method == "wis":
        returns = rewards @ discounts[:-1]
        whole = weights[:, -1:]
        return RatioOfMeans(whole * returns[:, None], whole)
    if method == "wpdis":
        return RatioOfMeans(weights * rewards * discounts[:-1], weights)
    if q_taken is None or values is None:
        raise ValueError(f"{method!r} needs the values of a Q function")
    if method == "dr":
        return RatioOfMeans(
            doubly_robust(rewards, log_ratios, q_taken, values, gamma)[:, None], ones
        )
    if method != "wdr":
        raise ValueError(f"there is no method {method!r}")
    before = np.concatenate([ones, weights], axis=1)
    corrections = weights * (rewards - q_taken) * discounts[:-1]
    return RatioOfMeans(
        np.concatenate([corrections, before * values * discounts], axis=1),
        np.concatenate([weights, before], axis=1),
    )


def _chunks(rows: int, width: int) -> list[int]:
    """Sizes that sum to ``rows``, each of at most some millions of numbers."""
    most = max(_NUMBERS // max(width, 1), 1)
    return [min(most, rows - start) for start in range(0, rows, most)]
