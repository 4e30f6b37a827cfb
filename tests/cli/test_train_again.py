"""`sb3-ext train --resume` where something is wrong with the run, and odd words on the line."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from sb3_ext import cli
from sb3_ext.cli.parsing import at_least
from tests.cli.test_train import fails, train

RUN = ["SAC", "--env", "Pendulum-v1", "--steps", "250", "--set", "policy_kwargs.net_arch=[8]"]
RUN += ["--set", "learning_starts=30", "--no-progress", "--eval-every", "0", "--run-dir", "run"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def contents() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}


def test_a_run_without_a_whole_checkpoint_is_not_begun_again(capsys):
    assert train(*RUN, "--checkpoint-every", "100") == 0
    Path("run/model.zip").unlink()
    for state in Path("run").glob("checkpoints/*/state.json"):
        state.write_text("{")
    before = contents()
    with pytest.warns(UserWarning, match="passed over"):
        assert "has no whole checkpoint left" in fails(capsys, "--resume", "run")
    assert contents() == before


def test_a_run_without_checkpoints_cannot_go_on(capsys):
    assert train(*RUN, "--checkpoint-every", "0") == 0
    before = contents()
    assert "was trained without checkpoints" in fails(capsys, "--resume", "run", "--steps", "400")
    assert contents() == before


def test_fewer_steps_than_were_done_are_refused(capsys):
    assert train(*RUN) == 0
    told = fails(capsys, "--resume", "run", "--steps", "100")
    assert "has done 250 steps already: --steps may only ask for more, got 100" in told
    assert yaml.safe_load(Path("run/options.yaml").read_text())["steps"] == 250


@pytest.mark.parametrize("damage", ["gone", "shorter"])
def test_a_log_that_lost_rows_does_not_stop_the_run(damage):
    assert train(*RUN, "--steps", "850", "--checkpoint-every", "100") == 0
    log = Path("run/progress.csv")
    if damage == "gone":
        log.unlink()
    else:
        log.write_text(log.read_text().splitlines(keepends=True)[0])
    with pytest.warns(UserWarning, match="the log goes on after the rows"):
        assert train("--resume", "run", "--steps", "1600", "--no-progress") == 0
    assert pd.read_csv(log)["time/total_timesteps"].iloc[-1] == 1600


def test_a_broken_record_is_told(capsys):
    assert train(*RUN) == 0
    Path("run/config.json").write_text("")
    assert "config.json is no JSON" in fails(capsys, "--resume", "run", "--steps", "300")


def test_two_processes_cannot_train_in_one_folder(capsys):
    assert train(*RUN) == 0
    code = (
        "import sys; from pathlib import Path; from sb3_ext.resume.store import lock_folder\n"
        "lock_folder(Path('run')); print('held', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        before = contents()
        told = fails(capsys, "--resume", "run", "--steps", "300")
        assert "another process is training in run" in told
        assert contents() == before
        other.kill()
    assert train("--resume", "run", "--steps", "300", "--no-progress") == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--set", "gamma=[1]"], "gamma must be a number, got [1]"),
        (["--set", "buffer_size=many"], "buffer_size must be a number, got 'many'"),
        (["--set", "policy_kwargs.net_arch=64"], "must be a list, as in [64,64], got 64"),
        (["--set", "policy_kwargs=3"], "policy_kwargs takes key=value"),
        (["--set", "policy_kwargs.activation_fn=[relu]"], "must be one of relu, tanh"),
        (["--set", "monitor_wrapper=false"], "unknown argument 'monitor_wrapper'"),
        (["--device", "cuda"], "torch finds no CUDA"),
    ],
)
def test_a_value_of_the_wrong_kind_is_told(capsys, tmp_path, words, told, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert told in fails(capsys, "SAC", "--env", "Pendulum-v1", *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("CartPole-v1:\n  n_timesteps: 1e5", "has presets for several environments: give --env"),
        ("algorithm: SAC\nenv: Pendulum-v1\nnormalize: 'no'", "normalize must be true or false"),
        ("algorithm: SAC\nenv: Pendulum-v1\nsave_replay_buffer: 7", "must be true or false, got 7"),
        ("algorithm: SAC\nenv: Pendulum-v1\nsteps: 4xx", "it.yaml: steps must be an integer"),
    ],
)
def test_a_config_of_the_wrong_kind_is_told(capsys, text, told):
    Path("it.yaml").write_text(text)
    assert told in fails(capsys, "--config", "it.yaml")


def test_a_number_of_steps_may_be_written_as_a_float():
    read = at_least(1)
    assert (read("1e5"), read("10_000"), read("2.5e3")) == (100_000, 10_000, 2_500)
    Path("it.yaml").write_text("algorithm: SAC\nenv: Pendulum-v1\nsteps: 1.0e+2\n")
    words = ["--config", "it.yaml", "--run-dir", "run", "--no-progress", "--eval-every", "0"]
    assert train(*words, "--set", "policy_kwargs.net_arch=[8]") == 0
    assert yaml.safe_load(Path("run/options.yaml").read_text())["steps"] == 100


def test_an_agent_that_saw_normalised_observations_sees_them_in_eval_too(capsys):
    words = ["--normalize", "--eval-every", "200", "--eval-episodes", "1"]
    assert train(*RUN[:-5], *words, "--no-progress", "--run-dir", "run") == 0
    returns = []
    trust = ["--allow-pickle", "--algo", "SAC", "--env", "Pendulum-v1"]
    for way in (["run", "--which", "final"], ["run/model.zip", *trust], ["run", "--which", "last"]):
        capsys.readouterr()
        assert cli.main(["eval", *way, "--episodes", "2", "--json"]) == 0
        returns.append(json.loads(capsys.readouterr().out)["returns"])
    # The last checkpoint is that of the end.
    assert returns[0] == returns[1] == returns[2]


def test_an_interrupt_before_training_is_told(monkeypatch, capsys):
    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("sb3_ext.catalog.find_algorithm", interrupted)
    assert cli.main(["train", *RUN]) == 130
    assert capsys.readouterr().err == "\nsb3-ext: interrupted\n"
