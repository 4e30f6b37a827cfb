"""GAIL and AIRL: a generator acts, a discriminator tells it from the expert, and rewards it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm, maybe_make_env
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback

from sb3_ext.errors import NonFiniteError
from sb3_ext.offline.demonstrations import Minibatches
from sb3_ext.plugins.imitation import compat
from sb3_ext.plugins.imitation.demonstrations import (
    layout,
    read_demonstrations,
    require_fits,
    require_one_horizon,
    require_rows,
    variable_horizon,
)
from sb3_ext.plugins.imitation.generators import (
    composed,
    require_acts_in,
    require_policy,
    resolve_generator,
)
from sb3_ext.plugins.imitation.options import require_options
from sb3_ext.plugins.imitation.relabelling import relabel, require_relabelling
from sb3_ext.plugins.imitation.rounds import (
    NAMES,
    GeneratedSamples,
    LearnedRewards,
    space_below,
)
from sb3_ext.plugins.imitation.saving import BESIDE, Saving, dataset_of
from sb3_ext.signatures import constructor_arguments, require_known

#: Steps of a round where the generator has no rollouts of its own length.
_OFF_POLICY_ROUND, _OFF_POLICY_SAMPLES = 250, 1000
#: Rows of demonstrations in a batch, where nobody says otherwise and there are as many.
_BATCH = 128


class Adversarial(Saving):
    """What GAIL and AIRL share; :func:`~.generators.composed` puts it in front of a generator.

    ``GAIL(..., generator="PPO")`` is a ``GAIL`` and a ``PPO``: it learns, saves and predicts as a
    PPO does, for rewards that imitation's discriminator gives.
    """

    kind: ClassVar[str]
    data_argument: ClassVar[str] = "demonstrations"
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": ActorCriticPolicy,
        "CnnPolicy": ActorCriticCnnPolicy,
    }
    discriminator: Any

    def __new__(cls, *_: Any, generator: Any = "PPO", **__: Any) -> Any:
        """An instance of the class that is also the generator's."""
        if cls.generator_class is None:
            cls = composed(cls, resolve_generator(generator)[1])
        return object.__new__(cls)

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None = None,
        *,
        demonstrations: Any = None,
        generator: str | type[BaseAlgorithm] = "PPO",
        generator_kwargs: Mapping[str, Any] | None = None,
        demo_batch_size: int | None = None,
        n_disc_updates_per_round: int = 2,
        gen_train_timesteps: int | None = None,
        gen_replay_buffer_capacity: int | None = None,
        disc_learning_rate: float = 1e-3,
        disc_net_arch: list[int] | tuple[int, ...] = (32, 32),
        disc_normalize_inputs: bool = True,
        normalize_rewards: bool = False,
        relabel_rewards: bool = True,
        allow_variable_horizon: bool = False,
        policy_kwargs: dict[str, Any] | None = None,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: Any = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        compat.require()
        name = type(self).__name__
        self.generator = resolve_generator(generator)[0] or generator
        self.generator_kwargs = dict(generator_kwargs or {})
        for one in BESIDE:
            if one in self.generator_kwargs:
                raise TypeError(f"generator_kwargs has {one!r}: give {one}= to {name} itself")
        hers = self.generator_class
        require_known(hers, self.generator_kwargs, where=f"generator_kwargs of {hers.__name__}")
        shared = set(constructor_arguments(hers)) & set(constructor_arguments(type(self)))
        if shared := shared - {*BESIDE, "_init_setup_model"}:
            raise ValueError(
                f"{hers.__name__} cannot be a generator: it and {name} mean different things by "
                f"{', '.join(sorted(shared))}"
            )
        self.demo_batch_size = demo_batch_size
        self.n_disc_updates_per_round = n_disc_updates_per_round
        self.gen_train_timesteps = gen_train_timesteps
        self.gen_replay_buffer_capacity = gen_replay_buffer_capacity
        self.disc_learning_rate = disc_learning_rate
        self.disc_net_arch = list(disc_net_arch)
        self.disc_normalize_inputs = disc_normalize_inputs
        self.normalize_rewards = normalize_rewards
        self.relabel_rewards = relabel_rewards
        self.allow_variable_horizon = allow_variable_horizon
        require_options(self)
        if env is None and _init_setup_model:
            raise ValueError(f"{name} learns by acting: pass env=, of which the demonstrations are")
        made: Any = None if env is None else maybe_make_env(env, verbose)
        if made is not None:
            require_acts_in(hers, made.action_space, name)
        require_policy(hers, policy)
        self.demonstrations = dataset_of(demonstrations, made)
        self.saved_by = name
        self.horizon: int | None = None
        #: Of the orders in which demonstrations come, and how many came.
        drawn = np.random.SeedSequence().generate_state(1)[0] if seed is None else seed
        self.stream_seed = int(drawn)
        self.samples_drawn = 0
        super().__init__(  # type: ignore[call-arg]
            policy,
            made,
            policy_kwargs=None if policy_kwargs is None else dict(policy_kwargs),
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
            **self.generator_kwargs,
        )
        if _init_setup_model:
            self._setup_model()

    def require_arguments(self, given: Mapping[str, Any]) -> None:
        """Refuse misspelt ones, and those of the generator.

        :raises TypeError: with the near miss, or where they belong
        """
        own = constructor_arguments(type(self))
        hers = set(constructor_arguments(self.generator_class)) - set(own)
        if misplaced := [name for name in given if name in hers]:
            raise TypeError(
                f"{misplaced[0]} is an argument of {self.generator_class.__name__}: give "
                f"generator_kwargs={{{misplaced[0]!r}: ...}}"
            )
        require_known(type(self), given, where=type(self).__name__)

    # -- set-up ------------------------------------------------------------------------------

    def _setup_model(self) -> None:
        require_options(self)  # load(path, demo_batch_size=...) may have changed them
        super()._setup_model()  # type: ignore[safe-super]
        space = self.observation_space if self.env is None else space_below(self.env)
        if isinstance(space, spaces.Dict):
            raise ValueError(
                f"{type(self).__name__} compares observations as one array, and this environment "
                "gives a Dict: wrap it in gymnasium.wrappers.FlattenObservation, and record the "
                "demonstrations there"
            )
        self.seen_space = space
        if self.relabel_rewards and isinstance(self, OffPolicyAlgorithm):
            require_relabelling(self)
        self.minibatches: Minibatches | None = None
        self.expert: Any = None
        self.demonstrated_horizon: int | None = None
        if self.demonstrations is not None:
            self.set_demonstrations(self.demonstrations)
        self.discriminator = self._make_discriminator()
        self.reward_net = self.discriminator.reward_train
        self.discriminator_optimizer = self.discriminator._disc_opt
        capacity = self.gen_replay_buffer_capacity or (
            max(_OFF_POLICY_SAMPLES, self.round_length) if self._off_policy else self.round_length
        )
        self.generated = GeneratedSamples(capacity, space, self.action_space)
        self.learned_rewards: LearnedRewards | None = None
        self.episode_steps = np.zeros(self.n_envs, np.int64)
        self.episode_rewards = np.zeros(self.n_envs, np.float64)
        self.round_steps = 0

    def _make_discriminator(self, **options: Any) -> Any:
        from sb3_ext.plugins.imitation.rewards import make_discriminator

        return make_discriminator(
            self.kind,
            self,
            self.seen_space,
            net_arch=self.disc_net_arch,
            normalize_inputs=self.disc_normalize_inputs,
            normalize_rewards=self.normalize_rewards,
            learning_rate=self.disc_learning_rate,
            batch_size=self.batch_of_demonstrations,
            **options,
        )

    def set_demonstrations(self, demonstrations: Any) -> None:
        """Imitate this from now on; after ``load``, which knows no demonstrations, any at all.

        :param demonstrations: as the constructor takes them
        :raises ValueError: if they do not fit the environment
        """
        found = read_demonstrations(demonstrations, (self.seen_space, self.action_space))
        require_fits(found, self.seen_space, self.action_space)
        horizon = None if self.allow_variable_horizon else require_one_horizon(found)
        if self.demo_batch_size is not None and len(found) < self.demo_batch_size:
            raise ValueError(
                f"demo_batch_size={self.demo_batch_size} is more than the {len(found)} transitions "
                "of the demonstrations: give a smaller one, or more demonstrations"
            )
        self.demonstrations, self.demonstrated_horizon = found, horizon
        self.expert = dict(zip(NAMES, layout(found, self.seen_space), strict=True))
        self.minibatches = Minibatches(found, self.seen_space, self.device)
        size = self.batch_of_demonstrations
        if getattr(self, "discriminator", None) is not None:
            self.discriminator.demo_batch_size = self.discriminator.demo_minibatch_size = size

    @property
    def batch_of_demonstrations(self) -> int:
        """Transitions of the expert in an update, and as many of the generator."""
        if self.demo_batch_size is not None or self.demonstrations is None:
            return self.demo_batch_size or _BATCH
        return min(_BATCH, len(self.demonstrations))

    @property
    def _off_policy(self) -> bool:
        return isinstance(self, OffPolicyAlgorithm)

    @property
    def round_length(self) -> int:
        """Steps of the generator between two turns of the discriminator."""
        if self.gen_train_timesteps is not None:
            return self.gen_train_timesteps
        steps = getattr(self, "n_steps", 1) * self.n_envs
        return _OFF_POLICY_ROUND if self._off_policy else steps

    # -- learning ----------------------------------------------------------------------------

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = None,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """As the generator's: ``total_timesteps`` counts steps in the environment.

        :raises ValueError: without demonstrations, and for episodes of different lengths unless
            they are allowed
        """
        if self.minibatches is None:
            raise ValueError(
                f"this {type(self).__name__} has no demonstrations to imitate: pass "
                "demonstrations= to it or to load, or call set_demonstrations first"
            )
        if self.env is None:
            raise ValueError(
                f"this {type(self).__name__} has no environment to learn in: pass env= to load, or "
                "call set_env first"
            )
        if self._off_policy and total_timesteps < self.round_length:
            warnings.warn(
                f"{total_timesteps} steps are less than a round of {self.round_length}, after "
                "which the discriminator learns: ask for more, or give gen_train_timesteps=",
                stacklevel=2,
            )
        given = {} if log_interval is None else {"log_interval": log_interval}
        super().learn(  # type: ignore[safe-super]
            total_timesteps,
            callback=callback,
            tb_log_name=type(self).__name__ if tb_log_name is None else tb_log_name,
            reset_num_timesteps=reset_num_timesteps,
            progress_bar=progress_bar,
            **given,
        )
        if self.round_steps >= self.round_length:
            self.discriminator_turn()
        return self

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        before = self._last_obs
        found = super()._setup_learn(*args, **kwargs)
        if self._last_obs is not before:  # the environments begin anew
            self.episode_steps[:] = 0
            self.episode_rewards[:] = 0
        return found

    def collect_rollouts(self, env: Any, callback: Any, *args: Any, **kwargs: Any) -> Any:
        """The generator's, for learned rewards."""
        if self.learned_rewards is None or self.learned_rewards.venv is not env:
            self.learned_rewards = LearnedRewards(env, self)
        self.learned_rewards.begins = True
        collect = super().collect_rollouts  # type: ignore[misc]
        return collect(self.learned_rewards, callback, *args, **kwargs)

    def before_rollout(self) -> None:
        """The discriminator's turn, where a round is over and the generator has learned from it.

        Called by the first step of a rollout, not at the end of a round: there a checkpoint is
        written, and what it holds must be what a resumed run begins with.
        """
        if self.round_steps >= self.round_length:
            self.discriminator_turn()

    def rewards_for_step(
        self, observations: Any, actions: Any, following: Any, dones: Any, infos: Any
    ) -> Any:
        """The learned rewards ``[n_envs]`` of a step; its transitions are kept for the next turn.

        :raises ValueError: if an episode is shorter or longer than those before, or than the
            demonstrations', where these ended by themselves
        :raises NonFiniteError: if the environment returned NaN
        """
        rewards = self.reward_net.predict_processed(observations, actions, following, dones)
        if not np.isfinite(rewards).all():
            raise NonFiniteError(
                f"the learned reward is {rewards} at step {self.num_timesteps}: the environment "
                f"gave {following}, the generator {actions}, and both must be finite"
            )
        self.generated.add(observations, actions, following, dones)
        self.round_steps += len(dones)
        self.episode_steps += 1
        self.episode_rewards += rewards
        for env in np.flatnonzero(dones):
            self._end_episode(int(env), infos[env])
        return rewards.astype(np.float32)

    def _end_episode(self, env: int, info: Mapping[str, Any]) -> None:
        # A Monitor knows the length also where a run was resumed with new episodes.
        length = int(info.get("episode", {}).get("l", self.episode_steps[env]))
        if not self.allow_variable_horizon:
            if length != (self.horizon or length):
                raise variable_horizon(
                    f"the environment's episodes have some of {self.horizon} and of {length} steps"
                )
            if length != (self.demonstrated_horizon or length):
                raise variable_horizon(
                    f"those of the demonstrations end after {self.demonstrated_horizon} steps, the "
                    f"environment's after {length}"
                )
        self.horizon = length
        self.logger.record_mean("rollout/ep_rew_learned_mean", self.episode_rewards[env])
        self.episode_steps[env] = self.episode_rewards[env] = 0

    def discriminator_turn(self) -> None:
        """The discriminator's updates of a round, by imitation's ``train_disc``."""
        assert self.minibatches is not None
        size = self.batch_of_demonstrations
        for _ in range(self.n_disc_updates_per_round):
            rows = self.minibatches.rows(self.stream_seed, self.samples_drawn, size)
            self.samples_drawn += size
            expert = {name: held[rows] for name, held in self.expert.items()}
            generated = self.generated.sample(size)
            with compat.training(self.reward_net):
                told = self.discriminator.train_disc(expert_samples=expert, gen_samples=generated)
            for name, value in told.items():
                if name.startswith("disc_") and "proportion" not in name:
                    key = f"discriminator/{name.removeprefix('disc_')}"
                    self.logger.record_mean(key, value)
        self.round_steps = 0
        if self.relabel_rewards and isinstance(self, OffPolicyAlgorithm):
            relabel(self)

    def learned_reward(
        self, observations: Any, actions: Any, next_observations: Any, dones: Any
    ) -> Any:
        """What the discriminator has learned to reward, ``[B]``; AIRL's without its shaping.

        :param observations: ``[B, *shape]``, the environment's own; likewise the others
        :raises ValueError: for other shapes
        """
        rows = require_rows(
            self.seen_space, self.action_space, observations, actions, next_observations, dones
        )
        return self.discriminator.reward_test.predict(*rows)
