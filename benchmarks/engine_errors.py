"""How far the engines end from one another: what "equal up to rounding" comes to.

    python benchmarks/engine_errors.py               # about four minutes
    python benchmarks/engine_errors.py --updates 100 --sizes hopper

Every model begins alike, sees the same batches of the same random transitions and draws the same
noise. The columns "critic" and "actor" are the median, over transitions of the buffer, of
|difference from the reference's output| / standard deviation of the reference's outputs; the last
column is the largest difference of a parameter. Rounding grows by itself, since Adam divides by the
gradient's own size and minima switch critics. So a reference that began one unit in the last place
away, in all its parameters, runs along: what differs by no more than it cannot be told from
rounding.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import throughput
import torch

ENGINES = ("reference, one ulp away", "fused", "fused_bf16")
BASES = {
    "SAC": ("sb3_ext.algorithms.sac:SAC", {}),
    "TD3": ("sb3_ext.algorithms.td3:TD3", {}),
    "LFIWSAC": ("sb3_ext.plugins.lfiw.algorithms:LFIWSAC", throughput.LFIW),
}
STEPS = (1, 10, 100, 1000)


def build(base: str, engine: str, size: str, buffer_size: int) -> Any:
    """A model of one engine; those of one base and size begin alike."""
    target, arguments = BASES[base]
    given = {**arguments, "engine": engine.split(",")[0]}
    model = throughput.build(
        throughput.Variant(base, target, given), size, buffer_size, throughput.SEED
    )
    if engine.endswith("ulp away"):
        with torch.no_grad():
            for parameter in model.policy.parameters():
                parameter.copy_(torch.nextafter(parameter, torch.tensor(torch.inf)))
    return model


def outputs(model: Any) -> dict[str, torch.Tensor]:
    """What the networks say of the buffer's first transitions."""
    buffer = model.replay_buffer
    seen = buffer.to_torch(buffer.observations[:512, 0])
    done = buffer.to_torch(buffer.actions[:512, 0])
    with torch.no_grad():
        acted = model.policy._predict(seen, deterministic=True)
        return {"critic": torch.cat(model.critic(seen, done)), "actor": acted}


def distance(model: Any, reference: Any) -> dict[str, float]:
    """The two networks' distances of outputs, in standard deviations, and of parameters."""
    mine, theirs = outputs(model), outputs(reference)
    found = {
        name: ((mine[name] - theirs[name]).abs().median() / theirs[name].std()).item()
        for name in mine
    }
    pairs = zip(model.policy.parameters(), reference.policy.parameters(), strict=True)
    found["parameter"] = max((one - other).abs().max().item() for one, other in pairs)
    return found


def rows(
    base: str, size: str, updates: int, buffer_size: int = 2 * throughput.FAST_BUFFER_SIZE
) -> list[dict[str, Any]]:
    """Distances of every engine from the reference, as plain values."""
    models = {one: build(base, one, size, buffer_size) for one in ("reference", *ENGINES)}
    found, done = [], 0
    for step in [one for one in STEPS if one <= updates]:
        for model in models.values():
            np.random.seed(step)
            torch.manual_seed(step)
            throughput.update(model, step - done)
        done = step
        for engine in ENGINES:
            row: dict[str, Any] = {"base": base, "size": size, "engine": engine, "updates": step}
            found.append(row | distance(models[engine], models["reference"]))
    return found


HEAD = (
    "| base | size | engine | updates | critic | actor | largest of a parameter |\n"
    "| --- | --- | --- | --- | --- | --- | --- |"
)


def line(row: dict[str, Any]) -> str:
    """A row as markdown."""
    return (
        f"| {row['base']} | {row['size']} | {row['engine']} | {row['updates']} | "
        f"{row['critic']:.1e} | {row['actor']:.1e} | {row['parameter']:.1e} |"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    sizes = list(throughput.SIZES)
    parser.add_argument("--sizes", nargs="+", choices=sizes, default=sizes)
    parser.add_argument("--bases", nargs="+", choices=list(BASES), default=list(BASES))
    parser.add_argument("--updates", type=int, default=STEPS[-1])
    arguments = parser.parse_args(argv)
    if arguments.updates < STEPS[0]:
        parser.error(f"--updates must be at least {STEPS[0]}, got {arguments.updates}")
    torch.set_num_threads(1)
    print(f"machine: {throughput.machine()}\nversions: {throughput.versions()}\n\n{HEAD}")
    for base in arguments.bases:
        for size in arguments.sizes:
            print("\n".join(map(line, rows(base, size, arguments.updates))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
