"""ACER beside stock A2C and PPO: what a step costs, and what replay and each of its parts bring.

    python benchmarks/acer.py speed                     # a minute or two
    python benchmarks/acer.py study cartpole            # replay ratio and trust region, 20 minutes
    python benchmarks/acer.py study lunarlander         # the same on LunarLander-v3, half an hour
    python benchmarks/acer.py study pendulum            # what each part brings, 20 minutes
    python benchmarks/acer.py study grid                # all ratios on LunarLander-v3, hours
    python benchmarks/acer.py study pixels              # images of a falling ball, hours

``speed``: environment steps per second of CPU time with nothing replayed, and the time of an update
at a replay ratio of 4, in one process with one torch thread, in turns. ``study``: each run is a run
directory of ``sb3-ext train``; the same command goes on where it was stopped, in the midst of a
run, too, and ends with tables and pictures by ``sb3-ext plot``. Times are for two free cores.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from learning import machine, versions
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env

from sb3_ext import ACER, cli
from sb3_ext.running import TrainOptions, run_options, train

ENVS = ("CartPole-v1", "Pendulum-v1")
STOCK = {"A2C": "sb3:A2C", "PPO": "sb3:PPO"}


@dataclass(frozen=True)
class Study:
    """Runs that are looked at together.

    :param variants: by name, ACER's arguments; those of ``STOCK`` have their own defaults
    :param pictures: by name, whose curves stand in it
    :param shared: arguments of every ACER
    """

    env: str
    steps: int
    n_envs: int
    seeds: int
    variants: Mapping[str, Mapping[str, Any]]
    pictures: Mapping[str, Sequence[str]]
    shared: Mapping[str, Any] = field(default_factory=dict)
    stock: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    normalize: bool = False
    policy: str | None = None


def ratios(*found: int) -> dict[str, dict[str, Any]]:
    """Each replay ratio with and without a trust region."""
    return {
        f"ratio_{ratio}{'' if trust else '_free'}": {"replay_ratio": ratio, "trust_region": trust}
        for ratio in found
        for trust in (True, False)
    }


BOTH = {"A2C": {}, "PPO": {}}
STUDIES = {
    "cartpole": Study(
        "CartPole-v1",
        60_000,
        4,
        5,
        {**ratios(0, 1, 4, 8), **BOTH},
        {
            "trust": ("ratio_0", "ratio_1", "ratio_4", "ratio_8", "A2C", "PPO"),
            "free": ("ratio_0_free", "ratio_1_free", "ratio_4_free", "ratio_8_free", "A2C", "PPO"),
        },
        {"replay_start": 1_000},
    ),
    "lunarlander": Study(
        "LunarLander-v3",
        300_000,
        8,
        3,
        {**ratios(0, 4), **BOTH},
        {"all": ("ratio_0", "ratio_4", "ratio_0_free", "ratio_4_free", "A2C", "PPO")},
        {"gamma": 0.995, "replay_start": 5_000},
        {"A2C": {"gamma": 0.995}, "PPO": {"gamma": 0.995}},
    ),
    "pendulum": Study(
        "Pendulum-v1",
        60_000,
        4,
        5,
        {
            "whole": {},
            "one_step": {"retrace_lambda": 0.0},
            "no_dueling": {"n_dual_samples": 0},
            "no_trust_region": {"trust_region": False},
            "no_correction": {"bias_correction": False},
            "no_truncation": {"correction_term": float("inf")},
            "std_0.3": {"action_std": 0.3},
        },
        {
            "ablation": (
                "whole",
                "one_step",
                "no_dueling",
                "no_trust_region",
                "no_correction",
                "no_truncation",
            ),
            "exploration": ("whole", "std_0.3"),
        },
        {
            "gamma": 0.95,
            "n_steps": 20,
            "learning_rate": 1e-3,
            "action_std": 0.8,
            "replay_ratio": 8,
            "delta": 0.2,
            "replay_start": 1_000,
        },
        normalize=True,
    ),
    "pixels": Study(
        "acer_pixels:Catch-v0",
        200_000,
        8,
        3,
        {**ratios(0, 4), **BOTH},
        {"all": ("ratio_0", "ratio_4", "ratio_0_free", "ratio_4_free", "A2C", "PPO")},
        {"replay_start": 5_000},
    ),
}
STUDIES["grid"] = replace(
    STUDIES["lunarlander"],
    steps=1_000_000,
    seeds=5,
    variants=STUDIES["cartpole"].variants,
    pictures=STUDIES["cartpole"].pictures,
)


def folder(out: Path, name: str, seed: int) -> Path:
    """Of a run."""
    return out / name / f"seed_{seed}"


def one_run(study: Study, name: str, seed: int, out: Path) -> str:
    """Train, or go on with a run that was killed."""
    torch.set_num_threads(1)
    own = study.stock.get(name, {}) if name in STOCK else {**study.shared, **study.variants[name]}
    options = TrainOptions(
        algorithm=STOCK.get(name, "ACER"),
        env=study.env,
        steps=study.steps,
        hyperparameters=dict(own),
        n_envs=study.n_envs,
        normalize=study.normalize,
        policy=study.policy,
        seed=seed,
        eval_every=0,
        checkpoint_every=max(study.steps // 4, 1),
        device="cpu",
    )
    path = folder(out, name, seed)
    if not (path / "model.zip").exists():
        train(options, path, resume=(path / "options.yaml").exists())
    return f"{name} seed {seed}"


def require_same_steps(study: Study, runs: Sequence[Path]) -> None:
    """Refuse runs of another length: their curves would be shown as this study's.

    :raises SystemExit: naming the first, with both numbers
    """
    for path in runs:
        if not (path / "options.yaml").exists():
            continue
        steps = run_options(path).steps
        if steps != study.steps:
            raise SystemExit(
                f"{path} is a run of {steps:,} steps, and this study's are {study.steps:,}: give "
                f"another --out, or --steps {steps}, or remove the folder"
            )


def run_study(options: argparse.Namespace) -> None:
    """What is missing, then tables and pictures."""
    study = STUDIES[options.name]
    out = options.out or Path("runs/acer") / options.name
    seeds = range(study.seeds if options.seeds is None else options.seeds)
    if options.steps:
        study = replace(study, steps=options.steps)
    require_same_steps(
        study, [folder(out, name, seed) for seed in seeds for name in study.variants]
    )
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        waiting = [
            pool.submit(one_run, study, name, seed, out)
            for seed in seeds
            for name in study.variants
        ]
        for done, job in enumerate(as_completed(waiting), start=1):
            print(f"[{done}/{len(waiting)}] {job.result()}", flush=True)
    told = ", ".join(f"{name} {version}" for name, version in versions().items())
    print(f"{machine()}, one thread a run; {told}")
    for picture, names in study.pictures.items():
        words = ["plot", *(str(out / name) for name in names), "--group-by", "folder"]
        target = options.pictures / f"acer-{options.name}-{picture}.png"
        if cli.main([*words, "--out", str(target)]):
            raise SystemExit(2)


# -- the price -------------------------------------------------------------------------------


def cpu_rate(model: Any, steps: int) -> float:
    """Environment steps per second of CPU time."""
    started = time.process_time()
    model.learn(steps, reset_num_timesteps=False)
    return steps / (time.process_time() - started)


def update_time(model: Any, count: int) -> float:
    """CPU milliseconds of a call of ``train`` on what was collected already."""
    started = time.process_time()
    for _ in range(count):
        model.train(1, model.batch_size) if isinstance(model, ACER) else model.train()
    return 1e3 * (time.process_time() - started) / count


def run_speed(options: argparse.Namespace) -> int:
    """Rows of both tables; the bar is 0.7 of A2C with nothing replayed."""
    torch.set_num_threads(1)
    print(f"{machine()}; {versions()}\n")
    print("| environment | n_steps | ACER, ratio 0 | A2C | ratio, median [min, max] |")
    print("| --- | --: | --: | --: | --: |")
    worst = float("inf")
    for env, n_steps in (
        ("CartPole-v1", 20),
        ("CartPole-v1", 5),
        ("Pendulum-v1", 20),
        ("Pendulum-v1", 5),
    ):
        shared: dict[str, Any] = {"n_steps": n_steps, "seed": 0, "device": "cpu"}
        ours = ACER("MlpPolicy", make_vec_env(env, 8, seed=0), replay_ratio=0, **shared)
        stock = A2C("MlpPolicy", make_vec_env(env, 8, seed=0), **shared)
        rates: dict[Any, list[float]] = {ours: [], stock: []}
        for turn in range(options.rounds + 1):
            gc.collect()
            for model in (ours, stock) if turn % 2 else (stock, ours):
                rates[model].append(cpu_rate(model, options.steps))
        found = [a / b for a, b in zip(rates[ours][1:], rates[stock][1:], strict=True)]
        median = statistics.median(found)
        worst = min(worst, median)
        cells = (statistics.median(rates[one][1:]) for one in (ours, stock))
        left, right = (f"{one:,.0f} steps/s" for one in cells)
        spread = f"**{median:.2f}** [{min(found):.2f}, {max(found):.2f}]"
        print(f"| {env} | {n_steps} | {left} | {right} | {spread} |", flush=True)
    print("\n| environment | update | CPU ms, median |\n| --- | --- | --: |")
    for env in ENVS:
        made = {
            "A2C, 8 x 20 steps": A2C("MlpPolicy", make_vec_env(env, 8), n_steps=20, device="cpu"),
            "ACER on the rollout, 8 x 20": ACER(
                "MlpPolicy", make_vec_env(env, 8), n_steps=20, replay_ratio=0, device="cpu"
            ),
            "ACER, the rollout and 4 on average of 16 x 20 replayed": ACER(
                "MlpPolicy", make_vec_env(env, 8), n_steps=20, replay_start=1_000, device="cpu"
            ),
        }
        for name, model in made.items():
            model.learn(2_000)
            times = [update_time(model, 20) for _ in range(options.rounds)]
            print(f"| {env} | {name} | {statistics.median(times):.2f} |", flush=True)
    if options.check and worst < 0.7:
        print(f"below the bar: {worst:.2f} of A2C, 0.7 asked for")
        return 1
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers()
    speed = commands.add_parser("speed", help="the price of a step and of an update")
    speed.add_argument("--rounds", type=int, default=9)
    speed.add_argument("--steps", type=int, default=4_000, help="environment steps of a turn")
    speed.add_argument("--check", action="store_true", help="exit status 1 below 0.7 of A2C")
    speed.set_defaults(command=run_speed)
    study = commands.add_parser("study", help="learning curves of variants over seeds")
    study.add_argument("name", choices=STUDIES)
    study.add_argument("--seeds", type=int, help="how many")
    study.add_argument("--steps", type=int, help="of a run")
    study.add_argument("--jobs", type=int, default=2, help="processes")
    study.add_argument("--out", type=Path, help="folder of the runs (runs/acer/NAME)")
    study.add_argument("--pictures", type=Path, default=Path("docs/img"))
    study.set_defaults(command=run_study)
    given = parser.parse_args(arguments)
    if not hasattr(given, "command"):  # as `make bench` calls it
        parser.print_help()
        return 0
    return given.command(given) or 0


if __name__ == "__main__":
    raise SystemExit(main())
