"""Learning curves of several algorithms on the same seeds.

    python benchmarks/learning.py run --env Hopper-v5 --algorithms stock_sac,SAC,LFIWSAC \
        --seeds 0-4 --steps 50000 --jobs 2 --out results/hopper \
        --set LFIWSAC.fast_buffer_size=2000
    python benchmarks/learning.py report results/hopper --out docs/img

Each (algorithm, seed) is one process with one thread. A run that ended is a CSV and a JSON; asking
again does only what is missing. Within a seed, all algorithms start from the same random states and
are evaluated on the same episodes, so that their differences are paired. ``--set action_noise=0.1``
is normal noise of that width.
"""

from __future__ import annotations

import argparse
import ast
import csv
import importlib
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

# By module path, so that a checkout on PYTHONPATH is enough: no entry points, no installation.
ALGORITHMS = {
    "stock_sac": "stable_baselines3:SAC",
    "stock_td3": "stable_baselines3:TD3",
    "SAC": "sb3_ext.algorithms.sac:SAC",
    "TD3": "sb3_ext.algorithms.td3:TD3",
    "LFIWSAC": "sb3_ext.plugins.lfiw.algorithms:LFIWSAC",
    "LFIWTD3": "sb3_ext.plugins.lfiw.algorithms:LFIWTD3",
    "STEVE": "sb3_ext.plugins.steve.algorithms:STEVE",
    "MVE": "sb3_ext.plugins.steve.algorithms:MVE",
    "STEVESAC": "sb3_ext.plugins.steve.algorithms:STEVESAC",
}
# A base and what stands behind each plus, by the registered names.
PARTS: dict[str, dict[str, Any]] = {
    "PER": {"replay": "per"},
    "LAP": {"replay": "lap"},
    "ERE": {"replay": {"name": "ere", "eta_end": 1.0}},
    "PAL": {"critic_loss": "pal"},
    "LFIW": {"weighting": "lfiw"},
    # Of STEVE: what its weights, its horizon and its ensembles bring.
    "uniform": {"horizon_weights": "uniform"},
    "last": {"horizon_weights": "last"},
    "alone": {"n_models": 1, "n_rewards": 1, "n_critics": 1},
    "min": {"critic_reduction": "min"},
    "shared": {"critic_subsets": False},
    "reference": {"engine": "reference"},
    "bf16": {"engine": "fused_bf16"},
}
COLUMNS = ("timesteps", "mean_return", "std_return", "episodes")
LAST = 3  # evaluations that make a final return


@dataclass(frozen=True)
class Job:
    """One training run: everything that decides its result."""

    algorithm: str
    env: str
    seed: int
    steps: int
    eval_every: int
    eval_episodes: int
    device: str
    arguments: dict[str, Any]

    def file(self, out: Path, suffix: str) -> Path:
        return out / self.algorithm / f"{self.env.replace('/', '-')}_seed{self.seed}.{suffix}"

    def eval_seeds(self) -> list[int]:
        """The same at every evaluation and for every algorithm; far from the training seeds."""
        return [1_000_000 + 1_000 * self.seed + episode for episode in range(self.eval_episodes)]


def load_algorithm(name: str) -> Any:
    """The class of a known name (``SAC+PER`` is SAC), or of ``module:Class``."""
    name, *parts = name.split("+")
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise SystemExit(f"no part {unknown[0]!r}; known are {', '.join(PARTS)}")
    module, _, attribute = ALGORITHMS.get(name, name).partition(":")
    if not attribute:
        known = ", ".join(ALGORITHMS)
        raise SystemExit(f"no algorithm {name!r}; known are {known}, or give module:Class")
    return getattr(importlib.import_module(module), attribute)


def with_parts(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments that ``SAC+PER`` stands for; a dotted one (``replay.c_min``) reaches inside."""
    arguments: dict[str, Any] = {}
    for part in name.split("+")[1:]:
        arguments |= PARTS[part]
    for key, value in given.items():
        outer, dot, inner = key.partition(".")
        if dot:
            held = arguments.get(outer)
            arguments[outer] = {**({"name": held} if isinstance(held, str) else held), inner: value}
        else:
            arguments[key] = value
    return arguments


def with_noise(arguments: dict[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    """The arguments with SB3's normal noise where ``action_noise`` is its width.

    :param shape: of an action, whose numbers are in [-1, 1] where SB3 adds the noise
    """
    from stable_baselines3.common.noise import NormalActionNoise

    if not isinstance(width := arguments.get("action_noise"), (int, float)):
        return arguments
    return {**arguments, "action_noise": NormalActionNoise(np.zeros(shape), np.full(shape, width))}


def evaluate(model: Any, envs: list[Any], seeds: list[int]) -> list[float]:
    """Returns of one deterministic episode per seed, stepped side by side for one forward pass."""
    observations = [env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)]
    returns, alive = [0.0] * len(envs), list(range(len(envs)))
    while alive:
        batch = np.stack([observations[i] for i in alive])
        actions, _ = model.predict(batch, deterministic=True)
        ended = set()
        for i, action in zip(alive, actions, strict=True):
            observations[i], reward, terminated, truncated, _ = envs[i].step(action)
            returns[i] += float(reward)
            if terminated or truncated:
                ended.add(i)
        alive = [i for i in alive if i not in ended]
    return returns


def train(job: Job, out: Path) -> str:
    """One run, in a process of its own; returns its progress line."""
    import gymnasium as gym
    import torch as th
    from stable_baselines3.common.callbacks import BaseCallback

    th.set_num_threads(1)
    envs = [gym.make(job.env) for _ in range(job.eval_episodes)]
    arguments = with_noise(with_parts(job.algorithm, job.arguments), envs[0].action_space.shape)
    model = load_algorithm(job.algorithm)(
        "MlpPolicy", job.env, seed=job.seed, device=job.device, **arguments
    )
    target, draft = job.file(out, "csv"), job.file(out, "csv.draft")
    target.parent.mkdir(parents=True, exist_ok=True)
    started, cpu_started = time.time(), time.process_time()
    with draft.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)

        class Evaluate(BaseCallback):
            def _on_training_start(self) -> None:
                self.measure()

            def _on_step(self) -> bool:
                if self.num_timesteps % job.eval_every == 0:
                    self.measure()
                return True

            def measure(self) -> None:
                returns = evaluate(self.model, envs, job.eval_seeds())
                mean, spread = float(np.mean(returns)), float(np.std(returns))
                rows.writerow((self.num_timesteps, mean, spread, len(returns)))
                file.flush()
                self.last = mean

        callback = Evaluate()
        model.learn(job.steps, callback=callback)
    cpu_seconds = time.process_time() - cpu_started
    record = {
        "job": asdict(job),
        "seconds": round(time.time() - started, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "machine": machine(),
        "versions": versions(),
    }
    os.replace(draft, target)
    write_json(job.file(out, "json"), record)  # last: it says that the run is whole
    return f"{job.algorithm} seed {job.seed}: {callback.last:.1f} in {cpu_seconds:.0f} CPU s"


def machine() -> dict[str, Any]:
    """The class of machine, no name of it."""
    model = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = (line for line in cpuinfo.read_text().splitlines() if line.startswith("model name"))
        model = next(lines, model).rpartition(":")[2].strip()
    return {"cpu": model, "cpu_count": os.cpu_count(), "system": platform.system()}


def versions() -> dict[str, str]:
    """Versions of what decides the numbers; sb3-ext's own stands in the package."""
    names = ("stable_baselines3", "torch", "gymnasium", "mujoco", "numpy")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    found["sb3-ext"] = importlib.import_module("sb3_ext").__version__
    return found


def write_json(path: Path, content: Any) -> None:
    """Whole or not at all."""
    draft = path.with_suffix(".json.draft")
    draft.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(draft, path)


def plan(options: argparse.Namespace) -> list[Job]:
    """All runs asked for, seed by seed, so that an early stop leaves whole pairs."""
    algorithms = options.algorithms.split(",")
    arguments: dict[str, dict[str, Any]] = {name: {} for name in algorithms}
    for setting in options.set:
        key, equals, text = setting.partition("=")
        algorithm, dot, argument = key.partition(".")
        if not dot or algorithm in ("replay", "weighting", "critic_loss"):  # for all
            dot, argument = "", key
        if not equals or (dot and algorithm not in arguments):
            raise SystemExit(
                f"--set takes ALGORITHM.argument=value or argument=value for all, got {setting!r}"
            )
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        for name in [algorithm] if dot else algorithms:
            arguments[name][argument] = value
    common = (options.steps, options.eval_every, options.eval_episodes, options.device)
    return [
        Job(name, options.env, seed, *common, arguments[name])
        for seed in parse_seeds(options.seeds)
        for name in algorithms
    ]


def parse_seeds(text: str) -> list[int]:
    """Seeds from ``0-4`` or ``0,3,7-9``."""
    seeds = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


def is_done(job: Job, out: Path) -> bool:
    """Whether the run is there whole; one with other settings under its name is an error."""
    path = job.file(out, "json")
    if not path.exists():
        return False
    found, asked = json.loads(path.read_text())["job"], json.loads(json.dumps(asdict(job)))
    for key, value in asked.items():
        if found[key] != value:
            raise SystemExit(
                f"{path} holds a run with {key}={found[key]}, asked for {value}; "
                "choose another --out"
            )
    return True


def run(options: argparse.Namespace) -> None:
    """Train what is missing."""
    jobs, out = plan(options), options.out
    for name in dict.fromkeys(job.algorithm for job in jobs):
        load_algorithm(name)  # a wrong name ends here, before any process starts
    missing = [job for job in jobs if not is_done(job, out)]
    print(f"{len(jobs)} runs, {len(jobs) - len(missing)} of them done before", flush=True)
    failed = 0
    pool = ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn"), max_tasks_per_child=1)
    futures = {pool.submit(train, job, out): job for job in missing}
    try:
        for count, future in enumerate(as_completed(futures), start=1):
            job = futures[future]
            try:
                line = future.result()
            except Exception as error:
                failed += 1
                line = f"{job.algorithm} seed {job.seed} failed: {type(error).__name__}: {error}"
            print(f"[{count}/{len(missing)}] {line}", flush=True)
    except KeyboardInterrupt:
        raise SystemExit("stopped; the same command does what is missing") from None
    finally:
        pool.shutdown(cancel_futures=True)
    if failed:
        raise SystemExit(f"{failed} runs failed; the same command tries them again")


@dataclass(frozen=True)
class Curve:
    """One finished run, as its CSV has it."""

    seed: int
    timesteps: np.ndarray
    returns: np.ndarray
    cpu_seconds: float

    @property
    def final(self) -> float:
        return float(self.returns[-LAST:].mean())

    @property
    def area(self) -> float:
        """Area under the curve over its length: the mean return along training."""
        span = self.timesteps[-1] - self.timesteps[0]
        return float(np.trapezoid(self.returns, self.timesteps) / span)

    def reached(self, worth: float) -> float:
        """Steps until an evaluation is worth so much; infinity if none is."""
        return float(min(self.timesteps[self.returns >= worth], default=np.inf))


def read(out: Path) -> dict[str, dict[str, dict[int, Curve]]]:
    """Finished runs as environment -> algorithm -> seed -> curve."""
    found: dict[str, dict[str, dict[int, Curve]]] = {}
    for path in sorted(out.glob("*/*_seed*.json")):
        record = json.loads(path.read_text())
        job = record["job"]
        table = np.loadtxt(path.with_suffix(".csv"), delimiter=",", skiprows=1, ndmin=2)
        curve = Curve(job["seed"], table[:, 0], table[:, 1], record["cpu_seconds"])
        found.setdefault(job["env"], {}).setdefault(job["algorithm"], {})[job["seed"]] = curve
    return found


def in_order(runs: dict[str, dict[int, Curve]], wanted: str | None) -> list[str]:
    """As asked, else in the order of ALGORITHMS, stock first."""
    if wanted:
        return [name for name in wanted.split(",") if name in runs]
    known = list(ALGORITHMS)
    return sorted(runs, key=lambda name: (known.index(name) if name in known else len(known), name))


def table(
    runs: dict[str, dict[int, Curve]], names: list[str], worth: float | None = None
) -> Iterator[str]:
    """The rows of a markdown table; every number comes from the CSV files.

    :param worth: a return; the steps until it is reached are told, a median over seeds
    """
    from sb3_ext.evaluation import bootstrap_interval, paired_difference

    base = names[0]
    yield (
        f"| algorithm | seeds | final return, mean | final return, IQM [95 %] | area under curve "
        f"| final minus {base}, paired [95 %] | CPU min a run |"
        + (f" steps to {worth:g}, median [least, most] |" if worth is not None else "")
    )
    yield "| --- | --: | --: | --: | --: | --: | --: |" + " --: |" * (worth is not None)
    for name in names:
        curves = [runs[name][seed] for seed in sorted(runs[name])]
        final = [curve.final for curve in curves]
        shared = sorted(runs[name].keys() & runs[base].keys())
        difference = ""
        if name != base and shared:
            interval = paired_difference(
                [runs[name][seed].final for seed in shared],
                [runs[base][seed].final for seed in shared],
            )
            difference = f"{interval}" + (f" (n={len(shared)})" if len(shared) < len(final) else "")
        area = np.mean([curve.area for curve in curves])
        minutes = np.mean([curve.cpu_seconds for curve in curves]) / 60
        yield (
            f"| {name} | {len(curves)} | {np.mean(final):.0f} | {bootstrap_interval(final)} "
            f"| {area:.0f} | {difference} | {minutes:.1f} |"
            + (f" {steps_to(worth, curves)} |" if worth is not None else "")
        )


def steps_to(worth: float, curves: list[Curve]) -> str:
    """Median, least and most over runs; a run that never gets there counts as the most."""
    steps = sorted(curve.reached(worth) for curve in curves)
    middle, least, most = (
        f"{count:,.0f}" if np.isfinite(count) else "never"
        for count in (np.median(steps), steps[0], steps[-1])
    )
    return f"{middle} [{least}, {most}]"


def report(options: argparse.Namespace) -> None:
    """Print the table and draw the picture, one each per environment."""
    from sb3_ext.plots import plot_learning_curves

    found = read(options.dir)
    if not found:
        raise SystemExit(f"{options.dir} holds no finished run")
    for env, runs in found.items():
        names = in_order(runs, options.algorithms)
        lengths = {int(curve.timesteps[-1]) for name in names for curve in runs[name].values()}
        if len(lengths) > 1:
            raise SystemExit(f"runs of {sorted(lengths)} steps on {env} cannot be compared")
        print(f"### {env}, {lengths.pop():,} steps\n")
        print(*table(runs, names, options.reach), sep="\n")
        print(
            f"\nFinal: mean of the last {LAST} evaluations of a run. Area: mean return along "
            f"training. Intervals: bootstrap over seeds.\n"
        )
        curves = {
            name: [(curve.timesteps, curve.returns) for curve in runs[name].values()]
            for name in names
        }
        picture = options.out / f"learning-{env.replace('/', '-').lower()}.png"
        print(f"Picture: {plot_learning_curves(curves, picture, env)}\n")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    # Without a command, as `make bench` calls it, this only says how it is used.
    parser.set_defaults(command=lambda _: parser.print_help())
    commands = parser.add_subparsers()
    runner = commands.add_parser("run", help="train what is missing")
    runner.set_defaults(command=run)
    runner.add_argument("--env", required=True)
    runner.add_argument("--algorithms", default="stock_sac,SAC,LFIWSAC")
    runner.add_argument("--seeds", default="0-4", help="0-4 or 0,3,7-9")
    runner.add_argument("--steps", type=int, default=50_000)
    runner.add_argument("--eval-every", type=int, default=2_500)
    runner.add_argument("--eval-episodes", type=int, default=10)
    runner.add_argument("--jobs", type=int, default=1, help="processes at a time")
    runner.add_argument("--device", default="cpu")
    runner.add_argument("--out", type=Path, required=True)
    runner.add_argument("--set", action="append", default=[], metavar="[ALGORITHM.]ARGUMENT=VALUE")
    reporter = commands.add_parser("report", help="print the table, draw the picture")
    reporter.set_defaults(command=report)
    reporter.add_argument("dir", type=Path)
    reporter.add_argument("--out", type=Path, default=Path("docs/img"))
    reporter.add_argument("--algorithms", help="which, and in which order; the first is the base")
    reporter.add_argument("--reach", type=float, help="a return; tell the steps that it takes")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    options = parse(sys.argv[1:])
    options.command(options)
