"""The errors that users meet. Each says the law, what was found, and what to do."""

from __future__ import annotations


class NonFiniteError(ValueError):
    """The environment returned NaN or infinity; training stopped before storing it."""


class CheckpointError(RuntimeError):
    """A file cannot be loaded: damaged, or saved by another class.

    Not a ``ValueError``: SB3's ``load`` catches those to repair old DQN files and would answer
    with a KeyError instead of our sentence.
    """


class UsageError(ValueError):
    """A command or a config asks for what cannot be; commands print the sentence and return 2."""


class EngineError(ValueError):
    """A model has networks, an optimiser or options that an engine does not know; it says which."""


class EnvironmentFailedError(RuntimeError):
    """An environment in a worker process raised; the original is the cause, if it can be sent."""


class WorkerDiedError(RuntimeError):
    """A worker process is gone, and with it its environments."""
