"""Processes that share a study, and the signals that they meet."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from sb3_ext import cli
from sb3_ext.tuning import TuneOptions, tune
from sb3_ext.tuning.queue import LOST, WORKER
from sb3_ext.tuning.study import create, open_study

ROOT = Path(__file__).parents[2]
FOLDER = Path("studies/shared")
SMALL: dict[str, Any] = {
    "algorithm": "sb3:A2C",
    "env": "CartPole-v1",
    "study": "shared",
    "trials": 3,
    "steps": 100,
    "evaluations": 4,
    "eval_episodes": 1,
    "top": 1,
    "final_seeds": 2,
    "pruner": "none",
    "ranges": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
    "hyperparameters": {"policy_kwargs": {"net_arch": [4]}},
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)


@contextlib.contextmanager
def started(*words: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """`sb3-ext tune` in a process of its own."""
    Path("it.yaml").write_text(yaml.safe_dump({**SMALL, **options}))
    command = [sys.executable, "-m", "sb3_ext", "tune", "--config", "it.yaml", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    # A CI that a shell started with & ignores SIGINT, and what it starts would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        try:
            yield process
        finally:
            process.kill()


def until(what: Callable[[], Any], seconds: float = 120) -> Any:
    ends_at = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < ends_at
        time.sleep(0.1)
    return found


def trials() -> list[optuna.trial.FrozenTrial]:
    if not (FOLDER / "study.yaml").exists():
        return []
    return open_study(FOLDER).study.get_trials()


def at_work(many: int) -> list[int]:
    """The pids of those who train, if there are so many."""
    running = [one for one in trials() if one.state == TrialState.RUNNING and one.params]
    pids = [one.user_attrs[WORKER]["pid"] for one in running if WORKER in one.user_attrs]
    return pids if len(pids) == many else []


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


HOLDS = """
import sys
from optuna.trial import TrialState
from pathlib import Path
from sb3_ext.tuning.study import open_study
opened = open_study(Path("studies/shared"))
trial = opened.queue.claim()
trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
print(trial.number, flush=True)
sys.stdin.readline()
opened.queue.finish(trial, TrialState.COMPLETE, 5.0)
"""


def test_who_is_done_first_waits_for_the_others_and_goes_on_with_the_second_stage():
    options = TuneOptions(**SMALL)
    create(options, FOLDER)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as other:
        assert other.stdout is not None
        number = int(other.stdout.readline())
        told: list[str] = []

        def tell(line: str) -> None:
            told.append(line)
            if line.startswith("waiting"):
                assert other.stdin is not None
                other.stdin.write("go on\n")
                other.stdin.flush()

        result = tune(options, FOLDER, tell=tell)
    assert f"waiting for other processes, which are at work on trial {number}" in told
    assert result.study.trials[number].value == 5.0
    assert result.finals is not None
    assert [one.state for one in result.study.trials] == [TrialState.COMPLETE] * 3


def test_the_same_line_twice_shares_all_of_a_study_and_ends_well_twice():
    with started("--final-seeds", "3", steps=800) as one:
        until(lambda: at_work(1))
        with started("--final-seeds", "3", steps=800) as other:
            told = [process.communicate(timeout=300) for process in (one, other)]
    assert (one.returncode, other.returncode) == (0, 0), told
    assert [state.state for state in trials()] == [TrialState.COMPLETE] * 3
    assert all("Next:" in out for out, _ in told)
    lines = [line for out, _ in told for line in out.splitlines()]
    done = [line.partition(": ")[0] for line in lines if re.match(r"trial \d+: ", line)]
    assert sorted(done) == ["trial 0", "trial 1", "trial 2"]
    # Runs to choose by: each once, and not all by one of them.
    runs = [line.partition(": ")[2] for line in lines if line.startswith("choosing: ")]
    assert len(runs) == len(set(runs)) == 6
    shares = [out.count("\nchoosing: ") for out, _ in told]
    assert min(shares) > 0


def test_an_interrupted_parent_interrupts_its_workers_at_once():
    with started("--workers", "2", steps=1_000_000) as parent:
        workers = until(lambda: at_work(2))
        parent.send_signal(signal.SIGINT)
        _, told = parent.communicate(timeout=60)
        assert parent.returncode == 130
        assert "interrupted; to go on: sb3-ext tune --resume studies/shared" in told
        assert all(is_gone(pid) for pid in workers)
    lost = [one for one in trials() if LOST in one.user_attrs]
    assert [one.user_attrs["failure"] for one in lost] == ["it was interrupted"] * 2
    waiting = [one.params or one.system_attrs["fixed_params"] for one in waiting_trials()]
    assert all(one.params in waiting for one in lost)


def waiting_trials() -> list[optuna.trial.FrozenTrial]:
    return [one for one in trials() if one.state == TrialState.WAITING]


def test_workers_end_when_their_parent_was_killed():
    with started("--workers", "2", steps=1_000_000) as parent:
        workers = until(lambda: at_work(2))
        parent.kill()
        parent.wait()
        until(lambda: all(is_gone(pid) for pid in workers), 60)
    assert not [one for one in trials() if one.state == TrialState.RUNNING]
    assert len(waiting_trials()) == 3


def test_a_cluster_s_sigterm_is_an_interruption():
    with started(steps=1_000_000) as process:
        until(lambda: at_work(1))
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; to go on" in told
    (lost,) = [one for one in trials() if LOST in one.user_attrs]
    assert lost.user_attrs["failure"] == "it was interrupted"
    assert len(waiting_trials()) == 3


def test_sigterm_means_what_it_meant_before_once_a_study_is_done():
    seen = []
    before = signal.getsignal(signal.SIGTERM)
    tune(TuneOptions(**{**SMALL, "top": 0, "trials": 1}), FOLDER, tell=seen.append)
    assert signal.getsignal(signal.SIGTERM) == before
    assert cli.main(["tune", "--resume", str(FOLDER)]) == 0
