"""The world model: ensembles of dynamics, ends and rewards, and what they imagine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch as th
import torch.nn.functional as F
from torch import Tensor, nn

from sb3_ext.ensembles import EnsembleMLP, member_batches
from sb3_ext.plugins.steve.equations import alive

#: From observations ``[n, O]`` to actions ``[n, A]`` in [-1, 1] and what each is worth beside its
#: reward ``[n]``, such as its entropy.
Acting = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Imagined:
    """Paths of H steps under a policy, one by each model.

    :param observations: ``[H + 1, M, B, O]``; the first are the real ones
    :param actions: ``[H + 1, M, B, A]``
    :param bonus: ``[H + 1, M, B]``
    :param rewards: ``[H, N, M, B]``
    :param continues: ``[H + 1, M, B]``, how probably the episode goes on after each step, from 1
    """

    observations: Tensor
    actions: Tensor
    bonus: Tensor
    rewards: Tensor
    continues: Tensor


class Standardizer(nn.Module):
    """Means and variances of all that was seen.

    :param width: numbers of a sample
    """

    count: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("count", th.zeros((), dtype=th.int64))
        self.register_buffer("mean", th.zeros(width))
        self.register_buffer("variance", th.ones(width))

    def observe(self, samples: Tensor) -> None:
        """Take samples ``[n, width]`` in (Chan et al. 1983)."""
        mean = samples.mean(dim=0)
        variance = (samples - mean).square_().mean(dim=0)  # th.var_mean takes far longer here
        total = self.count + len(samples)
        share = len(samples) / total
        apart = mean - self.mean
        between = share * (1 - share) * apart.square()
        self.variance.copy_((1 - share) * self.variance + share * variance + between)
        self.mean += share * apart
        self.count.copy_(total)

    @property
    def std(self) -> Tensor:
        """``[width]``; 1 for what never varied by more than float32 rounds it."""
        varies = self.variance > 1e-12 + (1e-5 * self.mean).square()
        return th.where(varies, self.variance, 1.0).sqrt()

    def forward(self, samples: Tensor) -> Tensor:
        """In standard deviations from the mean."""
        return (samples - self.mean) / self.std

    def back(self, standard: Tensor) -> Tensor:
        """The inverse."""
        return standard * self.std + self.mean


class WorldModel(nn.Module):
    """M models of dynamics and of ends, N of the reward, each learning from samples of its own.

    The dynamics predict the difference ``s' - s``, and the others see ``(s', s, a)``. Inputs,
    differences and rewards are standardised by what was seen in training.

    :param observation_dim: numbers of an observation, O
    :param action_dim: numbers of an action in [-1, 1], A
    :param n_models: M
    :param n_rewards: N
    :param net_arch: widths of the hidden layers of each network
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        n_models: int = 4,
        n_rewards: int = 4,
        net_arch: Sequence[int] = (256, 256),
    ) -> None:
        super().__init__()
        self.n_models, self.n_rewards = n_models, n_rewards
        seen = observation_dim + action_dim
        self.transitions = EnsembleMLP(n_models, seen, observation_dim, net_arch)
        self.ends = EnsembleMLP(n_models, observation_dim + seen, 1, net_arch)
        self.rewards = EnsembleMLP(n_rewards, observation_dim + seen, 1, net_arch)
        self.observations_seen = Standardizer(observation_dim)
        self.differences_seen = Standardizer(observation_dim)
        self.rewards_seen = Standardizer(1)

    # -- learning ----------------------------------------------------------------------------

    def observe(self, observations: Tensor, next_observations: Tensor, rewards: Tensor) -> None:
        """Take a batch into the statistics that inputs and targets are standardised by.

        :param observations: ``[B, O]``
        :param next_observations: ``[B, O]``
        :param rewards: ``[B, 1]``
        """
        self.observations_seen.observe(observations)
        self.differences_seen.observe(next_observations - observations)
        self.rewards_seen.observe(rewards)

    def losses(
        self,
        observations: Tensor,
        actions: Tensor,
        next_observations: Tensor,
        rewards: Tensor,
        dones: Tensor,
        generator: th.Generator | None = None,
    ) -> dict[str, Tensor]:
        """One loss for each kind of model (Buckman et al. 2018, eqs. 3 to 5), means over samples.

        Half the squared error of the standardised difference, summed over its numbers; binary
        cross entropy of the end; half the squared error of the standardised reward. Each sample
        trains one member of each ensemble.

        :param observations: ``[B, O]``
        :param actions: ``[B, A]``
        :param next_observations: ``[B, O]``
        :param rewards: ``[B, 1]``
        :param dones: ``[B, 1]``, 1 where the episode ended, not where it was cut off
        :param generator: says whose a sample is
        """
        n = len(observations)
        state = self.observations_seen(observations)
        after = self.observations_seen(next_observations)
        difference = self.differences_seen(next_observations - observations)
        before = th.cat([state, actions], dim=1)
        joint = th.cat([after, state, actions], dim=1)
        mine, weights = member_batches(n, self.n_models, generator)
        step = self.transitions(before[mine]) - difference[mine]
        ended = F.binary_cross_entropy_with_logits(
            self.ends(joint[mine]), dones[mine], reduction="none"
        )
        theirs, other_weights = member_batches(n, self.n_rewards, generator)
        missed = self.rewards(joint[theirs]) - self.rewards_seen(rewards)[theirs]
        weights, other_weights = weights.to(step.device), other_weights.to(step.device)
        return {
            "transition": 0.5 * (weights * step.square().sum(-1)).sum() / n,
            "termination": (weights * ended.squeeze(-1)).sum() / n,
            "reward": 0.5 * (other_weights * missed.square().squeeze(-1)).sum() / n,
        }

    # -- imagining ---------------------------------------------------------------------------

    def _require(self, name: str, rows: Any, width: int) -> None:
        if not isinstance(rows, Tensor) or rows.dim() != 2 or rows.shape[1] != width:
            found = list(getattr(rows, "shape", [])) or type(rows).__name__
            raise ValueError(f"{name} must be a tensor of shape [n, {width}], got {found}")
        if rows.dtype != (dtype := self.observations_seen.mean.dtype):
            raise ValueError(f"{name} must be of {dtype}, as the world model is, got {rows.dtype}")

    def predict(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step from the same states by all models.

        :param observations: ``[B, O]``
        :param actions: ``[B, A]``, in [-1, 1]
        :return: next observations ``[M, B, O]``, rewards ``[N, M, B]`` and probabilities that the
            step ends the episode ``[M, B]``; with gradient, unless under ``torch.no_grad()``
        :raises ValueError: for other shapes, or another type of numbers
        """
        self._require("observations", observations, self.transitions.output_dim)
        self._require("actions", actions, self.transitions.input_dim - observations.shape[1])
        own = observations.expand(self.n_models, *observations.shape)
        taken = actions.expand(self.n_models, *actions.shape)
        following, joint = self._step(own, taken)
        return following, self._rewards(joint[None])[0], self._ends(joint)

    def rollout(self, observations: Tensor, acting: Acting, horizon: int) -> Imagined:
        """Paths of ``horizon`` steps, one by each model; all else about them comes at once.

        :param observations: ``[B, O]``
        :param acting: the policy
        :param horizon: steps H, >= 0
        :raises ValueError: for other shapes, or another type of numbers
        """
        self._require("observations", observations, self.transitions.output_dim)
        if horizon < 0:
            raise ValueError(f"horizon must be at least 0, got {horizon}")
        batch, shape = len(observations), (self.n_models, len(observations), -1)
        actions, bonus = acting(observations)
        # All paths begin in the same state with the same action.
        states = [observations.expand(*shape)]
        taken = [actions.expand(*shape)]
        worth = [bonus.expand(self.n_models, batch)]
        joints = []
        for _ in range(horizon):
            following, joint = self._step(states[-1], taken[-1])
            actions, bonus = acting(following.flatten(0, 1))
            states.append(following)
            taken.append(actions.view(*shape))
            worth.append(bonus.view(*shape[:2]))
            joints.append(joint)
        ends = observations.new_zeros(0, self.n_models, batch)
        rewards = ends.new_zeros(0, self.n_rewards, self.n_models, batch)
        if joints:  # all steps at once: few large products take less time than many small ones
            steps = th.stack(joints)
            rewards = self._rewards(steps)
            ends = self._ends(steps.transpose(0, 1).flatten(1, 2)).unflatten(1, (horizon, batch))
            ends = ends.transpose(0, 1)
        return Imagined(
            th.stack(states),
            th.stack(taken),
            th.stack(worth),
            rewards,
            alive(ends),
        )

    def open_loop(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Where given actions lead.

        :param observations: ``[B, O]``
        :param actions: ``[H, B, A]``
        :return: ``[H, M, B, O]``
        :raises ValueError: for other shapes, or another type of numbers
        """
        self._require("observations", observations, self.transitions.output_dim)
        for one in actions:
            self._require(
                "each step's actions", one, self.transitions.input_dim - observations.shape[1]
            )
        state = observations.expand(self.n_models, *observations.shape)
        found = []
        for one in actions:
            state, _ = self._step(state, one.expand(self.n_models, *one.shape))
            found.append(state)
        return th.stack(found)

    def _step(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """``[M, B, O]`` and ``[M, B, A]`` to what follows, and to what the others shall see."""
        state = self.observations_seen(observations)
        moved = self.transitions(th.cat([state, actions], dim=-1))
        following = observations + self.differences_seen.back(moved)
        joint = th.cat([self.observations_seen(following), state, actions], dim=-1)
        return following, joint

    def _ends(self, joint: Tensor) -> Tensor:
        ended: Tensor = self.ends(joint).squeeze(-1).sigmoid()
        return ended

    def _rewards(self, joint: Tensor) -> Tensor:
        """``[H, M, B, 2 O + A]`` to ``[H, N, M, B]``."""
        steps, models, batch, _ = joint.shape
        rewards: Tensor = self.rewards_seen.back(self.rewards(joint.flatten(0, 2)))
        return rewards.view(self.n_rewards, steps, models, batch).transpose(0, 1)
