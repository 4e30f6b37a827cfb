"""TQC (Kuznetsov et al. 2020), one gradient step as one method."""

from __future__ import annotations

from typing import Any, Unpack

import sb3_contrib
import torch as th
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor

from sb3_ext.algorithms.arguments import TQCArguments
from sb3_ext.algorithms.entropy import MaximumEntropy
from sb3_ext.algorithms.networks import TargetNetwork, descend
from sb3_ext.td import td_target, weighted_quantile_huber_error
from sb3_ext.updates import Batch, Step


class TQC(MaximumEntropy, sb3_contrib.TQC):
    """sb3-contrib's TQC with doors for replay and weighting; without them equal to the bit.

    ``target_update_interval`` counts gradient steps within one call of ``train``, as there: with
    ``gradient_steps=1`` the target moves at every step whatever the interval.

    :param policy: as in SB3
    :param env: as in SB3
    :param kwargs: ``sb3_contrib.TQC``'s arguments, and ``replay``, ``weighting`` and ``engine`` of
        :class:`~sb3_ext.algorithms.composable.Composable`
    """

    family = "TQC"
    takes_critic_loss = False

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *args: Any,
        **kwargs: Unpack[TQCArguments],
    ) -> None:
        super().__init__(policy, env, *args, **kwargs)

    def _create_aliases(self) -> None:
        super()._create_aliases()
        self.follower = TargetNetwork(self.critic, self.critic_target)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "follower"]

    def bellman_target(self, batch: Batch) -> Tensor:
        """``r + (1 - done) * gamma * (z_j(s', a') - alpha * log pi(a'|s'))``, for the kept ``z_j``.

        The quantiles of all critics are pooled and sorted, and the largest, which overestimate, are
        dropped: ``[B, n_target_quantiles]``.
        """
        with th.no_grad():
            actions, log_prob = self.actor.action_log_prob(batch.next_observations)
            quantiles = self.critic_target(batch.next_observations, actions).flatten(1)
            n_dropped = self.top_quantiles_to_drop_per_net * self.critic.n_critics
            kept = quantiles.sort(dim=1).values[:, : quantiles.shape[1] - n_dropped]
            soft_quantiles = kept - self.entropy_coefficient() * log_prob.reshape(-1, 1)
            discounts = self.gamma if batch.discounts is None else batch.discounts
            return td_target(batch.rewards, batch.dones, discounts, soft_quantiles)

    def gradient_step(self, batch: Batch, weights: Tensor) -> Step:
        """Entropy coefficient, critics, actor, targets, in sb3-contrib's order of random draws.

        The TD error of a critic is the mean of its quantiles minus the mean of the target's.
        """
        if self.use_sde:
            self.actor.reset_noise()
        actions, log_prob = self.actor.action_log_prob(batch.observations)
        log_prob = log_prob.reshape(-1, 1)
        alpha = self.entropy_coefficient()
        target = self.bellman_target(batch)
        metrics = {"ent_coef": alpha, **self.learn_entropy_coefficient(log_prob)}

        quantiles = self.critic(batch.observations, batch.actions)
        critic_loss = weighted_quantile_huber_error(
            quantiles, target, weights, sum_over_quantiles=False
        )
        with th.no_grad():
            errors = quantiles.mean(dim=2) - target.mean(dim=1, keepdim=True)
        descend(critic_loss, self.critic.optimizer)

        q_pi = self.critic(batch.observations, actions).mean(dim=2).mean(dim=1, keepdim=True)
        actor_loss = (alpha * log_prob - q_pi).mean()
        descend(actor_loss, self.actor.optimizer)

        if self.clock.update % self.target_update_interval == 0:
            self.follower.follow(self.tau)

        return Step(errors, metrics | {"actor_loss": actor_loss, "critic_loss": critic_loss})
