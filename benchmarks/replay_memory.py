"""What a million transitions of Humanoid's size take: CompactReplayBuffer beside SB3's own.

    python benchmarks/replay_memory.py               # about five minutes, 7 GiB
    python benchmarks/replay_memory.py --check       # exit status 1 above the bar
    python benchmarks/replay_memory.py --transitions 100000 --lengths 100

How it measures. Observations are 348 numbers of float64, as Gymnasium's are, and actions 17. Each
row of the first table is a fresh process, one after the other: it makes a SAC, fills its whole ring
through ``add`` with episodes of one length, which end in turns by a termination and a time limit,
and does some updates. The figure is the peak of its resident memory less what it was before the
model was made, with everything imported; networks, optimisers and PyTorch's own are in it. What the
machine has no memory for is left out, with a sentence. Where cpprb is installed, its buffer is a
row, too, with float32 and ``next_of``.

The second table is CPU time in one process: blocks of ``add`` and of ``sample(256)`` on full rings,
SB3's and ours in turns, in reversed order every other round. A ratio is SB3's time / this one's, so
above 1 is faster than SB3; the row "again" is another block of SB3's in the same round, and shows
the noise.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import memory
import numpy as np
import stable_baselines3
import throughput
import torch
from stable_baselines3.common import buffers
from stable_baselines3.common.logger import configure

import sb3_ext

GIB = 2**30
BAR_GIB, BAR_LENGTH = 1.5, 1000  # 1.4 of the buffer; networks, optimisers, what an update loads
BATCH_SIZE, UPDATES = 256, 200
OBSERVATION, ACTION = throughput.SIZES["humanoid"]
SAVING = {
    "optimize_memory_usage": True,
    "replay_buffer_kwargs": {"handle_timeout_termination": False},
}
COMPACT = {"replay_buffer_class": sb3_ext.CompactReplayBuffer}
#: Who makes the model, its arguments, and observations of 8 bytes in a transition.
VARIANTS: dict[str, tuple[Any, dict[str, Any], int]] = {
    "stock SAC": (stable_baselines3.SAC, {}, 2),
    "stock SAC, optimize_memory_usage": (stable_baselines3.SAC, SAVING, 1),
    "SAC": (sb3_ext.SAC, {}, 2),
    "SAC, CompactReplayBuffer": (sb3_ext.SAC, COMPACT, 1),
}
PEER = "stock SAC's networks, cpprb's buffer"
if importlib.util.find_spec("cpprb"):
    VARIANTS[PEER] = (stable_baselines3.SAC, {}, 1)


class Spaces(throughput.SpacesOnly):
    """Those of a MuJoCo task of Gymnasium: observations are float64."""

    def __init__(self) -> None:
        super().__init__(OBSERVATION, ACTION)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (OBSERVATION,), np.float64)


class Episodes:
    """Transitions of episodes of one length, from a pool of observations."""

    def __init__(self, length: int, seed: int = throughput.SEED, pool: int = 4096) -> None:
        rng = np.random.default_rng(seed)
        self.length, self.step = length, 0
        self.observations = rng.normal(size=(pool, 1, OBSERVATION))
        self.actions = rng.uniform(-1, 1, (pool, 1, ACTION)).astype(np.float32)

    def add(self, buffer: Any, n: int) -> None:
        """The next ``n`` transitions."""
        pool, reward = len(self.observations), np.ones(1, np.float32)
        for step in range(self.step, self.step + n):
            done = step % self.length == self.length - 1
            limit = done and step // self.length % 2 == 1
            after = self.observations[(step + (2 if done else 1)) % pool]
            infos: list[dict[str, Any]] = [{"TimeLimit.truncated": limit}]
            seen, action = self.observations[step % pool], self.actions[step % pool]
            buffer.add(seen, after, action, reward, np.array([done]), infos)
        self.step += n


def build(label: str, transitions: int) -> Any:
    """The variant's model, its buffer still empty."""
    cls, arguments, _ = VARIANTS[label]
    model = cls(
        "MlpPolicy",
        Spaces(),
        buffer_size=transitions,
        policy_kwargs={"net_arch": throughput.NET_ARCH},
        seed=throughput.SEED,
        device="cpu",
        **arguments,
    )
    model.set_logger(configure(None, []))
    return model


class PeerBuffer:
    """cpprb's buffer under SB3's ``add``: float32, and ``next_of``, its own way to share."""

    def __init__(self, transitions: int) -> None:
        made = importlib.import_module("cpprb").ReplayBuffer
        kinds: dict[str, dict[str, Any]] = {"rew": {}, "done": {}, "limit": {}}
        kinds["obs"] = {"shape": (OBSERVATION,), "dtype": np.float32}
        kinds["act"] = {"shape": (ACTION,), "dtype": np.float32}
        self.held = made(transitions, kinds, next_of=("obs",))

    def add(self, seen: Any, after: Any, action: Any, reward: Any, done: Any, infos: Any) -> None:
        """As ``ReplayBuffer.add`` of SB3 for one environment; cpprb must be told of the end."""
        limit = float(infos[0]["TimeLimit.truncated"])
        told = {"act": action[0], "rew": reward[0], "done": float(done[0]), "limit": limit}
        self.held.add(obs=seen[0], next_obs=after[0], **told)
        if done[0]:
            self.held.on_episode_end()


def peak_here(label: str, length: int, transitions: int) -> float:
    """Bytes of the peak in this process, less those before the model was made."""
    torch.set_num_threads(1)
    episodes = Episodes(length)
    buffer: Any = None
    if label == PEER:
        importlib.import_module("cpprb")  # what importing takes is not the buffer's
    before = memory.peak_bytes()
    model = build(label, transitions if label != PEER else 10 * BATCH_SIZE)
    if label == PEER:  # beside stock SAC's networks, so that the rows are comparable
        buffer = PeerBuffer(transitions)
        episodes.add(buffer, transitions)
    episodes.add(model.replay_buffer, model.replay_buffer.buffer_size)
    throughput.update(model, UPDATES)
    return memory.peak_bytes() - before


def lacking(label: str, transitions: int) -> str | None:
    """Why a variant cannot be measured on this machine now; None if it can."""
    psutil: Any = getattr(buffers, "psutil", None)
    if psutil is None:
        return None
    need = transitions * (8 * OBSERVATION * VARIANTS[label][2] + 4 * (ACTION + 3)) / GIB + 0.5
    free = psutil.virtual_memory().available / GIB
    return f"it needs {need:.1f} GiB, and {free:.1f} are free" if need > free else None


def memory_rows(transitions: int, lengths: Sequence[int]) -> list[dict[str, Any]]:
    """The first table, as plain values: peaks in GiB, or why there is none."""
    rows = []
    for length in lengths:
        for label in VARIANTS:
            row: dict[str, Any] = {"variant": label, "episode_length": length}
            row |= {"transitions": transitions, "peak_gib": None, "left_out": None}
            row["left_out"] = lacking(label, transitions)
            if row["left_out"] is None:
                command = [sys.executable, __file__, "--inside", label]
                command += ["--lengths", str(length), "--transitions", str(transitions)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode != 0:
                    raise SystemExit(f"{label} failed ({done.returncode}):\n{done.stderr}")
                row["peak_gib"] = json.loads(done.stdout.splitlines()[-1]) / GIB
            rows.append(row)
    return rows


def time_rows(transitions: int, rounds: int, calls: int = 300) -> list[dict[str, Any]]:
    """The second table, as plain values: microseconds a call, and SB3's time / this one's."""
    torch.set_num_threads(1)
    if why := lacking("stock SAC", transitions):
        return [{"what": "add, sample", "variant": "all", "left_out": why}]
    held = {label: build(label, transitions).replay_buffer for label in ("stock SAC", "SAC")}
    held["SAC, CompactReplayBuffer"] = build("SAC, CompactReplayBuffer", transitions).replay_buffer
    del held["SAC"]
    played = {label: Episodes(BAR_LENGTH) for label in held}
    for label, buffer in held.items():
        played[label].add(buffer, transitions)
    order = [*held, "stock SAC"]
    rows = []
    for what in ("add", "sample"):
        times: dict[str, list[float]] = {label: [] for label in (*held, "again")}
        for number in range(rounds):
            seen = set()
            for label in order if number % 2 else reversed(order):
                start = time.process_time_ns()
                if what == "add":
                    played[label].add(held[label], calls)
                else:
                    for _ in range(calls):
                        held[label].sample(BATCH_SIZE)
                took = (time.process_time_ns() - start) / calls / 1000
                times["again" if label in seen else label].append(took)
                seen.add(label)
        stock = times["stock SAC"]
        for label, found in times.items():
            ratios = [one / other for one, other in zip(stock, found, strict=True)]
            row = {"what": what, "variant": label, "microseconds": statistics.median(found)}
            rows.append({**row, "ratio": statistics.median(ratios), "left_out": None})
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; 1 when asked to check and above the bar."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--transitions", type=int, default=1_000_000)
    parser.add_argument("--lengths", type=int, nargs="+", default=[BAR_LENGTH, 100])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--check", action="store_true", help="exit 1 above the bar")
    parser.add_argument("--inside", choices=list(VARIANTS), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.transitions < BATCH_SIZE or min(arguments.lengths) < 2 or arguments.rounds < 1:
        parser.error(
            f"--transitions must be at least {BATCH_SIZE}, --lengths 2 and --rounds 1, got "
            f"{arguments.transitions}, {arguments.lengths} and {arguments.rounds}"
        )
    if arguments.inside:
        print(peak_here(arguments.inside, arguments.lengths[0], arguments.transitions))
        return 0
    print(f"machine: {throughput.machine()}; load at start {throughput.load()}")
    print(f"versions: {throughput.versions()}")
    print(
        f"setting: {arguments.transitions} transitions, {OBSERVATION} observations of float64, "
        f"{ACTION} actions, {UPDATES} updates of batch {BATCH_SIZE}, seed {throughput.SEED}\n"
    )
    print("| episode length | variant | peak, GiB |\n| --- | --- | --- |")
    above, left_out = [], []
    for row in memory_rows(arguments.transitions, arguments.lengths):
        if row["left_out"]:
            left_out.append(f"{row['variant']}: {row['left_out']}")
            continue
        peak = row["peak_gib"]
        print(f"| {row['episode_length']} | {row['variant']} | {peak:.2f} |", flush=True)
        judged = row["variant"] == "SAC, CompactReplayBuffer"
        if judged and row["episode_length"] == BAR_LENGTH and peak > BAR_GIB:
            above.append(f"{row['variant']} {peak:.2f} GiB, the bar is {BAR_GIB:g}")
    print("\n| what | variant | microseconds | SB3's time / this |\n| --- | --- | --- | --- |")
    for row in time_rows(arguments.transitions, arguments.rounds):
        if row["left_out"]:
            left_out.append(f"{row['what']}: {row['left_out']}")
            continue
        took = f"{row['microseconds']:.1f} | {row['ratio']:.2f}"
        print(f"| {row['what']} | {row['variant']} | {took} |")
    print(f"\nload at end {throughput.load()}")
    for sentence in left_out:
        print(f"left out: {sentence}")
    for sentence in above:
        print(f"above the bar: {sentence}")
    return 1 if above and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
