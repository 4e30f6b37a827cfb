"""What the fast steps of SAC and TD3 share: which models fit, their networks, the critics' step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch as th
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from torch import Tensor, nn

from sb3_ext.algorithms.networks import TargetNetwork
from sb3_ext.engines.flat import FlatAdam, FlatParameters
from sb3_ext.engines.mlp import Dense, Watch, backward, forward, groups_of, layers_of
from sb3_ext.engines.products import Products
from sb3_ext.errors import EngineError
from sb3_ext.td import td_errors, td_target
from sb3_ext.updates import Batch, Step


class FusedStep(ABC):
    """One gradient step of an actor-critic on flat memory, with gradients written out.

    :param algorithm: one of our bases, its policy made
    :param base: the class whose step this is; what of it a subclass must not have replaced is
        in ``written_out``
    :param products: how matrices are multiplied
    :raises EngineError: if a part of the model has another shape than this step knows
    """

    #: Methods whose bodies are written out here; who replaces one is not served.
    written_out: tuple[str, ...] = ()
    #: Methods that compute with tensors and do nothing else: what torch.compile may make.
    arithmetic: tuple[str, ...] = ("target", "critic_gradients")
    #: The critics' own loss is this times half the weighted mean square.
    error_scale: float

    def __init__(self, algorithm: Any, base: type[Any], products: Products) -> None:
        self.algorithm, self.products = algorithm, products
        self.base = base
        self._require_own_methods()
        self.networks = self._networks()
        self.critics = critic_layers(algorithm.critic)
        self.target_critics = critic_layers(algorithm.critic_target)
        self.critic = FlatAdam(algorithm.critic.optimizer, groups_of(self.critics))
        self.critic_target = FlatParameters(groups_of(self.target_critics))
        learning = [it for name, it in self.networks.items() if not name.endswith("_target")]
        targets = [it for name, it in self.networks.items() if name.endswith("_target")]
        self._watches = Watch(learning, learns=True), Watch(targets, learns=False)
        self._require()

    # -- what a step writes ------------------------------------------------------------------

    @abstractmethod
    def gradient_step(self, batch: Batch, weights: Tensor) -> Step:
        """As the base's, in its order of random draws.

        :param batch: SB3's batch of B transitions
        :param weights: ``[B, 1]``
        """

    @abstractmethod
    def _memory(self) -> list[tuple[FlatParameters, list[Dense]]]:
        """All that lies in flat memory, and the layers that it is of."""

    @abstractmethod
    def _followers(self) -> Sequence[Any]:
        """What moves the base's target networks."""

    @abstractmethod
    def _networks(self) -> dict[str, nn.Module]:
        """SB3's networks by the algorithm's attribute, those that learn first."""

    # -- readiness ---------------------------------------------------------------------------

    def ready(self) -> bool:
        """Make sure that the flat memory is what the model's networks are; asked once a ``train``.

        :return: False if the model has other networks than this step was made for
        :raises EngineError: if somebody hooked into them, or changed the optimiser
        """
        of = self.algorithm
        if any(getattr(of, name) is not it for name, it in self.networks.items()):
            return False
        if not all(watch.structure.is_as_it_was() for watch in self._watches):
            return False
        known = [flat.optimizer for flat, _ in self._memory() if isinstance(flat, FlatAdam)]
        if known != of.optimizers()[: len(known)]:
            return False
        self._require()
        memory = self._memory()
        if not all(flat.holds() for flat, _ in memory):
            for flat, layers in memory:
                flat.bind()
                for layer in layers:
                    layer.bind(flat)
        return True

    def _require(self) -> None:
        self._require_own_methods()
        for watch in self._watches:
            watch.require_alone()

    def _require_own_methods(self) -> None:
        for name in self.written_out:
            if not self._is_the_bases(name):
                raise EngineError(f"{type(self.algorithm).__name__} has its own {name}")
        self.plain_target = self._is_the_bases("bellman_target")
        self.plain_error = all(map(self._is_the_bases, ("critic_error", "weighted_error")))
        for follower in self._followers():
            if type(follower) is not TargetNetwork:
                raise EngineError(f"a target network follows by {type(follower).__name__}")

    def _is_the_bases(self, method: str) -> bool:
        """Whether neither a subclass nor the model itself has another one."""
        of = self.algorithm
        same = getattr(type(of), method) is getattr(self.base, method)
        return same and method not in vars(of)

    # -- the parts ---------------------------------------------------------------------------

    def features(self, observations: Tensor | dict[str, Tensor]) -> Tensor:
        """What all networks see of observations, ``[B, F]``."""
        critic = self.algorithm.critic
        seen: Tensor = critic.extract_features(observations, critic.features_extractor)
        return seen

    def target(self, batch: Batch, features: Tensor, actions: Tensor, bonus: Tensor) -> Tensor:
        """The base's ``bellman_target``: ``r + (1 - done) * gamma * (min_k Q_k(s', a') + bonus)``.

        :param features: of the next observations, ``[B, F]``
        :param actions: the next ones, ``[B, A]``
        :param bonus: ``[B, 1]``, beside the Q-value
        """
        rows = th.cat([features, actions], dim=1)
        values = [forward(net, rows, self.products)[-1] for net in self.target_critics]
        least = th.cat(values, dim=1).amin(dim=1, keepdim=True) if len(values) > 1 else values[0]
        discounts = self.algorithm.gamma if batch.discounts is None else batch.discounts
        return td_target(batch.rewards, batch.dones, discounts, least + bonus)

    def variants_target(self, batch: Batch) -> Tensor:
        """The target ``[B, 1]`` of a subclass that has its own and may differentiate inside."""
        with th.enable_grad():
            target: Tensor = self.algorithm.bellman_target(batch)
        return target.detach()

    def learn_critics(self, rows: Tensor, target: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The critics' step down the weighted loss.

        :param rows: features and actions, ``[B, F + A]``
        :param target: ``[B, 1]``
        :param weights: ``[B, 1]``
        :return: errors ``[n_critics, B, 1]``, from before the step, and the loss
        """
        plain = self.algorithm.loss_function is None and self.plain_error
        gradients = self.critic_gradients if plain else self.variants_gradients
        errors, loss = gradients(rows, target, weights)
        self.critic.step()
        return errors, loss

    def critic_gradients(
        self, rows: Tensor, target: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Write the gradients of the base's loss; as :meth:`learn_critics` before its step."""
        seen, errors = self._errors(rows, target)
        gradient = errors * (weights * (self.error_scale / len(weights)))
        self._backward(seen, gradient)
        return errors, 0.5 * (gradient * errors).sum()

    def variants_gradients(
        self, rows: Tensor, target: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same of a user's or a subclass's loss, which may be any function."""
        seen, errors = self._errors(rows, target)
        leaf = errors.detach().requires_grad_()
        with th.enable_grad():
            loss = self.algorithm.weighted_error(leaf, weights)
            (gradient,) = th.autograd.grad(loss, leaf)
        self._backward(seen, gradient)
        return errors, loss.detach()

    def _errors(self, rows: Tensor, target: Tensor) -> tuple[list[list[Tensor]], Tensor]:
        """What the layers of each critic see, and the errors ``[n_critics, B, 1]``."""
        seen = [forward(net, rows, self.products) for net in self.critics]
        return seen, td_errors(tuple(outputs[-1] for outputs in seen), target)

    def _backward(self, seen: Sequence[Sequence[Tensor]], gradient: Tensor) -> None:
        """Write the critics' gradients, from that of their errors ``[n_critics, B, 1]``."""
        for net, outputs, one in zip(self.critics, seen, gradient, strict=True):
            backward(net, outputs, one, self.products)


def critic_layers(critic: Any) -> list[list[Dense]]:
    """The layers of each Q-network.

    :raises EngineError: if it is not SB3's critic, or sees learned features
    """
    if type(critic) is not ContinuousCritic:
        raise EngineError(f"the critic is {type(critic).__name__}, not SB3's")
    require_plain_features(critic)
    return [layers_of(net) for net in critic.q_networks]


def require_plain_features(network: Any) -> None:
    """Refuse a network that sees anything but the observation's numbers in a row.

    :raises EngineError: for an encoder that learns, or one of the user's
    """
    extractor = network.features_extractor
    plain = type(extractor) in (FlattenExtractor, CombinedExtractor)
    if not plain or next(extractor.parameters(), None) is not None:
        raise EngineError(f"observations go through {type(extractor).__name__} first")
