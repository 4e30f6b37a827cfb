"""Temporal-difference targets and losses as pure functions.

Torch only: nothing here knows Stable-Baselines3, a replay buffer or a policy. Everything is
batch first; a *column* is a tensor of shape ``[B, 1]``.
"""

from __future__ import annotations

import torch as th
import torch.nn.functional as F
from torch import Tensor

Tensors = tuple[Tensor, ...] | list[Tensor]


def minimum_over_critics(q_values: tuple[Tensor, ...]) -> Tensor:
    """The clipped double-Q value (Fujimoto et al. 2018, eq. 10).

    :param q_values: one column ``[B, 1]`` for each critic
    :return: the smallest of them for each sample, ``[B, 1]``
    """
    return th.cat(q_values, dim=1).min(dim=1, keepdim=True).values


def value_of_greedy_action(q_values: Tensor, judged_by: Tensor) -> Tensor:
    """What one network says of the action that another, or the same, prefers.

    With both the same it is ``max_a Q(s, a)``, as in DQN (Mnih et al. 2015). With the target
    network's values, judged by the online network's, it is double Q-learning (van Hasselt et al.
    2016, eq. 4): noise that makes an action look best no longer makes it look good, too.

    :param q_values: ``[B, n_actions]``, for their values
    :param judged_by: ``[B, n_actions]``, for the choice
    :return: ``[B, 1]``
    """
    return q_values.gather(1, judged_by.argmax(dim=1, keepdim=True))


def td_target(
    rewards: Tensor, dones: Tensor, discounts: Tensor | float, next_values: Tensor
) -> Tensor:
    """The one-step (or n-step) bootstrapped target ``r + (1 - done) * discount * V(s')``.

    :param rewards: ``[B, 1]``, for n-step replay the discounted sum
    :param dones: ``[B, 1]``, 1 where the episode terminated (not where it was cut short)
    :param discounts: ``gamma``, or ``[B, 1]`` with ``gamma ** n`` for n-step replay
    :param next_values: ``[B, 1]``, the value of the state that is bootstrapped from, or
        ``[B, n_quantiles]`` for its distribution
    :return: of the shape of ``next_values``
    """
    return rewards + (1 - dones) * discounts * next_values


def td_errors(q_values: tuple[Tensor, ...], target: Tensor) -> Tensor:
    """Estimate minus target for every critic.

    Critics come first, so that each one's errors lie together in memory as they do in SB3: side by
    side, the gradient's sum over the batch would round differently in the last bit.

    :param q_values: one column ``[B, 1]`` for each critic
    :param target: ``[B, 1]``
    :return: ``[n_critics, B, 1]``
    :raises ValueError: if the target is not of a Q-value's shape, because a flat ``[B]`` would
        broadcast to ``[B, B]`` and train on nonsense
    """
    if target.shape != q_values[0].shape:
        raise ValueError(
            f"the target must have the shape of the critic's values, {list(q_values[0].shape)}, "
            f"got {list(target.shape)}: return a column [B, 1] from bellman_target"
        )
    return th.stack(q_values) - target


def weighted_squared_error(errors: Tensor, weights: Tensor) -> Tensor:
    """``sum_k mean_i w_i * delta_ki ** 2``: each critic's weighted mean square, summed.

    With unit weights this is the sum of the critics' ``mse_loss``, with the same gradient to the
    last bit. No gradient flows into the weights, wherever they came from.

    :param errors: ``[n_critics, B, 1]``, see :func:`td_errors`
    :param weights: ``[B, 1]``
    :return: a scalar
    :raises ValueError: if the weights are not one column of the batch's length, because a flat
        ``[B]`` would broadcast to ``[B, B]`` and train on nonsense
    """
    batch_size = errors.shape[1]
    require_column(weights, batch_size)
    return (weights.detach() * errors.square()).sum() / batch_size


def weighted_huber_error(errors: Tensor, weights: Tensor, threshold: float = 1.0) -> Tensor:
    """``sum_k mean_i w_i * H(delta_ki)``: each critic's weighted mean Huber loss, summed.

    ``H(d)`` is ``0.5 * d ** 2`` up to the threshold and ``threshold * (|d| - 0.5 * threshold)``
    beyond it (Huber 1964), so no error pulls harder than the threshold. With unit weights and a
    threshold of 1 this is the sum of the critics' ``smooth_l1_loss``, with the same gradient to the
    last bit. No gradient flows into the weights, wherever they came from.

    :param errors: ``[n_critics, B, 1]``, see :func:`td_errors`
    :param weights: ``[B, 1]``
    :param threshold: where the square gives way to the straight line, > 0
    :return: a scalar
    :raises ValueError: if the weights are not one column of the batch's length
    """
    batch_size = errors.shape[1]
    require_column(weights, batch_size)
    bent = F.huber_loss(errors, th.zeros_like(errors), reduction="none", delta=threshold)
    return (weights.detach() * bent).sum() / batch_size


def weighted_quantile_huber_error(
    quantiles: Tensor, target: Tensor, weights: Tensor, sum_over_quantiles: bool
) -> Tensor:
    """Quantile regression of every estimated quantile on every target quantile, weighted.

    The loss of a pair is ``|tau - 1(d < 0)| * H(d)``, with ``d`` = target minus quantile, the Huber
    loss ``H`` of threshold 1 and the midpoints ``tau_i = (i - 0.5) / n_quantiles`` (Dabney et al.
    2018, eq. 10, for QR-DQN; Kuznetsov et al. 2020 for TQC). With unit weights it is sb3-contrib's
    ``quantile_huber_loss``, with the same gradient to the last bit. No gradient flows into the
    weights.

    :param quantiles: ``[B, n_quantiles]``, or ``[B, n_critics, n_quantiles]``
    :param target: ``[B, n_target_quantiles]``, the same for all critics
    :param weights: ``[B, 1]``
    :param sum_over_quantiles: whether to sum over the estimated quantiles, as QR-DQN does, or to
        take the mean over them, as TQC does
    :return: a scalar: the mean over samples, critics and target quantiles
    :raises ValueError: if target or weights are not of the batch's length and these dimensions
    """
    batch_size, n_quantiles = len(quantiles), quantiles.shape[-1]
    require_column(weights, batch_size)
    if target.ndim != 2 or len(target) != batch_size:
        raise ValueError(
            f"the target must have shape [{batch_size}, n_target_quantiles], got "
            f"{list(target.shape)}: return one row of quantiles a sample from bellman_target"
        )
    if quantiles.ndim == 3:
        target = target.unsqueeze(1)
    distances = target.unsqueeze(-2) - quantiles.unsqueeze(-1)
    bent = F.huber_loss(distances, th.zeros_like(distances), reduction="none")
    levels = (th.arange(n_quantiles, device=quantiles.device) + 0.5) / n_quantiles
    tilted = (levels[:, None] - (distances.detach() < 0).float()).abs() * bent
    # Weighted here, where B numbers are left: so the weights cost nothing beside the pairs.
    per_sample = tilted.flatten(1).sum(1, keepdim=True)
    count = tilted.numel() // n_quantiles if sum_over_quantiles else tilted.numel()
    return (weights.detach() * per_sample).sum() / count


def weighted_pal_error(
    errors: Tensor, weights: Tensor, alpha: float, min_priority: float = 1.0
) -> Tensor:
    """PAL: ``sum_k mean_i w_i * pal(delta_ki) / lambda`` (Fujimoto et al. 2020).

    ``pal(d)`` is ``m ** alpha * d ** 2 / 2`` for ``|d| < m`` and
    ``m * |d| ** (1 + alpha) / (1 + alpha)`` beyond, with ``m = min_priority``; ``lambda`` is the
    batch's mean of ``max(|d|, m) ** alpha``, over critics the largest, without gradient. With one
    critic and unit weights the gradient is, in expectation, that of Huber's loss under LAP.

    :param errors: ``[n_critics, B, 1]``, see :func:`td_errors`
    :param weights: ``[B, 1]``
    :param alpha: in [0, 1]
    :param min_priority: > 0, in units of return
    :return: a scalar
    :raises ValueError: if the weights are not one column of the batch's length
    """
    batch_size = errors.shape[1]
    require_column(weights, batch_size)
    size = errors.abs()
    inside = 0.5 * min_priority**alpha * errors.square()
    # Clamped, or the power's gradient at 0 would be a NaN that `where` lets through.
    outside = min_priority * size.clamp(min=min_priority).pow(1 + alpha) / (1 + alpha)
    loss = th.where(size < min_priority, inside, outside)
    scale = size.detach().amax(dim=0).clamp(min=min_priority).pow(alpha).mean()
    return (weights.detach() * loss).sum() / (batch_size * scale)


def polyak_step(parameters: Tensors, targets: Tensors, tau: float) -> None:
    """``target <- (1 - tau) * target + tau * parameter``, in place, all tensors in one call.

    Rounds as SB3's ``polyak_update`` does, in half its time.

    :param parameters: of the online network
    :param targets: of the target network, in the same order
    :param tau: in [0, 1]; 1 copies
    """
    with th.no_grad():
        th._foreach_mul_(targets, 1 - tau)
        th._foreach_add_(targets, parameters, alpha=tau)


def require_column(weights: Tensor, batch_size: int, source: str = "weights") -> Tensor:
    """Give the weights back if they are a column of the batch's length.

    :param weights: what a sampler or a weighting returned
    :param batch_size: number of rows B that it must have
    :param source: whose they are, for the error
    :return: ``weights``
    :raises ValueError: if its shape is not ``[B, 1]``
    """
    if weights.shape != (batch_size, 1):
        raise ValueError(
            f"{source} must have shape [{batch_size}, 1], got {list(weights.shape)}; a flat vector "
            f"would broadcast to [{batch_size}, {batch_size}]: return weights.reshape(-1, 1)"
        )
    return weights
