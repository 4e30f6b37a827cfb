"""SAC's gradient step with gradients written out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch as th
from stable_baselines3.sac.policies import Actor
from torch import Tensor, nn
from torch.nn import functional

from sb3_ext.engines.actor_critic import FusedStep, require_plain_features
from sb3_ext.engines.flat import FlatAdam, FlatParameters
from sb3_ext.engines.gaussian import Squashed, draw, parameter_gradient
from sb3_ext.engines.mlp import (
    Dense,
    backward,
    dense,
    forward,
    groups_of,
    input_gradient,
    layers_of,
)
from sb3_ext.engines.products import Products
from sb3_ext.errors import EngineError, NonFiniteError
from sb3_ext.updates import Batch, Step

if TYPE_CHECKING:
    from sb3_ext.algorithms.sac import SAC


#: Rows that go back through one critic come in multiples of this many.
ROW_STEP = 32


class FusedSAC(FusedStep):
    """``SAC.gradient_step`` for ReLU networks on plain features."""

    written_out = (
        "gradient_step",
        "critic_errors",
        "together",
        "next_actions",
        "entropy_coefficient",
        "learn_entropy_coefficient",
    )
    arithmetic = (*FusedStep.arithmetic, "actor_gradients")
    error_scale = 1.0
    algorithm: SAC

    def __init__(self, algorithm: SAC, base: type[SAC], products: Products) -> None:
        super().__init__(algorithm, base, products)
        self.actor_layers = actor_layers(algorithm)
        self.actor = FlatAdam(algorithm.actor.optimizer, groups_of([self.actor_layers]))
        self.alpha: FlatAdam | None = None
        optimizer, self.log_alpha = algorithm.ent_coef_optimizer, algorithm.log_ent_coef
        if optimizer is not None and self.log_alpha is not None:
            self.alpha = FlatAdam(optimizer, [[cast(nn.Parameter, self.log_alpha)]])

    def _followers(self) -> list[Any]:
        return [self.algorithm.follower]

    def _networks(self) -> dict[str, nn.Module]:
        of = self.algorithm
        return {"actor": of.actor, "critic": of.critic, "critic_target": of.critic_target}

    def _memory(self) -> list[tuple[FlatParameters, list[Dense]]]:
        found: list[tuple[FlatParameters, list[Dense]]] = [
            (self.actor, self.actor_layers),
            (self.critic, [layer for net in self.critics for layer in net]),
            (self.critic_target, [layer for net in self.target_critics for layer in net]),
        ]
        return found if self.alpha is None else [*found, (self.alpha, [])]

    def ready(self) -> bool:
        """As of all; the entropy coefficient must be the tensor that it was, too."""
        return self.algorithm.log_ent_coef is self.log_alpha and super().ready()

    @th.no_grad()
    def gradient_step(self, batch: Batch, weights: Tensor) -> Step:
        """Entropy coefficient, critics, actor, targets, as :class:`~sb3_ext.SAC` has them."""
        of, n = self.algorithm, len(weights)
        features = self.features(batch.observations)
        # The actor stays as it is until its own step: one pass serves s and s'.
        following = [self.features(batch.next_observations)] if self.plain_target else []
        seen = forward(self.actor_layers, th.cat([features, *following]), self.products)
        mean, log_std = seen[-1].chunk(2, dim=1)
        noise = th.empty(mean.shape, device=mean.device, dtype=mean.dtype)
        for start in range(0, len(noise), n):  # as SB3 draws: those for s, then those for s'
            noise[start : start + n].normal_()
        drawn, log_prob = draw(mean, log_std, noise)
        if math.isnan(log_prob.sum().item()):
            raise NonFiniteError(
                f"the actor gives NaN at update {of._n_updates}, step {of.num_timesteps}: the "
                "networks have diverged, or were given NaN; go on from a model saved earlier, with "
                "a smaller learning_rate"
            )

        alpha = of.entropy_coefficient()
        if self.plain_target:
            bonus = -alpha * log_prob[n:]
            target = self.target(batch, following[0], drawn.actions[n:], bonus)
        else:
            target = self.variants_target(batch)
        own = drawn.first(n)
        log_prob = log_prob[:n]
        metrics = {"ent_coef": alpha, **self._learn_alpha(log_prob)}

        errors, critic_loss = self.learn_critics(
            th.cat([features, batch.actions], dim=1), target, weights
        )

        value, by_action = self._actor_value(features, own.actions)
        actor_loss = (alpha * log_prob - value).mean()
        self.actor_gradients(seen, own, by_action, alpha / n)
        self.actor.step()

        if of.clock.update % of.target_update_interval == 0:
            self.critic_target.follow(self.critic, of.tau)

        metrics |= {"actor_loss": actor_loss, "critic_loss": critic_loss}
        return Step(errors.squeeze(-1).T, metrics)

    def actor_gradients(
        self, seen: list[Tensor], own: Squashed, by_action: Tensor, log_prob: Tensor
    ) -> None:
        """Write the gradients of the actor's loss.

        :param seen: what the actor's layers saw, each ``[B or 2 B, width]``; the first B rows
            are those of s
        :param own: the actions in s, of B rows
        :param by_action: the gradient of the value's part, ``[B, A]``
        :param log_prob: that of the density's part, a scalar
        """
        gradient = parameter_gradient(own, by_action, log_prob)
        backward(
            self.actor_layers, [rows[: len(by_action)] for rows in seen], gradient, self.products
        )

    def _learn_alpha(self, log_prob: Tensor) -> dict[str, Tensor]:
        of, adam = self.algorithm, self.alpha
        if adam is None:
            return {}
        surplus = (log_prob + float(of.target_entropy)).mean()
        loss = -adam.parameters[0] * surplus
        adam.gradient[0] = -surplus
        adam.step()
        return {"ent_coef_loss": loss}

    def _actor_value(self, features: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """The smaller critic's value ``[B, 1]``, and the gradient of minus its mean by actions.

        Each row goes back through the critic that said least alone: half the products. At a tie
        it is the one that torch's minimum names, as in SB3.
        """
        n, rows = len(features), th.cat([features, actions], dim=1)
        seen = [forward(net, rows, self.products) for net in self.critics]
        least = th.cat([outputs[-1] for outputs in seen], dim=1).min(dim=1, keepdim=True)
        by_action = th.empty_like(actions)
        for index, (net, outputs) in enumerate(zip(self.critics, seen, strict=True)):
            chosen = (least.indices[:, 0] == index).nonzero()[:, 0]
            # oneDNN makes and keeps a kernel for each number of rows: filled up with row 0.
            filled = functional.pad(chosen, (0, -len(chosen) % ROW_STEP))
            part = [one.index_select(0, filled) for one in outputs[1:-1]]
            gradient = features.new_full((len(filled), 1), -1 / n)
            found = input_gradient(
                net, [rows, *part, gradient], gradient, features.shape[1], self.products
            )
            by_action.index_copy_(0, chosen, found[: len(chosen)])
        return least.values, by_action


def actor_layers(algorithm: SAC) -> list[Dense]:
    """The layers of SB3's Gaussian actor; the last gives mean and log std, side by side.

    :raises EngineError: if it is another actor
    """
    actor = algorithm.actor
    if type(actor) is not Actor:
        raise EngineError(f"the actor is {type(actor).__name__}, not SB3's")
    if algorithm.use_sde:
        raise EngineError("use_sde=True draws noise that depends on the state")
    require_plain_features(actor)
    # SB3's latent network ends in a ReLU; with the head it is an MLP like any other.
    hidden = layers_of(nn.Sequential(*actor.latent_pi, actor.mu))[:-1]
    return [*hidden, dense(actor.mu, cast(nn.Module, actor.log_std))]
