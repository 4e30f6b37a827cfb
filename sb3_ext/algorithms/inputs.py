"""Checks of what users and environments hand in, each answered with one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import GymEnv

from sb3_ext import registry
from sb3_ext.errors import NonFiniteError
from sb3_ext.losses import LOSSES
from sb3_ext.signatures import require_known
from sb3_ext.spec import DOORS, Kind

if TYPE_CHECKING:
    from sb3_ext.algorithms.saving import Saving

# What it is, its values, and which environment they are of (None: one row for each).
_Part = tuple[str, np.ndarray, int | None]


def check_env(env: GymEnv | str | None, algorithm: type[Saving], verbose: int = 0) -> GymEnv | None:
    """Make the environment if it is named, and refuse spaces that the algorithm is not for.

    :param env: an environment, its id, or None (loading a model to predict only)
    :param algorithm: who asks
    :raises ValueError: if the action space is of none of its ``supported_actions``, or its
        ``require_observations`` refuses the observations
    """
    if env is None:
        return None
    made: Any = maybe_make_env(env, verbose)
    if not isinstance(made.action_space, algorithm.supported_actions):
        kind = type(made.action_space).__name__
        supported = " and ".join(one.__name__ for one in algorithm.supported_actions)
        raise ValueError(
            f"{algorithm.__name__} supports {supported} action spaces, got {made.action_space}; "
            f"for {kind} actions use {_algorithms_for(kind, algorithm)}"
        )
    algorithm.require_observations(made.observation_space)
    return made  # type: ignore[no-any-return]


def _algorithms_for(kind: str, algorithm: type) -> str:
    """Who takes a kind of actions, and learns likewise: ours and plugins', or a hint."""
    own = registry.spec_of(algorithm)
    alike = (False, False) if own is None else (own.offline, own.demonstrations)
    specs = [one for one in registry.public_names().values() if one.kind == "algorithm"]
    names = [
        one.public_name
        for one in specs
        if kind in one.action_spaces and (one.offline, one.demonstrations) == alike
    ]
    if names:
        return " or ".join(f"sb3_ext.{name}" for name in sorted(names))
    return "an algorithm that takes them, such as stable_baselines3.PPO"


def resolve_config(kind: Kind, value: Any, where: str | None = None) -> Any:
    """Turn what ``replay=`` or ``weighting=`` was given into a config object.

    :param kind: ``"sampler"`` or ``"weighting"``
    :param value: a config, a registered name, ``{"name": ..., **options}``, or None
    :param where: what the argument is called, if not so
    :raises UnknownPluginError: if no plugin of that name is installed
    :raises TypeError: if it is none of these
    """
    if value is None:
        return None
    where = DOORS[kind] if where is None else where
    if isinstance(value, str):
        value = {"name": value}
    if isinstance(value, Mapping):
        options = dict(value)
        name = options.pop("name", None)
        if not isinstance(name, str):
            raise TypeError(
                f"{where}= as a mapping must have a 'name', got the keys {sorted(value)}"
            )
        config = _load_config(kind, name)
        require_known(config, options, where=f"{where}={name!r}")
        return config(**options)
    if isinstance(value, type) or not callable(getattr(value, "build", None)):
        made = isinstance(value, type) and callable(getattr(value, "build", None))
        hint = f"; did you mean {value.__name__}()?" if made else ""
        if isinstance(value, type) and issubclass(value, ReplayBuffer):
            hint = f": a replay buffer is given as replay_buffer_class={value.__name__}"
        if any(value is loss or type(value) is loss for loss in LOSSES.values()):
            hint = ": a loss is given as critic_loss="
        raise TypeError(
            f"{where}= takes a config object (with a build method), a registered name, or "
            f"a mapping with a 'name', got {value!r}{hint}"
        )
    return value


def _load_config(kind: Kind, name: str) -> Any:
    """The config's class; two kinds of names that mean something else are answered."""
    try:
        return registry.load(name, kind=kind)
    except registry.UnknownPluginError:
        door = DOORS[kind]
        if name.lower() in ("uniform", "none"):
            told = f"no {kind} is needed for {name!r}: leave {door}= out, or give None (YAML: null)"
        elif name.lower() in LOSSES:
            told = f"{name!r} is a loss and no {kind}: give it as critic_loss={name.lower()!r}"
        else:
            raise
        raise registry.UnknownPluginError(told) from None


def plain_config(config: Any) -> Any:
    """A registered config as ``{"name": ..., **options}``; anything else as it is."""
    spec = registry.spec_of(type(config)) if is_dataclass(config) else None
    if spec is None:
        return config
    # Not asdict: an inner config of the user's own would become a mapping without a name.
    return {"name": spec.name, **{one.name: getattr(config, one.name) for one in fields(config)}}


def build_part(config: Any, kind: type, algorithm: Any) -> Any:
    """The living part of a config, or None."""
    if config is None:
        return None
    part = config.build(algorithm)
    if kind not in type(part).__mro__:
        raise TypeError(
            f"{type(config).__name__}.build must return an object whose class inherits from "
            f"sb3_ext.{kind.__name__}, got {type(part).__name__}"
        )
    return part


def check_transition(
    observation: Any,
    reward: np.ndarray | None,
    timestep: int,
    infos: list[dict[str, Any]] | None = None,
    normalized: bool = False,
    actions: np.ndarray | None = None,
) -> None:
    """Stop before NaN or infinity reaches the replay buffer, where it would ruin every network.

    :param observation: ``[n_envs, ...]``, or a dict of such
    :param reward: ``[n_envs]``, or None after a reset
    :param timestep: environment steps so far, for the error
    :param infos: one dict an environment; their terminal observations are checked too
    :param normalized: whether VecNormalize has seen the values already
    :param actions: what the environment was given, ``[n_envs, ...]``: it may be the culprit
    :raises NonFiniteError: if any value is not finite
    """
    found: list[_Part] = [] if reward is None else [("reward", reward, None)]
    found += _parts("observation", observation, None)
    for env, info in enumerate(infos or ()):
        if "terminal_observation" in info:
            found += _parts("terminal observation", info["terminal_observation"], env)
    for what, values, place in found:
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            if actions is not None and not np.isfinite(actions).all():
                raise NonFiniteError(
                    f"the policy gave a non-finite action at step {timestep}, and the environment "
                    f"answered with a non-finite {what}: the networks hold NaN. Look at the losses "
                    "before it, the target and the weights; go on from a model saved earlier"
                )
            _refuse(what, values, timestep, place, normalized)


def check_step(
    model: Any,
    observation: Any,
    reward: np.ndarray,
    infos: list[dict[str, Any]],
    actions: np.ndarray,
) -> None:
    """The same for a step of a model's environment, before it is stored.

    :raises NonFiniteError: if any value is not finite
    """
    vec_normalize = model.get_vec_normalize_env()
    if vec_normalize is not None:
        # Normalised, a bad number of one environment has spread to all of them.
        observation = vec_normalize.get_original_obs()
        reward = vec_normalize.get_original_reward()
    normalized = vec_normalize is not None
    check_transition(observation, reward, model.num_timesteps, infos, normalized, actions)


def _parts(
    what: str, observation: Any, env: int | None
) -> list[tuple[str, np.ndarray, int | None]]:
    if not isinstance(observation, dict):
        return [(what, np.asarray(observation), env)]
    return [(f"{what} {key!r}", np.asarray(value), env) for key, value in observation.items()]


def _refuse(
    what: str, values: np.ndarray, timestep: int, env: int | None, normalized: bool
) -> NoReturn:
    place = np.argwhere(~np.isfinite(values))[0]
    spoiled = (
        " VecNormalize's running statistics have taken it in: go on with statistics saved before."
        if normalized
        else ""
    )
    raise NonFiniteError(
        f"the environment returned a non-finite {what} ({values[tuple(place)]}) at step {timestep} "
        f"in environment {int(place[0]) if env is None else env}; this transition was not stored, "
        "and the model, its replay buffer and all files saved so far are as they were: save the "
        "model if you want it, and find the cause with "
        f"stable_baselines3.common.vec_env.VecCheckNan.{spoiled}"
    )
