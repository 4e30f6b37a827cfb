"""Runs that are cut off and taken up again, beside one that is not."""

from collections.abc import Callable
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ext.resume import ResumableCheckpoint
from sb3_ext.trees import same


class CutError(Exception):
    """Stands for a kill: nothing is cleaned up after it."""


class Recorder(BaseCallback):
    """Keeps the rewards of each step; cuts the run off at ``cut``."""

    def __init__(self, cut: int | None = None) -> None:
        super().__init__()
        self.rewards: dict[int, np.ndarray] = {}
        self.cut = cut

    def _on_step(self) -> bool:
        if self.cut is not None and self.num_timesteps >= self.cut:
            raise CutError
        self.rewards[self.num_timesteps] = self.locals["rewards"].copy()
        return True


def buffer_arrays(model: Any) -> dict[str, Any]:
    """All arrays of a model's replay buffer."""
    buffer = getattr(model, "replay_buffer", None)
    held = {} if buffer is None else vars(buffer)
    kinds = (np.ndarray, dict, int, bool)
    return {name: value for name, value in held.items() if isinstance(value, kinds)}


def cut_and_resume(
    make: Callable[[], Any],
    run_dir: Any,
    *,
    total: int,
    cut: int,
    every: int,
    extra: Callable[[], list[BaseCallback]] = list,
) -> tuple[Any, Any, Recorder, Recorder, ResumableCheckpoint]:
    """An unstopped run and a resumed one: models, rewards, and the resumed one's callback."""
    whole, recorder = make(), Recorder()
    whole.learn(total, callback=[recorder, *extra()])
    broken = make()
    try:
        broken.learn(
            total, callback=[Recorder(cut), *extra(), ResumableCheckpoint(run_dir, every=every)]
        )
    except CutError:
        pass
    else:
        raise AssertionError("the run was not cut off")
    broken.get_env().close()
    resumed, again = make(), Recorder()
    checkpoint = ResumableCheckpoint(run_dir, every=every)
    resumed.learn(total, callback=[again, *extra(), checkpoint])
    return whole, resumed, recorder, again, checkpoint


def require_same(
    whole: Any, resumed: Any, recorder: Recorder, again: Recorder, checkpoint: ResumableCheckpoint
) -> None:
    """The resumed run ends where the whole one ends, and got there by the same rewards."""
    assert checkpoint.resumed_from is not None
    later = {step: r for step, r in recorder.rewards.items() if step > checkpoint.resumed_from}
    assert later, "nothing was left to compare"
    found = {step: r for step, r in again.rewards.items() if step > checkpoint.resumed_from}
    assert same(found, later)
    assert whole.num_timesteps == resumed.num_timesteps
    assert same(whole.get_parameters(), resumed.get_parameters())
    assert same(buffer_arrays(whole), buffer_arrays(resumed))
    left, right = list(whole.ep_info_buffer), list(resumed.ep_info_buffer)
    assert [(e["r"], e["l"]) for e in left] == [(e["r"], e["l"]) for e in right]
    for model in (whole, resumed):
        model.get_env().close()
