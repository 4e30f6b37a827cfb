"""`sb3-ext train` that begins with an agent or transitions, films itself, or has no room."""

import pickle
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import stable_baselines3 as sb3
from stable_baselines3.common.save_util import load_from_zip_file

from sb3_ext import cli
from sb3_ext.trees import same

NET = ["--set", "policy_kwargs.net_arch=[8]"]
QUICK = ["--no-progress", "--eval-every", "0"]
LFIW = ["--set", "fast_buffer_size=60", "--set", "ratio_net_arch=[8]"]
PENDULUM = ["--env", "Pendulum-v1"]


def train(*words: str) -> int:
    return cli.main(["train", *words])


def parameters(path: str | Path) -> dict:
    return load_from_zip_file(path, load_data=False)[1]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def stock(tmp_path_factory) -> Path:
    """A run of stock SAC: an agent, and a replay buffer of 150 transitions."""
    folder = tmp_path_factory.mktemp("stock") / "run"
    words = ["sb3:SAC", *PENDULUM, "--steps", "150", *NET, *QUICK, "--save-replay-buffer"]
    assert train(*words, "--run-dir", str(folder)) == 0
    return folder


@pytest.mark.parametrize("part", ["", "model.zip"])
def test_a_run_begins_with_an_agent_and_unpickles_nothing(stock, part, monkeypatch):
    def forbidden(*_args, **_kwargs):
        raise AssertionError("something was unpickled")

    for target in ("pickle.load", "pickle.loads", "cloudpickle.loads"):
        monkeypatch.setattr(target, forbidden)
    words = ["LFIWSAC", *PENDULUM, "--steps", "70", *NET, *LFIW, *QUICK, "--run-dir", "run"]
    assert train(*words, "--trained-agent", str(stock / part)) == 0
    began, was = parameters("run/checkpoints/step-000000000/model.zip"), parameters(stock / "model")
    for name in ("policy", "actor.optimizer", "critic.optimizer", "ent_coef_optimizer"):
        assert same(began[name], was[name]), name
    # The entropy coefficient is neither a network nor an optimiser.
    tensors = [
        load_from_zip_file(path, load_data=False)[2]["log_ent_coef"].item()
        for path in ("run/checkpoints/step-000000000/model.zip", stock / "model.zip")
    ]
    assert tensors[0] == tensors[1] != 0
    assert "weigher" in began


def test_a_run_begins_with_transitions_and_keeps_them_over_a_resume(stock):
    words = ["SAC", *PENDULUM, "--steps", "40", *NET, *QUICK, "--run-dir", "run"]
    trust = ["--replay-buffer", str(stock / "replay_buffer.pkl"), "--allow-pickle"]
    assert train(*words, *trust, "--checkpoint-every", "20", "--save-replay-buffer") == 0
    assert train("--resume", "run", "--steps", "60", "--no-progress") == 0
    given, found = (
        pickle.loads((folder / "replay_buffer.pkl").read_bytes()) for folder in (stock, Path("run"))
    )
    assert (given.size(), found.size()) == (150, 210)
    assert np.array_equal(found.rewards[:150], given.rewards[:150])
    # Its own options name the buffer, too; trust is asked for anew.
    assert train("--config", "run/options.yaml", "--run-dir", "again", "--no-progress") == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["SAC", *PENDULUM, "--trained-agent", "none.zip"], "there is no agent none.zip"),
        (["SAC", *PENDULUM, "--trained-agent", "{stock}"], "does not fit this SAC"),
        (
            ["TD3", *PENDULUM, *NET, "--trained-agent", "{stock}"],
            "was saved by stable_baselines3's",
        ),
        (["PPO", *PENDULUM, *NET, "--trained-agent", "{stock}"], "does not fit this PPO"),
        (
            ["SAC", *PENDULUM, *NET, "--normalize", "--trained-agent", "{stock}"],
            "leave --normalize out",
        ),
        (["SAC", *PENDULUM, "--trained-agent", "{stock}/replay_buffer.pkl"], "not a whole saved"),
        (["SAC", *PENDULUM, "--replay-buffer", "{buffer}"], "Add --allow-pickle if you trust it"),
        (["SAC", *PENDULUM, "--replay-buffer", "none.pkl"], "there is no replay buffer none.pkl"),
        (["PPO", *PENDULUM, "--replay-buffer", "{buffer}"], "PPO learns from its own rollouts"),
        (
            ["SAC", *PENDULUM, "--n-envs", "2", "--replay-buffer", "{buffer}", "--allow-pickle"],
            "environments, and this model has 2",
        ),
        (
            [
                "sb3:SAC",
                *PENDULUM,
                "--n-envs",
                "2",
                "--replay-buffer",
                "{buffer}",
                "--allow-pickle",
            ],
            "has n_envs 1, and this run has 2",
        ),
        (
            [
                *("SAC", "--env", "MountainCarContinuous-v0"),
                *("--replay-buffer", "{buffer}", "--allow-pickle"),
            ],
            "with observation_space Box",
        ),
        (
            ["SAC", *PENDULUM, "--replay-buffer", "{stock}/model.zip", "--allow-pickle"],
            "cannot be used as replay buffer",
        ),
        (["SAC", *PENDULUM, "--video-every", "-1"], "at least 0"),
    ],
)
def test_what_does_not_fit_is_told_and_leaves_nothing(stock, words, told, tmp_path, capsys):
    given = [
        word.replace("{stock}", str(stock)).replace("{buffer}", str(stock / "replay_buffer.pkl"))
        for word in words
    ]
    try:
        code = train(*given, "--no-progress")
    except SystemExit as error:  # argparse's
        code = error.code
    err = capsys.readouterr().err
    assert (code, err.count("\n")) == (2, 1)
    assert told in err
    assert len(err) < 700
    assert list(tmp_path.iterdir()) == []


def test_films_are_made_in_training_and_of_an_agent(capsys):
    words = ["SAC", *PENDULUM, "--steps", "60", *NET, *QUICK, "--normalize", "--run-dir", "run"]
    assert train(*words, "--video-every", "30") == 0
    assert [film.name for film in sorted(Path("run/videos").iterdir())] == [
        "step-0000000030.gif",
        "step-0000000060.gif",
    ]
    seen = ["eval", "run", "--episodes", "1", "--seed", "5", "--video"]
    assert cli.main([*seen, "there/it.gif"]) == 0
    out = capsys.readouterr().out
    # The film starts in the state in which the first evaluation episode did.
    mean = float(out.partition("mean ")[2].partition(",")[0])
    film = float(out.partition("it.gif, return ")[2].partition(" ")[0])
    assert film == pytest.approx(mean, abs=0.11)
    assert Path("there/it.gif").stat().st_size > 10_000
    for wrong, told in (("it.mp4", "must end in .gif"), ("there", "must end in .gif")):
        assert cli.main([*seen, wrong]) == 2
        assert told in capsys.readouterr().err


def test_the_best_models_are_artifacts_on_request(capsys):
    words = ["SAC", *PENDULUM, "--steps", "250", *NET, "--no-progress", "--run-dir", "run"]
    words += ["--eval-every", "200", "--eval-episodes", "1", "--save-best"]
    assert train(*words) == 2
    assert "it needs track wandb" in capsys.readouterr().err
    assert not Path("run").exists()
    assert train(*words, "--track", "wandb") == 0
    (kept,) = Path("run/wandb_best_models").rglob("*.zip")
    assert same(parameters(kept), parameters("run/best_model.zip"))


def limited(kilobytes: int, *words: str) -> subprocess.CompletedProcess:
    """A run on a disk that takes no file beyond a size."""
    return subprocess.run(
        [sys.executable, "-m", "sb3_ext", "train", *words],
        preexec_fn=lambda: resource.setrlimit(
            resource.RLIMIT_FSIZE, (kilobytes * 1024, kilobytes * 1024)
        ),
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


def test_a_full_disk_is_told_and_the_run_goes_on_from_before():
    words = ["SAC", *PENDULUM, "--steps", "600", *NET, "--no-progress", "--checkpoint-every", "100"]
    words += ["--set", "learning_starts=30", "--eval-every", "500", "--eval-episodes", "1"]
    assert train(*words, "--run-dir", "whole") == 0
    # Room for a model without its optimisers' state: the first checkpoint, and no later one.
    done = limited(30, *words, "--run-dir", "run")
    assert done.returncode == 1, done.stderr
    assert "no checkpoint could be written at step" in done.stderr
    assert "training goes on, the last one is run/checkpoints/step-" in done.stderr
    assert "once there is room: sb3-ext train --resume run" in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("run/model.zip").exists()
    assert train("--resume", "run", "--no-progress") == 0
    assert same(parameters("whole/model.zip"), parameters("run/model.zip"))


def test_no_room_from_the_start_is_told():
    done = limited(1, "SAC", *PENDULUM, "--steps", "60", *NET, *QUICK, "--run-dir", "run")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("sb3-ext: no run can be written")
    assert "Traceback" not in done.stderr


def test_a_picture_without_room_does_not_spoil_a_finished_run(monkeypatch, capsys):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sb3_ext.plots.plot_training_run", full)
    assert train("SAC", *PENDULUM, "--steps", "40", *NET, *QUICK, "--run-dir", "run") == 0
    assert "no picture could be written: No space left on device" in capsys.readouterr().err
    sb3.SAC.load("run/model.zip")
