"""The equations of ACER as pure functions, in the paper's terms. Torch only.

"ACER" is Wang, Bapst, Heess, Mnih, Munos, Kavukcuoglu and de Freitas 2017, *Sample Efficient
Actor-Critic with Experience Replay* (1611.01224). The targets Q^ret and Q^opc are in
``sb3_ext.trajectories.returns``.

A row is a sample: ``[N, n]`` are N samples of n numbers, ``[N]`` one number each. Nothing here
mixes samples, so batch means come last, after the projection: a mean before it would change what
``delta`` means with the size of the batch.

``phi`` are the statistics of the policy's distribution f, which the network puts out; ``g`` and
``k`` are gradients with respect to them. For a categorical they are its probabilities (section
3.3). The other choice is its logits, with :func:`to_logits` of g and :func:`logit_constraint`:
another projection, with another meaning of ``delta``. For a Gaussian of fixed sigma, phi is the
mean. A product of categoricals has its components' probabilities side by side; ``sizes`` says how
many belong to each.

``log_rho`` = log pi(a|x) - log mu(a|x), with pi the policy that is learned and mu the one that
acted. All gradients are written out, and none of them is differentiable again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch as th
from torch import Tensor

#: No probability counts as less than this, where one divides or takes a logarithm.
FLOOR = 1e-8


# Importance weights


def log_ratio(probabilities: Tensor, behaviour: Tensor) -> Tensor:
    """``log rho`` of every action, of the two categorical policies' probabilities.

    :param probabilities: any shape, of pi
    :param behaviour: of the same shape, of mu
    :return: likewise, finite
    """
    return probabilities.clamp(min=FLOOR).log() - behaviour.clamp(min=FLOOR).log()


def truncated_ratio(log_rho: Tensor, c: float) -> Tensor:
    """``min(c, rho)``: the weight of an action that was taken (ACER, eq. 8).

    :param log_rho: any shape; -inf where pi never takes the action
    :param c: >= 0; infinity cuts nothing
    :return: of the same shape, in [0, c]
    :raises ValueError: if c is negative or NaN
    """
    # Cut before the exponential, which overflows.
    return log_rho.clamp(max=_log(c)).exp()


def correction_weight(log_rho: Tensor, c: float) -> Tensor:
    """``[1 - c / rho]+``: what the truncation took away, as a weight under pi (ACER, eq. 8).

    ``mu min(c, rho) + pi [1 - c / rho]+ = pi`` for every action and every c, so both terms together
    have no bias.

    :param log_rho: any shape; -inf where pi never takes the action
    :param c: >= 0; 0 leaves everything to the correction, infinity nothing
    :return: of the same shape, in [0, 1]
    :raises ValueError: if c is negative or NaN
    """
    log_c = _log(c)
    if math.isinf(log_c):  # where a ratio of 0 or infinity leaves log c - log rho undefined
        return th.zeros_like(log_rho) if log_c > 0 else th.ones_like(log_rho)
    return -th.expm1(log_c - log_rho).clamp(max=0)


def _log(c: float) -> float:
    if not c >= 0:
        raise ValueError(f"c, the truncation of importance weights, must be >= 0, got {c}")
    return math.log(c) if c > 0 else -math.inf


# Categorical policies, and products of them


@th.no_grad()
def categorical_gradient(
    probabilities: Tensor,
    actions: Tensor,
    log_rho: Tensor,
    c: float,
    q_ret: Tensor,
    q: Tensor,
    value: Tensor,
) -> Tensor:
    """The policy gradient g, with the correction summed over all actions (ACER, eq. 9).

    ``min(c, rho) grad log f(a) (Q^ret - V)
    + sum_b pi(b) [1 - c / rho(b)]+ grad log f(b) (Q(b) - V)``, with respect to the probabilities,
    where ``grad log f(b)`` is 1 / pi(b) at b and 0 elsewhere.

    :param probabilities: ``[N, A]``, of pi
    :param actions: ``[N]``, int64, those taken
    :param log_rho: ``[N, A]``, of all actions
    :param c: >= 0
    :param q_ret: ``[N]``, Retrace's target
    :param q: ``[N, A]``, the critic's values
    :param value: ``[N]``, ``sum_b pi(b) Q(b)``
    :return: ``[N, A]``, to be ascended
    :raises ValueError: for other shapes, or a negative c
    """
    _require(probabilities, log_rho=log_rho, q=q)
    _require(probabilities[:, 0], actions=actions, q_ret=q_ret, value=value)
    taken = actions.unsqueeze(1)
    weight = truncated_ratio(log_rho.gather(1, taken), c) * (q_ret - value).unsqueeze(1)
    # In the sum, pi(b) and 1 / pi(b) cancel.
    correction = correction_weight(log_rho, c) * (q - value.unsqueeze(1))
    return correction.scatter_add(1, taken, weight / _floored(probabilities).gather(1, taken))


@th.no_grad()
def categorical_constraint(probabilities: Tensor, average: Tensor) -> Tensor:
    """``k = grad KL(average || pi) = -average / pi``, with respect to pi's probabilities.

    (ACER, section 3.3.) For products of categoricals, too: the joint KL is the components' sum.

    :param probabilities: ``[N, A]``, of pi
    :param average: ``[N, A]``, of the average policy network
    :return: ``[N, A]``
    :raises ValueError: for unequal shapes
    """
    _require(probabilities, average=average)
    return -average / _floored(probabilities)


@th.no_grad()
def logit_constraint(probabilities: Tensor, average: Tensor) -> Tensor:
    """``k = grad KL(average || pi) = pi - average``, with respect to pi's logits.

    :param probabilities: ``[N, A]``, of pi
    :param average: ``[N, A]``, of the average policy network
    :return: ``[N, A]``
    :raises ValueError: for unequal shapes
    """
    _require(probabilities, average=average)
    return probabilities - average


@th.no_grad()
def entropy_gradient(probabilities: Tensor) -> Tensor:
    """``-log pi - 1``: the gradient of ``-sum pi log pi`` with respect to the probabilities.

    :param probabilities: ``[N, A]``
    :return: ``[N, A]``, to be ascended
    """
    return -_floored(probabilities).log() - 1


@th.no_grad()
def to_logits(
    probabilities: Tensor, gradient: Tensor, sizes: Sequence[int] | None = None
) -> Tensor:
    """A gradient with respect to probabilities, pulled back through the softmax to the logits.

    ``pi * (g - sum_b pi(b) g(b))``, component by component.

    :param probabilities: ``[N, A]``
    :param gradient: ``[N, A]``
    :param sizes: of a product's components, adding up to A; None for one categorical
    :return: ``[N, A]``
    :raises ValueError: for unequal shapes, or sizes that add up to something else
    """
    _require(probabilities, gradient=gradient)
    along = probabilities * gradient
    sizes = _sizes(probabilities, sizes)
    sums = [part.sum(1, keepdim=True).expand_as(part) for part in along.split(sizes, 1)]
    return along - probabilities * th.cat(sums, dim=1)


def component_columns(actions: Tensor, sizes: Sequence[int]) -> Tensor:
    """Where each component's action stands among the probabilities side by side.

    :param actions: ``[N, D]``, int64, an index in each component
    :param sizes: of the D components
    :return: ``[N, D]``, int64
    """
    return actions + th.tensor([0, *sizes[:-1]], device=actions.device).cumsum(0)


@th.no_grad()
def product_score(probabilities: Tensor, actions: Tensor, sizes: Sequence[int]) -> Tensor:
    """``grad log f(a)`` of a product of categoricals, with respect to all its probabilities.

    ``f(a) = prod_j pi_j(a_j)``, so it is ``1 / pi_j(a_j)`` at each component's action.

    :param probabilities: ``[N, A]``, the components' side by side
    :param actions: ``[N, D]``, int64, an index in each component
    :param sizes: of the D components, adding up to A
    :return: ``[N, A]``
    :raises ValueError: for other shapes or sizes
    """
    _sizes(probabilities, sizes)
    if actions.shape != (len(probabilities), len(sizes)):
        raise ValueError(
            f"actions must have shape [N, D] = {[len(probabilities), len(sizes)]}, one index for "
            f"each of the sizes {list(sizes)}, got {list(actions.shape)}"
        )
    columns = component_columns(actions, sizes)
    inverse = _floored(probabilities).reciprocal()
    return th.zeros_like(inverse).scatter(1, columns, inverse.gather(1, columns))


def categorical_kl(average: Tensor, probabilities: Tensor) -> Tensor:
    """``KL(average || pi)`` of each sample, also of products of categoricals.

    :param average: ``[N, A]``, of the average policy network
    :param probabilities: ``[N, A]``, of pi
    :return: ``[N]``, in nats
    :raises ValueError: for unequal shapes
    """
    _require(probabilities, average=average)
    # xlogy: 0 log 0 = 0.
    return (th.xlogy(average, average) - average * _floored(probabilities).log()).sum(1)


def _floored(probabilities: Tensor) -> Tensor:
    return probabilities.clamp(min=FLOOR)


def _sizes(probabilities: Tensor, sizes: Sequence[int] | None) -> list[int]:
    width = probabilities.shape[1]
    if sizes is not None and sum(sizes) != width:
        raise ValueError(
            f"sizes must add up to the {width} probabilities of a row, got {list(sizes)} with the "
            f"sum {sum(sizes)}"
        )
    return [width] if sizes is None else list(sizes)


# Gaussian policies of fixed sigma


@th.no_grad()
def gaussian_score(mean: Tensor, action: Tensor, sigma: float | Tensor) -> Tensor:
    """``grad log f(a) = (a - mean) / sigma^2``, with respect to the mean (ACER, section 5).

    :param mean: ``[N, n]``
    :param action: ``[N, n]``
    :param sigma: > 0, fixed; a number, or ``[n]``
    :return: ``[N, n]``
    :raises ValueError: for unequal shapes
    """
    _require(mean, action=action)
    return (action - mean) / sigma**2


@th.no_grad()
def gaussian_constraint(mean: Tensor, average: Tensor, sigma: float | Tensor) -> Tensor:
    """``k = grad KL(average || pi) = (mean - average) / sigma^2``, with respect to the mean.

    :param mean: ``[N, n]``, of pi
    :param average: ``[N, n]``, the average policy network's mean
    :param sigma: > 0, of both; a number, or ``[n]``
    :return: ``[N, n]``
    :raises ValueError: for unequal shapes
    """
    _require(mean, average=average)
    return (mean - average) / sigma**2


def gaussian_kl(average: Tensor, mean: Tensor, sigma: float | Tensor) -> Tensor:
    """``KL(average || pi) = ||(mean - average) / sigma||^2 / 2`` of each sample.

    :param average: ``[N, n]``, the average policy network's mean
    :param mean: ``[N, n]``, of pi
    :param sigma: > 0, of both; a number, or ``[n]``
    :return: ``[N]``, in nats
    :raises ValueError: for unequal shapes
    """
    _require(mean, average=average)
    return ((mean - average) / sigma).square().sum(1) / 2


# Large action spaces: one sampled action for the sum over all


@th.no_grad()
def sampled_gradient(
    score: Tensor,
    sampled_score: Tensor,
    log_rho: Tensor,
    sampled_log_rho: Tensor,
    c: float,
    q_opc: Tensor,
    q_sampled: Tensor,
    value: Tensor,
) -> Tensor:
    """The policy gradient g, with the correction at one action a' drawn from pi (ACER, eq. 15).

    ``min(c, rho) grad log f(a) (Q^opc - V) + [1 - c / rho']+ grad log f(a') (Q(a') - V)``

    :param score: ``[N, n]``, ``grad log f`` of the action that was taken
    :param sampled_score: ``[N, n]``, of a'
    :param log_rho: ``[N]``, joint over the action's dimensions, without the trace's power 1/d
    :param sampled_log_rho: ``[N]``, of a'
    :param c: >= 0
    :param q_opc: ``[N]``, and not Retrace's target, which is the critic's alone
    :param q_sampled: ``[N]``, the critic's value of a'
    :param value: ``[N]``
    :return: ``[N, n]``, to be ascended
    :raises ValueError: for other shapes, or a negative c
    """
    _require(score, sampled_score=sampled_score)
    _require(
        score[:, 0],
        log_rho=log_rho,
        sampled_log_rho=sampled_log_rho,
        q_opc=q_opc,
        q_sampled=q_sampled,
        value=value,
    )
    taken = truncated_ratio(log_rho, c) * (q_opc - value)
    correction = correction_weight(sampled_log_rho, c) * (q_sampled - value)
    return taken.unsqueeze(1) * score + correction.unsqueeze(1) * sampled_score


def stochastic_dueling(value: Tensor, advantage: Tensor, sampled_advantages: Tensor) -> Tensor:
    """``Q~(x, a) = V(x) + A(x, a) - mean_j A(x, u_j)`` with the u_j drawn from pi.

    (ACER, section 5.) Its mean over the draws is Q; over a ~ pi, too, it is V. Differentiable; no
    gradient should flow into pi through the draws.

    :param value: ``[N]``
    :param advantage: ``[N]``, of the action in question
    :param sampled_advantages: ``[n, N]``, of n actions drawn independently of it
    :return: ``[N]``
    :raises ValueError: for other shapes
    """
    _require(value, advantage=advantage)
    if sampled_advantages.shape[1:] != value.shape or not len(sampled_advantages):
        raise ValueError(
            f"sampled_advantages must have shape [n, N] with n >= 1 draws for each of the N = "
            f"{len(value)} samples, got {list(sampled_advantages.shape)}"
        )
    return value + advantage - sampled_advantages.mean(0)


@th.no_grad()
def value_target(q_ret: Tensor, q_taken: Tensor, value: Tensor, log_rho: Tensor) -> Tensor:
    """``V^target = min(1, rho) (Q^ret - Q~) + V``, which the head of V learns (ACER, section 5).

    :param q_ret: any shape, Retrace's target
    :param q_taken: of the same shape, the critic's value of the action that was taken
    :param value: of the same shape
    :param log_rho: of the same shape, without the trace's power 1/d
    :return: likewise
    :raises ValueError: for unequal shapes
    """
    _require(q_ret, q_taken=q_taken, value=value, log_rho=log_rho)
    return truncated_ratio(log_rho, 1.0) * (q_ret - q_taken) + value


# The trust region


@th.no_grad()
def project_to_trust_region(g: Tensor, k: Tensor, delta: float) -> Tensor:
    """The z nearest to g with ``k . z <= delta``: ``g - max(0, (k . g - delta) / ||k||^2) k``.

    (ACER, section 3.3.) So along z, as a direction of the statistics, ``KL(average || pi)`` rises
    at a rate of ``delta`` at most. One constraint a sample, joint over all its statistics.

    :param g: ``[N, n]``, the policy gradient of single samples, not divided by N
    :param k: ``[N, n]``, the gradient of the KL with respect to the same statistics
    :param delta: >= 0; infinity projects nothing
    :return: ``[N, n]``
    :raises ValueError: for unequal shapes, or a negative or NaN delta
    """
    if not delta >= 0:
        raise ValueError(f"delta, the bound of the trust region, must be >= 0, got {delta}")
    _require(g, k=k)
    excess = ((k * g).sum(1, keepdim=True) - delta).clamp(min=0)
    # Where k is 0 nothing binds. Its square may also vanish in rounding while k does not.
    tiny = th.finfo(g.dtype).tiny
    return g - excess / k.square().sum(1, keepdim=True).clamp(min=tiny) * k


def _require(like: Tensor, **tensors: Tensor) -> None:
    """Refuse what would broadcast to another shape in silence."""
    for name, tensor in tensors.items():
        if tensor.shape != like.shape:
            raise ValueError(
                f"{name} must have the shape {list(like.shape)}, got {list(tensor.shape)}: samples "
                "are rows, and one number a sample is flat, [N]"
            )
