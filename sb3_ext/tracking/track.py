"""One callback that records a run: CSV, TensorBoard, W&B, config, best model, videos."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    EvalCallback,
    EventCallback,
)
from stable_baselines3.common.logger import KVWriter, TensorBoardOutputFormat, make_output_format

from sb3_ext.tracking import wandb_runs
from sb3_ext.tracking.config import NOT_PLAIN, model_config, plain
from sb3_ext.tracking.directory import RunDirectory, read_json
from sb3_ext.tracking.loggers import has_tensorboard
from sb3_ext.tracking.progress import CSVOutputFormat
from sb3_ext.tracking.video import EpisodeRecorder, VideoEnv

if TYPE_CHECKING:
    import wandb as wandb_module

IDENTITY = ("algorithm", "env", "seed")

# One folder has one Track at work; who comes second closes the first.
_AT_WORK: dict[str, Track] = {}


class Track(BaseCallback):
    """Record a training run of any SB3 algorithm in one folder, beside what the user set up.

        model.learn(100_000, callback=Track("runs/my-run", wandb=True))

    While ``learn`` runs, the model's logger writes to ``progress.csv``, TensorBoard and W&B, too;
    its own outputs stay. ``config.json`` says what was run. When ``learn`` returns, all that was
    opened here is closed; a later ``learn`` goes on where this one ended. If training may raise,
    or several calls of ``learn`` are one W&B session, use it as a context manager::

        with Track("runs/my-run", wandb=True) as track:
            model.learn(100_000, callback=track)

    :param run_dir: the folder of this run. One that holds a run is refused for a training that
        starts at step 0, and continued for one that goes on
        (``learn(..., reset_num_timesteps=False)``)
    :param wandb: ``True`` or a dict of ``wandb.init``'s options for a run of its own, offline
        unless ``mode`` or ``WANDB_MODE`` says otherwise; with ``True``, a run that is active
        already is used and left open; or a run
    :param tensorboard: by default, where it is installed and the logger has none yet
    :param config: plain values to add to ``config.json`` and W&B's config
    :param save_best: send the best model to W&B whenever ``EvalCallback`` saves it. ``True`` finds
        the callback and its ``best_model_save_path``; or the path of the zip
    :param video_every: film an evaluation episode every so many steps; 0 for never
    :param video_env: makes the environment for videos; by default, the training's is made again
    :param resume: ``True`` continues what the folder holds also from step 0, ``False`` never does
    :param verbose: 0 prints nothing
    """

    #: All others are about this process, and no part of a checkpoint.
    resumed_attributes: ClassVar[frozenset[str]] = frozenset({"_filmed"})

    def __init__(
        self,
        run_dir: str | Path,
        *,
        wandb: bool | Mapping[str, Any] | wandb_module.Run = False,
        tensorboard: bool | None = None,
        config: Mapping[str, Any] | None = None,
        save_best: bool | str | Path = False,
        video_every: int = 0,
        video_env: VideoEnv | None = None,
        resume: bool | None = None,
        verbose: int = 1,
    ) -> None:
        super().__init__(verbose)
        self.run_dir = Path(run_dir)
        self.wandb, self.tensorboard = wandb, tensorboard
        self.save_best, self.resume = save_best, resume
        self.video_every, self.video_env = video_every, video_env
        self.extra = _plain_config(config or {})
        self.run: wandb_module.Run | None = None
        self._own_run = self._held = self._is_open = self._has_ended = False
        self._from, self._is_resumed = 0, False  # the step at which training begins
        self._tracked: object = None  # the model of the run
        self._saver: BaseCallback = self  # whose steps the best model is saved at
        self._writers: list[KVWriter] = []
        self._attached: list[KVWriter] | None = None
        self._best: wandb_runs.BestModel | None = None
        self._recorder: EpisodeRecorder | None = None
        self._filmed = 0
        self._require_options()

    def _require_options(self) -> None:
        """Say before training what cannot work."""
        if isinstance(self.video_every, bool) or not isinstance(self.video_every, int):
            raise TypeError(f"video_every is a number of steps, got {self.video_every!r}")
        if self.video_every < 0:
            raise ValueError(
                f"video_every must be at least 0 (0: no videos), got {self.video_every}"
            )
        if not isinstance(self.save_best, (bool, str, Path)):
            raise TypeError(f"save_best is True, False or a path, got {self.save_best!r}")
        if isinstance(self.wandb, Mapping):
            wandb_runs.check_options(self.wandb)
        elif not isinstance(self.wandb, bool) and not hasattr(self.wandb, "define_metric"):
            raise TypeError(
                f"wandb is True, False, a dict of wandb.init's options or a run, got {self.wandb!r}"
            )
        elif self.wandb:
            wandb_runs.require_wandb()
        has_tensorboard(self.tensorboard)
        if self.run_dir.exists() and not self.run_dir.is_dir():
            raise FileExistsError(
                f"the run directory {self.run_dir} is a file; choose another name"
            )

    def __enter__(self) -> Track:
        self._held = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Literal[False]:
        self._held = False
        self.close(exit_code=0 if kind is None else 1)
        return False

    def close(self, exit_code: int = 0) -> None:
        """Close what was opened and give the logger back as it was; twice does no harm.

        :param exit_code: what W&B shows: 0 for a finished run, else a failed one
        """
        if self._best is not None:
            self._best.send_if_changed(self._saver.num_timesteps)
            self._best = None
        if self._is_open:
            _AT_WORK.pop(os.path.realpath(self.run_dir), None)
        self._is_open = False
        self._detach()
        for writer in self._writers:
            writer.close()
        self._writers = []
        if self._recorder is not None:
            self._recorder.close()
            self._recorder = None
        if self.run is not None and self._own_run:
            self.run.finish(exit_code=exit_code)
        self.run = None

    def _on_training_start(self) -> None:
        # A ResumableCheckpoint beside us is about to go on from an earlier process.
        beside = _callbacks(self.locals.get("callback"))
        steps = (getattr(one, "resumes_at", None) for one in beside)
        found = [step for step in steps if step is not None]
        self._is_resumed = bool(found)
        self._from = max(found, default=self.num_timesteps)
        try:
            self._require_new_steps()
            if not self._is_open:
                self._open()
            elif self._tracked is not self.model:
                raise ValueError(
                    f"one Track records one model, and this one is at work in {self.run_dir}; "
                    "make another Track, with a folder of its own, for the other model"
                )
            self._attach()
        except BaseException as error:
            self.close(exit_code=1)
            if isinstance(error, OSError) and error.strerror:  # the system's, and no sentence yet
                raise type(error)(
                    f"no run can be written to {self.run_dir}: {error.strerror}, "
                    f"{error.filename or self.run_dir}; give another run_dir, or make room"
                ) from error
            raise

    def _on_step(self) -> bool:
        if self._best is not None:
            self._best.send_if_changed(self._saver.num_timesteps)
        if self._recorder is not None:
            if self.num_timesteps // self.video_every > self._filmed // self.video_every:
                self._film(self._recorder)
            self._filmed = self.num_timesteps
        return True

    def _on_training_end(self) -> None:
        self._has_ended = True
        if not self._held:
            self.close()

    def _require_new_steps(self) -> None:
        """Refuse to let rows from step 0 on follow those of a training that came to its end."""
        again = self._tracked is self.model and self._from == 0 and self.resume is None
        ended, self._has_ended = self._has_ended, False
        if again and ended and not self._is_resumed:
            raise FileExistsError(
                f"the run directory {self.run_dir} holds this model's earlier training, and this "
                "one starts at step 0 again: go on with learn(..., reset_num_timesteps=False), or "
                "make another Track with a folder of its own"
            )

    def _open(self) -> None:
        """Make or find the folder, and open all outputs."""
        config = self._config()
        resumed = self._require_folder(config)
        best = self._best_path()
        if self.video_every:
            self._recorder = EpisodeRecorder(self.model, self.run_dir / "videos", self.video_env)
            self._filmed = self.num_timesteps
        directory = RunDirectory.create(self.run_dir, exist_ok=True)
        if abandoned := _AT_WORK.get(os.path.realpath(self.run_dir)):
            abandoned.close(exit_code=1)  # its training raised, as in a notebook
        # What makes the folder one that holds a run comes last: what fails can be tried again.
        if self.wandb is not False:
            self.run = self._start_run(config)
            self._writers.append(wandb_runs.WandbOutputFormat(self.run))
            if best is not None and not self.run.disabled:
                kept = self.run_dir / "wandb_best_models"
                self._best = wandb_runs.BestModel(self.run, best, kept)
        has_one = any(isinstance(w, TensorBoardOutputFormat) for w in self.logger.output_formats)
        if has_tensorboard(self.tensorboard) and not (has_one and self.tensorboard is None):
            self._writers.append(make_output_format("tensorboard", str(directory / "tensorboard")))
        table = directory / "progress.csv"
        if not any(_writes_to(writer, table) for writer in self.logger.output_formats):
            self._writers.append(CSVOutputFormat(str(table), append=resumed))
        directory.write_config(self._with_history(config))
        self._tracked, self._is_open = self.model, True
        _AT_WORK[os.path.realpath(self.run_dir)] = self

    def _attach(self) -> None:
        """Add the outputs to the logger, which SB3 may have made anew for this ``learn``."""
        self._detach()
        self._attached = self.logger.output_formats
        self._attached += self._writers

    def _detach(self) -> None:
        if self._attached is not None:
            self._attached[:] = [one for one in self._attached if one not in self._writers]
            self._attached = None

    def _config(self) -> dict[str, Any]:
        config = model_config(self.model)
        config["total_timesteps"] = self.locals.get("total_timesteps")
        for name, value in self.extra.items():
            if config.setdefault(name, value) != value:
                raise ValueError(
                    f"config may not change what was run: {name!r} is {config[name]!r}, "
                    f"got {value!r}; choose another name for it"
                )
        return config

    def _with_history(self, config: dict[str, Any]) -> dict[str, Any]:
        """What the folder says already; a resumed run adds from where and with what."""
        record = self.run_dir / "config.json"
        if not record.exists():
            return config
        before = read_json(record)
        if self._tracked is not self.model:
            now = {key: config[key] for key in ("total_timesteps", "versions", "git")}
            before["resumed"] = [*before.get("resumed", []), {"at": self._from, **now}]
        return before

    def _require_folder(self, config: Mapping[str, Any]) -> bool:
        """Whether the folder holds a run, which this training may continue."""
        table, record = self.run_dir / "progress.csv", self.run_dir / "config.json"
        if not record.exists() and not (table.exists() and table.stat().st_size):
            return False
        goes_on = self._is_resumed or self._from > 0 if self.resume is None else self.resume
        if not (goes_on or self._tracked is self.model):
            raise FileExistsError(
                f"the run directory {self.run_dir} already holds a run, and this training starts "
                "at step 0; choose another name, remove it, or continue it with resume=True"
            )
        if record.exists():
            before = read_json(record)
            for key in IDENTITY:
                if before.get(key, config[key]) != config[key]:
                    raise ValueError(
                        f"the run directory {self.run_dir} holds a run with {key} {before[key]!r}, "
                        f"and this one has {config[key]!r}; choose another name"
                    )
        return True

    def _start_run(self, config: dict[str, Any]) -> wandb_module.Run:
        """The user's active run, or one of our own, continued where the folder knows one."""
        given: Any = wandb_runs.require_wandb().run if self.wandb is True else self.wandb
        self._own_run = given is None or isinstance(given, Mapping)
        if not self._own_run:
            given.config.update(config, allow_val_change=True)
            return given  # type: ignore[no-any-return]
        mode, why = wandb_runs.resolve_mode()
        options = {
            "reinit": "create_new",  # leaves wandb.run to the user
            "name": os.environ.get("WANDB_NAME") or self.run_dir.resolve().name,
            "mode": mode,
            **wandb_runs.remembered_run(self.run_dir),
        }
        if isinstance(self.wandb, Mapping):
            options.update(self.wandb)
            options["mode"], why = wandb_runs.resolve_mode(self.wandb.get("mode"))
            options["config"] = {**config, **dict(self.wandb.get("config") or {})}
        run = wandb_runs.start_wandb(self.run_dir, **{"config": config, **options})
        if options["mode"] != "disabled":
            wandb_runs.remember_run(run, self.run_dir)
        if run.offline and self.verbose and self._tracked is not self.model:
            print(f"{why or 'W&B: offline.'} Upload with: {wandb_runs.sync_command(run)}")
        return run

    def _best_path(self) -> Path | None:
        """The zip that the training's ``EvalCallback`` saves, as asked for."""
        if self.save_best is False:
            return None
        if self.save_best is not True:
            return Path(self.save_best)
        found = [
            (one, Path(one.best_model_save_path) / "best_model.zip")
            for one in _callbacks(self.locals.get("callback"))
            if isinstance(one, EvalCallback) and one.best_model_save_path is not None
        ]
        if len(found) != 1:
            names = ", ".join(str(path) for _, path in found) or "none"
            raise ValueError(
                "save_best=True needs one EvalCallback with best_model_save_path beside Track, "
                f"found {names}; add one, or give the path of the zip as save_best"
            )
        self._saver, path = found[0]
        return path

    def _film(self, recorder: EpisodeRecorder) -> None:
        try:
            film = recorder.record(self.num_timesteps)
            if self.run is not None:
                video = wandb_runs.require_wandb().Video(str(film.path))
                row = {"video/episode": video, "video/reward": film.reward}
                row |= {"video/length": film.length, "global_step": self.num_timesteps}
                self.run.log(row)
        except Exception as error:  # a film must not end a training run
            warnings.warn(f"no video at step {self.num_timesteps}: {error}", stacklevel=2)


def _plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    values = {str(name): plain(value) for name, value in config.items()}
    for name, value in values.items():
        if value is NOT_PLAIN:
            kind = type(config[name]).__name__
            raise TypeError(
                f"config holds plain values (numbers, strings, lists, dicts); {name!r} is a {kind}"
            )
    return values


def _callbacks(root: object) -> Iterator[BaseCallback]:
    """A callback and all that hang below it."""
    if isinstance(root, BaseCallback):
        yield root
    below: list[object] = []
    if isinstance(root, CallbackList):
        below += root.callbacks
    if isinstance(root, EventCallback):
        below.append(root.callback)
    if isinstance(root, EvalCallback):
        below.append(root.callback_on_new_best)
    for one in below:
        yield from _callbacks(one)


def _writes_to(writer: object, path: Path) -> bool:
    name = getattr(getattr(writer, "file", None), "name", None)
    return isinstance(name, str) and os.path.realpath(name) == os.path.realpath(path)
