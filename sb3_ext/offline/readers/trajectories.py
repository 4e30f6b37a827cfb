"""Trajectories of the package `imitation`, by what they hold, without the package."""

from __future__ import annotations

import json
import os
import pickle
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from gymnasium import spaces

from sb3_ext.offline.dataset import OfflineDataset
from sb3_ext.offline.readers.columns import Columns, NonFinite, OutOfBounds
from sb3_ext.offline.readers.opening import (
    existing,
    observation_space_like,
    require_action_space,
    spaces_of,
    unpickle,
    warn_of_pickle,
)
from sb3_ext.offline.spaces import Space

_TIME_LIMIT = "TimeLimit.truncated"


def from_trajectories(
    trajectories: Any,
    env: Any = None,
    *,
    allow_pickle: bool = False,
    observation_space: Space | None = None,
    action_space: Space | None = None,
    time_limit: int | None = None,
    out_of_bounds: OutOfBounds = "raise",
    non_finite: NonFinite = "raise",
    without_rewards: Literal["raise", "zero"] = "raise",
) -> OfflineDataset:
    """Read imitation's ``TrajectoryWithRew``, or files that its ``serialize.save`` wrote.

    Anything with ``obs`` (T + 1), ``acts``, ``rews``, ``infos`` and ``terminal`` will do. There,
    ``terminal`` is true for every finished episode, also one that a time limit cut; which it was
    stands in the last of the ``infos``.

    :param trajectories: a sequence of them; a folder (read with pyarrow), an ``.npz``, a pickle
    :param env: what gives the spaces: an id, an environment or two spaces
    :param allow_pickle: pickles, and the infos of an ``.npz``, run their author's code when they
        are read; without True that is refused
    :param observation_space: default: the environment's, else any float
    :param action_space: default: the environment's
    :param time_limit: of trajectories without infos: steps after which episodes were cut
    :param out_of_bounds: ``"clip"`` sets actions on the bound that lie over it
    :param non_finite: ``"drop"`` leaves out episodes with NaN or infinity
    :param without_rewards: ``"zero"`` takes demonstrations that have none, to learn actions from
    :raises ValueError: for trajectories without rewards, and for pickles without permission
    """
    source: dict[str, Any] = {"format": "trajectories"}
    if isinstance(trajectories, (str, os.PathLike)):
        source["path"] = str(trajectories)
        trajectories = _open(trajectories, allow_pickle, time_limit)
    if not isinstance(trajectories, Sequence) or not len(trajectories):
        raise ValueError(
            "trajectories must be a sequence of at least one trajectory, got "
            f"{type(trajectories).__name__}"
        )
    first = trajectories[0]
    blank = without_rewards == "zero"
    _require_columns(first, blank)
    observation_space, action_space, source["env_id"] = spaces_of(
        env, observation_space, action_space
    )
    action_space = require_action_space(action_space, "a trajectory")
    observation_space = observation_space or _space_like(_observations(first.obs))
    lengths = [len(one.acts) for one in trajectories]
    columns = Columns(sum(lengths), observation_space, action_space)
    blind = unpaid = 0
    for one in trajectories:
        _require_columns(one, blank)
        rewards = getattr(one, "rews", None)
        if rewards is None:
            rewards, unpaid = np.zeros(len(one.acts)), unpaid + 1
        cut = _was_cut(one, time_limit)
        finished = bool(getattr(one, "terminal", True))
        blind += finished and cut is None
        columns.put_episode(
            _observations(one.obs), one.acts, rewards, finished and not cut, finished and bool(cut)
        )
    if unpaid:
        columns.notes.append(f"{unpaid} of {len(lengths)} trajectories have no rewards: 0 stands")
    if time_limit is not None:
        columns.notes.append(f"episodes of {time_limit} steps count as cut where no info tells")
    if blind:
        told = (
            f"{blind} of {len(lengths)} trajectories have no infos, so a time limit cannot be told "
            "from a termination: they count as terminated"
        )
        columns.notes.append(told)
        warnings.warn(f"{told}. Pass time_limit=", UserWarning, stacklevel=2)
    return columns.dataset(source, out_of_bounds=out_of_bounds, non_finite=non_finite)


def _require_columns(trajectory: Any, without_rewards: bool) -> None:
    lacking = [name for name in ("obs", "acts") if not hasattr(trajectory, name)]
    if lacking:
        raise ValueError(
            f"a {type(trajectory).__name__} is no trajectory: it lacks {', '.join(lacking)}"
        )
    if not without_rewards and getattr(trajectory, "rews", None) is None:
        raise ValueError(
            f"a {type(trajectory).__name__} has no rewards, which offline reinforcement learning "
            "needs: record TrajectoryWithRew, as imitation's rollouts do, or learn the actions "
            'alone, by an algorithm that takes demonstrations= (without_rewards="zero" here)'
        )


def _was_cut(trajectory: Any, time_limit: int | None) -> bool | None:
    """Whether a time limit ended it; None if nothing says so."""
    infos = getattr(trajectory, "infos", None)
    if infos is not None and len(infos):
        last = infos[-1]
        if isinstance(last, Mapping) and _TIME_LIMIT in last:
            return bool(last[_TIME_LIMIT])
        if isinstance(last, Mapping) and last and time_limit is None:
            return False  # Gymnasium's wrappers and SB3's VecEnvs say so where it was
    if time_limit is not None:
        return len(trajectory.acts) == time_limit
    return None


def _observations(values: Any) -> Any:
    """imitation's DictObs as the dict that it wraps."""
    wrapped = getattr(values, "_d", values)
    return dict(wrapped) if isinstance(wrapped, Mapping) else np.asarray(wrapped)


def _space_like(values: Any) -> Space:
    def of(one: Any) -> Space:
        array = np.asarray(one)
        return observation_space_like(array.shape[1:], array.dtype, "a trajectory")

    if isinstance(values, dict):
        return spaces.Dict({key: of(one) for key, one in values.items()})
    return of(values)


# -- files ---------------------------------------------------------------------------------------


class _Trajectory(types.SimpleNamespace):
    """What a pickled class of imitation becomes."""


class _Unpickler(pickle.Unpickler):
    """Finds the classes of imitation without the package."""

    def find_class(self, module: str, name: str) -> Any:
        """The class, or a plain stand-in for one of imitation's."""
        if module.partition(".")[0] == "imitation":
            return _Trajectory
        return super().find_class(module, name)


def _open(path: Any, allow_pickle: bool, time_limit: int | None) -> Sequence[Any]:
    target = existing(path)
    if target.is_dir():
        return list(_from_folder(target))
    with target.open("rb") as file:
        zipped = file.read(2) == b"PK"
    if zipped:
        return _from_npz(target, allow_pickle, time_limit)
    found: Any = unpickle(target, allow_pickle, lambda file: _Unpickler(file).load())
    return list(found)


def _from_npz(path: Path, allow_pickle: bool, time_limit: int | None) -> list[_Trajectory]:
    with np.load(path, allow_pickle=False) as archive:
        names = archive.files
        missing = {"obs", "acts", "terminal", "indices"} - set(names)
        if missing:
            raise ValueError(f"{path} holds no trajectories: it lacks {', '.join(sorted(missing))}")
        terminal, indices = archive["terminal"], archive["indices"]
        arrays: dict[str, Any] = {
            "obs": np.split(archive["obs"], indices + np.arange(len(indices)) + 1),
            "acts": np.split(archive["acts"], indices),
        }
        if "rews" in names:
            arrays["rews"] = np.split(archive["rews"], indices)
    if "infos" in names and allow_pickle is True:
        warn_of_pickle(path)
        with np.load(path, allow_pickle=True) as archive:
            arrays["infos"] = np.split(archive["infos"], indices)
    elif "infos" in names and time_limit is None:
        raise ValueError(
            f"{path} says in pickled infos which episodes a time limit cut, and reading a pickle "
            "runs its author's code: pass allow_pickle=True if you trust it, or time_limit="
        )
    # np.split also cuts behind the last one; terminal has the count.
    return [
        _Trajectory(**{name: parts[i] for name, parts in arrays.items()}, terminal=bool(end))
        for i, end in enumerate(terminal)
    ]


def _from_folder(folder: Path) -> Iterator[_Trajectory]:
    """A folder that the package datasets wrote: Arrow files, one row a trajectory."""
    try:
        import pyarrow as arrow
    except ImportError as error:
        raise ImportError(
            f"{folder} holds Arrow files, which need pyarrow: pip install pyarrow"
        ) from error
    files = sorted(folder.glob("*.arrow"))
    if not files:
        raise ValueError(f"{folder} holds no trajectories: there are no .arrow files in it")
    for path in files:
        with arrow.memory_map(str(path)) as file, arrow.ipc.open_stream(file) as stream:
            for batch in stream:
                for row in range(batch.num_rows):
                    one = {name: batch[name][row] for name in batch.schema.names}
                    infos = one.pop("infos", None)
                    yield _Trajectory(
                        **{
                            name: _array(value) for name, value in one.items() if name != "terminal"
                        },
                        terminal=bool(one["terminal"].as_py()),
                        infos=None if infos is None else [_info(infos[-1].as_py())],
                    )


def _array(value: Any) -> Any:
    """A list of lists as an array, without a Python object a number where it is flat inside."""
    shape, flat = [], value.values if hasattr(value, "values") else None
    if flat is None:
        return np.asarray(value.as_py())
    shape.append(len(flat))
    while hasattr(flat, "flatten") and str(flat.type).startswith(("list", "fixed", "large_list")):
        inner = flat.flatten()
        shape.append(len(inner) // max(len(flat), 1))
        flat = inner
    return flat.to_numpy(zero_copy_only=False).reshape(shape)


def _info(text: str) -> dict[str, Any]:
    """The one entry that counts, from jsonpickle's JSON; nothing in it is run."""
    found = json.loads(text)
    if not isinstance(found, dict) or _TIME_LIMIT not in found:
        return {"": None} if found else {}
    told = found[_TIME_LIMIT]
    if not isinstance(told, bool):  # one of NumPy's, with its byte in base64
        bytes_of = [code for code in ("AQ==", "AA==") if f'"{code}"' in json.dumps(told)]
        if len(bytes_of) != 1:
            raise ValueError(
                f"{_TIME_LIMIT} cannot be read from an info: {told!r}; pass time_limit="
            )
        told = bytes_of == ["AQ=="]
    return {_TIME_LIMIT: told}
