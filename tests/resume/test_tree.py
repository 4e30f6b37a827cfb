"""Values that go through a tree and JSON come back equal, and into the same objects."""

import collections
import enum
import itertools
import json
import random
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch as th

from sb3_ext.resume.decoder import Decoder
from sb3_ext.resume.encoder import Encoder, is_transparent
from sb3_ext.resume.tree import MISSING, StateMismatchError
from sb3_ext.trees import same


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass
class Helper:
    """Stands for what an environment may hold."""

    position: np.ndarray = field(default_factory=lambda: np.zeros(2))
    colour: Colour = Colour.RED
    other: Any = None


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


def through(value, current):
    encoder = Encoder()
    node = json.loads(json.dumps(encoder.encode(value, "value")))
    assert encoder.opaque == []
    return Decoder(encoder.arrays).restore(node, current)


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 3, 2**130, 0.1, -0.0, float("inf"), "text", b"\x00\xff"),
        *((1, (2.5, None)), [1, [2]], {"a": 1, 2: {(1, 2): "x"}}, {3, 1}, frozenset({"a"})),
        *(np.arange(6.0).reshape(2, 3), np.array(True), np.array(["a", "bc"])),
        *(np.float32(0.1), np.int8(-3), th.arange(3.0), th.tensor(2, dtype=th.int16)),
    ],
    ids=repr,
)
def test_a_value_comes_back(value):
    found = through(value, frozenset() if isinstance(value, frozenset) else None)
    assert type(found) is type(value)
    assert same(found, value)
    if hasattr(value, "dtype"):
        assert found.dtype == value.dtype


def test_containers_are_filled_in_place():
    for value, current in [
        ([1, 2], [9]),
        ({"a": [1]}, {"b": 2}),
        (collections.deque([1, 2], maxlen=5), collections.deque(maxlen=5)),
        (np.ones(3), np.zeros(3)),
    ]:
        assert through(value, current) is current
        assert same(current if isinstance(value, np.ndarray) else list(current), value) or (
            list(current) == list(value)
        )


def test_what_was_one_thing_stays_one_thing_and_what_was_two_stays_two():
    shared, now = np.ones(2), np.zeros(2)
    one = through({"a": shared, "b": shared}, {"a": np.zeros(2), "b": np.zeros(2)})
    assert one["a"] is one["b"]
    two = through({"a": np.zeros(2), "b": np.ones(2)}, {"a": now, "b": now})
    assert two["a"].tolist() == [0, 0]
    assert two["b"].tolist() == [1, 1]


@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.MT19937, np.random.Philox])
def test_generators_go_on(kind):
    generator = np.random.Generator(kind(5))
    generator.normal(size=3)
    current = np.random.Generator(kind(6))
    again = through(generator, current)
    assert again is current
    assert np.array_equal(again.normal(size=5), generator.normal(size=5))
    fresh = through(generator, None)
    assert np.array_equal(fresh.integers(9, size=5), generator.integers(9, size=5))


def test_other_generators_go_on():
    for generator in (np.random.RandomState(3), random.Random(3)):
        draw = generator.rand if hasattr(generator, "rand") else generator.random
        draw()
        again = through(generator, type(generator)(4))
        assert draw() == (again.rand() if hasattr(again, "rand") else again.random())


def test_a_space_keeps_its_generators():
    def make():
        return gym.spaces.Dict({"a": gym.spaces.Box(0, 1, (2,)), "b": gym.spaces.Discrete(9)})

    space, other = make(), make()
    space.seed(3)
    space.sample()
    through(space, other)
    for _ in range(5):
        assert same(dict(space.sample()), dict(other.sample()))


class Pair(NamedTuple):
    left: int
    right: int


def test_a_named_tuple_is_made_by_the_one_that_is_there_or_by_its_class():
    assert through({"a": Pair(1, 2)}, {"a": Pair(0, 0)})["a"] == Pair(1, 2)
    assert type(through(Pair(1, 2), Pair(0, 0))) is Pair
    assert type(through([Pair(1, 2)], [])[0]) is Pair
    local = collections.namedtuple("local", "left right")
    with pytest.raises(StateMismatchError, match=r"local was saved, found a .*NoneType"):
        through([local(1, 2)], [])


def test_objects_are_walked_and_may_lead_back():
    helper, current = Helper(np.ones(2), Colour.BLUE, Slotted(4)), Helper(other=Slotted(0))
    helper.other.value = [helper]
    current.other.value = [current]
    found = through(helper, current)
    assert found is current
    assert (found.position.tolist(), found.colour) == ([1, 1], Colour.BLUE)
    assert found.other.value == [found]


def test_an_object_of_another_class_is_refused():
    with pytest.raises(StateMismatchError, match=r"Helper was saved, found a .*Slotted"):
        through(Helper(), Slotted(1))


@pytest.mark.parametrize(
    "hidden",
    [itertools.count(), iter([1]), np.array([object()]), Encoder.__mro__[0].__dict__.items()],
    ids=["count", "iterator", "objects", "view"],
)
def test_hidden_state_is_noted(hidden):
    encoder = Encoder()
    node = encoder.encode({"a": 1, "b": hidden}, "it")
    assert encoder.opaque == [f"it['b'] holds a {type(hidden).__name__}"]
    held = {"a": 0, "b": hidden}
    assert Decoder(encoder.arrays).restore(node, held)["b"] is hidden
    assert held["a"] == 1


def test_functions_and_classes_are_constants():
    encoder = Encoder()
    for value in (print, int, json, test_functions_and_classes_are_constants, "".join):
        assert encoder.encode(value, "it") is MISSING
    assert encoder.opaque == []


def test_a_class_over_c_is_not_transparent():
    class Counting(itertools.count):
        pass

    class OwnPickling:
        def __getstate__(self):
            return {}

    assert is_transparent(Helper())
    assert is_transparent(Slotted(1))
    assert not is_transparent(Counting())
    assert not is_transparent(OwnPickling())
