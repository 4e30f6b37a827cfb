"""Ensembles of multi-layer perceptrons as one module.

Torch only. A member begins as it would by itself, and what keeps members apart later is that each
learns from its own part of a minibatch: :func:`member_batches`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Self

import torch as th
import torch.nn.functional as F
from torch import Tensor, nn

from sb3_ext.inference import linear

#: Rows from which on one member after the other is faster on a CPU: what a layer makes of few rows
#: costs less than its call, and what it makes of many no longer fits the cache for all members.
ONE_BY_ONE_FROM = 256


class EnsembleMLP(nn.Module):
    """E perceptrons of one shape, with ReLU between their layers.

    Equal to E networks of ``nn.Linear`` up to rounding; :meth:`members` gives them.

    :param n_members: how many, E
    :param input_dim: of each
    :param output_dim: of each
    :param net_arch: widths of the hidden layers; empty for a linear map
    :raises ValueError: for a number below 1
    """

    def __init__(
        self, n_members: int, input_dim: int, output_dim: int, net_arch: Sequence[int]
    ) -> None:
        super().__init__()
        widths = [input_dim, *net_arch, output_dim]
        if min(n_members, *widths) < 1:
            raise ValueError(
                "an ensemble needs at least one member and no empty layer, got "
                f"n_members={n_members} and layers of the widths {widths}"
            )
        self.n_members, self.input_dim, self.output_dim = n_members, input_dim, output_dim
        # Made as nn.Linear makes them: its rule knows the inputs of one member, not of all.
        made = [[nn.Linear(*pair) for _ in range(n_members)] for pair in pairwise(widths)]
        #: By layer, ``[E, in, out]``.
        self.weights = nn.ParameterList(
            th.stack([one.weight.detach().T for one in layer]) for layer in made
        )
        #: By layer, ``[E, 1, out]``.
        self.biases = nn.ParameterList(
            th.stack([one.bias.detach()[None] for one in layer]) for layer in made
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """What each member makes of its own inputs, or of those that all share.

        :param inputs: ``[E, n, input_dim]``, or shared ``[n, input_dim]``
        :return: ``[E, n, output_dim]``
        :raises ValueError: for another shape
        """
        if inputs.shape[-1] != self.input_dim or inputs.shape[:-2] not in ((), (self.n_members,)):
            raise ValueError(
                f"inputs must have shape [n, {self.input_dim}], which all members share, or "
                f"[{self.n_members}, n, {self.input_dim}], one batch a member, got "
                f"{list(inputs.shape)}"
            )
        own = inputs.expand(self.n_members, -1, -1)
        if own.shape[1] >= ONE_BY_ONE_FROM and not own.is_cuda:
            return th.stack([self._of_member(number, rows) for number, rows in enumerate(own)])
        hidden = own
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = th.baddbmm(bias, th.relu_(hidden) if number else hidden, weight)
        return hidden

    def _of_member(self, number: int, rows: Tensor) -> Tensor:
        hidden, last = rows, len(self.weights) - 1
        if not th.is_grad_enabled():
            for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
                hidden = linear(hidden, weight[number].T, bias[number, 0], relu=layer < last)
            return hidden
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = th.addmm(bias[number], th.relu_(hidden) if layer else hidden, weight[number])
        return hidden

    def members(self) -> list[nn.Sequential]:
        """The same networks one by one, of ``nn.Linear`` and ``nn.ReLU``; copies."""
        found = []
        for number in range(self.n_members):
            parts: list[nn.Module] = []
            for weight, bias in zip(self.weights, self.biases, strict=True):
                layer = nn.utils.skip_init(nn.Linear, *weight.shape[1:])  # draws no numbers
                layer.load_state_dict({"weight": weight[number].T, "bias": bias[number, 0]})
                parts += [layer, nn.ReLU()]
            found.append(nn.Sequential(*parts[:-1]))
        return found

    @classmethod
    def of(cls, members: Sequence[nn.Sequential]) -> Self:
        """An ensemble of given networks, as :meth:`members` returns them; copies.

        :raises ValueError: if they are not of one shape
        """
        other = {type(one).__name__ for member in members for one in member} - {"Linear", "ReLU"}
        if other:
            raise ValueError(f"an ensemble has nn.Linear and nn.ReLU layers, got {sorted(other)}")
        layers = [[one for one in member if isinstance(one, nn.Linear)] for member in members]
        shapes = [[tuple(one.weight.shape) for one in linears] for linears in layers]
        if not layers or not shapes[0] or any(shape != shapes[0] for shape in shapes):
            raise ValueError(f"the members of an ensemble must have one shape, got {shapes}")
        (_, first), *_ = shapes[0]
        *hidden, last = [width for width, _ in shapes[0]]
        made = cls(len(members), first, last, hidden)
        with th.no_grad():
            for number, linears in enumerate(layers):
                for linear, weight, bias in zip(linears, made.weights, made.biases, strict=True):
                    weight[number], bias[number, 0] = linear.weight.T, linear.bias
        return made


def member_batches(
    n: int, n_members: int, generator: th.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Split a minibatch at random: each sample goes to one member, in parts as equal as can be.

    Where they cannot be equal, the shorter ones are filled up with a sample of weight 0, so that a
    weighted sum over all members is a sum over the minibatch.

    :param n: samples
    :param n_members: members E
    :param generator: draws the order
    :return: indices ``[E, m]`` and weights ``[E, m]`` of 0 and 1, with ``m = ceil(n / E)``
    :raises ValueError: for a number below 1
    """
    if min(n, n_members) < 1:
        raise ValueError(f"n and n_members must be at least 1, got {n} and {n_members}")
    size = -(-n // n_members)
    order = th.randperm(n, generator=generator)
    indices = F.pad(order, (0, size * n_members - n), value=int(order[0]))
    weights = (th.arange(size * n_members) < n).float()
    return indices.view(size, n_members).T, weights.view(size, n_members).T
