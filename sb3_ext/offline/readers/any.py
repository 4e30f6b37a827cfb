"""One door for the command line: the reader that a text or a path asks for."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sb3_ext.errors import UsageError
from sb3_ext.offline.dataset import OfflineDataset
from sb3_ext.offline.files import is_dataset
from sb3_ext.offline.readers.d3rlpy import from_d3rlpy
from sb3_ext.offline.readers.d4rl import from_d4rl
from sb3_ext.offline.readers.minari import from_minari
from sb3_ext.offline.readers.opening import open_hdf5, spaces_of
from sb3_ext.offline.readers.replay_buffer import from_replay_buffer
from sb3_ext.offline.readers.trajectories import from_trajectories

Reader = Callable[..., OfflineDataset]
_MINARI = "minari:"


def load_dataset(text_or_path: str | os.PathLike[str], **options: Any) -> OfflineDataset:
    """Read a dataset of any kind.

    :param text_or_path: ``minari:ID``; a file that ``OfflineDataset.save`` wrote; an HDF5 file of
        Minari, D4RL or d3rlpy, told apart by their keys; a pickle of a replay buffer or of
        trajectories; a folder of Minari's or of trajectories; an ``.npz`` of trajectories
    :param options: of the reader; ``env=`` gives the spaces to formats that lack them, and has to
        fit the data of those that have them
    :raises ValueError: if the data does not fit ``env``
    :raises UsageError: if nothing is there, it is none of these, or the reader has no such option
    """
    reader, argument = _reader(text_or_path)
    known = inspect.signature(reader).parameters
    checked = None
    if "env" not in known:
        checked = options.pop("env", None)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UsageError(
            f"{reader.__name__}, which reads {text_or_path}, has no option {', '.join(unknown)}; "
            f"it has {', '.join(list(known)[1:]) or 'none'}"
        )
    dataset = reader(argument, **options)
    if checked is not None:
        observation_space, action_space, _ = spaces_of(checked)
        dataset.require_fits((observation_space, action_space))
    return dataset


def load_demonstrations(text_or_path: str | os.PathLike[str], env: Any = None) -> OfflineDataset:
    """The same to learn actions from: what has no rewards gets zeros.

    :param env: what gives the spaces to formats that lack them
    """
    reader, _ = _reader(text_or_path)
    known = inspect.signature(reader).parameters
    options: dict[str, Any] = {"without_rewards": "zero"} if "without_rewards" in known else {}
    if "env" in known and env is not None:
        options["env"] = env
    return load_dataset(text_or_path, **options)


def _reader(text_or_path: str | os.PathLike[str]) -> tuple[Reader, Any]:
    text = os.fspath(text_or_path)
    if text.startswith(_MINARI):
        return from_minari, text.removeprefix(_MINARI)
    path = Path(text).expanduser()
    if not path.exists():
        raise UsageError(
            f"there is no dataset {text}: pass a file, a folder, or minari:ID for one of Minari's"
        )
    if path.is_dir():
        if (path / "metadata.json").exists() or (path / "data" / "metadata.json").exists():
            return from_minari, path
        if any(path.glob("*.arrow")):
            return from_trajectories, path
        raise UsageError(
            f"the folder {text} holds neither a Minari dataset (metadata.json) nor trajectories "
            "(.arrow files)"
        )
    with path.open("rb") as file:
        begin = file.read(4096)
    if begin.startswith(b"\x89HDF"):
        return _hdf5_reader(path), path
    if begin.startswith(b"PK"):
        return (_load_ours if is_dataset(path) else from_trajectories), path
    if begin.startswith(b"\x80"):
        return _pickle_reader(begin), path
    raise UsageError(
        f"{text} is no dataset that can be read: it is neither .npz, HDF5 nor a pickle"
    )


def _load_ours(path: Path) -> OfflineDataset:
    return OfflineDataset.load(path)


def _pickle_reader(begin: bytes) -> Reader:
    """By the names of classes at a pickle's beginning, which is not run for that."""
    return from_trajectories if b"imitation" in begin else from_replay_buffer


def _hdf5_reader(path: Path) -> Reader:
    with open_hdf5(path) as file:
        keys = set(file)
    if "num_episodes" in keys or {"episode_terminals", "discrete_action"} & keys:
        return from_d3rlpy
    if "terminals" in keys:
        return from_d4rl
    if any(key.startswith("episode_") for key in keys):
        return from_minari
    raise UsageError(
        f"{path} is HDF5, but neither Minari's, D4RL's nor d3rlpy's: it has "
        f"{', '.join(sorted(keys)[:8])}"
    )
