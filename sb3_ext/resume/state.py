"""What a run is made of, at the start of a rollout: model, buffer, callbacks, logs, generators.

Everything is put back into objects that the same script made again. No class is made from a name in
a file but enums and tuples, and those only if the script has defined them.
"""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, ProgressBarCallback
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_ext.algorithms.composable import Composable
from sb3_ext.errors import CheckpointError
from sb3_ext.parameters import load_parameters
from sb3_ext.resume.buffers import capture_buffer, cut_off_episodes, data_of, restore_buffer
from sb3_ext.resume.decoder import Decoder
from sb3_ext.resume.encoder import Encoder
from sb3_ext.resume.environments import (
    capture_random,
    capture_vec_env,
    decode_special,
    encode_special,
    parts_of,
    played_again,
    restore_monitors,
    restore_random,
    restore_vec_env,
)
from sb3_ext.resume.networks import capture_networks, restore_networks
from sb3_ext.resume.store import read_state, write_state
from sb3_ext.resume.tree import (
    MISSING,
    Node,
    StateMismatchError,
    class_name,
    in_short,
    instance_attributes,
)
from sb3_ext.signatures import DATA, constructor_arguments
from sb3_ext.statistics import save_statistics

Scalars = dict[str, Any]
PLAIN = (type(None), bool, int, float, str)
MODEL = "model.zip"
#: Of callbacks: ties to others, which the same script makes again, and a bar on the screen.
TIES = frozenset({"model", "parent", "locals", "globals", "callback", "callbacks"}) | {
    *("callback_on_new_best", "pbar")
}
#: What a new process may not take over from the old one.
OF_THE_PROCESS = frozenset({"start_time", "_num_timesteps_at_start", "_total_timesteps", "verbose"})
#: What a model or callback held when its first training started.
_first: weakref.WeakKeyDictionary[object, Scalars] = weakref.WeakKeyDictionary()
SETTINGS_OF_A_RUN = ("algorithm", "env", "n_envs", "seed")


def require_supported(model: BaseAlgorithm) -> None:
    """Refuse, before training, what cannot be resumed.

    :raises TypeError: for an algorithm without rollouts, or a buffer that keeps Python objects
    """
    if not hasattr(model, "collect_rollouts"):
        raise TypeError(
            "ResumableCheckpoint needs an algorithm that collects rollouts, and "
            f"{type(model).__name__} does not: use SB3's CheckpointCallback with it"
        )
    buffer = getattr(model, "replay_buffer", None)
    if isinstance(buffer, HerReplayBuffer) and buffer.copy_info_dict:
        raise TypeError(
            "ResumableCheckpoint cannot write the info dicts that HerReplayBuffer keeps with "
            "copy_info_dict=True: they may hold anything; switch it off"
        )


@dataclass(frozen=True)
class Start:
    """What the script had set when training started.

    A checkpoint leaves out what has not changed since: a script that is started again with another
    ``eval_freq`` then gets it.

    :param identity: algorithm, environment, hyperparameters
    :param scalars: the plain attributes of the model, then of each callback
    """

    identity: Mapping[str, Any]
    scalars: Sequence[Scalars]

    @classmethod
    def of(cls, model: BaseAlgorithm, root: BaseCallback) -> Start:
        """Look at both now, unless they were looked at before: what they hold may be training's."""
        parts = (model, *callbacks(root))
        return cls(_identity(model), [_first.setdefault(one, _scalars(one)) for one in parts])


def capture(model: BaseAlgorithm, root: BaseCallback, start: Start, folder: Path) -> None:
    """Write all state of a run into ``folder``.

    :param model: between two rollouts
    :param root: the callback that ``learn`` was given
    :param start: what there was when training started
    """
    model.save(folder / MODEL)
    save_statistics(folder / "model", model.get_vec_normalize_env())  # for whoever loads the model
    env = model.get_env()
    # Three kinds of state, each read by itself: where one cannot be put back, the others can. What
    # two of them hold is put back twice, into the same object.
    of_env = Encoder(encode_special)
    arrays, parts = of_env.arrays, parts_of(env)
    encoder = Encoder(encode_special, arrays, parts)
    model_before, *callbacks_before = start.scalars
    tree: dict[str, Node] = {
        "config": start.identity,
        "num_timesteps": model.num_timesteps,
        "random": capture_random(encoder),
    }
    buffer = data_of(model)
    tree["buffer"] = None if buffer is None else capture_buffer(encoder, buffer)
    if isinstance(model, Composable):
        tree["sampler"] = encoder.encode(model.sampler_state(), "sampler")
    tree["networks"] = capture_networks(encoder, model)
    tree["model"] = _changed(encoder, model, model_before, _model_names(model))
    tree["noise"] = encoder.encode(_exploration_noise(model), "noise")
    tree["logger"] = [encoder.encode(dict(pending), "logger") for pending in _pending(model)]
    tree["outputs"] = [_position(one) for one in model.logger.output_formats]
    tree["callbacks"] = [
        [
            class_name(one),
            _changed(Encoder(encode_special, arrays, parts), one, at_start, _callback_names(one)),
        ]
        for one, at_start in zip(callbacks(root), callbacks_before, strict=True)
    ]
    tree["env"] = None if env is None else capture_vec_env(of_env, env, "the environment")
    # What is opaque in the environment decides about exactness; a callback's progress bar does not.
    tree["opaque"] = list(of_env.opaque)
    write_state(folder, tree, arrays)


def restore(model: BaseAlgorithm, root: BaseCallback, start: Start, folder: Path) -> list[str]:
    """Put a run's state back into what the same script made again.

    :return: why the episode could not go on where it was; empty if the resume is exact
    :raises CheckpointError: if the checkpoint is of another algorithm, environment or number of
        environments
    """
    tree, arrays = read_state(folder)
    decoder = Decoder(arrays, decode_special)
    _check_identity(start.identity, tree["config"], folder)
    load_parameters(model, folder / MODEL)
    buffer = data_of(model)
    if buffer is not None:
        restore_buffer(decoder, tree["buffer"], buffer)
    if isinstance(model, Composable):
        known = model.restore_sampler(decoder.restore(tree["sampler"], None))
        if not known and model.sampler is not None:
            warnings.warn(
                f"the checkpoint is of another replay= than {model.replay}: the sampler begins "
                "anew, with all that the replay buffer holds",
                stacklevel=2,
            )
    restore_networks(decoder, tree.get("networks", {}), model)
    fresh_obs = {
        name: getattr(model, name)
        for name in ("_last_obs", "_last_original_obs", "_last_episode_starts")
        if hasattr(model, name)
    }
    _put_back(decoder, tree["model"], model)
    model._num_timesteps_at_start = model.num_timesteps
    _put_exploration_noise(model, decoder.restore(tree["noise"], None))
    for pending, saved in zip(_pending(model), tree["logger"], strict=True):
        pending.clear()
        pending.update(decoder.restore(saved, None))
    for one, position in zip(model.logger.output_formats, tree["outputs"], strict=False):
        if position is not None and hasattr(one, "rewind"):
            try:
                one.rewind(position)
            except ValueError as error:  # a log that somebody changed must not stop the run
                warnings.warn(
                    f"the log goes on after the rows that are there: {error}", stacklevel=2
                )
    _restore_callbacks(arrays, tree["callbacks"], root)
    of_env = Decoder(arrays, decode_special)
    reasons = list(tree["opaque"])
    if not reasons:
        try:
            _restore_env(of_env, tree["env"], model)
        except StateMismatchError as error:
            reasons.append(str(error))
    if isinstance(model, Composable):
        model.mark_told()
    restore_random(decoder, tree["random"])
    if reasons:
        _start_new_episodes(of_env, tree["env"], model, fresh_obs)
    elif tree["env"] is not None and (hidden := played_again(tree["env"])):
        warnings.warn(
            "the episodes under way were played again from their beginnings, since "
            f"{in_short(hidden)}, which cannot be read. The run goes on as if it had never stopped "
            "if a reset of the environment leaves nothing of earlier episodes",
            stacklevel=2,
        )
    return reasons


def callbacks(root: BaseCallback) -> Iterator[BaseCallback]:
    """A callback and those inside it, parents first."""
    yield root
    inner = [*getattr(root, "callbacks", ()), getattr(root, "callback", None)]
    for one in [*inner, getattr(root, "callback_on_new_best", None)]:
        if isinstance(one, BaseCallback):
            yield from callbacks(one)


def _scalars(value: Any) -> Scalars:
    return {name: held for name, held in instance_attributes(value) if type(held) in PLAIN}


def _changed(encoder: Encoder, value: Any, before: Scalars, names: set[str]) -> Node:
    nodes = {}
    for name, held in instance_attributes(value):
        if name not in names or (name in before and _alike(before[name], held)):
            continue
        node = encoder.encode(held, f"{type(value).__name__}.{name}")
        if node is not MISSING:
            nodes[name] = node
    return nodes


def _alike(one: Any, other: Any) -> bool:
    return type(one) is type(other) and (one == other or (one != one and other != other))


def _model_names(model: BaseAlgorithm) -> set[str]:
    """The attributes that training changes: not networks, buffers, or what the script chose."""
    held = dict(instance_attributes(model))
    # SB3 leaves plain data out of its zips, too, such as the states of a recurrent policy.
    elsewhere = {
        name for name in model._excluded_save_params() if not _is_data(held.get(name))
    } | OF_THE_PROCESS
    states, tensors = model._get_torch_save_params()
    elsewhere |= {name.partition(".")[0] for name in (*states, *tensors)}
    # Made from what the script chose, such as lr_schedule from learning_rate.
    elsewhere |= {name for name in held if name.endswith("_schedule")}
    # What a class leaves out of its zip, and training changes nevertheless.
    elsewhere -= set(getattr(model, "resumed_attributes", ()))
    chosen = {
        name
        for name in constructor_arguments(type(model))
        if name in held and type(held[name]) not in PLAIN
    }
    return set(held) - elsewhere - (chosen - {"action_noise"})


def _is_data(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_data, value))
    return isinstance(value, (*PLAIN, th.Tensor, np.ndarray))


def _callback_names(callback: BaseCallback) -> set[str]:
    """All attributes, or those that the class names in ``resumed_attributes``."""
    named = getattr(callback, "resumed_attributes", None)
    if named is not None:
        return {"n_calls", "num_timesteps", *named}
    return {name for name, _ in instance_attributes(callback)} - TIES


def _identity(model: BaseAlgorithm) -> dict[str, Any]:
    from sb3_ext.tracking import model_config  # which offers our callback, and so imports us

    config = model_config(model)
    return {name: config[name] for name in (*SETTINGS_OF_A_RUN, "hyperparameters")}


def _check_identity(found: Mapping[str, Any], saved: Mapping[str, Any], folder: Path) -> None:
    for name in SETTINGS_OF_A_RUN:
        if saved[name] != found[name]:
            raise CheckpointError(
                f"{folder} is of a run with {name} {saved[name]!r}, this one has {found[name]!r}: "
                "use the settings of that run, or another run directory"
            )
    old, new = saved["hyperparameters"], found["hyperparameters"]
    # Data may have been moved; whether they are the same, their fingerprint says.
    data = {*DATA, "buffer_size"} if new.keys() & set(DATA) else set()
    other = sorted(n for n in (old.keys() & new.keys()) - data if old[n] != _through_json(new[n]))
    if other:
        told = ", ".join(f"{name} was {old[name]!r} and is {new[name]!r}" for name in other)
        warnings.warn(
            f"the run goes on with other hyperparameters than before: {told}", stacklevel=2
        )


def _through_json(value: Any) -> Any:
    """As it comes back from a file: tuples as lists."""
    if isinstance(value, Mapping):
        return {name: _through_json(item) for name, item in value.items()}
    return [_through_json(item) for item in value] if isinstance(value, (list, tuple)) else value


def _pending(model: BaseAlgorithm) -> list[Any]:
    """What was recorded and not dumped yet."""
    logger = model.logger
    return [logger.name_to_value, logger.name_to_count, logger.name_to_excluded]


def _position(output_format: Any) -> int | None:
    return output_format.position() if hasattr(output_format, "position") else None


def _exploration_noise(model: BaseAlgorithm) -> dict[str, Any]:
    """gSDE's noise matrices, which are drawn before the rollout's callbacks are called."""
    noise = {}
    for part in ("policy", "actor"):
        distribution = getattr(getattr(model, part, None), "action_dist", None)
        for name in ("exploration_mat", "exploration_matrices"):
            if isinstance(getattr(distribution, name, None), th.Tensor):
                noise[f"{part}.{name}"] = getattr(distribution, name)
    return noise


def _put_exploration_noise(model: BaseAlgorithm, noise: dict[str, th.Tensor]) -> None:
    for name, matrix in noise.items():
        part, _, attribute = name.partition(".")
        setattr(getattr(model, part).action_dist, attribute, matrix.to(model.device))


def _restore_callbacks(
    arrays: Mapping[int, np.ndarray], saved: list[Any], root: BaseCallback
) -> None:
    """Each gets the state of the first of its class that is left; new ones start afresh."""
    waiting = list(callbacks(root))
    lost = []
    for name, nodes in saved:
        one = next((one for one in waiting if class_name(one) == name), None)
        told = name.partition(":")[2]
        if one is None:
            lost.append(told)
            continue
        waiting.remove(one)
        _put_back(Decoder(arrays, decode_special), nodes, one)
        # SB3 starts its bar after our callback.
        if isinstance(one, ProgressBarCallback) and hasattr(one, "pbar"):
            one.pbar.update(one.model.num_timesteps)
    lost = [told for told in lost if told not in ("CallbackList", "ProgressBarCallback")]
    if lost:
        warnings.warn(f"the run goes on without its callbacks {', '.join(lost)}", stacklevel=2)


def _put_back(decoder: Decoder, nodes: Mapping[str, Node], target: Any) -> None:
    """All attributes that fit; of the others, such as an object of the user's in a list that is
    empty in a new process, a warning."""
    for name, node in nodes.items():
        try:
            decoder.set_attributes({name: node}, target)
        except StateMismatchError as error:
            told = f"{type(target).__name__}.{name}"
            warnings.warn(f"{told} goes on without its old state: {error}", stacklevel=3)


def _restore_env(decoder: Decoder, saved: Node, model: BaseAlgorithm) -> None:
    env = model.get_env()
    if saved is not None and env is not None:
        restore_vec_env(decoder, saved, env)


def _start_new_episodes(
    decoder: Decoder, saved: Node, model: BaseAlgorithm, fresh: dict[str, Any]
) -> None:
    """Begin new episodes, the same ones at each resume, and close the ones that were cut off."""
    env = model.get_env()
    assert env is not None
    with contextlib.suppress(StateMismatchError):  # other wrappers have statistics of their own
        restore_vec_env(decoder, saved, env, only_wrappers=True)
    if saved["class"] == class_name(env.unwrapped):
        restore_monitors(decoder, saved, env)
    if model.seed is not None:
        env.seed(model.seed + model.num_timesteps)
    fresh = fresh | {"_last_obs": env.reset(), "_last_episode_starts": np.ones(env.num_envs, bool)}
    vec_normalize = model.get_vec_normalize_env()
    if vec_normalize is not None and "_last_original_obs" in fresh:
        fresh["_last_original_obs"] = vec_normalize.get_original_obs()
    for name, value in fresh.items():
        setattr(model, name, value)
    buffer = getattr(model, "replay_buffer", None)
    if isinstance(buffer, ReplayBuffer):
        cut_off_episodes(buffer)
    if isinstance(model, Composable):
        model.mark_told()
        if model.sampler is not None:
            model.sampler.episodes_begin()
