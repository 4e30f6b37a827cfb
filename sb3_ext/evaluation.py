"""What a set of scores says: estimates with intervals, through SciPy's bootstrap.

A score is one number per seed, a final return say. The pictures are in :mod:`sb3_ext.plots`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]
Statistic: TypeAlias = Callable[..., Any]


@dataclass(frozen=True)
class Interval:
    """A statistic over ``n`` seeds and its confidence interval, in the unit of the scores.

    ``low`` and ``high`` are nan when there are fewer than two seeds: one run has no spread.
    """

    estimate: float
    low: float
    high: float
    confidence: float
    n: int

    def __str__(self) -> str:
        if self.n < 2:
            return f"{_short(self.estimate)} (no interval from {self.n} seed)"
        return f"{_short(self.estimate)} [{_short(self.low)}, {_short(self.high)}]"


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


@overload
def interquartile_mean(scores: ArrayLike, axis: None = None) -> float: ...
@overload
def interquartile_mean(scores: ArrayLike, axis: int) -> Floats: ...
def interquartile_mean(scores: ArrayLike, axis: int | None = None) -> float | Floats:
    """Mean of the middle half: robust like a median, but it uses more than one or two runs.

    The lowest and the highest ``floor(n / 4)`` scores are left out; with fewer than four that is
    none, and the result is the plain mean. Recommended by Agarwal et al., "Deep Reinforcement
    Learning at the Edge of the Statistical Precipice", NeurIPS 2021.

    :param scores: any shape, any unit; all finite
    :param axis: the axis that is averaged away; ``None`` takes all scores together
    :return: in the unit of the scores
    :raises ValueError: if there are no scores, or some are not finite
    """
    from scipy.stats import trim_mean

    values = np.asarray(scores, dtype=np.float64)
    _require_scores(values)
    result = trim_mean(values, 0.25, axis=axis)
    return float(result) if axis is None else np.asarray(result, dtype=np.float64)


def bootstrap_interval(
    scores: ArrayLike,
    statistic: Statistic = interquartile_mean,
    confidence: float = 0.95,
    n_resamples: int = 9999,
    rng: int | np.random.Generator = 0,
) -> Interval:
    """Confidence interval of a statistic over seeds.

    Bias-corrected and accelerated (BCa, Efron 1987) where it is defined, else percentile; scores
    that are all equal give an interval of no width. With a handful of seeds any bootstrap interval
    is too narrow: over 400 draws of five normal scores, the "95 %" interval of the mean held the
    truth 83 times in 100, with twenty scores 94. The same ``rng`` seed gives the same interval.

    :param scores: one score per seed, shape [n]
    :param statistic: called as ``statistic(values, axis=axis)``, e.g. ``numpy.mean``
    :param confidence: in (0, 1)
    :raises ValueError: if ``scores`` is not a non-empty list of finite numbers
    """
    from scipy.stats import bootstrap

    values = np.asarray(scores, dtype=np.float64)
    _require_scores(values)
    if values.ndim != 1:
        raise ValueError(f"scores must have shape [n], one per seed, got {list(values.shape)}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    n, estimate = len(values), float(statistic(values, axis=0))
    if n < 2:
        return Interval(estimate, np.nan, np.nan, confidence, n)
    if np.ptp(values) == 0.0:
        return Interval(estimate, estimate, estimate, confidence, n)
    low = high = np.nan
    for method in ("BCa", "percentile"):
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SciPy's word that BCa is undefined here
            result = bootstrap(
                (values,),
                statistic,
                vectorized=True,
                axis=0,
                confidence_level=confidence,
                n_resamples=n_resamples,
                method=method,
                rng=np.random.default_rng(rng),
            )
        low, high = (float(bound) for bound in result.confidence_interval)
        if np.isfinite([low, high]).all():
            break
    return Interval(estimate, low, high, confidence, n)


def paired_difference(
    a: ArrayLike, b: ArrayLike, statistic: Statistic = np.mean, **options: Any
) -> Interval:
    """Interval of the per-seed differences ``a - b``: above zero, ``a`` is the better one.

    Runs that share a seed share their luck in part; taking differences first removes that part.
    The mean is the default because the mean difference is the difference of the means.

    :param a: one score per seed, shape [n]
    :param b: the same seeds in the same order, shape [n]
    :param options: passed on to :func:`bootstrap_interval`
    :raises ValueError: if the two do not have the same number of seeds
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(
            "a paired difference needs the same seeds on both sides, "
            f"got scores of shapes {list(first.shape)} and {list(second.shape)}"
        )
    return bootstrap_interval(first - second, statistic, **options)


def _require_scores(values: Floats) -> None:
    if values.size == 0:
        raise ValueError("at least one score is needed, got none")
    if not np.isfinite(values).all():
        wrong = int(np.size(values) - np.isfinite(values).sum())
        raise ValueError(f"scores must be finite, got {wrong} of {values.size} that are not")
