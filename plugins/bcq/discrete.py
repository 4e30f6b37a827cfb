"""Discrete BCQ, one gradient step as one method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
)
from stable_baselines3.common.type_aliases import GymEnv, PyTorchObs, Schedule
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import Tensor, nn

from sb3_ext.algorithms.dqn import DQN
from sb3_ext.algorithms.networks import descend
from sb3_ext.offline.learning import COLLECTING, Data, Offline
from sb3_ext.options import is_number
from sb3_ext.plugins.bcq.equations import (
    allowed_actions,
    behavior_loss,
    constrained_greedy_action,
)
from sb3_ext.plugins.bcq.networks import require_widths
from sb3_ext.td import td_errors, td_target
from sb3_ext.updates import Batch, Step


class DiscreteBCQPolicy(DQNPolicy):
    """A Q-network, its target, and a network of its own for the behaviour's logits.

    :param net_arch: widths of both (default [256, 256], as the authors have it for small tasks; for
        images [512] on a convolution network each)
    :param threshold: see :class:`~sb3_ext.DiscreteBCQ`
    """

    default_extractor: ClassVar[type[BaseFeaturesExtractor]] = FlattenExtractor
    default_net_arch: ClassVar[tuple[int, ...]] = (256, 256)
    behavior_net: QNetwork

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        net_arch: list[int] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        *args: Any,
        threshold: float = 0.3,
        **kwargs: Any,
    ) -> None:
        self.threshold = threshold
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            list(self.default_net_arch) if net_arch is None else net_arch,
            activation_fn,
            features_extractor_class or self.default_extractor,
            *args,
            **kwargs,
        )

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self.behavior_net = self.make_q_net()
        learned = [*self.q_net.parameters(), *self.behavior_net.parameters()]
        self.optimizer = self.optimizer_class(
            learned,
            lr=lr_schedule(1),  # type: ignore[call-arg]
            **self.optimizer_kwargs,
        )

    def _predict(self, obs: PyTorchObs, deterministic: bool = True) -> Tensor:
        """The best of the allowed actions."""
        allowed = allowed_actions(self.behavior_net(obs), self.threshold)
        return constrained_greedy_action(self.q_net(obs), allowed).squeeze(1)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "threshold": self.threshold}

    def set_training_mode(self, mode: bool) -> None:
        """As in SB3."""
        self.behavior_net.set_training_mode(mode)
        super().set_training_mode(mode)


class DiscreteCnnPolicy(DiscreteBCQPolicy):
    """The same for images: NatureCNN ends with a layer of 512."""

    default_extractor = NatureCNN
    default_net_arch = ()


class DiscreteMultiInputPolicy(DiscreteBCQPolicy):
    """The same for Dict observations."""

    default_extractor = CombinedExtractor


class DiscreteBCQ(Offline, DQN):
    """Discrete batch-constrained Q-learning (Fujimoto, Conti et al. 2019).

    Double DQN among the actions that the behaviour takes at least ``threshold`` times as often as
    its favourite one. 0 is Double DQN, 1 is behaviour cloning. Defaults are the authors' for small
    tasks; for Atari they take ``learning_rate=6.25e-5, batch_size=32, tau=1.0,
    target_update_interval=8000``.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"`` or ``"MultiInputPolicy"``
    :param env: only its spaces are used, and they may come from the dataset
    :param dataset: see :class:`~sb3_ext.offline.learning.Offline`
    :param threshold: of an action's probability over that of the likeliest, from 0 to 1
    :param logit_penalty: of the mean squared logit of the behaviour
    :param target_update_interval: in gradient steps
    :param kwargs: the other arguments of :class:`~sb3_ext.algorithms.dqn.DQN`
    """

    family = "DiscreteBCQ"
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": DiscreteBCQPolicy,
        "CnnPolicy": DiscreteCnnPolicy,
        "MultiInputPolicy": DiscreteMultiInputPolicy,
    }
    refused_arguments: ClassVar[Mapping[str, str]] = {
        **COLLECTING,
        "double_q": "its target is always that of Double DQN",
    }
    policy: DiscreteBCQPolicy

    def __init__(
        self,
        policy: str | type[DiscreteBCQPolicy],
        env: GymEnv | str | None = None,
        learning_rate: float | Schedule = 3e-4,
        *,
        batch_size: int = 64,
        tau: float = 0.005,
        gamma: float = 0.99,
        target_update_interval: int = 1,
        max_grad_norm: float | None = None,
        dataset: Data | None = None,
        threshold: float = 0.3,
        logit_penalty: float = 1e-2,
        **kwargs: Any,
    ) -> None:
        self.check_arguments(kwargs, type(self).__name__, saved=())  # before DQN takes double_q
        self.threshold = threshold
        self.logit_penalty = logit_penalty
        super().__init__(
            policy,
            env,
            learning_rate,
            dataset=dataset,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            target_update_interval=target_update_interval,
            max_grad_norm=max_grad_norm,
            **kwargs,
        )

    def _setup_model(self) -> None:
        for name, high in (("threshold", 1), ("logit_penalty", th.inf)):
            value = getattr(self, name)
            if not is_number(value):
                raise TypeError(f"{name} must be a number, got {value!r}")
            if not 0 <= value <= high:
                raise ValueError(f"0 <= {name} <= {high} must hold, got {value}")
        chosen = self.policy_kwargs
        if "threshold" in chosen:
            raise TypeError("policy_kwargs has threshold: give it to DiscreteBCQ itself")
        require_widths(chosen.get("net_arch"))
        self.policy_kwargs = {**chosen, "threshold": self.threshold}
        super()._setup_model()
        self.policy_kwargs = chosen

    def _create_aliases(self) -> None:
        super()._create_aliases()
        self.behavior_net = self.policy.behavior_net

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "behavior_net"]

    def save_for_sb3(self, path: Any) -> None:
        """Refused: SB3 has no BCQ."""
        raise TypeError("Stable-Baselines3 has no BCQ to load it with: use save")

    def bellman_target(self, batch: Batch) -> Tensor:
        """``r + (1 - terminated) * gamma * Q_target(s', a*)``, ``[B, 1]``.

        ``a*`` is the allowed action that the online network likes best.
        """
        with th.no_grad():
            observations = batch.next_observations
            allowed = allowed_actions(self.behavior_net(observations), self.threshold)
            actions = constrained_greedy_action(self.q_net(observations), allowed)
            value = self.q_net_target(observations).gather(1, actions)
            discounts = self.gamma if batch.discounts is None else batch.discounts
            return td_target(batch.rewards, batch.dones, discounts, value)

    def gradient_step(self, batch: Batch, weights: Tensor) -> Step:
        """Q-network and behaviour, in one step of one optimiser."""
        target = self.bellman_target(batch)
        q_values = self.q_net(batch.observations).gather(1, batch.actions.long())
        errors = td_errors((q_values,), target)
        q_loss = self.weighted_error(errors, weights)
        logits = self.behavior_net(batch.observations)
        actions = batch.actions.long().squeeze(1)
        imitation_loss = behavior_loss(logits, actions, self.logit_penalty)
        descend(q_loss + imitation_loss, self.value_optimizer, self.max_grad_norm)
        with th.no_grad():
            accuracy = (logits.argmax(dim=1) == actions).float().mean()
            allowed = allowed_actions(logits, self.threshold).float().sum(dim=1).mean()
        metrics: Mapping[str, Tensor] = {
            "loss": q_loss,
            "behavior_loss": imitation_loss,
            "behavior_accuracy": accuracy,
            "allowed_actions": allowed,
            "q_values": q_values.mean(),
        }
        return Step(errors.detach().squeeze(-1).T, metrics)
