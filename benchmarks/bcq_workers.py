"""What ``bcq.py`` compares: one BCQ in a process of its own, told by lines of JSON what to do.

    python benchmarks/bcq_workers.py ours|d3rlpy       # started by bcq.py, under two interpreters

Nothing of sb3_ext is imported on d3rlpy's side, and nothing of d3rlpy on ours. A line holds a
method's name and its arguments; the answer is one line, too.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np
import torch

BATCH_SIZE = 100
#: The paper's, and d3rlpy's defaults, too, but for n.
N_CANDIDATES = 10
VERSIONS = {
    "ours": ("torch", "stable-baselines3", "gymnasium", "numpy", "sb3-ext"),
    "d3rlpy": ("torch", "d3rlpy", "gymnasium", "numpy"),
}


class Ours:
    """``sb3_ext.BCQ``.

    :param data: a file of ``OfflineDataset.save``
    :param nets: widths by ``qf`` (critics and perturbation) and ``vae`` (encoder and decoder)
    :param block: updates in a call of :meth:`train`
    """

    def __init__(self, data: str, nets: dict[str, list[int]], block: int, seed: int) -> None:
        from stable_baselines3.common.logger import configure

        from sb3_ext import BCQ

        self.block = block
        self.model = BCQ(
            "MlpPolicy",
            dataset=data,
            batch_size=BATCH_SIZE,
            n_sampled_actions=N_CANDIDATES,
            policy_kwargs={"net_arch": {**nets, "pi": nets["qf"]}},
            seed=seed,
            device="cpu",
        )
        self.model.set_logger(configure(None, []))

    def update(self) -> None:
        """Draw a batch, and do one gradient step."""
        self.model.train(1, BATCH_SIZE)

    def train(self) -> None:
        """A block of the training that a user starts."""
        self.model.learn(self.block, log_interval=self.block, reset_num_timesteps=False)

    def act(self, observations: Any, n: int, deterministic: bool) -> Any:
        """The best of ``n`` candidates by Q1, in the environment's units."""
        policy: Any = self.model.policy
        policy.n_eval_actions = n
        return self.model.predict(observations, deterministic=deterministic)[0]


class D3rlpy:
    """``d3rlpy.algos.BCQ``; arguments likewise."""

    def __init__(self, data: str, nets: dict[str, list[int]], block: int, seed: int) -> None:
        import d3rlpy
        from d3rlpy.logging import NoopAdapterFactory
        from d3rlpy.models.encoders import VectorEncoderFactory
        from d3rlpy.preprocessing import MinMaxActionScaler

        d3rlpy.seed(seed)
        with np.load(data) as file:
            header = json.loads(file["header"].tobytes())
            self.dataset = d3rlpy.dataset.MDPDataset(
                file["observations"],
                file["actions"],
                file["rewards"],
                file["terminated"].astype(np.float32),
                timeouts=(file["truncated"] & ~file["terminated"]).astype(np.float32),
            )
        space = header["action_space"]
        low, high = (np.broadcast_to(space[side], space["shape"]) for side in ("low", "high"))
        critics = VectorEncoderFactory(nets["qf"])
        config = d3rlpy.algos.BCQConfig(
            batch_size=BATCH_SIZE,
            n_action_samples=N_CANDIDATES,
            actor_encoder_factory=critics,
            critic_encoder_factory=critics,
            imitator_encoder_factory=VectorEncoderFactory(nets["vae"]),
            action_scaler=MinMaxActionScaler(low, high),
        )
        self.algorithm: Any = config.create(device="cpu:0")
        self.algorithm.build_with_dataset(self.dataset)
        self.blocks = self.algorithm.fitter(
            self.dataset,
            n_steps=10**9,
            n_steps_per_epoch=block,
            save_interval=10**9,
            logger_adapter=NoopAdapterFactory(),
            show_progress=False,
        )

    def update(self) -> None:
        """Draw a batch, and do one gradient step."""
        self.algorithm.update(self.dataset.sample_transition_batch(BATCH_SIZE))

    def train(self) -> None:
        """A block of the training that a user starts; it lasts for one of d3rlpy's epochs."""
        next(self.blocks)

    def act(self, observations: Any, n: int, deterministic: bool) -> Any:
        """The best of ``n`` candidates by Q1; d3rlpy always draws new ones."""
        # Its n is one and the same in training and in acting; nothing public tells them apart.
        self.algorithm.impl._n_action_samples = n
        try:
            return self.algorithm.predict(np.asarray(observations, np.float32))
        finally:
            self.algorithm.impl._n_action_samples = N_CANDIDATES


class Worker:
    """What ``bcq.py`` asks for."""

    def __init__(self, side: str) -> None:
        self.side = side
        self.model: Any = None

    def versions(self) -> str:
        """Python and packages."""
        found = [f"{name} {metadata.version(name)}" for name in VERSIONS[self.side]]
        return ", ".join([f"Python {platform.python_version()}", *found])

    def make(self, **setting: Any) -> None:
        """A fresh model; arguments as of :class:`Ours`."""
        self.model = {"ours": Ours, "d3rlpy": D3rlpy}[self.side](**setting)

    def updates(self, n: int) -> dict[str, float]:
        """Cost of ``n`` updates."""
        return cost(lambda: [self.model.update() for _ in range(n)])

    def train(self) -> dict[str, float]:
        """Cost of a block of training."""
        return cost(self.model.train)

    def act(self, observations: Any, n: int, deterministic: bool) -> Any:
        """Actions as lists."""
        rows = np.asarray(observations, np.float32)
        return np.asarray(self.model.act(rows, n, deterministic), np.float64).tolist()

    def gflop(self) -> float:
        """Of the matrix products of one update."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            self.model.update()
        return float(counter.get_total_flops()) / 1e9

    def best_gflops(self, size: int = 512) -> float:
        """GFLOP a second in a product of square matrices: what this core can do at best."""
        a, b = torch.randn(2, size, size)
        times = [cost(lambda: torch.mm(a, b))["cpu"] for _ in range(30)]
        return 2 * size**3 / min(times) / 1e9


def cost(call: Callable[[], object]) -> dict[str, float]:
    """CPU seconds and page faults of a call, the garbage collector off."""
    gc.collect()
    gc.disable()
    try:
        faults, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
        call()
        seconds = time.process_time() - start
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    finally:
        gc.enable()
    return {"cpu": seconds, "faults": faults}


def main() -> None:
    """Answer until the input ends."""
    torch.set_num_threads(1)
    # d3rlpy logs to the standard output: that goes nowhere, and the answers keep the real one.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    worker = Worker(sys.argv[1])
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            answer = {"answer": getattr(worker, name)(**arguments)}
        except Exception as error:  # whatever it was, the one who asked tells it
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
