"""The callback that makes a script survive a kill."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import ClassVar

from stable_baselines3.common.callbacks import BaseCallback

from sb3_ext.errors import CheckpointError
from sb3_ext.resume.state import Start, capture, require_supported, restore
from sb3_ext.resume.store import (
    checkpoint_to_resume,
    lock_folder,
    read_manifest,
    require_folder,
    unlock_folder,
    write_checkpoint,
)
from sb3_ext.resume.tree import in_short


class ResumableCheckpoint(BaseCallback):
    """Checkpoints from which the same script goes on as if it had never stopped.

    Add it to ``learn``'s callbacks. When the script is killed, start it again, unchanged:
    ``learn`` finds the newest checkpoint and continues from there up to the same
    ``total_timesteps``. On a CPU and with a seed, what follows equals the run that was never
    stopped, bit for bit, as long as the environment's state can be read (see
    :mod:`sb3_ext.resume.environments`); otherwise new episodes begin, and a warning says why.

    Checkpoints are written between rollouts: every ``train_freq`` steps is a chance for off-policy
    algorithms, every ``n_steps`` for PPO and its kin. A checkpoint that cannot be written, because
    the disk is full, say, is a warning; training goes on and the older ones stay.

    One run directory is for one call of ``learn``.

    :param run_dir: checkpoints go to ``run_dir/checkpoints/``
    :param every: environment steps between two checkpoints, over all environments together
    :param keep: how many checkpoints stay
    :param verbose: from 1 on, says what is written and resumed
    """

    #: All others are about this process.
    resumed_attributes: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self, run_dir: str | Path, *, every: int = 10_000, keep: int = 2, verbose: int = 0
    ) -> None:
        super().__init__(verbose)
        for name, value in (("every", every), ("keep", keep)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an integer, got {value!r}")
        if every < 1:
            raise ValueError(f"every must be at least 1 environment step, got {every}")
        if keep < 1:
            raise ValueError(f"keep must be at least 1 checkpoint, got {keep}")
        self.run_dir, self.every, self.keep = Path(run_dir), every, keep
        #: The newest checkpoint, None before the first.
        self.last: Path | None = None
        #: The step that this process began with, None if at the beginning.
        self.resumed_from: int | None = None
        #: Whether ``request_stop`` ended the training.
        self.stopped = False
        #: Whether it will, at the next safe point.
        self.stop_requested = False
        self._root: BaseCallback = self
        self._pending: Path | None = None
        self._trained: object = None  # the model of the last learn
        self._saved_at: int | None = None
        self._between = False
        self._start: Start | None = None

    @property
    def resumes_at(self) -> int | None:
        """The step that this process's first ``learn`` goes on from, None at the beginning."""
        if self.resumed_from is not None:
            return self.resumed_from
        known = self._trained is not None
        path = self._pending if known else checkpoint_to_resume(self.run_dir)
        return None if path is None else int(read_manifest(path)["num_timesteps"])

    def request_stop(self) -> None:
        """At the next safe point write a checkpoint and end ``learn``; fit for signal handlers."""
        self.stop_requested = True

    def _on_training_start(self) -> None:
        require_supported(self.model)
        self._root = self.locals.get("callback", self)
        self._start = Start.of(self.model, self._root)
        self.stopped = False  # a stop may have been asked for while all was set up
        goes_on = self._trained is self.model and self.model.num_timesteps > 0
        self._trained = self.model
        require_folder(self.run_dir)
        lock_folder(self.run_dir)
        newest = checkpoint_to_resume(self.run_dir)
        reached = 0 if newest is None else int(read_manifest(newest)["num_timesteps"])
        if goes_on:  # learn(reset_num_timesteps=False), in this process
            if reached > self.model.num_timesteps:
                raise CheckpointError(
                    f"{self.run_dir} holds checkpoints of another training, up to step {reached}, "
                    f"and this one goes on from step {self.model.num_timesteps}: a run_dir is for "
                    "one training, so give another"
                )
            return
        self._pending = self.last = newest
        self.resumed_from = self._saved_at = None
        if newest is not None and reached >= self.model._total_timesteps:
            print(
                f"{self.run_dir} has reached its {reached:,} steps, so there is nothing to train: "
                "ask for more steps, or give another run_dir"
            )
            self._resume()  # now, or the loop would collect another rollout

    def _on_rollout_end(self) -> None:
        self._between = True

    def _on_rollout_start(self) -> None:
        self._between = False
        # Both ends meet here: a checkpoint is written and put back at this very place of the loop.
        if self._pending is not None:
            self._resume()
            return
        # The first at once: a run that is killed before the second can be started again, too.
        due = self._saved_at is None or self.model.num_timesteps - self._saved_at >= self.every
        if due or self.stop_requested:
            self._save()
        if self.stop_requested:
            self.stopped = True

    def _on_step(self) -> bool:
        return not self.stopped

    def _on_training_end(self) -> None:
        # Where a callback ended the training in mid-rollout, the last step is in no buffer.
        if self._between and self.model.num_timesteps != self._saved_at:
            self._save()
        self.stop_requested = False
        unlock_folder(self.run_dir)

    def _resume(self) -> None:
        assert self._pending is not None and self._start is not None
        path, self._pending = self._pending, None
        reasons = restore(self.model, self._root, self._start, path)
        self.resumed_from = self._saved_at = self.num_timesteps = self.model.num_timesteps
        if reasons:
            warnings.warn(
                f"resumed at step {self.resumed_from} with new episodes, since the ones under way "
                f"could not be put back: {in_short(reasons)}",
                stacklevel=2,
            )
        if self.verbose:
            print(f"Resumed at step {self.resumed_from:,} from {path}")

    def _save(self) -> None:
        start, step = self._start, self.model.num_timesteps
        assert start is not None
        # Also where writing fails: the next try is due in `every` steps, not at once.
        self._saved_at = step
        try:
            self.last = write_checkpoint(
                self.run_dir,
                step,
                lambda folder: capture(self.model, self._root, start, folder),
                keep=self.keep,
            )
        except (ConnectionError, EOFError) as error:  # no fault of the disk
            ended = str(error) or type(error).__name__
            raise CheckpointError(
                f"the environments' processes have ended ({ended}), so "
                f"training cannot go on; the last checkpoint is {self.last or 'not written yet'}"
            ) from error
        except (OSError, RuntimeError) as error:  # torch's writer says the latter on a full disk
            kept = f"the last one is {self.last}" if self.last else "there is none yet"
            cause = getattr(error, "strerror", None) or error
            warnings.warn(
                f"no checkpoint could be written at step {step}: {cause} in {self.run_dir}; "
                f"training goes on, {kept}. Make room for the next try in {self.every} steps",
                stacklevel=2,
            )
            return
        if self.verbose:
            print(f"Checkpoint at step {step:,}: {self.last}")
