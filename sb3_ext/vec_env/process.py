"""The parent's side of one worker: a process and a pipe, begun, asked and ended."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from multiprocessing.util import register_after_fork
from typing import Any

from sb3_ext.vec_env.trouble import Trouble, how_it_ended
from sb3_ext.vec_env.worker import EnvFn, work

#: Seconds that a worker has to close its environments before it is ended.
PATIENCE = 10.0


class Worker:
    """One worker process and the environments ``first`` to ``first + len(env_fns) - 1``.

    ``ask`` and ``answer`` take turns, so that several workers can be asked before the first
    answers. One that is dead answers with a ``Trouble``.
    """

    def __init__(self, context: BaseContext, first: int, env_fns: Sequence[EnvFn | bytes]) -> None:
        self.first = first
        self.count = len(env_fns)
        self.dead = False
        self._doing: str | None = None
        self._context = context
        self._env_fns = env_fns
        self.process: BaseProcess
        self._end: Connection
        self.start()

    @property
    def envs(self) -> range:
        """The indices of its environments."""
        return range(self.first, self.first + self.count)

    @property
    def busy(self) -> bool:
        """Whether it owes an answer."""
        return self._doing is not None

    def start(self) -> None:
        """Begin the process; the answer to come is what ``Envs.make`` returns."""
        # A fork copies what is open. A sibling that held the worker's end would keep its death from
        # being seen, so the pipe is made here and not for all workers in advance; one that held
        # the parent's would keep a worker from seeing that the parent has hung up.
        self._end, workers_end = self._context.Pipe()
        register_after_fork(self._end, lambda end: end.close())
        given = (workers_end, self.first, self._env_fns)
        # A daemon: it ends with the parent, also when nobody closes the environments.
        made = self._context.Process(target=work, args=given, daemon=True)  # type: ignore[attr-defined]
        try:
            made.start()
        except BaseException:
            self._end.close()
            raise
        finally:
            workers_end.close()
        self.process = made
        self.dead, self._doing = False, "make"

    def ask(self, command: str, *given: Any) -> None:
        """Send a command."""
        message = pickle.dumps((command, given), pickle.HIGHEST_PROTOCOL)
        self._doing = command
        with contextlib.suppress(OSError):  # a closed pipe; the answer will tell
            self._end.send_bytes(message)

    def answer(self) -> Any:
        """Wait for the answer to the last command: a value, or a ``Trouble``."""
        doing, self._doing = str(self._doing), None
        try:
            message = b"" if self.dead else self._end.recv_bytes()
        except (EOFError, OSError):
            self.end(PATIENCE)
            message = b""
        if self.dead:
            return Trouble(tuple(self.envs), doing, how_it_ended(self.process.exitcode))
        try:
            return pickle.loads(message)
        except Exception as error:  # a class that only the worker knows
            return Trouble.of(error, doing, *self.envs)

    def hang_up(self) -> None:
        """Close the pipe: the worker finishes what it does, closes its environments and ends."""
        self._end.close()

    def end(self, patience: float) -> None:
        """Hang up, and wait until the process has ended.

        :param patience: seconds after which it is made to
        """
        self.hang_up()
        self.dead, self._doing = True, None
        self.process.join(patience)
        if self.process.exitcode is None:
            self.process.terminate()
            self.process.join(1.0)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
