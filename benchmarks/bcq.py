"""BCQ beside d3rlpy's: updates per CPU-second, and what both learn from one small dataset.

    python benchmarks/bcq.py speed --peer ~/d3rlpy/bin/python
    python benchmarks/bcq.py score --peer ~/d3rlpy/bin/python --seeds 3

d3rlpy asks for gymnasium 1.0.0, so it needs an environment of its own (python -m venv ~/d3rlpy,
then ~/d3rlpy/bin/pip install d3rlpy); without --peer there are only our rows.

How "speed" measures. Every variant is a process of its own with one torch thread, which keeps its
model warm (``bcq_workers.py``) and does a block of updates when it is told to. The blocks take
turns, in reversed order every other round, and only one process works at a time. What is timed is
the CPU time of that process. "update" is the draw of a batch and the gradient step; "training" is
the loop that a user starts, ``learn`` or ``fit``, with its log, and no files. The ratio of a round
is time(d3rlpy) / time(variant), so above 1 is faster than d3rlpy; the table holds its minimum,
median and maximum. The second d3rlpy process has a true ratio of 1: it shows what this run cannot
resolve.

Both have the same sizes of networks, batch, and n, at the observation and action sizes of Hopper,
with random transitions. GFLOP counts the matrix products of an update; "at best" is what they would
take at the rate of a product of two matrices of 512 x 512 on this core, and no implementation with
the same arithmetic is faster than that.

How "score" measures. A controller swings Pendulum up, with errors: 30 % of its actions are random,
the others have noise (our ``record_imperfect_demonstrations``). Both learn from the same file, with
networks of 256-256 and the same number of updates, and act in the same environments of this
process. *Final* is the mean over the last three of five evaluations. The random numbers of a seed
have nothing in common on the two sides, so pairing by seed makes no interval narrower here.

What is not alike, and is left as it is:

* d3rlpy's decoder gives actions without a tanh; a clip after the perturbation keeps them in range;
* the target of its perturbation network starts from weights of its own, not from a copy;
* in its actor step, decoder and critics get gradients, too, which nobody uses;
* it acts by the best of as many candidates as it trains with, ours by the best of 100: "score" has
  both numbers for both (for d3rlpy by setting a private attribute);
* it leaves out the last transition of an episode that a time limit ended.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import throughput

from sb3_ext.evaluation import bootstrap_interval, paired_difference
from sb3_ext.offline import OfflineDataset, record_imperfect_demonstrations

WORKERS = Path(__file__).with_name("bcq_workers.py")
PAPER, SMALL = {"qf": [400, 300], "vae": [750, 750]}, {"qf": [256, 256], "vae": [256, 256]}
NETS = {"paper": PAPER, "small": SMALL}
SPEED_BAR = 1.5
SEED = throughput.SEED
WARM_UP = 10
EVALUATIONS, LAST = 5, 3
EPISODES = 20
EVALUATION_SEED = 1000


class Worker:
    """A process that does what it is told: see ``bcq_workers.py``.

    :param python: the interpreter
    :param side: "ours" or "d3rlpy"
    """

    def __init__(self, python: str, side: str) -> None:
        self.side, command = side, [python, str(WORKERS), side]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        try:
            self.process = subprocess.Popen(
                command, **pipes, stderr=subprocess.DEVNULL, text=True, bufsize=1
            )
        except OSError as error:
            raise SystemExit(f"--peer must be a Python, got {python}: {error}") from error

    def ask(self, name: str, **arguments: Any) -> Any:
        """Call a method of the worker's."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps([name, arguments]) + "\n")
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise SystemExit(
                f"the process of {self.side} ended without an answer: "
                f"`{' '.join(map(str, self.process.args))}` tells why"  # type: ignore[arg-type]
            )
        answer = json.loads(line)
        if "error" in answer:
            raise SystemExit(f"{self.side} failed in {name}: {answer['error']}")
        return answer["answer"]

    def close(self) -> None:
        """Let it end."""
        self.process.communicate()


def start(peer: str | None, sides: Sequence[str], running: ExitStack) -> list[Worker]:
    """The workers, without those of d3rlpy where it is not there, and a word about each side."""
    if peer is None:
        print("left out: d3rlpy, and so no bar is judged; --peer names a Python that has it")
        sides = [side for side in sides if side == "ours"]
    workers = []
    for side in sides:
        workers.append(Worker(sys.executable if side == "ours" else str(peer), side))
        running.callback(workers[-1].close)
    for worker in {worker.side: worker for worker in workers}.values():
        print(f"versions, {worker.side}: {worker.ask('versions')}")
    return workers


# -- speed -------------------------------------------------------------------------------------


def random_dataset(n: int = 20_000) -> OfflineDataset:
    """Random transitions of Hopper's sizes."""
    rng = np.random.default_rng(SEED)
    n_observations, n_actions = throughput.SIZES["hopper"]
    env = throughput.SpacesOnly(n_observations, n_actions)
    seen = rng.uniform(-1, 1, (n + 1, n_observations)).astype(np.float32)
    ends = (np.arange(n) + 1) % 1000 == 0
    return OfflineDataset(
        observations=seen[:-1],
        next_observations=seen[1:],
        actions=rng.uniform(-1, 1, (n, n_actions)).astype(np.float32),
        rewards=rng.standard_normal(n, dtype=np.float32),
        terminated=ends & (rng.random(n) < 0.5),
        truncated=ends,
        episode_starts=np.arange(0, n, 1000),
        observation_space=env.observation_space,
        action_space=env.action_space,
    )


def measure(workers: Sequence[Worker], what: str, rounds: int, block: int) -> Any:
    """CPU seconds and page faults of each block, ``[rounds, workers, 2]``, taking turns."""
    found = np.empty((rounds, len(workers), 2))
    for i in range(rounds):
        order = range(len(workers)) if i % 2 == 0 else reversed(range(len(workers)))
        for j in order:
            ask = workers[j].ask
            cost = ask("updates", n=block) if what == "update" else ask("train")
            found[i, j] = cost["cpu"], cost["faults"]
    return found


def speed(arguments: argparse.Namespace, folder: Path, running: ExitStack) -> list[str]:
    """The table of prices; what misses the bar."""
    sides = ["d3rlpy", "d3rlpy", "ours"] if arguments.peer else ["ours", "ours"]
    workers = start(arguments.peer, sides, running)
    peer, block = workers[0], arguments.block
    data = random_dataset().save(folder / "random.npz")
    rate = workers[-1].ask("best_gflops")
    print(
        f"setting: one torch thread, batch 100, n = 10, {arguments.rounds} rounds of {block} "
        f"updates; at best {rate:.0f} GFLOP/s\n"
    )
    head = f"{peer.side} / it: min | median | max | page faults / update | GFLOP | at best, ms |"
    print(f"| nets | what | variant | CPU ms / update | updates / CPU-s | {head}")
    print("|" + " --- |" * 11)
    missed = []
    for nets in arguments.nets:
        for worker in workers:
            worker.ask("make", data=data, nets=NETS[nets], block=block, seed=SEED)
            worker.ask("updates", n=WARM_UP)
        gflop = [worker.ask("gflop") for worker in workers]
        for what in ("update", "training"):
            for worker in workers:
                worker.ask("train")  # what happens at the first block only
            found = measure(workers, what, arguments.rounds, block)
            ratios = found[:, :1, 0] / found[:, :, 0]
            for j, worker in enumerate(workers):
                again = " again" if j and worker.side == peer.side else ""
                price, faults = np.median(found[:, j], axis=0) / block
                low, median, high = ratios[:, j].min(), np.median(ratios[:, j]), ratios[:, j].max()
                print(
                    f"| {nets} | {what} | {worker.side}{again} | {price * 1e3:.1f} | "
                    f"{1 / price:.1f} | {low:.2f} | **{median:.2f}** | {high:.2f} | {faults:.0f} | "
                    f"{gflop[j]:.2f} | {gflop[j] / rate * 1e3:.1f} |",
                    flush=True,
                )
                if worker.side != peer.side and median < SPEED_BAR:
                    missed.append(f"{what}, {nets} nets: {median:.2f}, the bar is {SPEED_BAR}")
    return missed


# -- score -------------------------------------------------------------------------------------


def controller(observations: Any) -> Any:
    """Swings a pendulum up by its energy, and holds it there."""
    cos, sin, speed = np.asarray(observations, np.float64).T
    angle = np.arctan2(sin, cos)
    energy = speed**2 / 6 + 5 * (cos - 1)  # of a rod of mass and length 1, 0 when it stands
    swing = np.where(np.abs(speed) < 0.1, 2.0, -np.sign(energy * speed) * 2)
    hold = -(12 * angle + 3 * speed)
    return np.clip(np.where(np.abs(angle) < 0.5, hold, swing), -2, 2)[:, None].astype(np.float32)


def evaluate(worker: Worker, n: int, deterministic: bool) -> float:
    """Mean return over episodes that are the same for all."""
    envs = gym.make_vec("Pendulum-v1", EPISODES, vectorization_mode="sync")
    seen, _ = envs.reset(seed=EVALUATION_SEED)
    total = np.zeros(EPISODES)
    for _ in range(200):  # an episode has as many steps as another
        actions = worker.ask("act", observations=seen.tolist(), n=n, deterministic=deterministic)
        seen, rewards, *_ = envs.step(np.asarray(actions, np.float32))
        total += rewards
    envs.close()
    return float(total.mean())


#: How a side acts: candidates, and whether their latents stay the same.
ACTING = {
    "d3rlpy": {"best of 10": (10, False), "best of 100": (100, False)},
    "ours": {
        "best of 10": (10, False),
        "best of 100": (100, False),
        "best of 100, deterministic": (100, True),
    },
}


def score(arguments: argparse.Namespace, folder: Path, running: ExitStack) -> list[str]:
    """The table of returns; what is worse than d3rlpy's."""
    dataset = record_imperfect_demonstrations(
        controller, "Pendulum-v1", n_steps=arguments.transitions, seed=SEED
    )
    data = dataset.save(folder / "pendulum.npz")
    workers = start(arguments.peer, ["d3rlpy", "ours"], running)
    block = arguments.updates // EVALUATIONS
    returns = dataset.returns()
    print(
        f"setting: Pendulum-v1, {len(dataset)} transitions of imperfect demonstrations, mean "
        f"return {returns.mean():.0f}, best {returns.max():.0f}; {block * EVALUATIONS} updates, "
        f"nets 256-256, batch 100, n = 10, {EPISODES} evaluation episodes\n"
    )
    finals: dict[tuple[str, str], list[float]] = {}
    seconds: dict[str, list[float]] = {worker.side: [] for worker in workers}
    for seed in range(arguments.seeds):
        for worker in workers:
            ways = ACTING[worker.side]
            worker.ask("make", data=data, nets=SMALL, block=block, seed=seed)
            curves = np.empty((EVALUATIONS, len(ways)))
            spent = 0.0
            for i in range(EVALUATIONS):
                spent += worker.ask("train")["cpu"]
                if i >= EVALUATIONS - LAST:
                    curves[i] = [evaluate(worker, *way) for way in ways.values()]
            for way, final in zip(ways, curves[-LAST:].mean(axis=0), strict=True):
                finals.setdefault((worker.side, way), []).append(float(final))
            seconds[worker.side].append(spent)
    return score_table(finals, seconds)


def score_table(
    finals: dict[tuple[str, str], list[float]], seconds: dict[str, list[float]]
) -> list[str]:
    """Print returns by variant; a sentence for each way of acting in which ours is worse."""
    heads = ("variant", "acts by", "final return by seed", "mean [95 %]")
    print(f"| {' | '.join(heads)} | minus d3rlpy's, paired [95 %] | CPU s of training |")
    print("|" + " --- |" * 6)
    worse = []
    for (side, way), scores in finals.items():
        peer = finals.get(("d3rlpy", way.split(",")[0]))
        told = ""
        if side == "ours" and peer is not None:
            difference = paired_difference(scores, peer)
            told = str(difference)
            if difference.high < 0:
                worse.append(f"ours, {way}: {difference} below d3rlpy's")
        each = ", ".join(f"{one:.0f}" for one in scores)
        mean = bootstrap_interval(scores, np.mean)
        print(f"| {side} | {way} | {each} | {mean} | {told} | {np.mean(seconds[side]):.0f} |")
    return worse


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for command, say in ((speed, "updates per CPU-second"), (score, "returns from one dataset")):
        one = commands.add_parser(command.__name__, help=say)
        one.set_defaults(run=command)
        one.add_argument("--peer", help="a Python with d3rlpy; without it, only ours")
        one.add_argument("--check", action="store_true", help="exit 1 below the bar")
        if command is speed:
            one.add_argument("--nets", nargs="+", choices=list(NETS), default=list(NETS))
            one.add_argument("--rounds", type=int, default=11)
            one.add_argument("--block", type=int, default=20, help="updates a block")
        else:
            one.add_argument("--seeds", type=int, default=3)
            one.add_argument("--updates", type=int, default=5000)
            one.add_argument("--transitions", type=int, default=10_000)
    arguments = parser.parse_args(argv)
    for name in ("rounds", "block", "seeds", "transitions"):
        if getattr(arguments, name, 1) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(arguments, name)}")
    if getattr(arguments, "updates", EVALUATIONS) < EVALUATIONS:
        parser.error(f"--updates must be at least {EVALUATIONS}, got {arguments.updates}")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table; 1 when asked to check and below the bar."""
    arguments = parse(argv)
    print(f"machine: {throughput.machine()}; load at start {throughput.load()}")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        missed = arguments.run(arguments, Path(folder), running)
    print(f"\nload at end {throughput.load()}")
    for sentence in missed:
        print(f"below the bar: {sentence}")
    return 1 if missed and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
