"""What the tests of tracking share: small models, a writer in memory, W&B's own reader."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import Monitor


class Memory(KVWriter):
    """Keeps what SB3's logger dumps."""

    def __init__(self):
        self.rows, self.closed = [], False

    def write(self, key_values, key_excluded, step=0):
        kept = {
            key: value
            for key, value in key_values.items()
            if "wandb" not in (key_excluded.get(key) or ())
        }
        self.rows.append({**kept, "global_step": step})

    def close(self):
        self.closed = True


def sac(**options):
    given = {"learning_starts": 20, "batch_size": 8, "buffer_size": 1_000, "seed": 1}
    given["policy_kwargs"] = {"net_arch": [8]}
    return SAC("MlpPolicy", options.pop("env", "Pendulum-v1"), **{**given, **options})


def records(folder):
    """The records of all offline runs below a run directory, in the order of their start."""
    cli = shutil.which("wandb", path=str(Path(sys.executable).parent))
    found = []
    files = Path(folder).glob("wandb/offline-run-*/*.wandb")
    for file in sorted(files, key=lambda file: order_of_start(file.parent.name)):
        printed = subprocess.run(
            [cli, "leet", "inspect", "--json", file], check=True, capture_output=True, text=True
        ).stdout
        found.append([json.loads(line) for line in printed.splitlines()])
    return found


def order_of_start(name):
    """Sorts "offline-run-<date>_<time>-<id>": runs of one id and second get -1, -2 ... after it."""
    date = name.split("-")[2]
    return date, len(name), name


def history(run):
    """The logged rows of one run's records, without W&B's own keys."""
    rows = [record["history"]["item"] for record in run if record["type"] == "history"]
    return [{key: value for key, value in row.items() if key[0] != "_"} for row in rows]


def config(run):
    """The config that a run started with."""
    start = next(record["run"] for record in run if record["type"] == "run")
    return {key: value for key, value in start["config"]["update"].items() if key[0] != "_"}


def exit_code(run):
    """0 for a finished run; None for one that was killed."""
    codes = [record["exit"].get("exit_code", 0) for record in run if record["type"] == "exit"]
    return codes[0] if codes else None


class Raises(BaseCallback):
    def __init__(self, at):
        super().__init__()
        self.at = at

    def _on_step(self):
        if self.num_timesteps == self.at:
            raise RuntimeError("broken environment")
        return True


def evaluation(folder, every=200):
    return EvalCallback(
        Monitor(gym.make("Pendulum-v1")),
        eval_freq=every,
        n_eval_episodes=1,
        best_model_save_path=str(folder) if folder else None,
        verbose=0,
    )


def keep_memory(model):
    memory = Memory()
    model.set_logger(Logger(None, [memory]))
    return memory
