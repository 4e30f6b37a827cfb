"""Looks plugins up by name and imports them on first use; standard library only.

    registry.spec("lfiw_sac")     # or "LFIWSAC": what it says about itself, nothing heavy imported
    registry.load("lfiw_sac")     # the class

Environment, read at the first look-up and again by `refresh()`:

- `SB3_EXT_DISABLE_PLUGINS=1` leaves only what comes with sb3-ext itself.
- `SB3_EXT_PLUGINS=a,b` leaves that and the listed ones (names of plugins or of distributions).
"""

import difflib
import functools
import importlib
import sys
from typing import Any

from sb3_ext.discovery import (
    GROUP,
    OWN_DISTRIBUTION,
    Plugin,
    PluginClashError,
    PluginError,
    PluginLoadError,
    UnknownPluginError,
    clash,
    installed,
    make_row,
    with_clashes,
)
from sb3_ext.spec import DOORS, Kind, PluginSpec

__all__ = [
    "GROUP",
    "NOT_INSTALLED",
    "OWN_DISTRIBUTION",
    "Plugin",
    "PluginClashError",
    "PluginError",
    "PluginLoadError",
    "UnknownPluginError",
    "find",
    "is_installed",
    "load",
    "plugins",
    "public_names",
    "refresh",
    "register",
    "spec",
    "spec_of",
    "unregister",
]

IN_PROCESS = "this process"
NOT_INSTALLED = (
    f"the entry points of {OWN_DISTRIBUTION} are missing, as they are in a checkout that was "
    f"not installed; run: pip install -e ."
)

_registered: list[Plugin] = []


def plugins() -> list[Plugin]:
    """Everything that is installed or registered, broken plugins included."""
    return list(_rows())


def public_names() -> dict[str, PluginSpec]:
    """The specs without a fault, by the name that users import."""
    return {row.spec.public_name: row.spec for row in _rows() if row.healthy and row.spec}


def is_installed() -> bool:
    """Whether the entry points of sb3-ext itself are there; a bare checkout has none."""
    return any(row.distribution == OWN_DISTRIBUTION for row in _rows())


def find(name: str, kind: Kind | None = None) -> tuple[Plugin, PluginSpec]:
    """The row and the spec called `name`, which may be `lfiw_sac` or `LFIWSAC`."""
    named = [row for row in _rows() if name in row.keys and not row.disabled]
    if not named:
        raise UnknownPluginError(_unknown(name, kind))
    # A broken entry must not hide a plugin that merely shares its entry's name.
    row = next((row for row in named if row.healthy), named[0])
    if isinstance(row.cause, PluginClashError):
        raise PluginClashError(str(row.cause))
    if row.spec is None or row.cause is not None:
        raise PluginLoadError(
            f"plugin {name!r} (from {row.source}) could not be loaded: {row.cause}"
        ) from row.cause
    if kind is not None and row.spec.kind != kind:
        door = DOORS.get(row.spec.kind)
        use = f" It goes into an algorithm, as {door}={row.spec.name!r}." if door else ""
        raise UnknownPluginError(
            f"{name!r} (from {row.source}) is of kind {row.spec.kind}; "
            f"here a plugin of kind {kind} is needed.{use} Installed: {_names(kind)}."
        )
    return row, row.spec


def spec(name: str, kind: Kind | None = None) -> PluginSpec:
    """The spec called `name`, which may be the plugin's name or its public name."""
    return find(name, kind)[1]


def load(name: str, kind: Kind | None = None) -> Any:
    """Import what the plugin called `name` stands for."""
    row, wanted = find(name, kind)
    if row.missing:
        hint = f"; run: {wanted.install_hint}" if wanted.install_hint else ""
        raise PluginLoadError(
            f"plugin {wanted.name!r} (from {row.source}) needs {', '.join(row.missing)}, which "
            f"{'is' if len(row.missing) == 1 else 'are'} not installed{hint}"
        )
    target = wanted.targets.get(name, wanted.target)
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise PluginLoadError(
            f"plugin {wanted.name!r} (from {row.source}) could not be loaded: {target}: {error}"
        ) from error


def spec_of(target: object) -> PluginSpec | None:
    """The spec whose target is this very object; None for anything else, subclasses included."""
    where = f"{getattr(target, '__module__', '')}:{getattr(target, '__qualname__', '')}"
    for candidate in public_names().values():
        if candidate.target == where:
            return candidate
        # A target may be re-exported from another module than the one that defines it.
        module, _, attribute = candidate.target.partition(":")
        if target is not None and getattr(sys.modules.get(module), attribute, None) is target:
            return candidate
    return None


def register(spec: PluginSpec) -> None:
    """Add a plugin of this process, for a script or a test; entry points are the lasting way."""
    row = make_row(IN_PROCESS, IN_PROCESS, "", spec)
    if any(other.spec == spec for other in _registered):
        return
    for other in _registered:
        if shared := other.keys & row.keys:
            raise clash(min(shared), [other, row])
    _registered.append(row)
    _rows.cache_clear()


def unregister(spec: PluginSpec) -> None:
    """Undo `register`; a spec that is not registered is left alone."""
    _registered[:] = [row for row in _registered if row.spec != spec]
    _rows.cache_clear()


def refresh() -> None:
    """Forget what was found: look at installed distributions and the environment again."""
    importlib.invalidate_caches()
    _installed.cache_clear()
    _rows.cache_clear()


@functools.cache
def _installed() -> list[Plugin]:
    return installed()


@functools.cache
def _rows() -> tuple[Plugin, ...]:
    return tuple(with_clashes([*_installed(), *_registered]))


def _known(kind: Kind | None) -> list[PluginSpec]:
    return [one for one in public_names().values() if kind is None or one.kind == kind]


def _names(kind: Kind | None) -> str:
    return ", ".join(sorted(one.name for one in _known(kind))) or "none"


def _unknown(name: str, kind: Kind | None) -> str:
    """Not found: the near miss, what is installed, and what may hide the name."""
    if not is_installed():
        return f"no plugin named {name!r} is known: {NOT_INSTALLED}"
    spellings = {key.lower(): key for one in _known(kind) for key in (one.public_name, one.name)}
    near = difflib.get_close_matches(name.lower(), spellings, n=1)
    sentence = f"no {kind or 'plugin'} named {name!r} is installed"
    sentence += f"; did you mean {spellings[near[0]]!r}?" if near else "."
    sentence += f" Installed: {_names(kind)}."
    for status in ("broken", "disabled"):
        hidden = sorted({f"{row.entry} ({row.source})" for row in _rows() if row.status == status})
        if hidden:
            sentence += f" {status.capitalize()}: {', '.join(hidden)}."
    return sentence
