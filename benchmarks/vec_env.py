"""What a step of several environments costs: ours beside SB3's SubprocVecEnv and DummyVecEnv.

    python benchmarks/vec_env.py                     # 16 environments of two tasks, a minute or two
    python benchmarks/vec_env.py --check             # exit status 1 below the bar
    python benchmarks/vec_env.py --n-envs 4 --tasks Hopper-v5

All variants live at once, with the same seeds, and take turns in blocks of vector steps, in
reversed order every other round; their workers sleep while another has its turn. The actions are
random and the same for all. Wall time is what a training script waits, CPU time is that of the
script and all workers together. The ratio of a round is time(SubprocVecEnv) / time(variant) by the
wall, so above 1 is faster than SB3. A second SubprocVecEnv runs along: its true ratio is 1, so how
far its median is from 1 is what this run cannot resolve. Wall time suffers from all else on the
machine, and what needs two cores suffers more than what needs one; so the load is printed, too.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv
from throughput import load, machine, no_garbage_collector, ratios, versions

from sb3_ext import PackedSubprocVecEnv

TASKS = ("CartPole-v1", "HalfCheetah-v5")
BAR, BAR_TASK = 2.0, "HalfCheetah-v5"
PEER, OURS = "SubprocVecEnv", "PackedSubprocVecEnv"
VARIANTS: dict[str, Any] = {
    PEER: SubprocVecEnv,
    f"{PEER} again": SubprocVecEnv,
    "DummyVecEnv": DummyVecEnv,
    OURS: PackedSubprocVecEnv,
}
ACTIONS = 64  # different ones, over and over


def made(task: str, variant: str, n_envs: int) -> VecEnv:
    """The variant, reset; by fork, for 16 processes that import torch take a minute to start."""
    cls = VARIANTS[variant]
    how = None if cls is DummyVecEnv else {"start_method": "fork"}
    env = make_vec_env(task, n_envs, seed=0, vec_env_cls=cls, vec_env_kwargs=how)
    env.reset()
    return env


def cpu_seconds(env: VecEnv) -> float:
    """CPU time of this process and of the workers, in seconds."""
    pids = [process.pid for process in getattr(env, "processes", ())]
    # Linux's number of another process's CPU clock, as clock_getcpuclockid(3) makes it.
    return time.process_time() + sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


def measure(task: str, n_envs: int, rounds: int, block: int) -> list[dict[str, Any]]:
    """A row for each variant, as plain values.

    :param task: a registered id
    :param block: vector steps of a turn
    :return: ``wall_us`` and ``cpu_us`` are medians of a vector step in microseconds,
        ``steps_per_second`` counts those of all environments together
    """
    envs = {variant: made(task, variant, n_envs) for variant in VARIANTS}
    space = envs[PEER].action_space
    space.seed(0)
    actions = [np.stack([space.sample() for _ in range(n_envs)]) for _ in range(ACTIONS)]
    wall: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    cpu: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    try:
        for turn in range(rounds + 1):  # the first is thrown away
            for variant in list(envs) if turn % 2 else list(envs)[::-1]:
                env = envs[variant]
                with no_garbage_collector():
                    cpu_before, before = cpu_seconds(env), time.perf_counter()
                    for i in range(block):
                        env.step(actions[i % ACTIONS])
                    wall[variant].append((time.perf_counter() - before) / block * 1e6)
                    cpu[variant].append((cpu_seconds(env) - cpu_before) / block * 1e6)
        processes = {name: len(getattr(env, "processes", ())) for name, env in envs.items()}
    finally:
        for env in envs.values():
            env.close()
    rows = []
    for variant in VARIANTS:
        cost = statistics.median(wall[variant][1:])
        row = {"task": task, "variant": variant, "n_envs": n_envs, "wall_us": cost}
        row |= {"processes": processes[variant], "cpu_us": statistics.median(cpu[variant][1:])}
        row["steps_per_second"] = n_envs / cost * 1e6
        rows.append({**row, **ratios(*(np.array(wall[one][1:]) for one in (PEER, variant)))})
    return rows


def markdown(row: dict[str, Any]) -> str:
    """A row of the table."""
    return (
        f"| {row['task']} | {row['variant']} | {row['processes'] or 'none'} | "
        f"{row['wall_us']:.0f} | {row['cpu_us']:.0f} | {row['steps_per_second']:.0f} | "
        f"{row['ratio_min']:.2f} | "
        f"**{row['ratio']:.2f}** | {row['ratio_max']:.2f} |"
    )


def failures(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence for each row below its bar."""
    return [
        f"{row['variant']} on {row['task']}: median ratio {row['ratio']:.2f}, the bar is {BAR:g}"
        for row in rows
        if (row["variant"], row["task"]) == (OURS, BAR_TASK) and row["ratio"] < BAR
    ]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), metavar="ID")
    parser.add_argument("--n-envs", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--block", type=int, default=200, help="vector steps of a turn")
    parser.add_argument("--check", action="store_true", help="exit 1 below the bar")
    arguments = parser.parse_args(argv)
    if min(arguments.n_envs, arguments.rounds, arguments.block) < 1:
        parser.error("--n-envs, --rounds and --block must be at least 1")
    if arguments.check and BAR_TASK not in arguments.tasks:
        parser.error(f"--check needs {BAR_TASK} among --tasks, which has the bar")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 when asked to check and below the bar."""
    arguments = parse(argv)
    th.set_num_threads(1)
    print(f"machine: {machine()}; load at start {load()}")
    print(f"versions: {versions()}, mujoco {metadata.version('mujoco')}")
    print(
        f"setting: {arguments.n_envs} environments, seed 0, start method fork, "
        f"{arguments.rounds} rounds of {arguments.block} vector steps\n"
    )
    print("| task | variant | workers | wall us | CPU us | steps / s | ratio min | median | max |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    below: list[str] = []
    for task in arguments.tasks:
        rows = measure(task, arguments.n_envs, arguments.rounds, arguments.block)
        print("\n".join(map(markdown, rows)), flush=True)
        below += failures(rows)
    print(f"\nload at end {load()}")
    for sentence in below:
        print(f"below the bar: {sentence}")
    return 1 if below and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
