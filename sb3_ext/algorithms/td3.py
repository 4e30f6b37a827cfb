"""TD3 (Fujimoto et al. 2018) and DDPG (Lillicrap et al. 2016), one gradient step as one method."""

from __future__ import annotations

from typing import Any, Unpack, cast

import stable_baselines3 as sb3
import torch as th
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor

from sb3_ext.algorithms.arguments import OffPolicyArguments, TD3Arguments
from sb3_ext.algorithms.critics import SeveralCritics
from sb3_ext.algorithms.networks import TargetNetwork, descend
from sb3_ext.engines.products import Products
from sb3_ext.engines.td3 import FusedTD3
from sb3_ext.td import weighted_squared_error
from sb3_ext.updates import Batch, Step


class TD3(SeveralCritics, sb3.TD3):
    """SB3's TD3 with doors for replay, weighting and engines.

    Without a sampler or weighting equal to it: to the bit with ``engine="reference"``, up to
    float32's rounding on the fast engine that ``"auto"`` takes where it can.

    :param policy: as in SB3
    :param env: as in SB3
    :param kwargs: ``stable_baselines3.TD3``'s arguments, and ``replay``, ``weighting`` and
        ``engine`` of :class:`~sb3_ext.algorithms.composable.Composable`
    """

    family = "TD3"

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *args: Any,
        **kwargs: Unpack[TD3Arguments],
    ) -> None:
        super().__init__(policy, env, *args, **kwargs)

    def _create_aliases(self) -> None:
        super()._create_aliases()
        self.followers = (
            TargetNetwork(self.critic, self.critic_target),
            TargetNetwork(self.actor, self.actor_target),
        )

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "followers"]

    def optimizers(self) -> list[th.optim.Optimizer]:
        """Actor's and critic's."""
        return [self.actor.optimizer, self.critic.optimizer]

    def fused_step(self, products: Products) -> FusedTD3:
        """For ReLU networks on plain features."""
        return FusedTD3(self, TD3, products)

    def next_actions(self, observations: Tensor | dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The target actor's with clipped noise; a Q-value is all that they are worth."""
        return self.smoothed(self.actor_target(observations))

    def smoothed(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Actions ``[n, A]`` with the target policy's noise, and the zeros that go with them."""
        noise = th.empty_like(actions).normal_(0, self.target_policy_noise)
        noise = noise.clamp(-self.target_noise_clip, self.target_noise_clip)
        return (actions + noise).clamp(-1, 1), actions.new_zeros(len(actions), 1)

    def actor_value(self, observations: Tensor | dict[str, Tensor], actions: Tensor) -> Tensor:
        """What the actor raises: the first critic's value, ``[n, 1]``."""
        # SB3 types observations as a tensor here, and hands dicts through as well.
        value: Tensor = self.critic.q1_forward(cast(Tensor, observations), actions)
        return value

    def critic_error(self, errors: Tensor, weights: Tensor) -> Tensor:
        """The weighted mean square of each critic, summed."""
        return weighted_squared_error(errors, weights)

    def gradient_step(self, batch: Batch, weights: Tensor) -> Step:
        """Critics; then, at every ``policy_delay``-th step, actor and targets."""
        target = self.bellman_target(batch)
        errors = self.critic_errors(batch, target)
        critic_loss = self.weighted_error(errors, weights)
        descend(critic_loss, self.critic.optimizer)
        metrics = {"critic_loss": critic_loss}

        if self._n_updates % self.policy_delay == 0:
            actions = self.actor(batch.observations)
            actor_loss = -self.actor_value(batch.observations, actions).mean()
            descend(actor_loss, self.actor.optimizer)
            metrics["actor_loss"] = actor_loss

            for follower in self.followers:
                follower.follow(self.tau)

        return Step(errors.detach().squeeze(-1).T, metrics)


class DDPG(TD3, sb3.DDPG):
    """SB3's DDPG (one critic, no target noise, no delay) with doors for replay and weighting.

    Takes ``stable_baselines3.DDPG``'s arguments and those of :class:`TD3` that are ours.
    """

    family = "DDPG"

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *args: Any,
        **kwargs: Unpack[OffPolicyArguments],
    ) -> None:
        super().__init__(policy, env, *args, **kwargs)
