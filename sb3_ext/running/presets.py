"""Presets in RL Zoo's YAML format: an environment's id -> what to train with. Nothing is eval'd.

A plugin's own presets lie beside the module of its target, as ``presets/NAME.yml``.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sb3_ext import registry
from sb3_ext.errors import UsageError
from sb3_ext.running.hyperparameters import ACTIVATIONS
from sb3_ext.running.options import TrainOptions, read_options

#: The Zoo's keys -> the options of ``TrainOptions`` that say the same.
OPTIONS = {
    "n_timesteps": "steps",
    "n_envs": "n_envs",
    "policy": "policy",
    "normalize": "normalize",
    "env_kwargs": "env_kwargs",
}
#: What the Zoo makes from names of classes, or wraps around the environment; we have no option.
ZOO_ONLY = ("env_wrapper", "vec_env_wrapper", "callback", "monitor_kwargs", "frame_stack")
#: Written as Python in some of the Zoo's files.
PYTHON = ("policy_kwargs", "replay_buffer_kwargs", "env_kwargs", "normalize")
_ACTIVATIONS = {cls.__name__: name for name, cls in ACTIVATIONS.items()}


def preset_file(name: str) -> Path | None:
    """The presets that a plugin brings, or None.

    :param name: the plugin's name, or its public name
    """
    spec = registry.spec(name, kind="algorithm")
    try:
        found = importlib.util.find_spec(spec.target.partition(":")[0])
    except (ImportError, ValueError):  # it is of this process, such as a script's own
        return None
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / "presets" / f"{spec.name}.yml"
    return path if path.is_file() else None


def is_presets(values: Mapping[str, Any]) -> bool:
    """Whether a YAML is in the Zoo's format: a mapping for each environment, no option of ours."""
    options = {one.name for one in dataclasses.fields(TrainOptions)}
    mappings = all(isinstance(one, Mapping) for one in values.values())
    return bool(values) and mappings and not options & set(values)


def read_preset(path: Path, env: str | None) -> dict[str, Any]:
    """What a file in the Zoo's format says about an environment, as options of ``TrainOptions``.

    :param env: its id; one that the file does not list gets the entry ``default``
    :raises UsageError: if there is neither, or the entry has what ``sb3-ext train`` cannot do
    """
    return options_of_preset(read_options(path), env, str(path))


def options_of_preset(presets: Mapping[str, Any], env: str | None, where: str) -> dict[str, Any]:
    """As :func:`read_preset`, from what was read.

    :param where: names the file in errors
    """
    if env is None:
        raise UsageError(f"{where} has presets for several environments: give --env")
    entry = presets.get(env, presets.get("default"))
    if not isinstance(entry, Mapping):
        near = difflib.get_close_matches(env, presets, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(map(str, presets))}"
        raise UsageError(f"{where} has no entry for {env!r} and no 'default'; {hint}")
    where = f"{where}, {env if env in presets else 'default'}"
    given = {name: value for name, value in entry.items() if value is not None}
    for name in ZOO_ONLY:
        if given.pop(name, None):
            raise UsageError(
                f"{where}: {name} has no option in `sb3-ext train`; `sb3-ext zoo train` knows it"
            )
    for name in PYTHON:
        if isinstance(given.get(name), str):
            given[name] = literal(given[name], f"{where}: {name}")
    if not isinstance(given.get("normalize", False), bool):
        raise UsageError(
            f"{where}: normalize can be true or false in `sb3-ext train`, got "
            f"{given['normalize']!r}; `sb3-ext zoo train` takes arguments of VecNormalize"
        )
    options = {ours: given.pop(zoo) for zoo, ours in OPTIONS.items() if zoo in given}
    kind, std = given.pop("noise_type", None), given.pop("noise_std", None)
    if kind is not None:
        given["action_noise"] = {"type": str(kind).strip(), "std": std}
    return {"env": env, **options, "hyperparameters": given}


def literal(text: str, where: str) -> Any:
    """A value that is written as Python, such as ``"dict(net_arch=[64], activation_fn=nn.ReLU)"``.

    It is parsed and never run: numbers, texts, lists, tuples, mappings, ``dict(key=value)``, and
    the activation functions of ``torch.nn`` that have a plain name.

    :param where: says in errors what it is
    :raises UsageError: for anything else
    """
    try:
        return _plain(ast.parse(text.strip(), mode="eval").body)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise UsageError(
            f"{where} must be plain values, as in dict(net_arch=[64, 64], activation_fn=nn.ReLU), "
            f"got {text!r}; nothing is run as Python here, `sb3-ext zoo train` does that"
        ) from error


def _plain(node: ast.expr) -> Any:
    match node:
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=words):
            if any(one.arg is None for one in words):
                raise ValueError("**")
            return {one.arg: _plain(one.value) for one in words}
        case ast.Dict(keys=keys, values=values):
            named = [key for key in keys if key is not None]
            if len(named) < len(keys):
                raise ValueError("**")
            return dict(zip(map(ast.literal_eval, named), map(_plain, values), strict=True))
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_plain(one) for one in items]
        case ast.Attribute(value=ast.Name(id="nn"), attr=name) if name in _ACTIVATIONS:
            return _ACTIVATIONS[name]
        case ast.Attribute(value=ast.Attribute(attr="nn"), attr=name) if name in _ACTIVATIONS:
            return _ACTIVATIONS[name]
    return ast.literal_eval(node)
