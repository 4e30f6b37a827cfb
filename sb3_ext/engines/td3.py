"""TD3's and DDPG's gradient step with gradients written out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch as th
from stable_baselines3.td3.policies import Actor
from torch import Tensor, nn

from sb3_ext.engines.actor_critic import FusedStep, require_plain_features
from sb3_ext.engines.flat import FlatAdam, FlatParameters
from sb3_ext.engines.mlp import Dense, backward, forward, groups_of, input_gradient, layers_of
from sb3_ext.engines.products import Products
from sb3_ext.errors import EngineError
from sb3_ext.updates import Batch, Step

if TYPE_CHECKING:
    from sb3_ext.algorithms.td3 import TD3


class FusedTD3(FusedStep):
    """``TD3.gradient_step`` for ReLU networks on plain features."""

    written_out = ("gradient_step", "critic_errors", "together", "next_actions", "actor_value")
    arithmetic = (*FusedStep.arithmetic, "actor_gradients")
    error_scale = 2.0
    algorithm: TD3

    def __init__(self, algorithm: TD3, base: type[TD3], products: Products) -> None:
        super().__init__(algorithm, base, products)
        self.actor_layers = actor_layers(algorithm.actor)
        self.target_layers = actor_layers(algorithm.actor_target)
        self.actor = FlatAdam(algorithm.actor.optimizer, groups_of([self.actor_layers]))
        self.actor_target = FlatParameters(groups_of([self.target_layers]))

    def _followers(self) -> tuple[Any, ...]:
        return self.algorithm.followers

    def _networks(self) -> dict[str, nn.Module]:
        of = self.algorithm
        learning: dict[str, nn.Module] = {"actor": of.actor, "critic": of.critic}
        return {**learning, "actor_target": of.actor_target, "critic_target": of.critic_target}

    def _memory(self) -> list[tuple[FlatParameters, list[Dense]]]:
        return [
            (self.actor, self.actor_layers),
            (self.critic, [layer for net in self.critics for layer in net]),
            (self.actor_target, self.target_layers),
            (self.critic_target, [layer for net in self.target_critics for layer in net]),
        ]

    @th.no_grad()
    def gradient_step(self, batch: Batch, weights: Tensor) -> Step:
        """Critics, and with delay actor and targets, as :class:`~sb3_ext.TD3` has them."""
        of = self.algorithm
        features = self.features(batch.observations)
        if self.plain_target:
            following = self.features(batch.next_observations)
            supposed = forward(self.target_layers, following, self.products)[-1].tanh_()
            target = self.target(batch, following, *of.smoothed(supposed))
        else:
            target = self.variants_target(batch)

        errors, critic_loss = self.learn_critics(
            th.cat([features, batch.actions], dim=1), target, weights
        )
        metrics = {"critic_loss": critic_loss}

        if of._n_updates % of.policy_delay == 0:
            metrics["actor_loss"] = self.actor_gradients(features)
            self.actor.step()
            self.critic_target.follow(self.critic, of.tau)
            self.actor_target.follow(self.actor, of.tau)

        return Step(errors.squeeze(-1).T, metrics)

    def actor_gradients(self, features: Tensor) -> Tensor:
        """Write the gradients of the actor's loss, minus the first critic's mean value.

        :param features: of the observations, ``[B, F]``
        :return: the loss, a scalar
        """
        n, width, critic = *features.shape, self.critics[0]
        seen = forward(self.actor_layers, features, self.products)
        actions = seen[-1].tanh()
        judged = forward(critic, th.cat([features, actions], dim=1), self.products)
        down = features.new_full((n, 1), -1 / n)
        by_action = input_gradient(critic, judged, down, width, self.products)
        gradient = by_action * (1 - actions.square())
        backward(self.actor_layers, seen, gradient, self.products)
        return -judged[-1].mean()


def actor_layers(actor: Any) -> list[Dense]:
    """The layers of SB3's deterministic actor, before its tanh.

    :raises EngineError: if it is another actor
    """
    if type(actor) is not Actor:
        raise EngineError(f"the actor is {type(actor).__name__}, not SB3's")
    require_plain_features(actor)
    return layers_of(actor.mu, last=nn.Tanh)
