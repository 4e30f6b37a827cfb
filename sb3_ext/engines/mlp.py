"""Networks of linear layers with ReLU between: forwards, and backwards by hand.

The gradients are those of autograd, layer by layer (Rumelhart, Hinton, Williams 1986); ReLU's at 0
is 0, as in torch. tests/engines holds them to autograd's in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch as th
from torch import Tensor, nn

from sb3_ext.algorithms.networks import Structure
from sb3_ext.engines.flat import FlatParameters
from sb3_ext.engines.products import Products
from sb3_ext.errors import EngineError

PLAIN = Products()


_GLOBAL_HOOKS = (
    nn.modules.module._global_forward_hooks,
    nn.modules.module._global_forward_pre_hooks,
    nn.modules.module._global_backward_hooks,
    nn.modules.module._global_backward_pre_hooks,
)


class Dense:
    """One affine map: a linear layer, or several that see the same rows, as one.

    :param modules: whose outputs come one after the other; in flat memory they lie together
    """

    def __init__(self, *modules: nn.Linear) -> None:
        self.modules = modules
        self.weight = self.bias = self.weight_gradient = self.bias_gradient = th.zeros(0)

    def groups(self) -> list[list[nn.Parameter]]:
        """All weights, and all biases: each is to lie in one piece."""
        # As a dict, since nn.Linear types its bias as a mere tensor.
        held = [dict(module.named_parameters()) for module in self.modules]
        return [[one[name] for one in held] for name in ("weight", "bias")]

    def bind(self, memory: FlatParameters) -> None:
        """Look again where the parameters and their gradients lie."""
        weights, biases = self.groups()
        self.weight, self.bias = memory.weights_of(weights), memory.weights_of(biases)
        self.weight_gradient = memory.gradients_of(weights)
        self.bias_gradient = memory.gradients_of(biases)

    def learn(self, rows: Tensor, gradient: Tensor, products: Products = PLAIN) -> None:
        """Write the gradients of weight and bias.

        :param rows: what the layer saw, ``[n, in]``
        :param gradient: of its outputs, ``[n, out]``
        """
        products.weight_gradient(gradient, rows, out=self.weight_gradient)
        th.sum(gradient, 0, out=self.bias_gradient)


def forward(layers: Sequence[Dense], rows: Tensor, products: Products = PLAIN) -> list[Tensor]:
    """What each layer sees, and at last what the last one gives; ReLU after all but the last.

    :param layers: L of them
    :param rows: ``[n, in]``
    :return: L + 1 tensors, the first is ``rows``
    """
    seen = [rows]
    for layer in layers[:-1]:
        seen.append(products.outputs(seen[-1], layer.weight, layer.bias).relu_())
    seen.append(products.outputs(seen[-1], layers[-1].weight, layers[-1].bias))
    return seen


def backward(
    layers: Sequence[Dense],
    seen: Sequence[Tensor],
    gradient: Tensor,
    products: Products = PLAIN,
) -> None:
    """Write the gradients of all weights and biases.

    :param layers: L of them
    :param seen: what ``forward`` gave
    :param gradient: of the outputs, ``[n, out]``
    """
    for index in range(len(layers) - 1, 0, -1):
        layers[index].learn(seen[index], gradient, products)
        gradient = through_relu(
            products.input_gradient(gradient, layers[index].weight), seen[index]
        )
    layers[0].learn(seen[0], gradient, products)


def input_gradient(
    layers: Sequence[Dense],
    seen: Sequence[Tensor],
    gradient: Tensor,
    first_column: int = 0,
    products: Products = PLAIN,
) -> Tensor:
    """The gradient of what the first layer sees, from a column on; no weight gets any.

    :param layers: L of them
    :param seen: what ``forward`` gave, L + 1 tensors; the first and the last are not read
    :param gradient: of the outputs, ``[n, out]``
    :param first_column: c, where the wanted columns begin
    :return: ``[n, in - c]``
    """
    for index in range(len(layers) - 1, 0, -1):
        gradient = through_relu(
            products.input_gradient(gradient, layers[index].weight), seen[index]
        )
    # In one piece: oneDNN has no fast way through part of a matrix, and takes ten times as long.
    return products.input_gradient(gradient, layers[0].weight[:, first_column:].contiguous())


def groups_of(networks: Sequence[Sequence[Dense]]) -> list[list[nn.Parameter]]:
    """All parameters of some networks, in the order in which flat memory holds them."""
    return [group for layers in networks for layer in layers for group in layer.groups()]


def through_relu(gradient: Tensor, outputs: Tensor) -> Tensor:
    """A ReLU's input gradient ``[n, d]``: of the outputs' gradient what has an output above 0."""
    found: Tensor = th.ops.aten.threshold_backward(gradient, outputs, 0)
    return found


def layers_of(network: nn.Module, last: type[nn.Module] | None = None) -> list[Dense]:
    """The layers of SB3's MLP: linear and ReLU in turns.

    :param network: an ``nn.Sequential`` as SB3's ``create_mlp`` makes it
    :param last: what must come after the last linear layer, such as ``nn.Tanh``; None for nothing
    :raises EngineError: for anything else, saying what was found
    """
    if type(network) is not nn.Sequential:
        raise EngineError(f"a network is {type(network).__name__}, no plain Sequential")
    children = list(network)
    if last is not None:
        if not children or type(children[-1]) is not last:
            raise EngineError(f"a network does not end in {last.__name__}")
        children = children[:-1]
    layers = []
    for index, child in enumerate(children):
        wanted = nn.Linear if index % 2 == 0 else nn.ReLU
        if type(child) is not wanted:
            raise EngineError(
                f"a network has {type(child).__name__} where {wanted.__name__} is expected"
            )
        if isinstance(child, nn.Linear):
            layers.append(child)
    if not layers or len(children) % 2 == 0:
        raise EngineError("a network does not end in a linear layer")
    return [dense(layer) for layer in layers]


def dense(*modules: nn.Module) -> Dense:
    """Linear layers that see the same rows as one map.

    :raises EngineError: if one is no plain linear layer with a bias
    """
    layers = []
    for module in modules:
        if not isinstance(module, nn.Linear) or type(module) is not nn.Linear:
            raise EngineError(f"a layer is {type(module).__name__}, no plain Linear")
        if module.bias is None:
            raise EngineError("a linear layer has no bias")
        layers.append(module)
    return Dense(*layers)


class Watch:
    """Sees whether somebody else has a hand in networks: hooks would not be called.

    :param networks: whose modules and parameters are looked at, as they are now
    :param learns: whether all parameters must be open to learning
    """

    def __init__(self, networks: Sequence[nn.Module], learns: bool) -> None:
        self.structure = Structure(*networks)
        self.parameters = [one for network in networks for one in network.parameters()]
        self.learns = learns

    def require_alone(self) -> None:
        """Asked before every update, so without a walk through the networks.

        :raises EngineError: if there are hooks, or frozen parameters
        """
        if any(map(bool, _GLOBAL_HOOKS)):
            raise EngineError("somebody hooked into all modules")
        for module in self.structure.modules:
            if (
                module._forward_hooks
                or module._forward_pre_hooks
                or module._backward_hooks
                or module._backward_pre_hooks
                or "forward" in module.__dict__
            ):
                raise EngineError(f"somebody hooked into {type(module).__name__}")
        for parameter in self.parameters:
            if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
                raise EngineError("somebody hooked into a parameter's gradient")
            if self.learns and not parameter.requires_grad:
                raise EngineError("a parameter is frozen (requires_grad=False)")
