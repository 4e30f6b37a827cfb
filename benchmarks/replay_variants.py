"""What benchmarks/replay.py sets side by side: our trees and samplers, and their peers.

Every variant can draw a batch of indices, update the priorities of a batch, add one transition and
do what it has put off. Peers are used through their public methods; the plain binary tree is a
sketch of our own, for comparison.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import throughput
import torch

from sb3_ext.plugins.per.config import LAP, Prioritized
from sb3_ext.replay.backends import make_sum_tree
from sb3_ext.updates import Clock

BATCH_SIZE = throughput.BATCH_SIZE
CLOCK = Clock(0, 1, 0.5)


class OurTree:
    """Our sum tree, alone."""

    def __init__(self, capacity: int, rng: np.random.Generator, backend: str) -> None:
        self.tree, self.rng = make_sum_tree(capacity, backend), rng
        self.tree.fill(rng.random(capacity))
        self.masses = rng.random(BATCH_SIZE)

    def draw(self) -> np.ndarray:
        return self.tree.find(self.rng.random(BATCH_SIZE) * self.tree.total)

    def update(self, indices: np.ndarray) -> None:
        self.tree.set(indices, self.masses)

    def add(self, index: int) -> None:
        self.tree.set(np.array([index]), 1.0)

    def settle(self) -> None:
        _ = self.tree.total

    @property
    def nbytes(self) -> int:
        return self.tree.nbytes


class Sketch:
    """The plain binary tree in NumPy: a level is a handful of array calls, up and down."""

    def __init__(self, capacity: int, rng: np.random.Generator) -> None:
        self.levels, self.rng = (capacity - 1).bit_length(), rng
        self.width = 1 << self.levels
        self.sums = np.zeros(2 * self.width)
        self.masses = rng.random(BATCH_SIZE)
        self.write(np.arange(capacity), rng.random(capacity))

    def draw(self) -> np.ndarray:
        rest = self.rng.random(BATCH_SIZE) * self.sums[1]
        node = np.ones(BATCH_SIZE, dtype=np.int64)
        for _ in range(self.levels):
            node *= 2
            left = self.sums[node]
            beyond = rest >= left
            rest -= left * beyond
            node += beyond
        return node - self.width

    def write(self, indices: np.ndarray, masses: np.ndarray | float) -> None:
        node = indices + self.width
        self.sums[node] = masses
        for _ in range(self.levels):
            node = node // 2
            self.sums[node] = self.sums[2 * node] + self.sums[2 * node + 1]

    def update(self, indices: np.ndarray) -> None:
        self.write(indices, self.masses)

    def add(self, index: int) -> None:
        self.write(np.array([index]), 1.0)

    def settle(self) -> None:
        """Nothing is put off."""

    @property
    def nbytes(self) -> int:
        return self.sums.nbytes


class Tianshou:
    """Tianshou's segment tree, compiled by numba, through its public methods."""

    def __init__(self, capacity: int, rng: np.random.Generator) -> None:
        from tianshou.data import SegmentTree

        self.rng, self.masses = rng, rng.random(BATCH_SIZE)
        self.tree = SegmentTree(capacity)
        self.tree[np.arange(capacity)] = rng.random(capacity)

    def draw(self) -> np.ndarray:
        return self.tree.get_prefix_sum_idx(self.rng.random(BATCH_SIZE) * self.tree.reduce())

    def update(self, indices: np.ndarray) -> None:
        self.tree[indices] = self.masses

    def add(self, index: int) -> None:
        self.tree[index] = 1.0

    def settle(self) -> None:
        """Nothing is put off."""

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in vars(self.tree).values() if isinstance(x, np.ndarray))


class Cpprb:
    """cpprb's prioritised buffer with as little in it as it allows: one float32."""

    def __init__(self, capacity: int, rng: np.random.Generator) -> None:
        from cpprb import PrioritizedReplayBuffer

        before = resident()
        self.buffer = PrioritizedReplayBuffer(capacity, {"x": {"dtype": np.float32}})
        zeros = np.zeros((capacity, 1), np.float32)
        self.buffer.add(x=zeros, priorities=rng.random(capacity))
        del zeros
        self.nbytes = resident() - before
        self.priorities = rng.random(BATCH_SIZE)

    def draw(self) -> np.ndarray:
        return self.buffer.sample(BATCH_SIZE, 0.4)["indexes"]

    def update(self, indices: np.ndarray) -> None:
        self.buffer.update_priorities(indices, self.priorities)

    def add(self, index: int) -> None:
        self.buffer.add(x=0.0, priorities=1.0)

    def settle(self) -> None:
        """Nothing is put off."""


class OurSampler:
    """PER or LAP with all that it does in a step but the fetching of rows."""

    def __init__(self, model: Any, config: Any) -> None:
        self.sampler, self.window = config.build(model), model.replay_view.window
        tree = self.sampler.tree
        # One law for what is there and what comes, so that no figure drifts with the rounds.
        generator = torch.Generator().manual_seed(throughput.SEED)
        there = torch.randn(tree.capacity, 2, generator=generator).abs().amax(dim=1)
        tree.fill(config.masses(there.double().numpy()))
        for extreme in self.sampler._extremes.values():
            extreme.refill()
        errors = torch.randn(61, BATCH_SIZE, 2, generator=generator)
        self.td_errors = itertools.cycle(errors.unbind())

    def draw(self) -> np.ndarray:
        return self.sampler.draw(BATCH_SIZE, self.window, CLOCK).indices

    def update(self, indices: np.ndarray) -> None:
        self.sampler.observe(indices, next(self.td_errors))

    def add(self, index: int) -> None:
        self.sampler.added(np.array([index]))

    def settle(self) -> None:
        _ = self.sampler.tree.total

    @property
    def nbytes(self) -> int:
        parts = [self.sampler.tree, *self.sampler._extremes.values()]
        return sum(part.nbytes for part in parts)


def resident() -> int:
    """Resident memory of this process, where the system says; for what C++ allocates."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * 4096 if statm.exists() else 0


def competitors(model: Any, capacity: int) -> tuple[dict[str, Any], list[str]]:
    """Every variant that can be built here, and a line for each that cannot."""
    rng = np.random.default_rng(throughput.SEED)
    per = {
        "LAP numpy (no weights)": LAP(),
        "PER numpy": Prioritized(),
        "PER numpy, max_priority=buffer": Prioritized(max_priority="buffer"),
        "PER numpy, normalize=buffer": Prioritized(normalize="buffer"),
        "PER numba": Prioritized(backend="numba"),
    }
    makers: dict[str, Callable[[], Any]] = {
        "tree, Tianshou numba": lambda: Tianshou(capacity, rng),
        "tree, ours numpy": lambda: OurTree(capacity, rng, "numpy"),
        "tree, ours numba": lambda: OurTree(capacity, rng, "numba"),
        "tree, plain binary numpy": lambda: Sketch(capacity, rng),
        "cpprb": lambda: Cpprb(capacity, rng),
    }
    makers |= {name: lambda c=config: OurSampler(model, c) for name, config in per.items()}
    built, missing = {}, []
    for name, make in makers.items():
        try:
            built[name] = make()
        except ImportError as error:
            missing.append(f"left out: {name}, which needs a package: {error}")
    return built, missing
