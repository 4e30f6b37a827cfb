"""Minari datasets: from the package, or from its HDF5 files alone."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_ext.offline.dataset import OfflineDataset
from sb3_ext.offline.readers.columns import (
    Columns,
    NonFinite,
    OutOfBounds,
    count_rows,
    kept_of_episode,
)
from sb3_ext.offline.readers.opening import open_hdf5, require_minari, spaces_of
from sb3_ext.offline.spaces import Space, space_from_json

_FILE = "main_data.hdf5"


def from_minari(
    id_or_path: str | os.PathLike[str] | Any,
    *,
    download: bool = False,
    out_of_bounds: OutOfBounds = "raise",
    non_finite: NonFinite = "raise",
) -> OfflineDataset:
    """Read a Minari dataset.

    HDF5 is read with h5py alone, whether Minari is installed or not; other storage needs Minari.
    Episodes have T + 1 observations for T actions; a few old datasets have T, where the last
    transition is dropped unless it terminated.

    :param id_or_path: an id such as ``mujoco/hopper/medium-v0``, looked for where Minari keeps its
        datasets; the dataset's folder; or a ``MinariDataset``, filtered say
    :param download: whether Minari may fetch an id that is not there
    :param out_of_bounds: ``"clip"`` sets actions on the bound that lie over it
    :param non_finite: ``"drop"`` leaves out episodes with NaN or infinity
    :raises FileNotFoundError: if it is not there
    :raises ImportError: if a package is missing, with the line that installs it
    :raises ValueError: if it is no such dataset
    """
    if hasattr(id_or_path, "iterate_episodes"):
        columns, source = _read_package(id_or_path)
    else:
        folder = _folder(id_or_path, download)
        metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
        if metadata.get("data_format", "hdf5") == "hdf5" and (folder / _FILE).exists():
            columns, source = _read_files(folder, metadata)
        else:
            columns, source = _read_package(require_minari().MinariDataset(folder))
        source["path"] = str(folder)
    return columns.dataset(
        {"format": "minari", **source}, out_of_bounds=out_of_bounds, non_finite=non_finite
    )


def _folder(id_or_path: Any, download: bool) -> Path:
    """The folder with ``metadata.json``."""
    given = Path(id_or_path).expanduser()
    root = os.environ.get("MINARI_DATASETS_PATH")
    home = Path(root) if root else Path.home() / ".minari" / "datasets"
    for _ in range(2):
        for candidate in (given, given / "data", given.parent, home / given / "data"):
            if (candidate / "metadata.json").is_file() and not (
                candidate == given.parent and given.name != _FILE
            ):
                return candidate
        if not download:
            break
        require_minari().download_dataset(str(id_or_path))
        download = False
    raise FileNotFoundError(
        f"there is no Minari dataset {str(id_or_path)!r}: neither is it a folder with "
        f"metadata.json in it or in its data/, nor an id under {home}. Fetch it "
        f"with `minari download {id_or_path}`, or by sb3_ext.offline.from_minari("
        f"{str(id_or_path)!r}, download=True)"
    )


# -- files ---------------------------------------------------------------------------------------


def _read_files(folder: Path, metadata: Mapping[str, Any]) -> tuple[Columns, dict[str, Any]]:
    observation_space, action_space, env_id = _spaces(metadata)
    with open_hdf5(folder / _FILE) as file:
        groups = sorted(
            (name for name in file if name.startswith("episode_")),
            key=lambda name: int(name.removeprefix("episode_")),
        )
        if not groups:
            raise ValueError(f"{folder / _FILE} is empty: it has no episodes")
        if "rewards" not in file[groups[0]]:
            raise ValueError(f"{folder / _FILE} has no rewards")
        length = 0
        for name in groups:
            group = file[name]
            steps = len(group["rewards"])
            last = bool(group["terminations"][-1]) if steps else False
            length += kept_of_episode(_count(group["observations"]), steps, last) if steps else 0
        columns = Columns(length, observation_space, action_space)
        total = 0
        for name in groups:
            group = file[name]
            if not len(group["rewards"]):
                continue
            total += len(group["rewards"])
            infos = group.get("infos")
            log_prob = infos.get("behavior_log_prob") if infos is not None else None
            columns.put_episode(
                _decode(group["observations"], observation_space),
                _decode(group["actions"], action_space),
                group["rewards"][()],
                group["terminations"][()],
                group["truncations"][()],
                None if log_prob is None else log_prob[()],
            )
    _note_dropped(columns, total)
    return columns, {"id": metadata.get("dataset_id"), "env_id": env_id}


def _spaces(metadata: Mapping[str, Any]) -> tuple[Space, Space, str | None]:
    spec = json.loads(metadata["env_spec"]) if metadata.get("env_spec") else {}
    env_id = spec.get("id") if isinstance(spec, dict) else None
    found: list[Space | None] = [
        space_from_json(json.loads(metadata[name])) if metadata.get(name) else None
        for name in ("observation_space", "action_space")
    ]
    if None in found:  # old datasets name the environment only
        if env_id is None:
            raise ValueError("the dataset's metadata has neither its spaces nor its environment")
        found = list(spaces_of(env_id, *found)[:2])
    observation_space, action_space = found
    assert observation_space is not None
    assert action_space is not None
    return observation_space, action_space, env_id


def _count(stored: Any) -> int:
    while hasattr(stored, "keys"):
        stored = stored[next(iter(stored.keys()))]
    return len(stored)


def _decode(stored: Any, space: Space) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _decode(stored[key], part) for key, part in space.spaces.items()}
    values = stored[()]
    shape = tuple(space.shape or ())
    if values.shape[1:] != shape and space.dtype == np.uint8 and values.ndim <= 2:
        return _decode_jpeg(values, shape)
    return values


def _decode_jpeg(rows: Any, shape: tuple[int, ...]) -> Any:
    from PIL import Image  # matplotlib brings it

    images = np.empty((len(rows), *shape), dtype=np.uint8)
    for image, row in zip(images, rows, strict=True):
        image[...] = np.asarray(Image.open(io.BytesIO(np.asarray(row).tobytes())))
    return images


# -- the package ---------------------------------------------------------------------------------


def _read_package(dataset: Any) -> tuple[Columns, dict[str, Any]]:
    length = total = 0
    for episode in dataset.iterate_episodes():
        steps = len(episode.rewards)
        total += steps
        if steps:
            n_observations = count_rows(episode.observations)
            length += kept_of_episode(n_observations, steps, bool(episode.terminations[-1]))
    columns = Columns(length, dataset.observation_space, dataset.action_space)
    for episode in _with_steps(dataset):
        infos = episode.infos or {}
        columns.put_episode(
            episode.observations,
            episode.actions,
            episode.rewards,
            episode.terminations,
            episode.truncations,
            infos.get("behavior_log_prob"),
        )
    _note_dropped(columns, total)
    spec = dataset.env_spec
    return columns, {"id": dataset.id, "env_id": None if spec is None else spec.id}


def _with_steps(dataset: Any) -> Iterator[Any]:
    yield from (episode for episode in dataset.iterate_episodes() if len(episode.rewards))


def _note_dropped(columns: Columns, total: int) -> None:
    if total > columns.filled:
        columns.notes.append(
            f"{total - columns.filled} transitions dropped, the last of episodes without their "
            "final observation"
        )
