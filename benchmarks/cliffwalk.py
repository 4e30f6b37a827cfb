"""Prioritised replay on the Blind Cliffwalk of Schaul et al. 2016.

    python benchmarks/cliffwalk.py --n 2-14 --seeds 0-9 --jobs 2 --out docs/img

The task is that of "Prioritized Experience Replay" (ICLR 2016), sections 3.1 to 3.3, figure 2 and
appendix B.1. A chain of n states has two actions in each, one right and one wrong, and which is
which alternates from state to state. A wrong action ends the episode with reward 0; n right ones
end it with reward 1. The memory holds what all 2**n sequences of actions see until they end:
2**(n + 1) - 2 transitions, of which one has the reward. gamma is 1 - 1/n, the step size 1/4, one
transition an update. Counted are the updates until the mean squared error of all 2n action values
against the true ones is below 1e-3. Within a seed, all methods start from the same values and the
same memory.

- uniform: every transition is drawn with the same probability.
- PER: ``PrioritizedSampler`` draws, by ``(|delta| + eps) ** alpha``, alpha 0.6, eps 1e-6.
- greedy: the transition of the largest priority in the tree of the same sampler.
- oracle: the transition whose update leaves the least error, found by trying them all.

Where the paper leaves room, this is what we do. N(0, 0.1), from which it draws the first values,
is read as a standard deviation of 0.1. It gives no alpha and no eps for this task: alpha is that of
its Atari runs, eps our default. Importance weights come later in the paper, and in a batch of one
they are 1 after normalisation; beta is 0. The memory is full before the first update, so all
transitions begin with the priority of new ones, 1 (algorithm 1, line 2); among equals greedy takes
the first, and their order is random. The linear values have the paper's features, a one-hot state
and a constant 1, with weights of their own for each action. The oracle's "global loss" is the error
that is counted; it gives up after 5,000 updates, all others after a hundred million.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from itertools import product, takewhile
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

import numpy as np
import torch as th
from numpy.typing import NDArray

from sb3_ext.plugins.per.config import Prioritized
from sb3_ext.plugins.per.sampler import PrioritizedSampler
from sb3_ext.replay.window import Window
from sb3_ext.updates import Clock

STEP_SIZE = 0.25
TOLERANCE = 1e-3
SPREAD = 0.1  # of the first values
#: One update is like the next: nothing is annealed.
NOW = Clock(0, 1, 1.0)

# A *kind* of transition is 2 * state + action; all copies of a kind in the memory are alike.


def discount(n: int) -> float:
    """``1 - 1/n``, which keeps the values on one scale for every n (appendix B.1)."""
    return 1 - 1 / n


def right_kinds(n: int) -> NDArray[np.int64]:
    """The kind of the right action in each state, ``[n]``: actions 0, 1, 0, 1, ..."""
    states = np.arange(n)
    return 2 * states + states % 2


def true_values(n: int) -> NDArray[np.float64]:
    """The optimal action values by kind, ``[2n]``: right ``gamma ** (n - 1 - state)``, wrong 0."""
    values = np.zeros(2 * n)
    values[right_kinds(n)] = discount(n) ** np.arange(n - 1, -1, -1)
    return values


def memory(n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The kinds of all transitions that all action sequences see, in random order.

    Of the 2**n sequences, 2**(n - state) reach a state, and half of them do there what is right.

    :param n: number of states
    :param rng: for the order
    :return: ``[2 ** (n + 1) - 2]``
    """
    copies = 2 ** (n - 1 - np.arange(n))
    return rng.permutation(np.repeat(np.arange(2 * n), np.repeat(copies, 2)))


class QLearner:
    """Q-learning by single transitions, with the error against the truth kept up to date.

    Appendix B.1, equations 2 and 3. Plain floats, because an update touches one or two of them.

    :param n: number of states
    :param rng: for the first values
    :param linear: a bias for each action beside a value for each kind, instead of the values alone
    """

    def __init__(self, n: int, rng: np.random.Generator, linear: bool = False) -> None:
        self.n, self.linear, self.gamma = n, linear, discount(n)
        self.own: list[float] = rng.normal(0, SPREAD, 2 * n).tolist()
        self.bias: list[float] = rng.normal(0, SPREAD, 2).tolist() if linear else [0.0, 0.0]
        self.truth: list[float] = true_values(n).tolist()
        self.is_right = np.isin(np.arange(2 * n), right_kinds(n)).tolist()
        off = self.values() - true_values(n)
        # Sums over the states of the errors, by action, and of all squares.
        self.sums: list[float] = [float(off[0::2].sum()), float(off[1::2].sum())]
        self.squares = float(np.square(off).sum())

    def values(self) -> NDArray[np.float64]:
        """The action values by kind, ``[2n]``."""
        return np.array(self.own) + np.tile(self.bias, self.n)

    @property
    def mean_squared_error(self) -> float:
        """Of all action values against the true ones."""
        return self.squares / (2 * self.n)

    def td_error(self, kind: int) -> float:
        """Estimate minus target."""
        own, bias = self.own, self.bias
        estimate = own[kind] + bias[kind & 1]
        if not self.is_right[kind]:
            return estimate
        after = (kind & ~1) + 2
        if after == 2 * self.n:
            return estimate - 1.0
        return estimate - self.gamma * max(own[after] + bias[0], own[after + 1] + bias[1])

    def change(self, kind: int, by: float) -> float:
        """What moving the features of a kind does to the sum of squared errors."""
        off = self.own[kind] + self.bias[kind & 1] - self.truth[kind]
        change = by * (2 * off + by)
        if self.linear:
            change += by * (2 * self.sums[kind & 1] + (self.n + 2) * by)
        return change

    def learn(self, kind: int, td_error: float) -> None:
        """One update by one transition."""
        by, action = -STEP_SIZE * td_error, kind & 1
        self.squares += self.change(kind, by)
        self.own[kind] += by
        self.sums[action] += by
        if self.linear:
            self.bias[action] += by
            self.sums[action] += self.n * by


class Chooser(Protocol):
    """Which transition is replayed next."""

    def choose(self) -> int:
        """A place in the memory."""

    def observe(self, place: int, td_error: float) -> None:
        """The error of what was chosen, from before the update."""


class Uniform:
    """Every transition alike; drawn ahead, for speed."""

    def __init__(self, kinds: NDArray[np.int64], learner: QLearner, seed: int) -> None:
        self.window = Window(0, len(kinds), len(kinds))
        self.rng = np.random.default_rng(seed)
        self.drawn: Iterator[int] = iter(())

    def choose(self) -> int:
        """The next draw."""
        place = next(self.drawn, None)
        if place is None:
            self.drawn = iter(self.window.draw(4096, self.rng).tolist())
            place = next(self.drawn)
        return place

    def observe(self, place: int, td_error: float) -> None:
        """Nothing is remembered."""


class Stochastic:
    """Our sampler on a ring that is full of new transitions.

    :param config: a prioritised sampler's options; a subclass may value errors otherwise
    """

    config = Prioritized(alpha=0.6, beta=0.0, beta_end=0.0)

    def __init__(self, kinds: NDArray[np.int64], learner: QLearner, seed: int) -> None:
        self.window = Window(0, len(kinds), len(kinds))
        self.sampler = PrioritizedSampler(self.config, len(kinds), seed)
        self.sampler.added(np.arange(len(kinds)))

    def choose(self) -> int:
        """A draw in proportion to the masses."""
        return int(self.sampler.draw(1, self.window, NOW).indices[0])

    def observe(self, place: int, td_error: float) -> None:
        """Refresh its priority."""
        self.sampler.observe(np.array([place]), th.tensor([[td_error]], dtype=th.float64))


class Greedy(Stochastic):
    """The largest priority (section 3.2), of those that our sampler keeps."""

    def choose(self) -> int:
        """The first of the largest."""
        return int(self.sampler.tree.leaves.argmax())


class Oracle:
    """Tries every kind and takes the one after which the error is least (section 3.1)."""

    def __init__(self, kinds: NDArray[np.int64], learner: QLearner, seed: int) -> None:
        self.learner = learner
        self.places = np.unique(kinds, return_index=True)[1].tolist()

    def choose(self) -> int:
        """A copy of the best kind."""
        learner = self.learner
        changes = [
            learner.change(kind, -STEP_SIZE * learner.td_error(kind))
            for kind in range(2 * learner.n)
        ]
        return int(self.places[int(np.argmin(changes))])

    def observe(self, place: int, td_error: float) -> None:
        """It looks anew each time."""


Method = Callable[[NDArray[np.int64], QLearner, int], Chooser]
METHODS: dict[str, Method] = {
    "uniform": Uniform,
    "PER": Stochastic,
    "greedy": Greedy,
    "oracle": Oracle,
}


#: After which a method counts as stuck; the others are slow but sure.
LIMITS = {"oracle": 5_000}
#: By method, and in it by n: updates of each seed, in the order of the seeds.
Counts = Mapping[str, Mapping[int, list[float]]]


def updates_needed(
    method: Method, n: int, seed: int, linear: bool = False, limit: int = 100_000_000
) -> float:
    """Updates until the error is below the tolerance; infinite if they are more than ``limit``.

    :param method: makes the chooser
    :param n: number of states
    :param seed: of the first values, the memory's order and the draws
    :param linear: whether a bias is shared by the states
    :param limit: updates after which to give up
    """
    rng = np.random.default_rng(seed)
    learner, kinds = QLearner(n, rng, linear), memory(n, rng)
    chooser, kind_at = method(kinds, learner, seed), kinds.tolist()
    enough = TOLERANCE * 2 * n
    for done in range(limit + 1):
        if learner.squares < enough:
            return done
        place = chooser.choose()
        kind = kind_at[place]
        error = learner.td_error(kind)
        chooser.observe(place, error)
        learner.learn(kind, error)
    return math.inf


def one(name: str, n: int, linear: bool, seed: int) -> float:
    """A run of a method by its name, in a process of its own."""
    th.set_num_threads(1)
    limits = {"limit": LIMITS[name]} if name in LIMITS else {}
    return updates_needed(METHODS[name], n, seed, linear, **limits)


def measure(sizes: list[int], seeds: list[int], jobs: int) -> dict[bool, Counts]:
    """All methods on all sizes and seeds, tabular (``False``) and linear (``True``)."""
    settings = list(product(METHODS, sorted(sizes, reverse=True), (False, True), seeds))
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        counts = list(pool.map(one, *zip(*settings, strict=True)))
    found: dict[bool, dict[str, dict[int, list[float]]]] = {False: {}, True: {}}
    for (name, n, linear, _), count in zip(settings, counts, strict=True):
        found[linear].setdefault(name, {}).setdefault(n, []).append(count)
    return dict(found)


def cell(counts: list[float]) -> str:
    """``median (least to most)``, or how many seeds ended."""
    ended = sum(math.isfinite(count) for count in counts)
    if ended < len(counts):
        return f"stuck in {len(counts) - ended} of {len(counts)}"
    return f"{np.median(counts):,.0f} ({min(counts):,.0f} to {max(counts):,.0f})"


def table(counts: Counts) -> Iterator[str]:
    """The rows of a markdown table."""
    yield f"| n | transitions | {' | '.join(counts)} | uniform / PER, paired |"
    yield f"| --: | --: | {'--: | ' * len(counts)}--: |"
    for n in sorted(counts["uniform"]):
        ratios = np.divide(counts["uniform"][n], counts["PER"][n])
        cells = " | ".join(cell(by_n[n]) for by_n in counts.values())
        yield (
            f"| {n} | {2 ** (n + 1) - 2:,} | {cells} "
            f"| {np.median(ratios):.1f} ({ratios.min():.1f} to {ratios.max():.1f}) |"
        )


def picture(found: Mapping[bool, Counts], n_seeds: int, path: Path) -> Path:
    """Figure 2 of the paper: updates against the size of the memory, both on a log scale."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from sb3_ext.plots import GRID, INK, PALETTE, QUIET

    figure = Figure(figsize=(10.0, 4.9), dpi=150, layout="constrained")
    colours = dict(zip(METHODS, (QUIET, *PALETTE), strict=False))
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, (linear, counts) in zip(panels, found.items(), strict=True):
        for name, by_n in counts.items():
            # A line ends before the first n at which a seed is stuck.
            sizes = list(takewhile(lambda n, by_n=by_n: np.isfinite(by_n[n]).all(), sorted(by_n)))
            x = [2 ** (n + 1) - 2 for n in sizes]
            runs = np.array([by_n[n] for n in sizes])
            colour = colours[name]
            axes.fill_between(
                x, runs.min(axis=1), runs.max(axis=1), color=colour, alpha=0.2, linewidth=0
            )
            middle = np.median(runs, axis=1)
            axes.plot(x, middle, "o-", color=colour, linewidth=2, markersize=4, label=name)
        ends = [2 ** (n + 1) - 2 for n in (min(counts["uniform"]), max(counts["uniform"]))]
        axes.plot(ends, ends, color=INK, linewidth=1, linestyle=(0, (1, 2)), label="size of memory")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title("linear values" if linear else "tabular values", loc="left", color=INK)
        axes.set_xlabel("transitions in memory", color=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(QUIET)
        axes.tick_params(colors=QUIET, which="both")
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
    panels[0].set_ylabel("updates until learned", color=INK)
    panels[0].legend(frameon=False, labelcolor=INK, loc="upper left")
    figure.suptitle("Blind Cliffwalk", x=0.01, ha="left", fontweight="bold", color=INK)
    caption = (
        f"lines: median of {n_seeds} seeds; bands: least to most; a line ends where a seed is stuck"
    )
    figure.supxlabel(caption, x=0.01, ha="left", fontsize=8, color=QUIET)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_figure(path)
    return path


def parse_range(text: str) -> list[int]:
    """``2-4,8`` as 2, 3, 4, 8."""
    bounds = [part.partition("-") for part in text.split(",")]
    return [i for low, _, high in bounds for i in range(int(low), int(high or low) + 1)]


def main() -> None:
    """Measure, print the tables, draw the picture."""
    import throughput

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", default="2-12", help="numbers of states: 2-12 or 4,8,12")
    parser.add_argument("--seeds", default="0-9", help="0-9 or 0,3,7-9")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--out", type=Path, default=Path("docs/img"), help="folder of the picture")
    options = parser.parse_args()
    sizes, seeds = parse_range(options.n), parse_range(options.seeds)
    print(f"machine: {throughput.machine()}; load at start {throughput.load()}")
    print(f"versions: {throughput.versions()}")
    print(f"seeds: {options.seeds}", flush=True)
    started = time.time()
    found = measure(sizes, seeds, options.jobs)
    for linear, counts in found.items():
        print(f"\n{'Linear' if linear else 'Tabular'} values, updates until learned\n")
        print(*table(counts), sep="\n")
    print(f"\n{time.time() - started:.0f} s")
    print(f"Picture: {picture(found, len(seeds), options.out / 'cliffwalk.png')}")


if __name__ == "__main__":
    main()
