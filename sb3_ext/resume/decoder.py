"""From trees of plain data back into values; see :mod:`sb3_ext.resume.tree`."""

from __future__ import annotations

import collections
import enum
import random
import sys
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th

from sb3_ext.resume.tree import (
    MISSING,
    Node,
    StateMismatchError,
    class_name,
    mujoco_model_digest,
)


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
        """Put attributes back into an object.

        :raises StateMismatchError: naming the attribute that does not fit
        """
        for name, node in nodes.items():
            try:
                value = self.restore(node, getattr(target, name, None))
                if getattr(target, name, MISSING) is not value:
                    object.__setattr__(target, name, value)
            except StateMismatchError:
                raise
            except Exception as error:  # a stranger's attribute may do anything
                raise StateMismatchError(
                    f"{type(target).__name__}.{name} cannot be put back "
                    f"({type(error).__name__}: {error})"
                ) from error

    def _remember(self, node: Node, value: Any) -> Any:
        if "number" in node:
            self._made[node["number"]] = value
        return value

    def _scalar(self, node: Node, _: Any) -> Any:
        return self.arrays[node["scalar"]][()]

    def _bytes(self, node: Node, _: Any) -> bytes:
        return self.arrays[node["bytes"]].tobytes()

    def _enum(self, node: Node, current: Any) -> enum.Enum:
        kind = _class_of(node["class"], current, enum.Enum)
        return kind[node["enum"]]  # type: ignore[no-any-return]

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
        kind = _class_of(node["class"], current, tuple)
        # Not by its own constructor, which may do anything; a named tuple's does no more.
        made: tuple[Any, ...] = tuple.__new__(kind, self._items(node["tuple"], current))
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

    def _set(self, node: Node, _: Any) -> set[Any]:
        return set(self._items(node["set"], None))

    def _frozenset(self, node: Node, _: Any) -> frozenset[Any]:
        return frozenset(self._items(node["frozenset"], None))

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
        import mujoco

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


def _class_of(name: str, current: Any, kind: type) -> Any:
    """The class of a plain value: that of the one that is there, or one that the script defined.

    Nothing is imported, and nothing else is taken than an enum or a tuple, which hold no code of
    the file's choosing.

    :param name: as ``class_name`` gives it
    :param current: the value that is there
    :param kind: what the class must inherit from
    :raises StateMismatchError: if there is no such class in this process
    """
    if class_name(current) == name and isinstance(current, kind):
        return type(current)
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise StateMismatchError(f"a {name} was saved, found a {class_name(current)}")
    return found
