"""DQN (Mnih et al. 2015) and Double DQN (van Hasselt et al. 2016), one gradient step."""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor

from sb3_ext.algorithms.arguments import DQNArguments
from sb3_ext.algorithms.composable import Composable
from sb3_ext.algorithms.networks import descend
from sb3_ext.td import td_errors, td_target, value_of_greedy_action, weighted_huber_error
from sb3_ext.updates import Batch, Step


class DQN(Composable, sb3.DQN):
    """SB3's DQN with doors for replay and weighting; without them equal to it to the bit.

    The target network follows every ``target_update_interval`` steps in the environment, as in SB3.

    :param policy: as in SB3
    :param env: as in SB3
    :param double_q: whether the online network chooses the action that the target network values
        (van Hasselt et al. 2016); SB3 has the target network do both
    :param kwargs: ``stable_baselines3.DQN``'s arguments, and ``replay``, ``weighting`` and
        ``engine`` of :class:`~sb3_ext.algorithms.composable.Composable`
    """

    family = "DQN"
    supported_actions: ClassVar = (spaces.Discrete,)

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *args: Any,
        double_q: bool = False,
        **kwargs: Unpack[DQNArguments],
    ) -> None:
        self.double_q = double_q
        super().__init__(policy, env, *args, **kwargs)

    def optimizers(self) -> list[th.optim.Optimizer]:
        """The Q-network's."""
        return [self.value_optimizer]

    @property
    def value_network(self) -> Any:
        """The Q-network."""
        return self.q_net

    @property
    def value_optimizer(self) -> th.optim.Optimizer:
        """Its optimiser, which SB3 keeps with the policy."""
        return self.policy.optimizer

    def bellman_target(self, batch: Batch) -> Tensor:
        """``r + (1 - done) * gamma * Q_target(s', a*)``, ``[B, 1]``.

        ``a*`` is the best action by the target network, under ``double_q`` by the online one.
        """
        with th.no_grad():
            q_next = self.q_net_target(batch.next_observations)
            judge = self.q_net(batch.next_observations) if self.double_q else q_next
            discounts = self.gamma if batch.discounts is None else batch.discounts
            value = value_of_greedy_action(q_next, judge)
            return td_target(batch.rewards, batch.dones, discounts, value)

    def critic_error(self, errors: Tensor, weights: Tensor) -> Tensor:
        """The weighted mean Huber loss."""
        return weighted_huber_error(errors, weights)

    def gradient_step(self, batch: Batch, weights: Tensor) -> Step:
        """The Q-network."""
        target = self.bellman_target(batch)
        q_values = self.q_net(batch.observations).gather(1, batch.actions.long())
        errors = td_errors((q_values,), target)
        loss = self.weighted_error(errors, weights)
        descend(loss, self.value_optimizer, self.max_grad_norm)
        return Step(errors.detach().squeeze(-1).T, {"loss": loss})
