"""What a policy's last layer says, by action space: losses, accuracy and disagreement."""

from __future__ import annotations

from typing import Any

import torch as th
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from sb3_ext.plugins.causal.equations import categorical_disagreement, gaussian_disagreement


def imitation_loss(outputs: Tensor, actions: Tensor, space: spaces.Space[Any]) -> Tensor:
    """How far a policy is from the expert, a sample.

    The squared error of a Box action, as a mean over dimensions and in units of half a dimension's
    range, so that each counts alike; the cross-entropy of others, as a sum over their parts.

    :param outputs: of ``policy.action_net``, ``[B, ...]``: means or logits
    :param actions: ``[B]`` or ``[B, ...]``, the expert's
    :return: ``[B]``
    """
    if isinstance(space, spaces.Box):
        errors = (outputs - actions.flatten(1)) / half_range(space, outputs)
        squares: Tensor = errors.square().mean(1)
        return squares
    if isinstance(space, spaces.MultiBinary):
        terms = F.binary_cross_entropy_with_logits(outputs, actions.flatten(1), reduction="none")
        return terms.sum(1)
    indices = actions.reshape(len(outputs), -1).long()
    losses = [
        F.cross_entropy(logits, indices[:, part], reduction="none")
        for part, logits in enumerate(_categories(outputs, space))
    ]
    return th.stack(losses).sum(0)


def disagreement(outputs: Tensor, space: spaces.Space[Any]) -> Tensor:
    """How much policies under N graphs differ in a state, ``[B]``.

    Of an action in several parts it is the sum over the parts.

    :param outputs: ``[N, B, ...]``
    """
    if isinstance(space, spaces.Box):
        return gaussian_disagreement(outputs / half_range(space, outputs))
    if isinstance(space, spaces.MultiBinary):
        both = F.logsigmoid(th.stack([outputs, -outputs], dim=-1))
        parts = [categorical_disagreement(both[:, :, part]) for part in range(both.shape[2])]
    else:
        parts = [
            categorical_disagreement(F.log_softmax(logits, dim=-1))
            for logits in _categories(outputs, space)
        ]
    return th.stack(parts).sum(0)


def accuracy(outputs: Tensor, actions: Tensor, space: spaces.Space[Any]) -> float:
    """How often the likeliest action is the expert's, over the parts of an action.

    :param outputs: logits, ``[B, ...]``
    :param actions: ``[B]`` or ``[B, ...]``, the expert's
    """
    if isinstance(space, spaces.MultiBinary):
        return ((outputs > 0) == (actions.flatten(1) > 0.5)).float().mean().item()
    best = th.stack([one.argmax(-1) for one in _categories(outputs, space)], dim=1)
    return (best == actions.reshape(len(outputs), -1)).float().mean().item()


def half_range(space: spaces.Box, like: Tensor) -> Tensor:
    """Half of each dimension's range, ``[d]``, where ``like`` is."""
    half = (space.high.astype("float64") - space.low.astype("float64")).reshape(-1) / 2
    return th.as_tensor(half, dtype=like.dtype, device=like.device)


def _categories(outputs: Tensor, space: spaces.Space[Any]) -> tuple[Tensor, ...]:
    sizes = space.nvec.tolist() if isinstance(space, spaces.MultiDiscrete) else [outputs.shape[-1]]
    parts: tuple[Tensor, ...] = outputs.split(sizes, dim=-1)
    return parts
