"""One MLP that learns by the gradient of its outputs: for whoever makes the loss elsewhere."""

from __future__ import annotations

import torch as th
from torch import Tensor, nn

from sb3_ext.engines.flat import FlatAdam
from sb3_ext.engines.mlp import Watch, backward, forward, groups_of, layers_of
from sb3_ext.engines.products import Products
from sb3_ext.errors import EngineError


class FusedMLP:
    """A ReLU network and its Adam on flat memory; their tensors stay theirs.

    :param network: an ``nn.Sequential`` as SB3's ``create_mlp`` makes it
    :param optimizer: of exactly its parameters
    :param products: how matrices are multiplied
    :raises EngineError: if it is another network, or another optimiser than torch's Adam
    """

    def __init__(
        self, network: nn.Module, optimizer: th.optim.Optimizer, products: Products
    ) -> None:
        self.products = products
        self.layers = layers_of(network)
        self._watch = Watch([network], learns=True)
        self._adam = FlatAdam(optimizer, groups_of([self.layers]))
        self._seen: list[Tensor] = []

    def ready(self) -> bool:
        """Put the flat memory in order; False if the network cannot be served any more."""
        try:
            self._watch.require_alone()
            if not self._watch.structure.is_as_it_was():
                return False
            if not self._adam.holds():
                self._adam.bind()
                for layer in self.layers:
                    layer.bind(self._adam)
        except EngineError:
            return False
        return True

    @th.no_grad()
    def outputs(self, rows: Tensor) -> Tensor:
        """What the network gives of rows ``[n, in]``; a leaf, ready for a loss."""
        self._seen = forward(self.layers, rows, self.products)
        return self._seen[-1].requires_grad_()

    @th.no_grad()
    def descend(self, loss: Tensor) -> None:
        """One step down a loss that was made of the newest outputs.

        :param loss: a scalar
        """
        (gradient,) = th.autograd.grad(loss, self._seen[-1])
        backward(self.layers, self._seen, gradient, self.products)
        self._adam.step()
        self._seen = []
