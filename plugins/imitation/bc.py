"""Behavioural cloning with the loss of the package imitation."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from sb3_ext.algorithms.networks import descend
from sb3_ext.offline import FromDemonstrations
from sb3_ext.plugins.imitation import compat
from sb3_ext.plugins.imitation.equations import mean_squared_error
from sb3_ext.signatures import require_known

LOSSES = ("nll", "mse")
#: imitation's policy (FeedForward32Policy) and its optimiser, where nobody says otherwise: SB3's
#: own Adam has another epsilon.
_NET_ARCH, _ADAM = [32, 32], {"eps": 1e-8}


class BC(FromDemonstrations):
    """Behavioural cloning: the policy under which the expert's actions are most probable.

    ``learn(total_timesteps)`` counts gradient steps. Equal to the bit to imitation's ``BC.train``
    on the same batches.

    :param policy: as in SB3; two hidden layers of 32, as in imitation, unless ``policy_kwargs`` has
        another ``net_arch``
    :param env: only its spaces are used; None takes the demonstrations'
    :param demonstrations: see :class:`~sb3_ext.offline.FromDemonstrations`
    :param learning_rate: of Adam
    :param batch_size: samples of a gradient step (imitation: 32)
    :param loss: ``"nll"``, the negative log-likelihood with ``ent_weight``, or ``"mse"``, the
        squared error of the mean action, for Box actions
    :param ent_weight: weight of the policy's entropy, which is made larger (imitation: 1e-3)
    :param l2_weight: weight of half the sum of squared parameters
    :param kwargs: ``policy_kwargs``, ``seed``, ``device`` and so on, as in SB3
    """

    family = "BC"
    supported_actions: ClassVar[tuple[type[Any], ...]] = (
        *(spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary),
    )

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: Any = None,
        *,
        batch_size: int = 32,
        loss: str = "nll",
        ent_weight: float = 1e-3,
        l2_weight: float = 0.0,
        **kwargs: Any,
    ) -> None:
        compat.require()
        require_known(type(self), kwargs, where=type(self).__name__)
        self.loss = loss
        self.ent_weight, self.l2_weight = ent_weight, l2_weight
        super().__init__(policy, env, batch_size=batch_size, **kwargs)

    def _setup_model(self) -> None:
        from imitation.algorithms.bc import BehaviorCloningLossCalculator

        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")
        if self.loss == "mse" and not isinstance(getattr(self, "action_space", None), spaces.Box):
            raise ValueError(
                f"loss='mse' compares Box actions, and these are {self.action_space}: take 'nll'"
            )
        for name in ("ent_weight", "l2_weight"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
                raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
        self.loss_calculator = BehaviorCloningLossCalculator(self.ent_weight, self.l2_weight)
        super()._setup_model()

    def make_policy(self) -> ActorCriticPolicy:
        """imitation's, but for what ``policy_kwargs`` says."""
        chosen = self.policy_kwargs
        self.policy_kwargs = {"net_arch": _NET_ARCH, **chosen}
        if "optimizer_class" not in chosen:
            self.policy_kwargs.setdefault("optimizer_kwargs", dict(_ADAM))
        try:
            return super().make_policy()
        finally:
            self.policy_kwargs = chosen

    def update(self, observations: Any, actions: Tensor) -> dict[str, float]:
        """One gradient step of imitation's loss, or of the squared error."""
        with warnings.catch_warnings():  # imitation warns of what it hands over itself
            if isinstance(observations, dict):
                warnings.filterwarnings("ignore", message="trying to unwrap object")
            told = self.loss_calculator(self.policy, observations, actions)
        loss = told.loss
        if self.loss == "mse":
            gaussian: Any = self.policy.get_distribution(observations).distribution
            mean = gaussian.mean
            loss = mean_squared_error(mean, actions) + told.l2_loss
        descend(loss, self.policy.optimizer)
        metrics = {
            "loss": loss,
            "neglogp": told.neglogp,
            "entropy": told.entropy,
            "prob_true_act": told.prob_true_act,
            "l2_norm": told.l2_norm,
        }
        return {name: value.item() for name, value in metrics.items() if th.is_tensor(value)}

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "loss_calculator"]
