"""Soft actor-critic (Haarnoja et al. 2018), one gradient step as one method."""

from __future__ import annotations

from typing import Any, Unpack

import stable_baselines3 as sb3
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor

from sb3_ext.algorithms.arguments import SACArguments
from sb3_ext.algorithms.critics import SeveralCritics
from sb3_ext.algorithms.entropy import MaximumEntropy
from sb3_ext.algorithms.networks import TargetNetwork, descend
from sb3_ext.engines.products import Products
from sb3_ext.engines.sac import FusedSAC
from sb3_ext.td import weighted_squared_error
from sb3_ext.updates import Batch, Step


class SAC(MaximumEntropy, SeveralCritics, sb3.SAC):
    """SB3's SAC with doors for replay, weighting and engines.

    Without a sampler or weighting equal to it: to the bit with ``engine="reference"``, up to
    float32's rounding on the fast engine that ``"auto"`` takes where it can.

    ``target_update_interval`` counts gradient steps within one call of ``train``, as in SB3: with
    ``gradient_steps=1`` the target moves at every step whatever the interval.

    :param policy: as in SB3
    :param env: as in SB3
    :param kwargs: ``stable_baselines3.SAC``'s arguments, and ``replay``, ``weighting`` and
        ``engine`` of :class:`~sb3_ext.algorithms.composable.Composable`
    """

    family = "SAC"

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *args: Any,
        **kwargs: Unpack[SACArguments],
    ) -> None:
        super().__init__(policy, env, *args, **kwargs)

    def _create_aliases(self) -> None:
        super()._create_aliases()
        self.follower = TargetNetwork(self.critic, self.critic_target)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "follower"]

    def fused_step(self, products: Products) -> FusedSAC:
        """For ReLU networks on plain features, without gSDE."""
        return FusedSAC(self, SAC, products)

    def next_actions(self, observations: Tensor | dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Drawn from the actor; their entropy is worth ``-alpha * log pi(a'|s')``."""
        actions, log_prob = self.actor.action_log_prob(observations)
        return actions, -self.entropy_coefficient() * log_prob.reshape(-1, 1)

    def critic_error(self, errors: Tensor, weights: Tensor) -> Tensor:
        """Half the weighted mean square of each critic, summed."""
        return 0.5 * weighted_squared_error(errors, weights)

    def gradient_step(self, batch: Batch, weights: Tensor) -> Step:
        """Entropy coefficient, critics, actor, targets.

        The order of random draws is SB3's (actions for ``s`` before those for ``s'``), and alpha
        is the one from before its own update throughout.
        """
        if self.use_sde:
            self.actor.reset_noise()
        actions, log_prob = self.actor.action_log_prob(batch.observations)
        log_prob = log_prob.reshape(-1, 1)
        alpha = self.entropy_coefficient()
        target = self.bellman_target(batch)
        metrics = {"ent_coef": alpha, **self.learn_entropy_coefficient(log_prob)}

        errors = self.critic_errors(batch, target)
        critic_loss = self.weighted_error(errors, weights)
        descend(critic_loss, self.critic.optimizer)

        q_pi = self.together(self.critic(batch.observations, actions))
        actor_loss = (alpha * log_prob - q_pi).mean()
        descend(actor_loss, self.actor.optimizer)

        if self.clock.update % self.target_update_interval == 0:
            self.follower.follow(self.tau)

        metrics |= {"actor_loss": actor_loss, "critic_loss": critic_loss}
        return Step(errors.detach().squeeze(-1).T, metrics)
