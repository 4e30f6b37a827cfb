"""Parameters side by side in memory, so that an optimiser or a target takes one step for all.

The parameters stay the objects that they are, under their names; only where their numbers lie
changes. Whoever puts other tensors in their places (``load``, ``set_parameters``, ``to``) undoes
that, which ``holds`` sees, and ``bind`` does anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch as th
from torch import Tensor, nn

from sb3_ext.errors import EngineError

#: Parameters that are to lie one after the other, such as weights of layers that see the same rows.
Group = Sequence[nn.Parameter]

_ALIGNED = 16  # numbers; groups begin at 64 bytes, where vector instructions like them


class Layout:
    """Where in one piece of memory each of some parameters lies.

    :param groups: each parameter once; between groups there is room that stays 0
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self.parameters = [parameter for group in groups for parameter in group]
        self.starts: list[int] = []
        self.size = 0
        for group in groups:
            for parameter in group:
                self.starts.append(self.size)
                self.size += parameter.numel()
            self.size = -(-self.size // _ALIGNED) * _ALIGNED

    def place(self, tensors: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """A copy of tensors, one a parameter, in one piece, and its parts in their shapes."""
        first = tensors[0]
        flat = th.zeros(self.size, dtype=first.dtype, device=first.device)
        parts = self.parts(flat)
        for part, tensor in zip(parts, tensors, strict=True):
            part.copy_(tensor.detach())
        return flat, parts

    def parts(self, flat: Tensor) -> list[Tensor]:
        """The parameters' parts of one piece of memory ``[size]``, in their shapes."""
        held: Any = flat
        if flat.device.type == "cpu":
            # Through NumPy, each part is a storage of its own: a view would take all of the memory
            # along wherever it is pickled.
            held = flat.numpy()
        found = []
        for start, parameter in zip(self.starts, self.parameters, strict=True):
            part = held[start : start + parameter.numel()]
            found.append(th.as_tensor(part).view(parameter.shape))
        return found

    def together(self, flat: Tensor, group: Group) -> Tensor:
        """The part ``[sum of first dimensions, ...]`` of a group's parameters, as one."""
        start = next(
            start
            for start, parameter in zip(self.starts, self.parameters, strict=True)
            if parameter is group[0]
        )
        shape = (sum(len(one) for one in group), *group[0].shape[1:])
        return flat[start : start + sum(one.numel() for one in group)].view(shape)


class FlatParameters:
    """The parameters of networks in one piece of memory.

    :param groups: in the order in which they are to lie; each parameter once
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self.layout = Layout(groups)
        self.parameters = self.layout.parameters
        for parameter in self.parameters:
            if parameter.dtype not in (th.float32, th.float64):
                raise EngineError(f"parameters are of {parameter.dtype}")
        self.flat = self.gradient = th.zeros(0)
        self._addresses: list[int] = []

    def holds(self) -> bool:
        """Whether all are still where ``bind`` has put them."""
        return self._addresses == [parameter.data_ptr() for parameter in self.parameters]

    def bind(self) -> None:
        """Move them side by side; their values stay."""
        if any(parameter.is_shared() for parameter in self.parameters):
            raise EngineError("parameters are in memory that processes share")
        self.flat, parts = self.layout.place(self.parameters)
        for parameter, part in zip(self.parameters, parts, strict=True):
            parameter.data = part
        self._addresses = [parameter.data_ptr() for parameter in self.parameters]

    def weights_of(self, group: Group) -> Tensor:
        """A group's numbers as one tensor."""
        return self.layout.together(self.flat, group)

    def gradients_of(self, group: Group) -> Tensor:
        """Where a group's gradients are to be written; for a target network an empty tensor."""
        return self.layout.together(self.gradient, group) if len(self.gradient) else self.gradient

    def follow(self, online: FlatParameters, tau: float) -> None:
        """``target <- (1 - tau) * target + tau * online``, in SB3's order of rounding.

        :param online: the network to follow, its parameters in the same order
        :param tau: in [0, 1]
        """
        self.flat.mul_(1 - tau).add_(online.flat, alpha=tau)


class FlatAdam(FlatParameters):
    """An ``Adam`` of SB3's whose step is one call on flat memory.

    State and options stay the optimiser's own: its ``state_dict`` is as ever, and a learning rate
    that is set on it counts.

    :param optimizer: whose step this is
    :param groups: all that it steps, in the order in which they are to lie
    :raises EngineError: for another optimiser, or options that this step does not have
    """

    def __init__(self, optimizer: th.optim.Optimizer, groups: Sequence[Group]) -> None:
        super().__init__(groups)
        self.optimizer = optimizer
        self._require_plain()
        stepped = optimizer.param_groups[0]["params"]
        if {id(one) for one in stepped} != {id(one) for one in self.parameters}:
            raise EngineError("an optimiser steps other parameters than the network's")
        self.group = optimizer.param_groups[0]
        self._moments: tuple[Tensor, Tensor] = (th.zeros(0), th.zeros(0))
        self._steps = th.zeros(0)
        self._state: list[dict[str, Tensor]] = []
        self._gradients: list[Tensor] = []
        self._steps_taken = 0.0

    def holds(self) -> bool:
        """Whether parameters and the optimiser's state are where ``bind`` has put them."""
        if not self._state or self.optimizer.param_groups[0] is not self.group:
            return False
        state = self.optimizer.state
        here = all(
            state.get(parameter) is known
            for parameter, known in zip(self.parameters, self._state, strict=True)
        )
        self._require_plain()
        if self._steps.double().sum().item() != self._steps_taken:  # somebody else took a step, too
            self._require_one_count(self._steps)
            self._steps_taken = self._steps.double().sum().item()
        for parameter, gradient in zip(self.parameters, self._gradients, strict=True):
            if parameter.grad is not gradient:  # after zero_grad, say
                parameter.grad = gradient
        return here and super().holds()

    def bind(self) -> None:
        """Move parameters, moments and gradients side by side; all values stay.

        :raises EngineError: if the parameters have taken different numbers of steps
        """
        super().bind()
        self.group = self.optimizer.param_groups[0]
        held = [self._state_of(parameter) for parameter in self.parameters]
        counts = th.stack([state["step"].detach().reshape(()).float().cpu() for state in held])
        self._require_one_count(counts)
        first, firsts = self.layout.place([state["exp_avg"] for state in held])
        second, seconds = self.layout.place([state["exp_avg_sq"] for state in held])
        self.gradient = th.zeros_like(self.flat)
        self._moments, self._steps = (first, second), counts.to(self.flat.device)
        self._steps_taken = counts.double().sum().item()
        self._gradients = self.layout.parts(self.gradient)
        self._state = []
        moments = zip(self.parameters, firsts, seconds, self._gradients, strict=True)
        for index, (parameter, one, other, gradient) in enumerate(moments):
            state = {"step": self._steps[index], "exp_avg": one, "exp_avg_sq": other}
            self.optimizer.state[parameter] = state
            self._state.append(state)
            parameter.grad = gradient

    def step(self) -> None:
        """Adam's step down ``gradient``."""
        group = self.group
        beta1, beta2 = group["betas"]
        self._steps += 1
        self._steps_taken += len(self._steps)
        th._fused_adam_(  # what torch.optim.Adam(fused=True) calls, tensor by tensor
            [self.flat],
            [self.gradient],
            [self._moments[0]],
            [self._moments[1]],
            [],
            [self._steps[0]],
            lr=float(group["lr"]),
            beta1=float(beta1),
            beta2=float(beta2),
            weight_decay=0.0,
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )

    @staticmethod
    def _require_one_count(counts: Tensor) -> None:
        if not bool((counts == counts[0]).all()):
            raise EngineError(
                "an optimiser has taken different numbers of steps for its parameters"
            )

    def _state_of(self, parameter: nn.Parameter) -> dict[str, Any]:
        state: dict[str, Any] = self.optimizer.state.get(parameter, {})
        if state:
            return state
        zeros = th.zeros_like(parameter, requires_grad=False)
        return {"step": th.zeros(()), "exp_avg": zeros, "exp_avg_sq": zeros}

    def _require_plain(self) -> None:
        kind = type(self.optimizer)
        if kind is not th.optim.Adam:
            raise EngineError(f"the optimiser is {kind.__name__}, not torch's Adam")
        if len(self.optimizer.param_groups) != 1:
            raise EngineError("an optimiser has several groups of parameters")
        group = self.optimizer.param_groups[0]
        for name in ("weight_decay", "amsgrad", "maximize", "differentiable"):
            if group.get(name):
                raise EngineError(f"the optimiser has {name}={group[name]!r}")
        for hooks in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"):
            if getattr(self.optimizer, hooks, None):
                raise EngineError("somebody hooked into the optimiser's step")
        if "step" in vars(self.optimizer):  # a scheduler of torch's does it, too
            raise EngineError("somebody wrapped the optimiser's step")
