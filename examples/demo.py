"""Train LFIW-SAC on Hopper for about five minutes, and leave everything a run should leave.

python examples/demo.py                       # or: make demo
python examples/demo.py --env Walker2d-v5 --temperature 2
python examples/demo.py --env Pendulum-v1 --steps 2000 --track tensorboard
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import gymnasium as gym
import rich
import torch as th
from rich.table import Table
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    EvalCallback,
    ProgressBarCallback,
)
from stable_baselines3.common.monitor import Monitor

from sb3_ext import LFIWSAC, LikelihoodFree
from sb3_ext.plots import plot_training_run
from sb3_ext.tracking import RunDirectory, model_config, run_logger, start_wandb

DIAGNOSTICS = (
    "lfiw/effective_sample_size",
    "lfiw/weight_max",
    "lfiw/holdout_accuracy",
)
WHAT = {
    "model.zip": "the trained agent",
    "best_model.zip": "the agent of the best evaluation",
    "replay_buffer.pkl": "every transition it saw, to train on",
    "learning_curve.png": "the picture of the run: open this first",
    "evaluations.npz": "returns of all evaluation episodes",
    "monitor.csv": "return and length of each training episode",
    "progress.csv": "all logged metrics, lfiw/* among them",
    "config.json": "hyperparameters and versions",
    "tensorboard": "the same metrics for TensorBoard",
    "wandb": "the same metrics as a W&B offline run",
}


def at_least(low: int) -> Callable[[str], int]:
    """The argument type of an integer that is not below ``low``."""

    def integer(text: str) -> int:
        if int(text) < low:
            raise argparse.ArgumentTypeError(f"must be at least {low}, got {text}")
        return int(text)

    return integer


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--env", default="Hopper-v5", help="an environment with Box actions")
    parser.add_argument("--steps", type=at_least(1), default=16_000)
    parser.add_argument("--seed", type=at_least(0), default=0)
    parser.add_argument("--temperature", type=float, default=5.0, help="high: weights near uniform")
    parser.add_argument("--track", choices=("none", "tensorboard", "wandb"), default="wandb")
    parser.add_argument("--run-dir", type=Path, help="a new folder; default runs/demo-ENV-COUNTER")
    return parser.parse_args(arguments)


def stop(sentence: str) -> NoReturn:
    """End with a sentence and the exit code of a wrong argument."""
    print(f"demo: {sentence}", file=sys.stderr)
    raise SystemExit(2)


def make_env(env_id: str) -> gym.Env:
    """Make the environment, or end with one sentence that says why not."""
    try:
        env = gym.make(env_id)
    except (gym.error.Error, ImportError) as error:
        if env_id in gym.registry:
            stop(f"{env_id} cannot be made: {error}")
        near = difflib.get_close_matches(env_id, gym.registry, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        stop(f"no environment {env_id!r} is registered{hint}")
    if not isinstance(env.action_space, gym.spaces.Box):
        stop(f"LFIWSAC needs Box actions, {env_id} has {env.action_space}")
    return env


def new_run_directory(asked: Path | None, env_id: str) -> RunDirectory:
    """The folder asked for, or the first free runs/demo-ENV-COUNTER."""
    if asked is None:
        stem = f"demo-{env_id.partition('-v')[0].replace('/', '-').lower()}"
        taken = {path.name for path in Path("runs").glob(f"{stem}-*")}
        counter = next(i for i in range(1, len(taken) + 2) if f"{stem}-{i}" not in taken)
        asked = Path("runs") / f"{stem}-{counter}"
    try:
        return RunDirectory.create(asked)
    except FileExistsError as error:
        stop(str(error))
    except OSError as error:
        stop(f"no run directory can be made at {asked}: {error.strerror}; choose another one")


class PrintEvaluation(BaseCallback):
    """Called by EvalCallback after each evaluation: one line above the progress bar."""

    def __init__(self) -> None:
        super().__init__()
        self.started = time.monotonic()

    def _on_step(self) -> bool:
        returns = self.parent.evaluations_results[-1]
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        mean, low, high = sum(returns) / len(returns), min(returns), max(returns)
        rich.print(
            f"  {minutes}:{seconds:02d}  step {self.num_timesteps:>7,}   "
            f"evaluation [bold]{mean:8.1f}[/]   ({low:.1f} to {high:.1f})"
        )
        return True


def train(model: LFIWSAC, evaluation: EvalCallback, steps: int) -> bool:
    """Learn under a progress bar; False if Ctrl-C ended it early."""
    progress = ProgressBarCallback()
    try:
        model.learn(steps, callback=CallbackList([evaluation, progress]))
    except KeyboardInterrupt:
        if hasattr(progress, "pbar"):
            progress.pbar.close()
        return False
    return True


def show_files(run: RunDirectory) -> None:
    """Print what the run left."""
    table = Table("file", "what it is", "size", title=f"in {run.path}", title_justify="left")
    table.columns[2].justify = "right"
    for name, what in WHAT.items():
        path = run / name
        if path.exists():
            files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
            size = sum(file.stat().st_size for file in files if not file.is_symlink())
            table.add_row(
                name, what, f"{size / 1e6:.1f} MB" if size > 1e6 else f"{size / 1e3:.1f} kB"
            )
    rich.print(table)


def show_next(run: RunDirectory, options: argparse.Namespace) -> None:
    """Print what to try now."""
    python = os.path.relpath(sys.executable)
    agent = next(name for name in ("best_model.zip", "model.zip") if (run / name).exists())
    lines = [
        f"watch the agent, in {python}:",
        "    import gymnasium as gym",
        "    from stable_baselines3.common.evaluation import evaluate_policy",
        "    from sb3_ext import LFIWSAC",
        f'    env = gym.make("{options.env}", render_mode="human")',
        f'    evaluate_policy(LFIWSAC.load("{run / agent}"), env, warn=False)',
        "trust the weights more (a low temperature spreads them), or hardly at all:",
        f"    {python} examples/demo.py --env {options.env} --temperature 2.5",
        f"    {python} examples/demo.py --env {options.env} --temperature 50",
    ]
    if options.track != "none":
        lines += [
            "see every metric:",
            f"    {python} -m tensorboard.main --logdir {run / 'tensorboard'}",
        ]
    if options.track == "wandb":
        lines += [
            "send the run to W&B:",
            f"    {python} -m wandb sync {run / 'wandb'}/offline-run-*",
        ]
    lines += ["what can be set, and the paper:", f"    {python} -m sb3_ext info LFIWSAC"]
    print("\nNext:", *lines, sep="\n  ")


def main() -> None:
    """Train, then leave and list the results."""
    options = parse()
    # Each thread of a small network waits for the others by spinning. On a machine that is busy
    # with something else, two threads are up to ten times slower than one.
    th.set_num_threads(1)
    try:
        LikelihoodFree(temperature=options.temperature)
    except ValueError as error:
        stop(str(error))
    env, eval_env = make_env(options.env), make_env(options.env)
    eval_env.reset(seed=options.seed + 1_000)
    run = new_run_directory(options.run_dir, options.env)
    try:
        train_in(run, options, env, eval_env)
    except KeyboardInterrupt:  # before or after training, which minds its own
        stop(f"stopped while preparing or saving; what there is lies in {run.path}")


def train_in(
    run: RunDirectory, options: argparse.Namespace, env: gym.Env, eval_env: gym.Env
) -> None:
    """Train with all records in the folder, then list what they are."""
    # The full budget gives 1,000 random steps first, then the newest 2,000 transitions stand for
    # the current policy; an evaluation comes every 2,000 steps. Tiny budgets scale down.
    steps = options.steps
    model = LFIWSAC(
        "MlpPolicy",
        Monitor(env, str(run / "monitor.csv")),
        temperature=options.temperature,
        fast_buffer_size=max(1, min(2_000, steps // 5)),
        learning_starts=min(1_000, steps // 10),
        buffer_size=min(100_000, max(steps, 1_000)),
        seed=options.seed,
    )
    config = model_config(model)
    run.write_config(config)
    name = f"{type(model).__name__}-{options.env}-seed{options.seed}"
    tracked = start_wandb(run.path, name=name, config=config) if options.track == "wandb" else None
    model.set_logger(run_logger(run.path, wandb_run=tracked, tensorboard=options.track != "none"))
    evaluation = EvalCallback(
        Monitor(eval_env),
        callback_after_eval=PrintEvaluation(),
        n_eval_episodes=5,
        eval_freq=max(1, steps // 10, min(2_000, steps // 2)),
        log_path=str(run.path),
        best_model_save_path=str(run.path),
        verbose=0,
    )
    print(f"LFIWSAC on {options.env}: {steps:,} steps, seed {options.seed}. Ctrl-C keeps the rest.")
    finished = train(model, evaluation, steps)
    if not finished:
        print(f"Stopped after {model.num_timesteps:,} steps; saving what there is.")
    model.save(run / "model.zip")
    model.save_replay_buffer(run / "replay_buffer.pkl")
    model.logger.close()
    if tracked is not None:
        tracked.finish()
    try:
        title = f"LFIW-SAC on {options.env}"
        plot_training_run(run.path, title=title, diagnostics=DIAGNOSTICS)
    except FileNotFoundError:
        print("No episode ended and nothing was evaluated, so there is no picture.")
    show_files(run)
    show_next(run, options)


if __name__ == "__main__":
    main()
