"""Kill training runs at random moments, start them again, and compare with runs left alone.

python benchmarks/kill.py --kills 50
python benchmarks/kill.py --env Ant-v5 --n-envs 3 --vec-env subproc --kills 5 --steps 1500

The child process trains LFIWSAC with a checkpoint every few steps, so that kills hit the writing
as well. It is ended by SIGKILL, which no code of ours can answer.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

RESULT = "result.json"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--env", default="Pendulum-v1")
    parser.add_argument("--n-envs", type=int, default=1)
    parser.add_argument("--vec-env", choices=("dummy", "subproc", "packed"), default="dummy")
    parser.add_argument("--steps", type=int, default=4_000, help="environment steps of a run")
    parser.add_argument("--every", type=int, default=50, help="steps between two checkpoints")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--longest-life", type=float, default=6.0, help="seconds after the start")
    parser.add_argument("--after", type=int, default=0, help="no kill before this checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--whole", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def digest(value: Any) -> str:
    """A fingerprint of a tree of tensors, arrays and numbers, to the last bit."""
    import torch as th

    found = hashlib.sha256()

    def add(one: Any) -> None:
        if isinstance(one, th.Tensor):
            add(one.detach().cpu().numpy())
        elif isinstance(one, np.ndarray):
            found.update(f"{one.dtype}{one.shape}".encode() + np.ascontiguousarray(one).tobytes())
        elif isinstance(one, dict):
            for key in sorted(one, key=str):
                add(str(key))
                add(one[key])
        elif isinstance(one, (list, tuple)):
            for item in one:
                add(item)
        else:
            found.update(repr(one).encode())

    add(value)
    return found.hexdigest()


def train(options: argparse.Namespace) -> None:
    """The child: train to the end, and write down what came out."""
    import torch as th
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

    from sb3_ext import LFIWSAC, PackedSubprocVecEnv
    from sb3_ext.resume import ResumableCheckpoint, ResumableEnv

    th.set_num_threads(1)

    class Rewards(BaseCallback):
        """All rewards; a checkpoint holds them, so they are those of all lives together."""

        def __init__(self) -> None:
            super().__init__()
            self.rewards: list[list[float]] = []

        def _on_step(self) -> bool:
            self.rewards.append(self.locals["rewards"].tolist())
            return True

    kinds: dict[str, Any] = {"dummy": DummyVecEnv, "subproc": SubprocVecEnv}
    kinds["packed"] = PackedSubprocVecEnv
    env = make_vec_env(
        options.env,
        options.n_envs,
        seed=options.seed,
        vec_env_cls=kinds[options.vec_env],
        wrapper_class=ResumableEnv,
    )
    model = LFIWSAC(
        "MlpPolicy",
        env,
        seed=options.seed,
        learning_starts=100,
        buffer_size=10_000,
        fast_buffer_size=200,
        policy_kwargs={"net_arch": [32, 32]},
        ratio_net_arch=(32, 32),
        device="cpu",
    )
    rewards = Rewards()
    keeping = ResumableCheckpoint(options.child, every=options.every)
    print("started", flush=True)
    model.learn(options.steps, callback=[rewards] if options.whole else [rewards, keeping])
    buffer = model.replay_buffer
    (options.child / RESULT).write_text(
        json.dumps(
            {
                "steps": model.num_timesteps,
                "weights_active": bool(model.weigher.metrics().get("lfiw/active")),
                "parameters and optimisers": digest(model.get_parameters()),
                "replay buffer": digest(
                    [v for _, v in sorted(vars(buffer).items()) if isinstance(v, (np.ndarray, int))]
                ),
                "rewards": digest(rewards.rewards),
                "number of rewards": len(rewards.rewards),
            }
        )
    )
    env.close()


def start(options: argparse.Namespace, folder: Path, *extra: str) -> subprocess.Popen[str]:
    """Start a child and wait for its first word."""
    names = ("env", "n_envs", "vec_env", "steps", "every", "seed")
    given = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in names]
    child = subprocess.Popen(
        [sys.executable, __file__, "--child", str(folder), *given, *extra],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    if child.stdout.readline() != "started\n":
        raise SystemExit(f"the run in {folder} did not start; its error is above")
    return child


def finish(child: subprocess.Popen[str], folder: Path) -> dict[str, Any]:
    """Wait for the end of a run; its result."""
    if child.wait() != 0:
        raise SystemExit(f"the run in {folder} ended with exit code {child.returncode}")
    found: dict[str, Any] = json.loads((folder / RESULT).read_text())
    return found


def killed(
    child: subprocess.Popen[str], folder: Path, options: argparse.Namespace, moments: random.Random
) -> bool:
    """Kill the child at a random moment; False if it came to its end before."""
    while child.poll() is None and reached(folder) < options.after:
        time.sleep(0.01)
    try:
        child.wait(moments.uniform(0.0, options.longest_life))
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGKILL)
        child.wait()
        return True
    return False


def reached(folder: Path) -> int:
    """The step of the newest checkpoint, 0 if there is none."""
    return max((int(path.name[5:]) for path in folder.glob("checkpoints/step-*")), default=0)


def stress(options: argparse.Namespace, parent: Path) -> int:
    """Kill and start again until enough kills are done; returns the number of lost runs."""
    moments, kills, lost, runs = random.Random(options.seed), 0, 0, 0
    while kills < options.kills:
        whole_dir, run_dir = parent / f"whole-{runs}", parent / f"run-{runs}"
        for folder in (whole_dir, run_dir):
            folder.mkdir(parents=True)
        whole = finish(start(options, whole_dir, "--whole"), whole_dir)
        lives = 1
        child = start(options, run_dir)
        while kills < options.kills and killed(child, run_dir, options, moments):
            kills, lives = kills + 1, lives + 1
            child = start(options, run_dir)
        found = finish(child, run_dir)
        other = [name for name in whole if whole[name] != found[name]]
        lost += bool(other)
        told = f"differs in {', '.join(other)}" if other else "equal to the last bit"
        print(
            f"run {runs}: {options.env}, {options.n_envs} {options.vec_env}, seed {options.seed}, "
            f"{found['steps']} steps, weights active: {found['weights_active']}, "
            f"killed {lives - 1} times: {told}",
            flush=True,
        )
        shutil.rmtree(whole_dir)
        if not other:
            shutil.rmtree(run_dir)
        runs, options.seed = runs + 1, options.seed + 1
    print(f"{kills} kills, {runs} runs, {lost} lost")
    return lost


def main() -> None:
    """Be the child, or kill children."""
    options = parse()
    if options.child is not None:
        train(options)
        return
    began = time.monotonic()
    parent = Path(tempfile.mkdtemp(prefix="kill-"))
    lost = stress(options, parent)
    print(f"{time.monotonic() - began:.0f} s" + (f"; see {parent}" if lost else ""))
    if not lost:
        shutil.rmtree(parent)
    raise SystemExit(bool(lost))


if __name__ == "__main__":
    main()
