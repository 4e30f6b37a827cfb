"""Interruptions: by a cluster's SIGTERM, of workers by their parent, and by its death.

All of them become a ``KeyboardInterrupt``, at which a trial is given up and waits again.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from types import FrameType


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Within the block SIGTERM interrupts as Ctrl-C does, unless the caller has handled it."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def be_a_worker() -> None:
    """In a worker: end at the first signal, and when the parent is gone."""
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, _interrupted)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_outlive, args=(parent,), daemon=True).start()


def interrupt(workers: Sequence[BaseProcess]) -> None:
    """Interrupt workers, and wait until they have given up their trials.

    Interrupted once more itself, it kills them; the next process to start finds their trials.
    """
    for one in workers:
        if one.pid is not None and one.is_alive():
            os.kill(one.pid, signal.SIGINT)
    try:
        for one in workers:
            if one.pid is not None:
                one.join()
    except KeyboardInterrupt:
        for one in workers:
            if one.pid is not None:
                one.kill()
        raise


def _interrupted(number: int, frame: FrameType | None) -> None:
    # Ctrl-C comes twice, from the terminal and from the parent: the second would meet a worker that
    # is giving up its trial.
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)
    raise KeyboardInterrupt


def _outlive(parent: BaseProcess) -> None:
    parent.join()
    os.kill(os.getpid(), signal.SIGINT)
