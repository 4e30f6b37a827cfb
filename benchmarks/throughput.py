"""Gradient updates per CPU-second, beside stock Stable-Baselines3 in the same process.

    python benchmarks/throughput.py                      # SAC and what stands on it, two minutes
    python benchmarks/throughput.py --base both --rounds 31
    python benchmarks/throughput.py --check              # exit status 1 below the bars
    python benchmarks/throughput.py --gradient-steps 8   # eight updates in a call of train
    python benchmarks/throughput.py --sbx                # with SBX (JAX), if it is installed
    python benchmarks/throughput.py --compiled           # with engine="compiled", a minute more

How it measures. All variants live in one process with one torch thread and take turns in short
blocks of updates, in reversed order every other round, with the garbage collector off; a block is
k updates of batches of 256, one in each call of ``train`` unless told otherwise. What is timed is
the CPU time of the process. The ratio of a round is time(stock SB3) / time(variant), so above 1 is
faster than SB3; the table holds its minimum, median and maximum over the rounds. A second,
identical stock model runs along: its true ratio is 1, so how far its median is from 1 is what this
run cannot resolve. CPU time is not immune to load (caches are lost at context switches), so the
load is printed too.
"""

from __future__ import annotations

import argparse
import functools
import gc
import importlib
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.logger import configure
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

SIZES = {"hopper": (11, 3), "humanoid": (348, 17)}
BATCH_SIZE = 256
NET_ARCH = [256, 256]
FAST_BUFFER_SIZE = 10_000
WARM_UP = 20
SEED = 0


class SpacesOnly(gym.Env[np.ndarray, np.ndarray]):
    """The spaces of a task without its simulation: all that ``train`` ever looks at."""

    def __init__(self, n_observations: int, n_actions: int) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (n_observations,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (n_actions,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(self.observation_space.shape or (), np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        raise RuntimeError(
            "this environment has spaces only; the benchmark calls train(), not learn()"
        )


@dataclass(frozen=True)
class Variant:
    """One competitor: its label, where its class lives, its arguments beyond SB3's."""

    label: str
    target: str
    arguments: dict[str, Any] = field(default_factory=dict)
    bar: float | None = None  # the median ratio that --check asks for

    @property
    def weighted(self) -> bool:
        return "fast_buffer_size" in self.arguments


LFIW = {"fast_buffer_size": FAST_BUFFER_SIZE}
_OURS = "sb3_ext.algorithms."
_LFIW = "sb3_ext.plugins.lfiw.algorithms:LFIW"
VARIANTS: dict[str, list[Variant]] = {
    "sac": [
        Variant("stock SAC", "stable_baselines3.sac.sac:SAC"),
        Variant("stock SAC again", "stable_baselines3.sac.sac:SAC"),
        Variant("sb3_ext SAC, reference", f"{_OURS}sac:SAC", {"engine": "reference"}, bar=1.0),
        Variant("sb3_ext SAC", f"{_OURS}sac:SAC", bar=1.6),
        Variant("sb3_ext SAC, fused_bf16", f"{_OURS}sac:SAC", {"engine": "fused_bf16"}),
        Variant("sb3_ext SAC, PER", f"{_OURS}sac:SAC", {"replay": "per"}, bar=1.5),
        Variant("sb3_ext LFIWSAC", f"{_LFIW}SAC", LFIW, bar=1.2),
    ],
    "td3": [
        Variant("stock TD3", "stable_baselines3.td3.td3:TD3"),
        Variant("stock TD3 again", "stable_baselines3.td3.td3:TD3"),
        Variant("sb3_ext TD3, reference", f"{_OURS}td3:TD3", {"engine": "reference"}, bar=1.0),
        Variant("sb3_ext TD3", f"{_OURS}td3:TD3", bar=1.5),
        Variant("sb3_ext TD3, fused_bf16", f"{_OURS}td3:TD3", {"engine": "fused_bf16"}),
        Variant("sb3_ext TD3, PER", f"{_OURS}td3:TD3", {"replay": "per"}),
        Variant("sb3_ext LFIWTD3", f"{_LFIW}TD3", LFIW, bar=1.0),
    ],
}
#: Apart, since they begin with torch.compile's seconds.
COMPILED = {
    "sac": Variant("sb3_ext SAC, compiled", f"{_OURS}sac:SAC", {"engine": "compiled"}),
    "td3": Variant("sb3_ext TD3, compiled", f"{_OURS}td3:TD3", {"engine": "compiled"}),
}
SBX = {"sac": Variant("SBX SAC", "sbx:SAC"), "td3": Variant("SBX TD3", "sbx:TD3")}


def class_of(variant: Variant) -> Any:
    """The variant's class; a sentence where it is not installed."""
    module, name = variant.target.split(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SystemExit(
            f"{variant.label} ({variant.target}) could not be imported: {error}. "
            f"Install it first: pip install {'sbx-rl' if module == 'sbx' else '-e .'}"
        ) from error


def build(variant: Variant, size: str, buffer_size: int, seed: int) -> OffPolicyAlgorithm:
    """The variant's model at ``size``, its whole replay buffer filled, ready for ``train``."""
    cls = class_of(variant)
    env = SpacesOnly(*SIZES[size])
    given = {"buffer_size": buffer_size, "policy_kwargs": {"net_arch": NET_ARCH}, "seed": seed}
    model: OffPolicyAlgorithm = cls("MlpPolicy", env, device="cpu", **given, **variant.arguments)
    model.set_logger(configure(None, []))
    fill(model.replay_buffer, seed)
    return model


def fill(buffer: ReplayBuffer | None, seed: int, chunk: int = 10_000) -> None:
    """Fill the whole ring with random transitions in place, so that every page of it is touched."""
    if not isinstance(buffer, ReplayBuffer):
        raise SystemExit(f"expected a ReplayBuffer, got {type(buffer).__name__}")
    rng = np.random.default_rng(seed)
    for start in range(0, buffer.buffer_size, chunk):
        rows = slice(start, min(start + chunk, buffer.buffer_size))
        for array in (buffer.observations, buffer.next_observations, buffer.rewards):
            array[rows] = rng.random(array[rows].shape, dtype=np.float32) * 2 - 1
        buffer.actions[rows] = rng.random(buffer.actions[rows].shape, dtype=np.float32) * 2 - 1
        buffer.dones[rows] = rng.random(buffer.dones[rows].shape) < 0.001
        buffer.timeouts[rows] = 0
    buffer.pos, buffer.full = 0, True


def update(model: OffPolicyAlgorithm, n: int, gradient_steps: int = 1) -> None:
    """``n`` updates, ``gradient_steps`` of them a call; one is SB3's default ``train_freq=1``."""
    for _ in range(n // gradient_steps):
        model.train(gradient_steps=gradient_steps, batch_size=BATCH_SIZE)


def check_active(variant: Variant, model: OffPolicyAlgorithm) -> None:
    """Refuse to measure a likelihood-free weighting that sleeps."""
    logged = model.logger.name_to_value
    if variant.weighted and logged.get("lfiw/active") != 1.0:
        raise SystemExit(
            f"{variant.label} must log lfiw/active = 1 after its updates, got "
            f"{logged.get('lfiw/active')}: the weighting sleeps, and the figures would say nothing"
        )


@contextmanager
def no_garbage_collector() -> Iterator[None]:
    """The garbage collector off inside, as it was outside."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def in_turns(calls: Sequence[Callable[[], object]], rounds: int) -> np.ndarray:
    """CPU seconds of each call, shape [rounds, calls]; every other round goes backwards."""
    seconds = np.empty((rounds, len(calls)))
    for i in range(rounds):
        order = range(len(calls)) if i % 2 == 0 else reversed(range(len(calls)))
        with no_garbage_collector():
            for j in order:
                start = time.process_time()
                calls[j]()
                seconds[i, j] = time.process_time() - start
    return seconds


def ratios(peer: np.ndarray, seconds: np.ndarray) -> dict[str, float]:
    """The peer's time over this one's, ``[rounds]`` each: median and range over the rounds."""
    found = peer / seconds
    told = {"ratio": np.median(found), "ratio_min": found.min(), "ratio_max": found.max()}
    return {name: float(value) for name, value in told.items()}


def measure(
    models: Sequence[OffPolicyAlgorithm], rounds: int, block: int, gradient_steps: int = 1
) -> np.ndarray:
    """CPU seconds of each block of updates, shape [rounds, models]."""
    calls = [functools.partial(update, model, block, gradient_steps) for model in models]
    return in_turns(calls, rounds)


def rows(
    variants: Sequence[Variant], size: str, seconds: np.ndarray, block: int
) -> list[dict[str, Any]]:
    """One size as plain values; the first variant is the peer."""
    found = []
    for variant, one in zip(variants, seconds.T, strict=True):
        row = {"size": size, "variant": variant.label, "bar": variant.bar}
        row["ms"] = statistics.median(one) / block * 1e3
        found.append({**row, **ratios(seconds[:, 0], one)})
    return found


HEAD = (
    "| size | variant | CPU ms / update | updates / CPU-s | ratio min | median | max | bar |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |"
)


def line(row: dict[str, Any]) -> str:
    """A row as markdown."""
    bar = "" if row["bar"] is None else f"{row['bar']:g}"
    return (
        f"| {row['size']} | {row['variant']} | {row['ms']:.2f} | {1e3 / row['ms']:.0f} | "
        f"{row['ratio_min']:.2f} | **{row['ratio']:.2f}** | {row['ratio_max']:.2f} | {bar} |"
    )


def warm_up(row: dict[str, Any]) -> str:
    """What a variant takes before it can be used."""
    return (
        f"{row['variant']} at {row['size']} size: {row['warm_up_s']:.1f} s of wall time until the "
        f"model is made and has done {WARM_UP} updates, nothing compiled before"
    )


def failures(found: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence for each row below its bar."""
    return [
        f"{row['variant']} at {row['size']} size: median ratio {row['ratio']:.3f}, the bar is "
        f"{row['bar']:g}"
        for row in found
        if row["bar"] is not None and row["ratio"] < row["bar"]
    ]


def compete(
    base: str,
    size: str,
    rounds: int,
    block: int = 10,
    buffer_size: int = 2 * FAST_BUFFER_SIZE,
    gradient_steps: int = 1,
    variants: Sequence[Variant] | None = None,
) -> list[dict[str, Any]]:
    """All variants of a base at one size, as plain values.

    :param base: ``"sac"`` or ``"td3"``
    :param size: a key of ``SIZES``
    :param rounds: how often each takes its turn
    :param block: updates of a turn
    :param gradient_steps: updates of a call of ``train``
    :param variants: others than ``VARIANTS`` of the base; the first is the peer
    :return: a row's ``warm_up_s`` is the wall time until its model has done ``WARM_UP`` updates
    """
    chosen = VARIANTS[base] if variants is None else variants
    models, begun = [], []
    for variant in chosen:
        start = time.perf_counter()
        with nothing_compiled_before(variant):
            models.append(build(variant, size, buffer_size, SEED))
            update(models[-1], WARM_UP, gradient_steps)
        begun.append({"warm_up_s": time.perf_counter() - start})
        check_active(variant, models[-1])
    found = rows(chosen, size, measure(models, rounds, block, gradient_steps), block)
    return [one | more for one, more in zip(found, begun, strict=True)]


def nothing_compiled_before(variant: Variant) -> AbstractContextManager[Any]:
    """torch.compile's files of earlier runs out of sight, for a variant that compiles."""
    if variant.arguments.get("engine") != "compiled":
        return nullcontext()
    torch._dynamo.reset()
    fresh: AbstractContextManager[Any] = importlib.import_module(
        "torch._inductor.utils"
    ).fresh_cache()
    return fresh


def versions() -> str:
    """Python and the packages that a number depends on."""
    found = [f"Python {platform.python_version()}"]
    for package in ("torch", "stable-baselines3", "gymnasium", "numpy", "sb3-ext"):
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            found.append(f"{package} (not installed)")
    return ", ".join(found)


def machine() -> str:
    """CPU model, cores and memory: the class of machine, not which one."""
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        cpu = names[0].split(":", 1)[1].strip() if names else cpu
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}"


def load() -> str:
    """Load average of the last minute."""
    return f"{os.getloadavg()[0]:.1f}"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, refused in words where the measurement would say nothing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", choices=["sac", "td3", "both"], default="sac")
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--block", type=int, default=10, help="updates a block; even (TD3's delay)")
    parser.add_argument("--buffer-size", type=int, default=2 * FAST_BUFFER_SIZE)
    parser.add_argument("--gradient-steps", type=int, default=1, help="updates in a call of train")
    parser.add_argument("--stock-only", action="store_true", help="stock against itself")
    parser.add_argument("--sbx", action="store_true", help="with SBX, if it is installed")
    parser.add_argument("--compiled", action="store_true", help="with torch.compile")
    parser.add_argument("--check", action="store_true", help="exit 1 below the bars")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1 or arguments.block < 2 or arguments.block % 2:
        parser.error(
            "--rounds must be at least 1 and --block even and at least 2, as TD3 updates its actor "
            f"every second time; got --rounds {arguments.rounds} --block {arguments.block}"
        )
    if arguments.gradient_steps < 1 or arguments.block % arguments.gradient_steps:
        parser.error(
            "--gradient-steps must be at least 1 and divide --block, got "
            f"--gradient-steps {arguments.gradient_steps} --block {arguments.block}"
        )
    if arguments.buffer_size <= FAST_BUFFER_SIZE:
        parser.error(
            f"--buffer-size must be above the fast buffer's {FAST_BUFFER_SIZE}, otherwise the "
            f"weighting has nothing to compare; got {arguments.buffer_size}"
        )
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 when asked to check and below a bar."""
    arguments = parse(argv)
    torch.set_num_threads(1)
    if arguments.sbx:  # read when jax is imported
        os.environ["XLA_FLAGS"] = (
            "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        )
    print(f"machine: {machine()}; load at start {load()}")
    print(f"versions: {versions()}")
    print(
        f"setting: 1 torch thread, nets {NET_ARCH}, batch {BATCH_SIZE}, buffer "
        f"{arguments.buffer_size} (fast {FAST_BUFFER_SIZE}), seed {SEED}, "
        f"{arguments.rounds} rounds of {arguments.block} updates, "
        f"{arguments.gradient_steps} a call\n"
    )
    print(HEAD)
    below, began = [], []
    for base in ("sac", "td3") if arguments.base == "both" else (arguments.base,):
        variants = VARIANTS[base][:2] if arguments.stock_only else VARIANTS[base]
        variants = [*variants, COMPILED[base]] if arguments.compiled else variants
        variants = [*variants, SBX[base]] if arguments.sbx else variants
        for size in arguments.sizes:
            found = compete(
                *(base, size, arguments.rounds, arguments.block, arguments.buffer_size),
                *(arguments.gradient_steps, variants),
            )
            print("\n".join(map(line, found)), flush=True)
            below += failures(found)
            began += [warm_up(row) for row in found if row["variant"] == COMPILED[base].label]
    print(f"\nload at end {load()}")
    print("\n".join(began), end="\n" if began else "")
    for sentence in below:
        print(f"below the bar: {sentence}")
    return 1 if below and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
