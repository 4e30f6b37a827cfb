"""QR-DQN (Dabney et al. 2018), one gradient step as one method."""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

import sb3_contrib
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor

from sb3_ext.algorithms.arguments import DQNArguments
from sb3_ext.algorithms.composable import Composable
from sb3_ext.algorithms.networks import descend
from sb3_ext.td import td_target, weighted_quantile_huber_error
from sb3_ext.updates import Batch, Step


class QRDQN(Composable, sb3_contrib.QRDQN):
    """sb3-contrib's QR-DQN with doors for replay and weighting; without them equal to the bit.

    The target network follows every ``target_update_interval`` steps in the environment, as there.

    :param policy: as in SB3
    :param env: as in SB3
    :param kwargs: ``sb3_contrib.QRDQN``'s arguments, and ``replay``, ``weighting`` and ``engine``
        of :class:`~sb3_ext.algorithms.composable.Composable`
    """

    family = "QRDQN"
    takes_critic_loss = False
    supported_actions: ClassVar = (spaces.Discrete,)

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *args: Any,
        **kwargs: Unpack[DQNArguments],
    ) -> None:
        super().__init__(policy, env, *args, **kwargs)

    def optimizers(self) -> list[th.optim.Optimizer]:
        """The quantile network's."""
        return [self.value_optimizer]

    @property
    def value_network(self) -> Any:
        """The quantile network."""
        return self.quantile_net

    @property
    def value_optimizer(self) -> th.optim.Optimizer:
        """Its optimiser, which sb3-contrib keeps with the policy."""
        return self.policy.optimizer

    def bellman_target(self, batch: Batch) -> Tensor:
        """``r + (1 - done) * gamma * theta_j(s', a*)``, the quantiles ``[B, n_quantiles]``.

        ``a*`` is the action with the highest mean of its quantiles.
        """
        with th.no_grad():
            quantiles = self.quantile_net_target(batch.next_observations)
            best = quantiles.mean(dim=1, keepdim=True).argmax(dim=2, keepdim=True)
            discounts = self.gamma if batch.discounts is None else batch.discounts
            return td_target(batch.rewards, batch.dones, discounts, _of_action(quantiles, best))

    def gradient_step(self, batch: Batch, weights: Tensor) -> Step:
        """The quantile network.

        The TD error is the mean of its quantiles minus the mean of the target's.
        """
        target = self.bellman_target(batch)
        actions = batch.actions.long().unsqueeze(1)
        quantiles = _of_action(self.quantile_net(batch.observations), actions)
        loss = weighted_quantile_huber_error(quantiles, target, weights, sum_over_quantiles=True)
        with th.no_grad():
            errors = quantiles.mean(dim=1, keepdim=True) - target.mean(dim=1, keepdim=True)
        descend(loss, self.value_optimizer, self.max_grad_norm)
        return Step(errors, {"loss": loss})


def _of_action(quantiles: Tensor, actions: Tensor) -> Tensor:
    """The quantiles ``[B, n_quantiles]`` of one action ``[B, 1, 1]`` each, out of all actions'."""
    chosen = actions.expand(-1, quantiles.shape[1], 1)
    return quantiles.gather(2, chosen).squeeze(2)
