"""Demonstrations: what an expert saw and did, from any source, and minibatches of it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from sb3_ext.offline.arrays import Array, map_observations
from sb3_ext.offline.buffer import fingerprint, require_learnable, rows_for
from sb3_ext.offline.dataset import OfflineDataset
from sb3_ext.offline.readers.opening import SpacesUnknownError
from sb3_ext.offline.spaces import Space

Demonstrations: TypeAlias = OfflineDataset | ReplayBuffer | str | os.PathLike[str] | Sequence[Any]


def resolve_demonstrations(demonstrations: Demonstrations, env: Any = None) -> OfflineDataset:
    """The dataset that ``demonstrations=`` names.

    Rewards are not needed: trajectories and files of them may lack any, and 0 stands for them.

    :param demonstrations: a dataset, its file (see :func:`~sb3_ext.offline.load_dataset`), a replay
        buffer of SB3's, or trajectories in the manner of the package `imitation`: a sequence of
        objects with ``obs`` ``[T + 1]`` and ``acts`` ``[T]``
    :param env: what gives the spaces where the source does not
    :raises TypeError: if it is none of these
    :raises ValueError: for none at all, spaces that nothing tells, actions that SB3 cannot learn,
        and pickles, which a path alone is not trusted with
    """
    with warnings.catch_warnings():  # whether a time limit ended them is of no interest here
        warnings.filterwarnings("ignore", message=".* have no infos, so a time limit")
        try:
            dataset = _dataset(demonstrations, env)
        except SpacesUnknownError as error:
            raise ValueError(
                "these demonstrations do not say which actions are allowed, or which observations "
                "there are: make the model with env=, of which only the spaces are used, or read "
                "them with a reader of sb3_ext.offline, such as from_trajectories(..., env)"
            ) from error
    require_learnable(dataset.action_space)
    return dataset


def _dataset(demonstrations: Any, env: Any) -> OfflineDataset:
    from sb3_ext.offline import readers
    from sb3_ext.offline.readers.any import is_pickle, load_demonstrations

    if isinstance(demonstrations, OfflineDataset):
        return demonstrations
    if isinstance(demonstrations, ReplayBuffer):
        return readers.from_replay_buffer(demonstrations)
    if isinstance(demonstrations, (str, os.PathLike)):
        if is_pickle(demonstrations):
            raise ValueError(
                f"{demonstrations} is a pickle, which runs its author's code: if it is yours, give "
                "demonstrations=load_dataset(path, allow_pickle=True), of sb3_ext.offline; what "
                "its save(path) writes is taken by its path"
            )
        return load_demonstrations(demonstrations, env)
    if hasattr(demonstrations, "obs") and hasattr(demonstrations, "acts"):
        demonstrations = [demonstrations]
    if not isinstance(demonstrations, Sequence):
        raise TypeError(
            "demonstrations= takes an OfflineDataset, its file, a replay buffer of SB3's, or a "
            "list of trajectories with obs and acts, got "
            f"{type(demonstrations).__name__}; sb3_ext.offline has readers for Minari, D4RL, "
            "d3rlpy, and from_policy for an expert that you have"
        )
    if not len(demonstrations):
        raise ValueError(
            "demonstrations= got no trajectory at all: record some, with "
            "sb3_ext.offline.from_policy(expert, env, n_episodes=10) say"
        )
    return readers.from_trajectories(demonstrations, env, without_rewards="zero")


class Minibatches:
    """An endless stream of samples: all of them in some order, then all in another, and so on.

    Which samples come next is a function of the seed and of how many were drawn before. So two
    numbers are all that a run has to remember of it.

    :param demonstrations: whose observations and actions they are
    :param observation_space: of the model: that of the data, or with its images' channels first
    :param device: where batches go
    """

    def __init__(
        self, demonstrations: OfflineDataset, observation_space: Space, device: th.device
    ) -> None:
        self.observations = rows_for(demonstrations.observations, observation_space)
        self.actions: Array = demonstrations.actions
        self.device = device
        self._order: tuple[tuple[int, int], Array] | None = None

    def __len__(self) -> int:
        return len(self.actions)

    def fingerprint(self) -> str:
        """What tells this data from other data: a checkpoint names it instead of holding it."""
        return fingerprint({"observations": self.observations, "actions": self.actions})

    def rows(self, seed: int, drawn: int, size: int) -> Array:
        """Which samples come next, ``[size]``; batches run on from one order into the next.

        :param seed: of all orders
        :param drawn: how many came before
        """
        parts = []
        while size:
            epoch, start = divmod(drawn, len(self))
            if self._order is None or self._order[0] != (seed, epoch):
                order = np.random.default_rng([seed, epoch]).permutation(len(self))
                self._order = (seed, epoch), order
            part = self._order[1][start : start + size]
            parts.append(part)
            drawn, size = drawn + len(part), size - len(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def batch(self, rows: Array, normalizer: VecNormalize | None = None) -> tuple[Any, Tensor]:
        """Observations as a policy of SB3 takes them, and actions as its ``evaluate_actions`` does:
        ``[B]`` integers for Discrete, ``[B, ...]`` floats in the environment's units for others.

        :param normalizer: what the observations go through first
        """
        seen: Any = map_observations(lambda values: values[rows], self.observations)
        if normalizer is not None:
            seen = normalizer.normalize_obs(seen)
        tensors = map_observations(lambda values: th.as_tensor(values, device=self.device), seen)
        actions = th.as_tensor(self.actions[rows], device=self.device)
        return tensors, actions if actions.ndim == 1 else actions.float()
