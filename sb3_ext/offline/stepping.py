"""A loop in SB3's manner whose steps are gradient steps, for whatever learns from recorded data."""

from __future__ import annotations

import sys
import time
from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import RolloutReturn

from sb3_ext.offline.buffer import seen_by_sb3
from sb3_ext.offline.spaces import Space, differences
from sb3_ext.offline.spaces_only import spaces_only_env


class GradientSteps(BaseAlgorithm):
    """An algorithm that acts nowhere: one gradient step stands in the place of a rollout.

    Callbacks, schedules, checkpoints and the log count gradient steps.
    """

    #: The argument that takes the data.
    data_argument: ClassVar[str]
    #: What ``learn(total_timesteps)`` counts, for pictures.
    learn_counts: ClassVar[str] = "gradient steps"
    #: Whether it ever learned under ``VecNormalize``, whose statistics are in no zip.
    normalized: bool

    @abstractmethod
    def one_gradient_step(self) -> None:
        """Learn once; the schedules are at this step."""

    @abstractmethod
    def has_data(self) -> bool:
        """Whether there is anything to learn from."""

    def require_settled(self) -> None:
        """Refuse statistics that a reset would change, and that nothing here would fit.

        :raises ValueError: for a ``VecNormalize`` with ``training=True``
        """
        normalizer = self.get_vec_normalize_env()
        self.normalized = getattr(self, "normalized", False) or normalizer is not None
        if normalizer is not None and normalizer.training:
            raise ValueError(
                f"VecNormalize {self._unsettled()}, and pass training=False (and "
                "norm_reward=False) to it; or leave it out"
            )

    def _unsettled(self) -> str:
        """Why statistics must not change here, and where to take them from."""
        return (
            "has no episodes here to learn its statistics from: give them by "
            f"env.obs_rms.update({self.data_argument}.observations)"
        )

    def require_spaces(self) -> None:
        """Refuse to make networks for spaces that nobody named.

        :raises ValueError: if neither an environment nor data were given
        """
        if getattr(self, "observation_space", None) is None:
            raise ValueError(
                f"{type(self).__name__} needs to know the spaces: pass {self.data_argument}=, or "
                "an env"
            )

    def require_fitting(
        self, observation_space: Space, action_space: Space, argument: str | None = None
    ) -> None:
        """Refuse data of other spaces than the model's.

        :param argument: what they were given as; ``data_argument`` by default
        :raises ValueError: with every difference
        """
        found = [
            *differences(seen_by_sb3(observation_space), self.observation_space, "observations"),
            *differences(action_space, self.action_space, "actions", actions=True),
        ]
        if found:
            told = "; ".join(found).replace("the environment", "the model")
            raise ValueError(
                f"the data and this {type(self).__name__} do not fit each other: {told}. Make the "
                f"model with this {argument or self.data_argument}=, or with an environment that "
                "it is of"
            )

    def _setup_learn(self, total_timesteps: int, *args: Any, **kwargs: Any) -> tuple[int, Any]:
        if not self.has_data():
            raise ValueError(
                f"this {type(self).__name__} has no data to learn from: pass {self.data_argument}= "
                f"to it or to load, or call set_{self.data_argument} first"
            )
        if self.normalized and self.get_vec_normalize_env() is None:
            raise ValueError(
                f"this {type(self).__name__} learned under VecNormalize, and would go on with "
                "numbers of another size: pass an env= with its statistics (VecNormalize.load) to "
                "load"
            )
        if self.env is None:
            self.set_env(spaces_only_env(self.observation_space, self.action_space))
        return super()._setup_learn(total_timesteps, *args, **kwargs)

    def collect_rollouts(
        self,
        env: Any,
        callback: BaseCallback,
        *args: Any,
        log_interval: int | None = None,
        **_: Any,
    ) -> RolloutReturn:
        """One gradient step, in the place of a rollout."""
        callback.on_rollout_start()
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        self.one_gradient_step()
        self.num_timesteps += 1
        self._after_gradient_step()
        callback.update_locals({"self": self, "env": env, "infos": [], "dones": np.zeros(0)})
        goes_on = callback.on_step()
        if log_interval and self.num_timesteps % log_interval == 0:
            self._log_progress()
        callback.on_rollout_end()
        return RolloutReturn(1, 0, goes_on)

    def _after_gradient_step(self) -> None:
        """What else a base does once a step."""

    def _log_progress(self) -> None:
        elapsed = max((time.time_ns() - self.start_time) / 1e9, sys.float_info.epsilon)
        done = self.num_timesteps - self._num_timesteps_at_start
        self.logger.record("time/fps", int(done / elapsed))
        self.logger.record("time/time_elapsed", int(elapsed), exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(step=self.num_timesteps)
