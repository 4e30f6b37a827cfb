"""The package imitation 1.0.1 on today's SB3, Gymnasium and torch: what is worked around.

What is not worked around is not used: its SQIL (SB3's batches have a field more than it knows) and
its functions that reload policies, trainers and rewards (they unpickle, which torch refuses).
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

INSTALL = 'pip install "sb3-ext[imitation]" && pip install --no-deps imitation==1.0.1'


def require() -> None:
    """Refuse to go on without the package.

    :raises ImportError: with the line that installs it
    """
    if importlib.util.find_spec("imitation") is None:
        raise ImportError(
            f"GAIL, AIRL, BC and DAgger need the package imitation; run: {INSTALL}. Without "
            "--no-deps it would bring Stable-Baselines3 back to 2.2"
        )


class Silence:
    """In the place of imitation's logger, which makes folders and prints by itself.

    What it would log comes back from imitation's functions, and goes to the model's own logger.
    """

    def accumulate_means(self, name: str) -> Any:
        """Nothing to add up."""
        return nullcontext()

    def record(self, key: str, value: Any, exclude: Any = None) -> None:
        """Nothing is kept."""

    def dump(self, step: int = 0) -> None:
        """Nothing is written."""

    def warn(self, *words: Any) -> None:
        """imitation's warning of variable horizons; ours is an error, unless it is allowed."""


class Acting:
    """In the place of ``gen_algo``: what imitation's trainers ask of the generator, and no more.

    They would give it another environment and another logger, by which SB3's callbacks would lose
    their own.

    :param model: the generator
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.env: Any = None

    @property
    def policy(self) -> Any:
        """The generator's."""
        return self.model.policy

    @property
    def device(self) -> Any:
        """The generator's."""
        return self.model.device

    def set_env(self, env: Any) -> None:
        """Kept, and not used: the rewards are exchanged by ``LearnedRewards``."""
        self.env = env

    def set_logger(self, logger: Any) -> None:
        """Not taken."""


@contextmanager
def training(module: Any) -> Iterator[None]:
    """A network in training mode, as imitation has it during a discriminator's update."""
    before = module.training
    module.train(True)
    try:
        yield
    finally:
        module.train(before)


class Store:
    """In the place of ``imitation.data.serialize``, which needs the packages datasets and
    jsonpickle to write what is read back at once.

    Trajectories stay in memory, by the folder that they would have been written to.
    """

    def __init__(self) -> None:
        self.kept: dict[str, list[Any]] = {}

    def save(self, path: Any, trajectories: Sequence[Any]) -> None:
        """As imitation's function of that name."""
        self.kept.setdefault(str(path.parent), []).extend(trajectories)

    def pop(self, folder: Any) -> list[Any]:
        """What was saved in a folder, which is empty then."""
        return self.kept.pop(str(folder), [])


@functools.cache
def dagger() -> Any:
    """imitation's module of DAgger, as ``module``, without the package datasets.

    It is a copy of our own: who imports ``imitation.algorithms.dagger`` gets the one of the
    package, with all that it needs.
    """
    require()
    import imitation.data as package

    name, absent = "imitation.data.serialize", object()
    spec = importlib.util.find_spec("imitation.algorithms.dagger")
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    before, held = sys.modules.get(name), getattr(package, "serialize", absent)
    store: Any = Store()
    sys.modules[name] = package.serialize = store
    try:
        spec.loader.exec_module(module)
    finally:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        if held is absent:
            del package.serialize
        else:
            package.serialize = held
    return module
