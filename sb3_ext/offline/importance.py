"""Importance sampling estimates of a policy's value, as pure functions: NumPy only.

Data are episodes of a *behaviour* policy mu; wanted is the value of a *target* policy pi at the
start of an episode. All matrices have one row an episode and one column a time step, ``[E, T]``,
and are zero after an episode's end (:func:`by_episode` makes them). Zero log ratios there leave the
weights as they were, which is what an absorbing state would do.

Each estimator comes as the ``[E]`` contributions of the episodes, whose mean is the estimate. With
weights that are normalised over the data the contributions depend on each other: take their mean,
not their spread.

What is estimated where a time limit cut an episode: :func:`importance_sampling` and
:func:`per_decision` know the recorded rewards only, so theirs is the return *within the horizon*.
:func:`doubly_robust` adds the value at the cut, if ``values`` holds it there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: exp of more than this is no float64.
LARGEST_LOG = float(np.log(np.finfo(np.float64).max))


def by_episode(values: ArrayLike, episode_starts: Integers, after_end: float = 0.0) -> Floats:
    """Flat transitions as one row an episode.

    :param values: ``[N]``, episodes one after the other
    :param episode_starts: ``[E]``, where each begins; ascending, the first is 0
    :param after_end: fills the rows of episodes that are shorter than the longest
    :return: ``[E, T]``, with T the length of the longest
    :raises ValueError: if ``values`` is not flat, or the starts are no starts in it
    """
    flat = np.asarray(values, dtype=np.float64)
    starts = np.asarray(episode_starts)
    if flat.ndim != 1:
        raise ValueError(f"values must be flat, [N], got shape {list(flat.shape)}")
    bounds = np.append(starts, len(flat))
    if starts.ndim != 1 or not len(starts) or starts[0] != 0 or (np.diff(bounds) < 1).any():
        raise ValueError(
            f"episode_starts must ascend from 0 and stay below {len(flat)}, the number of values"
        )
    lengths = np.diff(bounds)
    rows = np.repeat(np.arange(len(starts)), lengths)
    columns = np.arange(len(flat)) - np.repeat(starts, lengths)
    matrix = np.full((len(starts), lengths.max()), after_end)
    matrix[rows, columns] = flat
    return matrix


def discounted_returns(rewards: Floats, gamma: float) -> Floats:
    """``sum_t gamma ** t * r_t`` of each episode.

    :param rewards: ``[E, T]``
    :param gamma: in [0, 1]
    :return: ``[E]``
    """
    returns: Floats = rewards @ _discounts(rewards.shape[1], gamma)
    return returns


def log_weights(log_ratios: Floats) -> Floats:
    """``log w_t = sum_{k <= t} log(pi(a_k|s_k) / mu(a_k|s_k))``.

    Sums of logs, because a product of some hundred ratios leaves the range of floating point.

    :param log_ratios: ``[E, T]``; -inf where the target never takes the action
    :return: ``[E, T]``
    :raises ValueError: for NaN or +inf: the behaviour took actions that it never takes
    """
    if np.isnan(log_ratios).any() or (log_ratios == np.inf).any():
        wrong = int((np.isnan(log_ratios) | (log_ratios == np.inf)).sum())
        raise ValueError(
            f"{wrong} of {log_ratios.size} log ratios are NaN or +inf: the behaviour's probability "
            "of an action that it took cannot be 0, so its probabilities are not those of the data"
        )
    return np.cumsum(log_ratios, axis=1)


def effective_sample_size(log_w: Floats) -> float:
    """``(sum w) ** 2 / sum w ** 2`` (Kong 1992): how many episodes the weights leave.

    :param log_w: ``[E]``, the logs of the weights of whole episodes: the last column of
        :func:`log_weights`
    :return: between 0 (all weights are 0) and E
    """
    if not np.isfinite(log_w.max()):
        return 0.0
    scaled = np.exp(log_w - log_w.max())
    return float(scaled.sum() ** 2 / np.square(scaled).sum())


def ordinary_weights(log_w: Floats) -> Floats:
    """``w`` itself.

    :param log_w: any shape
    :return: of the same shape
    :raises OverflowError: if one of them is too large for a float64
    """
    if log_w.size and log_w.max() > LARGEST_LOG:
        raise OverflowError(
            f"a product of ratios is e^{log_w.max():.0f}, more than floating point holds: the two "
            "policies are too far apart for this many steps. Self-normalised weights stay finite"
        )
    return np.asarray(np.exp(log_w))


def normalized_weights(log_w: Floats) -> Floats:
    """``w_i / mean_j w_j``, over episodes, for each column by itself.

    The mean of the weights' expectation is 1, so this divides by an estimate of 1 (Precup, Sutton
    and Singh 2000, "weighted" importance sampling): biased, consistent, and never outside the range
    of what it averages.

    :param log_w: ``[E]`` or ``[E, T]``
    :return: of the same shape. A column of zero weights stays zero
    """
    scaled = scaled_weights(log_w)
    mean = scaled.mean(axis=0)
    weights: Floats = scaled / np.where(mean > 0, mean, 1.0)
    return weights


def scaled_weights(log_w: Floats) -> Floats:
    """``w_i / max_j w_j``, for each column by itself: as good as w where only ratios count.

    :param log_w: ``[E]`` or ``[E, T]``
    :return: of the same shape, in [0, 1]
    """
    top = log_w.max(axis=0)
    weights: Floats = np.exp(log_w - np.where(np.isfinite(top), top, 0.0))
    return weights


def importance_sampling(
    rewards: Floats, log_ratios: Floats, gamma: float, *, normalize: bool = False
) -> Floats:
    """``w_{T-1} * sum_t gamma ** t * r_t``: the whole episode's ratio times its return.

    Precup, Sutton and Singh, "Eligibility traces for off-policy policy evaluation", ICML 2000.
    Unbiased; with ``normalize`` it is their weighted estimator (WIS): biased, consistent, and of
    far less variance.

    :param rewards: ``[E, T]``
    :param log_ratios: ``[E, T]``, log pi minus log mu of the action taken
    :param gamma: in [0, 1]
    :param normalize: divide by the mean weight
    :return: ``[E]``; the mean estimates the expected return within the recorded horizon
    :raises OverflowError: without ``normalize``, if a weight is too large for a float64
    """
    _require_alike(rewards=rewards, log_ratios=log_ratios)
    log_w = log_weights(log_ratios)[:, -1]
    weights = normalized_weights(log_w) if normalize else ordinary_weights(log_w)
    contributions: Floats = weights * discounted_returns(rewards, gamma)
    return contributions


def per_decision(
    rewards: Floats, log_ratios: Floats, gamma: float, *, normalize: bool = False
) -> Floats:
    """``sum_t gamma ** t * w_t * r_t``: a reward is weighed by the actions that led to it only.

    Precup, Sutton and Singh 2000; "step-wise" in Jiang and Li 2016. Unbiased. With ``normalize``
    each time step's weights are divided by their mean (CWPDIS in Thomas 2015).

    :param rewards: ``[E, T]``
    :param log_ratios: ``[E, T]``
    :param gamma: in [0, 1]
    :param normalize: divide by the mean weight of the time step
    :return: ``[E]``; the mean estimates the expected return within the recorded horizon
    :raises OverflowError: without ``normalize``, if a weight is too large for a float64
    """
    _require_alike(rewards=rewards, log_ratios=log_ratios)
    log_w = log_weights(log_ratios)
    weights = normalized_weights(log_w) if normalize else ordinary_weights(log_w)
    return discounted_returns(weights * rewards, gamma)


def doubly_robust(
    rewards: Floats,
    log_ratios: Floats,
    q_taken: Floats,
    values: Floats,
    gamma: float,
    *,
    normalize: bool = False,
) -> Floats:
    """``sum_t gamma ** t * (w_t * (r_t - Q(s_t, a_t)) + w_{t-1} * V(s_t))``, with ``w_{-1} = 1``.

    The closed form of Jiang and Li's recursion ("Doubly robust off-policy value evaluation for
    reinforcement learning", ICML 2016) ``DR_t = V(s_t) + rho_t * (r_t + gamma * DR_{t+1} -
    Q(s_t, a_t))``. Unbiased for any Q that does not depend on these episodes and has
    ``V(s) = E_pi Q(s, .)``; a good Q takes most of the variance away. With ``normalize`` it is the
    weighted DR of Thomas and Brunskill, "Data-efficient off-policy policy evaluation", ICML 2016.

    :param rewards: ``[E, T]``
    :param log_ratios: ``[E, T]``
    :param q_taken: ``[E, T]``, Q of the state and the action taken
    :param values: ``[E, T + 1]``. In the column after an episode's last step: 0 where it
        terminated; where it was cut, V of the state at the cut if the value beyond the cut belongs
        to the estimate, else 0. Zero after that
    :param gamma: in [0, 1]
    :param normalize: divide by the mean weight of the time step
    :return: ``[E]``
    :raises OverflowError: without ``normalize``, if a weight is too large for a float64
    """
    _require_alike(rewards=rewards, log_ratios=log_ratios, q_taken=q_taken)
    wanted = (len(rewards), rewards.shape[1] + 1)
    if values.shape != wanted:
        raise ValueError(
            f"values must have shape {list(wanted)}, one column more than the rewards for the "
            f"state after the last step, got {list(values.shape)}"
        )
    log_w = log_weights(log_ratios)
    weights = normalized_weights(log_w) if normalize else ordinary_weights(log_w)
    before = np.concatenate([np.ones((len(rewards), 1)), weights], axis=1)
    corrections = discounted_returns(weights * (rewards - q_taken), gamma)
    contributions: Floats = corrections + discounted_returns(before * values, gamma)
    return contributions


def _discounts(length: int, gamma: float) -> Floats:
    if not 0.0 <= gamma <= 1.0:
        raise ValueError(f"gamma must lie in [0, 1], got {gamma}")
    powers: Floats = np.power(float(gamma), np.arange(length))
    return powers


def _require_alike(**matrices: Floats) -> None:
    shapes = {name: list(matrix.shape) for name, matrix in matrices.items()}
    first = next(iter(matrices.values()))
    if first.ndim != 2 or not first.size or any(m.shape != first.shape for m in matrices.values()):
        raise ValueError(
            f"all must have one shape [episodes, steps], got {shapes}; by_episode makes it"
        )
