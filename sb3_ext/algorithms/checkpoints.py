"""Which saved zip may become which model, decided before SB3 unpickles anything."""

from __future__ import annotations

import io
import json
import pathlib
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stable_baselines3.common.save_util import open_path

from sb3_ext.errors import CheckpointError

if TYPE_CHECKING:
    from sb3_ext.algorithms.saving import Saving

# An attribute that only this algorithm saves, most telling first: SB3's zips do not name
# their class.
_MARKS = (
    ("TQC", ("top_quantiles_to_drop_per_net",)),
    ("CrossQ", ("target_entropy", "policy_delay")),
    ("SAC", ("target_entropy",)),
    ("TD3", ("policy_delay",)),
    ("QRDQN", ("exploration_fraction", "n_quantiles")),
    ("DQN", ("exploration_fraction",)),
    ("TRPO", ("cg_max_steps",)),
    ("PPO", ("clip_range",)),
    ("ARS", ("delta_std",)),
    ("A2C", ("ent_coef", "vf_coef")),
)

_CONTRIB = ("TQC", "CrossQ", "QRDQN", "TRPO", "ARS")

# The zip that is being loaded, while it may have other parameters for the weighting than the model.
_adapting: ContextVar[Summary | None] = ContextVar("sb3_ext_adapting", default=None)


@dataclass(frozen=True)
class Summary:
    """What a zip tells without unpickling anything in it.

    :param family: SB3 algorithm that it belongs to, or None if it cannot be told
    :param saved_by: name of our class that saved it, or None for a stock SB3 zip
    :param weighting: the registered weighting that it was saved with, as a mapping, if any
    :param weigher: class name of that weighting's living part, if any
    :param attributes: names of the saved attributes
    """

    family: str | None
    saved_by: str | None
    weighting: Mapping[str, Any] | None
    weigher: str | None
    attributes: frozenset[str]


def inspect(path: str | pathlib.Path | io.BufferedIOBase) -> Summary:
    """Read a zip's table of contents and check that it is whole.

    :param path: as for SB3's ``load``; ``.zip`` is appended if needed
    :raises FileNotFoundError: if there is no such file
    :raises CheckpointError: if it is not a zip of SB3's, cut short or damaged
    """
    try:
        file = open_path(path, "r", suffix="zip")
    except IsADirectoryError as error:
        raise CheckpointError(f"{path} is a folder; name the zip file of a saved model") from error
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
            if damaged is not None:
                raise CheckpointError(f"{path} is damaged: part {damaged!r} fails its checksum")
            names = archive.namelist()
            if "data" not in names:
                raise CheckpointError(
                    f"{path} has no part 'data' (only {names[:3]}): it is not a saved model, or "
                    "one that was cut short; load another checkpoint"
                )
            data = json.loads(archive.read("data"))
            weighting = data.get("weighting") or {}
    except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a whole saved model ({error}): if it was one, it is cut short or "
            "damaged, so load an earlier checkpoint; if it is a replay buffer, use "
            "load_replay_buffer"
        ) from error
    finally:
        if isinstance(path, (str, pathlib.Path)):
            file.close()
        else:
            file.seek(0)
    return Summary(
        family=_family(data),
        saved_by=data.get("saved_by"),
        # A pickled config of somebody's own shows its attributes here, too.
        weighting=weighting if "name" in weighting and ":serialized:" not in weighting else None,
        weigher=data.get("weigher_class"),
        attributes=frozenset(data),
    )


def _family(data: Mapping[str, Any]) -> str | None:
    """Which of SB3's algorithms a zip's attributes belong to."""
    family = next((f for f, marks in _MARKS if all(mark in data for mark in marks)), None)
    # SB3's DDPG is a TD3 without its three tricks, and saves the same attributes.
    if family == "TD3" and data["policy_delay"] == 1 and data["target_noise_clip"] == 0:
        return "DDPG"
    return family


def require_compatible(cls: Any, summary: Summary, path: str) -> None:
    """Refuse a zip that another class saved.

    Accepted are the class's own zips, those of its bases, and stock SB3's of the same family: the
    last two warm-start it.

    :param cls: a class that says its ``family``
    :raises CheckpointError: otherwise, naming the class that would load it
    """
    if summary.saved_by is not None:
        # The family tells our DDPG from our TD3, whose subclass it is.
        relatives = {b.__name__ for b in cls.__mro__ if getattr(b, "family", "") == cls.family}
        if summary.saved_by in relatives:
            return
        raise CheckpointError(
            f"{path} was saved by {summary.saved_by}, not by {cls.__name__}: load it with "
            f"{summary.saved_by}.load"
        )
    if summary.family != cls.family:
        home = "sb3_contrib" if summary.family in _CONTRIB else "stable_baselines3"
        found = f"{home}'s {summary.family}" if summary.family else "an unknown class"
        raise CheckpointError(
            f"{path} was saved by {found}, and {cls.__name__} continues only models of "
            f"{cls.family}: load it with the class that saved it"
        )


@contextmanager
def adapting(cls: type[Saving], summary: Summary, overrides: Mapping[str, Any]) -> Iterator[None]:
    """While a zip is loaded that may lack, or have too many, of the weighting's parameters.

    That is a warm start, from a stock zip or a base's, or an explicit new ``weighting=``. In all
    other loads a missing ratio network is an error.
    """
    differs = summary.saved_by != cls.__name__ or "weighting" in overrides
    token = _adapting.set(summary if differs else None)
    try:
        yield
    finally:
        _adapting.reset(token)


def adapt_parameters(model: Saving, parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters that a model shall take from a dict of them.

    While a zip of another class is loaded, the weighting keeps what the same kind of weighting has
    learned, starts fresh where there is nothing to keep, and what has no use is left out.
    """
    summary = _adapting.get()
    if summary is None:
        return parameters
    parts = model.living_parts()
    adapted = {n: state for n, state in parameters.items() if n != "weigher" or n in parts}
    for name, part in parts.items():
        other = name == "weigher" and summary.weigher != type(part).__name__
        if other or name not in parameters:
            adapted[name] = part.state_dict()
    return adapted
