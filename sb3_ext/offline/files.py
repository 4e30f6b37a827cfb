"""A dataset as one .npz file: arrays without pickle, spaces and source as JSON."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from sb3_ext.offline.dataset import OfflineDataset
from sb3_ext.offline.spaces import space_from_json, space_to_json

FORMAT, VERSION = "sb3_ext.offline", 1
_HEADER = "header"
_COLUMNS = ("actions", "rewards", "terminated", "truncated", "episode_starts")
_OBSERVATIONS = ("observations", "next_observations")


def save(dataset: OfflineDataset, path: str | os.PathLike[str], *, compressed: bool = False) -> str:
    """Write a dataset; the file is there whole or not at all.

    :param path: ``.npz`` is added if it has no ending
    :param compressed: smaller and slower
    :return: the file's path
    """
    target = Path(path)
    if not target.suffix:
        target = target.with_suffix(".npz")
    header: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "observation_space": space_to_json(dataset.observation_space),
        "action_space": space_to_json(dataset.action_space),
        "source": dict(dataset.source),
    }
    arrays = {name: getattr(dataset, name) for name in _COLUMNS}
    for name in _OBSERVATIONS:
        held = getattr(dataset, name)
        if isinstance(held, dict):
            # By number: a key may hold what a file's name cannot.
            header["keys"] = list(held)
            arrays |= {f"{name}.{i}": part for i, part in enumerate(held.values())}
        else:
            arrays[name] = held
    if dataset.behavior_log_prob is not None:
        arrays["behavior_log_prob"] = dataset.behavior_log_prob
    arrays[_HEADER] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    write = np.savez_compressed if compressed else np.savez
    try:
        with partial.open("wb") as file:
            write(file, **arrays)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return str(target)


def load(path: str | os.PathLike[str]) -> OfflineDataset:
    """Read what :func:`save` wrote, without pickle.

    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if it is another kind of file, damaged, or of a newer version
    """
    target = Path(path)
    if not target.exists() and not target.suffix:
        target = target.with_suffix(".npz")
    refusal = f"{target} is not a dataset that OfflineDataset.save wrote"
    try:
        # Opened here, because np.load leaves a damaged file open.
        with target.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile) or _HEADER not in archive.files:
                raise ValueError(refusal)
            header = json.loads(archive[_HEADER].tobytes())
            if header.get("format") != FORMAT:
                raise ValueError(refusal)
            if header["version"] > VERSION:
                raise ValueError(
                    f"{target} was written by a newer version of sb3-ext (format "
                    f"{header['version']}, this one reads up to {VERSION}): upgrade sb3-ext"
                )
            arrays: dict[str, Any] = {name: archive[name] for name in _COLUMNS}
            for name in _OBSERVATIONS:
                if "keys" in header:
                    keys = enumerate(header["keys"])
                    arrays[name] = {key: archive[f"{name}.{i}"] for i, key in keys}
                else:
                    arrays[name] = archive[name]
            if "behavior_log_prob" in archive.files:
                arrays["behavior_log_prob"] = archive["behavior_log_prob"]
    except (zipfile.BadZipFile, EOFError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{refusal}, or it is damaged: {error}") from error
    return OfflineDataset(
        **arrays,
        observation_space=space_from_json(header["observation_space"]),
        action_space=space_from_json(header["action_space"]),
        source=header["source"],
    )


def is_dataset(path: str | os.PathLike[str]) -> bool:
    """Whether a zip archive looks like what :func:`save` wrote."""
    try:
        with zipfile.ZipFile(path) as archive:
            return f"{_HEADER}.npy" in archive.namelist()
    except zipfile.BadZipFile:
        return False
