"""The sum tree against sums and searches by brute force."""

import copy
import importlib.util
import itertools
from typing import Any

import numpy as np
import pytest

from sb3_ext.replay.backends import make_sum_tree
from sb3_ext.replay.sum_tree import Extreme, SumTree

BACKENDS = ["numpy"] + (["numba"] if importlib.util.find_spec("numba") else [])
SIZES = [1, 2, 3, 7, 64, 1000, 1024, 1025, 5000]


@pytest.fixture(params=BACKENDS)
def backend(request: Any) -> str:
    return request.param


def written(size: int, rng: Any, rounds: int = 20, backend: str = "numpy") -> SumTree:
    tree = make_sum_tree(size, backend)
    for _ in range(rounds):
        indices = rng.integers(size, size=rng.integers(1, 40))
        tree.set(indices, rng.random(len(indices)) * rng.integers(0, 2, len(indices)))
        if rng.random() < 0.5:
            assert tree.total >= 0  # a question in between
    return tree


@pytest.mark.parametrize("size", SIZES)
def test_sums_are_those_of_the_leaves(size, backend):
    rng = np.random.default_rng(size)
    tree = written(size, rng, backend=backend)
    leaves = np.array(tree.leaves)
    assert tree.total == pytest.approx(leaves.sum(), rel=1e-12)
    for leaf in {0, 1, size // 2, size - 1, size} & set(range(size + 1)):
        assert tree.mass_before(leaf) == pytest.approx(leaves[:leaf].sum(), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("size", SIZES)
def test_every_mass_is_found_in_its_leaf(size, backend):
    rng = np.random.default_rng(size)
    tree = written(size, rng, backend=backend)
    tree.set(np.array([size // 2]), np.array([0.5]))
    leaves = np.array(tree.leaves)
    masses = rng.random(500) * tree.total
    ends = np.cumsum(leaves)
    found = tree.find(masses.copy())
    assert (leaves[found] > 0).all()
    assert (masses < ends[found] + 1e-9).all()
    assert (masses >= ends[found] - leaves[found] - 1e-9).all()


def test_the_backends_agree_to_the_bit():
    if "numba" not in BACKENDS:
        pytest.skip("numba is not installed")
    trees = [written(5000, np.random.default_rng(3), backend=one) for one in BACKENDS]
    masses = np.random.default_rng(4).random(2000) * trees[0].total
    assert trees[0].total == trees[1].total
    assert np.array_equal(trees[0].find(masses), trees[1].find(masses))


def test_of_an_index_that_occurs_twice_the_last_counts(backend):
    tree = make_sum_tree(8, backend)
    tree.set(np.array([3, 3, 3]), np.array([5.0, 1.0, 2.0]))
    assert tree.total == 2
    assert tree.leaves[3] == 2


def test_one_mass_for_all(backend):
    tree = make_sum_tree(8, backend)
    tree.set(np.arange(3), 4.0)
    assert tree.leaves.tolist() == [4, 4, 4, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -1.0])
def test_what_is_no_mass_is_refused_and_changes_nothing(wrong):
    tree = SumTree(8)
    tree.set(np.arange(8), np.arange(8.0))
    with pytest.raises(ValueError, match="finite and >= 0"):
        tree.set(np.array([1, 2]), np.array([1.0, wrong]))
    assert tree.leaves.tolist() == list(range(8))
    assert tree.total == 28


def test_an_empty_tree_is_not_drawn_from(backend):
    with pytest.raises(ValueError, match="all 0"):
        make_sum_tree(4, backend).find(np.zeros(1))
    with pytest.raises(ValueError, match="capacity must be at least 1"):
        SumTree(0)


def test_a_leaf_without_mass_is_never_found(backend):
    """Whatever the rounding: masses at and beyond every edge, among leaves of very unlike size."""
    rng = np.random.default_rng(0)
    for size in (5, 64, 3000):
        tree = make_sum_tree(size, backend)
        leaves = np.where(rng.random(size) < 0.3, 10.0 ** rng.integers(-12, 9, size), 0.0)
        leaves[0] = 1e-12
        tree.fill(leaves)
        ends = np.cumsum(leaves)
        edges = np.concatenate([ends, np.nextafter(ends, 0), np.nextafter(ends, np.inf)])
        edges = np.concatenate([edges, [0.0, tree.total, tree.total * (1 + 1e-9)]])
        assert (leaves[tree.find(edges)] > 0).all()


def test_the_step_back_from_an_empty_leaf_goes_to_the_last_one_with_mass():
    for shape in itertools.product((0.0, 1.0), repeat=8):
        tree = SumTree(8)
        tree.fill(np.array(shape))
        tree._top = 1  # as in a large tree, where levels lie below the top
        for row in (4, 2, 1):
            below = tree._nodes[2 * row : 4 * row]
            tree._nodes[row : 2 * row] = below[::2] + below[1::2]
        for leaf in range(8):
            if shape[leaf] == 0 and any(shape[:leaf]):
                wanted = max(i for i in range(leaf) if shape[i])
                assert tree._next_to(leaf + 8) - 8 == wanted


def test_filling_gives_the_same_nodes_as_writing():
    rng = np.random.default_rng(1)
    masses = rng.random(3000)
    one, other = SumTree(3000), SumTree(3000)
    one.fill(masses)
    for part in np.array_split(rng.permutation(3000), 37):
        other.set(part, masses[part])
    assert one.total == other.total
    assert np.array_equal(one._nodes[one._top :], other._nodes[other._top :])
    one.fill(masses[:10])
    assert one.total == pytest.approx(masses[:10].sum())


def test_nothing_drifts():
    """Float32 trees that add differences are off by far more after so many writes."""
    rng = np.random.default_rng(2)
    tree = SumTree(1000)
    for _ in range(3000):
        tree.set(rng.integers(1000, size=50), 10 ** rng.uniform(-6, 6, 50))
        tree._sum_up()
    assert tree.total == pytest.approx(np.array(tree.leaves).sum(), rel=1e-13)


@pytest.mark.parametrize("kind", ["min", "max"])
def test_extremes_are_those_of_the_masses_above_0(kind):
    rng = np.random.default_rng(5)
    tree = SumTree(500)
    extreme = Extreme(tree, kind)
    assert extreme.value == 0
    for _ in range(200):
        indices = rng.integers(500, size=rng.integers(1, 30))
        tree.set(indices, rng.random(len(indices)) * rng.integers(0, 2, len(indices)))
        extreme.touch(indices)
        alive = np.array(tree.leaves)[np.array(tree.leaves) > 0]
        if len(alive):
            assert extreme.value == getattr(alive, kind)()
    tree.fill(np.arange(10.0))
    extreme.refill()
    assert extreme.value == {"min": 1.0, "max": 9.0}[kind]


def test_a_copy_is_whole():
    tree = SumTree(200)
    tree.fill(np.arange(1.0, 201.0))
    extreme = Extreme(tree, "max")
    extreme.refill()
    other_tree, other = copy.deepcopy((tree, extreme))
    other_tree.set(np.arange(150, 200), 0.5)
    other.touch(np.arange(150, 200))
    assert (extreme.value, other.value, other_tree.total) == (200, 150, 150 * 151 / 2 + 25)
    assert tree.total == 200 * 201 / 2


def test_memory_of_a_million_leaves():
    tree = SumTree(1_000_000)
    assert tree.nbytes / 2**20 == pytest.approx(16, abs=0.1)
    assert Extreme(tree, "min").nbytes / 2**20 < 0.2


def test_a_long_time_without_a_question_does_not_fill_the_memory(backend):
    tree = make_sum_tree(5000, backend)
    extreme = Extreme(tree, "min")
    for leaf in range(3000):
        tree.set(np.array([leaf]), 1.0 + leaf)
        extreme.touch(np.array([leaf]))
    assert len(tree._unsummed) < 1024 and len(extreme._written) < 1024
    assert tree.total == np.arange(1.0, 3001).sum()
    assert extreme.value == 1


def test_an_extreme_that_is_overwritten_is_looked_for_again():
    tree = SumTree(200)
    largest = Extreme(tree, "max")
    tree.fill(np.arange(200.0))
    largest.refill()
    for leaf, mass, wanted in ((199, 5.0, 198), (198, 0.0, 197), (3, 500.0, 500), (3, 1.0, 197)):
        tree.set(np.array([leaf]), mass)
        largest.touch(np.array([leaf]))
        assert largest.value == wanted
