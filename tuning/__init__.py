"""Optuna for plugins: a declared search space becomes the suggestions of a trial.

    def objective(trial):
        model = LFIWSAC("MlpPolicy", "Pendulum-v1", **suggest(trial, LFIWSAC))

The import name is `sb3_ext.tuning`; Optuna itself comes with the extra `sb3-ext[tuning]`.
"""

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sb3_ext import registry
from sb3_ext.spec import DOORS, Atom, Choice, Float, PluginSpec

if TYPE_CHECKING:
    import optuna

__all__ = ["suggest"]


def suggest(
    trial: "optuna.trial.BaseTrial", plugin: type | str, only: Iterable[str] | None = None
) -> dict[str, Any]:
    """What `trial` draws from the search space of `plugin` (a class or a plugin's name).

    Of an algorithm: keyword arguments, `LFIWSAC("MlpPolicy", env, **suggest(trial, LFIWSAC))`; a
    dotted key (`replay.alpha`) is returned as it stands. Of a sampler or a weighting: what
    `replay=` or `weighting=` takes, with its name, `SAC(..., replay=suggest(trial, "per"))`; in the
    study its parameters are called `per.alpha`, so that they meet no others.

    `only` keeps the search to some of the declared hyperparameters; the others stay at their
    defaults.
    """
    spec = _spec(plugin)
    names = spec.search_space if only is None else _checked(only, spec)
    part = spec.kind in DOORS
    prefix = f"{spec.name}." if part else ""
    drawn = {name: _draw(trial, prefix + name, spec.search_space[name]) for name in names}
    return {"name": spec.name, **drawn} if part else drawn


def _draw(trial: "optuna.trial.BaseTrial", key: str, atom: Atom) -> Any:
    if isinstance(atom, Choice):
        return trial.suggest_categorical(key, atom.options)
    if isinstance(atom, Float):
        return trial.suggest_float(key, atom.low, atom.high, step=atom.step, log=atom.log)
    return trial.suggest_int(key, atom.low, atom.high, step=atom.step, log=atom.log)


def _spec(plugin: type | str) -> PluginSpec:
    if isinstance(plugin, str):
        return registry.spec(plugin)
    found = registry.spec_of(plugin)
    if found is None:
        made = registry.spec_of(type(plugin))
        hint = f"; give its class or its name, {made.name!r}" if made else ""
        names = ", ".join(sorted(registry.public_names()))
        raise ValueError(
            f"plugin must be one that declares a search space, got {plugin!r}{hint}; "
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
