"""Environment steps per CPU-second of whole training, beside stock Stable-Baselines3.

    python benchmarks/end_to_end.py                  # Hopper-v5, about four minutes
    python benchmarks/end_to_end.py --check          # exit status 1 below the bar
    python benchmarks/end_to_end.py --env Pendulum-v1 --rounds 5

What ``learn`` costs as users call it: the simulator, the policy's actions, the replay buffer and
one update a step (``train_freq=1``, SB3's defaults otherwise). All variants live in one process
with one torch thread and take turns of some hundred steps, in reversed order every other round,
after a warm-up that fills the fast buffer, so that LFIW's weights are at work. The ratio of a round
is CPU time(stock SB3) / CPU time(variant). A second stock model shows the noise.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import throughput
import torch
from stable_baselines3.common.logger import configure

FAST = 500
WARM_UP = 2 * FAST
LFIW = {"fast_buffer_size": FAST}
VARIANTS = [
    throughput.Variant("stock SAC", "stable_baselines3.sac.sac:SAC"),
    throughput.Variant("stock SAC again", "stable_baselines3.sac.sac:SAC"),
    throughput.Variant("sb3_ext SAC", "sb3_ext.algorithms.sac:SAC"),
    throughput.Variant("sb3_ext SAC, PER", "sb3_ext.algorithms.sac:SAC", {"replay": "per"}),
    throughput.Variant("sb3_ext LFIWSAC", "sb3_ext.plugins.lfiw.algorithms:LFIWSAC", LFIW, bar=1.0),
]


def build(variant: throughput.Variant, env: str) -> Any:
    """The variant's model on a real environment, ready to learn."""
    cls = throughput.class_of(variant)
    model = cls(
        "MlpPolicy",
        env,
        seed=throughput.SEED,
        buffer_size=100_000,
        device="cpu",
        **variant.arguments,
    )
    model.set_logger(configure(None, []))
    return model


def compete(
    env: str,
    rounds: int,
    block: int,
    warm_up: int = WARM_UP,
    variants: Sequence[throughput.Variant] = tuple(VARIANTS),
) -> list[dict[str, Any]]:
    """All variants as plain values; the first is the peer.

    :param env: id of an environment with continuous actions
    :param rounds: how often each takes its turn
    :param block: environment steps of a turn
    :param warm_up: steps of each before the first turn
    """
    models = [build(variant, env) for variant in variants]
    for variant, model in zip(variants, models, strict=True):
        model.learn(warm_up, log_interval=None)
        throughput.check_active(variant, model)
    calls = [
        functools.partial(model.learn, block, reset_num_timesteps=False, log_interval=None)
        for model in models
    ]
    seconds = throughput.in_turns(calls, rounds)
    found = []
    for variant, one in zip(variants, seconds.T, strict=True):
        row = {"env": env, "variant": variant.label, "bar": variant.bar}
        row["steps_per_second"] = block / statistics.median(one)
        found.append({**row, **throughput.ratios(seconds[:, 0], one)})
    return found


HEAD = (
    "| environment | variant | steps / CPU-s | ratio min | median | max | bar |\n"
    "| --- | --- | --- | --- | --- | --- | --- |"
)


def line(row: dict[str, Any]) -> str:
    """A row as markdown."""
    bar = "" if row["bar"] is None else f"{row['bar']:g}"
    return (
        f"| {row['env']} | {row['variant']} | {row['steps_per_second']:.0f} | "
        f"{row['ratio_min']:.2f} | **{row['ratio']:.2f}** | {row['ratio_max']:.2f} | {bar} |"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 when asked to check and below the bar."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--env", default="Hopper-v5")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--block", type=int, default=300, help="environment steps of a turn")
    parser.add_argument("--check", action="store_true", help="exit 1 below the bar")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1 or arguments.block < 1:
        parser.error(
            f"--rounds and --block must be at least 1, got {arguments.rounds} and {arguments.block}"
        )
    torch.set_num_threads(1)
    print(f"machine: {throughput.machine()}; load at start {throughput.load()}")
    print(f"versions: {throughput.versions()}")
    print(
        f"setting: 1 torch thread, SB3's defaults, fast buffer {FAST}, seed {throughput.SEED}, "
        f"{arguments.rounds} rounds of {arguments.block} steps after {WARM_UP}\n\n{HEAD}"
    )
    found = compete(arguments.env, arguments.rounds, arguments.block)
    print("\n".join(map(line, found)))
    print(f"\nload at end {throughput.load()}")
    below = [row for row in found if row["bar"] is not None and row["ratio"] < row["bar"]]
    for row in below:
        print(f"below the bar: {row['variant']}: {row['ratio']:.3f}, the bar is {row['bar']:g}")
    return 1 if below and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
