"""Laws for the options of ACER."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_ext.options import is_integer, is_number

SUPPORTED = (spaces.Discrete, spaces.MultiDiscrete, spaces.Box)
SPACES = ("probabilities", "logits")
#: Laws of numbers: a test, and the words after "must be".
_LAWS: dict[str, tuple[Any, str]] = {
    "replay_ratio": (lambda v: 0 <= v < math.inf, "at least 0"),
    "correction_term": (lambda v: v >= 0, "at least 0 (infinity truncates nothing)"),
    "delta": (lambda v: v > 0, "above 0 (trust_region=False is without a bound)"),
    "average_decay": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
    "retrace_lambda": (lambda v: 0 <= v <= 1, "from 0 to 1"),
    "ent_coef": (lambda v: 0 <= v < math.inf, "at least 0"),
    "vf_coef": (lambda v: 0 <= v < math.inf, "at least 0"),
    "max_grad_norm": (lambda v: v > 0, "above 0 (infinity clips nothing)"),
    "action_std": (lambda v: 0 < v < math.inf, "above 0"),
    "gamma": (lambda v: 0 <= v <= 1, "from 0 to 1"),
}
_COUNTS = ("n_steps", "buffer_size", "replay_start", "batch_size")
_SWITCHES = ("trust_region", "bias_correction", "project_entropy", "on_policy_updates")


def require_actions(space: spaces.Space[Any] | None) -> None:
    """Refuse what ACER cannot act in.

    :raises ValueError: with what it can
    """
    if space is None:
        return
    if not isinstance(space, SUPPORTED):
        names = ", ".join(one.__name__ for one in SUPPORTED)
        hint = "; MultiDiscrete([2] * n) says the same" * isinstance(space, spaces.MultiBinary)
        raise ValueError(f"ACER acts in {names} spaces, got {space}{hint}")
    if isinstance(space, spaces.Discrete) and space.start != 0:
        raise ValueError(
            f"Stable-Baselines3 numbers Discrete actions from 0, got {space}: wrap the environment "
            "in gymnasium.wrappers.TransformAction"
        )
    if isinstance(space, spaces.Box) and not np.isfinite([space.low, space.high]).all():
        raise ValueError(
            f"ACER scales Box actions by their bounds, which must be finite, got {space}: "
            "wrap the environment in gymnasium.wrappers.RescaleAction or ClipAction"
        )


def require_options(model: Any) -> None:
    """Refuse what cannot work; ``load(path, delta=...)`` may have changed it.

    :raises TypeError: for another kind of value
    :raises ValueError: for one out of range, with what it must be
    """
    for name, (holds, words) in _LAWS.items():
        value = getattr(model, name)
        number = is_number(value) or (isinstance(value, float) and math.isinf(value))
        if not number:
            raise TypeError(f"{name} must be a number, got {value!r}")
        if not holds(value):
            raise ValueError(f"{name} must be {words}, got {value}")
    for name in _COUNTS:
        if not is_integer(getattr(model, name)):
            raise ValueError(
                f"{name} must be a whole number of at least 1, got {getattr(model, name)!r}"
            )
    dual = model.n_dual_samples
    if dual != 0 and not is_integer(dual):
        raise ValueError(f"n_dual_samples must be a whole number, 0 or more, got {dual!r}")
    for name in _SWITCHES:
        if not isinstance(getattr(model, name), bool):
            raise TypeError(f"{name} must be True or False, got {getattr(model, name)!r}")
    if model.trust_region_space not in SPACES:
        raise ValueError(
            f"trust_region_space must be one of {', '.join(map(repr, SPACES))}, got "
            f"{model.trust_region_space!r}"
        )
    if model.trust_region_space == "logits" and isinstance(model.action_space, spaces.Box):
        raise ValueError(
            "trust_region_space='logits' is for Discrete and MultiDiscrete actions: a Box "
            "policy's statistics are its means; leave it out"
        )
    rows = model.buffer_size // model.n_envs
    if rows < model.n_steps + 1:
        raise ValueError(
            f"buffer_size={model.buffer_size} holds {rows} steps of each of {model.n_envs} "
            f"environments, and a window has n_steps={model.n_steps}, and one row more: raise "
            f"buffer_size to at least {(model.n_steps + 1) * model.n_envs}, or lower n_steps"
        )
    window = model.n_steps * model.n_envs
    if not window <= model.replay_start <= model.buffer_size:
        raise ValueError(
            f"replay_start={model.replay_start} must lie between one rollout, n_steps x n_envs "
            f"= {window} transitions, and buffer_size={model.buffer_size}"
        )
    if not model.on_policy_updates and not model.replay_ratio:
        raise ValueError(
            "on_policy_updates=False with replay_ratio=0 learns from nothing: raise "
            "replay_ratio, or leave on_policy_updates on"
        )


def require_policy_arguments(given: Mapping[str, Any]) -> None:
    """Refuse arguments of SB3's policies that would do nothing here.

    :raises TypeError: with what to do instead
    """
    reasons = {
        "action_std": "give it to ACER itself",
        "log_std_init": "the standard deviation stays, so give action_std to ACER itself",
        **dict.fromkeys(
            ("use_sde", "full_std", "use_expln", "squash_output"),
            "ACER's density ratios need a plain Gaussian; leave it out",
        ),
    }
    for name, reason in reasons.items():
        if name in given:
            raise TypeError(f"policy_kwargs has {name}: {reason}")
