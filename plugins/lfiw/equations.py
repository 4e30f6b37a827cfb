"""The equations of likelihood-free importance weighting. Torch only.

Source: Sinha, Song, Garg, Ermon, "Experience Replay with Likelihood-free Importance Weights",
L4DC 2022, PMLR 168:110-123. Throughout, ``l`` is the ratio network's logit and
``w = exp(l)`` estimates ``d_fast(s, a) / d_slow(s, a)``: P is the fast (near on-policy) buffer, Q
the slow one. Exchanging the two inverts the weights.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch as th
import torch.nn.functional as F
from torch import Tensor

Divergence = Literal["js", "kl", "chi2", "hellinger"]
WeightForm = Literal["ratio", "prob"]
DIVERGENCES: tuple[Divergence, ...] = get_args(Divergence)
WEIGHT_FORMS: tuple[WeightForm, ...] = get_args(WeightForm)


def density_ratio_loss(logits_slow: Tensor, logits_fast: Tensor, divergence: str = "js") -> Tensor:
    """``L_w = E_slow[f*(f'(w))] - E_fast[f'(w)]``, the variational bound of D_f(fast || slow).

    Its minimum is ``-D_f(P || Q)``, reached at ``w = dP/dQ`` (section 4 of the paper, after
    Nguyen, Wainwright and Jordan 2010). With ``l = ln w`` the terms are

    ==============  ======================  =========================  ========
    divergence      slow term               fast term                  constant
    ==============  ======================  =========================  ========
    ``js``          softplus(l)             softplus(-l)               -2 ln 2
    ``kl``          exp(l)                  -l                         -1
    ``chi2``        exp(2 l)                -2 exp(l)                  +1
    ``hellinger``   exp(l / 2)              exp(-l / 2)                -2
    ==============  ======================  =========================  ========

    ``js`` is the paper's choice: twice the textbook Jensen-Shannon divergence, and the sum of two
    mean binary cross-entropies (one mean over both batches would be wrong for unequal sizes).

    :param logits_slow: any shape, samples of the slow buffer
    :param logits_fast: any shape, samples of the fast buffer; may differ in length
    :param divergence: one of ``DIVERGENCES``
    :return: a scalar, at least minus the divergence in expectation
    :raises ValueError: if the divergence is not known
    """
    if divergence == "js":
        slow, fast = F.softplus(logits_slow), F.softplus(-logits_fast)
        constant = -2 * math.log(2)
    elif divergence == "kl":
        slow, fast, constant = logits_slow.exp(), -logits_fast, -1.0
    elif divergence == "chi2":
        slow, fast, constant = (2 * logits_slow).exp(), -2 * logits_fast.exp(), 1.0
    elif divergence == "hellinger":
        slow, fast, constant = (logits_slow / 2).exp(), (-logits_fast / 2).exp(), -2.0
    else:
        raise ValueError(f"divergence must be one of {DIVERGENCES}, got {divergence!r}")
    return slow.mean() + fast.mean() + constant


def bounded_logits(outputs: Tensor, limit: float) -> Tensor:
    """``limit * tanh(outputs / limit)``: the identity near 0, and never beyond ``+-limit``.

    Since the fast buffer is a part of the slow one, ``w <= |D_s| / |D_f|`` (section 4): with
    ``limit = ln(|D_s| / |D_f|)`` the network cannot claim more than that, however well it has
    memorised the fast buffer. Smooth, so that a logit at the bound can still come back.

    :param outputs: any shape, the network's raw outputs
    :param limit: > 0; infinity leaves them as they are
    :return: same shape
    :raises ValueError: if the limit is not positive
    """
    if not limit > 0:
        raise ValueError(f"limit must be > 0, got {limit}")
    return outputs if math.isinf(limit) else limit * th.tanh(outputs / limit)


def normalized_weights(
    logits: Tensor,
    temperature: float,
    weight_form: str = "ratio",
    correction: Tensor | None = None,
) -> Tensor:
    """The self-normalised weights of a batch of the slow buffer, of mean 1 over the buffer.

    ``ratio`` (the paper): ``w^(1/T) / E_slow[w^(1/T)]``, which is ``B * softmax(l / T)``.
    ``prob`` (the authors' code): ``sigmoid(l / T) / E_slow[sigmoid(l / T)]``, a milder weighting.

    :param logits: ``[B, 1]``
    :param temperature: T > 0; 1 gives the plain ratio, infinity ones
    :param weight_form: ``"ratio"`` or ``"prob"``
    :param correction: ``[B, 1]`` importance weights of a sampler that is not uniform, so that the
        expectation is still over the slow buffer; None for a uniform batch
    :return: ``[B, 1]``, >= 0, detached; without correction their mean is 1
    :raises ValueError: for other shapes, an unknown form or T <= 0
    """
    if logits.dim() != 2 or logits.shape[1] != 1:
        raise ValueError(f"logits must have shape [B, 1], got {list(logits.shape)}")
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    if weight_form == "ratio":
        log_weights = logits.detach() / temperature
    elif weight_form == "prob":
        log_weights = F.logsigmoid(logits.detach() / temperature)
    else:
        raise ValueError(f"weight_form must be one of {WEIGHT_FORMS}, got {weight_form!r}")
    # A common factor cancels in the quotient; this one makes the largest weight 1, so that no
    # temperature overflows or leaves zeros only.
    weights = (log_weights - log_weights.max()).exp()
    if correction is None:
        return weights / weights.mean()
    if correction.shape != logits.shape:
        raise ValueError(
            f"correction must have the logits' shape {list(logits.shape)}, got "
            f"{list(correction.shape)}"
        )
    return weights * correction.sum() / (correction * weights).sum()


def effective_sample_size(weights: Tensor) -> Tensor:
    """``(sum w)^2 / (n sum w^2)``: the share of a batch that its weights leave in use (Kish).

    :param weights: any shape with n > 0 elements, >= 0, not all 0
    :return: a scalar in (0, 1]; 1 for equal weights, 1/n when one weight has it all
    """
    return weights.sum().square() / (weights.numel() * weights.square().sum())


def balanced_accuracy(logits_slow: Tensor, logits_fast: Tensor) -> Tensor:
    """Mean of the shares of fast samples called fast (``l > 0``) and of slow ones called slow.

    0.5 is chance. Equal densities give 0.5; a network that has memorised its training samples
    gives much more on them than on samples that were held out.

    :param logits_slow: any shape
    :param logits_fast: any shape
    :return: a scalar in [0, 1]
    """
    called_fast = (logits_fast > 0).float().mean()
    called_slow = (logits_slow <= 0).float().mean()
    return (called_fast + called_slow) / 2
