"""Transitions that were recorded once: flat arrays, the episodes in them, and where they are from.

Everything of `sb3_ext.offline` reads and writes this one type. Its arrays are checked when it is
made, so what takes one need not ask again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sb3_ext.offline.arrays import (
    Array,
    Observations,
    action_array,
    cast,
    map_observations,
    observation_array,
    require_finite,
)
from sb3_ext.offline.spaces import Space, differences, require_supported

if TYPE_CHECKING:
    from sb3_ext.offline.report import DatasetReport


@dataclass(frozen=True, eq=False)
class OfflineDataset:
    """N transitions in E episodes, each episode one contiguous slice.

    Floats are kept as float32, integers as their space has them. Arrays that have the right dtype
    are taken as they are, not copied.

    :param observations: ``[N, *shape]``, or a dict of such arrays for a Dict space
    :param actions: in the environment's units: ``[N, *shape]`` float32 for a Box, ``[N]`` int64,
        values of the space, for a Discrete
    :param rewards: ``[N]``
    :param next_observations: as ``observations``: what followed, also where the episode ended
    :param terminated: ``[N]`` bool, the task was over; no value follows
    :param truncated: ``[N]`` bool, the episode was cut here: a time limit, or the data end
    :param episode_starts: ``[E]``, the first transition of each episode; ascending, from 0.
        :func:`episode_starts_after` makes them
    :param observation_space: of the environment
    :param action_space: of the environment
    :param source: where it is from and what was done to it, in plain JSON values
    :param behavior_log_prob: ``[N]``, the log of the probability (or density, in the environment's
        units) with which the behaviour took the action, where that is known
    :raises TypeError: for spaces that SB3 cannot take, and dtypes that a space does not allow
    :raises ValueError: for no data, wrong lengths or shapes, NaN or infinity, actions out of
        bounds, and episodes that go on after their end
    """

    observations: Observations
    actions: Array
    rewards: NDArray[np.float32]
    next_observations: Observations
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    episode_starts: NDArray[np.int64]
    observation_space: Space
    action_space: Space
    source: Mapping[str, Any] = field(default_factory=dict)
    behavior_log_prob: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        require_supported(self.observation_space, self.action_space)
        length = _length(self.rewards)
        checked: dict[str, Any] = {}
        for name in ("observations", "next_observations"):
            checked[name] = _observations(getattr(self, name), self.observation_space, name, length)
        checked["actions"] = action_array(
            _of_length(self.actions, "actions", length), self.action_space
        )
        for name in ("rewards", "behavior_log_prob"):
            values = getattr(self, name)
            if values is not None:
                checked[name] = _column(values, name, length, np.dtype(np.float32))
        for name in ("terminated", "truncated"):
            checked[name] = _flags(getattr(self, name), name, length)
        ends = checked["terminated"] | checked["truncated"]
        checked["episode_starts"] = _starts(self.episode_starts, ends)
        try:
            json.dumps(dict(self.source))
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"source must hold plain JSON values, so that it can be saved: {error}"
            ) from error
        for name, values in checked.items():
            object.__setattr__(self, name, values)

    def __len__(self) -> int:
        return len(self.rewards)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({len(self)} transitions, {self.n_episodes} episodes, "
            f"observations {self.observation_space}, actions {self.action_space})"
        )

    @property
    def n_episodes(self) -> int:
        """How many episodes there are."""
        return len(self.episode_starts)

    @property
    def nbytes(self) -> int:
        """Memory of the arrays, in bytes."""
        arrays: list[Array] = []
        for held in vars(self).values():
            if isinstance(held, np.ndarray):
                arrays.append(held)
            elif isinstance(held, dict):
                arrays += [part for part in held.values() if isinstance(part, np.ndarray)]
        return sum(array.nbytes for array in arrays)

    def episodes(self) -> Iterator[slice]:
        """The slice of each episode, in order."""
        ends = [*self.episode_starts[1:].tolist(), len(self)]
        for start, end in zip(self.episode_starts.tolist(), ends, strict=True):
            yield slice(start, end)

    def lengths(self) -> NDArray[np.int64]:
        """How many transitions each episode has, ``[E]``."""
        return np.diff(self.episode_starts, append=len(self))

    def returns(self) -> NDArray[np.float64]:
        """The undiscounted return of each episode, ``[E]``."""
        sums: NDArray[np.float64] = np.add.reduceat(
            self.rewards, self.episode_starts, dtype=np.float64
        )
        return sums

    def report(self) -> DatasetReport:
        """What is in it, for a look before training."""
        from sb3_ext.offline.report import make_report

        return make_report(self)

    def subset(self, *, episodes: Sequence[int] | Array | slice) -> OfflineDataset:
        """Some of the episodes, in the given order.

        A slice of consecutive episodes shares the arrays; any other choice copies.

        :param episodes: numbers from 0 to ``n_episodes - 1``, or a slice of them
        :raises IndexError: for an episode that is not there
        :raises ValueError: for none at all, or one twice
        """
        chosen = np.arange(self.n_episodes)[episodes] if isinstance(episodes, slice) else episodes
        chosen = np.asarray(chosen)
        if chosen.dtype == np.bool_:
            raise ValueError("episodes must be numbers, got booleans: pass numpy.flatnonzero(mask)")
        if chosen.size == 0:
            raise ValueError("a dataset cannot be empty: choose at least one episode")
        if chosen.ndim != 1 or chosen.dtype.kind not in "iu":
            raise ValueError(f"episodes must be a list of whole numbers, got {episodes!r}")
        if chosen.min() < 0 or chosen.max() >= self.n_episodes:
            raise IndexError(
                f"episodes go from 0 to {self.n_episodes - 1}, got {int(chosen.min())} to "
                f"{int(chosen.max())}"
            )
        if len(np.unique(chosen)) < len(chosen):
            raise ValueError("each episode can be chosen once, got some of them twice")
        lengths = self.lengths()[chosen]
        starts = np.cumsum(lengths) - lengths
        rows: Any
        if (np.diff(chosen) == 1).all():
            first = int(self.episode_starts[chosen[0]])
            rows = slice(first, first + int(lengths.sum()))
        else:
            offsets = np.repeat(self.episode_starts[chosen] - starts, lengths)
            rows = np.arange(int(lengths.sum())) + offsets
        log_prob = self.behavior_log_prob
        return replace(
            self,
            **{
                name: map_observations(lambda values: values[rows], getattr(self, name))
                for name in (
                    *("observations", "next_observations", "actions", "rewards"),
                    *("terminated", "truncated"),
                )
            },
            episode_starts=starts,
            source={**self.source, "subset": f"{len(chosen)} of {self.n_episodes} episodes"},
            behavior_log_prob=None if log_prob is None else log_prob[rows],
        )

    @classmethod
    def concatenate(cls, datasets: Sequence[OfflineDataset]) -> OfflineDataset:
        """Several datasets of one environment as one.

        ``behavior_log_prob`` is kept if all of them have it.

        :raises ValueError: if there are none, or their spaces differ
        """
        if not datasets:
            raise ValueError("there is nothing to concatenate: pass at least one dataset")
        first = datasets[0]
        for other in datasets[1:]:
            first.require_fits(
                (other.observation_space, other.action_space),
                name="another dataset",
                remedy="Only data of one environment can be joined",
            )

        def joined(name: str) -> Any:
            return map_observations(
                lambda *arrays: np.concatenate(arrays), *(getattr(one, name) for one in datasets)
            )

        offsets = np.cumsum([0, *(len(one) for one in datasets[:-1])])
        known = all(one.behavior_log_prob is not None for one in datasets)
        return cls(
            observations=joined("observations"),
            actions=joined("actions"),
            rewards=joined("rewards"),
            next_observations=joined("next_observations"),
            terminated=joined("terminated"),
            truncated=joined("truncated"),
            episode_starts=np.concatenate(
                [one.episode_starts + offset for one, offset in zip(datasets, offsets, strict=True)]
            ),
            observation_space=first.observation_space,
            action_space=first.action_space,
            source={"format": "concatenated", "parts": [dict(one.source) for one in datasets]},
            behavior_log_prob=joined("behavior_log_prob") if known else None,
        )

    def require_fits(
        self,
        env: Any,
        *,
        name: str = "the environment",
        remedy: str = "Use the environment that the data was recorded in, or wrap it alike",
    ) -> None:
        """Refuse an environment that this data cannot be of.

        :param env: an environment, its id, a VecEnv, a model, or
            ``(observation_space, action_space)``
        :param name: what to call it in the error
        :param remedy: how the error ends
        :raises ValueError: with every difference of spaces, shapes, dtypes and bounds
        """
        from sb3_ext.offline.readers.opening import spaces_of

        observation_space, action_space, _ = spaces_of(env)
        if observation_space is None or action_space is None:
            raise TypeError(f"an environment, its id, a model or two spaces is needed, got {env!r}")
        found = [
            *differences(self.observation_space, observation_space, "observations"),
            *differences(self.action_space, action_space, "actions", actions=True),
        ]
        if found:
            found = [sentence.replace("the environment", name) for sentence in found]
            raise ValueError(
                f"the dataset and {name} do not fit each other. " + "; ".join(found) + f". {remedy}"
            )

    def save(self, path: str | os.PathLike[str], *, compressed: bool = False) -> str:
        """Write it to an .npz file without pickle.

        :param path: ``.npz`` is added if it has no ending
        :param compressed: smaller and slower
        :return: the file's path
        """
        from sb3_ext.offline.files import save

        return save(self, path, compressed=compressed)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> OfflineDataset:
        """Read what :meth:`save` wrote; nothing in it is ever run.

        :raises ValueError: if it is not such a file
        """
        from sb3_ext.offline.files import load

        return load(path)


def episode_starts_after(ends: Array) -> NDArray[np.int64]:
    """Where episodes begin, from where they end: at 0, and after each end but the last row's.

    :param ends: ``[N]``, true at the last transition of each episode
    :return: ``[E]``
    """
    return np.concatenate([[0], np.flatnonzero(np.asarray(ends)[:-1]) + 1]).astype(np.int64)


def _length(rewards: Any) -> int:
    if rewards is None:
        raise ValueError(
            "rewards are missing: offline reinforcement learning needs one a transition. For "
            "demonstrations without rewards there is behaviour cloning"
        )
    array = np.asarray(rewards)
    if array.ndim == 0 or array.size == 0:
        raise ValueError("the dataset is empty: it needs at least one transition")
    return len(array)


def _of_length(values: Any, what: str, length: int) -> Array:
    array = np.asarray(values)
    if array.ndim == 0 or len(array) != length:
        found = "a single value" if array.ndim == 0 else f"{len(array)}"
        remedy = ""
        if array.ndim and "observations" in what and len(array) == length + 1:
            remedy = (
                "; T + 1 of them belong to T rewards in an episode as environments give it: pass "
                "observations[:-1] and next_observations=observations[1:]"
            )
        raise ValueError(
            f"{what} must have one row a transition: {length} rewards, but {found} {what}{remedy}"
        )
    return array


def _observations(values: Any, space: Space, what: str, length: int) -> Observations:
    if isinstance(space, spaces.Dict):
        if not isinstance(values, Mapping):
            raise TypeError(
                f"{what} must be a dict of arrays, as the Dict space says, got "
                f"{type(values).__name__}"
            )
        if set(values) != set(space.spaces):
            raise ValueError(
                f"{what} must have the keys of the Dict space, {sorted(space.spaces)}, got "
                f"{sorted(values)}"
            )
        return {
            key: observation_array(
                _of_length(values[key], f"{what}[{key!r}]", length), part, f"{what}[{key!r}]"
            )
            for key, part in space.spaces.items()
        }
    if isinstance(values, Mapping):
        raise TypeError(f"{what} are a dict, but the observation space is {space}")
    return observation_array(_of_length(values, what, length), space, what)


def _column(values: Any, what: str, length: int, dtype: np.dtype[Any]) -> Array:
    array = _of_length(values, what, length)
    if array.ndim != 1:
        raise ValueError(
            f"{what} must have shape [{length}], got {list(array.shape)}: pass {what}.reshape(-1)"
        )
    array = cast(array, dtype, what, "array")
    require_finite(array, what)
    return array


def _flags(values: Any, what: str, length: int) -> NDArray[np.bool_]:
    array = _of_length(values, what, length)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{what} must be booleans, got dtype {array.dtype}")
    if array.dtype != np.bool_ and not np.isin(array, (0, 1)).all():
        raise ValueError(f"{what} must be booleans, got other numbers than 0 and 1")
    if array.ndim != 1:
        raise ValueError(
            f"{what} must have shape [{length}], got {list(array.shape)}: pass {what}.reshape(-1)"
        )
    return array.astype(np.bool_, copy=False)


def _starts(values: Any, ends: NDArray[np.bool_]) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        raise ValueError(
            "episode_starts must be a list of whole numbers, the first transition of each "
            f"episode, got {values!r}: episode_starts_after(terminated | truncated) makes them"
        )
    starts = array.astype(np.int64, copy=False)
    if starts[0] != 0:
        raise ValueError(f"the first episode starts at transition 0, got {int(starts[0])}")
    if (np.diff(starts) <= 0).any():
        raise ValueError("episode_starts must ascend, and no episode may be empty")
    if starts[-1] >= len(ends):
        raise ValueError(
            f"episode_starts go up to {int(starts[-1])}, but there are {len(ends)} transitions"
        )
    last = np.zeros(len(ends), dtype=np.bool_)
    last[starts[1:] - 1] = last[-1] = True
    early = np.flatnonzero(ends & ~last)
    if len(early):
        row = int(early[0])
        raise ValueError(
            f"transition {row} ends an episode, so the next must start at {row + 1}, which is not "
            "among episode_starts: episode_starts_after(terminated | truncated) makes them"
        )
    return starts
