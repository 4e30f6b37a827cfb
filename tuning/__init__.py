"""Optuna for plugins: a declared search space becomes the suggestions of a trial.

    def objective(trial):
        model = LFIWSAC("MlpPolicy", "Pendulum-v1", **suggest(trial, LFIWSAC))

The import name is `sb3_ext.tuning`; Optuna itself comes with the extra `sb3-ext[tuning]`.
"""

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sb3_ext import registry
from sb3_ext.spec import Atom, Choice, Float, PluginSpec

if TYPE_CHECKING:
    import optuna

__all__ = ["suggest"]


def suggest(
    trial: "optuna.trial.BaseTrial", algorithm: type | str, only: Iterable[str] | None = None
) -> dict[str, Any]:
    """Keyword arguments for `algorithm` (a class or a plugin's name), drawn by `trial`.

    `only` keeps the search to some of the declared hyperparameters; the others stay at their
    defaults. A dotted key (`replay.alpha`) is returned as it stands.
    """
    spec = _spec(algorithm)
    names = spec.search_space if only is None else _checked(only, spec)
    return {name: _draw(trial, name, spec.search_space[name]) for name in names}


def _draw(trial: "optuna.trial.BaseTrial", key: str, atom: Atom) -> Any:
    if isinstance(atom, Choice):
        return trial.suggest_categorical(key, atom.options)
    if isinstance(atom, Float):
        return trial.suggest_float(key, atom.low, atom.high, step=atom.step, log=atom.log)
    return trial.suggest_int(key, atom.low, atom.high, step=atom.step, log=atom.log)


def _spec(algorithm: type | str) -> PluginSpec:
    if isinstance(algorithm, str):
        return registry.spec(algorithm, kind="algorithm")
    found = registry.spec_of(algorithm)
    if found is None or found.kind != "algorithm":
        names = ", ".join(
            sorted(key for key, spec in registry.public_names().items() if spec.kind == "algorithm")
        )
        raise ValueError(
            f"algorithm must be one that declares a search space, got {algorithm!r}; "
            f"declared: {names}"
        )
    return found


def _checked(only: Iterable[str], spec: PluginSpec) -> list[str]:
    if isinstance(only, str):
        raise ValueError(
            f"only must be a collection of names, got the str {only!r}; try [{only!r}]"
        )
    names = list(only)
    for name in names:
        if name not in spec.search_space:
            near = difflib.get_close_matches(name, spec.search_space, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(
                f"only must name hyperparameters in the search space of {spec.public_name}, "
                f"got {name!r}; {hint}Declared: {', '.join(spec.search_space) or 'none'}."
            )
    return names
