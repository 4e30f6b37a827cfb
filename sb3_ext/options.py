"""Laws for the options of configs, each checked when the config is made.

A config is a frozen dataclass of plain values. Its ``__post_init__`` calls ``check_options``::

    _LAWS = {"temperature": POSITIVE, "form": one_of("ratio", "prob")}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Law = tuple[Callable[[Any], bool], str]
"""A test, and the words that follow "must be" in the error."""

_NUMBER = (int, float, np.integer, np.floating)


class Default(int):
    """An int that the user did not choose, and so may be clipped instead of refused."""


def check_options(config: Any, laws: Mapping[str, Law]) -> None:
    """Hold a config against its laws, and make NumPy's scalars plain, for JSON and YAML.

    :param config: a frozen dataclass
    :param laws: by the option's name
    :raises ValueError: for the first option that breaks its law
    """
    for name, (holds, words) in laws.items():
        value = getattr(config, name)
        if not holds(value):
            raise ValueError(f"{type(config).__name__}: {name} must be {words}, got {value!r}")
        if isinstance(value, np.generic):
            object.__setattr__(config, name, value.item())


def is_number(value: Any) -> bool:
    """A finite real number; True and False are none."""
    return isinstance(value, _NUMBER) and type(value) is not bool and bool(np.isfinite(value))


def is_integer(value: Any) -> bool:
    """A whole number of at least 1."""
    return isinstance(value, (int, np.integer)) and type(value) is not bool and bool(value >= 1)


def between(low: float, high: float, *, low_open: bool = False) -> Law:
    """A number in [low, high], or in (low, high]."""
    brackets = f"{'(' if low_open else '['}{low:g}, {high:g}]"
    return (
        lambda v: is_number(v) and (low < v if low_open else low <= v) and bool(v <= high),
        f"in {brackets}",
    )


def one_of(*values: Any) -> Law:
    """One of a few values."""
    return (lambda v: any(type(v) is type(one) and v == one for one in values), f"one of {values}")


def maybe(law: Law) -> Law:
    """None, or what another law says."""
    return (lambda v: v is None or law[0](v), f"None or {law[1]}")


INTEGER: Law = (is_integer, "an integer >= 1")
POSITIVE: Law = (
    lambda v: is_number(v) and bool(0 < v < math.inf),
    "> 0, a finite number",
)
NON_NEGATIVE: Law = (lambda v: is_number(v) and bool(v >= 0), ">= 0, a finite number")
