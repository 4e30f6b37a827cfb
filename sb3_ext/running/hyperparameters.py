"""An algorithm's arguments from plain text and YAML: read by ``yaml.safe_load``, nothing eval'd."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
import yaml
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import (
    ActionNoise,
    NormalActionNoise,
    OrnsteinUhlenbeckActionNoise,
)
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_ext import registry
from sb3_ext.errors import UsageError
from sb3_ext.replay.compact import CompactReplayBuffer
from sb3_ext.signatures import DATA, HOSTS, constructor_arguments, require_known
from sb3_ext.spec import DOORS

#: Arguments with a number as default that also take a schedule, or a number and its unit.
NUMBERS_OR_MORE = frozenset({"learning_rate", "clip_range", "train_freq"})
#: Arguments of which 0 makes no sense, though SB3 finds out in the midst of training or never.
COUNTS = frozenset(
    {"batch_size", "buffer_size", "n_steps", "n_epochs", "train_freq", "policy_delay"}
)
#: Arguments that have an option of their own.
ELSEWHERE = {
    "policy": "--policy",
    "env": "--env",
    "seed": "--seed",
    "device": "--device",
    "verbose": "--progress",
    "tensorboard_log": "--track tensorboard",
    "_init_setup_model": "no option",
}
SCHEDULES = ("learning_rate", "clip_range", "clip_range_vf")
ACTIVATIONS = {
    "relu": th.nn.ReLU,
    "tanh": th.nn.Tanh,
    "elu": th.nn.ELU,
    "leaky_relu": th.nn.LeakyReLU,
    "silu": th.nn.SiLU,
    "gelu": th.nn.GELU,
}
BUFFERS = {"HerReplayBuffer": HerReplayBuffer, "CompactReplayBuffer": CompactReplayBuffer}
NOISES = {"normal": NormalActionNoise, "ornstein-uhlenbeck": OrnsteinUhlenbeckActionNoise}
#: YAML 1.1 takes 3e-4 for a word; everybody who types it means a number.
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
_KEY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def read_settings(settings: Sequence[str], option: str) -> dict[str, Any]:
    """``["gamma=0.9", "policy_kwargs.net_arch=[64, 64]"]`` as a nested mapping.

    :param option: the option's name, for errors
    :raises UsageError: for what is no ``key=value``, or a value that is no YAML
    """
    values: dict[str, Any] = {}
    for text in settings:
        key, equals, written = text.partition("=")
        if not equals or not _KEY.fullmatch(key):
            raise UsageError(f"{option} takes key=value, as in gamma=0.98, got {text!r}")
        *outer, last = key.split(".")
        level = values
        for name in outer:
            level = level.setdefault(name, {})
            if not isinstance(level, dict):
                part = name in DOORS.values()
                hint = f"; for its options write {name}.name={level} {text}" if part else ""
                raise UsageError(
                    f"{option} {text}: {name!r} was given a value of its own before{hint}"
                )
        try:
            level[last] = yaml.safe_load(written)
        except yaml.YAMLError as error:
            raise UsageError(f"{option} {key}: {written!r} is no value in YAML") from error
    return with_numbers(values)  # type: ignore[no-any-return]


def with_numbers(value: Any) -> Any:
    """The value with ``"3e-4"`` and the like as numbers."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    if isinstance(value, dict):
        return {key: with_numbers(item) for key, item in value.items()}
    return [with_numbers(item) for item in value] if isinstance(value, list) else value


def constructor_values(cls: type, given: Mapping[str, Any], env: VecEnv) -> dict[str, Any]:
    """The arguments as the constructor takes them.

    ``lin_3e-4`` is a schedule that falls to zero, as in RL Zoo; ``train_freq: [1, episode]`` a
    pair; ``action_noise: {type: normal, std: 0.1}`` SB3's noise; ``policy_kwargs.activation_fn:
    tanh`` and ``replay_buffer_class: HerReplayBuffer`` classes, from lists of known ones (a
    plugin's replay buffers are known).

    :raises UsageError: for an unknown argument, with the near miss, or a value of no meaning
    """
    require_arguments(cls, given)
    values = with_numbers(dict(given))
    defaults = {name: one.default for name, one in constructor_arguments(cls).items()}
    for name, value in values.items():
        whole = isinstance(value, float) and value.is_integer()
        if whole and isinstance(defaults.get(name), int) and not isinstance(defaults[name], bool):
            values[name] = int(value)  # 1e6
    for name in SCHEDULES:
        if isinstance(values.get(name), str):
            values[name] = _schedule(name, values[name])
    if isinstance(values.get("train_freq"), list):
        values["train_freq"] = tuple(values["train_freq"])
    if values.get("action_noise") is not None:
        values["action_noise"] = _noise(values["action_noise"], env)
    if isinstance(values.get("policy_kwargs"), dict) and "activation_fn" in values["policy_kwargs"]:
        kwargs = dict(values["policy_kwargs"])
        kwargs["activation_fn"] = _one_of(
            ACTIVATIONS, kwargs["activation_fn"], "policy_kwargs.activation_fn"
        )
        values["policy_kwargs"] = kwargs
    if values.get("replay_buffer_class") is not None:
        values["replay_buffer_class"] = _one_of(
            BUFFERS | _plugin_buffers(), values["replay_buffer_class"], "replay_buffer_class"
        )
    # Arguments of another class, which a class hands on, such as GAIL those of its generator.
    if hasattr(cls, "convert_nested"):
        values = cls.convert_nested(
            values, lambda inner, given: constructor_values(inner, given, env)
        )
    return values  # type: ignore[no-any-return]


def require_arguments(cls: type, given: Mapping[str, Any]) -> None:
    """Refuse arguments that the class does not take, or that have an option of their own."""
    for name, option in ELSEWHERE.items():
        if name in given:
            raise UsageError(f"{name} is no hyperparameter here: use {option}")
    try:
        require_known(cls, given, where=cls.__name__)
    except TypeError as error:
        ours = cls.__module__.partition(".")[0] in HOSTS and _ours(cls.__name__)
        explain = getattr(cls, "explain_unknown", None)  # such as GAIL, which hands others on
        unknown = [name for name in given if name not in constructor_arguments(cls)]
        if explain is not None and (told := explain(unknown[0], given)):
            raise UsageError(f"{cls.__name__}: {told}") from error
        if ours and (more := [one for one in given if one in constructor_arguments(ours)]):
            raise UsageError(
                f"{error}; the {cls.__name__} of sb3-ext takes {', '.join(more)}: name it without "
                "the sb3: or contrib: in front"
            ) from error
        raise UsageError(str(error)) from error
    defaults = {name: one.default for name, one in constructor_arguments(cls).items()}
    for name, value in given.items():
        number = type(defaults[name]) in (int, float) and name not in NUMBERS_OR_MORE
        if number and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise UsageError(f"{name} must be a number, got {value!r}")
        count = value[0] if name == "train_freq" and isinstance(value, list) and value else value
        if name in COUNTS and isinstance(count, (int, float)) and count < 1:
            raise UsageError(f"{name} must be at least 1, got {value!r}")
    kwargs = given.get("policy_kwargs") or {}
    if not isinstance(kwargs, Mapping):
        raise UsageError("policy_kwargs takes key=value, as in policy_kwargs.net_arch=[64,64]")
    arch, names = kwargs.get("net_arch", []), getattr(cls, "named_net_archs", ())
    if not isinstance(arch, (list, Mapping)) and arch not in names:
        also = f" or one of {', '.join(names)}" if names else ""
        raise UsageError(
            f"policy_kwargs.net_arch must be a list, as in [64,64]{also}, got {arch!r}"
        )


def with_data_at_home(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with the absolute paths of data, so that the run goes on from any folder."""
    paths = {
        name: str(Path(values[name]).absolute())
        for name in (*DATA, "expert")
        if isinstance(values.get(name), str) and Path(values[name]).exists()
    }
    return {**values, **paths}


def _schedule(name: str, text: str) -> LinearSchedule:
    kind, _, start = text.partition("_")
    try:
        if kind == "lin":
            return LinearSchedule(float(start), 0.0, 1.0)
    except ValueError:
        pass
    raise UsageError(f"{name} must be a number, or lin_ and a number (falls to 0), got {text!r}")


def _ours(name: str) -> Any:
    """The plugin of the same name as a stock algorithm, or None."""
    found = registry.public_names().get(name)
    return registry.load(name) if found and found.kind == "algorithm" else None


def _plugin_buffers() -> dict[str, Any]:
    """The replay buffer classes that stand beside samplers, by name."""
    specs = [one for one in registry.public_names().values() if one.kind == "sampler" and one.also]
    beside = {name: registry.load(name) for one in specs for name in list(one.targets)[1:]}
    return {
        name: made
        for name, made in beside.items()
        if isinstance(made, type) and issubclass(made, ReplayBuffer)
    }


def _one_of(known: Mapping[str, Any], name: Any, where: str) -> Any:
    if not isinstance(name, str) or name not in known:
        raise UsageError(f"{where} must be one of {', '.join(known)}, got {name!r}")
    return known[name]


def _noise(given: Any, env: VecEnv) -> ActionNoise:
    if not isinstance(given, dict) or set(given) != {"type", "std"}:
        raise UsageError(f"action_noise takes type and std, got {given!r}")
    size = getattr(env.action_space, "shape", None)
    if not size:
        raise UsageError(f"action_noise needs Box actions, the environment has {env.action_space}")
    std = given["std"]
    if isinstance(std, bool) or not isinstance(std, (int, float)) or not std >= 0:
        raise UsageError(f"action_noise.std must be a number >= 0, got {std!r}")
    kind = _one_of(NOISES, given["type"], "action_noise.type")
    noise: ActionNoise = kind(np.zeros(size), float(given["std"]) * np.ones(size))
    return noise
