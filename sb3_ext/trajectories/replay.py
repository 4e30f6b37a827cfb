"""A replay buffer of trajectories, each step with the distribution that its action was drawn from.

Every observation is stored once: the one after a step stands in the next row. Only where a time
limit cut an episode off is there one more, the episode's last, which the next row does not show.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from sb3_ext.offline.arrays import map_observations
from sb3_ext.options import is_integer

#: One array, or one a key of a Dict space; of tensors likewise.
Observations = Any


@dataclass(frozen=True)
class Windows:
    """T consecutive steps in each of B columns; episodes may end inside.

    :param observations: ``[T * B, ...]``, of step t and column b in row ``t * B + b``
    :param last_observations: ``[B, ...]``, after the last step; of no meaning if an episode ended
    :param final_observations: ``[M, ...]``, the last ones of the episodes that were cut off
    :param finals: ``[M]``, the rows of ``observations`` that these followed
    :param actions: ``[T * B, D]`` as they were drawn: neither scaled nor clipped
    :param behavior: ``[T * B, W]``, parameters of the distribution that drew them
    :param rewards: ``[T, B]``
    :param terminated: ``[T, B]``, booleans: the episode ended here
    :param truncated: ``[T, B]``, booleans: it was cut off here, by a time limit or a reset
    """

    observations: Observations
    last_observations: Observations
    final_observations: Observations
    finals: Tensor
    actions: Tensor
    behavior: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor

    def bootstrap(self, value: Callable[[Observations], Tensor]) -> tuple[Tensor, Tensor]:
        """What lies beyond the windows' ends, and beyond the episodes that were cut off.

        :param value: from observations ``[N, ...]`` to their values ``[N]`` or ``[N, 1]``, such as
            ``policy.predict_values`` of SB3's
        :return: ``[B]``, and ``[T, B]`` with zeros where no episode was cut off
        :raises ValueError: if it gives another shape
        """
        columns = self.rewards.shape[1]
        beyond = map_observations(
            lambda *o: th.cat(o), self.last_observations, self.final_observations
        )
        values, n = value(beyond), columns + len(self.finals)
        if values.shape not in ((n,), (n, 1)):
            raise ValueError(
                f"value must give one number an observation, [N] or [N, 1] with N = {n}, got "
                f"{list(values.shape)}"
            )
        values = values.reshape(n)
        truncation = values.new_zeros(self.rewards.numel())
        truncation[self.finals] = values[columns:]
        return values[:columns], truncation.reshape(self.rewards.shape)


class TrajectoryReplayBuffer(ReplayBuffer):
    """The newest steps of each environment, in order, for windows of consecutive steps.

    An action is handed over with what drew it: :meth:`add` takes ``[action, behavior]`` side by
    side, ``[n_envs, action_dim + behavior_dim]``, as parameters of a distribution, such as log
    probabilities.

    If the environment was reset between two calls of ``add``, the first of two observations shows
    it: the episode counts as cut off there.

    :param buffer_size: transitions, of all environments together
    :param observation_space: Dict and images included
    :param action_space: actions are stored flat
    :param device: of the tensors that are sampled
    :param n_envs: columns
    :param optimize_memory_usage: of SB3; here an observation is never stored twice
    :param behavior_dim: numbers that describe a distribution
    :raises ValueError: for a size of less than one step of each environment
    """

    observations: Observations
    next_observations: Any = None
    timeouts: np.ndarray

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        *,
        behavior_dim: int,
    ) -> None:
        if not is_integer(buffer_size) or buffer_size < n_envs:
            raise ValueError(
                f"buffer_size must be a whole number of transitions, at least one of each of the "
                f"{n_envs} environments, got {buffer_size!r}"
            )
        if behavior_dim != 0 and not is_integer(behavior_dim):
            raise ValueError(
                f"behavior_dim must be a whole number, 0 or more, got {behavior_dim!r}"
            )
        rows = buffer_size // n_envs
        super(ReplayBuffer, self).__init__(
            rows, observation_space, action_space, device, n_envs=n_envs
        )
        self.handle_timeout_termination = True
        self.optimize_memory_usage = False  # SB3 would cut episodes off by itself
        parts = {"": observation_space}
        if isinstance(observation_space, spaces.Dict):
            parts = dict(observation_space.spaces)
        shapes: Any = self.obs_shape if isinstance(self.obs_shape, dict) else {"": self.obs_shape}
        made = {
            key: np.zeros((rows, n_envs, *shapes[key]), dtype=space.dtype)
            for key, space in parts.items()
        }
        self.observations = made if isinstance(observation_space, spaces.Dict) else made[""]
        # What is drawn for a Box is a real number, also where the space holds integers.
        whole = np.issubdtype(action_space.dtype, np.integer)
        kind = np.int64 if whole and not isinstance(action_space, spaces.Box) else np.float32
        self.actions = np.zeros((rows, n_envs, self.action_dim), kind)
        self.behavior = np.zeros((rows, n_envs, behavior_dim), np.float32)
        self.rewards = np.zeros((rows, n_envs), np.float32)
        self.dones = np.zeros((rows, n_envs), np.bool_)
        self.timeouts = np.zeros((rows, n_envs), np.bool_)
        #: Of steps that were cut off, where in the list the episode's last observation stands.
        self.final_slots = np.full((rows, n_envs), -1, np.int64)
        self.final_observations: list[Observations] = []
        self.free_slots: list[int] = []

    # -- writing -----------------------------------------------------------------------------

    def add(
        self,
        obs: Observations,
        next_obs: Observations,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """One step of each environment.

        :param next_obs: where an episode ended, its last observation
        :param action: the action, then the parameters of the distribution that drew it
        :raises ValueError: for other shapes
        """
        self._require_step(action, reward, done, infos)
        row, obs, next_obs = self.pos, self._shaped(obs), self._shaped(next_obs)
        if self.full or row:
            self._cut_where(self._is_other(row, obs))
        self._forget(row)
        map_observations(lambda held, new: held.__setitem__(row, new), self.observations, obs)
        self.actions[row] = action[:, : self.action_dim]
        self.behavior[row] = action[:, self.action_dim :]
        self.rewards[row], self.dones[row] = reward, done
        cut = np.array([info.get("TimeLimit.truncated", False) for info in infos], np.bool_)
        self.timeouts[row] = cut & self.dones[row]
        for env in np.flatnonzero(self.timeouts[row]).tolist():
            self._keep_final(row, env, next_obs)
        self.pos = (row + 1) % self.buffer_size
        self.full |= self.pos == 0
        # What follows the newest step, for windows that end there.
        map_observations(
            lambda held, new: held.__setitem__(self.pos, new), self.observations, next_obs
        )

    def _require_step(self, action: Any, reward: Any, done: Any, infos: Any) -> None:
        """Refuse what would broadcast to all environments in silence."""
        n, width = self.n_envs, self.action_dim + self.behavior.shape[2]
        if np.shape(action) != (n, width):
            raise ValueError(
                "action must be [action, behavior] side by side, the action and then what drew it, "
                f"of shape [n_envs, {self.action_dim} + {width - self.action_dim}] = [{n}, {width}]"
                f", got {list(np.shape(action))}. (An algorithm that stores transitions, such as "
                "DQN, cannot fill a TrajectoryReplayBuffer)"
            )
        for name, one in (("reward", np.shape(reward)), ("done", np.shape(done))):
            if one != (n,):
                raise ValueError(f"{name} must have shape [n_envs] = [{n}], got {list(one)}")
        if len(infos) != n:
            raise ValueError(f"infos must be one of each of {n} environments, got {len(infos)}")

    def cut_off(self) -> None:
        """The environments were reset: the newest step of each is the last of its episode."""
        if self.full or self.pos:
            self._cut_where(np.ones(self.n_envs, np.bool_))

    def _cut_where(self, begun_anew: np.ndarray) -> None:
        newest = (self.pos - 1) % self.buffer_size
        for env in np.flatnonzero(begun_anew & ~self.dones[newest]).tolist():
            self.dones[newest, env] = self.timeouts[newest, env] = True
            self._keep_final(
                newest, env, map_observations(lambda held: held[self.pos], self.observations)
            )

    def _is_other(self, row: int, obs: Observations) -> np.ndarray:
        """In which environments this is not what followed the newest step."""
        other = np.zeros(self.n_envs, np.bool_)

        def look(held: np.ndarray, new: np.ndarray) -> None:
            differs = held[row] != new.astype(held.dtype, copy=False)
            np.logical_or(other, differs.reshape(self.n_envs, -1).any(axis=1), out=other)

        map_observations(look, self.observations, obs)
        return other

    def _keep_final(self, row: int, env: int, observations: Observations) -> None:
        final = map_observations(lambda one: np.array(one[env]), observations)
        if self.free_slots:
            slot = self.free_slots.pop()
            self.final_observations[slot] = final
        else:
            slot = len(self.final_observations)
            self.final_observations.append(final)
        self.final_slots[row, env] = slot

    def _forget(self, row: int) -> None:
        slots = self.final_slots[row]
        self.free_slots += slots[slots >= 0].tolist()
        slots[:] = -1

    def _shaped(self, obs: Observations) -> Observations:
        """As they are stored; SB3 gives those of Discrete spaces flat."""
        return map_observations(
            lambda held, new: np.asarray(new).reshape(held.shape[1:]), self.observations, obs
        )

    # -- reading -----------------------------------------------------------------------------

    def n_windows(self, length: int) -> int:
        """How many windows there are in each environment."""
        # In a full ring, the observation of the oldest row is what follows the newest step.
        return max(0, self.size() - self.full - length + 1)

    def newest(self, length: int, env: VecNormalize | None = None) -> Windows:
        """The window of the newest steps of each environment.

        :raises ValueError: if there are not that many
        """
        starts = np.full(self.n_envs, self._require(length) - 1)
        return self._windows(starts, np.arange(self.n_envs), length, env)

    def sample_windows(
        self,
        n: int,
        length: int,
        rng: np.random.Generator,
        env: VecNormalize | None = None,
    ) -> Windows:
        """Windows drawn uniformly, of start and environment; none reaches over the newest step.

        :param n: how many
        :param length: steps
        :param rng: draws them, a generator of NumPy's
        :param env: whose statistics normalise observations and rewards
        :raises TypeError: for another kind of generator, such as a seed
        :raises ValueError: if there is no such window
        """
        if not isinstance(rng, np.random.Generator):
            raise TypeError(f"rng must be a generator, np.random.default_rng(seed), got {rng!r}")
        if not is_integer(n):
            raise ValueError(f"n, of windows, must be a whole number of at least 1, got {n!r}")
        starts = rng.integers(self._require(length), size=n)
        return self._windows(starts, rng.integers(self.n_envs, size=n), length, env)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:
        """Refused: a trajectory is no set of transitions.

        :raises TypeError: always
        """
        raise TypeError(
            "a TrajectoryReplayBuffer gives windows of consecutive steps: call sample_windows"
        )

    def _require(self, length: int) -> int:
        if not is_integer(length):
            raise ValueError(
                f"length, of a window, must be a whole number of at least 1, got {length!r}"
            )
        found = self.n_windows(length)
        if not found:
            raise ValueError(
                f"there is no window of {length} steps yet: each environment has "
                f"{self.size() - self.full} steps in the buffer"
            )
        return found

    def _windows(
        self, starts: np.ndarray, envs: np.ndarray, length: int, env: VecNormalize | None
    ) -> Windows:
        """:param starts: steps after the oldest one"""
        oldest = (self.pos + 1) % self.buffer_size if self.full else 0
        rows = (oldest + starts + np.arange(length + 1)[:, None]) % self.buffer_size  # [T + 1, B]
        seen = map_observations(lambda one: one[rows, envs], self.observations)
        rows = rows[:-1]
        truncated = self.timeouts[rows, envs]
        slots = self.final_slots[rows, envs].reshape(-1)
        finals = np.flatnonzero(slots >= 0)
        flat = {
            "observations": map_observations(
                lambda one: one[:-1].reshape(-1, *one.shape[2:]), seen
            ),
            "last_observations": map_observations(lambda one: one[-1], seen),
            "final_observations": self._finals(slots[finals], seen),
        }
        rewards = self._normalize_reward(self.rewards[rows, envs], env)
        return Windows(
            **{name: self._tensors(one, env) for name, one in flat.items()},
            finals=self._tensor(finals),
            actions=self._tensor(self.actions[rows, envs].reshape(-1, self.action_dim)),
            behavior=self._tensor(self.behavior[rows, envs].reshape(rows.size, -1)),
            rewards=self._tensor(rewards),
            terminated=self._tensor(self.dones[rows, envs] & ~truncated),
            truncated=self._tensor(truncated),
        )

    def _finals(self, slots: np.ndarray, like: Observations) -> Observations:
        found = [self.final_observations[slot] for slot in slots]
        if not found:
            return map_observations(lambda one: one[0, :0], like)
        return map_observations(lambda *parts: np.stack(parts), *found)

    def _tensors(self, observations: Observations, env: VecNormalize | None) -> Observations:
        return map_observations(self._tensor, self._normalize_obs(observations, env))

    def _tensor(self, array: np.ndarray) -> Tensor:
        return self.to_torch(array, copy=False)  # indexing with arrays has copied it
