"""Plugins for Stable-Baselines3: `from sb3_ext import LFIWSAC`.

Names are found on first use (PEP 562), so that importing this package imports no torch. A plugin's
name comes from the registry; the names of the framework itself stand below.
"""

import difflib
import importlib
import importlib.util
import warnings
from typing import Any

__version__ = "0.1.0"

FRAMEWORK = {
    "Clock": "sb3_ext.updates",
    "Draw": "sb3_ext.updates",
    "Step": "sb3_ext.updates",
    "Composable": "sb3_ext.algorithms.composable",
    "CompactReplayBuffer": "sb3_ext.replay.compact",
    "Replay": "sb3_ext.replay.storage",
    "Window": "sb3_ext.replay.window",
    "Drawn": "sb3_ext.replay.sampler",
    "Sampler": "sb3_ext.replay.sampler",
    "Weighting": "sb3_ext.weighting",
    "PackedSubprocVecEnv": "sb3_ext.vec_env.packed",
    "Huber": "sb3_ext.losses",
    "MSE": "sb3_ext.losses",
    "PAL": "sb3_ext.losses",
}


def __getattr__(name: str) -> Any:
    if name == "__all__":  # for `from sb3_ext import *`; a stranger's plugin must not break that
        return sorted({*FRAMEWORK, *_claimed("ok", own=True)})
    # Python and its tools ask modules for many private names; none of them is a plugin.
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in FRAMEWORK:
        return getattr(importlib.import_module(FRAMEWORK[name]), name)
    # `from sb3_ext import td` asks here first: a submodule must not set off a search for plugins.
    submodule = f"{__name__}.{name}"
    if importlib.util.find_spec(submodule) is not None:
        return importlib.import_module(submodule)

    from sb3_ext import registry

    if name in _claimed():
        return registry.load(name)  # or its own words on why that plugin cannot be used
    if not registry.is_installed():
        # No AttributeError: `from sb3_ext import LFIWSAC` would swallow the remedy.
        raise ImportError(f"cannot import {name!r}: {registry.NOT_INSTALLED}")
    if broken := [row for row in registry.plugins() if row.status == "broken" and not row.spec]:
        # Python drops the words of an AttributeError in `from sb3_ext import Name`.
        told = "; ".join(f"{row.entry} (from {row.source}): {row.cause}" for row in broken)
        warnings.warn(
            f"there is no {name!r}, and these plugins cannot be read, so their names are unknown: "
            f"{told}. See sb3-ext doctor",
            stacklevel=2,
        )
    public = {known.lower(): known for known in __dir__() if not known.startswith("_")}
    near = difflib.get_close_matches(name.lower(), public, n=1)
    hint = f"did you mean {public[near[0]]!r}?" if near else "`sb3-ext list` shows the plugins"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; {hint}")


def __dir__() -> list[str]:
    # Only names that survive a getattr: tools walk over dir().
    return sorted(
        {*globals(), *FRAMEWORK, *_claimed("ok")} - {"Any", "difflib", "importlib", "warnings"}
    )


def _claimed(*statuses: str, own: bool = False) -> set[str]:
    from sb3_ext import registry

    return {
        name
        for row in registry.plugins()
        if row.spec and not row.disabled and (not statuses or row.status in statuses)
        if not own or row.distribution == registry.OWN_DISTRIBUTION
        for name in row.spec.targets
    }
