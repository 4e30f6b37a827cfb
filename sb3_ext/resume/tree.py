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

import hashlib
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np

from sb3_ext.errors import CheckpointError

Node: TypeAlias = Any
"""What ``json`` takes: scalars stand for themselves, all else is a dict with its kind as key."""

MISSING = object()
"""The encoder's answer for a constant or an opaque value: it is left as it is at the reader's."""


class StateMismatchError(CheckpointError):
    """A saved tree does not fit the value that it shall be put into."""


def instance_attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """An object's own attributes, those in slots included."""
    yield from list(getattr(value, "__dict__", {}).items())
    for base in type(value).__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield name, getattr(value, name)


def class_name(value: Any) -> str:
    """``module:name`` of a value's class; one that C code made may not say its module."""
    return f"{getattr(type(value), '__module__', '')}:{type(value).__qualname__}"


def in_short(told: list[str]) -> str:
    """The first of many faults; where one attribute is hidden, a thousand may hang below it."""
    more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
    return f"{told[0]}{more}"


def mujoco_model_digest(model: Any) -> str:
    """A fingerprint of a MuJoCo model, masses and geometry included."""
    import mujoco

    size = mujoco.mj_sizeModel(model)
    buffer = np.empty(size, dtype=np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return hashlib.sha256(buffer.tobytes()).hexdigest()
