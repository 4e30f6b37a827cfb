"""SB3's replay buffers: rings of several environments, in the order in which things happened."""

from __future__ import annotations

import os
from typing import Any

from sb3_ext.offline.dataset import OfflineDataset
from sb3_ext.offline.readers.columns import NonFinite, OutOfBounds
from sb3_ext.offline.readers.opening import unpickle
from sb3_ext.offline.readers.ring import read_ring
from sb3_ext.offline.spaces import Space

_ARRAYS = ("observations", "actions", "rewards", "dones")


def from_replay_buffer(
    buffer_or_path: Any | str | os.PathLike[str],
    *,
    allow_pickle: bool = False,
    observation_space: Space | None = None,
    action_space: Space | None = None,
    scaled_actions: bool = True,
    time_limit: int | None = None,
    env_id: str | None = None,
    out_of_bounds: OutOfBounds = "raise",
    non_finite: NonFinite = "raise",
) -> OfflineDataset:
    """Read a replay buffer of SB3's or ours, or the pickle that ``save_replay_buffer`` wrote.

    The episodes of one environment follow each other in the order of time, then come those of the
    next. An episode that the buffer stops in counts as cut there; so does one that is followed by a
    transition which begins elsewhere (the environment was reset by a new call of ``learn``).

    A ``TrajectoryReplayBuffer`` keeps what came last at time limits, but not what a termination led
    to: there the observation before it stands in its place. Box actions are set on the bound as the
    environment got them; of Discrete ones it knows ``behavior_log_prob``.

    :param buffer_or_path: a ``ReplayBuffer``, ``DictReplayBuffer``, ``NStepReplayBuffer``,
        ``TrajectoryReplayBuffer``; a path
    :param allow_pickle: reading a pickle runs its author's code; without True it is refused
    :param observation_space: for an old buffer that lacks it
    :param action_space: likewise
    :param scaled_actions: SB3's algorithms store Box actions in [-1, 1], and they are brought back
        to the environment's units; False for a buffer that was filled by hand in these units
    :param time_limit: for buffers that do not tell a time limit from a termination (before SB3 2.1,
        or with ``optimize_memory_usage``): episodes of this length were cut, not terminated
    :param env_id: of the environment, for the dataset's source
    :param out_of_bounds: ``"clip"`` sets actions on the bound that lie over it
    :param non_finite: ``"drop"`` leaves out episodes with NaN or infinity
    :raises ValueError: for a pickle without permission, and what is no replay buffer
    """
    source: dict[str, Any] = {"format": "replay_buffer", "env_id": env_id}
    owned = isinstance(buffer_or_path, (str, os.PathLike))
    buffer = buffer_or_path
    if owned:
        buffer = unpickle(buffer_or_path, allow_pickle)
        source["path"] = str(buffer_or_path)
    held = dict(vars(buffer)) if hasattr(buffer, "__dict__") else {}
    missing = [name for name in _ARRAYS if held.get(name) is None]
    if missing:
        raise ValueError(
            f"{source.get('path', 'what was passed')} holds a {type(buffer).__name__}, which is no "
            f"replay buffer of SB3's: it lacks {', '.join(missing)}"
        )
    if owned:  # so that each array can go as soon as it is copied
        vars(buffer).clear()
    observation_space = held.get("observation_space") or observation_space
    action_space = held.get("action_space") or action_space
    if observation_space is None or action_space is None:
        raise ValueError(
            "the buffer lacks its spaces, as those of old versions of SB3 do: pass "
            "observation_space= and action_space="
        )
    columns = read_ring(
        held, observation_space, action_space, scaled=scaled_actions, time_limit=time_limit
    )
    return columns.dataset(source, out_of_bounds=out_of_bounds, non_finite=non_finite)
