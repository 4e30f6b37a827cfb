"""Every script in examples/ runs on a tiny budget and leaves what it says.

A new example adds a row to ``TINY``; one without a row fails the first test.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


@dataclass(frozen=True)
class Tiny:
    """Arguments that keep a script short; ``{out}`` is a fresh folder."""

    arguments: str = ""
    leaves: tuple[str, ...] = ()  # patterns under {out}, each matched by a file that is not empty


TINY = {
    "custom_weighting.py": Tiny("--steps 300"),
    "prioritized_replay.py": Tiny("--replay ere_per --steps 400"),
    "tune_temperature.py": Tiny(
        "--steps 120 --seeds 2 --temperatures 2 10 --out {out}/t",
        ("t/temperature.png", "t/study.log"),
    ),
    "truly_off_policy.py": Tiny(
        "--env Pendulum-v1 --steps 20 --seeds 1 --jobs 1 --evaluations 2 --episodes 1 "
        "--out {out}/off",
        ("off/truly_off_policy.png", "off/concurrent_0.json", "off/imitation_0.json"),
    ),
    "causal_confusion.py": Tiny(
        "--samples 40 --steps 30 --seeds 1 --evaluations 1 --episodes 2 --queries 5 --jobs 1 "
        "--out {out}/causal",
        ("causal/causal_confusion.png", "causal/seed_0.json", "causal/weights_0.png"),
    ),
    "causal_pong.py": Tiny(
        "--samples 200 --vae-steps 4 --steps 4 --latents 3 --width 8 --points 1 --limit 40 "
        "--evaluations 1 --episodes 2 --queries 4 --seeds 0 --out {out}/pong",
        ("pong/seed_0/results.json", "pong/seed_0/graphs_confounded.zip", "pong/seed_0/*.png"),
    ),
    "gail.py": Tiny(
        "--env Pendulum-v1 --env-kwargs --expert-steps 2048 --steps 2048 --clone-steps 20 "
        "--episodes 1 --keep-every 5 --trials 1 --seeds 1 --jobs 1 --out {out}/gail",
        ("gail/gail.png", "gail/expert.npz", "gail/GAIL_1_0.json", "gail/BC_1_0.json"),
    ),
    "policy_dependent_norm.py": Tiny("--out {out}/norm.png", ("norm.png",)),
    "demo.py": Tiny(
        "--env Pendulum-v1 --steps 600 --seed 3 --run-dir {out}/run",
        (
            "run/model.zip",
            "run/best_model.zip",
            "run/replay_buffer.pkl",
            "run/monitor.csv",
            "run/evaluations.npz",
            "run/progress.csv",
            "run/config.json",
            "run/learning_curve.png",
            "run/tensorboard/events.*",
            "run/wandb/offline-run-*/run-*.wandb",
        ),
    ),
}


def command(script, arguments):
    return [sys.executable, str(EXAMPLES / script), *arguments.split()]


def environment(folder):
    """The user's, less W&B's settings; scripts run in a folder of their own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    return {**kept, "PYTHONPATH": str(ROOT), "HOME": str(folder), "COLUMNS": "100"}


def run(folder, script, arguments):
    return subprocess.run(
        command(script, arguments),
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_every_example_has_a_tiny_budget():
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    assert scripts == set(TINY)


@pytest.mark.parametrize("script", sorted(TINY))
def test_the_example_runs_and_leaves_its_files(script, tmp_path):
    tiny = TINY[script]
    ended = run(tmp_path, script, tiny.arguments.format(out=tmp_path))
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    for pattern in tiny.leaves:
        found = list(tmp_path.glob(pattern))
        assert found, f"{script} left no {pattern}"
        assert all(path.stat().st_size > 0 for path in found)


@pytest.mark.slow
def test_the_demo_can_be_loaded_and_tells_what_it_did(tmp_path):
    from sb3_ext import LFIWSAC

    arguments = "--env Pendulum-v1 --steps 300 --temperature 3 --track none"
    ended = run(tmp_path, "demo.py", arguments)
    assert ended.returncode == 0, ended.stderr
    folder = tmp_path / "runs" / "demo-pendulum-1"  # the default folder, counted
    config = json.loads((folder / "config.json").read_text())
    assert config["env"] == "Pendulum-v1"
    assert config["hyperparameters"]["temperature"] == 3.0
    assert not (folder / "wandb").exists()
    assert not (folder / "tensorboard").exists()
    with np.load(folder / "evaluations.npz") as evaluations:
        np.testing.assert_array_equal(evaluations["timesteps"], [150, 300])
        assert evaluations["results"].shape == (2, 5)
    model = LFIWSAC.load(folder / "model.zip")
    model.load_replay_buffer(folder / "replay_buffer.pkl")
    assert (model.num_timesteps, model.temperature) == (300, 3.0)
    assert model.replay_buffer.size() == 300
    header, *rows = (folder / "progress.csv").read_text().splitlines()
    assert "lfiw/effective_sample_size" in header
    assert rows
    assert "learning_curve.png" in ended.stdout
    assert "wandb sync" not in ended.stdout


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_learned(tmp_path):
    arguments = "--env Pendulum-v1 --steps 50000 --track none --run-dir stopped"
    process = subprocess.Popen(
        command("demo.py", arguments),
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    folder, deadline = tmp_path / "stopped", time.monotonic() + 120
    monitor = folder / "monitor.csv"
    while time.monotonic() < deadline and process.poll() is None:
        if monitor.exists() and len(monitor.read_text().splitlines()) > 3:  # episodes have ended
            break
        time.sleep(0.1)
    try:
        process.send_signal(signal.SIGINT)
        try:
            printed, _ = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:  # it met a destructor, in which Python drops it
            process.send_signal(signal.SIGINT)
            printed, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, printed
    assert "Stopped after" in printed
    for name in ("model.zip", "replay_buffer.pkl", "learning_curve.png"):
        assert (folder / name).stat().st_size > 0
        assert name in printed


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--env Hoper-v5", "no environment 'Hoper-v5' is registered; did you mean 'Hopper-v5'?"),
        ("--env CartPole-v1", "LFIWSAC needs Box actions, CartPole-v1 has Discrete(2)"),
        ("--env Pendulum-v1 --run-dir .", "already holds a run; choose another name or remove it"),
    ],
)
def test_the_demo_refuses_in_one_sentence(arguments, sentence, tmp_path):
    (tmp_path / "model.zip").touch()
    ended = run(tmp_path, "demo.py", arguments)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert sentence in line
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["model.zip"]
