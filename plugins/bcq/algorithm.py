"""BCQ, one gradient step as one method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor

from sb3_ext.algorithms.networks import TargetNetwork, descend
from sb3_ext.offline.learning import COLLECTING, Data, Offline
from sb3_ext.options import is_integer, is_number
from sb3_ext.plugins.bcq.equations import best_of_candidates, soft_clipped_double_q, vae_loss
from sb3_ext.plugins.bcq.networks import (
    NET_ARCHS,
    BCQPolicy,
    CnnPolicy,
    MultiInputPolicy,
    features_of,
)
from sb3_ext.td import td_errors, td_target, weighted_squared_error
from sb3_ext.updates import Batch, Step


class BCQ(Offline):
    """Batch-constrained deep Q-learning (Fujimoto et al. 2019).

    A policy that takes only actions which the data could have taken: a variational autoencoder
    proposes them, a small perturbation improves them, and the critic chooses. ``phi`` and
    ``n_sampled_actions`` are the dial between behaviour cloning (0 and 1) and Q-learning (2 and
    many).

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"`` or ``"MultiInputPolicy"``
    :param env: only its spaces are used, and they may come from the dataset
    :param learning_rate: of all three optimisers (paper: 1e-3)
    :param batch_size: transitions of a gradient step (paper: 100)
    :param tau: share by which targets follow
    :param gamma: discount
    :param dataset: see :class:`~sb3_ext.offline.learning.Offline`
    :param phi: the largest change of a proposed action, in the units of actions scaled to [-1, 1];
        from 0 to 2
    :param q_mix_lambda: weight of the smaller critic in the target, from 0 to 1
    :param n_sampled_actions: candidates for each next state in the target
    :param n_eval_actions: candidates for each state when acting
    :param kl_weight: of the autoencoder's mean KL
    :param policy_kwargs: as in SB3; ``{"net_arch": "small"}`` is [256, 256] for all networks, for a
        CPU; the default is the paper's
    :param kwargs: ``n_steps``, ``verbose``, ``seed``, ``device``, ``tensorboard_log``,
        ``stats_window_size`` as in SB3; ``replay``, ``weighting`` and ``critic_loss`` of
        :class:`~sb3_ext.algorithms.composable.Composable`
    """

    family = "BCQ"
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": BCQPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    #: What ``policy_kwargs["net_arch"]`` may be beside lists.
    named_net_archs: ClassVar[tuple[str, ...]] = tuple(NET_ARCHS)
    refused_arguments: ClassVar[Mapping[str, str]] = {
        **COLLECTING,
        **dict.fromkeys(("use_sde", "sde_sample_freq"), "it acts by candidates, not by noise"),
    }
    policy: BCQPolicy
    vae: Any
    actor: Any

    def __init__(
        self,
        policy: str | type[BCQPolicy],
        env: GymEnv | str | None = None,
        learning_rate: float | Schedule = 1e-3,
        *,
        batch_size: int = 100,
        tau: float = 0.005,
        gamma: float = 0.99,
        dataset: Data | None = None,
        phi: float = 0.05,
        q_mix_lambda: float = 0.75,
        n_sampled_actions: int = 10,
        n_eval_actions: int = 100,
        kl_weight: float = 0.5,
        policy_kwargs: dict[str, Any] | None = None,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        self.phi = phi
        self.q_mix_lambda = q_mix_lambda
        self.n_sampled_actions = n_sampled_actions
        self.n_eval_actions = n_eval_actions
        self.kl_weight = kl_weight
        self._require_options()
        super().__init__(
            policy,
            env,
            learning_rate,
            dataset=dataset,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            policy_kwargs=policy_kwargs,
            sde_support=False,
            supported_action_spaces=(spaces.Box,),
            support_multi_env=True,
            **kwargs,
        )
        if _init_setup_model:
            self._setup_model()

    def _require_options(self) -> None:
        for name, low, high in (("phi", 0, 2), ("q_mix_lambda", 0, 1), ("kl_weight", 0, th.inf)):
            value = getattr(self, name)
            if not is_number(value):
                raise TypeError(f"{name} must be a number, got {value!r}")
            if not low <= value <= high:
                raise ValueError(f"{low} <= {name} <= {high} must hold, got {value}")
            setattr(self, name, float(value))
        for name in ("n_sampled_actions", "n_eval_actions"):
            value = getattr(self, name)
            if not is_integer(value):
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
            setattr(self, name, int(value))

    def _setup_model(self) -> None:
        self._require_options()  # load(path, phi=...) may have changed them
        chosen = self.policy_kwargs
        acting = {"phi": self.phi, "n_eval_actions": self.n_eval_actions}
        if stray := sorted(acting.keys() & chosen.keys()):
            raise TypeError(f"policy_kwargs has {', '.join(stray)}: give them to BCQ itself")
        self.policy_kwargs = {**chosen, **acting}
        super()._setup_model()
        self.policy_kwargs = chosen
        self._create_aliases()

    def _create_aliases(self) -> None:
        self.vae = self.policy.vae
        self.actor, self.actor_target = self.policy.actor, self.policy.actor_target
        self.critic, self.critic_target = self.policy.critic, self.policy.critic_target
        self.followers = (
            TargetNetwork(self.critic, self.critic_target),
            TargetNetwork(self.actor, self.actor_target),
        )

    def _excluded_save_params(self) -> list[str]:
        networks = ["vae", "actor", "actor_target", "critic", "critic_target", "followers"]
        return [*super()._excluded_save_params(), *networks]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, tensors = super()._get_torch_save_params()
        optimizers = ["vae.optimizer", "actor.optimizer", "critic.optimizer"]
        return ["policy", *optimizers, *(name for name in names if name != "policy")], tensors

    def save_for_sb3(self, path: Any) -> None:
        """Refused: SB3 has no BCQ."""
        raise TypeError("Stable-Baselines3 has no BCQ to load it with: use save")

    @property
    def value_network(self) -> Any:
        """The critics; a weighting asks for them before the aliases are made."""
        return self.policy.critic

    @property
    def value_optimizer(self) -> th.optim.Optimizer:
        """Theirs."""
        optimizer: th.optim.Optimizer = self.policy.critic.optimizer
        return optimizer

    def optimizers(self) -> list[th.optim.Optimizer]:
        """Those of generative model, critics and perturbation."""
        return [self.vae.optimizer, self.critic.optimizer, self.actor.optimizer]

    def critic_error(self, errors: Tensor, weights: Tensor) -> Tensor:
        """The weighted mean square of each critic, summed."""
        return weighted_squared_error(errors, weights)

    def bellman_target(self, batch: Batch) -> Tensor:
        """``r + (1 - terminated) * gamma * max_i Q_mix(s', a_i)``, ``[B, 1]``.

        The candidates are decoded by the online autoencoder (there is no target of it) and
        perturbed by the target of the perturbation network.
        """
        n, size = self.n_sampled_actions, len(batch.rewards)
        with th.no_grad():
            latents = self.vae.sample_latents(size * n)
            values = []
            for _, pairs in self.policy.candidates(
                batch.next_observations, n, latents, self.actor_target, self.critic_target
            ):
                q1, q2 = (network(pairs) for network in self.critic_target.q_networks)
                mixed = soft_clipped_double_q(q1, q2, self.q_mix_lambda)
                values.append(best_of_candidates(mixed.reshape(-1, n)))
            discounts = self.gamma if batch.discounts is None else batch.discounts
            return td_target(batch.rewards, batch.dones, discounts, th.cat(values))

    def gradient_step(self, batch: Batch, weights: Tensor) -> Step:
        """Generative model, critics, perturbation, targets, in the order of the authors' code."""
        features = features_of(self.vae, batch.observations)
        mean, log_std = self.vae.encode(features, batch.actions)
        latents = mean + log_std.exp() * th.randn_like(mean)
        loss, error, divergence = vae_loss(
            self.vae.decode(features, latents), batch.actions, mean, log_std, self.kl_weight
        )
        descend(loss, self.vae.optimizer)
        metrics = {"vae_loss": loss, "reconstruction_error": error, "latent_kl": divergence}

        target = self.bellman_target(batch)
        q_values = self.critic(batch.observations, batch.actions)
        errors = td_errors(q_values, target)
        critic_loss = self.weighted_error(errors, weights)
        descend(critic_loss, self.critic.optimizer)
        metrics |= {"critic_loss": critic_loss, "q_values": q_values[0].mean()}

        if self.phi > 0:  # else there is nothing to perturb
            actor_loss, moved = self._perturbation_loss(batch)
            descend(actor_loss, self.actor.optimizer)
            metrics |= {"actor_loss": actor_loss, "perturbation": moved}

        for follower in self.followers:
            follower.follow(self.tau)
        return Step(errors.detach().squeeze(-1).T, metrics)

    def _perturbation_loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """``-mean Q1(s, a + xi(s, a))`` with ``a`` from the generative model, and the mean change.

        The autoencoder and the critic are not trained by it.
        """
        with th.no_grad():
            features = features_of(self.vae, batch.observations)
            proposed = self.vae.decode(features, self.vae.sample_latents(len(features)))
        actions = self.actor(features_of(self.actor, batch.observations), proposed)
        # SB3 types observations as a tensor here, and hands dicts through as well.
        loss = -self.critic.q1_forward(cast(Tensor, batch.observations), actions).mean()
        return loss, (actions.detach() - proposed).abs().mean()
