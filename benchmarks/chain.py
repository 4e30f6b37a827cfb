"""DQN with prioritised and with uniform replay where one episode in a thousand has a reward.

    python benchmarks/chain.py --n 10 --seeds 0-9 --steps 20000 --jobs 2

The chain of ``cliffwalk.py`` as an environment, learned by the real classes: ``DQN`` and
``DQN(replay="per")``, all else alike. Behaviour is random throughout (epsilon 1), so within a seed
both see the same transitions, and what differs is replay alone. A run counts as solved at the first
check, one every 50 steps, at which the greedy action is right in every state and the mean squared
error of the action values against the true ones is below 1e-2; the greedy action alone can be right
by chance, before there was any reward. Until the first reward no method can know, so the steps from
there on are told apart. A reward travels one state with each copy into the target network, so with
rare copies (``--target-every``) these set the pace, whatever is replayed.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from cliffwalk import discount, parse_range, true_values
from gymnasium import spaces

CHECK_EVERY = 50
TOLERANCE = 1e-2
METHODS: dict[str, Any] = {"uniform": None, "PER": "per"}
#: Of both; the rest are the defaults of SB3's DQN, and PER's own.
OPTIONS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "buffer_size": 50_000,
    "learning_starts": 100,
    "train_freq": 1,
    "exploration_initial_eps": 1.0,
    "exploration_final_eps": 1.0,
}


class Chain(gym.Env[np.ndarray, np.int64]):
    """The Blind Cliffwalk of Schaul et al. 2016: n right actions in a row for a reward of 1.

    Right are 0, 1, 0, 1, ...; a wrong one ends the episode. Observations are one-hot states.

    :param n: number of states
    """

    def __init__(self, n: int) -> None:
        self.n, self.state = n, 0
        self.observation_space = spaces.Box(0.0, 1.0, (n,), np.float32)
        self.action_space = spaces.Discrete(2)

    def _observe(self) -> np.ndarray:
        return np.eye(self.n, dtype=np.float32)[min(self.state, self.n - 1)]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """To the first state."""
        super().reset(seed=seed)
        self.state = 0
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One on, or the end."""
        if action != self.state % 2:
            return self._observe(), 0.0, True, False, {}
        self.state += 1
        ended = self.state == self.n
        return self._observe(), float(ended), ended, False, {}


class Run(NamedTuple):
    """Environment steps; infinite for what did not happen."""

    first_reward: float
    solved: float

    @property
    def needed(self) -> float:
        """Steps, and updates, from the first reward on."""
        return self.solved - self.first_reward


def train(name: str, n: int, seed: int, steps: int, target_every: int) -> Run:
    """One run, in a process of its own.

    :param name: of METHODS
    :param n: length of the chain
    :param seed: of networks, behaviour and draws
    :param steps: after which to give up
    :param target_every: steps between two copies into the target network
    """
    import torch as th
    from stable_baselines3.common.callbacks import BaseCallback

    from sb3_ext import DQN

    th.set_num_threads(1)
    states, right = th.eye(n), np.arange(n) % 2
    truth = true_values(n).reshape(n, 2)

    class Watch(BaseCallback):
        first_reward = solved = math.inf

        def _on_step(self) -> bool:
            if self.locals["rewards"][0] > 0:
                self.first_reward = min(self.first_reward, self.num_timesteps)
            if self.num_timesteps % CHECK_EVERY == 0:
                with th.no_grad():
                    values = self.model.q_net(states).numpy()
                close = np.square(values - truth).mean() < TOLERANCE
                if close and np.array_equal(values.argmax(axis=1), right):
                    self.solved = self.num_timesteps
            return self.solved == math.inf

    watch, gamma = Watch(), discount(n)
    model = DQN(
        "MlpPolicy",
        Chain(n),
        seed=seed,
        device="cpu",
        gamma=gamma,
        replay=METHODS[name],
        target_update_interval=target_every,
        **OPTIONS,
    )
    model.learn(steps, callback=watch)
    return Run(watch.first_reward, watch.solved)


def table(runs: dict[str, list[Run]], seeds: list[int]) -> Iterator[str]:
    """The rows of a markdown table."""
    yield "| seed | first reward | solved: uniform | PER | after the reward: uniform | PER |"
    yield "| --: | --: | --: | --: | --: | --: |"
    for seed, uniform, per in zip(seeds, runs["uniform"], runs["PER"], strict=True):
        cells = (uniform.first_reward, uniform.solved, per.solved, uniform.needed, per.needed)
        yield f"| {seed} | " + " | ".join(f"{cell:,.0f}" for cell in cells) + " |"


def verdict(runs: dict[str, list[Run]]) -> str:
    """Medians and the sign test over paired seeds."""
    from scipy.stats import binomtest

    uniform, per = ([run.needed for run in runs[name]] for name in ("uniform", "PER"))
    fewer = sum(p < u for p, u in zip(per, uniform, strict=True))
    unequal = sum(p != u for p, u in zip(per, uniform, strict=True))
    p_value = binomtest(fewer, unequal).pvalue if unequal else 1.0
    return (
        f"From the first reward on, median: uniform {np.median(uniform):,.0f}, PER "
        f"{np.median(per):,.0f} steps; PER needs fewer in {fewer} of {len(per)} seeds (sign test, "
        f"two-sided: p = {p_value:.3f})."
    )


def main() -> None:
    """Train, print the table."""
    import throughput

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=10, help="length of the chain")
    parser.add_argument("--seeds", default="0-9", help="0-9 or 0,3,7-9")
    parser.add_argument("--steps", type=int, default=20_000, help="after which a run gives up")
    parser.add_argument(
        "--target-every", type=int, default=100, help="steps between two copies into the target"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    options = parser.parse_args()
    seeds = parse_range(options.seeds)
    print(f"machine: {throughput.machine()}; load at start {throughput.load()}")
    print(f"versions: {throughput.versions()}")
    print(
        f"n: {options.n}; seeds: {options.seeds}; at most {options.steps:,} steps; target network "
        f"every {options.target_every}\n",
        flush=True,
    )
    started = time.time()
    rest = (options.steps, options.target_every)
    settings = [(name, options.n, seed, *rest) for seed, name in product(seeds, METHODS)]
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        ended = list(pool.map(train, *zip(*settings, strict=True)))
    runs: dict[str, list[Run]] = {name: [] for name in METHODS}
    for (name, *_), run in zip(settings, ended, strict=True):
        runs[name].append(run)
    print(*table(runs, seeds), sep="\n")
    print(f"\n{verdict(runs)}\n\n{time.time() - started:.0f} s")


if __name__ == "__main__":
    main()
