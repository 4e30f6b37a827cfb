"""`sb3-ext tune` in a terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from sb3_ext import cli
from sb3_ext.tuning.study import open_study

SMALL = [
    *("tune", "sb3:A2C", "--env", "CartPole-v1", "--trials", "3", "--steps", "100"),
    *("--evaluations", "4", "--eval-episodes", "1", "--top", "1", "--final-seeds", "2"),
    *("--ranges", "ranges.yaml", "--set", "policy_kwargs.net_arch=[4]"),
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("ranges.yaml").write_text("learning_rate: {low: 1e-4, high: 1e-2, log: true}\n")
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)


def fails(capsys, *words: str) -> str:
    capsys.readouterr()
    try:
        code = cli.main(words)
    except SystemExit as ended:
        code = ended.code
    told = capsys.readouterr().err.strip()
    assert code == 2
    assert told.count("\n") == 0
    return told


def test_one_line_searches_and_says_what_to_do_next(capsys):
    assert cli.main(SMALL) == 0
    out = capsys.readouterr().out
    assert "trial 0: " in out
    assert "the defaults" in out
    assert "configuration" in out
    assert "seeds that chose nothing" in out
    assert "3 trials of 1 run and up to 8 further runs, each of 100 steps" in out
    assert "sb3-ext train --config studies/sb3-A2C_CartPole-v1/best.yaml" in out
    # Larger, by --resume, which takes all else from the study.
    assert cli.main(["tune", "--resume", "studies/sb3-A2C_CartPole-v1", "--trials", "5"]) == 0
    out = capsys.readouterr().out
    assert "trial 4: " in out
    assert "trial 0: " not in out
    assert yaml.safe_load(Path("studies/sb3-A2C_CartPole-v1/study.yaml").read_text())["trials"] == 5


def test_a_config_and_a_database(capsys, monkeypatch):
    Path("it.yaml").write_text("algorithm: sb3:A2C\nenv: CartPole-v1\ntop: 0\nsteps: 64\n")
    words = ["tune", "--config", "it.yaml", "--trials", "2", "--ranges", "ranges.yaml"]
    few = ["--evaluations", "2", "--eval-episodes", "1", "--study", "mine", "--dir", "here"]
    monkeypatch.setenv("OPTUNA_STORAGE", "sqlite:///study.db")
    assert cli.main([*words, *few]) == 0
    assert Path("study.db").exists()
    assert not Path("here/study.log").exists()
    assert len(open_study(Path("here")).study.trials) == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["tune"], "give ALGO and --env, or a --config that does"),
        (["tune", "SACC", "--env", "Pendulum-v1"], "did you mean 'SAC'?"),
        (["tune", "SAC", "--env", "Pendulm-v1"], "did you mean 'Pendulum-v1'?"),
        (["tune", "SAC", "--env", "Pendulum-v1", "--space", "gama"], "did you mean 'gamma'?"),
        (["tune", "SAC", "--env", "Pendulum-v1", "--trails", "3"], "did you mean --trials?"),
        (["tune", "SAC", "--env", "Pendulum-v1", "--trials", "0"], "must be at least 1, got 0"),
        (["tune", "SAC", "--env", "Pendulum-v1", "--set", "gama=1"], "did you mean 'gamma'?"),
        (["tune", "PPO", "--env", "CartPole-v1"], "PPO declares no search space: give ranges"),
        (["tune", "SAC", "--env", "Pendulum-v1", "--ranges", "no.yaml"], "no.yaml cannot be read"),
        (["tune", "SAC", "--env", "Pendulum-v1", "--storage", "grpc://x"], "grpc://host:port"),
        (["tune", "--resume", "nowhere"], "nowhere holds no study"),
        (["tune", "--resume", "nowhere", "--steps", "3"], "may be given with it, not --steps"),
    ],
)
def test_a_mistake_is_one_sentence(capsys, words, told):
    assert told in fails(capsys, *words)
    assert not Path("studies").exists()


def test_without_optuna_the_extra_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    for name in [name for name in sys.modules if name.startswith("sb3_ext.tuning.")]:
        monkeypatch.delitem(sys.modules, name)
    told = fails(capsys, "tune", "SAC", "--env", "Pendulum-v1")
    assert 'tuning needs optuna, which is not installed: pip install "sb3-ext[tuning]"' in told


def test_help_is_quick():
    code = (
        "import sys; from sb3_ext import cli\n"
        "try: cli.main(['tune', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'optuna'} & set(sys.modules), 'heavy'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "tune --resume studies/" in done.stdout


def test_a_killed_worker_s_trial_is_done_again_and_nothing_is_done_twice():
    words = [*SMALL, "--trials", "6", "--top", "0", "--steps", "4000", "--pruner", "none"]
    command = [sys.executable, "-m", "sb3_ext", *words]
    log = Path("studies/sb3-A2C_CartPole-v1/study.log")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as process:
        until = time.monotonic() + 120
        while not (log.exists() and "CartPole" in log.read_text() and _running(log)):
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert cli.main(["tune", "--resume", str(log.parent)]) == 0
    trials = open_study(log.parent).study.trials
    states = [one.state.name for one in trials]
    assert states.count("COMPLETE") == 6
    assert states.count("FAIL") == 1
    (lost,) = [one for one in trials if one.state.name == "FAIL"]
    assert lost.user_attrs["failure"] == "its process died"
    (again,) = [one for one in trials if one.user_attrs.get("retry_of") == lost.number]
    assert again.params == lost.params


def _running(log: Path) -> bool:
    trials = open_study(log.parent).study.trials
    return any(one.state.name == "RUNNING" and one.params for one in trials)
