"""Entry points of the group `sb3_ext.plugins` -> one row a plugin, faults included.

Imports the small modules that hold the specs, never a target; standard library only. One broken
plugin is a row here and never harms another one.
"""

import importlib.util
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points

from sb3_ext.spec import API_VERSION, PluginSpec

GROUP = "sb3_ext.plugins"
OWN_DISTRIBUTION = "sb3-ext"


class PluginError(Exception):
    """Whatever is wrong with a plugin or with the name of one."""


class UnknownPluginError(PluginError, LookupError):
    """No installed plugin has this name."""


class PluginLoadError(PluginError, ImportError):
    """A plugin is installed, and it, or something that it needs, does not import."""


class PluginClashError(PluginError):
    """Two plugins claim one name; neither wins."""


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """One row of the list: a spec, or an entry point that yielded none and why."""

    entry: str
    distribution: str
    version: str = ""
    spec: PluginSpec | None = None
    cause: Exception | None = None
    disabled: bool = False

    @property
    def source(self) -> str:
        """Distribution and version, as error sentences name them."""
        return f"{self.distribution} {self.version}".rstrip()

    @property
    def keys(self) -> frozenset[str]:
        """The names under which it can be asked for."""
        if self.spec is None:
            return frozenset({self.entry})
        return frozenset({self.spec.name, *self.spec.targets})

    @property
    def missing(self) -> tuple[str, ...]:
        """The optional dependencies that are not installed."""
        return (
            tuple(need for need in self.spec.needs if not _is_installed(need)) if self.spec else ()
        )

    @property
    def healthy(self) -> bool:
        """Has a spec that may be used; a missing optional dependency is no fault."""
        return self.spec is not None and self.cause is None and not self.disabled

    @property
    def status(self) -> str:
        """`ok`, `disabled`, `clash`, `broken`, or `needs ...`."""
        if self.disabled:
            return "disabled"
        if self.cause is not None:
            return "clash" if isinstance(self.cause, PluginClashError) else "broken"
        return f"needs {', '.join(self.missing)}" if self.missing else "ok"


def installed() -> list[Plugin]:
    """The rows of all installed distributions, ours first, under the environment's switches."""
    entries = sorted(entry_points(group=GROUP), key=lambda entry: (_origin(entry), entry.name))
    rows = [row for entry in entries if _is_own(entry) for row in _resolve(entry)]
    theirs = [entry for entry in entries if not _is_own(entry)]
    if os.environ.get("SB3_EXT_DISABLE_PLUGINS", "") not in ("", "0"):
        return rows + [_disabled(entry) for entry in theirs]
    words = {_normal(word) for word in os.environ.get("SB3_EXT_PLUGINS", "").split(",")} - {""}
    if not words:
        return rows + [row for entry in theirs for row in _resolve(entry)]
    # A word that is no distribution, no entry and none of ours can only be the name of a plugin
    # of theirs. Without such a word, what is not listed need not even be imported.
    claimed = {_normal(key) for row in rows for key in row.keys}
    claimed |= {_normal(name) for entry in entries for name in (_origin(entry)[0], entry.name)}
    for entry in theirs:
        if {_normal(_origin(entry)[0]), _normal(entry.name)} & words:
            rows += _resolve(entry)
        elif words <= claimed:
            rows.append(_disabled(entry))
        else:
            for row in _resolve(entry):
                listed = {_normal(key) for key in row.keys} & words
                rows.append(row if listed else replace(row, disabled=True))
    return rows


def make_row(entry: str, distribution: str, version: str, spec: PluginSpec) -> Plugin:
    """The row of one spec; a spec that speaks another vocabulary than ours is a fault."""
    cause = None
    if spec.api != API_VERSION:
        cause = ValueError(
            f"api must be {API_VERSION}, got {spec.api}; "
            f"install the versions of {distribution} and {OWN_DISTRIBUTION} that fit each other"
        )
    return Plugin(entry=entry, distribution=distribution, version=version, spec=spec, cause=cause)


def with_clashes(rows: list[Plugin]) -> Iterator[Plugin]:
    """Mark every row that shares a name with another spec; the same spec twice is no clash."""
    claims: dict[str, list[Plugin]] = {}
    for row in rows:
        if row.healthy:
            for key in row.keys:
                claims.setdefault(key, []).append(row)
    for row in rows:
        contested = [
            key
            for key in sorted(row.keys)
            if row.healthy and any(other.spec != row.spec for other in claims[key])
        ]
        if contested:
            row = replace(row, cause=clash(contested[0], claims[contested[0]]))
        yield row


def clash(name: str, rows: Iterable[Plugin]) -> PluginClashError:
    """The error for a name that several plugins claim."""
    claimants = " and ".join(f"{row.source} ({row.spec.target})" for row in rows if row.spec)
    return PluginClashError(
        f"a name must belong to one plugin, but {name!r} is claimed by {claimants}; "
        f"uninstall or rename one, or list those to keep in SB3_EXT_PLUGINS"
    )


def _resolve(entry: EntryPoint) -> list[Plugin]:
    distribution, version = _origin(entry)
    try:
        found = entry.load()
        specs = found if isinstance(found, tuple) else (found,)
        if not specs or not all(isinstance(one, PluginSpec) for one in specs):
            raise TypeError(
                f"{entry.value} must be a PluginSpec or a tuple of them, got {found!r:.200}"
            )
    # A module that calls sys.exit on import must not end the listing either.
    except (Exception, SystemExit) as error:
        cause = error if isinstance(error, Exception) else RuntimeError(f"SystemExit: {error}")
        return [Plugin(entry=entry.name, distribution=distribution, version=version, cause=cause)]
    return [make_row(entry.name, distribution, version, one) for one in specs]


def _disabled(entry: EntryPoint) -> Plugin:
    distribution, version = _origin(entry)
    return Plugin(entry=entry.name, distribution=distribution, version=version, disabled=True)


def _origin(entry: EntryPoint) -> tuple[str, str]:
    return (entry.dist.name, entry.dist.version) if entry.dist else ("unknown", "")


def _is_own(entry: EntryPoint) -> bool:
    return _normal(_origin(entry)[0]) == OWN_DISTRIBUTION


def _normal(name: str) -> str:
    """One spelling: distributions may be written with `-`, `_` or `.`, in either case."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a parent is missing, or half imported
        return False
