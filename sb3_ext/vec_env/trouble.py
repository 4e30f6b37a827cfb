"""What went wrong in a worker, as data that a pipe can carry, and as sentences."""

from __future__ import annotations

import pickle
import signal
import traceback
from dataclasses import dataclass
from typing import Any

from sb3_ext.errors import EnvironmentFailedError, WorkerDiedError

#: Commands after which environments are in the midst of things: nobody can go on with them.
MOVES = ("make", "reset", "step")


@dataclass(frozen=True)
class Trouble:
    """Instead of an answer: environments raised, or their worker is dead.

    :param envs: whose, by their indices in the vectorised environment
    :param doing: the command
    :param told: the exception, or how the process ended, in short
    :param trace: the traceback, as text; empty if the process is dead
    :param original: the exception as a pickle, if it has one
    """

    envs: tuple[int, ...]
    doing: str
    told: str
    trace: str = ""
    original: bytes | None = None

    @property
    def dead(self) -> bool:
        """Whether the process is gone."""
        return not self.trace

    @classmethod
    def of(cls, error: BaseException, doing: str, *envs: int) -> Trouble:
        """What an exception says; to be called where it is handled."""
        trace = "".join(traceback.format_exception(error))
        return cls(envs, doing, f"{type(error).__name__}: {error}", trace, _pickled(error))

    def words(self) -> str:
        """One sentence without its full stop."""
        if self.dead:
            return (
                f"the worker process of {_named(self.envs)} died during {self.doing}: {self.told}"
            )
        return f"{_named(self.envs)} raised during {self.doing}: {self.told}"

    def error(self, remedy: str) -> Exception:
        """What the parent raises, ``__cause__`` included.

        An ``AttributeError`` stays one, since SB3 catches it where it asks for an attribute.

        :param remedy: sentences that follow
        """
        words = self.words()
        told = f"{words[0].upper()}{words[1:]}. {remedy}".strip()
        if self.dead:
            return WorkerDiedError(told)
        cause = _unpickled(self.original)
        lost = isinstance(cause, AttributeError) and self.doing not in MOVES
        kind: Any = AttributeError if lost else EnvironmentFailedError
        error: Exception = kind(f"{told}\n\nIn the worker process:\n\n{self.trace}")
        error.__cause__ = cause
        return error


def how_it_ended(code: int | None) -> str:
    """A process's exit code in words."""
    if code is None or code >= 0:
        return f"it ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (which the system sends when memory runs out)" if name == "SIGKILL" else ""
    return f"it was ended by {name}{hint}"


def _named(envs: tuple[int, ...]) -> str:
    if len(envs) == 1:
        return f"environment {envs[0]}"
    return f"environments {envs[0]} to {envs[-1]}"


def _pickled(error: BaseException) -> bytes | None:
    try:
        data = pickle.dumps(error)
        pickle.loads(data)  # many exceptions can be written and not read
    except Exception:
        return None
    return data


def _unpickled(data: bytes | None) -> BaseException | None:
    try:
        return None if data is None else pickle.loads(data)
    except Exception:  # its class is not known in this process
        return None
