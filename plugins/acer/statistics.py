"""What a policy says of its actions, as plain numbers: the statistics that ACER's updates act on.

Replay stores them beside an action, so its density then needs no network of then.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch as th
from gymnasium import spaces
from torch import Tensor

from sb3_ext.plugins.acer.equations import FLOOR, component_columns


class Statistics(Protocol):
    """A family of distributions, of actions stored flat ``[N, D]``."""

    width: int
    """How many numbers describe one."""
    outputs: int
    """How many of them a network gives."""
    dimensions: int
    """Of an action: the d whose root the trace takes."""
    inputs: int
    """Numbers by which an action enters a network."""

    def parameters(self, outputs: Tensor) -> Tensor:
        """From a network's outputs ``[N, outputs]`` to ``[N, width]``."""

    def sample(self, parameters: Tensor, n: int = 1) -> Tensor:
        """``n`` actions each, ``[n, N, D]``, by torch's generator."""

    def mode(self, parameters: Tensor) -> Tensor:
        """The likeliest action, ``[N, D]``."""

    def log_prob(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """``[N]``."""

    def encode(self, actions: Tensor) -> Tensor:
        """As a network takes them, ``[N, inputs]``."""


class Categoricals:
    """One choice among ``sizes[0]`` values, or several independent ones.

    :param sizes: of each component
    """

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes
        self.width = self.outputs = self.inputs = sum(sizes)
        self.dimensions = len(sizes)

    def parameters(self, outputs: Tensor) -> Tensor:
        """Log probabilities, side by side."""
        parts = [part.log_softmax(dim=1) for part in outputs.split(self.sizes, dim=1)]
        return th.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def sample(self, parameters: Tensor, n: int = 1) -> Tensor:
        """Of each component ``n``."""
        parts = parameters.split(self.sizes, dim=1)
        drawn = [th.multinomial(part.exp(), n, replacement=True).T for part in parts]
        return th.stack(drawn, dim=2)

    def mode(self, parameters: Tensor) -> Tensor:
        """The likeliest value of each component."""
        parts = parameters.split(self.sizes, dim=1)
        return th.cat([part.argmax(dim=1, keepdim=True) for part in parts], dim=1)

    def log_prob(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """The sum over components, none below the floor."""
        taken = parameters.gather(1, component_columns(actions, self.sizes))
        return taken.clamp_min(math.log(FLOOR)).sum(dim=1)

    def encode(self, actions: Tensor) -> Tensor:
        """A one for each component's value."""
        zeros = th.zeros(len(actions), self.width, device=actions.device)
        return zeros.scatter_(1, component_columns(actions, self.sizes), 1.0)


class Gaussian:
    """Independent normals around a mean, with a standard deviation that stays.

    :param dimensions: of the action
    :param sigma: the standard deviation, in actions scaled to [-1, 1]
    """

    def __init__(self, dimensions: int, sigma: float) -> None:
        self.dimensions = self.outputs = self.inputs = dimensions
        self.width = dimensions + 1
        self.sigma = sigma

    def parameters(self, outputs: Tensor) -> Tensor:
        """The mean, then the logarithm of sigma."""
        log_sigma = outputs.new_full((len(outputs), 1), math.log(self.sigma))
        return th.cat([outputs, log_sigma], dim=1)

    def sample(self, parameters: Tensor, n: int = 1) -> Tensor:
        """Neither clipped nor squashed: ratios need the number that was drawn."""
        mean, log_sigma = parameters[:, :-1], parameters[:, -1:]
        noise = th.randn(n, *mean.shape, dtype=mean.dtype, device=mean.device)
        return mean + log_sigma.exp() * noise

    def mode(self, parameters: Tensor) -> Tensor:
        """The mean."""
        return parameters[:, :-1]

    def log_prob(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Of the joint density."""
        mean, log_sigma = parameters[:, :-1], parameters[:, -1]
        squares = ((actions - mean) / log_sigma.exp()[:, None]).square().sum(dim=1)
        return -0.5 * squares - self.dimensions * (log_sigma + 0.5 * math.log(2 * math.pi))

    def encode(self, actions: Tensor) -> Tensor:
        """As they are."""
        return actions


def statistics_of(space: spaces.Space[Any], sigma: float) -> Statistics:
    """The family for an action space.

    :param space: Discrete, MultiDiscrete or Box
    :param sigma: of a Box
    :raises ValueError: for another space
    """
    if isinstance(space, spaces.Discrete):
        return Categoricals([int(space.n)])
    if isinstance(space, spaces.MultiDiscrete):
        return Categoricals([int(n) for n in space.nvec.reshape(-1)])
    if isinstance(space, spaces.Box):
        return Gaussian(math.prod(space.shape), sigma)
    raise ValueError(f"ACER acts in Discrete, MultiDiscrete and Box spaces, got {space}")
