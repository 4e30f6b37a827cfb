"""State as plain data: numbers, containers and arrays, written and put back without pickle.

``Encoder`` walks a value and makes a tree of JSON's types; arrays are set aside in a list.
``Decoder`` puts such a tree back into a value that has the same shape already: a fresh environment,
say. Pickle would be shorter, but whoever may write a pickle may run code in the reader's name.

What can be walked: None, numbers, strings, bytes, lists, tuples, sets, dicts, deques, NumPy arrays
and scalars, tensors, random generators, Gymnasium spaces (their generators), MuJoCo's data, and
objects of classes that are Python through and through. Functions, classes and modules are taken as
constants. Anything else is *opaque*, and the encoder notes where it was.
"""

from __future__ import annotations

import collections
import enum
import hashlib
import random
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
import torch as th

from sb3_ext.errors import CheckpointError

Node: TypeAlias = Any
"""What ``json`` takes: scalars stand for themselves, all else is a dict with its kind as key."""

MISSING = object()
"""The encoder's answer for a constant or an opaque value: it is left as it is at the reader's."""

CONSTANT = (
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    property,
)
CUSTOM_STATE = ("__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs__")


class StateMismatchError(CheckpointError):
    """A saved tree does not fit the value that it shall be put into."""


class Encoder:
    """Makes trees; several of one encoder share their arrays.

    :param special: asked first; its answer is the node, or ``NotImplemented``
    """

    def __init__(self, special: Callable[[Encoder, Any, str], Node] | None = None) -> None:
        self.arrays: list[np.ndarray] = []
        self.opaque: list[str] = []
        self._special = special
        # id -> (number, value): holding the value keeps its id from being given to another.
        self._seen: dict[int, tuple[int, Any]] = {}

    def encode(self, value: Any, where: str) -> Node:
        """The tree of ``value``; ``where`` names it in ``opaque``."""
        if type(value) in (type(None), bool, int, float, str):  # not their subclasses
            return value
        if isinstance(value, np.generic):
            return {"scalar": self._store(np.asarray(value))}
        if isinstance(value, enum.Enum):
            return {"enum": value.name, "class": class_name(value)}
        if isinstance(value, bytes):
            return {"bytes": self._store(np.frombuffer(value, dtype=np.uint8))}
        if isinstance(value, tuple):
            node = self._sequence("tuple", value, where)
            if node is not MISSING and type(value) is not tuple:
                node["class"] = class_name(value)
            return node
        if id(value) in self._seen:
            return {"same": self._seen[id(value)][0]}
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
        node = self._by_kind(value, where)
        if isinstance(node, dict):
            node["number"] = number
        return node

    def _by_kind(self, value: Any, where: str) -> Node:
        if isinstance(value, np.ndarray):
            if value.dtype.hasobject:
                return self._note(value, where)
            return {"array": self._store(value)}
        if isinstance(value, th.Tensor):
            return {"tensor": self._store(value.detach().cpu().numpy())}
        if type(value) is list:
            return self._sequence("list", value, where)
        if isinstance(value, collections.deque):
            return self._sequence("deque", value, where)
        if type(value) in (set, frozenset):
            return self._sequence("set", sorted(value, key=repr), where)
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
        if type(value).__module__.partition(".")[0] == "mujoco":
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
            return {"mjdata": self._store(state)}
        if kind == "MjModel":
            return {"mjmodel": mujoco_model_digest(value)}
        return self._note(value, where)

    def _sequence(self, kind: str, values: Any, where: str) -> Node:
        nodes = [self.encode(value, f"{where}[{i}]") for i, value in enumerate(values)]
        return MISSING if any(node is MISSING for node in nodes) else {kind: nodes}

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

    def _store(self, array: np.ndarray) -> int:
        self.arrays.append(array)
        return len(self.arrays) - 1

    def _note(self, value: Any, where: str) -> Any:
        self.opaque.append(f"{where} holds a {type(value).__name__}")
        return MISSING


class Decoder:
    """Puts trees back; one decoder for the trees of one encoder.

    :param arrays: the encoder's, by number
    :param special: asked first, as the encoder's
    """

    def __init__(
        self,
        arrays: Mapping[int, np.ndarray] | list[np.ndarray],
        special: Callable[[Decoder, Node, Any], Any] | None = None,
    ) -> None:
        self.arrays = arrays
        self._special = special
        self._made: dict[int, Any] = {}
        self._taken: set[int] = set()

    def restore(self, node: Node, current: Any) -> Any:
        """The value of ``node``; what is mutable is ``current`` itself where that fits.

        :raises StateMismatchError: if ``current`` is another kind of thing
        """
        if not isinstance(node, dict):
            return node
        if "same" in node:
            return self._made[node["same"]]
        if self._special is not None:
            value = self._special(self, node, current)
            if value is not NotImplemented:
                return self._remember(node, value)
        kind = next(iter(node))
        return self._remember(node, getattr(self, f"_{kind}")(node, current))

    def set_attributes(self, nodes: Mapping[str, Node], target: Any) -> None:
        """Put attributes back into an object."""
        for name, node in nodes.items():
            value = self.restore(node, getattr(target, name, None))
            if getattr(target, name, MISSING) is not value:
                object.__setattr__(target, name, value)

    def _remember(self, node: Node, value: Any) -> Any:
        if "number" in node:
            self._made[node["number"]] = value
        return value

    def _scalar(self, node: Node, _: Any) -> Any:
        return self.arrays[node["scalar"]][()]

    def _bytes(self, node: Node, _: Any) -> bytes:
        return self.arrays[node["bytes"]].tobytes()

    def _enum(self, node: Node, current: Any) -> enum.Enum:
        if not isinstance(current, enum.Enum) or class_name(current) != node["class"]:
            raise StateMismatchError(f"a {node['class']} was saved, found a {class_name(current)}")
        return type(current)[node["enum"]]

    def _array(self, node: Node, current: Any) -> np.ndarray:
        saved = self.arrays[node["array"]]
        fits = (
            isinstance(current, np.ndarray)
            and (current.shape, current.dtype) == (saved.shape, saved.dtype)
            and current.flags.writeable
            # Two attributes that were one array once, and are two now, must not become one again.
            and id(current) not in self._taken
        )
        if not fits:
            return np.array(saved)
        self._taken.add(id(current))
        held: np.ndarray = current
        np.copyto(held, saved)
        return held

    def _tensor(self, node: Node, current: Any) -> th.Tensor:
        device = current.device if isinstance(current, th.Tensor) else "cpu"
        return th.as_tensor(np.array(self.arrays[node["tensor"]])).to(device)

    def _items(self, nodes: list[Node], current: Any) -> list[Any]:
        held = list(current) if isinstance(current, (list, tuple, collections.deque)) else []
        held += [None] * (len(nodes) - len(held))
        return [self.restore(node, old) for node, old in zip(nodes, held, strict=False)]

    def _tuple(self, node: Node, current: Any) -> tuple[Any, ...]:
        if "class" not in node:
            return tuple(self._items(node["tuple"], current))
        # A named tuple is made by the class of the one that is there; none is looked up by name.
        if class_name(current) != node["class"] or not hasattr(current, "_make"):
            raise StateMismatchError(f"a {node['class']} was saved, found a {class_name(current)}")
        made: tuple[Any, ...] = current._make(self._items(node["tuple"], current))
        return made

    def _list(self, node: Node, current: Any) -> list[Any]:
        values = self._items(node["list"], current)
        if type(current) is not list:
            return values
        current[:] = values
        return current

    def _deque(self, node: Node, current: Any) -> collections.deque[Any]:
        if not isinstance(current, collections.deque):
            raise StateMismatchError(f"a deque was saved, found a {type(current).__name__}")
        values = self._items(node["deque"], current)
        current.clear()
        current.extend(values)
        return current

    def _set(self, node: Node, current: Any) -> Any:
        values = self._items(node["set"], None)
        return frozenset(values) if isinstance(current, frozenset) else set(values)

    def _dict(self, node: Node, current: Any) -> dict[Any, Any]:
        held = current if isinstance(current, dict) else {}
        kept = [self.restore(name, None) for name in node["kept"]]
        values = {name: held[name] for name in kept if name in held}
        for name_node, value_node in node["dict"]:
            name = self.restore(name_node, None)
            values[name] = self.restore(value_node, held.get(name))
        if not isinstance(current, dict):
            return values
        current.clear()
        current.update(values)
        return current

    def _generator(self, node: Node, current: Any) -> np.random.Generator:
        state = self.restore(node["generator"], None)
        if not isinstance(current, np.random.Generator):
            # A space or an environment that has not been seeded in this process yet.
            kinds = {kind.__name__: kind for kind in np.random.BitGenerator.__subclasses__()}
            current = np.random.Generator(kinds[state["bit_generator"]]())
        made: np.random.Generator = current
        made.bit_generator.state = state
        return made

    def _random_state(self, node: Node, current: Any) -> np.random.RandomState:
        made = current if isinstance(current, np.random.RandomState) else np.random.RandomState()
        made.set_state(self.restore(node["random_state"], None))
        return made

    def _random(self, node: Node, current: Any) -> random.Random:
        made = current if type(current) is random.Random else random.Random()
        made.setstate(self.restore(node["random"], None))
        return made

    def _space(self, node: Node, current: Any) -> gym.Space[Any]:
        if not isinstance(current, gym.Space):
            raise StateMismatchError(f"a space was saved, found a {type(current).__name__}")
        own, inner = node["space"]
        current._np_random = self.restore(own, current._np_random)
        held = getattr(current, "spaces", ())
        parts = held.values() if isinstance(held, Mapping) else held
        for part, saved in zip(parts, inner, strict=True):
            self.restore(saved, part)
        return current

    def _mjdata(self, node: Node, current: Any) -> Any:
        import mujoco  # type: ignore[import-untyped]

        saved = mujoco.MjData.__new__(mujoco.MjData)
        saved.__setstate__(self.arrays[node["mjdata"]].tobytes())
        if not isinstance(current, mujoco.MjData):
            raise StateMismatchError(f"MuJoCo data were saved, found a {type(current).__name__}")
        mujoco.mj_copyData(current, current.model, saved)
        return current

    def _mjmodel(self, node: Node, current: Any) -> Any:
        if mujoco_model_digest(current) != node["mjmodel"]:
            raise StateMismatchError("the MuJoCo model was changed after the environment was made")
        return current

    def _object(self, node: Node, current: Any) -> Any:
        if class_name(current) != node["class"]:
            raise StateMismatchError(f"a {node['class']} was saved, found a {class_name(current)}")
        # Known before its attributes are, which may lead back to it.
        self._remember(node, current)
        self.set_attributes(node["object"], current)
        return current


def instance_attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """An object's own attributes, those in slots included."""
    yield from list(getattr(value, "__dict__", {}).items())
    for base in type(value).__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield name, getattr(value, name)


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


def class_name(value: Any) -> str:
    """``module:name`` of a value's class."""
    return f"{type(value).__module__}:{type(value).__qualname__}"


def mujoco_model_digest(model: Any) -> str:
    """A fingerprint of a MuJoCo model, masses and geometry included."""
    import mujoco

    size = mujoco.mj_sizeModel(model)
    buffer = np.empty(size, dtype=np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return hashlib.sha256(buffer.tobytes()).hexdigest()
