"""A study as a list of trials to be done: exactly so many, each by one process, none lost.

``Study.optimize`` in several processes stops at *about* the number asked for: each may begin one
more before it sees the others'. Here the trials are put into the study first, as waiting ones, and
a process claims one by setting its state, which every storage of Optuna's does for one process
only. A process that dies leaves a running trial; it is told failed, and its parameters wait again.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

WORKER, SEEN, LOST, RETRY, FAILURE = "worker", "seen", "lost", "retry_of", "failure"
"""User attributes of a trial: who runs it, when it was last seen, whether its process died, whose
parameters it tries again, why it failed."""

_INTERVAL = 20.0
GRACE = 300.0
"""Seconds after which a worker of another machine counts as dead; of this one, it is looked up."""


class TrialQueue:
    """The trials of a study that are still to be done.

    :param study: where they are
    :param storage: of the study
    :param total: how many trials the study shall have; those whose process died do not count
    :param sampler: makes a sampler for the trial of a number. One that depends on the number alone
        makes a study the same whoever runs it, and never repeats its first points after a resume
    :param first: what the first trials are made of: fixed parameters, by their number
    :param attributes: and their user attributes
    :param grace: see ``GRACE``
    """

    def __init__(
        self,
        study: Study,
        storage: BaseStorage,
        total: int,
        *,
        sampler: Callable[[int], optuna.samplers.BaseSampler] | None = None,
        first: Sequence[Mapping[str, Any]] = (),
        attributes: Sequence[Mapping[str, Any]] = (),
        grace: float = GRACE,
    ) -> None:
        self.study, self.storage, self.total = study, storage, total
        self.sampler, self.grace = sampler, grace
        self.first, self.attributes = first, attributes
        self.study_id = storage.get_study_id_from_name(study.study_name)
        self.me = {"host": _host(), "pid": os.getpid(), "started": _started(os.getpid())}

    def fill(self) -> None:
        """Put in what is missing: at first all, later what a larger total or a death asks for."""
        trials = self.study.get_trials(deepcopy=False)
        counted = sum(LOST not in one.user_attrs for one in trials)
        retried = {one.user_attrs.get(RETRY) for one in trials}
        lost = [one for one in trials if LOST in one.user_attrs and one.number not in retried]
        for number in range(counted, self.total):
            if lost:
                again = lost.pop(0)
                kept = {
                    key: value
                    for key, value in again.user_attrs.items()
                    if any(key in one for one in self.attributes)
                }
                self.study.enqueue_trial(again.params, {**kept, RETRY: again.number})
                continue
            fixed = self.first[number] if number < len(self.first) else {}
            told = self.attributes[number] if number < len(self.attributes) else {}
            self.study.enqueue_trial(dict(fixed), dict(told))

    def claim(self) -> Trial | None:
        """The next trial, for this process alone; None if no other is waiting.

        One that was lost comes next, as if it had not been.
        """
        waiting = [one for one in self.slots() if one.state == TrialState.WAITING]
        for one in sorted(waiting, key=lambda one: RETRY not in one.user_attrs):
            known = self.storage.get_trial_id_from_study_id_trial_number(self.study_id, one.number)
            with contextlib.suppress(UpdateFinishedTrialError):
                if self.storage.set_trial_state_values(known, TrialState.RUNNING):
                    if self.sampler is not None:
                        self.study.sampler = self.sampler(one.number)
                    trial = Trial(self.study, known)
                    trial.set_user_attr(WORKER, self.me)
                    trial.set_user_attr(SEEN, time.time())
                    return trial
        return None

    def slots(self) -> list[FrozenTrial]:
        """The trials that count, by number: what is done or under way, and as many as are due.

        Two processes that fill at one moment may put in more: those wait for a larger total.
        """
        trials = self.study.get_trials(deepcopy=False)
        counted = [one for one in trials if LOST not in one.user_attrs]
        begun = sum(one.state != TrialState.WAITING for one in counted)
        waiting = [one.number for one in counted if one.state == TrialState.WAITING]
        due = set(waiting[: max(self.total - begun, 0)])
        return [one for one in counted if one.state != TrialState.WAITING or one.number in due]

    def finish(self, trial: Trial, state: TrialState, value: float | None = None) -> bool:
        """Record a trial's end.

        :return: False if it had been given up as lost, and its parameters to another process
        """
        try:
            self.study.tell(trial, value, state=state)
        except (UpdateFinishedTrialError, ValueError):
            return False
        return True

    def sweep(self) -> list[int]:
        """Tell the trials failed whose process died, and let their parameters wait again.

        :return: their numbers
        """
        found = []
        for one in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if not self._is_lost(one):
                continue
            known = self.storage.get_trial_id_from_study_id_trial_number(self.study_id, one.number)
            with contextlib.suppress(UpdateFinishedTrialError):
                self.storage.set_trial_user_attr(known, LOST, True)
                self.storage.set_trial_user_attr(known, FAILURE, "its process died")
                self.storage.set_trial_state_values(known, TrialState.FAIL)
                found.append(one.number)
        self.fill()
        return found

    def give_up(self, trial: Trial) -> None:
        """End a trial that this process will not finish; its parameters wait again."""
        with contextlib.suppress(UpdateFinishedTrialError):
            trial.set_user_attr(LOST, True)
            trial.set_user_attr(FAILURE, "it was interrupted")
            self.finish(trial, TrialState.FAIL)
        self.fill()

    @contextlib.contextmanager
    def kept_alive(self, trial: Trial) -> Iterator[None]:
        """Within the block, say every now and then that the trial's process is there."""
        ended = threading.Event()
        number = trial.number
        known = self.storage.get_trial_id_from_study_id_trial_number(self.study_id, number)

        def run() -> None:
            while not ended.wait(_INTERVAL):
                # A database that is away for a moment must not end a training run.
                with contextlib.suppress(Exception):
                    self.storage.set_trial_user_attr(known, SEEN, time.time())

        thread = threading.Thread(target=run, name=f"trial {number} is alive", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _is_lost(self, trial: FrozenTrial) -> bool:
        worker = trial.user_attrs.get(WORKER)
        if worker is not None and worker["host"] == self.me["host"]:
            return bool(_started(worker["pid"]) != worker["started"])
        began = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
        return bool(time.time() - max(trial.user_attrs.get(SEEN, 0.0), began) > self.grace)


class JobQueue(TrialQueue):
    """A study whose trials are given things to do, each once, and no parameters.

    :param jobs: user attributes of the trials, by which one is told from another; a study may hold
        more of them, of an earlier list
    """

    def __init__(
        self,
        study: Study,
        storage: BaseStorage,
        jobs: Sequence[Mapping[str, Any]],
        *,
        grace: float = GRACE,
    ) -> None:
        super().__init__(study, storage, len(jobs), grace=grace)
        self.jobs = jobs

    def fill(self) -> None:
        """Put in the jobs that are missing."""
        there = [self._job(one) for one in self.slots()]
        for job in self.jobs:
            if dict(job) not in there:
                self.study.enqueue_trial({}, dict(job))

    def slots(self) -> list[FrozenTrial]:
        """One trial for each job that is in the study."""
        found: list[FrozenTrial] = []
        for one in self.study.get_trials(deepcopy=False):
            job = self._job(one)
            wanted = LOST not in one.user_attrs and any(dict(each) == job for each in self.jobs)
            if wanted and job not in [self._job(other) for other in found]:
                found.append(one)
        return found

    def _job(self, trial: FrozenTrial) -> dict[str, Any]:
        names = {name for job in self.jobs for name in job}
        return {name: value for name, value in trial.user_attrs.items() if name in names}


def _host() -> str:
    """This machine since it was started, and which of its containers: where a pid has a meaning."""
    words = [socket.gethostname()]
    with contextlib.suppress(OSError):
        words.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        words.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(words)


def _started(pid: int) -> str | None:
    """When a process was started, in the system's own count; None if there is none of that pid."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "alive"  # no /proc here: a pid that was given anew is not told apart
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]  # a dead child may still have its row
