"""A dataset as SB3's replay buffer: the same arrays, seen in SB3's layout."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize, VecTransposeImage

from sb3_ext.offline.arrays import Array, Observations
from sb3_ext.offline.dataset import OfflineDataset
from sb3_ext.offline.scaling import scaled
from sb3_ext.offline.spaces import Space

#: Arrays that a batch is gathered from.
_COLUMNS = ("observations", "actions", "next_observations", "rewards", "dones", "timeouts")


class DatasetBuffer(ReplayBuffer):
    """A full replay buffer over a dataset's arrays. Nothing is copied but what SB3 has otherwise:
    actions scaled to [-1, 1], and ends as numbers.

    Batches are gathered on the buffer's device. There the arrays go at the first batch, in one
    transfer, if they take no more than half of its free memory; otherwise row by row.

    :param dataset: whose arrays they are
    :param observation_space: of the model: that of the dataset, or with its images' channels first
    :param device: as in SB3
    """

    def __init__(
        self,
        dataset: OfflineDataset,
        observation_space: Space,
        device: th.device | str = "auto",
        **options: Any,
    ) -> None:
        # One row, whose arrays are exchanged at once: SB3 makes as many as it is asked for.
        super().__init__(1, observation_space, dataset.action_space, device, n_envs=1, **options)
        self.buffer_size = len(dataset)
        shape = (len(dataset), 1)

        self.observations = _laid_out(dataset.observations, observation_space)
        self.next_observations = _laid_out(dataset.next_observations, observation_space)
        self.actions = scaled_actions(dataset).reshape(*shape, self.action_dim)
        self.rewards = dataset.rewards.reshape(shape)
        ends = dataset.terminated | dataset.truncated
        ends[dataset.episode_starts[1:] - 1] = ends[-1] = True
        self.dones = ends.astype(np.float32).reshape(shape)
        self.timeouts = (ends & ~dataset.terminated).astype(np.float32).reshape(shape)
        self.pos, self.full = 0, True
        self._tensors: dict[str, Any] | None = None

    def add(self, *args: Any, **kwargs: Any) -> None:
        """Refused: it would write into the dataset."""
        raise TypeError(
            "a dataset cannot be added to: concatenate datasets, or fill a replay buffer of SB3's "
            "with sb3_ext.offline.to_replay_buffer(dataset)"
        )

    def fingerprint(self) -> str:
        """What tells this data from other data: a checkpoint names it instead of holding it."""
        return fingerprint({name: getattr(self, name) for name in _COLUMNS})

    def _get_samples(self, batch_inds: Array, env: VecNormalize | None = None) -> Any:
        tensors = self._on_device() if env is None else None
        if tensors is None:
            return super()._get_samples(batch_inds, env=env)
        rows = th.as_tensor(batch_inds, device=self.device)

        def gathered(name: str) -> Any:
            held = tensors[name]
            if isinstance(held, dict):
                return {key: one.index_select(0, rows) for key, one in held.items()}
            return held.index_select(0, rows)

        batch = {name: gathered(name) for name in _COLUMNS}
        terminated = batch["dones"] * (1 - batch.pop("timeouts"))
        kind = DictReplayBufferSamples if isinstance(batch["observations"], dict) else None
        return (kind or ReplayBufferSamples)(
            observations=batch["observations"],
            actions=batch["actions"],
            next_observations=batch["next_observations"],
            dones=terminated,
            rewards=batch["rewards"],
        )

    def _on_device(self) -> dict[str, Any] | None:
        """All arrays as tensors ``[N, ...]`` on the device, or None where they do not fit."""
        if self._tensors is None:
            arrays = {name: getattr(self, name) for name in _COLUMNS}
            if not _fits(arrays, self.device):
                return None
            self._tensors = {
                name: (
                    {key: self._moved(one) for key, one in held.items()}
                    if isinstance(held, dict)
                    else self._moved(held)
                )
                for name, held in arrays.items()
            }
        return self._tensors

    def _moved(self, array: Array) -> th.Tensor:
        # On a CPU it shares the array's memory. One column of rewards and ends is SB3's shape.
        rows = array[:, 0] if array.ndim > 2 else array
        return th.from_numpy(rows).to(self.device)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_tensors": None}


class DictDatasetBuffer(DatasetBuffer, DictReplayBuffer):
    """The same for Dict observations."""

    def __init__(
        self, dataset: OfflineDataset, observation_space: Space, device: th.device | str = "auto"
    ) -> None:
        super().__init__(dataset, observation_space, device)


class NStepDatasetBuffer(DatasetBuffer, NStepReplayBuffer):
    """The same with n-step returns, which SB3 sums; they end where an episode does."""

    def _get_samples(self, batch_inds: Array, env: VecNormalize | None = None) -> Any:
        return NStepReplayBuffer._get_samples(self, batch_inds, env=env)


def make_buffer(
    dataset: OfflineDataset,
    observation_space: Space,
    device: th.device | str,
    n_steps: int = 1,
    gamma: float = 0.99,
) -> DatasetBuffer:
    """The buffer that fits the observations, and ``n_steps``.

    :raises ValueError: for n-step returns of Dict observations, which SB3 has not
    """
    if isinstance(observation_space, spaces.Dict):
        if n_steps > 1:
            raise ValueError(
                f"n_steps={n_steps} does not go with Dict observations in SB3: leave it at 1"
            )
        return DictDatasetBuffer(dataset, observation_space, device)
    if n_steps > 1:
        return NStepDatasetBuffer(dataset, observation_space, device, n_steps=n_steps, gamma=gamma)
    return DatasetBuffer(dataset, observation_space, device)


def scaled_actions(dataset: OfflineDataset) -> Array:
    """Actions as SB3's buffers hold them: of a Box in [-1, 1], whatever the bounds."""
    space = dataset.action_space
    if not isinstance(space, spaces.Box) or ((space.low == -1) & (space.high == 1)).all():
        return dataset.actions
    return scaled(dataset.actions, space)


def require_learnable(space: Space) -> None:
    """Refuse actions that SB3's algorithms cannot learn.

    :raises ValueError: for a Box with bounds at infinity, which cannot be scaled to [-1, 1], and a
        Discrete space that does not start at 0
    """
    if isinstance(space, spaces.Discrete) and space.start != 0:
        raise ValueError(
            f"SB3 takes Discrete actions from 0 on, got {space}: wrap the environment so that its "
            f"actions start at 0, and give the dataset actions - {space.start}"
        )
    if isinstance(space, spaces.Box) and not (np.isfinite([space.low, space.high]).all()):
        raise ValueError(
            f"actions must have finite bounds to be scaled to [-1, 1], got {space}: give the "
            "dataset an action_space with the bounds that the behaviour kept to"
        )


def fingerprint(columns: Mapping[str, Any]) -> str:
    """What tells arrays from other arrays.

    :param columns: arrays, or dicts of arrays, by name
    """
    digest = hashlib.sha256()
    for name, held in columns.items():
        for key, array in sorted(held.items()) if isinstance(held, dict) else [("", held)]:
            digest.update(f"{name}.{key} {array.dtype} {array.shape}".encode())
            # All of a short one, a sample of a long one: hashing gigabytes would take minutes.
            step = max(len(array) // 4096, 1)
            digest.update(np.ascontiguousarray(array[::step]).tobytes())
    return digest.hexdigest()


def rows_for(observations: Observations, space: Space) -> Any:
    """Views ``[N, *shape]``, of images in the layout of a model's space."""
    if isinstance(observations, dict):
        assert isinstance(space, spaces.Dict)
        return {key: rows_for(observations[key], part) for key, part in space.spaces.items()}
    other = isinstance(space, spaces.Box) and observations.shape[1:] != space.shape
    return np.moveaxis(observations, -1, 1) if other and is_image_space(space) else observations


def _laid_out(observations: Observations, space: Space) -> Any:
    """The same as views ``[N, 1, *shape]``."""
    rows = rows_for(observations, space)
    if isinstance(rows, dict):
        return {key: _with_an_environment(part) for key, part in rows.items()}
    return _with_an_environment(rows)


def _with_an_environment(rows: Array) -> Array:
    # A Discrete observation is one number to a dataset, and a row of one number to SB3.
    return rows.reshape(-1, 1, 1) if rows.ndim == 1 else rows[:, None]


def seen_by_sb3(space: Space) -> Space:
    """An observation space as a model has it: images with their channels first."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: seen_by_sb3(part) for key, part in space.spaces.items()})
    if is_image_space(space) and not is_image_space_channels_first(space):  # type: ignore[arg-type]
        return VecTransposeImage.transpose_space(space)  # type: ignore[arg-type]
    return space


def _fits(arrays: dict[str, Any], device: th.device) -> bool:
    if device.type != "cuda":
        return True
    free, _ = th.cuda.mem_get_info(device)
    parts = (one.values() if isinstance(one, dict) else (one,) for one in arrays.values())
    return sum(int(array.nbytes) for held in parts for array in held) <= free // 2
