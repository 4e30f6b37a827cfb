"""Loading for algorithms that are no bases of ours: what does not fit is refused beforehand."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm, maybe_make_env
from stable_baselines3.common.type_aliases import GymEnv

from sb3_ext.algorithms import checkpoints
from sb3_ext.signatures import require_known


class CheckedLoading(BaseAlgorithm):
    """An algorithm whose ``load`` refuses other classes' zips, and misspelt arguments."""

    #: Checkpoints go to the class that saved them; see :func:`checkpoints.require_compatible`.
    family: ClassVar[str]
    #: Arguments that ``load`` cannot change any more, and why.
    fixed_arguments: ClassVar[Mapping[str, str]] = {}
    #: Name of the class, for the zip: ``type(self).__name__``.
    saved_by: str

    @classmethod
    def load(
        cls,
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | str | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Load a model; keyword arguments override what was saved.

        What it learns from is not in the zip: to learn on, give the demonstrations, or call
        ``load_replay_buffer``.

        :raises CheckpointError: if the file is damaged or was saved by another class
        :raises TypeError: if a keyword is no argument of the class, or cannot be changed any more
        """
        summary = checkpoints.inspect(path)
        checkpoints.require_compatible(cls, summary, str(path))
        require_known(cls, kwargs, where=f"{cls.__name__}.load", also=summary.attributes)
        for name, reason in cls.fixed_arguments.items():
            if name in kwargs:
                raise TypeError(f"{cls.__name__}.load cannot change {name}: {reason}")
        made: Any = None if env is None else maybe_make_env(env, 0)
        return super().load(
            path, made, device, custom_objects, print_system_info, force_reset, **kwargs
        )
