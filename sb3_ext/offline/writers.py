"""A dataset as others want it: a Minari dataset, or a replay buffer of SB3's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer

from sb3_ext.offline.arrays import Array, Observations, map_observations, slices
from sb3_ext.offline.dataset import OfflineDataset
from sb3_ext.offline.readers.opening import require_minari
from sb3_ext.offline.scaling import scaled


def to_minari(dataset: OfflineDataset, dataset_id: str, **options: Any) -> Any:
    """Write a Minari dataset, where Minari keeps its datasets; images without loss.

    ``behavior_log_prob`` goes into the infos, and :func:`from_minari` finds it there.

    :param dataset_id: ``namespace/name-v0``
    :param options: of ``minari.create_dataset_from_buffers``: ``env``, ``author``, ...
    :return: the ``MinariDataset``
    :raises ImportError: if Minari is not installed
    :raises ValueError: if an id is taken, or an episode's observations do not follow each other,
        because Minari stores each observation once
    """
    minari = require_minari()
    from minari.data_collector import EpisodeBuffer

    _require_chained(dataset)

    def buffers() -> Iterator[Any]:
        for number, rows in enumerate(dataset.episodes()):
            log_prob = dataset.behavior_log_prob
            yield EpisodeBuffer(
                id=number,
                observations=map_observations(
                    lambda seen, follow, rows=rows: np.concatenate(
                        [seen[rows], follow[rows.stop - 1 : rows.stop]]
                    ),
                    dataset.observations,
                    dataset.next_observations,
                ),
                actions=dataset.actions[rows],
                rewards=dataset.rewards[rows],
                terminations=dataset.terminated[rows],
                truncations=dataset.truncated[rows],
                infos=None if log_prob is None else {"behavior_log_prob": log_prob[rows]},
            )

    given = {
        "observation_space": dataset.observation_space,
        "action_space": dataset.action_space,
        "jpeg_encoding": False,
    }
    return minari.create_dataset_from_buffers(
        dataset_id=dataset_id, buffer=buffers(), **{**given, **options}
    )


def _require_chained(dataset: OfflineDataset) -> None:
    ends = np.zeros(len(dataset), dtype=np.bool_)
    ends[dataset.episode_starts[1:] - 1] = ends[-1] = True

    def compare(seen: Array, follow: Array) -> None:
        for rows in slices(seen[1:]):
            stop = min(rows.stop, len(seen) - 1)
            after = seen[rows.start + 1 : stop + 1].reshape(stop - rows.start, -1)
            said = follow[rows.start : stop].reshape(stop - rows.start, -1)
            broken = (after != said).any(axis=1) & ~ends[rows.start : stop]
            if broken.any():
                row = rows.start + int(np.argmax(broken))
                raise ValueError(
                    f"transition {row} is followed by another observation than its own "
                    "next_observations say; Minari stores each observation once, so an episode "
                    "must end there"
                )

    map_observations(compare, dataset.observations, dataset.next_observations)


def to_replay_buffer(
    dataset: OfflineDataset,
    *,
    buffer_size: int | None = None,
    device: Any = "cpu",
) -> ReplayBuffer:
    """Fill a replay buffer of SB3's, of one environment, as its own algorithms would have.

    Box actions are scaled to [-1, 1]; ``dones`` hold both ends of episodes, ``timeouts`` tell them
    apart. :func:`from_replay_buffer` reads the same dataset from it.

    :param buffer_size: room for more than the dataset; default: as large as it is
    :param device: for the batches
    :raises ValueError: if it does not fit in, or a Box of actions has no bounds
    """
    n, size = len(dataset), len(dataset) if buffer_size is None else buffer_size
    if size < n:
        raise ValueError(f"buffer_size={size} is too small for {n} transitions")
    space = dataset.observation_space
    kind = DictReplayBuffer if isinstance(space, spaces.Dict) else ReplayBuffer
    buffer = kind(size, space, dataset.action_space, device=device, n_envs=1)  # type: ignore[arg-type]
    for name in ("observations", "next_observations"):
        held: Observations = getattr(dataset, name)
        map_observations(_fill, getattr(buffer, name), held)
    flat = dataset.actions.reshape(n, -1)
    for rows in slices(flat):
        part = flat[rows]
        if isinstance(dataset.action_space, spaces.Box):
            part = scaled(part, dataset.action_space)
        buffer.actions[:n, 0][rows] = part
    buffer.rewards[:n, 0] = dataset.rewards
    buffer.dones[:n, 0] = dataset.terminated | dataset.truncated
    buffer.timeouts[:n, 0] = dataset.truncated & ~dataset.terminated
    buffer.full, buffer.pos = size == n, n % size
    return buffer


def _fill(target: Array, values: Array) -> None:
    target[: len(values), 0] = values.reshape(len(values), *target.shape[2:])
