"""Peak memory with a full replay buffer of one million transitions, beside stock Stable-Baselines3.

    python benchmarks/memory.py                    # Hopper and Humanoid sizes, needs about 4 GiB
    python benchmarks/memory.py --sizes hopper --check

Each variant is a fresh process, one after the other: it builds the model, fills the whole ring (so
every page is really there), runs some updates with the weighting at work and reports the peak of
its resident memory and the bytes of its replay arrays. LFIW's fast buffer is the newest part
of the same ring, so LFIWSAC should need a few MiB more than stock SAC (a network, its optimiser),
and no second copy of anything. Observations are float32: 2.7 GiB at Humanoid size.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import throughput
import torch

MIB = 2**20
BAR_MIB = 64.0
LABELS = ("stock SAC", "sb3_ext SAC", "sb3_ext LFIWSAC")
VARIANTS = {v.label: v for v in throughput.VARIANTS["sac"] if v.label in LABELS}


def peak_bytes() -> int:
    """Peak resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage gives is inherited from a larger process that began this
        (line,) = (one for one in status.read_text().splitlines() if one.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def replay_bytes(buffer: object) -> int:
    """Bytes of the arrays and tensors that the buffer holds."""
    total = 0
    for value in vars(buffer).values():
        for item in value.values() if isinstance(value, dict) else [value]:
            if isinstance(item, np.ndarray | torch.Tensor):
                total += item.nbytes
    return total


def measure_here(label: str, size: str, buffer_size: int, updates: int) -> dict[str, Any]:
    """Build, fill and update in this process."""
    torch.set_num_threads(1)
    variant = VARIANTS[label]
    model = throughput.build(variant, size, buffer_size, throughput.SEED)
    throughput.update(model, updates)
    throughput.check_active(variant, model)
    return {"peak": peak_bytes(), "replay": replay_bytes(model.replay_buffer)}


def measure(label: str, size: str, buffer_size: int, updates: int) -> dict[str, Any]:
    """The same in a fresh process."""
    command = [sys.executable, __file__, "--inside", label, "--sizes", size]
    command += ["--buffer-size", str(buffer_size), "--updates", str(updates)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{label} at {size} size failed ({done.returncode}):\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 when asked to check and above the bar."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    sizes = list(throughput.SIZES)
    parser.add_argument("--sizes", nargs="+", choices=sizes, default=sizes)
    parser.add_argument("--buffer-size", type=int, default=1_000_000)
    parser.add_argument("--updates", type=int, default=50)
    parser.add_argument("--check", action="store_true", help="exit 1 above the bar")
    parser.add_argument("--inside", choices=list(VARIANTS), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.buffer_size <= throughput.FAST_BUFFER_SIZE:
        parser.error(
            f"--buffer-size must be above the fast buffer's {throughput.FAST_BUFFER_SIZE}, "
            f"otherwise the weighting has nothing to compare; got {arguments.buffer_size}"
        )
    setting = (arguments.buffer_size, arguments.updates)
    if arguments.inside:
        print(json.dumps(measure_here(arguments.inside, arguments.sizes[0], *setting)))
        return 0

    print(f"machine: {throughput.machine()}; load at start {throughput.load()}")
    print(f"versions: {throughput.versions()}")
    print(
        f"setting: buffer {setting[0]}, {setting[1]} updates of batch {throughput.BATCH_SIZE}, "
        f"fast buffer {throughput.FAST_BUFFER_SIZE}, seed {throughput.SEED}\n"
    )
    print("| size | variant | replay arrays, MiB | peak, MiB | over stock, MiB | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    above: list[str] = []
    for size in arguments.sizes:
        stock = 0
        for label, variant in VARIANTS.items():
            found = measure(label, size, *setting)
            stock = stock or found["peak"]
            more = (found["peak"] - stock) / MIB
            print(
                f"| {size} | {label} | {found['replay'] / MIB:.1f} | {found['peak'] / MIB:.1f} | "
                f"{more:+.1f} | {found['peak'] / stock:.3f} |",
                flush=True,
            )
            if variant.weighted and more >= BAR_MIB:
                above.append(
                    f"{label} at {size} size: {more:.1f} MiB over stock, the bar is {BAR_MIB:g}"
                )
    print(f"\nload at end {throughput.load()}")
    for sentence in above:
        print(f"above the bar: {sentence}")
    return 1 if above and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
