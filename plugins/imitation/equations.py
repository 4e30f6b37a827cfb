"""Rewards from a discriminator's logits, and the loss of cloning; pure functions.

``D(s, a)``, the sigmoid of a logit, is the probability that an expert acted (imitation's labels; in
the GAIL paper, D is high for the generator).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor
from torch.nn import functional as F


def survival_reward(logits: Tensor) -> Tensor:
    """``-log(1 - D) = softplus(logit)``, at least 0 (GAIL, algorithm 1, line 5, labels turned).

    It pays for every step, so for staying alive.

    :param logits: ``[B]``
    """
    return -F.logsigmoid(-logits)  # as imitation rounds it


def haste_reward(logits: Tensor) -> Tensor:
    """``log D = -softplus(-logit)``, at most 0.

    Every step costs, so it pays to end early.

    :param logits: ``[B]``
    """
    return F.logsigmoid(logits)


REWARD_FORMS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "softplus": survival_reward,
    "logsigmoid": haste_reward,
}
"""What ``reward_form`` may be."""


def mean_squared_error(predicted: Tensor, actions: Tensor) -> Tensor:
    """``mean (mean of pi(. | s) - a)^2``, over samples and dimensions: a scalar.

    The loss of cloning for continuous actions where the policy's deviation is of no interest.

    :param predicted: ``[B, *shape]``
    :param actions: the expert's, likewise
    """
    return (predicted - actions).square().mean()
