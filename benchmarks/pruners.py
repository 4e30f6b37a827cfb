"""Which pruner spends least without choosing worse? Recorded runs, replayed under each pruner.

    python benchmarks/pruners.py collect --out results/pruners --jobs 2
    python benchmarks/pruners.py replay results/pruners

``collect`` trains random configurations, each with several seeds, and keeps the curves of their
evaluations. ``replay`` then asks what a study of these configurations would have done: in many
random orders, each pruner sees the recorded evaluations of the tuning seed(s) one by one and stops
what it wants to. A study without a pruner on the same order is the peer. What counts is the steps
that were saved, and the regret: by how much the configuration that the study ends with is worse, by
the seeds that it never saw, than the one that would have been chosen without pruning.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.pruners import (
    BasePruner,
    MedianPruner,
    NopPruner,
    SuccessiveHalvingPruner,
    WilcoxonPruner,
)

from sb3_ext.evaluation import bootstrap_interval
from sb3_ext.tuning.callbacks import LAST

#: The seeds of a trial, by study; those that no study sees judge. The Wilcoxon pruner compares seed
#: by seed, and four pairs are the fewest that can reach its threshold of 0.1.
TUNING_SEEDS = (1, 2, 4)


@dataclass(frozen=True)
class Recorded:
    """A configuration and its evaluations ``[seeds, evaluations]`` at the same steps."""

    params: dict[str, Any]
    steps: list[int]
    means: np.ndarray

    def score(self, seed: int) -> float:
        """As a study scores a run."""
        return float(self.means[seed, -LAST:].mean())

    @property
    def worth(self) -> float:
        """By the seeds that no study saw."""
        unseen = range(max(TUNING_SEEDS), len(self.means))
        return statistics.fmean(self.score(seed) for seed in unseen)


def pruners(run: int, seeds: int) -> dict[str, Callable[[], BasePruner]]:
    """By name; made anew for each study, as ``sb3-ext tune`` makes them.

    :param run: steps of one run
    :param seeds: runs of a trial
    """
    return {
        "none": NopPruner,
        "median": lambda: MedianPruner(n_startup_trials=5, n_warmup_steps=run * seeds // 3),
        "median, no warm-up": lambda: MedianPruner(n_startup_trials=5, n_warmup_steps=0),
        "halving": lambda: SuccessiveHalvingPruner(min_resource=run // 4, reduction_factor=2),
        "wilcoxon": lambda: WilcoxonPruner(p_threshold=0.1, n_startup_steps=2),
    }


def study(
    order: Sequence[Recorded], pruner: BasePruner, seeds: int, by_instance: bool
) -> tuple[float, float]:
    """A study of recorded configurations, in this order.

    :param by_instance: report one value a seed, as the Wilcoxon pruner wants it
    :return: the share of all steps that it spent, and the worth of what it would choose
    """
    found = optuna.create_study(direction="maximize", pruner=pruner)
    spent, best, chosen = 0, -np.inf, order[0]
    for one in order:
        trial = found.ask()
        done: list[float] = []
        pruned = False
        for seed in range(seeds):
            for step, mean in zip(one.steps, one.means[seed], strict=True):
                spent += one.steps[0]
                if not by_instance:
                    trial.report(statistics.fmean([*done, mean]), seed * one.steps[-1] + step)
                    pruned = trial.should_prune()
                if pruned:
                    break
            if pruned:
                break
            done.append(one.score(seed))
            if by_instance:
                trial.report(done[-1], seed)
                pruned = trial.should_prune()
                if pruned:
                    break
        if pruned:
            found.tell(trial, state=optuna.trial.TrialState.PRUNED)
            continue
        value = statistics.median(done)
        found.tell(trial, value)
        if value > best:
            best, chosen = value, one
    return spent / (len(order) * seeds * order[0].steps[-1]), chosen.worth


def replay(arguments: argparse.Namespace) -> None:
    """Print the table."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    import warnings

    warnings.simplefilter("ignore")
    recorded = load(arguments.folder)
    worths = sorted(one.worth for one in recorded)
    print(
        f"{len(recorded)} configurations, {len(recorded[0].means)} seeds, {arguments.orders} "
        f"orders of {arguments.trials} trials; worth of the best {worths[-1]:.1f}, of the median "
        f"{statistics.median(worths):.1f}\n"
    )
    print("| tuning seeds | pruner | steps spent | regret, mean [95 %] | worth, mean |")
    print("| --: | --- | --: | --: | --: |")
    for seeds in TUNING_SEEDS:
        results: dict[str, list[tuple[float, float]]] = {}
        for name, make in pruners(recorded[0].steps[-1], seeds).items():
            if name == "wilcoxon" and seeds == 1:
                continue  # there is nothing to pair
            rng = np.random.default_rng(0)  # the same orders for all
            for _ in range(arguments.orders):
                order = [recorded[i] for i in rng.permutation(len(recorded))[: arguments.trials]]
                results.setdefault(name, []).append(
                    study(order, make(), seeds, by_instance=name == "wilcoxon")
                )
        peer = np.asarray(results["none"])[:, 1]
        for name, found in results.items():
            spent, worth = np.asarray(found).T
            regret = bootstrap_interval(peer - worth, np.mean)
            print(f"| {seeds} | {name} | {spent.mean():.0%} | {regret} | {worth.mean():.1f} |")


def load(folder: Path) -> list[Recorded]:
    """The configurations of which every seed was recorded."""
    found = []
    for path in sorted(folder.glob("*.json")):
        held = json.loads(path.read_text())
        found.append(Recorded(held["params"], held["steps"], np.asarray(held["means"])))
    if not found:
        raise SystemExit(f"{folder} holds no recorded runs: collect them first")
    return found


# -- recording -------------------------------------------------------------------------------------


def record(job: dict[str, Any]) -> str:
    """Train one configuration with all of its seeds."""
    import torch
    from stable_baselines3.common.callbacks import EvalCallback
    from stable_baselines3.common.env_util import make_vec_env

    from sb3_ext.catalog import find_algorithm
    from sb3_ext.tuning.spaces import declared_space, draw, hyperparameters, that_learns

    torch.set_num_threads(1)
    _, cls = find_algorithm(job["algorithm"])
    # A run this short never fills a buffer, whatever its size: the memory is spared.
    fixed = {"buffer_size": job["steps"]}
    atoms = that_learns(declared_space(cls, fixed), job["steps"])
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=job["number"])).ask()
    params = {name: draw(trial, name, atoms[name]) for name in atoms}
    every = job["steps"] // job["evaluations"]
    means = []
    for seed in range(job["seeds"]):
        env = make_vec_env(job["env"], seed=seed)
        evaluation = make_vec_env(job["env"], seed=1_000_000 + seed)
        model = cls(
            "MlpPolicy",
            env,
            seed=seed,
            device="cpu",
            **hyperparameters(fixed, params),
        )
        callback = EvalCallback(evaluation, n_eval_episodes=10, eval_freq=every, verbose=0)
        curve: list[float] = []
        callback.callback = _Noting(curve)
        callback.callback.parent = callback
        model.learn(job["steps"], callback=callback)
        means.append(curve)
    steps = [every * (k + 1) for k in range(job["evaluations"])]
    path = Path(job["out"]) / f"{job['number']:04d}.json"
    path.write_text(json.dumps({"params": params, "steps": steps, "means": means}))
    return path.name


def _Noting(curve: list[float]) -> Any:  # noqa: N802 - a class, made late
    from stable_baselines3.common.callbacks import BaseCallback

    class Noting(BaseCallback):
        def _on_step(self) -> bool:
            curve.append(float(self.parent.last_mean_reward))
            return True

    return Noting()


def collect(arguments: argparse.Namespace) -> None:
    """Record what is missing."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    shared = {
        name: getattr(arguments, name)
        for name in ("algorithm", "env", "steps", "evaluations", "seeds")
    }
    jobs = [
        {**shared, "number": number, "out": str(arguments.out)}
        for number in range(arguments.configurations)
        if not (arguments.out / f"{number:04d}.json").exists()
    ]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        for number, done in enumerate(as_completed([pool.submit(record, job) for job in jobs])):
            print(f"[{number + 1}/{len(jobs)}] {done.result()}", flush=True)


def main() -> None:
    """Both commands."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    collecting = commands.add_parser("collect")
    collecting.add_argument("--algorithm", default="DQN")
    collecting.add_argument("--env", default="CartPole-v1")
    collecting.add_argument("--steps", type=int, default=8_000)
    collecting.add_argument("--evaluations", type=int, default=10)
    collecting.add_argument("--seeds", type=int, default=8)
    collecting.add_argument("--configurations", type=int, default=40)
    collecting.add_argument("--jobs", type=int, default=1)
    collecting.add_argument("--out", type=Path, required=True)
    collecting.set_defaults(run=collect)
    replaying = commands.add_parser("replay")
    replaying.add_argument("folder", type=Path)
    replaying.add_argument("--orders", type=int, default=200)
    replaying.add_argument("--trials", type=int, default=30)
    replaying.set_defaults(run=replay)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
