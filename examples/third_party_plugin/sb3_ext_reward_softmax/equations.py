"""The maths: tensors in, tensors out."""

import torch
from torch import Tensor


def softmax_weights(rewards: Tensor, temperature: float) -> Tensor:
    """Weights proportional to exp(reward / temperature), with mean 1 over the batch.

    :param rewards: [B, 1]
    :param temperature: in the unit of the rewards; a high one makes all weights alike
    :return: [B, 1]
    """
    return torch.softmax(rewards / temperature, dim=0) * len(rewards)
