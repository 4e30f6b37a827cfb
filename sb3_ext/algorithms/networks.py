"""Networks as the gradient step needs them: which tensors follow, which ones learn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch as th
from stable_baselines3.common.utils import get_parameters_by_name
from torch import Tensor, nn

from sb3_ext.errors import CheckpointError
from sb3_ext.td import polyak_step


class Structure:
    """Which layers and parameters networks are made of, so that a change is seen.

    :param networks: as they are now
    """

    def __init__(self, *networks: nn.Module) -> None:
        self.modules = [module for network in networks for module in network.modules()]
        # Asked at every update, so the dictionaries are looked at as they lie there.
        self._known = [
            (module, type(module), held, list(map(id, held.values())))
            for module in self.modules
            for held in (module._modules, module._parameters)
            if held or held is module._parameters
        ]

    def is_as_it_was(self) -> bool:
        """Whether no layer and no parameter was replaced, put in, taken out, or parametrised."""
        for module, kind, held, inside in self._known:
            if type(module) is not kind or list(map(id, held.values())) != inside:
                return False
        return True


class TargetNetwork:
    """A network that follows another; remembers the tensors, which are slow to list each time.

    :param online: the network that learns
    :param target: its delayed copy
    """

    def __init__(self, online: nn.Module, target: nn.Module) -> None:
        self.networks = online, target
        self._list()

    def _list(self) -> None:
        online, target = self.networks
        self.structure = Structure(online, target)
        self.parameters = tuple(online.parameters())
        self.targets = tuple(target.parameters())
        # Batch norm's running statistics are copied, not averaged (SB3 issue #996).
        self.statistics = get_parameters_by_name(online, ["running_"])
        self.target_statistics = get_parameters_by_name(target, ["running_"])

    def follow(self, tau: float) -> None:
        """Move the target by a share ``tau`` towards the online network."""
        if not self.structure.is_as_it_was():  # the user put other layers in
            self._list()
        polyak_step(self.parameters, self.targets, tau)
        if self.statistics:
            polyak_step(self.statistics, self.target_statistics, 1.0)


def backward(loss: Tensor, optimizer: th.optim.Optimizer) -> None:
    """Give an optimiser's tensors the gradients of a loss, and no other tensor any.

    In the actor's loss, SB3 computes the critic's gradients as well, and throws them away.

    :param loss: a scalar
    :param optimizer: whose tensors are meant; what gradients they had is forgotten
    """
    parameters = learned_by(optimizer)
    for parameter in parameters:
        parameter.grad = None
    loss.backward(inputs=parameters)


def descend(
    loss: Tensor, optimizer: th.optim.Optimizer, max_grad_norm: float | None = None
) -> None:
    """One step of an optimiser down a loss.

    :param loss: a scalar
    :param optimizer: takes the step
    :param max_grad_norm: a longer gradient is cut to this length; None leaves it
    """
    backward(loss, optimizer)
    if max_grad_norm is not None:
        th.nn.utils.clip_grad_norm_(learned_by(optimizer), max_grad_norm)
    optimizer.step()


def load_network(network: nn.Module, state: Mapping[str, Tensor], strict: bool, told: str) -> None:
    """Give a network the tensors that were saved.

    :param network: takes them
    :param state: its ``state_dict``
    :param strict: whether all names must be there
    :param told: what does not fit if shapes differ, and what to do, for the error
    :raises CheckpointError: if they do not fit
    """
    try:
        network.load_state_dict(state, strict=strict)
    except RuntimeError as error:
        raise CheckpointError(f"{told} ({error})") from error


@contextmanager
def buffers_kept(network: nn.Module) -> Iterator[None]:
    """Within the block a network may run as in training; its running statistics come back."""
    before = [buffer.clone() for buffer in network.buffers()]
    try:
        yield
    finally:
        for buffer, value in zip(network.buffers(), before, strict=True):
            buffer.copy_(value)


def learned_by(optimizer: th.optim.Optimizer) -> list[Tensor]:
    """The tensors that an optimiser steps, leaving out frozen ones."""
    return [
        parameter
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.requires_grad
    ]
