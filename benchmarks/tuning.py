"""What a study costs beside its training: `sb3-ext tune` and RL Zoo's optimisation, side by side.

    python benchmarks/tuning.py --rounds 3

Both search stock SAC on Pendulum with as many trials, steps, evaluations and episodes, random draws
and no pruning, into a journal file. Their spaces differ, so the trainings do; therefore the clock
stops while ``learn`` runs, in which both evaluate, too. What is left between the first ``learn``
and the end of the last one is the price of a trial: environments and models made, files written,
the storage asked. Import and set-up before, and the results after, stand apart. They take turns.

RL Zoo is no dependency: pip install "sb3-ext[zoo]".
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

SIDES = ("sb3-ext", "rl_zoo3")


def timed(side: str, trials: int, steps: int) -> dict[str, float]:
    """One study in this process."""
    import torch
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

    torch.set_num_threads(1)
    began = time.perf_counter()
    spans: list[tuple[float, float]] = []
    learn = OffPolicyAlgorithm.learn

    def timing(self: OffPolicyAlgorithm, *args: object, **kwargs: object) -> object:
        start = time.perf_counter()
        try:
            return learn(self, *args, **kwargs)  # type: ignore[arg-type]
        finally:
            spans.append((start, time.perf_counter()))

    OffPolicyAlgorithm.learn = timing  # type: ignore[assignment, method-assign]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        (_ours if side == "sb3-ext" else _zoo)(trials, steps)
    ended = time.perf_counter()
    assert len(spans) == trials, f"{len(spans)} runs of {trials}"
    within = sum(end - start for start, end in spans)
    return {
        "before": spans[0][0] - began,
        "a trial": (spans[-1][1] - spans[0][0] - within) / (trials - 1),
        "after": ended - spans[-1][1],
        "training": within / trials,
    }


def _ours(trials: int, steps: int) -> None:
    from sb3_ext.tuning import TuneOptions, tune

    ranges = {
        "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
        "batch_size": [64, 128, 256],
        "gamma": [0.9, 0.98, 0.99],
        "train_freq": [1, 4, 8],
    }
    tune(
        TuneOptions(
            algorithm="sb3:SAC",
            env="Pendulum-v1",
            study="s",
            trials=trials,
            steps=steps,
            evaluations=2,
            eval_episodes=5,
            sampler="random",
            pruner="none",
            top=0,
            ranges=ranges,
        ),
        tell=lambda line: None,
    )


def _zoo(trials: int, steps: int) -> None:
    from rl_zoo3.train import train

    words = (
        f"--algo sac --env Pendulum-v1 -n {steps} --optimize-hyperparameters --n-trials {trials} "
        "--n-evaluations 2 --eval-episodes 5 --sampler random --pruner none --n-jobs 1 --seed 0 "
        "--study-name s --storage s.log -f logs --verbose 0"
    )
    sys.argv = ["train", *words.split()]
    train()


def main() -> None:
    """Take turns, then print the medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(timed(arguments.side, arguments.trials, arguments.steps)))
        return
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for number in range(arguments.rounds):
        for side in SIDES if number % 2 == 0 else SIDES[::-1]:
            command = [sys.executable, __file__, "--side", side]
            command += ["--trials", str(arguments.trials), "--steps", str(arguments.steps)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env=environment
            )
            if done.returncode:
                raise SystemExit(done.stderr[-2000:])
            found[side].append(json.loads(done.stdout.strip().splitlines()[-1]))
    print(
        f"machine: {_cpu()}, {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}; Python "
        f"{platform.python_version()}, optuna {version('optuna')}, rl_zoo3 {version('rl_zoo3')}; "
        f"{arguments.trials} trials of {arguments.steps} steps, {arguments.rounds} rounds; "
        "seconds, median (least to most)\n"
    )
    print("| study | before the first trial | a trial, beside its training | after the last |")
    print("| --- | --: | --: | --: |")
    for side, rows in found.items():
        cells = []
        for name in ("before", "a trial", "after"):
            values = [row[name] for row in rows]
            cells.append(
                f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
            )
        print(f"| {side} | {' | '.join(cells)} |")
    ratios = [
        ours["a trial"] / theirs["a trial"]
        for ours, theirs in zip(found["sb3-ext"], found["rl_zoo3"], strict=True)
    ]
    print(f"\na trial, sb3-ext over rl_zoo3: {statistics.median(ratios):.2f}")


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
