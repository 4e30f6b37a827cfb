"""What a plugin says about itself, as data: listing plugins must not import torch.

Standard library only. A plugin's `plugin.py` imports this module and nothing else:

    SPECS = PluginSpec(
        kind="weighting", name="my_weighting", summary="One sentence.",
        target="my_package.weighting:MyWeighting",
        paper=Paper(title="...", authors="...", year=2026, url="https://..."),
        search_space={"temperature": Float(1.0, 20.0, log=True)},
    )
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

API_VERSION = 1
"""The version of this vocabulary; the registry refuses a spec that speaks another one."""

Kind: TypeAlias = Literal["algorithm", "sampler", "weighting"]
Option: TypeAlias = bool | int | float | str | None

DOORS: dict[Kind, str] = {"sampler": "replay", "weighting": "weighting"}
"""The argument of an algorithm that takes a part of each kind."""

CRITIC_LOSSES = ("mse", "huber", "pal")
"""Names for ``critic_loss=``; those of ``sb3_ext.losses.LOSSES``, known without importing torch."""

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Where a method was published."""

    title: str
    authors: str
    year: int
    url: str

    def __post_init__(self) -> None:
        if not self.url.startswith(("https://", "http://")):
            raise ValueError(f"url must start with https:// or http://, got {self.url!r}")


@dataclass(frozen=True, kw_only=True)
class Float:
    """A real number in [low, high]; `log` searches its logarithm, `step` a grid from `low`."""

    low: float = field(kw_only=False)
    high: float = field(kw_only=False)
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        found = f"got low={self.low!r}, high={self.high!r}"
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError(f"low and high must be finite, {found}")
        if not self.low < self.high:
            raise ValueError(f"low < high must hold, {found}")
        if self.log and self.low <= 0:
            raise ValueError(f"low > 0 must hold on a log scale, {found}")
        if self.step is not None and not self.step > 0:
            raise ValueError(f"step > 0 must hold, got step={self.step!r}")
        if self.log and self.step is not None:
            raise ValueError(f"log and step exclude each other, got log=True, step={self.step!r}")


@dataclass(frozen=True, kw_only=True)
class Int:
    """A whole number in {low, low + step, ..., high}; `log` searches its logarithm."""

    low: int = field(kw_only=False)
    high: int = field(kw_only=False)
    log: bool = False
    step: int = 1

    def __post_init__(self) -> None:
        found = f"got low={self.low!r}, high={self.high!r}"
        # type() and not isinstance(): True is an int, and a mistake here.
        if not type(self.low) is type(self.high) is type(self.step) is int:
            raise ValueError(f"low, high and step must be int, {found}, step={self.step!r}")
        if not self.low < self.high:
            raise ValueError(f"low < high must hold, {found}")
        if self.log and self.low < 1:
            raise ValueError(f"low >= 1 must hold on a log scale, {found}")
        if self.step < 1:
            raise ValueError(f"step >= 1 must hold, got step={self.step!r}")
        if self.log and self.step != 1:
            raise ValueError(f"log and step exclude each other, got log=True, step={self.step!r}")


@dataclass(frozen=True)
class Choice:
    """One of a few plain values (any sequence is kept as a tuple)."""

    options: tuple[Option, ...]

    def __post_init__(self) -> None:
        if isinstance(self.options, str):
            raise ValueError(f"options must be a sequence of values, got the str {self.options!r}")
        options = tuple(self.options)
        # A study stores options as JSON: anything richer would not come back as it went in.
        rich = [o for o in options if not (o is None or isinstance(o, bool | int | float | str))]
        if rich:
            raise ValueError(f"options must be None, bool, int, float or str, got {rich!r}")
        if not options:
            raise ValueError("options must not be empty, got ()")
        if len({(type(option), option) for option in options}) != len(options):
            raise ValueError(f"options must differ, got {options!r}")
        object.__setattr__(self, "options", options)


Atom: TypeAlias = Float | Int | Choice


@dataclass(frozen=True, kw_only=True)
class PluginSpec:
    """One algorithm, sampler or weighting, described without importing it."""

    kind: Kind
    name: str
    """What users type in commands and configs: lower_snake and stable."""
    summary: str
    target: str
    """`package.module:Name`, imported on first use."""
    paper: Paper | None = None
    search_space: Mapping[str, Atom] = field(default_factory=dict, hash=False)
    """Parameters of the target; a dotted key (`replay.alpha`) reaches into a config."""
    action_spaces: tuple[str, ...] = ()
    observation_spaces: tuple[str, ...] = ()
    offline: bool = False
    """Of an algorithm: it learns from recorded data alone, and acts in no environment."""
    demonstrations: bool = False
    """Of an algorithm: it learns from an expert's actions, which it has to be given."""
    needs: tuple[str, ...] = ()
    """Importable names of optional dependencies; absent ones are a status, not a failure."""
    also: tuple[str, ...] = ()
    """Further public objects of the plugin, as `package.module:Name` each."""
    install_hint: str = ""
    api: int = API_VERSION

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {self.kind!r}")
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"name must be lower_snake, got {self.name!r}; try 'my_method'")
        if not _TARGET.fullmatch(self.target):
            raise ValueError(
                f"target must read package.module:Name, got {self.target!r} in plugin {self.name!r}"
            )
        for law in ("action_spaces", "observation_spaces", "needs", "also"):
            names = getattr(self, law)
            # ("Box") without its comma is a str, and would be read letter by letter.
            if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
                raise ValueError(
                    f"{law} must be a tuple of names, got {names!r} in plugin {self.name!r}"
                )
        for target in self.also:
            if not _TARGET.fullmatch(target):
                raise ValueError(
                    f"also must read package.module:Name, got {target!r} in plugin {self.name!r}"
                )
        for key, atom in self.search_space.items():
            if not isinstance(atom, Float | Int | Choice):
                raise ValueError(
                    f"search_space values must be Float, Int or Choice, "
                    f"got {key}={atom!r} in plugin {self.name!r}"
                )
        # Our own copy: a frozen spec must not change when the caller's mapping does.
        object.__setattr__(self, "search_space", dict(self.search_space))

    @property
    def public_name(self) -> str:
        """The name to import: the part of `target` after the colon."""
        return self.target.partition(":")[2]

    @property
    def targets(self) -> dict[str, str]:
        """All public names, with where each is found; the plugin's own target comes first."""
        return {one.partition(":")[2]: one for one in (self.target, *self.also)}
