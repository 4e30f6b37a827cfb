"""The one-step target of bases with several critics of continuous actions: SAC's and TD3's."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch as th
from torch import Tensor

from sb3_ext.algorithms.composable import Composable
from sb3_ext.td import minimum_over_critics, td_errors, td_target
from sb3_ext.updates import Batch


class SeveralCritics(Composable):
    """A base that bootstraps from what its target critics say together of its next action."""

    critic: Any
    critic_target: Any

    @abstractmethod
    def next_actions(self, observations: Tensor | dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The actions that a target supposes, and what each is worth beside its Q-value.

        :param observations: ``[n, ...]``
        :return: actions ``[n, A]`` in [-1, 1], and ``[n, 1]``: the entropy's share, or 0
        """

    def together(self, q_values: tuple[Tensor, ...]) -> Tensor:
        """What all critics say: the least of them; what a variant with another opinion replaces.

        :param q_values: one column ``[n, 1]`` for each critic
        :return: ``[n, 1]``
        """
        return minimum_over_critics(q_values)

    def critic_errors(self, batch: Batch, target: Tensor) -> Tensor:
        """How wrong each critic is about each sample, estimate minus target.

        :param target: ``[B, 1]``
        :return: ``[n_critics, B, 1]``
        """
        return td_errors(self.critic(batch.observations, batch.actions), target)

    def bellman_target(self, batch: Batch) -> Tensor:
        """``r + (1 - done) * gamma * (min_k Q_k(s', a') + bonus(a'))``, ``[B, 1]``."""
        with th.no_grad():
            actions, bonus = self.next_actions(batch.next_observations)
            q_next = self.together(self.critic_target(batch.next_observations, actions))
            discounts = self.gamma if batch.discounts is None else batch.discounts
            return td_target(batch.rewards, batch.dones, discounts, q_next + bonus)
