"""Algorithms that fit one of SB3's actor-critic policies to demonstrations, by gradient steps."""

from __future__ import annotations

import pathlib
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import torch as th
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BasePolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from torch import Tensor

from sb3_ext.algorithms.loading import CheckedLoading
from sb3_ext.offline.dataset import OfflineDataset
from sb3_ext.offline.demonstrations import Demonstrations, Minibatches, resolve_demonstrations
from sb3_ext.offline.spaces import FLAT
from sb3_ext.offline.spaces_only import spaces_only_env
from sb3_ext.offline.stepping import GradientSteps
from sb3_ext.updates import step_all_tensors_at_once


class FromDemonstrations(GradientSteps, CheckedLoading):
    """The base of what imitates: write :meth:`update`, and the rest is SB3's API::

        class Clone(FromDemonstrations):
            def update(self, observations, actions):
                _, log_prob, _ = self.policy.evaluate_actions(observations, actions)
                loss = -log_prob.mean()
                descend(loss, self.policy.optimizer)
                return {"loss": loss.item()}

        model = Clone("MlpPolicy", demonstrations=from_policy(expert, env, n_episodes=10))
        model.learn(10_000, callback=EvalCallback(env))      # gradient steps

    Minibatches come from an endless stream: all samples in some order, then in another. Where it
    stands is saved, so that after ``save`` and ``load`` with the same data training goes on to the
    bit as if it had not stopped.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"`` or ``"MultiInputPolicy"``
    :param env: only its spaces are used; None takes the data's. For an agent's returns, give
        ``EvalCallback`` an environment of its own. A ``VecNormalize(env, training=False)``
        normalises what is learned from, with the statistics it has
    :param demonstrations: what to learn from: a dataset, its file (see
        :func:`~sb3_ext.offline.load_dataset`), a replay buffer of SB3's, or a list of trajectories
        with ``obs`` and ``acts``, as the package `imitation` has them. They are not saved with the
        model: give them to ``load``, or to :meth:`set_demonstrations`
    :param learning_rate: as in SB3
    :param batch_size: samples of a gradient step
    :param policy_kwargs: as in SB3; so are the other arguments
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": ActorCriticPolicy,
        "CnnPolicy": ActorCriticCnnPolicy,
        "MultiInputPolicy": MultiInputActorCriticPolicy,
    }
    data_argument = "demonstrations"
    family: ClassVar[str] = "FromDemonstrations"
    #: Kinds of action spaces that the algorithm can act in.
    supported_actions: ClassVar[tuple[type[Any], ...]] = FLAT
    policy: ActorCriticPolicy

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str | None = None,
        *,
        demonstrations: Demonstrations | None = None,
        learning_rate: float | Schedule = 1e-3,
        batch_size: int = 64,
        policy_kwargs: dict[str, Any] | None = None,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        stats_window_size: int = 100,
        _init_setup_model: bool = True,
    ) -> None:
        made: Any = None if env is None else maybe_make_env(env, verbose)
        self.demonstrations: OfflineDataset | None = None
        if demonstrations is not None:
            self.demonstrations = resolve_demonstrations(demonstrations, made)
        if made is None and self.demonstrations is not None:
            data = self.demonstrations
            made = spaces_only_env(data.observation_space, data.action_space)
        if made is not None:
            self.require_actions(made.action_space)
        self.batch_size = batch_size
        self.saved_by = type(self).__name__
        self.minibatches: Minibatches | None = None
        #: Of the orders in which samples come, and of :meth:`generator`; kept when None was given.
        self.stream_seed: int | None = None
        #: How many samples the stream has given.
        self.samples_drawn = 0
        super().__init__(
            policy,
            made,
            learning_rate,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
        )
        if _init_setup_model:
            self._setup_model()

    # -- what an algorithm writes --------------------------------------------------------------

    @abstractmethod
    def update(self, observations: Any, actions: Tensor) -> Mapping[str, float]:
        """One gradient step on a minibatch.

        :param observations: ``[B, ...]``, or a dict of such, as the policy's methods take them
        :param actions: ``[B]`` integers for Discrete, ``[B, ...]`` floats for others, in the
            environment's units, as ``policy.evaluate_actions`` takes them
        :return: scalars for the log, which stand under ``train/``
        """

    def optimizers(self) -> list[th.optim.Optimizer]:
        """Those that follow ``learning_rate``."""
        return [self.policy.optimizer]

    def generator(self) -> np.random.Generator:
        """Randomness of this gradient step's own.

        It depends on the seed and on the number of the step, so a resumed or loaded run draws what
        an unstopped one would. Each call gives the same one anew.
        """
        return np.random.default_rng([self.stream_seed or 0, self._n_updates, 1])

    # -- the data ----------------------------------------------------------------------------

    def set_demonstrations(self, demonstrations: Demonstrations) -> None:
        """Learn from other data from now on, or from any at all after ``load``.

        :raises ValueError: if its spaces are not the model's
        """
        spaces = (self.observation_space, self.action_space)
        data = resolve_demonstrations(demonstrations, spaces)
        self.minibatches = self._minibatches_of(data)  # which checks it
        self.demonstrations = data

    def has_data(self) -> bool:
        """Whether there are demonstrations."""
        return self.minibatches is not None

    def _minibatches_of(self, data: OfflineDataset) -> Minibatches:
        self.require_fitting(data.observation_space, data.action_space, "demonstrations")
        return Minibatches(data, self.observation_space, self.device)

    @classmethod
    def require_actions(cls, action_space: Any) -> None:
        """Refuse action spaces that the algorithm is not for.

        :raises ValueError: with those that it is for
        """
        if not isinstance(action_space, cls.supported_actions):
            names = " and ".join(one.__name__ for one in cls.supported_actions)
            raise ValueError(f"{cls.__name__} supports {names} action spaces, got {action_space}")

    def _setup_model(self) -> None:
        if isinstance(self.batch_size, bool) or not isinstance(self.batch_size, int):
            raise TypeError(f"batch_size must be a whole number, got {self.batch_size!r}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        self.require_settled()
        self.require_spaces()
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        if self.stream_seed is None:
            drawn = np.random.SeedSequence().entropy if self.seed is None else self.seed
            self.stream_seed = int(drawn) % 2**32  # type: ignore[arg-type]
        if self.demonstrations is not None:  # load(path, demonstrations=...) may name a file
            self.set_demonstrations(self.demonstrations)
        self.policy = self.make_policy().to(self.device)

    def make_policy(self) -> ActorCriticPolicy:
        """The policy, with fresh weights."""
        made: ActorCriticPolicy = self.policy_class(  # type: ignore[assignment]
            self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs
        )
        return made

    # -- the loop ----------------------------------------------------------------------------

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1000,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """As in SB3, with gradient steps for steps.

        :param total_timesteps: gradient steps
        :param log_interval: gradient steps between two rows of the log
        """
        total_timesteps, root = self._setup_learn(
            total_timesteps,
            callback,
            reset_num_timesteps,
            type(self).__name__ if tb_log_name is None else tb_log_name,
            progress_bar,
        )
        root.on_training_start({**locals(), "callback": root}, globals())
        self._learn_until(total_timesteps, root, log_interval)
        root.on_training_end()
        return self

    def _learn_until(self, total_timesteps: int, root: BaseCallback, log_interval: int) -> None:
        """What lies between the callbacks of a training's start and end."""
        while self.num_timesteps < total_timesteps:
            step = self.collect_rollouts(self.env, root, log_interval=log_interval)
            if not step.continue_training:
                break

    def one_gradient_step(self) -> None:
        """The next minibatch, and :meth:`update` on it."""
        assert self.minibatches is not None and self.stream_seed is not None
        if not self.policy.training:  # predict has switched it off
            self.policy.set_training_mode(True)
        optimizers = self.optimizers()
        step_all_tensors_at_once(optimizers)
        self._update_learning_rate(optimizers)
        rows = self.minibatches.rows(self.stream_seed, self.samples_drawn, self.batch_size)
        metrics = self.update(*self.minibatches.batch(rows, self._vec_normalize_env))
        self.samples_drawn += self.batch_size
        self._n_updates += 1
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name, value in metrics.items():
            self.logger.record_mean(f"train/{name}", value)

    # -- files -------------------------------------------------------------------------------

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "demonstrations", "minibatches"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []

    def save_for_sb3(self, path: str | pathlib.Path) -> None:
        """Save the policy, such that ``ActorCriticPolicy.load(path)`` of stock SB3 loads it.

        Its weights are also those of a PPO of the same ``policy_kwargs``, to go on from:
        ``ppo.policy.load_state_dict(ActorCriticPolicy.load(path).state_dict())``.

        :param path: of the file, which is no zip of a model
        """
        self.policy.save(str(path))
