"""Learning from a dataset alone, in SB3's manner: the loop, and what surrounds it.

``learn(total_timesteps)`` counts gradient steps; so callbacks, schedules, progress bars and
checkpoints count them, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Self

from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback

from sb3_ext.algorithms.composable import Composable
from sb3_ext.offline.buffer import make_buffer, require_learnable
from sb3_ext.offline.dataset import OfflineDataset
from sb3_ext.offline.spaces_only import spaces_only_env
from sb3_ext.offline.stepping import GradientSteps

#: Arguments of SB3 that say how to collect transitions.
COLLECTING = (
    *("learning_starts", "train_freq", "gradient_steps", "action_noise", "buffer_size"),
    *("optimize_memory_usage", "use_sde_at_warmup", "exploration_fraction"),
    *("exploration_initial_eps", "exploration_final_eps"),
)

Data = OfflineDataset | ReplayBuffer | str | os.PathLike[str]


class Offline(GradientSteps, Composable):
    """Put in front of a base, it makes an algorithm that learns from a dataset::

        class OfflineTD3(Offline, TD3): ...

        model = OfflineTD3("MlpPolicy", dataset=dataset)
        model.learn(100_000, callback=EvalCallback(env))     # gradient steps

    ``replay`` and ``weighting`` work as they do online; the newest transitions are the last ones of
    the dataset. A ``VecNormalize(env, training=False)`` normalises what is drawn, with the
    statistics it has: they do not change here.

    :param policy: as in SB3
    :param env: only its spaces are used; None takes the dataset's. For an agent's returns, give
        ``EvalCallback`` an environment of its own
    :param dataset: what to learn from: a dataset, its file (see
        :func:`~sb3_ext.offline.load_dataset`), or a replay buffer of SB3's, which is shared, not
        copied. It is not saved with the model: give it to ``load``, or to :meth:`set_dataset`
    :param kwargs: the base's arguments, but for those that say how to collect transitions
    """

    data_argument = "dataset"
    refused_arguments: ClassVar[tuple[str, ...]] = COLLECTING

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None = None,
        *args: Any,
        dataset: Data | None = None,
        **kwargs: Any,
    ) -> None:
        made: Any = None if env is None else maybe_make_env(env, int(kwargs.get("verbose", 0)))
        self.dataset = None if dataset is None else resolve_data(dataset, env=made)
        if self.dataset is not None:
            require_learnable(self.dataset.action_space)
        if made is None and self.dataset is not None:
            made = spaces_only_env(self.dataset.observation_space, self.dataset.action_space)
        super().__init__(policy, made, *args, **kwargs)

    # -- the data ----------------------------------------------------------------------------

    def set_dataset(self, dataset: Data) -> None:
        """Learn from other data from now on, or from any at all after ``load``.

        :raises ValueError: if its spaces are not the model's
        """
        data = resolve_data(dataset)
        buffer = self._buffer_of(data)  # checked before anything is changed
        self.dataset, self.replay_buffer = data, buffer
        self.make_sampler()
        self.restore_sampler(None)  # it is told what there is

    def _buffer_of(self, data: OfflineDataset | ReplayBuffer) -> ReplayBuffer:
        self.require_fitting(data.observation_space, data.action_space)
        if isinstance(data, OfflineDataset):
            return make_buffer(data, self.observation_space, self.device, self.n_steps, self.gamma)
        if not (data.full or data.pos):
            raise ValueError("the replay buffer is empty: fill it before it is learned from")
        if getattr(data, "n_steps", 1) != self.n_steps:
            raise ValueError(
                f"n_steps={self.n_steps} needs a replay buffer that sums rewards over as many, and "
                f"this one sums {getattr(data, 'n_steps', 1)}: give dataset=from_replay_buffer"
                "(buffer), of sb3_ext.offline, which any n_steps goes with"
            )
        if getattr(data, "gamma", self.gamma) != self.gamma:
            raise ValueError(
                f"the replay buffer discounts with gamma={getattr(data, 'gamma', None)}, and this "
                f"{type(self).__name__} with {self.gamma}: use the same"
            )
        if data.optimize_memory_usage:
            raise ValueError(
                "a replay buffer with optimize_memory_usage knows no time limits, and has "
                "overwritten an episode's last observation: give dataset=from_replay_buffer("
                "buffer, time_limit=...), of sb3_ext.offline, which leaves such rows out"
            )
        if data.device != self.device:
            raise ValueError(
                f"the replay buffer gives its batches on {data.device}, and this "
                f"{type(self).__name__} is on {self.device}: use the same device= for both"
            )
        return data

    def _setup_model(self) -> None:
        self.require_settled()
        self.require_spaces()
        # SB3's loop would train after each rollout; ours is done within it, before its callbacks,
        # so that what they see after k steps has been updated k times.
        self.gradient_steps = self.learning_starts = 0
        self.buffer_size = 1  # of the empty one that SB3 makes where there are no data yet
        for name in ("exploration_initial_eps", "exploration_final_eps"):
            if hasattr(self, name):
                setattr(self, name, 0.0)
        if self.dataset is not None:
            self.dataset = resolve_data(self.dataset)  # load(path, dataset="...") may name a file
            self.replay_buffer = self._buffer_of(self.dataset)
            self.buffer_size = self.replay_buffer.buffer_size
        with self._of_one_environment():
            super()._setup_model()
        self.restore_sampler(None)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "dataset"]

    @contextmanager
    def _of_one_environment(self) -> Iterator[None]:
        """SB3 counts some intervals by environments, and a gradient step is of none."""
        n_envs = self.n_envs
        self.n_envs = 1
        try:
            yield
        finally:
            self.n_envs = n_envs

    def _on_step(self) -> None:
        with self._of_one_environment():
            super()._on_step()

    # -- the loop ----------------------------------------------------------------------------

    def has_data(self) -> bool:
        """Whether the replay buffer holds anything."""
        buffer = self.replay_buffer
        return buffer is not None and bool(buffer.full or buffer.pos)

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
        return super().learn(
            total_timesteps,
            callback=callback,
            log_interval=log_interval,
            tb_log_name=tb_log_name,
            reset_num_timesteps=reset_num_timesteps,
            progress_bar=progress_bar,
        )

    def one_gradient_step(self) -> None:
        """One update of the base."""
        self.train(1, self.batch_size)

    def _after_gradient_step(self) -> None:
        self._on_step()

    @classmethod
    def check_arguments(cls, given: Mapping[str, Any], where: str, saved: Iterable[str]) -> None:
        """What is about collecting is refused in ``load``, too."""
        super().check_arguments(given, where, saved)
        for name in cls.refused_arguments:
            if name in given:
                raise TypeError(
                    f"{where} takes no {name}=: it collects nothing, and learn(total_timesteps) "
                    "counts gradient steps"
                )


def resolve_data(data: Data, env: Any = None) -> OfflineDataset | ReplayBuffer:
    """The dataset that an argument names.

    :param env: whose spaces a file is of that does not say them
    :raises TypeError: if it is none of what is taken
    :raises ValueError: for a pickle, which a path alone is not trusted with
    """
    if isinstance(data, (OfflineDataset, ReplayBuffer)):
        return data
    if isinstance(data, (str, os.PathLike)):
        from sb3_ext.offline.readers import load_dataset

        if str(data).endswith((".pkl", ".pickle")):
            raise ValueError(
                f"{data} is a pickle, which runs its author's code: if it is yours, give "
                "dataset=load_dataset(path, allow_pickle=True), of sb3_ext.offline; what its "
                "save(path) writes is taken by its path"
            )
        # HDF5 files of D4RL and d3rlpy do not say what the spaces are.
        asks = env is not None and str(data).endswith((".hdf5", ".h5"))
        dataset: OfflineDataset = load_dataset(data, **({"env": env} if asks else {}))
        return dataset
    raise TypeError(
        "dataset= takes an OfflineDataset, its file, or a replay buffer of SB3's, got "
        f"{type(data).__name__}; sb3_ext.offline has readers for Minari, D4RL, d3rlpy, imitation"
    )
