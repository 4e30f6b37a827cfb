"""One update of ACER: from windows to a direction for the policy, and a loss of the critic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch as th
from torch import Tensor

from sb3_ext.plugins.acer import equations
from sb3_ext.plugins.acer.policies import ACERPolicy
from sb3_ext.plugins.acer.statistics import Categoricals, Gaussian
from sb3_ext.trajectories.replay import Windows
from sb3_ext.trajectories.returns import q_opc, retrace


@dataclass(frozen=True)
class Options:
    """What an update needs to know, in the terms of :class:`~.algorithm.ACER`."""

    gamma: float
    correction_term: float
    bias_correction: bool
    trust_region: bool
    trust_region_space: str
    delta: float
    retrace_lambda: float
    n_dual_samples: int
    ent_coef: float
    project_entropy: bool
    vf_coef: float


@dataclass(frozen=True)
class Direction:
    """Where an update goes: ``statistics`` along ``z``, and down ``critic_loss``.

    :param statistics: ``[N, n]`` with their graph, of each step's distribution
    :param z: ``[N, n]``, to be ascended; of each step by itself, not divided by N
    :param critic_loss: a scalar with its graph
    :param metrics: scalars for the log
    """

    statistics: Tensor
    z: Tensor
    critic_loss: Tensor
    metrics: dict[str, Tensor]

    def backward(self) -> None:
        """The gradients of one descent: means over all steps, after the projection of each."""
        slope = -self.z / len(self.z)
        th.autograd.backward([self.statistics, self.critic_loss], [slope, None])


def direction(policy: ACERPolicy, windows: Windows, options: Options) -> Direction:
    """The update on some windows.

    :param windows: on-policy or replayed
    """
    if policy.advantage_net is None:
        return _exact(policy, windows, options)
    return _sampled(policy, windows, options)


def _exact(policy: ACERPolicy, windows: Windows, options: Options) -> Direction:
    """One Discrete choice: a value for each action, and the correction summed over all of them."""
    outputs, slow, latent = policy.heads(windows.observations)
    probabilities = outputs.softmax(dim=1)
    q = policy.value_net(latent)
    q_taken = q.gather(1, windows.actions).squeeze(1)
    with th.no_grad():
        pi, average = probabilities.detach(), slow.softmax(dim=1)
        log_rho = equations.log_ratio(pi, windows.behavior.exp())
        value = (pi * q).sum(dim=1)
        taken = log_rho.gather(1, windows.actions).squeeze(1)
        q_ret = retrace(
            **_window(policy, windows, q_taken, value, options), **_trace(taken, windows, options)
        )
        q_ret = q_ret.flatten()
        # Without the correction, its term says nothing of any action.
        corrected = q if options.bias_correction else value[:, None].expand_as(q)
        c, actions = options.correction_term, windows.actions.squeeze(1)
        g = equations.categorical_gradient(pi, actions, log_rho, c, q_ret, corrected, value)
    moved = _Categorical(outputs, probabilities, pi, average, None)
    return _assemble(moved, g, taken, _critic_loss(q_ret, q_taken, options), q_ret, options)


def _sampled(policy: ACERPolicy, windows: Windows, options: Options) -> Direction:
    """Box and MultiDiscrete: a dueling critic, and the correction at one action of the policy."""
    family = policy.statistics
    outputs, slow, latent = policy.heads(windows.observations)
    with th.no_grad():
        parameters = family.parameters(outputs)
        drawn = family.sample(parameters, options.n_dual_samples + 1)
        other, dual = drawn[0], drawn[1:]
    pairs = th.stack([windows.actions, other])
    (q_taken, q_other), v = policy.dueling(latent, pairs, dual)
    with th.no_grad():
        value = v.detach()
        taken, elsewhere = (
            family.log_prob(parameters, a) - family.log_prob(windows.behavior, a) for a in pairs
        )
        window = _window(policy, windows, q_taken, value, options)
        trace = _trace(taken, windows, options)
        q_ret = retrace(**window, **trace, dimensions=family.dimensions).flatten()
        q_policy = q_opc(**window).flatten() if options.retrace_lambda > 0 else q_ret
        v_target = equations.value_target(q_ret, q_taken, value, taken)
        corrected = q_other if options.bias_correction else value
        moved: _Categorical | _Normal
        if isinstance(family, Categoricals):
            probabilities = parameters.exp()
            score, other_score = (
                equations.product_score(probabilities, a, family.sizes) for a in pairs
            )
        else:
            assert isinstance(family, Gaussian)
            score, other_score = (equations.gaussian_score(outputs, a, family.sigma) for a in pairs)
        g = equations.sampled_gradient(
            score,
            other_score,
            taken,
            elsewhere,
            options.correction_term,
            q_policy,
            corrected,
            value,
        )
        slow_parameters = family.parameters(slow)
    if isinstance(family, Categoricals):
        live = family.parameters(outputs).exp()
        moved = _Categorical(outputs, live, probabilities, slow_parameters.exp(), family.sizes)
    else:
        moved = _Normal(outputs, slow, family.sigma)
    loss = _critic_loss(q_ret, q_taken, options)
    loss = loss + options.vf_coef * 0.5 * (v_target - v).square().mean()
    return _assemble(moved, g, taken, loss, q_ret, options)


def _window(
    policy: ACERPolicy, windows: Windows, q_taken: Tensor, value: Tensor, options: Options
) -> dict[str, Any]:
    """What the returns take."""
    shape = windows.rewards.shape
    # A target, and of few observations: batch statistics are neither taken from them nor learned.
    training = policy.training and policy.modes_differ
    if training:
        policy.set_training_mode(False)
    next_value, truncation_values = windows.bootstrap(policy.predict_values)
    if training:
        policy.set_training_mode(True)
    return {
        "rewards": windows.rewards,
        "q_taken": q_taken.detach().reshape(shape),
        "values": value.reshape(shape),
        "next_value": next_value,
        "gamma": options.gamma,
        "terminated": windows.terminated,
        "truncated": windows.truncated,
        "truncation_values": truncation_values,
    }


def _trace(log_rho: Tensor, windows: Windows, options: Options) -> dict[str, Any]:
    rho = log_rho.exp().reshape(windows.rewards.shape)
    return {"rho": rho, "lambda_": options.retrace_lambda}


def _critic_loss(q_ret: Tensor, q_taken: Tensor, options: Options) -> Tensor:
    return options.vf_coef * 0.5 * (q_ret - q_taken).square().mean()


@dataclass(frozen=True)
class _Categorical:
    """Probabilities, or the logits under them, as what the trust region is about."""

    outputs: Tensor
    probabilities: Tensor
    pi: Tensor
    average: Tensor
    sizes: Sequence[int] | None

    def in_space(self, g: Tensor, space: str) -> Tensor:
        """A gradient by the probabilities, in the coordinates that were asked for."""
        return g if space == "probabilities" else equations.to_logits(self.pi, g, self.sizes)

    def constraint(self, space: str) -> Tensor:
        constrain = equations.categorical_constraint
        return (constrain if space == "probabilities" else equations.logit_constraint)(
            self.pi, self.average
        )

    def statistics(self, space: str) -> Tensor:
        return self.probabilities if space == "probabilities" else self.outputs

    def entropy_gradient(self) -> Tensor | None:
        return equations.entropy_gradient(self.pi)

    def entropy(self) -> Tensor:
        return -th.xlogy(self.pi, self.pi).sum(dim=1)

    def kl(self) -> Tensor:
        return equations.categorical_kl(self.average, self.pi)


@dataclass(frozen=True)
class _Normal:
    """Means; the standard deviation stays, and with it the entropy."""

    mean: Tensor
    average: Tensor
    sigma: float

    def in_space(self, g: Tensor, space: str) -> Tensor:
        return g

    def constraint(self, space: str) -> Tensor:
        return equations.gaussian_constraint(self.mean.detach(), self.average, self.sigma)

    def statistics(self, space: str) -> Tensor:
        return self.mean

    def entropy_gradient(self) -> Tensor | None:
        return None

    def entropy(self) -> Tensor:
        one = math.log(self.sigma) + 0.5 * math.log(2 * math.pi * math.e)
        return self.mean.new_full((1,), self.mean.shape[1] * one)

    def kl(self) -> Tensor:
        return equations.gaussian_kl(self.average, self.mean.detach(), self.sigma)


def _assemble(
    moved: _Categorical | _Normal,
    g: Tensor,
    log_rho: Tensor,
    critic_loss: Tensor,
    q_ret: Tensor,
    options: Options,
) -> Direction:
    """Entropy, the trust region, and what the log tells."""
    space = options.trust_region_space
    with th.no_grad():
        bonus = moved.entropy_gradient()
        paid = options.ent_coef * bonus if bonus is not None else None
        if paid is not None and options.project_entropy:
            g = g + paid
        g, k = moved.in_space(g, space), moved.constraint(space)
        z = equations.project_to_trust_region(g, k, options.delta) if options.trust_region else g
        if paid is not None and not options.project_entropy:
            z = z + moved.in_space(paid, space)
        along = (g * k).sum(dim=1)
        rho = log_rho.exp()
        low, middle, high = _quantiles(rho, (0.1, 0.5, 0.9))
        metrics = {
            "binding": (along > options.delta).float().mean(),
            "k_dot_g": along.mean(),
            "k_norm": k.norm(dim=1).mean(),
            "kl_to_average": moved.kl().mean(),
            "truncated": (rho > options.correction_term).float().mean(),
            "rho_p10": low,
            "rho_p50": middle,
            "rho_p90": high,
            "entropy": moved.entropy().mean(),
            "q_ret": q_ret.mean(),
            "value_loss": critic_loss.detach(),
        }
    return Direction(moved.statistics(space), z, critic_loss, metrics)


def _quantiles(values: Tensor, shares: Sequence[float]) -> Tensor:
    """``values.quantile(shares)``, whose call costs more than the rest of a small update's log.

    :param values: ``[N]``
    :param shares: S numbers in [0, 1]
    :return: ``[S]``, interpolated linearly
    """
    ordered = values.sort().values
    places = values.new_tensor(shares) * (len(values) - 1)
    before = places.long()
    after = (before + 1).clamp_(max=len(values) - 1)
    return th.lerp(ordered[before], ordered[after], places - before)
