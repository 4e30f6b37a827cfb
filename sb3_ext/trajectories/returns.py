"""Off-policy returns of trajectories, as pure functions. Torch only.

A *window* is T steps of B environments, ``[T, B]``: step i has the reward ``r_i``, what a critic
says of the action taken, ``q_taken`` = Q(x_i, a_i), and of the state, ``values`` = V(x_i): for a
discrete policy ``sum_a pi(a|x_i) Q(x_i, a)``. ``rho`` = pi(a_i|x_i) / mu(a_i|x_i) compares the
policy that is learned with the one that acted. ``next_value`` ``[B]`` is V of the state after the
last step.

All targets here are what a critic says plus a sum of its later errors, cut down by the *traces* c:

    target_i = Q_i + sum_{t >= i} gamma^(t - i) (c_{i+1} ... c_t) (r_t + gamma V(x_{t+1}) - Q_t)

(the general operator of Munos et al. 2016, *Safe and efficient off-policy reinforcement learning*,
1606.02647, below "Retrace"). The methods differ in c alone. The traces multiply; a sum of them is
another number.

An episode that ends inside a window ends the sum, in one of two ways. Where it *terminated*, the
value of what follows is 0. Where it was *truncated*, by a time limit, it is the value of the
observation that came last, which is not in the window: give it in ``truncation_values``. Its other
rows are not looked at. A step that is both has terminated.

No gradient flows through any of these; dtype and device are those of what is given.
"""

from __future__ import annotations

import torch as th
from torch import Tensor


@th.no_grad()
def retrace(
    rewards: Tensor,
    q_taken: Tensor,
    values: Tensor,
    next_value: Tensor,
    rho: Tensor,
    gamma: float,
    terminated: Tensor,
    truncated: Tensor,
    truncation_values: Tensor | None = None,
    lambda_: float = 1.0,
    *,
    dimensions: int = 1,
) -> Tensor:
    """Retrace(lambda): ``c = lambda * min(1, rho)``, safe for any two policies (Munos et al. 2016).

    Continuous ACER (Wang et al. 2017, *Sample efficient actor-critic with experience replay*,
    1611.01224, section 5) takes ``c = min(1, rho^(1/d))`` for actions of d dimensions, since a
    product of d ratios is seldom near 1. That power is for the trace alone, not for the policy's
    gradient.

    :param rewards: ``[T, B]``
    :param q_taken: ``[T, B]``
    :param values: ``[T, B]``
    :param next_value: ``[B]``
    :param rho: ``[T, B]``, >= 0
    :param gamma: the discount, in [0, 1]
    :param terminated: ``[T, B]``, bool, or 0 and 1
    :param truncated: ``[T, B]``, likewise
    :param truncation_values: ``[T, B]``, or None where nothing was truncated
    :param lambda_: in [0, 1]; 0 is the one-step target
    :param dimensions: d, at least 1
    :return: a target of Q for each step, ``[T, B]``
    :raises TypeError: for what is no tensor
    :raises ValueError: for other shapes or ranges, missing truncation values, or d < 1
    """
    if dimensions < 1:
        raise ValueError(f"dimensions, of the action, must be at least 1, got {dimensions}")
    _require_windows(rewards, None, rho=rho)
    _require_ratios(rho)
    _require_range("lambda_", lambda_)
    power = rho if dimensions == 1 else rho.pow(1 / dimensions)
    ends = (terminated, truncated, truncation_values)
    return _q_targets(
        rewards, q_taken, values, next_value, lambda_ * power.clamp(max=1), gamma, ends
    )


@th.no_grad()
def q_opc(
    rewards: Tensor,
    q_taken: Tensor,
    values: Tensor,
    next_value: Tensor,
    gamma: float,
    terminated: Tensor,
    truncated: Tensor,
    truncation_values: Tensor | None = None,
) -> Tensor:
    """Q(lambda = 1) with off-policy correction: ``c = 1`` (Harutyunyan et al. 2016, 1602.04951).

    It passes on later rewards whole, which is why continuous ACER takes it for the policy's
    gradient (ACER, eq. 15). As a critic's target it may lead away if pi and mu are far apart.

    :param rewards: ``[T, B]``
    :param q_taken: ``[T, B]``
    :param values: ``[T, B]``
    :param next_value: ``[B]``
    :param gamma: the discount, in [0, 1]
    :param terminated: ``[T, B]``, bool, or 0 and 1
    :param truncated: ``[T, B]``, likewise
    :param truncation_values: ``[T, B]``, or None where nothing was truncated
    :return: ``[T, B]``
    :raises TypeError: for what is no tensor
    :raises ValueError: for other shapes or ranges, or missing truncation values
    """
    _require_windows(rewards, None)
    ends = (terminated, truncated, truncation_values)
    return _q_targets(rewards, q_taken, values, next_value, th.ones_like(rewards), gamma, ends)


@th.no_grad()
def tree_backup(
    rewards: Tensor,
    q_taken: Tensor,
    values: Tensor,
    next_value: Tensor,
    pi_taken: Tensor,
    gamma: float,
    terminated: Tensor,
    truncated: Tensor,
    truncation_values: Tensor | None = None,
    lambda_: float = 1.0,
) -> Tensor:
    """TB(lambda): ``c = lambda * pi(a|x)``, which needs no mu (Precup, Sutton and Singh 2000).

    :param rewards: ``[T, B]``
    :param q_taken: ``[T, B]``
    :param values: ``[T, B]``
    :param next_value: ``[B]``
    :param pi_taken: ``[T, B]``, probabilities of the actions that were taken
    :param gamma: the discount, in [0, 1]
    :param terminated: ``[T, B]``, bool, or 0 and 1
    :param truncated: ``[T, B]``, likewise
    :param truncation_values: ``[T, B]``, or None where nothing was truncated
    :param lambda_: in [0, 1]
    :return: ``[T, B]``
    :raises TypeError: for what is no tensor
    :raises ValueError: for other shapes or ranges, or missing truncation values
    """
    _require_windows(rewards, None, pi_taken=pi_taken)
    _require_range("lambda_", lambda_)
    ends = (terminated, truncated, truncation_values)
    return _q_targets(rewards, q_taken, values, next_value, lambda_ * pi_taken, gamma, ends)


@th.no_grad()
def importance_sampled(
    rewards: Tensor,
    q_taken: Tensor,
    values: Tensor,
    next_value: Tensor,
    rho: Tensor,
    gamma: float,
    terminated: Tensor,
    truncated: Tensor,
    truncation_values: Tensor | None = None,
) -> Tensor:
    """Per-decision importance sampling: ``c = rho`` (Precup, Sutton and Singh 2000).

    Without bias, and with a variance that grows with every step; the critic's values are control
    variates, which make it smaller. It is Retrace without the cut.

    :param rewards: ``[T, B]``
    :param q_taken: ``[T, B]``
    :param values: ``[T, B]``
    :param next_value: ``[B]``
    :param rho: ``[T, B]``, >= 0
    :param gamma: the discount, in [0, 1]
    :param terminated: ``[T, B]``, bool, or 0 and 1
    :param truncated: ``[T, B]``, likewise
    :param truncation_values: ``[T, B]``, or None where nothing was truncated
    :return: ``[T, B]``
    :raises TypeError: for what is no tensor
    :raises ValueError: for other shapes or ranges, or missing truncation values
    """
    _require_windows(rewards, None, rho=rho)
    _require_ratios(rho)
    ends = (terminated, truncated, truncation_values)
    return _q_targets(rewards, q_taken, values, next_value, rho, gamma, ends)


@th.no_grad()
def n_step(
    rewards: Tensor,
    next_value: Tensor,
    gamma: float,
    terminated: Tensor,
    truncated: Tensor,
    truncation_values: Tensor | None = None,
) -> Tensor:
    """``r_i + gamma r_{i+1} + ... + gamma^(T-i) V(x_T)``: to the end of the window or episode.

    On-policy, as A3C's (Mnih et al. 2016, Algorithm S3): nothing is corrected, so no critic is
    asked on the way.

    :param rewards: ``[T, B]``
    :param next_value: ``[B]``
    :param gamma: the discount, in [0, 1]
    :param terminated: ``[T, B]``, bool, or 0 and 1
    :param truncated: ``[T, B]``, likewise
    :param truncation_values: ``[T, B]``, or None where nothing was truncated
    :return: ``[T, B]``
    :raises TypeError: for what is no tensor
    :raises ValueError: for other shapes or ranges, or missing truncation values
    """
    ends = (terminated, truncated, truncation_values)
    # With traces of 1 every critic's value on the way cancels, so it may as well be 0.
    _require_windows(rewards, next_value)
    nothing, whole = th.zeros_like(rewards), th.ones_like(rewards)
    return _q_targets(rewards, nothing, nothing, next_value, whole, gamma, ends)


@th.no_grad()
def vtrace(
    rewards: Tensor,
    values: Tensor,
    next_value: Tensor,
    rho: Tensor,
    gamma: float,
    terminated: Tensor,
    truncated: Tensor,
    truncation_values: Tensor | None = None,
    lambda_: float = 1.0,
    clip_rho: float = 1.0,
    clip_c: float = 1.0,
    *,
    clip_pg_rho: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """V-trace: targets of V, and advantages for the policy's gradient.

    ``v_i = V_i + sum_{t >= i} gamma^(t - i) (c_i ... c_{t-1}) min(clip_rho, rho_t) delta_t`` with
    ``delta_t = r_t + gamma V(x_{t+1}) - V(x_t)`` and ``c = lambda * min(clip_c, rho)``; the
    advantage is ``min(clip_pg_rho, rho_i) (r_i + gamma v_{i+1} - V_i)`` (Espeholt et al. 2018,
    *IMPALA*, 1802.01561, eq. 1 and section 4.2). Here the first step's ratio counts too, since V,
    unlike Q, has not committed to an action. ``clip_rho`` decides whose values are learned,
    ``clip_c`` only how fast.

    :param rewards: ``[T, B]``
    :param values: ``[T, B]``
    :param next_value: ``[B]``
    :param rho: ``[T, B]``, >= 0
    :param gamma: the discount, in [0, 1]
    :param terminated: ``[T, B]``, bool, or 0 and 1
    :param truncated: ``[T, B]``, likewise
    :param truncation_values: ``[T, B]``, or None where nothing was truncated
    :param lambda_: in [0, 1]
    :param clip_rho: of the errors; infinity cuts nothing
    :param clip_c: of the traces
    :param clip_pg_rho: of the advantages
    :return: targets and advantages, ``[T, B]`` each
    :raises TypeError: for what is no tensor
    :raises ValueError: for other shapes or ranges, or missing truncation values
    """
    _require_windows(rewards, next_value, values=values, rho=rho)
    _require_ratios(rho)
    _require_range("lambda_", lambda_)
    _require_range("gamma", gamma)
    ends = _ends(rewards, terminated, truncated, truncation_values)
    errors = rewards + gamma * _following(values, next_value, *ends) - values
    corrections = _backward(
        rho.clamp(max=clip_rho) * errors, gamma * lambda_ * rho.clamp(max=clip_c), ends[0] | ends[1]
    )
    targets = values + corrections
    following = _following(targets, next_value, *ends)
    return targets, rho.clamp(max=clip_pg_rho) * (rewards + gamma * following - values)


def _q_targets(
    rewards: Tensor,
    q_taken: Tensor,
    values: Tensor,
    next_value: Tensor,
    traces: Tensor,
    gamma: float,
    ends: tuple[Tensor, Tensor, Tensor | None],
) -> Tensor:
    """The formula at the top of the module, for any traces ``[T, B]``."""
    _require_windows(rewards, next_value, q_taken=q_taken, values=values)
    _require_range("gamma", gamma)
    terminated, truncated, truncation_values = _ends(rewards, *ends)
    following = _following(values, next_value, terminated, truncated, truncation_values)
    errors = rewards + gamma * following - q_taken
    # An error passes from step i + 1 to step i by the trace of the action at i + 1.
    factors = gamma * traces.roll(-1, dims=0)
    return q_taken + _backward(errors, factors, terminated | truncated)


def _backward(errors: Tensor, factors: Tensor, ends: Tensor) -> Tensor:
    """``s_i = errors_i + factors_i * s_{i+1}``, where nothing passes an end of an episode.

    :param errors: ``[T, B]``
    :param factors: ``[T, B]``; nothing follows the last row, so it is not used
    :param ends: ``[T, B]``, bool
    :return: ``[T, B]``
    """
    sums = th.empty_like(errors)
    later = sums[-1] = errors[-1]
    for i in reversed(range(len(errors) - 1)):
        # Filled, not multiplied by zero: an overflow in one episode stays in it.
        later = errors[i] + (factors[i] * later).masked_fill(ends[i], 0)
        sums[i] = later
    return sums


def _following(
    values: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    truncation_values: Tensor | None,
) -> Tensor:
    """The value of what follows each step, ``[T, B]``: next state's, or at the episode's end."""
    following = th.cat([values[1:], next_value.unsqueeze(0)])
    if truncation_values is not None:
        following = th.where(truncated, truncation_values, following)
    return following.masked_fill(terminated, 0)


def _ends(
    rewards: Tensor, terminated: Tensor, truncated: Tensor, truncation_values: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Both kinds of ends as bool, checked."""
    _require_windows(rewards, None, terminated=terminated, truncated=truncated)
    terminated, truncated = terminated.bool(), truncated.bool()
    if truncation_values is not None:
        _require_windows(rewards, None, truncation_values=truncation_values)
    elif (cut := int((truncated & ~terminated).sum())) > 0:
        raise ValueError(
            f"truncation_values is None, but {cut} of {truncated.numel()} steps were truncated: "
            "give the values of the observations at which these episodes were cut, [T, B], since a "
            "time limit is no end of the rewards"
        )
    return terminated, truncated, truncation_values


def _require_windows(rewards: Tensor, next_value: Tensor | None, **windows: Tensor) -> None:
    """Refuse what is no tensor, or would broadcast to another shape in silence."""
    given = {"rewards": rewards, **windows}
    if next_value is not None:
        given["next_value"] = next_value
    for name, tensor in given.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"{name} must be a tensor, got {type(tensor).__name__}"
                + (": give torch.as_tensor(...) of it" if tensor is not None else "")
            )
    if rewards.ndim != 2 or not len(rewards):
        raise ValueError(
            f"rewards must have shape [T, B] with T >= 1 steps, got {list(rewards.shape)}"
        )
    for name, tensor in windows.items():
        if tensor.shape != rewards.shape:
            raise ValueError(
                f"{name} must have the shape of rewards, [T, B] = {list(rewards.shape)}, got "
                f"{list(tensor.shape)}"
            )
    if next_value is not None and next_value.shape != rewards.shape[1:]:
        raise ValueError(
            f"next_value must have one value an environment, [B] = {list(rewards.shape[1:])} for "
            f"rewards of {list(rewards.shape)}, got {list(next_value.shape)}"
        )


def _require_ratios(rho: Tensor) -> None:
    """Refuse what is no ratio of probabilities; a root of one below 0 would be NaN."""
    if bool((rho < 0).any()):
        raise ValueError(
            f"rho, ratios of probabilities, must be at least 0, got {rho.min().item():g}: were "
            "their logarithms given? Then take rho.exp()"
        )


def _require_range(name: str, number: float) -> None:
    if not 0 <= number <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {number}")
