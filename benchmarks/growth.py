"""How the price of an update grows: with batch, width, environments, buffer and ensemble.

    python benchmarks/growth.py                          # all sweeps, about five minutes, 2 GiB
    python benchmarks/growth.py --sweeps buffer --rounds 31
    python benchmarks/growth.py --quick                  # tiny sweeps, to see that it runs

How it measures. All points of a sweep (a size of one algorithm) live in one process with one torch
thread and take turns, in reversed order every other round, with the garbage collector off. A turn
is as many calls of ``train(gradient_steps=1)`` as fit into some hundredths of a second, at least
one; what is timed is the CPU time of the process. Load makes a round's times dearer together, so
they are divided by the round's level; a figure is the median over the rounds. Sizes are
Hopper's, batches 256, hidden layers 256 x 256 and the buffer 100,000 transitions and full, unless
the sweep says otherwise.

The exponent k of time ~ x^k is the slope of a least-squares line through the logarithms, over the
upper half of the range (on its log scale), where what a call costs whatever its size weighs
least. A line is laid through each round, so that rounds under more load count like others, and the
figure is their median. Its interval is the middle 95 % of bootstrap samples of the rounds: it says
how sure the slope is, not that the law is a power.

With the buffer two things may grow: what is to be done (the levels of PER's tree), and what it
costs to read memory (random rows of a larger ring are in no cache). Three lines keep them apart.
SB3's own uniform ``sample`` does the same whatever the size, so all of its growth is memory's. What
a sampler costs beyond that is the difference of the same round. And PER with all its mass in the
newest 10,000 transitions goes down all levels, but always reads the same few pages: its growth
is the levels'. Each of these draws follows an update of stock SAC, as in training, where the caches
are full of networks.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import throughput
import torch
from growth_report import Line, Row, line, picture, tables
from replay_variants import CLOCK, OurSampler
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv
from throughput import BATCH_SIZE, SEED, Variant

from sb3_ext.plugins.ere.config import EmphasizeRecent
from sb3_ext.plugins.per.config import Prioritized
from sb3_ext.replay.split import draw_split
from sb3_ext.replay.storage import Replay

Call = Callable[[], object]

BUFFER, FAST, HOT = 100_000, 5_000, 10_000  # transitions
WIDTH = 256
UNIFORM, CACHED = "SB3's uniform", "PER, mass in 10,000"
ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
OURS = "sb3_ext.algorithms.sac:SAC"
STOCK = Variant("stock SAC", "stable_baselines3.sac.sac:SAC")
PER = Variant("SAC, PER", OURS, {"replay": "per"})
ERE = Variant("SAC, ERE", OURS, {"replay": "ere"})
LFIW = Variant("LFIWSAC", "sb3_ext.plugins.lfiw.algorithms:LFIWSAC", {"fast_buffer_size": FAST})
VARIANTS = (STOCK, Variant("SAC", OURS), LFIW, PER)
POINTS: dict[str, tuple[int, ...]] = {
    "batch": (32, 64, 128, 256, 512, 1024, 2048, 4096),
    "width": (32, 64, 128, 256, 512, 1024, 2048),
    "envs": (1, 2, 4, 8, 16, 32, 64),
    "buffer": (10_000, 30_000, 100_000, 300_000, 1_000_000),
    "members": (1, 2, 3, 4, 6, 8),
}
QUICK: dict[str, tuple[int, ...]] = {
    "batch": (16, 32, 64),
    "width": (16, 32, 64),
    "envs": (1, 2, 4),
    "buffer": (10_000, 20_000, 40_000),
    "members": (1, 2),
}
#: Rounds for each that was asked for: dear sweeps take fewer, subtle ones more.
SWEEPS = {"batch": 1.0, "width": 0.6, "envs": 1.5, "buffer": 3.0, "members": 1.0}


def filled(transitions: int, n_envs: int = 1) -> ReplayBuffer:
    """A full ring of Hopper's size; models share its arrays.

    :param transitions: of all environments together
    """
    env = throughput.SpacesOnly(*throughput.SIZES["hopper"])
    spaces = env.observation_space, env.action_space
    buffer = ReplayBuffer(transitions, *spaces, device="cpu", n_envs=n_envs)
    throughput.fill(buffer, SEED)
    return buffer


def build(variant: Variant, held: ReplayBuffer, width: int = WIDTH) -> Any:
    """The variant's model, which learns from a full ring.

    :param held: its arrays are shared, and not copied
    :param width: of both hidden layers
    """
    module, name = variant.target.split(":")
    size = throughput.SIZES["hopper"]
    model = getattr(importlib.import_module(module), name)(
        "MlpPolicy",
        DummyVecEnv([lambda: throughput.SpacesOnly(*size)] * held.n_envs),
        buffer_size=held.buffer_size * held.n_envs,
        policy_kwargs={"net_arch": [width, width]},
        seed=SEED,
        device="cpu",
        **variant.arguments,
    )
    model.set_logger(configure(None, []))
    for array in ARRAYS:
        setattr(model.replay_buffer, array, getattr(held, array))
    model.replay_buffer.pos, model.replay_buffer.full = 0, True
    return model


def updating(variant: Variant, held: ReplayBuffer, width: int = WIDTH, batch: int = 256) -> Call:
    """An update of a new model, which has been seen to do what it is measured for."""
    model = build(variant, held, width)
    model.train(gradient_steps=1, batch_size=batch)
    throughput.check_active(variant, model)
    return lambda: model.train(gradient_steps=1, batch_size=batch)


def in_turns(calls: Mapping[Any, Call], rounds: int, turn: float) -> dict[Any, np.ndarray]:
    """CPU milliseconds of a call, ``[rounds]`` by name.

    :param turn: CPU seconds that a turn is to take; a dear call has it alone
    """
    now = time.process_time
    counts = {}
    for name, call in calls.items():
        start = now()
        call()
        took = now() - start
        while now() - start < turn:  # the first calls are dear, and cheap ones get some more
            before = now()
            call()
            took = min(took, now() - before)
        counts[name] = max(1, int(turn / max(took, 1e-7)))
    found = {name: np.empty(rounds) for name in calls}
    for number in range(rounds):
        with throughput.no_garbage_collector():
            for name in calls if number % 2 else reversed(calls):
                if counts[name] > 1:
                    calls[name]()  # brings its own memory back into the caches
                start = now()
                for _ in range(counts[name]):
                    calls[name]()
                found[name][number] = 1e3 * (now() - start) / counts[name]
    return steady(found)


def steady(found: Mapping[Any, np.ndarray]) -> dict[Any, np.ndarray]:
    """Every round as if it had been under the middle one's load.

    :param found: times ``[rounds]`` by name, > 0; a round's level is their geometric mean
    """
    levels = np.exp(np.mean([np.log(times) for times in found.values()], axis=0))
    return {name: times * (np.median(levels) / levels) for name, times in found.items()}


def after_updates(
    calls: Mapping[Any, Call], update: Call, rounds: int, turn: float
) -> dict[Any, np.ndarray]:
    """CPU microseconds of a call that follows an update, ``[rounds]`` medians by name.

    :param turn: CPU seconds of a turn, at 5 ms an update
    """
    count = max(1, int(turn / 5e-3))
    found = {name: np.empty(rounds) for name in calls}
    took = np.empty(count)
    for number in range(-1, rounds):  # the first is thrown away
        with throughput.no_garbage_collector():
            for name in calls if number % 2 else reversed(calls):
                for i in range(count):
                    update()
                    start = time.process_time_ns()
                    calls[name]()
                    took[i] = time.process_time_ns() - start
                found[name][number] = np.median(took) / 1e3
    return steady(found)


def lines(sweep: str, unit: str, found: Mapping[tuple[Line, int], np.ndarray]) -> list[Row]:
    """A row for each line, of times by what, whom and x."""
    by_line: dict[Line, dict[int, np.ndarray]] = {}
    for (named, x), times in found.items():
        by_line.setdefault(named, {})[x] = times
    return [
        line(sweep, named, unit, list(by_x), np.stack(list(by_x.values()), axis=1))
        for named, by_x in by_line.items()
    ]


def batch_rows(points: Sequence[int], rounds: int, turn: float) -> list[Row]:
    """Against the batch size."""
    held = filled(BUFFER)
    calls = {(("update", v.label), n): updating(v, held, batch=n) for v in VARIANTS for n in points}
    return lines("batch", "ms", in_turns(calls, rounds, turn))


def width_rows(points: Sequence[int], rounds: int, turn: float) -> list[Row]:
    """Against the width of both hidden layers; the ratio network of LFIW stays as it is."""
    held = filled(BUFFER)
    calls = {(("update", v.label), n): updating(v, held, width=n) for v in VARIANTS for n in points}
    return lines("width", "ms", in_turns(calls, rounds, turn))


def storing(model: Any) -> Call:
    """What ``learn`` does with a step of all environments, and the sums that PER puts off."""
    rng, n_envs = np.random.default_rng(SEED), model.n_envs
    observations, actions = throughput.SIZES["hopper"]
    model._last_obs = rng.random((n_envs, observations), dtype=np.float32)
    after = rng.random((n_envs, observations), dtype=np.float32)
    action = rng.random((n_envs, actions), dtype=np.float32)
    reward, dones = np.ones(n_envs, np.float32), np.zeros(n_envs, bool)
    infos: list[dict[str, Any]] = [{} for _ in range(n_envs)]
    tree = getattr(getattr(model, "sampler", None), "tree", None)
    if tree is not None:
        model.tell_sampler()

    def call() -> None:
        model._store_transition(model.replay_buffer, action, after, reward, dones, infos)
        if tree is not None:
            _ = model.sampler.tree.total

    return call


def envs_rows(points: Sequence[int], rounds: int, turn: float) -> list[Row]:
    """Against the number of environments: updates, steps stored, and draws.

    The buffer holds the same number of transitions of all together.
    """
    updates: dict[Any, Call] = {}
    stores: dict[Any, Call] = {}
    calls: dict[Any, Call] = {}
    for n in points:
        held = filled(BUFFER, n)
        updates |= {(("update", v.label), n): updating(v, held) for v in VARIANTS}
        for v in (v for v in VARIANTS if v is not LFIW):
            stores[("store", v.label), n] = storing(build(v, filled(BUFFER, n)))
        drawn = draws(build(VARIANTS[1], held))
        del drawn[CACHED]
        calls |= {(("draw", name), n): call for name, call in drawn.items()}
    found = lines("envs", "ms", in_turns(updates, rounds, turn))
    stored = in_turns(stores, rounds, turn)
    found += lines("envs", "us", {key: 1e3 * t / key[1] for key, t in stored.items()})
    update = updates[("update", STOCK.label), points[0]]
    return found + lines("envs", "us", after_updates(calls, update, rounds, turn))


def drawing(buffer: ReplayBuffer, sampler: Any) -> Call:
    """A sampler's draw with its rows, and what it does with their TD errors."""
    replay = Replay(buffer, sampler=sampler)
    generator = torch.Generator().manual_seed(SEED)
    errors = itertools.cycle(torch.randn(61, BATCH_SIZE, 2, generator=generator).unbind())
    return lambda: replay.observe(replay.draw(BATCH_SIZE, CLOCK), next(errors))


def draws(model: Any) -> dict[str, Call]:
    """All draws of a ring: SB3's own, and what is beside or in the place of it."""
    buffer, replay = model.replay_buffer, model.replay_view
    per, hot = (OurSampler(model, Prioritized()).sampler for _ in range(2))
    masses = hot.tree.leaves.copy()
    masses[:-HOT] = 0
    hot.tree.fill(masses)
    rng = np.random.default_rng(SEED)

    def fast() -> None:
        newest = replay.window.newest(FAST)
        replay.observations_and_actions(draw_split(newest, BATCH_SIZE // 2, rng, 0.1, out=False))

    return {
        UNIFORM: lambda: buffer.sample(BATCH_SIZE),
        "PER": drawing(buffer, per),
        CACHED: drawing(buffer, hot),
        "ERE": drawing(buffer, EmphasizeRecent().build(model)),
        "LFIW's fast rows": fast,
    }


def buffer_rows(points: Sequence[int], rounds: int, turn: float) -> list[Row]:
    """Against the size of the full buffer: updates, draws, and draws beyond SB3's own."""
    updates: dict[Any, Call] = {}
    calls: dict[Any, Call] = {}
    for n in points:
        held = filled(n)
        updates |= {(("update", v.label), n): updating(v, held) for v in (*VARIANTS, ERE)}
        model = build(VARIANTS[1], held)
        calls |= {(("draw", name), n): call for name, call in draws(model).items()}
    found = lines("buffer", "ms", in_turns(updates, rounds, turn))
    drawn = after_updates(calls, updates[("update", STOCK.label), points[0]], rounds, turn)
    beyond = {
        (("draw", f"{name}, beyond uniform"), n): drawn[("draw", name), n]
        - drawn[("draw", UNIFORM), n]
        for name in ("PER", "ERE")
        for n in points
    }
    return found + lines("buffer", "us", drawn) + lines("buffer", "us", beyond)


def members_rows(points: Sequence[int], rounds: int, turn: float) -> list[Row]:
    """Against the members of STEVE's world model, H=3; its four critics stay."""
    held, target = filled(BUFFER), "sb3_ext.plugins.steve.algorithms:STEVE"
    calls: dict[Any, Call] = {}
    for n in points:
        for label, rewards in (("n x n", n), ("n x 1", 1)):
            given = {"n_models": n, "n_rewards": rewards, "model_pretraining": 10}
            label = f"STEVE, {label}"
            calls[("update", label), n] = updating(Variant(label, target, given), held)
    return lines("members", "ms", in_turns(calls, rounds, turn))


def rows(sweep: str, rounds: int = 11, quick: bool = False) -> list[Row]:
    """A sweep's lines as plain values.

    Each has ``sweep``, ``what`` (``update``, ``store`` or ``draw``), ``variant``, ``unit`` (CPU
    ``ms``, or ``us``: a draw's, or an environment's step's that is stored), ``x``, ``median``, the
    quartiles ``low`` and ``high`` (lists as long as ``x``), ``exponent`` (from ``fit_from`` on) and
    ``per_doubling`` (of ``x``, in ``unit``), each with ``_low`` and ``_high``; None for no number.

    :param rounds: scaled by what the sweep needs
    """
    points, measure = (QUICK if quick else POINTS)[sweep], globals()[f"{sweep}_rows"]
    with warnings.catch_warnings():  # on a single environment, and windows that leave little out
        warnings.simplefilter("ignore")
        if quick:
            return list(measure(points, 2, 0.002))
        return list(measure(points, max(2, round(rounds * SWEEPS[sweep])), 0.04))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sweeps", nargs="+", choices=list(SWEEPS), default=list(SWEEPS))
    parser.add_argument("--rounds", type=int, default=11, help="scaled by what a sweep needs")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, two rounds")
    parser.add_argument("--out", type=Path, help="folder for growth.json and growth.png")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 2:
        parser.error(f"--rounds must be at least 2, got {arguments.rounds}")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; write them as JSON, and the picture, if there is a folder for them."""
    arguments = parse(argv)
    torch.set_num_threads(1)
    told = {"machine": throughput.machine(), "versions": throughput.versions()}
    print(f"machine: {told['machine']}; load at start {throughput.load()}")
    print(f"versions: {told['versions']}")
    print(
        f"setting: 1 torch thread, Hopper's sizes, nets {WIDTH} x {WIDTH}, batch {BATCH_SIZE}, "
        f"buffer {BUFFER:,}, fast buffer {FAST:,}, seed {SEED}"
    )
    found: list[Row] = []
    for sweep in arguments.sweeps:
        its_rows = rows(sweep, arguments.rounds, arguments.quick)
        print("\n".join(tables(its_rows)), flush=True)
        found += its_rows
    print(f"\nload at end {throughput.load()}")
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "growth.json").write_text(json.dumps({**told, "rows": found}, indent=1))
        picture(found, arguments.out / "growth.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
