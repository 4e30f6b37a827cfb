"""Whether the installed plugins work: a part of `sb3-ext doctor`."""

from __future__ import annotations

import contextlib
import difflib
import importlib.metadata
import json
import shlex
from collections.abc import Iterator
from typing import Any

from sb3_ext import registry
from sb3_ext.cli.diagnosis import Row, sentence, split
from sb3_ext.discovery import GROUP
from sb3_ext.registry import NOT_INSTALLED, OWN_DISTRIBUTION, Plugin
from sb3_ext.signatures import constructor_arguments
from sb3_ext.spec import PluginSpec


def plugin_rows() -> Iterator[Row]:
    """One row a plugin, and one for each group of entry points that looks misspelt."""
    if not registry.is_installed():
        yield Row("plugins", "sb3-ext's own", "missing", *split(NOT_INSTALLED), needed=True)
    for row in registry.plugins():
        yield _plugin(row)
    groups = importlib.metadata.entry_points().groups - {GROUP}
    for group in difflib.get_close_matches(GROUP, groups, cutoff=0.9):
        told = f"entry points in the group {group!r}, which nobody reads"
        remedy = f"if they are plugins of sb3-ext, the group is {GROUP}: correct it, install again"
        yield Row("plugins", group, "misspelt", told, remedy, needed=True)


def _plugin(row: Plugin) -> Row:
    name = row.spec.name if row.spec else row.entry
    told, status, remedy = f"from {row.source}", row.status, ""
    if status == "clash":
        cause, remedy = split(sentence(row.cause))
        return Row("plugins", name, status, f"{told}; {cause}", remedy, needed=True)
    fault = sentence(row.cause) if row.cause else ""
    if status == "ok":
        try:
            target = registry.load(name)  # the list trusts the spec; only this imports it
        except (Exception, SystemExit) as error:
            status, fault = "broken", sentence(error.__cause__ or error)
        else:
            fault = target_fault(row.spec, target) if row.spec else ""
            if fault:
                status = "broken"
    if status == "broken":
        # A spec that cannot be used says itself what to do: its version is not ours.
        cause, remedy = split(fault) if row.cause and row.spec else (fault, _remedy(row))
        told += f"; {cause}"
    elif status == "disabled":
        told += "; switched off by SB3_EXT_DISABLE_PLUGINS or SB3_EXT_PLUGINS"
    elif row.missing and row.spec:
        remedy = row.spec.install_hint or f"install what provides {', '.join(row.missing)}"
    return Row("plugins", name, status, told, remedy, needed=status != "disabled")


def _remedy(row: Plugin) -> str:
    """What helps against a fault in a plugin's code: another version, or its author's hand."""
    distribution = shlex.quote(row.distribution)
    if row.distribution == OWN_DISTRIBUTION:
        return f"pip install --force-reinstall --no-deps {distribution}"
    if row.distribution == registry.IN_PROCESS:
        return "repair what this process registered"
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, ValueError, TypeError):
        written = importlib.metadata.distribution(row.distribution).read_text("direct_url.json")
        origin = json.loads(written or "{}")
        if origin.get("dir_info", {}).get("editable"):  # PEP 610
            folder = shlex.quote(origin["url"].removeprefix("file://"))
            return f"repair it, then pip install -e {folder}"
    return f"pip install --upgrade {distribution}, or pip uninstall {distribution}"


def target_fault(spec: PluginSpec, target: Any) -> str:
    """What a spec says of its target and the target does not keep; empty if it does."""
    if spec.kind == "algorithm":
        if "BaseAlgorithm" not in {base.__name__ for base in getattr(target, "__mro__", ())}:
            return "its kind is algorithm, but its target does not inherit from an algorithm of SB3"
    elif not callable(getattr(target, "build", None)):
        return f"its kind is {spec.kind}, but its target has no build(algorithm)"
    known = constructor_arguments(target) if isinstance(target, type) else {}
    wrong = [key for key in spec.search_space if key.partition(".")[0] not in known]
    return f"its search space has {', '.join(wrong)}, which is no argument" if wrong else ""
