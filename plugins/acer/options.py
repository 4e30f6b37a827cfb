"""Laws for the options of ACER."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_ext.options import is_integer, is_number
from sb3_ext.plugins.acer.policies import ACERPolicy
from sb3_ext.trajectories.replay import TrajectoryReplayBuffer

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
    "rms_prop_eps": (lambda v: 0 < v < math.inf, "above 0"),
}
_COUNTS = ("n_steps", "buffer_size", "replay_start", "batch_size")
_SWITCHES = (
    *("trust_region", "bias_correction", "project_entropy", "on_policy_updates"),
    "use_rms_prop",
)


def require_policy(policy: Any) -> None:
    """Refuse a policy that ACER could not learn with.

    :raises TypeError: with what it can be
    """
    if isinstance(policy, type) and not issubclass(policy, ACERPolicy):
        raise TypeError(
            "policy must be 'MlpPolicy', 'CnnPolicy', 'MultiInputPolicy' or a subclass of "
            f"sb3_ext.plugins.acer.policies.ACERPolicy, got {policy.__name__}: ACER needs a critic "
            "of actions, and an average of the actor"
        )


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
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim != 1:
        raise ValueError(
            f"ACER acts in MultiDiscrete spaces of one row, got {' '.join(str(space).split())}: "
            f"MultiDiscrete({space.nvec.reshape(-1).tolist()}) says the same, with "
            "gymnasium.wrappers.TransformAction around the environment"
        )
    kind = type(space).__name__
    if not isinstance(space, spaces.Box) and np.any(np.asarray(getattr(space, "start", 0))):
        raise ValueError(
            f"Stable-Baselines3 numbers {kind} actions from 0, got {space}: wrap the environment "
            "in gymnasium.wrappers.TransformAction"
        )
    if isinstance(space, spaces.Box) and not np.issubdtype(space.dtype, np.floating):
        sizes = (space.high.astype(np.int64) - space.low.astype(np.int64) + 1).reshape(-1)
        raise ValueError(
            f"ACER draws Box actions as real numbers, got {space}, which holds integers: "
            f"MultiDiscrete({sizes.tolist()}) has as many actions, with "
            "gymnasium.wrappers.TransformAction around the environment to add the lower bounds"
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
    _require_rate(model.learning_rate)
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
    if model.replay_start > rows * model.n_envs:
        raise ValueError(
            f"replay_start={model.replay_start} would never be reached: {rows} rows of "
            f"{model.n_envs} environments are {rows * model.n_envs} transitions, and buffer_size="
            f"{model.buffer_size} holds no more: lower replay_start, or raise buffer_size"
        )
    if not model.on_policy_updates and not model.replay_ratio:
        raise ValueError(
            "on_policy_updates=False with replay_ratio=0 learns from nothing: raise "
            "replay_ratio, or leave on_policy_updates on"
        )


def _require_rate(rate: Any) -> None:
    """A number, or a schedule whose first value is one."""
    told = "learning_rate must be a number of at least 0, or a function from the remaining progress"
    found = rate(1.0) if callable(rate) else rate
    if not is_number(found):
        remedy = ": give one, since None is the preset's only where a model is made"
        raise TypeError(
            f"{told} (1 to 0) to one, got "
            f"{f'a function that gives {found!r}' if callable(rate) else repr(rate)}"
            f"{remedy * (rate is None)}"
        )
    if found < 0:
        raise ValueError(f"{told} (1 to 0) to one, got {found}")


def fit_defaults(chosen: dict[str, Any], given: Mapping[str, Any], n_envs: int) -> None:
    """Make what nobody chose fit the environments, and the buffer that somebody chose.

    :param chosen: options by name, changed in place
    :param given: what the user gave; None where it is a default
    :param n_envs: environments
    """
    if not (is_integer(chosen["n_steps"]) and is_integer(chosen["buffer_size"])):
        return  # it is refused in a moment
    least = (chosen["n_steps"] + 1) * n_envs
    if given["buffer_size"] is None and chosen["buffer_size"] < least:
        warnings.warn(
            f"the default buffer_size={chosen['buffer_size']} holds no window of n_steps="
            f"{chosen['n_steps']} of {n_envs} environments, and is {2 * least} instead: give "
            "buffer_size= for another",
            stacklevel=3,
        )
        chosen["buffer_size"] = 2 * least
    if given["replay_start"] is None:  # a small buffer shall be replayed from, too
        chosen["replay_start"] = min(chosen["replay_start"], max(chosen["buffer_size"] // 2, 1))


def require_buffer(model: Any, found: Any, path: Any) -> None:
    """Refuse a loaded replay buffer that the model could not learn from.

    :param found: what the file held
    :param path: the file
    :raises ValueError: with what is different
    """
    made, remedy = model.replay_buffer, "load one that an ACER like this has saved"
    told = ""
    if not isinstance(found, TrajectoryReplayBuffer):
        told = "is no trajectory replay"
    elif (found.n_envs, found.behavior.shape[2]) != (made.n_envs, made.behavior.shape[2]):
        told = (
            f"is of {found.n_envs} environments and {found.behavior.shape[2]} numbers a "
            f"distribution, this ACER has {made.n_envs} and {made.behavior.shape[2]}"
        )
    elif found.observation_space != model.observation_space:
        told = (
            f"is of observations {found.observation_space}, this ACER's are "
            f"{model.observation_space}"
        )
    elif found.action_space != model.action_space:
        told = f"is of actions {found.action_space}, this ACER's are {model.action_space}"
    elif found.buffer_size < model.n_steps + 1:
        told = (
            f"has {found.buffer_size} rows for each environment, and a window n_steps="
            f"{model.n_steps}, and one row more"
        )
        remedy = "load a larger one, lower n_steps, or learn on from an empty one"
    elif found.buffer_size * found.n_envs < model.replay_start:
        told = (
            f"holds at most {found.buffer_size * found.n_envs} transitions, and replay would begin "
            f"at replay_start={model.replay_start}"
        )
        remedy = "load a larger one, lower replay_start, or learn on from an empty one"
    if told:
        raise ValueError(f"the buffer in {path} {told}: {remedy}")


def warn_of_no_replay(model: Any, total_timesteps: int) -> None:
    """Say that a call of ``learn`` ends before anything is replayed."""
    if not model.replay_ratio or not is_number(total_timesteps):  # SB3 answers the latter
        return
    window = model.n_steps * model.n_envs
    held = model.replay_buffer.size() * model.n_envs + -(-total_timesteps // window) * window
    if held < model.replay_start:
        warnings.warn(
            f"nothing is replayed in these {total_timesteps} steps: the buffer will have {held} "
            f"transitions then, and replay begins at replay_start={model.replay_start}. Lower "
            "replay_start, learn for longer, or say replay_ratio=0",
            stacklevel=4,
        )


def with_optimizer(given: Any, use_rms_prop: Any, rms_prop_eps: Any) -> dict[str, Any]:
    """Arguments of the policy, with RMSProp as in SB3's A2C where no other optimiser is named.

    :param given: of the user; his ``optimizer_kwargs`` come first
    :raises TypeError: if it is no mapping
    """
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(f"policy_kwargs must be a mapping of the policy's arguments, got {given!r}")
    made = dict(given or {})
    if use_rms_prop and "optimizer_class" not in made:
        made["optimizer_class"] = th.optim.RMSprop
        own = {"alpha": 0.99, "eps": rms_prop_eps}
        made["optimizer_kwargs"] = {**own, **(made.get("optimizer_kwargs") or {})}
    return made


def require_policy_arguments(given: Mapping[str, Any], space: spaces.Space[Any]) -> None:
    """Refuse arguments of the policy that would do nothing here, or could not be built.

    :param space: of the actions
    :raises TypeError: with what to do instead
    :raises ValueError: for layers that cannot be
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
    layers = given.get("advantage_net_arch", ())
    if "advantage_net_arch" in given and isinstance(space, spaces.Discrete):
        raise TypeError(
            "policy_kwargs has advantage_net_arch: with Discrete actions the critic has a value "
            "for each, and no network of the advantage; leave it out"
        )
    listed = isinstance(layers, Sequence) and not isinstance(layers, str)
    if not listed or not all(is_integer(one) for one in layers):
        raise ValueError(
            "policy_kwargs: advantage_net_arch must be a list of layer sizes of at least 1, such "
            f"as [64], got {layers!r}"
        )
