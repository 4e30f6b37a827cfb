"""Factors: which parts of an observation a graph keeps or leaves out, and what they are called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, is_image_space

#: Name -> indices of the flat observation, or keys of a Dict. What a wrapper declares as
#: ``factors``.
Layout: TypeAlias = Mapping[str, Sequence[int | str] | int | str]
#: A choice of factors: 0 and 1 (or booleans) in order, names, or a mapping from names.
Graph: TypeAlias = Mapping[str, bool] | Sequence[str] | Sequence[bool] | Sequence[int]


@dataclass(frozen=True)
class Factors:
    """n named factors, and the factor of each column of the flattened observation.

    :param names: n different ones
    :param factor_of: ``[D]`` integers from 0 to n - 1
    """

    names: tuple[str, ...]
    factor_of: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.names)

    def graph(self, chosen: Graph) -> NDArray[np.bool_]:
        """A choice of factors as a graph, ``[n]``.

        :raises TypeError: for what is no choice at all
        :raises ValueError: for unknown names, a wrong number, or other values than 0 and 1
        """
        if not isinstance(chosen, Iterable):
            raise TypeError(
                "a graph is a list of names of factors, of zeros and ones, or a mapping from names "
                f"({', '.join(self.names)}), got {chosen!r}; {[1] * len(self)} is all factors"
            )
        if isinstance(chosen, Mapping):
            self._require_known(chosen)
            if missing := [name for name in self.names if name not in chosen]:
                raise ValueError(
                    f"a graph as a mapping says each factor's part; it lacks {missing}"
                )
            return np.array([bool(chosen[name]) for name in self.names])
        values = [chosen] if isinstance(chosen, str) else list(chosen)
        if all(isinstance(one, str) for one in values) and (values or not len(self)):
            self._require_known(values)
            return np.array([name in values for name in self.names])
        array = np.asarray(values)
        if array.shape != (len(self),):
            raise ValueError(
                f"a graph has a 0 or 1 for each of the {len(self)} factors "
                f"({', '.join(self.names)}), or lists names of them; got {values}"
            )
        if not np.isin(array, (0, 1)).all():
            raise ValueError(f"a graph consists of 0 and 1, got {values}")
        return array.astype(bool)

    def described(self, graph: Any) -> dict[str, bool]:
        """A graph by the factors' names."""
        return {name: bool(one) for name, one in zip(self.names, graph, strict=True)}

    def _require_known(self, names: Any) -> None:
        if unknown := sorted(set(names) - set(self.names)):
            raise ValueError(
                f"there are no factors {', '.join(map(repr, unknown))}; they are "
                f"{', '.join(map(repr, self.names))}"
            )


def make_factors(space: spaces.Space[Any], layout: Layout | None) -> Factors:
    """The factors of an observation space.

    :param space: a Box of vectors, or a Dict of anything but images
    :param layout: name -> indices (of a Dict: keys), each exactly once; None takes each dimension
        (of a Dict: each key) for a factor
    :raises TypeError: for other spaces
    :raises ValueError: if the layout does not cover the observation exactly once
    """
    if isinstance(space, spaces.Dict):
        return _of_keys(space, layout)
    if not isinstance(space, spaces.Box):
        raise TypeError(f"factors are parts of Box or Dict observations, got {space}")
    if is_image_space(space):
        raise ValueError(
            f"pixels are no factors: {space} needs factors='beta_vae', whose latents are"
        )
    size = int(np.prod(space.shape))
    if layout is None:
        return Factors(tuple(f"x{i}" for i in range(size)), np.arange(size))
    parts = _parts(layout)
    for name, part in parts.items():
        if not all(
            isinstance(one, (int, np.integer)) and not isinstance(one, bool) for one in part
        ):
            raise ValueError(
                f"factors of {space} are lists of indices, got {list(part)} for {name!r}"
            )
    _require_cover(parts, range(size), "the dimensions", space)
    factor_of = np.empty(size, np.int64)
    for number, part in enumerate(parts.values()):
        factor_of[[int(one) for one in part]] = number
    return Factors(tuple(parts), factor_of)


def _of_keys(space: spaces.Dict, layout: Layout | None) -> Factors:
    for key, part in space.spaces.items():
        if is_image_space(part):
            raise ValueError(
                f"the observation {key!r} is an image, whose pixels are no factors: leave it out, "
                "or learn from it alone with factors='beta_vae'"
            )
    parts = {key: (key,) for key in space.spaces} if layout is None else _parts(layout)
    _require_cover(parts, list(space.spaces), "the keys", space)
    numbers = {key: i for i, part in enumerate(parts.values()) for key in part}
    widths = {key: get_flattened_obs_dim(part) for key, part in space.spaces.items()}
    factor_of = [numbers[key] for key in space.spaces for _ in range(widths[key])]
    return Factors(tuple(parts), np.array(factor_of, np.int64))


def _parts(layout: Layout) -> dict[str, tuple[Any, ...]]:
    if not isinstance(layout, Mapping) or not layout:
        raise ValueError(
            "factors= takes a mapping of names to indices or keys, as in {'position': [0], "
            f"'velocity': [1]}}, 'beta_vae', or None for single dimensions; got {layout!r}"
        )
    single = (int, np.integer, str)
    return {
        str(name): (part,) if isinstance(part, single) else tuple(part)
        for name, part in layout.items()
    }


def _require_cover(
    parts: Mapping[str, Sequence[Any]], wanted: Sequence[Any], what: str, space: Any
) -> None:
    given = [one for part in parts.values() for one in part]
    faults = []
    if empty := [name for name, part in parts.items() if not len(part)]:
        faults.append(f"nothing belongs to {', '.join(map(repr, empty))}")
    if missing := [one for one in wanted if one not in given]:
        faults.append(f"missing {missing}")
    if strange := [one for one in given if one not in wanted]:
        faults.append(f"unknown {strange}")
    if twice := sorted({one for one in given if given.count(one) > 1}, key=str):
        faults.append(f"twice {twice}")
    if faults:
        raise ValueError(f"factors= must cover {what} of {space} exactly once: {'; '.join(faults)}")


def declared_layout(env: Any, dataset: Any) -> Layout | None:
    """What a wrapper of the environment, or the dataset's source, declares as ``factors``."""
    if dataset is not None and isinstance(dataset.source.get("factors"), Mapping):
        layout: Layout = dataset.source["factors"]
        return layout
    if env is not None:
        try:
            (found,) = env.get_attr("factors", [0])
        except AttributeError:
            return None
        return found if isinstance(found, Mapping) else None
    return None
