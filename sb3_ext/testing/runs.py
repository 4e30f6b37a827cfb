"""A run that is killed and taken up again, beside one that is not."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ext.resume import ResumableCheckpoint
from sb3_ext.trees import same, snapshot


class _KilledError(Exception):
    """Stands for a kill: nothing is cleaned up after it."""


class _KillAt(BaseCallback):
    resumed_attributes = frozenset[str]()

    def __init__(self, step: float) -> None:
        super().__init__()
        self.step = step

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.step:
            raise _KilledError
        return True


def lost_by_a_kill(make: Callable[[], Any], steps: int, run_dir: Path) -> list[str]:
    """What a resumed run ends with that is not what the unstopped one ends with.

    :param make: makes a model, alike each time
    :param steps: of the whole run, which is killed after five eighths of them
    :param run_dir: a folder for the checkpoints
    :return: names of parameters, and ``replay buffer``; empty if all is equal to the bit
    """
    kill = steps * 5 // 8
    every = max(1, kill // 2)
    whole = make().learn(steps)
    with contextlib.suppress(_KilledError):
        make().learn(steps, callback=[_KillAt(kill), ResumableCheckpoint(run_dir, every=every)])
    checkpoints = ResumableCheckpoint(run_dir, every=every)
    resumed = make().learn(steps, callback=[_KillAt(math.inf), checkpoints])
    assert checkpoints.resumed_from, (
        f"no checkpoint was written in {kill} steps after the first: a rollout takes longer; "
        "raise steps"
    )
    one, other = snapshot(whole), snapshot(resumed)
    lost = [name for name in one if not same(one[name], other.get(name))]
    if whole.num_timesteps != resumed.num_timesteps:
        lost.append("num_timesteps")
    buffers = [_arrays(getattr(model, "replay_buffer", None)) for model in (whole, resumed)]
    return lost if same(*buffers) else [*lost, "replay buffer"]


def _arrays(buffer: object) -> dict[str, Any]:
    held = {} if buffer is None else vars(buffer)
    return {name: value for name, value in held.items() if isinstance(value, (np.ndarray, dict))}
