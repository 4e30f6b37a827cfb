"""The price of a replay draw at a million transitions: our sum tree, its options, and its peers.

    python benchmarks/replay.py                      # about two minutes, 1 GiB
    python benchmarks/replay.py --check              # exit status 1 if a bar is missed
    python benchmarks/replay.py --capacity 100000 --rounds 5

How it measures. All variants live in one process with one thread and take turns in blocks, in
reversed order every other round, with the garbage collector off. A step is a draw of 256 indices
and an update of the 256 priorities that were drawn; every other step begins with one new
transition. Each call is timed by the CPU time of the process; a round's figure is the median over
its steps, and the table holds medians over the rounds. Ratios are taken round by round.

* "sample" of our trees includes the sums that earlier writes put off; "update" does not.
* "add alone" is one new transition and the pass up the tree that it causes.
* "add in training" is what a step costs more if it begins with one: the time of the add itself and
  what the draw after it takes longer.

The rows "tree" search random masses and write given ones; no variant fetches transitions. Rows
"PER" are the whole sampler: stratified masses, importance weights, priorities from TD errors. So is
cpprb's, which cannot be kept from fetching a column of one float32.

The second table sets whole methods (draw, weights, their checks, priorities, log) beside a stock
SAC update of the same run, in two ways. "In a row" is a method called again and again, as above;
the bars are about this. "Right after an update" is one call after each update, when the caches are
full of the networks, as in training. There every call is dearer, SB3's uniform draw included, which
stands in the table for comparison; "with rows" is a draw that fetches its transitions.

Peers are imported if they are installed (pip install tianshou cpprb) and else left out.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata, util
from types import SimpleNamespace
from typing import Any

import numpy as np
import throughput
import torch
from replay_variants import BATCH_SIZE, CLOCK, OurSampler, competitors

from sb3_ext.plugins.ere.config import EmphasizeRecent
from sb3_ext.plugins.per.config import Prioritized
from sb3_ext.replay.split import draw_split
from sb3_ext.replay.storage import Replay
from sb3_ext.updates import critic_weights

MIB = 2**20
SEED = throughput.SEED
PEER = "tree, Tianshou numba"
STOCK = throughput.Variant("stock SAC", "stable_baselines3.sac.sac:SAC")
OURS = throughput.Variant("sb3_ext SAC", "sb3_ext.algorithms.sac:SAC")


def traced(call: Callable[[], object]) -> int:
    """The peak of what Python and NumPy allocate in a call, in bytes."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def block(variant: Any, steps: int, first: int) -> list[float]:
    """Medians in microseconds: sample, update, sample and update, add alone, add in training."""
    now = time.process_time_ns
    plain, after, updates, adds, alone = [], [], [], [], []
    for i in range(first, first + 2 * steps):
        times = [now()]
        if i % 2:
            variant.add(i)
            times.append(now())
        indices = variant.draw()
        times.append(now())
        variant.update(indices)
        times.append(now())
        took = np.diff(times)
        if i % 2:
            adds.append(took[0])
            after.append(took[1])
        else:
            plain.append(took[0])
        updates.append(took[-1])
    variant.settle()
    for i in range(first, first + steps):
        start = now()
        variant.add(i)
        variant.settle()
        alone.append(now() - start)
    sample, update, add, later, single = map(
        statistics.median, (plain, updates, adds, after, alone)
    )
    return [x / 1e3 for x in (sample, update, sample + update, single, add + later - sample)]


def measure(variants: Sequence[Any], rounds: int, steps: int, capacity: int) -> np.ndarray:
    """Microseconds, shape [rounds, variants, figures]; every other round goes backwards."""
    for variant in variants:
        block(variant, steps, 0)  # warms up, compiles
    found = np.empty((rounds, len(variants), 5))
    for i in range(rounds):
        order = range(len(variants)) if i % 2 == 0 else reversed(range(len(variants)))
        with throughput.no_garbage_collector():
            for j in order:
                found[i, j] = block(variants[j], steps, i * 2 * steps % (capacity // 2))
    return found


class IndicesOnly(Replay):
    """A replay view that hands out the same rows whatever was drawn."""

    rows: Any

    def gather(self, indices: np.ndarray) -> Any:
        return self.rows


def whole_step(model: Any, config: Any, rows: bool = False) -> Callable[[], None]:
    """All that a sampler adds to an update, with or without the fetching of rows.

    Without a config it is SB3's own uniform sample.
    """
    sampler = None
    if config is not None:
        prioritized = hasattr(config, "masses")
        sampler = OurSampler(model, config).sampler if prioritized else config.build(model)
    errors = torch.randn(61, BATCH_SIZE, 2, generator=torch.Generator().manual_seed(SEED))
    td_errors = itertools.cycle(errors.unbind())
    replay = (Replay if rows else IndicesOnly)(model.replay_buffer, sampler=sampler)
    if isinstance(replay, IndicesOnly):
        replay.rows = model.replay_buffer.sample(BATCH_SIZE)
    parts: Any = SimpleNamespace(sampler=sampler, weigher=None)

    def step() -> None:
        draw = replay.draw(BATCH_SIZE, CLOCK)
        critic_weights(parts, draw)
        replay.observe(draw, next(td_errors))
        if sampler is not None:
            for name, figure in sampler.metrics().items():
                model.logger.record(name, figure)

    return step


def recent_draw(model: Any) -> Callable[[], None]:
    """LFIW's draw of indices from its fast buffer."""
    rng = np.random.default_rng(SEED)
    newest = min(throughput.FAST_BUFFER_SIZE, model.replay_buffer.buffer_size // 2)

    def step() -> None:
        draw_split(model.replay_view.window.newest(newest), BATCH_SIZE // 2, rng, 0.1, out=False)

    return step


def shares(stock: Any, methods: Sequence[Callable[[], None]], rounds: int, n: int) -> np.ndarray:
    """Microseconds [rounds, 3, methods]: an update, a method after one, a method in a row."""
    now = time.process_time_ns
    found = np.empty((rounds, 3, len(methods)))
    for i in range(rounds):
        order = range(len(methods)) if i % 2 == 0 else reversed(range(len(methods)))
        with throughput.no_garbage_collector():
            for j in order:
                times = np.empty((n, 2))
                for k in range(n):
                    start = now()
                    throughput.update(stock, 1)
                    middle = now()
                    methods[j]()
                    times[k] = middle - start, now() - middle
                row = np.empty(5 * n)
                for k in range(5 * n):
                    start = now()
                    methods[j]()
                    row[k] = now() - start
                found[i, :2, j] = np.median(times, axis=0)
                found[i, 2, j] = np.median(row)
    return found / 1e3


@dataclass(frozen=True)
class Bar:
    """What --check asks for; ``value`` is None where a peer is not installed."""

    what: str
    value: float | None
    limit: float
    unit: str = ""

    @property
    def missed(self) -> bool:
        return self.value is not None and self.value > self.limit

    def __str__(self) -> str:
        if self.value is None:
            return f"not judged, a package is not installed: {self.what}"
        verdict = "MISSED" if self.missed else "holds"
        return f"{verdict}: {self.what} {self.value:.3g}{self.unit}, the bar is {self.limit:g}"


def first_table(arguments: argparse.Namespace) -> list[Bar]:
    """Trees and samplers beside their peers."""
    capacity = arguments.capacity
    variants, missing = competitors(throughput.build(OURS, "hopper", capacity, SEED), capacity)
    found = measure(list(variants.values()), arguments.rounds, arguments.steps, capacity)
    both = {name: found[:, i, 2] for i, name in enumerate(variants)}
    reference = PEER if PEER in variants else "tree, plain binary numpy"
    print(f"Microseconds of CPU time; the ratio is the time of both / that of {reference}.\n")
    print(
        "| variant | sample | update | both | ratio min | median | max | add alone "
        "| add in training | memory, MiB |"
    )
    print("| --- |" + " --- |" * 9)
    middle = dict(zip(variants, np.median(found, axis=0), strict=True))
    for name, variant in variants.items():
        sample, update, total, alone, added = middle[name]
        ratio = both[name] / both[reference]
        print(
            f"| {name} | {sample:.0f} | {update:.0f} | {total:.0f} | {ratio.min():.2f} | "
            f"**{np.median(ratio):.2f}** | {ratio.max():.2f} | {alone:.1f} | {added:.1f} | "
            f"{variant.nbytes / MIB:.2f} |"
        )
    print("\n" + "".join(f"{line}\n" for line in missing), flush=True)

    def ratio_of(name: str, peer: str) -> float | None:
        if name not in both or peer not in both:
            return None
        return float(np.median(both[name] / both[peer]))

    leaves = 2 * 8 * 2 ** (capacity - 1).bit_length() / MIB
    tree = variants["tree, ours numpy"].nbytes / MIB
    return [
        Bar("our tree in NumPy / Tianshou's in numba", ratio_of("tree, ours numpy", PEER), 2.5),
        Bar("our tree in numba / Tianshou's in numba", ratio_of("tree, ours numba", PEER), 1.1),
        Bar("PER in NumPy / cpprb", ratio_of("PER numpy", "cpprb"), 1.0),
        Bar("one add in training, PER in NumPy,", middle["PER numpy"][4], 10.0, " us"),
        Bar("the sum tree", tree, leaves + 0.1, " MiB"),
    ]


def second_table(arguments: argparse.Namespace) -> list[Bar]:
    """Whole methods beside a stock update."""
    capacity = arguments.capacity
    stock, model = (throughput.build(v, "hopper", capacity, SEED) for v in (STOCK, OURS))
    # c_min as a share of the buffer, so that small ones are not complained about.
    ere = EmphasizeRecent(c_min=min(5000, capacity // 20))
    per, compiled = Prioritized(), Prioritized(backend="numba")
    methods: dict[str, tuple[Callable[[], None], float | None]] = {
        "PER numpy": (whole_step(model, per), 1.5),
        "ERE, virtual rounds": (whole_step(model, ere), 1.0),
        "ERE, windows by age": (whole_step(model, replace(ere, cycle="age")), 1.0),
        "LFIW, draw from the fast buffer": (recent_draw(model), 1.0),
        "uniform by SB3, with rows": (whole_step(model, None, rows=True), None),
        "PER numpy, with rows": (whole_step(model, per, rows=True), None),
    }
    if util.find_spec("numba"):
        methods["PER numba"] = (whole_step(model, compiled), 1.5)
        methods["PER numba, with rows"] = (whole_step(model, compiled, rows=True), None)
    steps = [step for step, _ in methods.values()]
    for step in steps:
        step()
        throughput.update(stock, throughput.WARM_UP // len(steps))
    found = shares(stock, steps, arguments.rounds, arguments.updates)
    percent = 100 * found / np.median(found[:, 0], axis=1)[:, None, None]
    print(f"Beside a stock SAC update of {np.median(found[:, 0]) / 1e3:.2f} CPU ms:\n")
    print(
        "| method | in a row, us | % of an update, min | median | max "
        "| right after an update, us | % of an update, median | memory of a call, KiB |"
    )
    print("| --- |" + " --- |" * 7)
    bars = []
    for j, (name, (step, limit)) in enumerate(methods.items()):
        _, after, row = np.median(found[:, :, j], axis=0)
        share, kib = percent[:, 2, j], traced(step) / 1024
        print(
            f"| {name} | {row:.0f} | {share.min():.2f} | **{np.median(share):.2f}** | "
            f"{share.max():.2f} | {after:.0f} | {np.median(percent[:, 1, j]):.2f} | {kib:.0f} |"
        )
        if limit is not None:
            bars.append(Bar(f"{name}, of a stock update", float(np.median(share)), limit, " %"))
            bars.append(Bar(f"{name}, memory of a call (no copy)", kib, 1024.0, " KiB"))
    print()
    return bars


def versions() -> str:
    """Also of the peers."""
    found = [throughput.versions()]
    for package in ("numba", "tianshou", "cpprb"):
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            found.append(f"{package} (not installed)")
    return ", ".join(found)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, refused in words where the measurement would say nothing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--capacity", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--steps", type=int, default=50, help="steps with and without an add")
    parser.add_argument("--updates", type=int, default=10, help="stock updates a round and method")
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is missed")
    arguments = parser.parse_args(argv)
    if arguments.capacity < 2000 or min(arguments.rounds, arguments.steps, arguments.updates) < 1:
        parser.error("--capacity must be at least 2000, and all other numbers at least 1")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Print both tables and the bars; 1 when asked to check and a bar is missed."""
    arguments = parse(argv)
    capacity, rounds = arguments.capacity, arguments.rounds
    torch.set_num_threads(1)
    print(f"machine: {throughput.machine()}; load at start {throughput.load()}")
    print(f"versions: {versions()}")
    print(
        f"setting: capacity {capacity}, batch {BATCH_SIZE}, 1 thread, seed {SEED}, "
        f"{rounds} rounds of {2 * arguments.steps} steps and {arguments.updates} updates\n"
    )
    bars = first_table(arguments) + second_table(arguments)
    print(f"load at end {throughput.load()}\n")
    print("\n".join(f"* {bar}" for bar in bars))
    return int(arguments.check and any(bar.missed for bar in bars))


if __name__ == "__main__":
    sys.exit(main())
