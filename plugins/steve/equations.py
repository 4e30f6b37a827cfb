"""The equations of model-based value expansion: MVE and STEVE. Torch only.

Axes have letters: H imagined steps; M models of the dynamics and of ends, N of the reward, L
critics; B samples. A candidate is one choice of the three, ``(m, n, l)``.
"""

from __future__ import annotations

import torch as th
from torch import Tensor

#: Added to variances before they are inverted, as in the authors' code.
EPSILON = 1e-8


def alive(done_probabilities: Tensor) -> Tensor:
    """``C_i = prod_{j<=i} (1 - d_j)``: how probably an imagined episode goes on after step i.

    The probabilities are never rounded to ends (Buckman et al. 2018, eq. 5). The real step's own
    end is not in here: :func:`sb3_ext.td.td_target` cuts everything that follows it.

    :param done_probabilities: ``[H, M, B]``, that imagined step j = 1..H ends the episode
    :return: ``[H + 1, M, B]``, from ``C_0 = 1``
    """
    begin = done_probabilities.new_ones(1, *done_probabilities.shape[1:])
    return th.cat([begin, 1 - done_probabilities]).cumprod(dim=0)


def expanded_values(
    rewards: Tensor, continues: Tensor, q_values: Tensor, gamma: float, bonus: Tensor
) -> Tensor:
    """The value of the state s_0 by every candidate, with 0 to H imagined steps.

    ``V_i = sum_{k=1..i} gamma^{k-1} C_{k-1} (R_k + b_{k-1}) + gamma^i C_i (Q_i + b_i)`` (Buckman et
    al. 2018, eq. 6, without the real step). The reward of the step that ends an episode counts.

    :param rewards: ``[H, N, M, B]``, ``R_k`` of step k = 1..H by each reward model on each path
    :param continues: ``[H + 1, M, B]``, ``C_0 = 1`` to ``C_H``, see :func:`alive`
    :param q_values: ``[H + 1, L, M, B]``, ``Q(s_i, a_i)`` by each critic on each path
    :param gamma: the discount
    :param bonus: ``[H + 1, M, B]``, what an action is worth beside its reward: 0, or the entropy's
        ``-alpha log pi(a_i | s_i)``
    :return: ``[H + 1, M, N, L, B]``
    :raises ValueError: for shapes that do not belong together
    """
    steps, n_rewards, n_models, batch = rewards.shape
    for name, found in (("continues", continues), ("bonus", bonus)):
        if found.shape != (steps + 1, n_models, batch):
            raise ValueError(
                f"{name} must have shape [H + 1, M, B] = {[steps + 1, n_models, batch]} beside "
                f"rewards [H, N, M, B] = {list(rewards.shape)}, got {list(found.shape)}"
            )
    if q_values.shape[0] != steps + 1 or q_values.shape[2:] != (n_models, batch):
        raise ValueError(
            f"q_values must have shape [H + 1, L, M, B] = [{steps + 1}, L, {n_models}, {batch}], "
            f"got {list(q_values.shape)}"
        )
    powers = gamma ** th.arange(steps + 1, dtype=rewards.dtype, device=rewards.device)
    reach = powers.view(-1, 1, 1) * continues  # gamma^i C_i
    earned = reach[:-1, None] * (rewards + bonus[:-1, None])
    sums = th.cat([earned.new_zeros(1, n_rewards, n_models, batch), earned.cumsum(dim=0)])
    bootstraps = reach[:, None] * (q_values + bonus[:, None])
    return sums.transpose(1, 2)[:, :, :, None] + bootstraps.transpose(1, 2)[:, :, None]


def moments(candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance over the candidates of each horizon (Buckman et al. 2018, eq. 7).

    The variance is the population's, of the single values and not of their mean.

    :param candidates: ``[H + 1, M, N, L, B]``
    :return: ``[H + 1, B]`` each
    """
    flat = candidates.flatten(1, 3)
    # Values of some thousands with small differences: around their mean float32 keeps the digits.
    centre = flat[:1].mean(dim=1, keepdim=True)
    apart = flat - centre
    mean = apart.mean(dim=1, keepdim=True)
    variance = (apart - mean).square_().mean(dim=1)  # th.var_mean takes far longer
    return (mean + centre)[:, 0], variance


def inverse_variance_weights(variances: Tensor) -> Tensor:
    """``w_i`` proportional to ``1 / (variance_i + 1e-8)``, with sum 1 (Buckman et al. 2018, eq. 9).

    Where no horizon varies, they are uniform: after an end, for one.

    :param variances: ``[H + 1, B]``, >= 0
    :return: ``[H + 1, B]``
    """
    inverse = (variances + EPSILON).reciprocal()
    return inverse / inverse.sum(dim=0, keepdim=True)


def inverse_variance_target(means: Tensor, variances: Tensor) -> Tensor:
    """STEVE's target: the horizons' means, each counting by how much its candidates agree.

    :param means: ``[H + 1, B]``
    :param variances: ``[H + 1, B]``, >= 0
    :return: ``[B]``
    :raises ValueError: for other shapes
    """
    if means.shape != variances.shape or means.ndim != 2:
        raise ValueError(
            "means and variances must both have shape [H + 1, B], got "
            f"{list(means.shape)} and {list(variances.shape)}"
        )
    return (inverse_variance_weights(variances) * means).sum(dim=0)
