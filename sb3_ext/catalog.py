"""Which algorithms can be named in a command: plugins, SB3's and sb3-contrib's.

A bare name prefers ours, as ``SAC`` does in a script that imports from ``sb3_ext``;
``sb3:SAC`` and ``contrib:TQC`` name the stock classes.
"""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from sb3_ext import registry
from sb3_ext.errors import UsageError

#: Prefix -> module and names; the names stand here so that a list of them imports no torch.
STOCK = {
    "sb3": ("stable_baselines3", ("A2C", "DDPG", "DQN", "PPO", "SAC", "TD3")),
    "contrib": (
        "sb3_contrib",
        ("ARS", "CrossQ", "MaskablePPO", "QRDQN", "RecurrentPPO", "TQC", "TRPO"),
    ),
}


def find_algorithm(name: str) -> tuple[str, Any]:
    """The canonical name of an algorithm, for a config, and its class.

    :param name: ``LFIWSAC``, ``lfiw_sac``, ``PPO``, ``ppo``, ``sb3:SAC``
    :raises UsageError: for an unknown one, with the near miss
    :raises PluginError: for a plugin that cannot be loaded
    """
    prefix, _, bare = name.rpartition(":")
    if prefix and prefix not in STOCK:
        raise UsageError(
            f"no algorithm {name!r}: before the colon stands one of {', '.join(STOCK)}"
        )
    if not prefix and (own := _registered(bare)):
        return own, registry.load(own, kind="algorithm")
    for home, (module, names) in STOCK.items():
        for one in names:
            if bare.lower() == one.lower() and prefix in ("", home):
                return f"{home}:{one}", getattr(importlib.import_module(module), one)
    known = algorithm_names()
    near = difflib.get_close_matches(name.lower(), {one.lower(): one for one in known}, n=1)
    found = next((one for one in known if near and one.lower() == near[0]), None)
    hint = f"did you mean {found!r}?" if found else f"known are {', '.join(known)}"
    raise UsageError(f"no algorithm {name!r} is known; {hint}")


def algorithm_names() -> list[str]:
    """All names that ``find_algorithm`` takes, plugins' first."""
    own = [spec for spec in registry.public_names().values() if spec.kind == "algorithm"]
    names = [name for spec in own for name in (spec.public_name, spec.name)]
    for home, (_, stock) in STOCK.items():
        names += [one for one in stock if one not in names]
        names += [f"{home}:{one}" for one in stock]
    return names


def _registered(name: str) -> str | None:
    """The name that a plugin claims, be it a broken one: its own error says more than ours.

    Its case does not matter, unless two names differ in nothing else.
    """
    rows = [row for row in registry.plugins() if not row.disabled]
    if any(name in row.keys for row in rows):
        return name
    alike = [[key for key in sorted(row.keys) if key.lower() == name.lower()] for row in rows]
    found = [keys for keys in alike if keys]
    return found[0][0] if len(found) == 1 else None
