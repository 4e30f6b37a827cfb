"""What all our bases share: the doors for replay, weighting and loss, and the loop."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from torch import Tensor

from sb3_ext.algorithms.inputs import (
    build_part,
    check_env,
    check_step,
    check_transition,
    plain_config,
    resolve_config,
)
from sb3_ext.algorithms.saving import Saving
from sb3_ext.engines.choice import Engine
from sb3_ext.engines.products import Products
from sb3_ext.losses import CriticLoss, plain_loss, resolve_loss
from sb3_ext.options import INTEGER, between
from sb3_ext.replay.sampler import SamplerConfig
from sb3_ext.updates import Batch, Clock, Step, run_updates
from sb3_ext.weighting import Weighting, WeightingConfig

if TYPE_CHECKING:
    from sb3_ext.engines.actor_critic import FusedStep

#: What SB3 takes without a word, and then learns nothing or nonsense with.
_LAWS = {
    "batch_size": INTEGER,
    "n_steps": INTEGER,
    "gamma": between(0, 1),
    "tau": between(0, 1),
}


class Composable(Saving):
    """An SB3 off-policy algorithm whose gradient step, sampler and weighting are three things.

    A base inherits from this class and from SB3's, and writes ``gradient_step`` and
    ``bellman_target``. All arguments that are not listed here are SB3's.

    :param policy: as in SB3
    :param env: as in SB3
    :param replay: which transitions to learn from: a sampler's config, its registered name, or a
        mapping ``{"name": ..., **options}``; None is SB3's uniform replay
    :param weighting: how much to believe each of them: likewise; None believes all alike
    :param critic_loss: how the critic's errors become a loss: ``"huber"``, ``"pal"``, a mapping
        with options, or a function; None is the base's own, or the one that belongs to a sampler
    :param engine: how a gradient step is computed. ``"reference"`` equals SB3 to the bit;
        ``"fused"`` is faster and equal up to float32's rounding, for ReLU networks on plain
        features with Adam; ``"auto"`` is that where it fits, on a CPU; ``"fused_bf16"`` multiplies
        in bfloat16, which is another result; ``"compiled"`` is ``"fused"`` by torch.compile, which
        takes seconds at first and was slower on CPUs (docs/performance.md)
    """

    critic: Any
    clock: Clock

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *args: Any,
        replay: SamplerConfig | Mapping[str, Any] | str | None = None,
        weighting: WeightingConfig | Mapping[str, Any] | str | None = None,
        critic_loss: CriticLoss | Mapping[str, Any] | str | None = None,
        engine: str = "auto",
        **kwargs: Any,
    ) -> None:
        given = {**kwargs, "replay": replay, "weighting": weighting, "engine": engine}
        given["critic_loss"] = critic_loss
        self.check_arguments(given, type(self).__name__, saved=())
        self.engine = engine
        # Resolved now and not in _setup_model, so that a wrong name fails before the environment
        # is made; kept as plain values, so that `load(path, weighting=...)` and JSON work.
        self.replay = plain_config(resolve_config("sampler", replay))
        self.weighting = plain_config(resolve_config("weighting", weighting))
        self.critic_loss = plain_loss(resolve_loss(critic_loss))
        self.loss_function: CriticLoss | None = None
        self.weigher = None
        self.sampler = None
        self.told = None
        self.clock = Clock(0, 1, 1.0)
        self.chosen_engine: Engine | None = None
        self.saved_by = type(self).__name__
        self.weigher_class: str | None = None
        made: Any = check_env(env, type(self), int(kwargs.get("verbose", 0)))
        if kwargs.get("policy_kwargs") is not None:  # SB3 writes into it, and it is the user's
            kwargs["policy_kwargs"] = dict(kwargs["policy_kwargs"])
        super().__init__(policy, made, *args, **kwargs)

    # -- what a base writes ------------------------------------------------------------------

    @abstractmethod
    def gradient_step(self, batch: Batch, weights: Tensor) -> Step:
        """One step of the paper's inner loop, in the paper's order.

        :param batch: SB3's batch of B transitions
        :param weights: ``[B, 1]``, for the critic's loss only
        """

    @abstractmethod
    def bellman_target(self, batch: Batch) -> Tensor:
        """The target of the critic, without gradient; what a variant replaces.

        :return: ``[B, 1]``, of a distributional critic ``[B, n_target_quantiles]``
        """

    @abstractmethod
    def optimizers(self) -> list[th.optim.Optimizer]:
        """The optimisers that follow ``learning_rate``; never a weighting's."""

    def critic_error(self, errors: Tensor, weights: Tensor) -> Tensor:
        """The critic's loss, a scalar; what a variant with another loss replaces.

        TQC and QR-DQN do not ask here: their loss pairs quantiles and has no one error a sample.

        :param errors: ``[n_critics, B, 1]``, estimate minus target
        :param weights: ``[B, 1]``
        """
        raise NotImplementedError(
            f"{type(self).__name__} must say in critic_error how errors become a loss, for example "
            "by sb3_ext.td.weighted_squared_error(errors, weights)"
        )

    def weighted_error(self, errors: Tensor, weights: Tensor) -> Tensor:
        """The loss that the critic descends: the one that was chosen, or the base's own.

        :param errors: ``[n_critics, B, 1]``, estimate minus target
        :param weights: ``[B, 1]``
        """
        if self.loss_function is None:
            return self.critic_error(errors, weights)
        return self.loss_function(errors, weights)

    @property
    def value_network(self) -> Any:
        """The network that the weighted loss trains: the critic, or what stands for it.

        Its ``extract_features(observations, features_extractor)`` gives a state's features.
        """
        return self.critic

    @property
    def value_optimizer(self) -> th.optim.Optimizer:
        """Its optimiser."""
        optimizer: th.optim.Optimizer = self.critic.optimizer
        return optimizer

    # -- the loop ----------------------------------------------------------------------------

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Do ``gradient_steps`` gradient steps; called by ``learn``."""
        self.tell_sampler()
        run_updates(self, gradient_steps, batch_size)

    def fused_step(self, products: Products) -> FusedStep | None:
        """The same gradient step by the fast engine; None where a base has none.

        :param products: how it multiplies matrices
        :raises EngineError: if it has one that does not fit this model
        """
        return None

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles get: an engine is bound to this model's tensors, so a new one."""
        return {**self.__dict__, "chosen_engine": None}

    def stepper(self) -> Composable | FusedStep:
        """Whose ``gradient_step`` it is: the chosen engine's, or the base's own."""
        if self.chosen_engine is None or self.chosen_engine.asked != self.engine:
            self.chosen_engine = Engine(self)
        return self.chosen_engine.ready() or self

    # -- set-up ------------------------------------------------------------------------------

    def choose_loss(self, sampler: SamplerConfig | None) -> CriticLoss | None:
        """The critic's loss: what the user chose, or what the sampler is defined with.

        :return: None for the base's own
        """
        if not self.takes_critic_loss:
            return None  # what a sampler would have, a distributional loss has in its own way
        asked = self.critic_loss
        return resolve_loss(getattr(sampler, "critic_loss", None) if asked is None else asked)

    def weighting_config(self) -> WeightingConfig | None:
        """The weighting's config, from the model's plain attributes."""
        config: WeightingConfig | None = resolve_config("weighting", self.weighting)
        return config

    def keep_weighting_config(self, config: WeightingConfig) -> None:
        """Make the plain attributes say what the config says."""
        self.weighting = plain_config(config)

    def _setup_model(self) -> None:
        for name, (holds, words) in _LAWS.items():
            if hasattr(self, name) and not holds(value := getattr(self, name)):
                raise ValueError(f"{name} must be {words}, got {value!r}")
        self.prepare_buffer()
        # SB3 writes its choice over the user's, who may load the model with other n_steps.
        chosen = self.replay_buffer_class, self.replay_buffer_kwargs
        self.replay_buffer_kwargs = dict(chosen[1])
        with warnings.catch_warnings():  # SB3 thinks that it would not be heeded
            warnings.filterwarnings("ignore", message="`n_steps=.* is ignored")
            super()._setup_model()
        self.replay_buffer_class, self.replay_buffer_kwargs = chosen
        self.chosen_engine = Engine(self)
        self.loss_function = self.choose_loss(self.sampler_config())
        self.make_sampler()
        weighting = self.weighting_config()
        self.weigher = build_part(weighting, Weighting, self)
        fitted = None if self.weigher is None else self.weigher.fitted()
        if fitted is not None:
            self.keep_weighting_config(fitted)
        self.saved_by = type(self).__name__
        self.weigher_class = None if self.weigher is None else type(self.weigher).__name__

    def _setup_learn(self, total_timesteps: int, *args: Any, **kwargs: Any) -> tuple[int, Any]:
        if self.env is None:
            raise ValueError(
                f"this {type(self).__name__} has no environment to learn in: pass env= to load, or "
                "call set_env first"
            )
        self.tell_sampler()
        before = self._last_obs
        total, callback = super()._setup_learn(total_timesteps, *args, **kwargs)
        if self.sampler is not None and self._last_obs is not before:
            self.sampler.episodes_begin()
        if self.sampler is not None:
            self.sampler.training_starts(self.replay_view.window, total - self.num_timesteps)
        check_transition(self._last_obs, None, self.num_timesteps)
        if self.weigher is not None:
            self.weigher.training_starts(self.replay_view, total - self.num_timesteps)
        return total, callback

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """As in SB3; the TensorBoard run is named after the class unless told otherwise."""
        return super().learn(
            total_timesteps,
            callback=callback,
            log_interval=log_interval,
            tb_log_name=type(self).__name__ if tb_log_name is None else tb_log_name,
            reset_num_timesteps=reset_num_timesteps,
            progress_bar=progress_bar,
        )

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: np.ndarray | dict[str, np.ndarray],
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        check_step(self, new_obs, reward, infos, np.asarray(buffer_action))
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)
        self.tell_sampler()
