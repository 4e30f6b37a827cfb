"""Exactly so many trials, each by one process, none lost."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from sb3_ext.tuning.queue import GRACE, LOST, RETRY, SEEN, WORKER, JobQueue, TrialQueue
from sb3_ext.tuning.storage import open_storage

#: A database of the user's own, for the same tests on it; see scripts/postgres.sh.
URL = os.environ.get("SB3_EXT_TEST_RDB_URL")
WHERE = ["journal", "sqlite", *(["rdb"] if URL else [])]


def address(where: str, folder: Path) -> str:
    names = {"journal": str(folder / "study.log"), "sqlite": f"sqlite:///{folder / 'study.db'}"}
    return names.get(where) or str(URL)


OPEN: list[Any] = []


@pytest.fixture(autouse=True)
def _close():
    yield
    while OPEN:
        storage = OPEN.pop()
        if hasattr(storage, "engine"):
            storage.remove_session()
            storage.engine.dispose()


def opened(where: str) -> Any:
    OPEN.append(open_storage(where))
    return OPEN[-1]


def queue_of(where: str, name: str, total: int = 4, **options: Any) -> TrialQueue:
    storage = opened(where)
    study = optuna.create_study(study_name=name, storage=storage, load_if_exists=True)
    return TrialQueue(study, storage, total, **options)


@pytest.fixture(params=WHERE)
def where(request, tmp_path):
    return address(request.param, tmp_path)


@pytest.fixture
def name(request):
    return f"{request.node.name} {time.time_ns()}"


def work(where: str, name: str, out: Path, seconds: float) -> None:
    """A worker process: does trials until none is waiting, and keeps a list."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    queue = queue_of(where, name, 24)
    queue.sweep()
    done = []
    while (trial := queue.claim()) is not None:
        x = trial.suggest_float("x", 0, 1)
        time.sleep(seconds)
        assert queue.finish(trial, TrialState.COMPLETE, x)
        done.append(trial.number)
    out.write_text(json.dumps(done))


def test_processes_that_start_together_do_each_trial_once(where, name, tmp_path):
    context = multiprocessing.get_context("spawn")
    files = [tmp_path / f"{number}.json" for number in range(3)]
    processes = [context.Process(target=work, args=(where, name, file, 0.05)) for file in files]
    for one in processes:
        one.start()
    for one in processes:
        one.join(120)
        assert one.exitcode == 0
    done = [number for file in files for number in json.loads(file.read_text())]
    assert sorted(done) == list(range(24))
    assert sum(bool(json.loads(file.read_text())) for file in files) >= 2
    states = Counter(one.state for one in queue_of(where, name).study.trials)
    assert states[TrialState.COMPLETE] == 24
    assert states[TrialState.RUNNING] == states[TrialState.FAIL] == 0


CLAIM = """
import sys, time
from tests.tuning.test_queue import queue_of
queue = queue_of(sys.argv[1], sys.argv[2])
queue.fill()
trial = queue.claim()
print(trial.number, trial.suggest_float("x", 0, 1), flush=True)
time.sleep(100)
"""


def test_a_killed_process_loses_only_its_trial_and_its_parameters_are_tried_again(where, name):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", CLAIM, where, name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        number, x = process.stdout.readline().split()
        queue = queue_of(where, name)
        assert queue.sweep() == []  # it is at work
        process.kill()
        process.wait()
    assert queue.sweep() == [int(number)]
    assert queue.sweep() == []
    values = []
    while (trial := queue.claim()) is not None:
        values.append((trial.user_attrs.get(RETRY), trial.suggest_float("x", 0, 1)))
        assert queue.finish(trial, TrialState.COMPLETE, 1.0)
    assert len(values) == 4
    assert (int(number), float(x)) in values
    states = Counter(one.state for one in queue.study.trials)
    assert states == {TrialState.COMPLETE: 4, TrialState.FAIL: 1}


def test_a_larger_total_goes_on_and_a_smaller_one_is_done(where, name):
    queue = queue_of(where, name, 2, first=[{"x": 0.25}], attributes=[{"mark": True}])
    queue.fill()
    trial = queue.claim()
    assert trial.suggest_float("x", 0, 1) == 0.25
    assert trial.user_attrs["mark"]
    queue.finish(trial, TrialState.COMPLETE, 0.0)
    assert queue_of(where, name, 1).claim() is None
    larger = queue_of(where, name, 5)
    larger.fill()
    assert len(larger.study.trials) == 5
    assert [one.state for one in larger.slots()].count(TrialState.WAITING) == 4


def test_a_worker_of_another_machine_is_lost_when_it_was_not_seen_for_long(where, name):
    queue = queue_of(where, name, 1)
    queue.fill()
    trial = queue.claim()
    trial.set_user_attr(WORKER, {"host": "elsewhere", "pid": 1, "started": "0"})
    trial.set_user_attr(SEEN, time.time() - GRACE / 2)
    assert queue.sweep() == []
    queue.grace = GRACE / 4
    # It was begun just now, too: the newer of both counts.
    assert queue.sweep() == []
    queue.grace = -1.0
    assert queue.sweep() == [0]
    assert not queue.finish(trial, TrialState.COMPLETE, 1.0)  # it comes back too late
    assert [one.state for one in queue.study.trials] == [TrialState.FAIL, TrialState.WAITING]


def test_a_worker_says_that_it_is_there(where, name, monkeypatch):
    monkeypatch.setattr("sb3_ext.tuning.queue._INTERVAL", 0.05)
    queue = queue_of(where, name, 1)
    queue.fill()
    trial = queue.claim()
    first = trial.user_attrs[SEEN]
    with queue.kept_alive(trial):
        time.sleep(0.5)
    assert queue.study.trials[0].user_attrs[SEEN] > first + 0.1


def test_an_interrupted_trial_waits_again(where, name):
    queue = queue_of(where, name, 1)
    queue.fill()
    trial = queue.claim()
    x = trial.suggest_float("x", 0, 1)
    queue.give_up(trial)
    assert queue.study.trials[0].user_attrs[LOST]
    again = queue.claim()
    assert again.suggest_float("x", 0, 1) == x


def test_two_who_fill_at_one_moment_do_no_harm(where, name):
    queue = queue_of(where, name, 3)
    queue.fill()
    for _ in range(3):  # as another process that had seen no trial yet
        queue.study.enqueue_trial({})
    done = 0
    while (trial := queue.claim()) is not None:
        queue.finish(trial, TrialState.COMPLETE, 0.0)
        done += 1
    assert done == 3
    larger = queue_of(where, name, 5)
    larger.fill()
    assert len(larger.study.trials) == 6  # two of those that waited are used


def test_the_same_study_whoever_runs_it(tmp_path):
    def run(name: str, stops: int) -> list[float]:
        drawn = []
        for _ in range(stops):
            queue = queue_of(
                str(tmp_path / name),
                name,
                12,
                sampler=lambda number: optuna.samplers.TPESampler(seed=number),
            )
            queue.fill()
            for _ in range(12 // stops):
                trial = queue.claim()
                x = trial.suggest_float("x", 0, 1)
                queue.finish(trial, TrialState.COMPLETE, (x - 0.3) ** 2)
                drawn.append(x)
        return drawn

    at_once, resumed = run("a", 1), run("b", 3)
    assert at_once == resumed
    assert len(set(at_once)) == 12


def test_jobs_are_done_once_each_whatever_is_added_later(where, name):
    storage = opened(where)
    study = optuna.create_study(study_name=name, storage=storage)
    jobs = [{"of": of, "seed": seed} for of in (3, 7) for seed in (0, 1)]
    for wanted, new in ((jobs, 4), (jobs, 0), ([*jobs[2:], {"of": 9, "seed": 0}], 1)):
        queue = JobQueue(study, storage, wanted)
        queue.fill()
        queue.study.enqueue_trial({}, dict(wanted[0]))  # filled by two at one moment
        done = []
        while (trial := queue.claim()) is not None:
            done.append(trial.user_attrs)
            queue.finish(trial, TrialState.COMPLETE, 0.0)
        assert len(done) == new
        assert all(one.state == TrialState.COMPLETE for one in queue.slots())
        assert len(queue.slots()) == len(wanted)
