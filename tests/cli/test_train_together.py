"""`sb3-ext train` beside others: signals to the whole family, several starts at once, and films."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3

from sb3_ext.errors import UsageError
from sb3_ext.resume.store import read_manifest
from sb3_ext.running import TrainOptions, train
from tests.cli.test_train import fails
from tests.cli.test_train import train as run

PPO = ["PPO", "--env", "CartPole-v1", "--set", "n_steps=64", "--set", "batch_size=64"]
PPO += ["--set", "n_epochs=1", "--eval-every", "0", "--no-progress"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sb3_ext", "train", *PPO, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # A shell's background jobs ignore the signal, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.mark.parametrize("vec_env", ["subproc", "packed"])
def test_a_terminal_s_ctrl_c_reaches_the_workers_and_leaves_a_checkpoint(vec_env):
    words = ["--n-envs", "2", "--vec-env", vec_env, "--steps", "1000000", "--run-dir", "run"]
    process = start(*words, "--checkpoint-every", "128")
    deadline = time.monotonic() + 120
    while not list(Path("run").glob("checkpoints/step-00000[1-9]*")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 130, told
    assert "Stopping at the next safe point" in told
    assert "sb3-ext train --resume run" in told
    assert "no checkpoint could be written" not in told
    newest = max(Path("run/checkpoints").glob("step-*"))
    assert f"Stopped at step {read_manifest(newest)['num_timesteps']:,}." in told


def test_starts_at_the_same_moment_get_a_folder_each():
    several = [start("--steps", "64", "--checkpoint-every", "0") for _ in range(3)]
    told = [one.communicate(timeout=200)[0] for one in several]
    assert [one.returncode for one in several] == [0, 0, 0], told
    folders = sorted(path.name for path in Path("runs/ppo").iterdir())
    assert folders == ["CartPole-v1_1", "CartPole-v1_2", "CartPole-v1_3"]
    for folder in folders:
        assert (Path("runs/ppo") / folder / "model.zip").exists()


def test_a_mistake_leaves_no_folder_behind(capsys):
    assert "n_steps must be at least 1" in fails(capsys, *PPO, "--set", "n_steps=0")
    assert "no policy" in fails(capsys, *PPO, "--policy", "Mlp2Policy")
    assert not Path("runs").exists()


def test_a_folder_in_which_another_trains_is_not_taken_away(tmp_path):
    other = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import sys, time; from pathlib import Path\n"
            "from sb3_ext.resume.store import lock_folder\n"
            "Path('taken').mkdir(); lock_folder(Path('taken')); print(1, flush=True)\n"
            "time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
    )
    assert other.stdout is not None
    other.stdout.readline()
    inode = Path("taken").stat().st_ino
    with pytest.raises(UsageError, match="another process is training"):
        train(TrainOptions(algorithm="sb3:PPO", env="CartPole-v1", steps=64), "taken")
    other.kill()
    other.communicate()
    assert Path("taken").stat().st_ino == inode


def test_a_run_that_failed_leaves_its_folder_to_others(monkeypatch):
    def failing(self: Any) -> None:
        raise RuntimeError("a fault of the user's")

    options = TrainOptions(algorithm="sb3:PPO", env="CartPole-v1", steps=64, eval_every=0)
    monkeypatch.setattr(sb3.PPO, "train", failing)
    with pytest.raises(RuntimeError, match="a fault of the user's"):
        train(options, "failed")
    done = subprocess.run(
        [
            *(sys.executable, "-c"),
            "from pathlib import Path; from sb3_ext.resume.store import lock_folder\n"
            "lock_folder(Path('failed'))",
        ],
        check=False,
    )
    assert done.returncode == 0


class Unseen(gym.Env[Any, Any]):
    """Takes no render_mode, though it says so."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}

    def __init__(self, gain: Any = 1.0) -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (2,))
        self.action_space = gym.spaces.Box(-1, 1, (1,))
        self.gain = gain

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(2, np.float32), 1.0 * self.gain, False, False, {}


@pytest.fixture
def unseen():
    gym.register("Unseen-v0", Unseen, max_episode_steps=20)
    yield
    gym.registry.pop("Unseen-v0")


@pytest.mark.usefixtures("unseen")
def test_what_cannot_be_filmed_is_refused_before_training(capsys):
    words = ["SAC", "--env", "Unseen-v0", "--steps", "50", "--no-progress", "--run-dir", "run"]
    assert "cannot be filmed" in fails(capsys, *words, "--video-every", "20")
    assert not Path("run").exists()
    assert run(*words, "--eval-every", "0", "--set", "policy_kwargs.net_arch=[8]") == 0
    from sb3_ext import cli

    capsys.readouterr()
    assert cli.main(["eval", "run", "--episodes", "1", "--video", "film.gif"]) == 2
    assert "cannot be filmed" in capsys.readouterr().err
    assert cli.main(["eval", "run", "--episodes", "1", "--video", "/proc/no/film.gif"]) == 2
    assert "--video cannot be written to /proc/no" in capsys.readouterr().err
    assert cli.main(["eval", "run", "--episodes", "1"]) == 0
    assert "no interval from one episode" in capsys.readouterr().out


@pytest.mark.usefixtures("unseen")
def test_an_environment_that_fails_at_its_first_step_is_refused(capsys):
    words = ["SAC", "--env", "Unseen-v0", "--steps", "50", "--run-dir", "run"]
    told = fails(capsys, *words, "--env-set", "gain=abc")
    assert "'Unseen-v0' fails at its first step (TypeError" in told
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("hyperparameters: 5", "hyperparameters must be a mapping, got 5"),
        ("hyperparameters: {train_freq: 0}", "train_freq must be at least 1, got 0"),
        ("hyperparameters: {train_freq: [0, episode]}", "train_freq must be at least 1"),
        ("hyperparameters: {batch_size: 0}", "batch_size must be at least 1, got 0"),
    ],
)
def test_configs_that_cannot_be_meant(capsys, text, sentence):
    Path("c.yaml").write_text(f"algorithm: SAC\nenv: Pendulum-v1\n{text}\n")
    assert sentence in fails(capsys, "--config", "c.yaml", "--steps", "50", "--run-dir", "run")
    assert not Path("run").exists()


def test_a_whole_number_may_be_written_as_2e2_and_names_in_any_case(capsys):
    words = ["lfiwsac", "--env", "Pendulum-v1", "--steps", "50", "--no-progress"]
    words += ["--set", "buffer_size=2e2", "--set", "policy_kwargs.net_arch=[8]"]
    words += ["--set", "fast_buffer_size=2e1"]
    assert run(*words, "--eval-every", "0", "--run-dir", "run") == 0
    from sb3_ext import cli

    assert cli.main(["info", "lfiwsac"]) == 0
    assert "from sb3_ext import LFIWSAC" in capsys.readouterr().out


def test_a_run_of_an_algorithm_without_rollouts_is_not_begun_again(capsys):
    words = ["contrib:ARS", "--env", "CartPole-v1", "--steps", "200", "--no-progress"]
    assert run(*words, "--eval-every", "0", "--run-dir", "run") == 0
    Path("run/model.zip").unlink()  # as if it had been killed
    before = Path("run/progress.csv").read_bytes()
    assert "trained without checkpoints" in fails(capsys, "--resume", "run")
    assert Path("run/progress.csv").read_bytes() == before


def test_a_buffer_of_another_size_is_refused_and_says_how(capsys):
    small = ["--set", "policy_kwargs.net_arch=[8]", "--no-progress", "--eval-every", "0"]
    words = ["SAC", "--env", "Pendulum-v1", "--steps", "50", *small]
    first = ["--set", "buffer_size=500", "--save-replay-buffer", "--run-dir", "first"]
    assert run(*words, *first) == 0
    again = [*words, "--replay-buffer", "first/replay_buffer.pkl", "--allow-pickle"]
    told = fails(capsys, *again, "--set", "buffer_size=5000", "--run-dir", "second")
    assert "has buffer_size 500, and this run has 5000: add --set buffer_size=500" in told
    assert run(*again, "--set", "buffer_size=500", "--run-dir", "second") == 0
    Path("bad.pkl").write_bytes(b"cno_such_module\nThing\n.")
    bad = [*words, "--replay-buffer", "bad.pkl", "--allow-pickle", "--run-dir", "third"]
    assert "cannot be used as replay buffer (ModuleNotFoundError)" in fails(capsys, *bad)


def test_returns_do_not_reach_from_a_loaded_buffer_into_the_new_run():
    small = ["--set", "policy_kwargs.net_arch=[8]", "--no-progress", "--eval-every", "0"]
    words = ["SAC", "--env", "Pendulum-v1", "--steps", "50", "--set", "buffer_size=500", *small]
    words += ["--set", "n_steps=3"]
    assert run(*words, "--save-replay-buffer", "--run-dir", "first") == 0
    found = []

    def look(model: Any, _keeping: Any) -> None:
        found.append(model.replay_buffer.timeouts[model.replay_buffer.pos - 1])

    options = TrainOptions(
        algorithm="SAC",
        env="Pendulum-v1",
        steps=20,
        eval_every=0,
        replay_buffer="first/replay_buffer.pkl",
        hyperparameters={"buffer_size": 500, "n_steps": 3, "policy_kwargs": {"net_arch": [8]}},
    )
    train(options, "second", allow_pickle=True, on_start=look)
    assert found[0].all()
