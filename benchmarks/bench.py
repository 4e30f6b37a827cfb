"""All figures of docs/performance.md in one table, as JSON and as a picture: `make bench`.

    make bench                                           # about 25 minutes, 7 GiB
    make bench BENCH_ARGS="--parts updates end_to_end"   # some of it
    make bench BENCH_ARGS=--quick                        # tiny, to see that it runs
    python benchmarks/bench.py --check                   # exit status 1 if a bar does not hold

It runs the other scripts' measurements one after the other; how each is made stands in its script.
``updates`` and ``several`` are throughput.py's, with SBX beside it where that is installed;
``errors`` is engine_errors.py's, ``memory`` and ``buffers`` are replay_memory.py's; the others bear
their script's name. A ratio is peer's figure / this one's, the median over the rounds with its
range, and the peer is the first row of its group. The scripts of BCQ and ACER want peers of their
own in other processes and stay apart.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import bench_picture
import end_to_end
import engine_errors
import growth
import growth_report
import numpy as np
import replay_memory
import steve
import throughput
import torch
import vec_env

Row = dict[str, Any]


def row(part: str, setting: str, variant: str, figure: float, unit: str, **judged: Any) -> Row:
    """One line of the table as plain values.

    :param judged: ``ratio`` with ``ratio_min`` and ``ratio_max``; and ``bar`` in words, with
        ``holds``
    """
    empty = {"ratio": None, "ratio_min": None, "ratio_max": None, "bar": None, "holds": None}
    told = {"part": part, "setting": setting, "variant": variant, "figure": figure, "unit": unit}
    return {**told, **empty, **judged}


def ratio_of(found: Row, bar: float | None) -> Row:
    """The ratio of a script's row, and whether it holds a bar from below."""
    told = {name: found[name] for name in ("ratio", "ratio_min", "ratio_max")}
    if bar is None:
        return told
    return {**told, "bar": f"ratio >= {bar:g}", "holds": found["ratio"] >= bar}


def variants(base: str, quick: bool) -> list[throughput.Variant]:
    """All of a base; the compiled one takes a minute; SBX's where it is installed."""
    slow = [] if quick else [throughput.COMPILED[base]]
    peer = [throughput.SBX[base]] if importlib.util.find_spec("sbx") else []
    return [*throughput.VARIANTS[base], *slow, *peer]


def updates(quick: bool) -> list[Row]:
    """The price of one update a call, of every variant at both sizes."""
    rounds, block = (1, 2) if quick else (15, 10)
    sizes = ("hopper",) if quick else tuple(throughput.SIZES)
    found = []
    for base in ("sac", "td3"):
        for size in sizes:
            taken, setting = variants(base, quick), f"{base}, {size}"
            for one in throughput.compete(base, size, rounds, block, variants=taken):
                told = (setting, one["variant"])
                judged = ratio_of(one, one["bar"])
                found.append(row("update", *told, one["ms"], "CPU ms", **judged))
                if one["variant"] == throughput.COMPILED[base].label:
                    found.append(row("update: warm-up", *told, one["warm_up_s"], "wall s"))
    return found


def several(quick: bool) -> list[Row]:
    """The same with eight updates in a call of ``train``."""
    rounds, block = (1, 8) if quick else (9, 16)
    found = throughput.compete(
        "sac", "hopper", rounds, block, gradient_steps=8, variants=variants("sac", quick)
    )
    return [
        row(
            "8 updates a call",
            "sac, hopper",
            one["variant"],
            one["ms"],
            "CPU ms",
            **ratio_of(one, None),
        )
        for one in found
    ]


def whole_training(quick: bool) -> list[Row]:
    """Environment steps per CPU-second of ``learn``."""
    env, setting = ("Pendulum-v1", (1, 20)) if quick else ("Hopper-v5", (9, 300))
    return [
        row("learn", env, one["variant"], one["steps_per_second"], "steps / CPU-s", **judged)
        for one in end_to_end.compete(env, *setting)
        for judged in [ratio_of(one, one["bar"])]
    ]


def environments(quick: bool) -> list[Row]:
    """A vector step of 16 environments."""
    n_envs, rounds, block = (2, 1, 5) if quick else (16, 11, 40)
    tasks = vec_env.TASKS[:1] if quick else vec_env.TASKS
    found = []
    for task in tasks:
        for one in vec_env.measure(task, n_envs, rounds, block):
            judged = (one["variant"], task) == (vec_env.OURS, vec_env.BAR_TASK)
            told = ratio_of(one, vec_env.BAR if judged else None)
            setting = f"{task}, {n_envs} environments"
            found.append(row("step", setting, one["variant"], one["wall_us"], "wall us", **told))
    return found


def memory(quick: bool) -> list[Row]:
    """Peaks of a full replay buffer."""
    transitions, lengths = (2_000, (100,)) if quick else (1_000_000, (1000, 100))
    found = []
    for one in replay_memory.memory_rows(transitions, lengths):
        if one["left_out"]:
            print(f"left out: {one['variant']}: {one['left_out']}")
            continue
        told: Row = {}
        compact = one["variant"] == "SAC, CompactReplayBuffer"
        if compact and one["episode_length"] == replay_memory.BAR_LENGTH and not quick:
            bar = replay_memory.BAR_GIB
            told = {"bar": f"<= {bar:g} GiB", "holds": one["peak_gib"] <= bar}
        setting = f"{transitions:,} of Humanoid's, episodes of {one['episode_length']}"
        found.append(row("memory", setting, one["variant"], one["peak_gib"], "GiB", **told))
    return found


def buffers(quick: bool) -> list[Row]:
    """Storing and drawing by the compact buffer."""
    transitions, rounds = (2_000, 1) if quick else (200_000, 11)
    return [
        row(
            "buffer", one["what"], one["variant"], one["microseconds"], "CPU us", ratio=one["ratio"]
        )
        for one in replay_memory.time_rows(transitions, rounds)
        if not one["left_out"]
    ]


def errors(quick: bool) -> list[Row]:
    """How far from the reference the engines end."""
    bases, sizes = (("SAC",), ("hopper",)) if quick else (engine_errors.BASES, throughput.SIZES)
    most = 1 if quick else 1000
    return [
        row(
            f"distance after {one['updates']}",
            f"{base}, {size}, {network}",
            one["engine"],
            one[network],
            "standard deviations",
        )
        for base in bases
        for size in sizes
        for one in engine_errors.rows(base, size, most)
        for network in ("critic", "actor")
        if one["updates"] in (10, most)  # before differences have grown by themselves, and after
    ]


def steve_updates(quick: bool) -> list[Row]:
    """What STEVE costs, in updates of TD3."""
    found = steve.timed_updates(1 if quick else 9)
    stock = found[steve.PEER]
    rows = []
    for name, times in found.items():
        told: Row = throughput.ratios(np.array(stock), np.array(times))
        if name == steve.JUDGED:
            cost = statistics.median(b / a for a, b in zip(stock, times, strict=True))
            told |= {"bar": f"<= {steve.BAR:g} of TD3's", "holds": cost <= steve.BAR}
        rows.append(row("STEVE", "width 256", name, statistics.median(times) / 5, "CPU ms", **told))
    return rows


def growths(quick: bool) -> list[Row]:
    """Exponents k of time ~ x^k, with their intervals as a range."""
    found = []
    for sweep in growth.SWEEPS:
        for one in growth.rows(sweep, quick=quick):
            setting = f"x = {sweep}, {one['x'][0]:,} to {one['x'][-1]:,}"
            variant = f"{one['what']}, {one['variant']}"
            for name, unit in (("exponent", "exponent"), ("per_doubling", one["unit"])):
                if one[name] is None or (name == "per_doubling" and sweep != "buffer"):
                    continue
                told = {"low": one[f"{name}_low"], "high": one[f"{name}_high"], "line": one}
                unit = unit if name == "exponent" else f"{unit} / doubling"
                found.append({**row("growth", setting, variant, one[name], unit), **told})
    return found


PARTS: dict[str, Callable[[bool], list[Row]]] = {
    "updates": updates,
    "several": several,
    "end_to_end": whole_training,
    "vec_env": environments,
    "memory": memory,
    "buffers": buffers,
    "errors": errors,
    "steve": steve_updates,
    "growth": growths,
}
HEAD = (
    "| what | setting | variant | figure | | ratio to its peer [min, max] | bar |\n"
    "| --- | --- | --- | --: | --- | --- | --- |"
)


def line(one: Row) -> str:
    """A row as markdown."""
    ratio = ""
    if one["ratio"] is not None:
        ratio = f"**{one['ratio']:.2f}**"
        if one["ratio_min"] is not None:
            ratio += f" [{one['ratio_min']:.2f}, {one['ratio_max']:.2f}]"
    small = 0 < abs(one["figure"]) < 0.01
    figure = f"{one['figure']:.1e}" if small else f"{one['figure']:,.2f}"
    if "low" in one:
        figure += f" [{one['low']:.2f}, {one['high']:.2f}]"
    bar = "" if one["bar"] is None else f"{one['bar']}: {'holds' if one['holds'] else 'MISSED'}"
    shown = (one["part"], one["setting"], one["variant"], figure, one["unit"], ratio, bar)
    return f"| {' | '.join(shown)} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, write JSON and PNG; 1 when asked to check and a bar does not hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder of the files")
    parser.add_argument("--quick", action="store_true", help="tiny sizes; the figures say nothing")
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar does not hold")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    told: Row = {"machine": throughput.machine(), "versions": throughput.versions()}
    told |= {"torch_threads": torch.get_num_threads(), "seed": throughput.SEED}
    told["load_at_start"] = throughput.load()
    print(f"machine: {told['machine']}; load at start {told['load_at_start']}")
    print(f"versions: {told['versions']}; torch threads {told['torch_threads']}\n\n{HEAD}")
    found: list[Row] = []
    for part in arguments.parts:
        start = time.perf_counter()
        rows = PARTS[part](arguments.quick)
        found += rows
        print("\n".join(map(line, rows)), flush=True)
        print(f"{part}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    told |= {"load_at_end": throughput.load(), "rows": found}
    (arguments.out / "bench.json").write_text(json.dumps(told, indent=1) + "\n")
    bench_picture.draw(found, arguments.out / "bench.png")
    if grown := [one["line"] for one in found if one["unit"] == "exponent"]:
        growth_report.picture(grown, arguments.out / "growth.png")
    print(f"\nload at end {told['load_at_end']}; {arguments.out}/bench.json and bench.png")
    missed = [one for one in found if one["holds"] is False]
    for one in missed:
        print(f"bar missed: {line(one)}")
    return 1 if missed and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
