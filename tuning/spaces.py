"""Search spaces: what a plugin declares, what a study chooses of it, and the draw of a trial.

A space is data; nothing heavy is imported here.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sb3_ext import registry
from sb3_ext.errors import UsageError
from sb3_ext.signatures import constructor_arguments
from sb3_ext.spec import DOORS, Atom, Choice, Float, Int, PluginSpec

if TYPE_CHECKING:
    import optuna

NET_ARCH = "net_arch"
#: The sizes of RL Zoo's search; "default" leaves the algorithm's own.
NET_ARCHS: dict[str, list[int]] = {"small": [64, 64], "medium": [256, 256], "big": [400, 300]}
_SIZES = Choice(("default", *NET_ARCHS))


def suggest(
    trial: optuna.trial.BaseTrial, plugin: type | str, only: Iterable[str] | None = None
) -> dict[str, Any]:
    """What ``trial`` draws from the search space of ``plugin``.

    Of an algorithm: keyword arguments, ``LFIWSAC("MlpPolicy", env, **suggest(trial, LFIWSAC))``. Of
    a sampler or a weighting: what ``replay=`` or ``weighting=`` takes, with its name,
    ``SAC(..., replay=suggest(trial, "per"))``; in the study its parameters are called
    ``per.alpha``, so that they meet no others.

    :param trial: of any study, or an ``optuna.trial.FixedTrial``
    :param plugin: a class or a plugin's name
    :param only: the hyperparameters to search; the others stay at their defaults. None: all that
        the plugin itself declares. What its base declares comes from the base:
        ``suggest(trial, "sac", only=("learning_rate",))``
    :raises ValueError: for what declares no search space, or a name that is not in it
    :raises UnknownPluginError: for a name of no plugin
    """
    spec = _spec(plugin)
    atoms = spec.search_space if only is None else _chosen(only, spec.search_space, spec)
    part = spec.kind in DOORS
    prefix = f"{spec.name}." if part else ""
    drawn = {name: draw(trial, prefix + name, atom) for name, atom in atoms.items()}
    return {"name": spec.name, **drawn} if part else drawn


def draw(trial: optuna.trial.BaseTrial, name: str, atom: Atom) -> Any:
    """One parameter of a trial."""
    if isinstance(atom, Choice):
        return trial.suggest_categorical(name, atom.options)
    if isinstance(atom, Float):
        return trial.suggest_float(name, atom.low, atom.high, step=atom.step, log=atom.log)
    return trial.suggest_int(name, atom.low, atom.high, step=atom.step, log=atom.log)


# -- the space of a study --------------------------------------------------------------------------


def declared_space(cls: type, fixed: Mapping[str, Any]) -> dict[str, Atom]:
    """All that is declared for an algorithm: its own, its bases', its parts', its networks' size.

    :param cls: the algorithm
    :param fixed: its arguments that are no part of the search; a sampler or a weighting among them
        brings its own parameters, as ``replay.alpha``
    """
    found: dict[str, Atom] = {}
    for base in cls.__mro__:
        spec = registry.spec_of(base)
        if spec is not None and spec.kind == "algorithm":
            found = {**spec.search_space, **found}  # the most derived says what is worth searching
    if found:
        found[NET_ARCH] = _SIZES
    for kind, door in DOORS.items():
        part = fixed.get(door)
        name = part.get("name") if isinstance(part, Mapping) else part
        if isinstance(name, str):
            declared = registry.spec(name, kind=kind).search_space
            found |= {f"{door}.{key}": atom for key, atom in declared.items()}
    given = set(flat(fixed))
    nets = "policy_kwargs.net_arch" in given
    # DDPG is a TD3 without policy_delay; an offline SAC is one that has nothing to collect.
    known = {*constructor_arguments(cls), NET_ARCH} - set(getattr(cls, "refused_arguments", ()))
    return {
        key: atom
        for key, atom in found.items()
        if key not in given and key.partition(".")[0] in known and not (nets and key == NET_ARCH)
    }


def study_space(
    cls: type,
    fixed: Mapping[str, Any],
    only: Sequence[str] | None = None,
    ranges: Mapping[str, Any] | None = None,
) -> dict[str, Atom]:
    """The space that a study searches.

    :param cls: the algorithm
    :param fixed: its arguments that are no part of the search
    :param only: names to search, of those declared or in ``ranges``; None for all
    :param ranges: other ranges, or of further arguments, as plain values: ``{low: 1, high: 20,
        log: true}``, a list of choices
    :raises UsageError: for an unknown name, with the near miss, an impossible range, or no space
    """
    atoms = declared_space(cls, fixed)
    given = set(flat(fixed))
    for name, value in (ranges or {}).items():
        if name not in atoms:
            _require_argument(cls, name, atoms)
        if name in given:
            raise UsageError(f"{name} is set to a value and given a range: leave one of them out")
        atoms[name] = _parsed(name, value, atoms.get(name))
    if not atoms:
        raise UsageError(
            f"{cls.__name__} declares no search space: give ranges, as in "
            "learning_rate: {low: 1e-5, high: 1e-2, log: true}"
        )
    if only is None:
        return atoms
    for name in only:
        if name in given or (name == NET_ARCH and "policy_kwargs.net_arch" in given):
            raise UsageError(f"{name} is set to a value, so it cannot be searched: leave one out")
    try:
        return _chosen(only, atoms, cls)
    except ValueError as error:
        raise UsageError(str(error)) from error


def with_defaults(
    cls: type, fixed: Mapping[str, Any], atoms: Mapping[str, Atom]
) -> tuple[dict[str, Atom], dict[str, Any]]:
    """The space made wide enough to hold the default configuration, and that configuration.

    Without it the defaults could not be a trial like others, and nothing would say whether the
    search was worth its price.

    :return: the space, and the defaults of those parameters that have one in it; others, such as
        one that is None, are the algorithm's own affair in the default trial, which lacks them
    """
    wide, defaults = dict(atoms), {}
    for name, atom in atoms.items():
        value = _default(cls, fixed, name)
        widened = _widened(atom, value)
        if widened is not None:
            wide[name], defaults[name] = widened, value
    return wide, defaults


def that_learns(atoms: Mapping[str, Atom], steps: int) -> dict[str, Atom]:
    """The space without values of ``learning_starts`` that leave no half of the run to learn in.

    They are declared for long runs; in a short one such a trial would only cost time.

    :param steps: of a run
    """
    atom = atoms.get("learning_starts")
    if not isinstance(atom, Choice):
        return dict(atoms)
    left = tuple(one for one in atom.options if isinstance(one, int) and one <= steps // 2)
    kept = dict(atoms)
    if left:
        kept["learning_starts"] = Choice(left)
    else:
        del kept["learning_starts"]
    return kept


def hyperparameters(fixed: Mapping[str, Any], drawn: Mapping[str, Any]) -> dict[str, Any]:
    """An algorithm's arguments, nested, of what is fixed and what a trial drew.

    :param drawn: by the space's names; dots reach inside
    """
    result = _nested(fixed)
    for name, value in drawn.items():
        if name == NET_ARCH:
            if value == "default":
                continue
            name, value = "policy_kwargs.net_arch", list(NET_ARCHS[value])
        *outer, last = name.split(".")
        level = result
        for key in outer:
            inner = level.get(key)
            if isinstance(inner, str):  # replay=per
                inner = {"name": inner}
            level[key] = level = dict(inner or {})
        level[last] = value
    return result


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def in_words(name: str, atom: Atom) -> str:
    """A parameter and its range, for a line on the screen."""
    if isinstance(atom, Choice):
        return f"{name} {' | '.join(map(str, atom.options))}"
    told = " log" if atom.log else f" by {atom.step:g}" if atom.step not in (None, 1) else ""
    return f"{name} {atom.low:g} to {atom.high:g}{told}"


def plain_space(atoms: Mapping[str, Atom]) -> dict[str, Any]:
    """A space as plain values, as ``ranges`` are written."""
    return {
        name: list(atom.options) if isinstance(atom, Choice) else dataclasses.asdict(atom)
        for name, atom in atoms.items()
    }


# -- the parts -------------------------------------------------------------------------------------


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


def _chosen(
    only: Iterable[str], atoms: Mapping[str, Atom], owner: PluginSpec | type
) -> dict[str, Atom]:
    if isinstance(only, str):
        raise ValueError(
            f"only must be a collection of names, got the str {only!r}; try [{only!r}]"
        )
    whose = owner.public_name if isinstance(owner, PluginSpec) else owner.__name__
    names = list(only)
    for name in names:
        if name not in atoms:
            near = difflib.get_close_matches(name, atoms, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(
                f"{whose} has no {name!r} in its search space; {hint}it has "
                f"{', '.join(atoms) or 'nothing'}"
            )
    return {name: atoms[name] for name in names}


def _require_argument(cls: type, name: str, atoms: Mapping[str, Atom]) -> None:
    known = {*constructor_arguments(cls), *atoms}
    if name.partition(".")[0] not in known:
        near = difflib.get_close_matches(name, sorted(known), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"ranges: {cls.__name__} has no argument {name!r}{hint}")


def _parsed(name: str, value: Any, declared: Atom | None) -> Atom:
    """A range as it is written in YAML."""
    try:
        if isinstance(value, (list, tuple)):
            return Choice(tuple(value))
        if not isinstance(value, Mapping) or not {"low", "high"} <= set(value):
            raise ValueError(
                "must be a list of choices, or low and high, as in {low: 1, high: 20, log: true}, "
                f"got {value!r}"
            )
        if strange := sorted(set(value) - {"low", "high", "log", "step"}):
            raise ValueError(f"has low, high, log and step, got {strange[0]!r}")
        bounds = [value["low"], value["high"]]
        if any(isinstance(one, bool) or not isinstance(one, (int, float)) for one in bounds):
            raise ValueError(f"low and high must be numbers, got {bounds}")
        options = {key: value[key] for key in ("log", "step") if key in value}
        whole = all(isinstance(one, int) for one in bounds) and not isinstance(declared, Float)
        return Int(*bounds, **options) if whole else Float(*map(float, bounds), **options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"ranges: {name}: {error}") from error


def _default(cls: type, fixed: Mapping[str, Any], name: str) -> Any:
    """The value without a search; ``...`` where there is no plain one."""
    if name == NET_ARCH:
        return "default"
    outer, _, inner = name.partition(".")
    if not inner:
        parameter = constructor_arguments(cls).get(outer)
        return ... if parameter is None else parameter.default
    kind = next((kind for kind, door in DOORS.items() if door == outer), None)
    part = fixed.get(outer)
    named = part.get("name") if isinstance(part, Mapping) else part
    if kind is None or not isinstance(named, str):
        return ...
    parameter = constructor_arguments(registry.load(named, kind=kind)).get(inner)
    return ... if parameter is None else parameter.default


def _widened(atom: Atom, value: Any) -> Atom | None:
    """The atom with a value in it; None if it cannot have it."""
    if isinstance(atom, Choice):
        if not (value is None or isinstance(value, (bool, int, float, str))):
            return None
        if any(type(one) is type(value) and one == value for one in atom.options):
            return atom
        return Choice((*atom.options, value))
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if atom.log and value <= 0:
        return None
    low, high = min(atom.low, value), max(atom.high, value)
    if isinstance(atom, Int):
        on_grid = isinstance(value, int) and (value - atom.low) % atom.step == 0
        return Int(int(low), int(high), log=atom.log, step=atom.step) if on_grid else None
    if atom.step is not None and not atom.low <= value <= atom.high:
        return None
    return Float(low, high, log=atom.log, step=atom.step)


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy, of mappings within too."""
    return {
        key: _nested(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
    }
