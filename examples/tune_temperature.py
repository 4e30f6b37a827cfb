"""How much does LFIW's temperature T matter? Its response curve, with error bars over seeds.

A small T trusts the ratio network fully, a large one makes all weights alike: SAC is the limit. The
temperatures are the trials of an Optuna study, each with the same seeds, so that the curve shows T
and not luck; SAC on the same seeds is the line to beat. The study is kept: asking again goes on.

    python examples/tune_temperature.py                     # minutes on two cores
    python examples/tune_temperature.py --seeds 10 --out temperature
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import matplotlib
import numpy as np
import optuna
import torch
from stable_baselines3.common.env_util import make_vec_env

from sb3_ext import LFIWSAC, SAC
from sb3_ext.evaluation import bootstrap_interval, paired_difference
from sb3_ext.tuning import TrialEvalCallback, open_storage

TEMPERATURES = (1.0, 2.0, 5.0, 10.0, 20.0)


def run(trial: optuna.trial.FixedTrial, env: str, steps: int, seed: int) -> float:
    """One training run; T = inf stands for SAC."""
    torch.set_num_threads(1)
    temperature = trial.suggest_float("temperature", 0, float("inf"))
    own = (
        {}
        if np.isinf(temperature)
        else {"temperature": temperature, "fast_buffer_size": max(1, steps // 8)}
    )
    model = (SAC if np.isinf(temperature) else LFIWSAC)(
        "MlpPolicy",
        env,
        learning_rate=1e-3,
        policy_kwargs={"net_arch": [64, 64]},
        seed=seed,
        device="cpu",
        **own,
    )
    every = max(1, steps // 10)
    evaluation = make_vec_env(env, seed=1_000 + seed)
    callback = TrialEvalCallback(evaluation, trial, n_eval_episodes=5, eval_freq=every, last=5)
    model.learn(steps, callback=callback)
    return callback.score()


def scores(temperature: float, env: str, steps: int, seeds: int, jobs: int) -> list[float]:
    """The mean return over the second half of the evaluations, one a seed."""
    trial = optuna.trial.FixedTrial({"temperature": temperature})
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        runs = [pool.submit(run, trial, env, steps, seed) for seed in range(seeds)]
        return [one.result() for one in runs]


def draw(trials: list[optuna.trial.FrozenTrial], env: str, steps: int, path: Path) -> None:
    """The mean over seeds against T, 95 % bootstrap intervals, every seed as a dot."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = {one.params["temperature"]: one.user_attrs["scores"] for one in trials}
    base = found.pop(float("inf"))
    figure, axes = plt.subplots(figsize=(7, 4))
    line = bootstrap_interval(base, np.mean)
    axes.axhspan(line.low, line.high, color="#5B5B5B", alpha=0.15, linewidth=0)
    axes.axhline(line.estimate, color="#5B5B5B", linewidth=1.2, label="SAC")
    temperatures = sorted(found)
    for temperature in temperatures:
        axes.plot([temperature] * len(base), found[temperature], ".", color="#0072B2", alpha=0.4)
    intervals = [bootstrap_interval(found[one], np.mean) for one in temperatures]
    means = [one.estimate for one in intervals]
    below = [one.estimate - one.low for one in intervals]
    above = [one.high - one.estimate for one in intervals]
    axes.errorbar(
        temperatures, means, yerr=[below, above], color="#0072B2", capsize=4, label="LFIWSAC"
    )
    axes.set_xscale("log")
    axes.set_xticks(temperatures, [f"{one:g}" for one in temperatures])
    axes.minorticks_off()
    axes.set_xlabel("temperature T")
    axes.set_ylabel(f"return, second half of {steps:,} steps")
    axes.set_title(f"{env}, mean of {len(base)} seeds, 95 % bootstrap intervals", fontsize=10)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> None:
    """Run what the study lacks, print the table, draw the curve."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--env", default="Pendulum-v1")
    parser.add_argument("--steps", type=int, default=4_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--temperatures", type=float, nargs="+", default=TEMPERATURES)
    parser.add_argument("--out", type=Path, default=Path("runs/tune_temperature"))
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    budget = f"{arguments.env}, {arguments.steps} steps, {arguments.seeds} seeds"
    study = optuna.create_study(
        study_name=f"temperature: {budget}",
        direction="maximize",
        storage=open_storage(arguments.out / "study.log"),
        load_if_exists=True,
    )
    print(f"{budget}; return over the second half, and its difference to SAC by seed")
    distribution = optuna.distributions.FloatDistribution(0, float("inf"))
    trials: list[optuna.trial.FrozenTrial] = []
    for temperature in (float("inf"), *arguments.temperatures):
        known = [one for one in study.trials if one.params["temperature"] == temperature]
        if not known:
            found = scores(
                temperature, arguments.env, arguments.steps, arguments.seeds, arguments.jobs
            )
            study.add_trial(
                optuna.trial.create_trial(
                    params={"temperature": temperature},
                    distributions={"temperature": distribution},
                    value=float(np.mean(found)),
                    user_attrs={"scores": found},
                )
            )
            known = study.trials[-1:]
        trials += known[:1]
        own = known[0].user_attrs["scores"]
        mean = bootstrap_interval(own, np.mean)
        gain = paired_difference(own, trials[0].user_attrs["scores"])
        name = "SAC" if np.isinf(temperature) else f"T = {temperature:g}"
        print(f"{name:10}{mean}" + ("" if np.isinf(temperature) else f"   {gain}"), flush=True)
    draw(trials, arguments.env, arguments.steps, arguments.out / "temperature.png")
    print(f"{arguments.out / 'temperature.png'}")


if __name__ == "__main__":
    main()
