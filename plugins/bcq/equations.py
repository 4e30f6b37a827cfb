"""The equations of BCQ as pure functions, in the papers' terms.

"BCQ" is Fujimoto, Meger and Precup 2019, *Off-Policy Deep Reinforcement Learning without
Exploration* (1812.02900); "discrete BCQ" is Fujimoto, Conti, Ghavamzadeh and Pineau 2019,
*Benchmarking Batch Deep Reinforcement Learning Algorithms* (1910.01708). Where a paper leaves a
constant to its code, the authors' code is followed. Actions are scaled to [-1, 1].
"""

from __future__ import annotations

import torch as th
import torch.nn.functional as F
from torch import Tensor


def gaussian_kl(mean: Tensor, log_std: Tensor) -> Tensor:
    """``KL(N(mean, std^2) || N(0, 1))`` of each dimension (Kingma & Welling 2014, appendix B).

    :param mean: any shape
    :param log_std: of the same shape
    :return: likewise, >= 0, in nats
    """
    return 0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std


def vae_loss(
    reconstruction: Tensor, actions: Tensor, mean: Tensor, log_std: Tensor, kl_weight: float = 0.5
) -> tuple[Tensor, Tensor, Tensor]:
    """The generative model's loss: squared error plus weighted KL, both means over dimensions.

    The mean over J latent dimensions, times one half, is the paper's ``1 / (2 J)`` on the KL (BCQ,
    supplement; the authors' code).

    :param reconstruction: ``[B, A]``
    :param actions: ``[B, A]``, of the data
    :param mean: ``[B, J]``, of the encoder
    :param log_std: ``[B, J]``
    :param kl_weight: of the mean KL
    :return: the loss and its two parts, scalars: reconstruction error, mean KL a dimension
    """
    error = F.mse_loss(reconstruction, actions)
    divergence = gaussian_kl(mean, log_std).mean()
    return error + kl_weight * divergence, error, divergence


def perturbed(actions: Tensor, direction: Tensor, phi: float) -> Tensor:
    """``a + xi_phi(s, a, Phi)``, clipped to the actions' range (BCQ, Algorithm 1).

    :param actions: ``[..., A]``, of the generative model, in [-1, 1]
    :param direction: of the same shape, the perturbation network's tanh, in [-1, 1]
    :param phi: the largest change of an action, in [0, 2]; 2 reaches any action from any other
    """
    return (actions + phi * direction).clamp(-1, 1)


def soft_clipped_double_q(q1: Tensor, q2: Tensor, q_mix_lambda: float) -> Tensor:
    """``lambda * min(Q1, Q2) + (1 - lambda) * max(Q1, Q2)``, element by element (BCQ, Algorithm 1).

    The maximum over candidate actions comes after it: the other way round is another number.

    :param q1: any shape
    :param q2: of the same shape
    :param q_mix_lambda: in [0, 1]; 1 is TD3's minimum, 0.5 the mean
    """
    return q_mix_lambda * th.minimum(q1, q2) + (1 - q_mix_lambda) * th.maximum(q1, q2)


def best_of_candidates(values: Tensor) -> Tensor:
    """``max_i`` over the candidates of each state (BCQ, Algorithm 1).

    :param values: ``[B, n]``
    :return: ``[B, 1]``
    """
    return values.amax(dim=1, keepdim=True)


def allowed_actions(logits: Tensor, threshold: float) -> Tensor:
    """Which actions the behaviour takes often enough: ``G(a|s) / max_b G(b|s) >= threshold``.

    (Discrete BCQ, Algorithm 1.) The paper and the known implementations compare with ``>``, by
    which a threshold of 1 allows no action at all, and the first is taken by accident. With ``>=``,
    1 is behaviour cloning, and 0 is Q-learning.

    :param logits: ``[B, n_actions]``, of the behaviour
    :param threshold: in [0, 1]
    :return: ``[B, n_actions]``, bool; the likeliest action is always among them
    """
    log_ratios = logits - logits.amax(dim=1, keepdim=True)
    return log_ratios.exp() >= threshold


def constrained_greedy_action(q_values: Tensor, allowed: Tensor) -> Tensor:
    """The best of the allowed actions (discrete BCQ, Algorithm 1).

    :param q_values: ``[B, n_actions]``
    :param allowed: ``[B, n_actions]``, bool, at least one in each row
    :return: ``[B, 1]``
    """
    return q_values.masked_fill(~allowed, -th.inf).argmax(dim=1, keepdim=True)


def behavior_loss(logits: Tensor, actions: Tensor, penalty: float = 1e-2) -> Tensor:
    """Negative log likelihood of the data's actions, and a pull of the logits to zero.

    (Discrete BCQ, Algorithm 1; the penalty is the authors' code's.)

    :param logits: ``[B, n_actions]``
    :param actions: ``[B]``, indices
    :param penalty: of the mean squared logit
    :return: a scalar
    """
    return F.cross_entropy(logits, actions) + penalty * logits.square().mean()
