"""CrossQ (Bhatt et al. 2024), one gradient step as one method."""

from __future__ import annotations

from typing import Any, NamedTuple, Unpack, cast

import sb3_contrib
import torch as th
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor

from sb3_ext.algorithms.arguments import CrossQArguments
from sb3_ext.algorithms.entropy import MaximumEntropy
from sb3_ext.algorithms.networks import buffers_kept, descend
from sb3_ext.td import minimum_over_critics, td_errors, td_target, weighted_squared_error
from sb3_ext.updates import Batch, Step


class JointPass(NamedTuple):
    """What one pass of the critics says of both ends of the transitions.

    :param q_values: of ``(s, a)``, one column ``[B, 1]`` for each critic
    :param next_q_values: of ``(s', a')`` likewise, without gradient
    :param next_log_prob: ``log pi(a'|s')``, ``[B, 1]``, without gradient
    """

    q_values: tuple[Tensor, ...]
    next_q_values: tuple[Tensor, ...]
    next_log_prob: Tensor


class CrossQ(MaximumEntropy, sb3_contrib.CrossQ):
    """sb3-contrib's CrossQ with doors for replay and weighting; without them equal to the bit.

    It has no target network. Batch normalisation keeps it stable instead, as long as ``(s, a)`` and
    ``(s', a')`` are normalised together, by the statistics of both: see :meth:`bellman_target`.

    :param policy: as in SB3; sb3-contrib has ``"MlpPolicy"`` only
    :param env: as in SB3
    :param kwargs: ``sb3_contrib.CrossQ``'s arguments, and ``replay``, ``weighting`` and ``engine``
        of :class:`~sb3_ext.algorithms.composable.Composable`
    """

    family = "CrossQ"

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *args: Any,
        **kwargs: Unpack[CrossQArguments],
    ) -> None:
        super().__init__(policy, env, *args, **kwargs)

    def joint_pass(self, batch: Batch) -> JointPass:
        """The critics on ``(s, a)`` above ``(s', a')``; moves their running statistics once."""
        with th.no_grad():
            self.actor.set_bn_training_mode(False)
            actions, log_prob = self.actor.action_log_prob(batch.next_observations)
        # sb3-contrib has no CrossQ for Dict observations, so these are tensors.
        ends = cast("tuple[Tensor, Tensor]", (batch.observations, batch.next_observations))
        self.critic.set_bn_training_mode(True)
        both = self.critic(th.cat(ends), th.cat([batch.actions, actions]))
        self.critic.set_bn_training_mode(False)
        # Side by side, as in sb3-contrib: apart, the gradient's sum over the batch would round
        # differently in the last bit.
        now, later = th.cat(both, dim=1).split(len(actions))
        return JointPass(
            now.T.unsqueeze(-1).unbind(), later.detach().split(1, dim=1), log_prob.reshape(-1, 1)
        )

    def bellman_target(self, batch: Batch, joint: JointPass | None = None) -> Tensor:
        """``r + (1 - done) * gamma * (min_k Q_k(s', a') - alpha * log pi(a'|s'))``, ``[B, 1]``.

        The values of ``s'`` come from the very pass that estimates those of ``s``: batch
        normalisation makes either depend on the other. So the gradient step hands that pass on,
        and a variant that replaces the target takes it, too. Without it, one is made here, which
        leaves the running statistics as they were.

        :param batch: SB3's batch of B transitions
        :param joint: the gradient step's pass over this batch
        """
        with th.no_grad():
            if joint is None:
                with buffers_kept(self.critic):
                    joint = self.joint_pass(batch)
            q_next = minimum_over_critics(joint.next_q_values)
            soft_value = q_next - self.entropy_coefficient() * joint.next_log_prob
            discounts = self.gamma if batch.discounts is None else batch.discounts
            return td_target(batch.rewards, batch.dones, discounts, soft_value)

    def critic_error(self, errors: Tensor, weights: Tensor) -> Tensor:
        """Half the weighted mean square of each critic, summed."""
        return 0.5 * weighted_squared_error(errors, weights)

    def gradient_step(self, batch: Batch, weights: Tensor) -> Step:
        """Critics; then, at every ``policy_delay``-th step, entropy coefficient and actor.

        Only the pass that learns from a network moves its running statistics.
        """
        if self.use_sde:
            self.actor.reset_noise()
        alpha = self.entropy_coefficient()
        joint = self.joint_pass(batch)
        errors = td_errors(joint.q_values, self.bellman_target(batch, joint=joint))
        critic_loss = self.weighted_error(errors, weights)
        descend(critic_loss, self.critic.optimizer)
        metrics = {"ent_coef": alpha, "critic_loss": critic_loss}

        if self._n_updates % self.policy_delay == 0:
            self.actor.set_bn_training_mode(True)
            actions, log_prob = self.actor.action_log_prob(batch.observations)
            log_prob = log_prob.reshape(-1, 1)
            self.actor.set_bn_training_mode(False)
            metrics |= self.learn_entropy_coefficient(log_prob)

            q_pi = minimum_over_critics(self.critic(batch.observations, actions))
            actor_loss = (alpha * log_prob - q_pi).mean()
            descend(actor_loss, self.actor.optimizer)
            metrics["actor_loss"] = actor_loss

        return Step(errors.detach().squeeze(-1).T, metrics)
