"""Doors of the readers: optional packages, HDF5 files, pickles, and spaces that a file lacks."""

from __future__ import annotations

import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_ext.offline.spaces import Space

INSTALL = 'pip install "sb3-ext[offline]"'


def require_h5py() -> Any:
    """The module ``h5py``, or an error that names the extra."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"reading HDF5 needs h5py, which is not installed: {INSTALL}") from error
    return h5py


def require_minari() -> Any:
    """The module ``minari``, or an error that names the extra."""
    try:
        import minari
    except ImportError as error:
        raise ImportError(
            f"this needs the package minari, which is not installed: {INSTALL}"
        ) from error
    return minari


def open_hdf5(path: str | os.PathLike[str]) -> Any:
    """An HDF5 file for reading.

    :raises FileNotFoundError: if there is none
    :raises ValueError: if it is another kind of file
    """
    h5py, target = require_h5py(), existing(path)
    if not target.is_file() or not h5py.is_hdf5(target):
        raise ValueError(f"{target} is no HDF5 file")
    return h5py.File(target, "r")


def existing(path: str | os.PathLike[str]) -> Path:
    """The path, if something is there.

    :raises FileNotFoundError: with the path, if nothing is
    """
    target = Path(path).expanduser()
    if not target.exists():
        raise FileNotFoundError(f"there is no file or folder {target}")
    return target


def unpickle(path: str | os.PathLike[str], allow_pickle: bool, load: Any = pickle.load) -> Any:
    """What a pickle holds, if the caller trusts it.

    :param load: called with the open file
    :raises ValueError: if ``allow_pickle`` is not True, or the file cannot be read
    """
    target = existing(path)
    if allow_pickle is not True:
        raise ValueError(
            f"{target} is a pickle, and reading a pickle runs whatever code its author put into "
            "it. If you made it yourself or trust who did, pass allow_pickle=True, and save the "
            "dataset with OfflineDataset.save, whose files run nothing"
        )
    warn_of_pickle(target)
    try:
        with target.open("rb") as file:
            return load(file)
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError) as error:
        raise ValueError(
            f"{target} could not be unpickled ({type(error).__name__}: {error}): it is damaged, no "
            "pickle, or from packages that are not installed here in that version"
        ) from error


def warn_of_pickle(path: Path) -> None:
    """Say that reading a file runs code."""
    warnings.warn(
        f"reading the pickle {path}: this runs whatever code its author put into it",
        UserWarning,
        stacklevel=4,
    )


def spaces_of(
    env: Any, observation_space: Space | None = None, action_space: Space | None = None
) -> tuple[Space | None, Space | None, str | None]:
    """Spaces from what the caller gave, and the environment's id where it is known.

    :param env: an id, an environment, a VecEnv, a model, ``(observation_space, action_space)``,
        or None
    :param observation_space: goes before the environment's
    :param action_space: likewise
    """
    found: tuple[Any, Any] = (None, None)
    env_id = None
    if isinstance(env, str):
        import gymnasium as gym

        made = gym.make(env)
        found, env_id = (made.observation_space, made.action_space), env
        made.close()
    elif isinstance(env, tuple):
        found = env
    elif env is not None:
        found = (env.observation_space, env.action_space)
        env_id = getattr(getattr(env, "spec", None), "id", None)
    return observation_space or found[0], action_space or found[1], env_id


class SpacesUnknownError(ValueError):
    """Data do not say their spaces, and nobody else did."""


def require_action_space(action_space: Space | None, what: str) -> Space:
    """The action space, which cannot be guessed from data.

    :raises SpacesUnknownError: if it is not known
    """
    if action_space is None:
        raise SpacesUnknownError(
            f"{what} does not say which actions are allowed, and the largest one in the data is no "
            'bound: pass env="Hopper-v5", say, or action_space='
        )
    return action_space


def observation_space_like(shape: tuple[int, ...], dtype: Any, what: str) -> Space:
    """The space of observations that a file has without bounds: any float, or images.

    :param shape: of one observation
    :raises SpacesUnknownError: for integers that are no images: they may be indices
    """
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return spaces.Box(-np.inf, np.inf, shape, np.float32)
    if dtype == np.uint8 and len(shape) == 3:
        return spaces.Box(0, 255, shape, np.uint8)
    raise SpacesUnknownError(
        f"{what} holds observations of dtype {dtype} and shape {list(shape)}, which may be of more "
        "than one kind of space: pass env= or observation_space="
    )
