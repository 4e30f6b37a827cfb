"""The state of environments, so that an episode goes on where it was cut off.

The state of an environment is its attributes and those of its wrappers, which covers Gymnasium's
classic control and MuJoCo tasks and most that are written in Python. Where it is elsewhere (in C,
in a file, in another process), attributes cannot be read as plain data. Then ``ResumableEnv`` plays
the episode again from its beginning; without it, or if that comes out otherwise, a new episode
begins, and a warning says so. Authors can teach us: ``register_env_state(MyEnv, get=, set=)``.
"""

from __future__ import annotations

import multiprocessing
import random
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor, ResultsWriter
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecEnvWrapper

from sb3_ext.resume.decoder import Decoder
from sb3_ext.resume.encoder import Encoder
from sb3_ext.resume.episodes import Episode, layers_of
from sb3_ext.resume.tree import MISSING, Node, StateMismatchError, class_name, in_short
from sb3_ext.vec_env import PackedSubprocVecEnv

#: Attributes that are no state, or are written elsewhere.
NO_STATE = frozenset(
    {
        *("env", "venv", "spec", "metadata", "_metadata", "_cached_spec", "_spec"),
        *("_render_mode", "render_mode", "class_attributes"),
    }
)
#: Those that show an environment on a screen, unless they are plain numbers: simulated time, say.
SHOWN = frozenset(
    {"mujoco_renderer", "renderer", "viewer", "screen", "clock", "surf", "window"}
) | {"window_surface"}
#: Environments in worker processes, which can be asked for their state.
WORKERS = (SubprocVecEnv, PackedSubprocVecEnv)
NUMBERS = (bool, int, float, np.ndarray, np.generic)
GetState = Callable[[Any], Any]
SetState = Callable[[Any, Any], None]
_adapters: dict[type, tuple[GetState, SetState]] = {}


def register_env_state(env_class: type, *, get: GetState, set: SetState) -> None:
    """Say how the state of an environment or wrapper class is read and put back.

    :param env_class: subclasses are meant, too
    :param get: called with the environment; returns numbers, strings, arrays, or lists and dicts
        of these: all that the next steps depend on, random generators included
    :param set: called with an environment that was made and reset alike, and what ``get`` returned
    """
    _adapters[env_class] = (get, set)


class ResumableEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Lets an episode go on that could not otherwise.

    A ``SubprocVecEnv`` and our ``PackedSubprocVecEnv`` can ask their workers for their
    environments' state, and one whose state cannot be read (Box2D's, say) plays its episode again,
    up to 20,000 steps of it. It goes outermost: ``make_vec_env(..., wrapper_class=ResumableEnv)``.
    Environments in a ``DummyVecEnv`` whose state can be read need no wrapper.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._episode = Episode()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """As the environment's."""
        self._episode.begin(self.env, seed, options)
        observation, info = self.env.reset(seed=seed, options=options)
        self._episode.saw(observation)
        return observation, info

    def step(self, action: Any) -> Any:
        """As the environment's."""
        self._episode.act(action)
        step = self.env.step(action)
        self._episode.saw(step[0])
        return step

    def capture_state(self) -> dict[str, Any]:
        """The state of the environment inside, and of this process's random generators."""
        encoder = Encoder(encode_special)
        tree: dict[str, Node] = {"layers": capture_env(encoder, self, "env")}
        if multiprocessing.parent_process() is not None:
            tree["random"] = capture_random(encoder)
        return {"tree": tree, "arrays": encoder.arrays, "opaque": encoder.opaque}

    def restore_state(self, saved: dict[str, Any]) -> str:
        """Put it back; what cannot be is told and not raised, which would end a worker."""
        decoder = Decoder(saved["arrays"], decode_special)
        try:
            restore_env(decoder, saved["tree"]["layers"], self)
        except StateMismatchError as error:
            return str(error)
        if "random" in saved["tree"]:
            restore_random(decoder, saved["tree"]["random"])
        return ""


def capture_random(encoder: Encoder) -> Node:
    """The global generators of Python, NumPy and torch."""
    cuda = th.cuda.get_rng_state_all() if th.cuda.is_available() else []
    states = [random.getstate(), np.random.get_state(legacy=False), th.get_rng_state(), list(cuda)]
    return encoder.encode(states, "random")


def restore_random(decoder: Decoder, node: Node) -> None:
    """Put the global generators back."""
    python, numpy, torch, cuda = decoder.restore(node, None)
    random.setstate(python)
    np.random.set_state(numpy)
    th.set_rng_state(torch)
    if cuda and th.cuda.is_available():
        th.cuda.set_rng_state_all(cuda[: th.cuda.device_count()])


def capture_env(encoder: Encoder, env: gym.Env[Any, Any], where: str) -> Node:
    """One node a layer, from the outermost wrapper to the environment itself."""
    nodes: list[dict[str, Node]] = []
    layers = layers_of(env)
    hidden = []  # how much of it, layer by layer
    for layer in layers:
        name = f"{where}: {type(layer).__name__}"
        node: dict[str, Node] = {"class": class_name(layer)}
        hidden.append(len(encoder.opaque))
        adapter = _adapter(layer)
        if adapter is not None:
            node["state"] = encoder.encode(adapter[0](layer), name)
        else:
            node["attributes"] = encoder.attributes(layer, name, _no_state(layer))
        if isinstance(layer, Monitor):
            node["elapsed"] = time.time() - layer.t_start
        nodes.append(node)
    for node, layer, before in zip(nodes, layers, hidden, strict=True):
        inside = encoder.opaque[before:]
        record = layer._episode.record() if inside and isinstance(layer, ResumableEnv) else None
        if record is not None:
            # By itself: it is played before the attributes are put back, which it may share.
            own = Encoder(arrays=encoder.arrays)
            node["replay"] = {"episode": own.encode(record, where), "instead_of": inside}
            del encoder.opaque[before:]
    return nodes


def restore_env(decoder: Decoder, node: Node, env: gym.Env[Any, Any]) -> None:
    """Put an environment's state back into one that was made and reset in the same way."""
    layers = layers_of(env)
    saved, found = [one["class"] for one in node], [class_name(layer) for layer in layers]
    if saved != found:
        raise StateMismatchError(
            f"the environment was {' of '.join(saved)}, now it is {' of '.join(found)}"
        )
    for one, layer in zip(node, layers, strict=True):
        if "replay" in one and isinstance(layer, ResumableEnv):
            try:
                record = Decoder(decoder.arrays).restore(one["replay"]["episode"], None)
                layer._episode.replay(layer.env, record)
            except Exception as error:  # an environment's own, too
                told = in_short(one["replay"]["instead_of"])
                raise StateMismatchError(f"{told}: {error}") from error
    for one, layer in zip(node, layers, strict=True):
        adapter = _adapter(layer)
        if "state" in one and adapter is not None:
            adapter[1](layer, decoder.restore(one["state"], None))
        else:
            decoder.set_attributes(one["attributes"], layer)
        if isinstance(layer, Monitor):
            layer.t_start = time.time() - one["elapsed"]


def capture_vec_env(encoder: Encoder, venv: VecEnv, where: str) -> Node:
    """The state of a vectorised environment: its wrappers, and what the base class allows."""
    wrappers = []
    while isinstance(venv, VecEnvWrapper):
        name = f"{where}: {type(venv).__name__}"
        wrappers.append([class_name(venv), encoder.attributes(venv, name, _no_state(venv))])
        venv = venv.venv
    node: dict[str, Node] = {"wrappers": wrappers, "class": class_name(venv), "n": venv.num_envs}
    node["spaces"] = encoder.encode([venv.action_space, venv.observation_space], where)
    # Seeds and options that wait for the next reset.
    node["awaited"] = encoder.encode([venv._seeds, venv._options], where)
    if isinstance(venv, DummyVecEnv):
        node["envs"] = [
            capture_env(encoder, env, f"{where}[{i}]") for i, env in enumerate(venv.envs)
        ]
    elif isinstance(venv, WORKERS) and _outermost(venv):
        node["workers"] = []
        for i, state in enumerate(venv.env_method("capture_state")):
            encoder.opaque += [f"{where}[{i}] {told}" for told in state["opaque"]]
            numbers = [encoder.store(array) for array in state["arrays"]]
            node["workers"].append({"tree": state["tree"], "arrays": numbers})
    else:
        remedy = (
            ", which hides its environments: wrap each in sb3_ext.resume.ResumableEnv, outermost"
            if isinstance(venv, WORKERS)
            else ""
        )
        encoder.opaque.append(f"{where} is a {type(venv).__name__}{remedy}")
    return node


def _no_state(layer: object) -> frozenset[str]:
    held = getattr(layer, "__dict__", {})
    elsewhere = {"_episode"} if isinstance(layer, ResumableEnv) else set[str]()
    return (
        NO_STATE | elsewhere | {name for name in SHOWN if not isinstance(held.get(name), NUMBERS)}
    )


def _outermost(venv: VecEnv) -> bool:
    """Whether each environment's first layer is ours: what lies outside of it, it cannot see."""
    if not all(venv.env_is_wrapped(ResumableEnv)):
        return False
    return all(name == ResumableEnv.__name__ for name in venv.env_method("class_name"))


def parts_of(venv: VecEnv | None) -> list[Any]:
    """A vectorised environment, its wrappers and, where they are in this process, what it holds."""
    parts: list[Any] = []
    while isinstance(venv, VecEnvWrapper):
        parts.append(venv)
        venv = venv.venv
    if isinstance(venv, DummyVecEnv):
        parts += [layer for env in venv.envs for layer in layers_of(env)]
    return parts if venv is None else [*parts, venv]


def restore_vec_env(
    decoder: Decoder, node: Node, venv: VecEnv, *, only_wrappers: bool = False
) -> None:
    """Put the state back; with ``only_wrappers`` what is not an episode: statistics, say."""
    for name, attributes in node["wrappers"]:
        if not isinstance(venv, VecEnvWrapper) or class_name(venv) != name:
            raise StateMismatchError(f"a {name} was saved, found a {class_name(venv)}")
        decoder.set_attributes(attributes, venv)
        venv = venv.venv
    if (class_name(venv), venv.num_envs) != (node["class"], node["n"]):
        raise StateMismatchError(
            f"{node['n']} environments in a {node['class']} were saved, found {venv.num_envs} in a "
            f"{class_name(venv)}"
        )
    decoder.restore(node["spaces"], [venv.action_space, venv.observation_space])
    if only_wrappers:
        return
    venv._seeds, venv._options = decoder.restore(node["awaited"], None)
    if isinstance(venv, DummyVecEnv):
        for saved, env in zip(node["envs"], venv.envs, strict=True):
            restore_env(decoder, saved, env)
    else:
        for i, saved in enumerate(node["workers"]):
            arrays = [np.array(decoder.arrays[number]) for number in saved["arrays"]]
            given = {"tree": saved["tree"], "arrays": arrays}
            (wrong,) = venv.env_method("restore_state", given, indices=[i])
            if wrong:
                raise StateMismatchError(wrong)


def played_again(node: Node) -> list[str]:
    """What could not be read in environments whose episodes were played again instead."""
    envs = [
        *node.get("envs", ()),
        *(worker["tree"]["layers"] for worker in node.get("workers", ())),
    ]
    layers = [layer for env in envs for layer in env if "replay" in layer]
    return [told for layer in layers for told in layer["replay"]["instead_of"]]


def restore_monitors(decoder: Decoder, node: Node, venv: VecEnv) -> None:
    """Put back the files of episodes, which a ``Monitor`` begins anew by default."""
    while isinstance(venv, VecEnvWrapper):
        venv = venv.venv
    if not isinstance(venv, DummyVecEnv):
        return
    for layers, env in zip(node["envs"], venv.envs, strict=False):
        for saved, layer in zip(layers, layers_of(env), strict=False):
            writer = saved.get("attributes", {}).get("results_writer")
            if writer is not None and isinstance(layer, Monitor):
                decoder.restore(writer, layer.results_writer)


def encode_special(encoder: Encoder, value: Any, where: str) -> Node:
    """The encoder's word on environments that callbacks hold, such as ``EvalCallback``'s."""
    if isinstance(value, VecEnv):
        return {"vec_env": capture_vec_env(encoder, value, where)}
    if isinstance(value, gym.Env):
        return {"env": capture_env(encoder, value, where)}
    if isinstance(value, ResultsWriter):
        value.file_handler.flush()
        return {"monitor": encoder.encode(Path(value.file_handler.name).read_bytes(), where)}
    if isinstance(value, (th.nn.Module, BaseAlgorithm, BaseCallback, Logger)):
        return MISSING  # made again by the script; what they hold is read elsewhere
    return NotImplemented


def decode_special(decoder: Decoder, node: Node, current: Any) -> Any:
    """The decoder's."""
    if "vec_env" in node and not isinstance(current, VecEnv):
        raise StateMismatchError(f"a VecEnv was saved, found a {class_name(current)}")
    if "env" in node and not isinstance(current, gym.Env):
        raise StateMismatchError(f"an environment was saved, found a {class_name(current)}")
    if "vec_env" in node:
        # Its episodes cannot matter (an evaluation begins with a reset), its generators do.
        saved = node["vec_env"]
        if _has_envs(node):
            try:
                restore_vec_env(decoder, saved, current)
                return current
            except StateMismatchError as error:
                warnings.warn(f"an environment of a callback starts anew: {error}", stacklevel=2)
        restore_vec_env(decoder, saved, current, only_wrappers=True)
        return current
    if "env" in node:
        restore_env(decoder, node["env"], current)
        return current
    if "monitor" in node:
        # The file as it was: without episodes that are about to be played again, and with those
        # that a Monitor drops which opens its file anew.
        if isinstance(current, ResultsWriter):
            current.file_handler.seek(0)
            current.file_handler.truncate()
            current.file_handler.write(decoder.restore(node["monitor"], None).decode())
            current.file_handler.flush()
        return current
    return NotImplemented


def _has_envs(node: Node) -> bool:
    return "envs" in node["vec_env"] or "workers" in node["vec_env"]


def _adapter(layer: gym.Env[Any, Any]) -> tuple[GetState, SetState] | None:
    return next((_adapters[kind] for kind in type(layer).__mro__ if kind in _adapters), None)
