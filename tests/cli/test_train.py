"""`sb3-ext train`: what it leaves, what it refuses, and the way back after a stop."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from sb3_ext import cli
from sb3_ext.running import run_options
from sb3_ext.trees import same

SMALL = ["--set", "policy_kwargs.net_arch=[8]", "--set", "learning_starts=30", "--no-progress"]
LFIW = [*SMALL, "--set", "fast_buffer_size=60", "--set", "ratio_net_arch=[8]"]


BUFFER, PER = "replay_buffer_class", "PrioritizedReplayBuffer"


def train(*words: str) -> int:
    return cli.main(["train", *words])


def fails(capsys, *words: str) -> str:
    """The one sentence that a mistake gets."""
    capsys.readouterr()
    try:
        code = train(*words)
    except SystemExit as error:  # argparse's
        code = error.code
    assert code == 2
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert told.out == ""
    return told.err


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_run_leaves_all_that_reproduces_it(capsys):
    words = ["LFIWSAC", "--env", "Pendulum-v1", "--steps", "450", *LFIW]
    assert train(*words, "--eval-every", "200", "--eval-episodes", "2", "--seed", "4") == 0
    run = Path("runs/lfiw_sac/Pendulum-v1_1")
    assert "sb3-ext eval runs/lfiw_sac/Pendulum-v1_1" in capsys.readouterr().out
    names = {path.name for path in run.iterdir()}
    assert names == {
        *("0.monitor.csv", "best_model.zip", "checkpoints", "config.json", "evaluations.npz"),
        *("learning_curve.png", "model.zip", "options.yaml", "progress.csv"),
    }
    assert np.load(run / "evaluations.npz")["timesteps"].tolist() == [200, 400]
    assert len(pd.read_csv(run / "0.monitor.csv", skiprows=1)) == 2
    values = yaml.safe_load((run / "options.yaml").read_text())
    assert (values["seed"], values["hyperparameters"]["fast_buffer_size"]) == (4, 60)
    # The same again from its own options, in the next free folder.
    assert train("--config", str(run / "options.yaml"), "--no-progress") == 0
    again = Path("runs/lfiw_sac/Pendulum-v1_2")
    assert run_options(again) == run_options(run)
    one, other = (np.load(one / "evaluations.npz")["results"] for one in (run, again))
    assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("algorithm", "env", "settings"),
    [
        ("ppo", "CartPole-v1", ["n_steps=32", "batch_size=16", "clip_range=lin_0.2"]),
        ("contrib:TQC", "Pendulum-v1", ["learning_starts=20", "policy_kwargs.activation_fn=tanh"]),
        ("sb3:SAC", "Pendulum-v1", ["learning_rate=1e-3", "train_freq=[1, episode]"]),
        ("TD3", "Pendulum-v1", ["action_noise.type=normal", "action_noise.std=0.1"]),
        ("RecurrentPPO", "CartPole-v1", ["n_steps=32", "batch_size=16"]),
        ("ARS", "CartPole-v1", ["n_delta=1"]),
        ("SAC", "Pendulum-v1", ["weighting.name=lfiw", "weighting.fast_buffer_size=40"]),
        ("SAC", "Pendulum-v1", [f"{BUFFER}={PER}", "replay_buffer_kwargs.alpha=0.5"]),
        ("sb3:SAC", "Pendulum-v1", [f"{BUFFER}=EREReplayBuffer", "replay_buffer_kwargs.c_min=9"]),
    ],
)
def test_every_algorithm_can_be_named(algorithm, env, settings):
    words = [word for one in settings for word in ("--set", one)]
    options = ["--steps", "64", "--no-progress", "--run-dir", "run", "--eval-every", "0"]
    assert train(algorithm, "--env", env, *words, *options) == 0
    assert Path("run/model.zip").exists()


def test_normalisation_is_found_again(capsys):
    options = ["--steps", "300", "--normalize", "--eval-every", "200", "--eval-episodes", "1"]
    assert train("SAC", "--env", "Pendulum-v1", *options, *SMALL, "--run-dir", "run") == 0
    for which in ("best", "final"):
        assert cli.main(["eval", "run", "--which", which, "--episodes", "1"]) == 0
    means = np.load("run/model_statistics.npz")
    assert means["observation.mean"].shape == (3,)
    assert means["observation.count"] > 250
    Path("run/model_statistics.npz").unlink()
    assert cli.main(["eval", "run", "--which", "final"]) == 2
    assert "VecNormalize, whose means are not beside it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["LFIWSCA", "--env", "Pendulum-v1"], "did you mean 'LFIWSAC'?"),
        (["SAC", "--env", "Pendulum-v2"], "'Pendulum-v2'"),
        (["SAC", "--env", "Pendulm-v1"], "did you mean 'Pendulum-v1'?"),
        (["SAC", "--env", "Pendulum-v1", "--stesp", "3"], "option --stesp; did you mean --steps?"),
        (["SAC", "--env", "Pendulum-v1", "--steps", "0"], "must be at least 1, got 0"),
        (["SAC", "--env", "Pendulum-v1", "--set", "gama=1"], "'gama'; did you mean 'gamma'?"),
        (["SAC", "--env", "Pendulum-v1", "--set", "gamma"], "key=value, as in gamma=0.98"),
        (["SAC", "--env", "Pendulum-v1", "--set", "seed=3"], "use --seed"),
        (["SAC", "--env", "Pendulum-v1", "--set", "weighting=lfwi"], "did you mean 'lfiw'?"),
        (["SAC", "--env", "Pendulum-v1", "--set", "learning_rate=cos_1"], "lin_ and a number"),
        (["SAC", "--env", "CartPole-v1"], "SAC cannot be made: "),
        (["LFIWSAC", "--env", "Pendulum-v1", "--set", "temperature=-1"], "temperature"),
        (["SAC", "--env", "Pendulum-v1", "--env-set", "gravity=1"], "cannot be made: "),
        (["SAC", "--env", "Pendulum-v1", "--policy", "MlpPolcy"], "did you mean MlpPolicy?"),
        (["SAC", "--env", "Pendulum-v1", "--policy", "x"], "it has MlpPolicy, CnnPolicy"),
        (["Zzzz", "--env", "Pendulum-v1"], "known are "),
        (["per", "--env", "Pendulum-v1"], "into an algorithm, as replay='per'"),
        (["sb3:SAC", "--env", "Pendulum-v1", "--set", "replay=per"], "name it without the sb3:"),
        (["SAC", "--env", "Pendulum-v1", "--set", f"{BUFFER}=PERBuffer"], "EREReplayBuffer, Prio"),
        (["sb3:SAC", "--env", "Pendulum-v1", "--set", f"{BUFFER}={PER}"], "take the class of the"),
        (["SAC"], "give --env, or a --config that does"),
        (["--resume", "nowhere"], "nowhere holds no run of `sb3-ext train`"),
        (["SAC", "--resume", "nowhere"], "may be given with it, not ALGO"),
        (["--config", "none.yaml"], "none.yaml cannot be read: No such file"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(capsys, tmp_path, words, told):
    assert told in fails(capsys, *words)
    assert list(tmp_path.rglob("*.*")) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("env: [", "is no YAML"),
        ("- 1", "must hold a mapping"),
        ("algorithm: SAC\nenv: Pendulum-v1\nstesp: 3", "'stesp'; did you mean 'steps'?"),
        ("algorithm: SAC\nenv: Pendulum-v1\nsteps: many", "steps must be an integer"),
        ("!!python/object/apply:os.system ['touch hacked']", "is no YAML"),
    ],
)
def test_a_config_is_data(capsys, text, told):
    Path("it.yaml").write_text(text)
    assert told in fails(capsys, "--config", "it.yaml")
    assert [path.name for path in Path().iterdir()] == ["it.yaml"]


def test_a_folder_in_use_is_left_alone(capsys):
    Path("run").mkdir()
    Path("run/thesis.txt").write_text("years of work")
    words = ["SAC", "--env", "Pendulum-v1", "--run-dir", "run"]
    assert "already holds a run; choose another name" in fails(capsys, *words)
    assert Path("run/thesis.txt").read_text() == "years of work"


def start(*words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "sb3_ext", "train", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_checkpoint(folder: Path, step: int) -> None:
    until = time.monotonic() + 120
    while not (folder / f"checkpoints/step-{step:09d}").exists():
        assert time.monotonic() < until, "no checkpoint was written"
        time.sleep(0.02)


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_goes_on_to_the_same_end(way):
    from stable_baselines3.common.save_util import load_from_zip_file

    words = ["LFIWSAC", "--env", "Pendulum-v1", "--steps", "700", *LFIW]
    words += ["--checkpoint-every", "150", "--eval-every", "200", "--eval-episodes", "1"]
    assert train(*words, "--run-dir", "whole") == 0
    child = start(*words, "--run-dir", "run")
    wait_for_checkpoint(Path("run"), 150)
    child.send_signal(way)
    out, err = child.communicate(timeout=100)
    if way == signal.SIGINT:
        assert child.returncode == 130, err
        assert "sb3-ext train --resume run" in out
        assert "Stopping at the next safe point" in err
    assert not Path("run/model.zip").exists()
    assert train("--resume", "run", "--no-progress") == 0
    one, other = (
        load_from_zip_file(f"{name}/model.zip", load_data=False)[1:] for name in ("whole", "run")
    )
    assert same(one[0], other[0])
    for name in ("evaluations.npz",):
        one, other = (np.load(Path(folder) / name) for folder in ("whole", "run"))
        assert np.array_equal(one["results"], other["results"])
    tables = [pd.read_csv(f"{name}/0.monitor.csv", skiprows=1) for name in ("whole", "run")]
    assert tables[0][["r", "l"]].equals(tables[1][["r", "l"]])
