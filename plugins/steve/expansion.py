"""What MVE, STEVE and STEVESAC share: an expanded target in front of an SB3 base."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NoReturn, Unpack
from zlib import crc32

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy, ContinuousCritic
from stable_baselines3.common.preprocessing import is_image_space
from torch import Tensor

from sb3_ext.algorithms.arguments import BaseArguments
from sb3_ext.algorithms.critics import SeveralCritics
from sb3_ext.ensembles import member_batches
from sb3_ext.errors import NonFiniteError
from sb3_ext.inference import run
from sb3_ext.options import (
    INTEGER,
    NON_NEGATIVE,
    POSITIVE,
    Law,
    is_integer,
    is_number,
    maybe,
    one_of,
)
from sb3_ext.plugins.steve.equations import expanded_values, inverse_variance_weights, moments
from sb3_ext.plugins.steve.learner import ModelOptions, WorldLearner, flat
from sb3_ext.td import td_errors, td_target
from sb3_ext.updates import Batch, Step


def _is_count(value: Any) -> bool:
    return is_integer(value) or (isinstance(value, (int, np.integer)) and value == 0)


def _unseeded() -> int:
    """A seed by where torch's generator stands, which it does not move: SB3's draws stay as is."""
    return crc32(th.get_rng_state().numpy().tobytes())


_LAWS: dict[str, Law] = {
    "horizon": (_is_count, "an integer >= 0 (0 imagines nothing, and is the base's own target)"),
    "n_models": INTEGER,
    "n_rewards": INTEGER,
    "n_critics": INTEGER,
    "horizon_weights": one_of("inverse_variance", "uniform", "last"),
    "critic_reduction": one_of("mean", "min"),
    "critic_subsets": one_of(True, False),
    "model_net_arch": (
        lambda v: isinstance(v, (list, tuple)) and len(v) > 0 and all(map(is_integer, v)),
        "a list of widths, such as (256, 256)",
    ),
    "model_learning_rate": POSITIVE,
    "model_batch_size": maybe(INTEGER),
    "model_updates": INTEGER,
    "model_pretraining": maybe((_is_count, "an integer >= 0")),
    "model_weight_decay": NON_NEGATIVE,
    "model_holdout": (
        lambda v: is_number(v) and bool(v == 0 or 0.01 <= v <= 0.5),
        "0, or in [0.01, 0.5]",
    ),
}
_SAVED = "the networks are those that were saved; make a new model"
#: What ``load`` cannot change any more, and why.
_BUILT_IN = {
    **dict.fromkeys(("n_models", "n_rewards", "n_critics", "model_net_arch"), _SAVED),
    "base": "it only chooses defaults; give policy_delay= and target_policy_noise=",
}


class WorldArguments(BaseArguments, total=False):
    """What MVE passes on, for editors and type checkers; see :class:`ModelBased`."""

    horizon: int
    model_net_arch: tuple[int, ...]
    model_learning_rate: float
    model_batch_size: int | None
    model_updates: int
    model_pretraining: int | None
    model_weight_decay: float
    model_holdout: float


class ExpansionArguments(WorldArguments, total=False):
    """What STEVE passes on."""

    n_models: int
    n_rewards: int
    n_critics: int
    horizon_weights: str
    critic_reduction: str
    critic_subsets: bool


class ModelBased(SeveralCritics):
    """A base whose target looks ahead in a world model that is trained beside it.

    :param policy: ``"MlpPolicy"``, or a class of the base's policies
    :param env: observations are vectors (Box)
    :param horizon: imagined steps H; 0 is the base's own target
    :param n_models: models of the dynamics and of ends
    :param n_rewards: models of the reward
    :param n_critics: critics
    :param horizon_weights: how the horizons 0 to H make a target: by ``"inverse_variance"`` over
        the candidates (STEVE), ``"uniform"``, or the ``"last"`` alone (MVE)
    :param critic_reduction: what critics are worth together: their ``"mean"``, as in the paper, or
        their ``"min"``, as in TD3 and SAC
    :param critic_subsets: whether each critic learns from its own part of a batch, as in the paper
    :param model_net_arch: widths of the world model's hidden layers
    :param model_learning_rate: of the world model (Adam)
    :param model_batch_size: transitions of its update; None is the agent's ``batch_size``
    :param model_updates: its updates a gradient step
    :param model_pretraining: its updates before the first gradient step; None is one for each
        transition in the buffer then, at most 10,000
    :param model_weight_decay: of its parameters
    :param model_holdout: share of the buffer that it does not train on; its errors there are logged
    :param kwargs: the base's arguments
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]]
    world: WorldLearner

    def __init__(
        self,
        policy: Any,
        env: Any,
        *args: Any,
        horizon: int = 3,
        n_models: int = 4,
        n_rewards: int = 4,
        n_critics: int = 4,
        horizon_weights: str = "inverse_variance",
        critic_reduction: str = "mean",
        critic_subsets: bool = True,
        model_net_arch: tuple[int, ...] = (256, 256),
        model_learning_rate: float = 1e-3,
        model_batch_size: int | None = None,
        model_updates: int = 1,
        model_pretraining: int | None = None,
        model_weight_decay: float = 1e-4,
        model_holdout: float = 0.1,
        **kwargs: Unpack[BaseArguments],
    ) -> None:
        self.horizon = horizon
        self.n_models, self.n_rewards, self.n_critics = n_models, n_rewards, n_critics
        self.horizon_weights = horizon_weights
        self.critic_reduction, self.critic_subsets = critic_reduction, critic_subsets
        self.model_net_arch = model_net_arch
        self.model_learning_rate = model_learning_rate
        self.model_batch_size = model_batch_size
        self.model_updates, self.model_pretraining = model_updates, model_pretraining
        self.model_weight_decay, self.model_holdout = model_weight_decay, model_holdout
        self._require_options()
        given = dict(kwargs.get("policy_kwargs") or {})
        if "n_critics" in given:
            raise TypeError(f"policy_kwargs has n_critics: give it to {type(self).__name__} itself")
        self._figures: dict[str, list[Tensor]] = {}
        kwargs["policy_kwargs"] = {**given, "n_critics": n_critics}
        super().__init__(policy, env, *args, **kwargs)

    @classmethod
    def check_arguments(cls, given: Mapping[str, Any], where: str, saved: Iterable[str]) -> None:
        """What ``load`` cannot change is refused, too; a zip of SB3's has no world model yet."""
        super().check_arguments(given, where, saved)
        known = set(saved)
        for name in _BUILT_IN if known else ():
            if name in given and (name in known or name in ("n_critics", "base")):
                raise TypeError(f"{where} cannot change {name}: {_BUILT_IN[name]}")

    def model_options(self, batch_size: int) -> ModelOptions:
        """How the world model is trained, from the model's plain attributes."""
        return ModelOptions(
            self.model_batch_size or batch_size,
            self.model_updates,
            self.model_pretraining,
            self.horizon,
            self.model_learning_rate,
            self.model_weight_decay,
            self.model_holdout,
        )

    def _require_options(self) -> None:
        for name, (holds, words) in _LAWS.items():
            if not holds(value := getattr(self, name)):
                raise ValueError(f"{name} must be {words}, got {value!r}")
        several = self.n_models * self.n_rewards > self.n_critics == 1
        if several and self.horizon and self.horizon_weights == "inverse_variance":
            raise ValueError(
                "n_critics must be at least 2 with horizon_weights='inverse_variance' and several "
                "models, got 1: without imagined steps nothing could vary, so horizon 0 would take "
                "all the weight; or take horizon_weights='uniform' or 'last'"
            )

        if self.horizon and getattr(self, "optimize_memory_usage", False):
            raise ValueError(
                "optimize_memory_usage=True keeps no observation in which an episode ended, so the "
                "world model would learn that ends lead to beginnings: leave it out, or take "
                "horizon=0"
            )

    def _get_policy_from_name(self, policy_name: str) -> Any:
        if policy_name in ("CnnPolicy", "MultiInputPolicy"):
            self._refuse_observations(policy_name)
        return super()._get_policy_from_name(policy_name)

    @classmethod
    def require_observations(cls, space: spaces.Space[Any]) -> None:
        """Vectors only."""
        if not isinstance(space, spaces.Box) or is_image_space(space):
            images = isinstance(space, spaces.Box)
            cls._refuse_observations("images" if images else type(space).__name__)

    @classmethod
    def _refuse_observations(cls, what: str) -> NoReturn:
        raise ValueError(
            f"{cls.__name__} learns a model of observations that are vectors (Box), got {what}: "
            "flatten them (gymnasium.wrappers.FlattenObservation) and take 'MlpPolicy', or take a "
            "base without a model"
        )

    def _setup_model(self) -> None:
        self._require_options()
        self.require_observations(self.observation_space)  # of a zip, without an environment
        # A zip of stock SB3 that warm-starts this one has its own number of critics.
        self.n_critics = self.policy_kwargs.get("n_critics", 2)
        super()._setup_model()
        self.world = WorldLearner(
            int(np.prod(self.observation_space.shape or ())),
            int(np.prod(self.action_space.shape or ())),
            self.device,
            _unseeded() if self.seed is None else self.seed,
            self.n_models,
            self.n_rewards,
            self.model_net_arch,
        )

    # -- the loop ----------------------------------------------------------------------------

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """As in the base; the world model's figures are logged beside its own."""
        self._require_options()  # a callback may have changed them
        self._figures = {}
        super().train(gradient_steps, batch_size)
        for name, figures in self._figures.items():
            self.logger.record(name, th.stack(figures).mean().item())
        for name, figure in self.world.metrics().items() if self.horizon else ():
            self.logger.record(name, figure)

    def gradient_step(self, batch: Batch, weights: Tensor) -> Step:
        """The world model's updates, and the base's step with the expanded target."""
        if self.horizon:
            options = self.model_options(len(batch.rewards))
            self.world.learn(self.replay_view, options, self.num_timesteps)
        return super().gradient_step(batch, weights)  # type: ignore[safe-super]

    def critic_errors(self, batch: Batch, target: Tensor) -> Tensor:
        """As in the base, or each sample's error by the one critic that learns from it.

        :return: ``[n_critics, B, 1]``, or ``[1, B, 1]``
        """
        if not self.critic_subsets:
            return super().critic_errors(batch, target)
        critic, n = self.critic, len(target)
        mine, counts = member_batches(n, self.n_critics, self.world.generator)
        parts = [rows[own.bool()] for rows, own in zip(mine, counts, strict=True)]
        back = th.cat(parts).argsort().to(target.device)
        if type(critic) is not ContinuousCritic:  # somebody's own: it is asked as a whole
            whose = th.cat([th.full_like(one, k) for k, one in enumerate(parts)]).to(target.device)
            return super().critic_errors(batch, target).gather(0, whose[back].view(1, n, 1))
        with th.set_grad_enabled(not critic.share_features_extractor):  # as in its forward
            seen: Any = batch.observations
            features = critic.extract_features(seen, critic.features_extractor)
        inputs = th.cat([features, batch.actions], dim=1)
        values = [
            network(inputs[rows]) for network, rows in zip(critic.q_networks, parts, strict=True)
        ]
        return td_errors((th.cat(values)[back],), target)

    def together(self, q_values: tuple[Tensor, ...]) -> Tensor:
        """By the mean over critics, or by the least of them as in the base."""
        if self.critic_reduction == "mean":
            return th.cat(q_values, dim=1).mean(dim=1, keepdim=True)
        return super().together(q_values)

    # -- the target --------------------------------------------------------------------------

    def bellman_target(self, batch: Batch) -> Tensor:
        """The horizons' means, weighed against each other, ``[B, 1]``; without gradient."""
        if self.horizon == 0:
            return super().bellman_target(batch)
        with th.no_grad():
            candidates, together = self.candidates(batch)
            means, variances = moments(candidates)
            if self.critic_reduction == "min":
                means, _ = moments(together)
            weights = self._weigh(variances)
            target = (weights * means).sum(dim=0)
        if not th.isfinite(target).all():
            largest = batch.rewards.abs().max().item()
            cause = "what the world model imagines has diverged"
            cure = "a shorter horizon, a lower model_learning_rate or more model_pretraining"
            if not th.isfinite(means[0]).all():
                cause, cure = "the critics have diverged", "a lower learning_rate or gamma"
            raise NonFiniteError(
                f"the expanded target is not finite at step {self.num_timesteps}, gradient step "
                f"{self._n_updates}: {cause} (the largest reward of the batch is {largest:g}). "
                f"Files saved so far are as they were: go on from one with {cure}"
            )
        self._note(weights, variances)
        return target.unsqueeze(1)

    def candidates(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Targets by every choice of models, reward models and critics, 0 to H steps ahead.

        :return: ``[H + 1, M, N, L, B]``, and the same with all critics together,
            ``[H + 1, M, N, 1, B]``
        """
        shape = self.observation_space.shape or ()

        def acting(states: Tensor) -> tuple[Tensor, Tensor]:
            actions, bonus = self.next_actions(states.view(-1, *shape))
            return actions, bonus.squeeze(1)

        seen = flat(batch.next_observations)
        imagined = self.world.network.rollout(seen, acting, self.horizon)
        # The real state is the same for all models, so it is asked about once.
        states = th.cat([seen, imagined.observations[1:].flatten(0, 2)]).view(-1, *shape)
        actions = th.cat([imagined.actions[0, 0], imagined.actions[1:].flatten(0, 2)])
        asked = self._asked(states, actions)
        q_values = th.stack([*asked, self.together(asked)]).squeeze(-1)  # [L + 1, rows]
        here = q_values[:, : len(seen)].unsqueeze(1).expand(-1, self.n_models, -1)
        ahead = q_values[:, len(seen) :].unflatten(1, (self.horizon, self.n_models, -1))
        by_horizon = th.cat([here.unsqueeze(1), ahead], dim=1).transpose(0, 1)
        discounts = self.gamma if batch.discounts is None else batch.discounts.squeeze(1)
        rewards, dones = batch.rewards.squeeze(1), batch.dones.squeeze(1)

        def targets(values: Tensor) -> Tensor:
            expanded = expanded_values(
                imagined.rewards, imagined.continues, values, self.gamma, imagined.bonus
            )
            return td_target(rewards, dones, discounts, expanded)

        return targets(by_horizon[:, :-1]), targets(by_horizon[:, -1:])

    def _asked(self, states: Tensor, actions: Tensor) -> tuple[Tensor, ...]:
        """``critic_target(states, actions)``, the faster way where it is SB3's own."""
        critic = self.critic_target
        if type(critic) is not ContinuousCritic:
            found: tuple[Tensor, ...] = critic(states, actions)
            return found
        rows = th.cat([critic.extract_features(states, critic.features_extractor), actions], dim=1)
        return tuple(run(network, rows) for network in critic.q_networks)

    def _weigh(self, variances: Tensor) -> Tensor:
        """``[H + 1, B]``, with sum 1 over horizons."""
        chosen = self.horizon_weights
        if self.n_models * self.n_rewards * self.n_critics == 1:
            chosen = "last"  # one candidate has no variance to weigh by: that is MVE
        if chosen == "inverse_variance":
            return inverse_variance_weights(variances)
        weights = th.full_like(variances, 1 / len(variances))
        if chosen == "last":
            weights.zero_()[-1] = 1
        return weights

    def _note(self, weights: Tensor, variances: Tensor) -> None:
        figures = {"model_use": 1 - weights[0].mean()}
        for step, (weight, variance) in enumerate(zip(weights, variances, strict=True)):
            figures |= {f"weight_h{step}": weight.mean(), f"variance_h{step}": variance.mean()}
        for name, figure in figures.items():
            self._figures.setdefault(f"steve/{name}", []).append(figure)

    # -- saving ------------------------------------------------------------------------------

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_figures"]

    def living_parts(self) -> dict[str, Any]:
        """The world model beside the base's parts."""
        world = getattr(self, "world", None)
        return super().living_parts() | ({} if world is None else {"world": world})
