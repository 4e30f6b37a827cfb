"""What all our bases share: the ``replay=`` and ``weighting=`` doors, saving, and bad input."""

from __future__ import annotations

import io
import pathlib
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer
from torch import Tensor

from sb3_ext import registry
from sb3_ext.algorithms import checkpoints
from sb3_ext.algorithms.inputs import check_env, check_transition, resolve_config
from sb3_ext.replay.sampler import Sampler, SamplerConfig
from sb3_ext.replay.storage import Replay
from sb3_ext.signatures import own_arguments, require_known
from sb3_ext.updates import Batch, Clock, Step, run_updates
from sb3_ext.weighting import Weighting, WeightingConfig


class Composable(OffPolicyAlgorithm):
    """An SB3 off-policy algorithm whose gradient step, sampler and weighting are three things.

    A base inherits from this class and from SB3's, and writes ``gradient_step`` and
    ``bellman_target``. All arguments that are not listed here are SB3's.

    :param policy: as in SB3
    :param env: as in SB3
    :param replay: which transitions to learn from: a sampler's config, its registered name, or a
        mapping ``{"name": ..., **options}``; None is SB3's uniform replay
    :param weighting: how much to believe each of them: likewise; None believes all alike
    :param engine: how a gradient step is computed; ``"reference"`` equals SB3 to the bit
    """

    #: Name of the SB3 algorithm whose checkpoints warm-start this base.
    family: ClassVar[str]
    #: Kinds of action spaces that the base can act in.
    supported_actions: ClassVar[tuple[type[spaces.Space[Any]], ...]] = (spaces.Box,)

    critic: Any
    weigher: Weighting | None
    sampler: Sampler | None
    clock: Clock

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *args: Any,
        replay: SamplerConfig | Mapping[str, Any] | str | None = None,
        weighting: WeightingConfig | Mapping[str, Any] | str | None = None,
        engine: str = "reference",
        **kwargs: Any,
    ) -> None:
        given = {**kwargs, "replay": replay, "weighting": weighting, "engine": engine}
        self.check_arguments(given, type(self).__name__, saved=())
        self.engine = engine
        # Resolved now and not in _setup_model, so that a wrong name fails before the environment
        # is made; kept as plain values, so that `load(path, weighting=...)` and JSON work.
        self.replay = _plain(resolve_config("sampler", replay))
        self.weighting = _plain(resolve_config("weighting", weighting))
        self.weigher = None
        self.sampler = None
        self.clock = Clock(0, 1, 1.0)
        self.saved_by = type(self).__name__
        self.weigher_class: str | None = None
        made: Any = check_env(env, type(self), int(kwargs.get("verbose", 0)))
        super().__init__(policy, made, *args, **kwargs)

    @classmethod
    def check_arguments(cls, given: Mapping[str, Any], where: str, saved: Iterable[str]) -> None:
        """Refuse what is misspelt or contradicts itself, in the constructor and in ``load``.

        :param given: arguments by name
        :param where: who got them, for the error
        :param saved: names that a saved model knows beside the constructor's
        """
        require_known(cls, given, where=where, also=saved)
        if given.get("engine", "reference") != "reference":
            raise ValueError(
                f"engine must be 'reference', the only one so far, got {given['engine']!r}"
            )
        if given.get("replay") is not None and given.get("replay_buffer_class") is not None:
            raise ValueError(
                f"{where} got both replay= and replay_buffer_class=, which say in two ways how "
                "transitions are drawn; give one of them"
            )

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
        run_updates(self, gradient_steps, batch_size)

    @property
    def replay_view(self) -> Replay:
        """The replay buffer as the loop, the sampler and the weighting see it."""
        if self.replay_buffer is None:
            raise ValueError(f"{type(self).__name__} has no replay buffer yet: set it up first")
        return Replay(self.replay_buffer, self._vec_normalize_env, self.sampler)

    # -- set-up ------------------------------------------------------------------------------

    def sampler_config(self) -> SamplerConfig | None:
        """The sampler's config, from the model's plain attributes."""
        config: SamplerConfig | None = resolve_config("sampler", self.replay)
        return config

    def weighting_config(self) -> WeightingConfig | None:
        """The weighting's config, from the model's plain attributes."""
        config: WeightingConfig | None = resolve_config("weighting", self.weighting)
        return config

    def keep_weighting_config(self, config: WeightingConfig) -> None:
        """Make the plain attributes say what the config says."""
        self.weighting = _plain(config)

    def _setup_model(self) -> None:
        super()._setup_model()
        sampler, weighting = self.sampler_config(), self.weighting_config()
        if (sampler or weighting) and isinstance(self.replay_buffer, HerReplayBuffer):
            raise ValueError(
                "HerReplayBuffer relabels goals while it samples, so which transitions are newest "
                "and what they weigh is not known before; replay= and weighting= do not combine "
                f"with it. Drop HerReplayBuffer or use {self.family} without them"
            )
        self.sampler = _built(sampler, Sampler, self)
        self.weigher = _built(weighting, Weighting, self)
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
        total, callback = super()._setup_learn(total_timesteps, *args, **kwargs)
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
        vec_normalize = self._vec_normalize_env
        if vec_normalize is None:
            check_transition(
                new_obs, reward, self.num_timesteps, infos, actions=np.asarray(buffer_action)
            )
        else:
            # Normalised, a bad number of one environment has spread to all of them.
            check_transition(
                vec_normalize.get_original_obs(),
                vec_normalize.get_original_reward(),
                self.num_timesteps,
                infos,
                normalized=True,
                actions=np.asarray(buffer_action),
            )
        row = replay_buffer.pos
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)
        if self.sampler is not None:
            self.sampler.added(row * replay_buffer.n_envs + np.arange(replay_buffer.n_envs))

    # -- save and load -----------------------------------------------------------------------

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "weigher", "sampler", "clock"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, tensors = super()._get_torch_save_params()
        return ([*names, "weigher"] if self.weigher is not None else names), tensors

    def set_parameters(
        self,
        load_path_or_dict: Any,
        exact_match: bool = True,
        device: th.device | str = "auto",
    ) -> None:
        """As in SB3; a weighting's networks and optimiser are under the name ``weigher``."""
        if isinstance(load_path_or_dict, dict):
            load_path_or_dict = checkpoints.adapt_parameters(self, load_path_or_dict)
        super().set_parameters(load_path_or_dict, exact_match, device)

    @classmethod
    def load(
        cls,
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | str | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Load a model; keyword arguments override what was saved (``temperature=9``).

        A zip of stock SB3's class of the same family warm-starts this one: what the zip does not
        hold, such as a ratio network, starts fresh.

        :raises CheckpointError: if the file is damaged or was saved by another class
        :raises TypeError: if a keyword is no argument of the class
        """
        summary = checkpoints.inspect(path)
        checkpoints.require_compatible(cls, summary, str(path))
        cls.check_arguments(kwargs, f"{cls.__name__}.load", saved=summary.attributes)
        made: Any = check_env(env, cls)
        kwargs = cls.inherit_weighting(summary.weighting, kwargs)
        if "replay" in kwargs:
            kwargs["replay"] = _plain(resolve_config("sampler", kwargs["replay"]))
        if "weighting" in kwargs:
            kwargs["weighting"] = _plain(resolve_config("weighting", kwargs["weighting"]))
        with checkpoints.adapting(cls, summary, kwargs):
            return super().load(
                path, made, device, custom_objects, print_system_info, force_reset, **kwargs
            )

    @classmethod
    def inherit_weighting(
        cls, saved: Mapping[str, Any] | None, overrides: dict[str, Any]
    ) -> dict[str, Any]:
        """What ``load`` overrides, seeing the registered weighting that a zip was saved with."""
        return overrides

    def load_replay_buffer(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        truncate_last_traj: bool = True,
    ) -> None:
        """As in SB3; a buffer of other shapes is refused, and a sampler is told what it holds."""
        before = self.replay_buffer
        super().load_replay_buffer(path, truncate_last_traj)
        loaded = self.replay_buffer
        if before is not None and loaded is not None and loaded.n_envs != before.n_envs:
            self.replay_buffer = before
            raise ValueError(
                f"{getattr(path, 'name', path)} holds transitions of {loaded.n_envs} environments, "
                f"and this model has {before.n_envs}: load the model with an env of "
                f"{loaded.n_envs} environments"
            )
        if self.sampler is not None:
            self.sampler.added(self.replay_view.window.indices())

    def save_for_sb3(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """Save a zip that stock SB3 loads, without anything of ours.

        ``stable_baselines3.SAC.load(path)`` then needs no sb3-ext. A ratio network and the like
        are not in the file; use ``save`` to keep them.

        :param path: as for ``save``
        """
        weigher, self.weigher = self.weigher, None  # no longer among the torch parameters
        try:
            self.save(path, exclude=sorted(self.own_attributes()))
        finally:
            self.weigher = weigher

    def own_attributes(self) -> set[str]:
        """Names of the plain attributes that stock SB3 does not know."""
        return {one.name for one in own_arguments(type(self))} | {"saved_by", "weigher_class"}


def _plain(config: Any) -> Any:
    """A registered config as ``{"name": ..., **options}``; anything else as it is."""
    spec = registry.spec_of(type(config)) if is_dataclass(config) else None
    return config if spec is None else {"name": spec.name, **asdict(config)}


def _built(config: Any, kind: type, algorithm: Composable) -> Any:
    """The living part of a config, or None."""
    if config is None:
        return None
    part = config.build(algorithm)
    if kind not in type(part).__mro__:
        raise TypeError(
            f"{type(config).__name__}.build must return an object whose class inherits from "
            f"sb3_ext.{kind.__name__}, got {type(part).__name__}"
        )
    return part
