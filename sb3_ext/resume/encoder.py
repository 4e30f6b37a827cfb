"""From values to trees of plain data; see :mod:`sb3_ext.resume.tree`."""

from __future__ import annotations

import collections
import enum
import random
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th

from sb3_ext.resume.tree import (
    MISSING,
    Node,
    class_name,
    instance_attributes,
    mujoco_model_digest,
)

CONSTANT = (
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    property,
)
CUSTOM_STATE = ("__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs__")


class Encoder:
    """Makes trees; several of one encoder share their arrays.

    :param special: asked first; its answer is the node, or ``NotImplemented``
    :param arrays: where arrays go; those of another encoder are kept
    :param elsewhere: values that are written by somebody else, and are left out here
    """

    def __init__(
        self,
        special: Callable[[Encoder, Any, str], Node] | None = None,
        arrays: list[np.ndarray] | None = None,
        elsewhere: Iterable[Any] = (),
    ) -> None:
        self.arrays: list[np.ndarray] = [] if arrays is None else arrays
        self.opaque: list[str] = []
        self.elsewhere = {id(value): value for value in elsewhere}
        self._special = special
        # id -> (number, value): holding the value keeps its id from being given to another.
        self._seen: dict[int, tuple[int, Any]] = {}

    def encode(self, value: Any, where: str) -> Node:
        """The tree of ``value``; ``where`` names it in ``opaque``."""
        if type(value) in (type(None), bool, int, float, str):  # not their subclasses
            return value
        if isinstance(value, np.generic):
            return {"scalar": self.store(np.asarray(value))}
        if isinstance(value, enum.Enum):
            return {"enum": value.name, "class": class_name(value)}
        if isinstance(value, bytes):
            return {"bytes": self.store(np.frombuffer(value, dtype=np.uint8))}
        if isinstance(value, tuple):
            node = self._sequence("tuple", value, where)
            if node is not MISSING and type(value) is not tuple:
                node["class"] = class_name(value)
            return node
        if id(value) in self._seen:
            return {"same": self._seen[id(value)][0]}
        if id(value) in self.elsewhere:
            return MISSING
        if self._special is not None:
            node = self._special(self, value, where)
            if node is not NotImplemented:
                return node
        return self._mutable(value, where)

    def attributes(self, value: Any, where: str, skip: frozenset[str] = frozenset()) -> Node:
        """The tree of an object's attributes, by their names."""
        nodes = {}
        for name, held in instance_attributes(value):
            if name not in skip:
                node = self.encode(held, f"{where}.{name}")
                if node is not MISSING:
                    nodes[name] = node
        return nodes

    def _mutable(self, value: Any, where: str) -> Node:
        if isinstance(value, CONSTANT):
            return MISSING
        number = len(self._seen)
        self._seen[id(value)] = (number, value)
        try:
            node = self._by_kind(value, where)
        except Exception:  # a stranger's attribute may do anything
            node = self._note(value, where)
        if isinstance(node, dict):
            node["number"] = number
        else:
            self._forget(number)
        return node

    def _forget(self, start: int) -> None:
        """What is dropped cannot be referred to by what comes later, nor can its parts."""
        while len(self._seen) > start:
            self._seen.popitem()

    def _by_kind(self, value: Any, where: str) -> Node:
        if isinstance(value, np.ndarray):
            if value.dtype.hasobject:
                return self._note(value, where)
            return {"array": self.store(value)}
        if isinstance(value, th.Tensor):
            return {"tensor": self.store(value.detach().cpu().numpy())}
        if type(value) is list:
            return self._sequence("list", value, where)
        if isinstance(value, collections.deque):
            return self._sequence("deque", value, where)
        if type(value) in (set, frozenset):
            return self._sequence(type(value).__name__, sorted(value, key=repr), where)
        if isinstance(value, (dict, types.MappingProxyType)):
            return self._mapping(value, where)
        if isinstance(value, np.random.Generator):
            return {"generator": self.encode(dict(value.bit_generator.state), where)}
        if isinstance(value, np.random.RandomState):
            return {"random_state": self.encode(value.get_state(legacy=False), where)}
        if type(value) is random.Random:
            return {"random": self.encode(value.getstate(), where)}
        if isinstance(value, gym.Space):
            return {"space": self._space(value, where)}
        if class_name(value).partition(".")[0].partition(":")[0] == "mujoco":
            return self._mujoco(value, where)
        if not is_transparent(value):
            return self._note(value, where)
        return {"object": self.attributes(value, where), "class": class_name(value)}

    def _space(self, space: gym.Space[Any], where: str) -> Node:
        """Its generator and those inside it; ``_np_random`` is None until first used."""
        inner = getattr(space, "spaces", ())
        parts = inner.values() if isinstance(inner, Mapping) else inner
        return [
            self.encode(space._np_random, where),
            [self.encode(part, f"{where}[{i}]") for i, part in enumerate(parts)],
        ]

    def _mujoco(self, value: Any, where: str) -> Node:
        kind = type(value).__name__
        if kind == "MjData":
            state = np.frombuffer(value.__getstate__(), dtype=np.uint8)
            return {"mjdata": self.store(state)}
        if kind == "MjModel":
            return {"mjmodel": mujoco_model_digest(value)}
        return self._note(value, where)

    def _sequence(self, kind: str, values: Any, where: str) -> Node:
        start = len(self._seen)
        nodes = [self.encode(value, f"{where}[{i}]") for i, value in enumerate(values)]
        if not any(node is MISSING for node in nodes):
            return {kind: nodes}
        self._forget(start)
        return MISSING

    def _mapping(self, values: Mapping[Any, Any], where: str) -> Node:
        pairs, kept = [], []
        for key, value in values.items():
            name, node = self.encode(key, where), self.encode(value, f"{where}[{key!r}]")
            if name is MISSING:
                return MISSING
            if node is MISSING:
                kept.append(name)
            else:
                pairs.append([name, node])
        return {"dict": pairs, "kept": kept}

    def store(self, array: np.ndarray) -> int:
        """Set an array aside; its number."""
        self.arrays.append(array)
        return len(self.arrays) - 1

    def _note(self, value: Any, where: str) -> Any:
        self.opaque.append(f"{where} holds a {type(value).__name__}")
        return MISSING


def is_transparent(value: Any) -> bool:
    """Whether all of an object's state is in attributes: no C structure under it, no own pickling.

    Python's default for pickling knows: it refuses an object whose memory holds more than its
    attributes.
    """
    kind = type(value)
    if isinstance(value, (dict, list, set, tuple, str, int, float)):
        return False
    if any(getattr(kind, name, None) is not getattr(object, name, None) for name in CUSTOM_STATE):
        return False
    try:
        object.__reduce_ex__(value, 2)
    except TypeError:
        return False
    return True
