"""A run from its options: what is written where, and the way back after a kill."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback, ProgressBarCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_ext.catalog import find_algorithm
from sb3_ext.errors import CheckpointError, UsageError
from sb3_ext.resume import ResumableCheckpoint, latest_checkpoint
from sb3_ext.resume.store import lock_folder, read_manifest, unlock_folder
from sb3_ext.running.agents import start_from_agent, start_from_buffer
from sb3_ext.running.hyperparameters import with_data_at_home
from sb3_ext.running.making import (
    make_env,
    make_film_env,
    make_model,
    require_env,
    require_film,
)
from sb3_ext.running.options import TrainOptions, run_options, write_options
from sb3_ext.signatures import DATA
from sb3_ext.statistics import save_statistics
from sb3_ext.tracking import RunDirectory, Track
from sb3_ext.tracking.directory import read_json

#: Seeds of the evaluation environments: far from those of 1,000 training environments.
EVALUATION_SEED = 1_000_000


@dataclass(frozen=True)
class TrainResult:
    """What came out of a run.

    :param run_dir: its folder
    :param steps: environment steps done
    :param resumed_from: the step that this process began with, or None
    :param stopped: whether it was asked to stop before its end; it can be resumed
    :param checkpoint: the newest one
    """

    run_dir: Path
    steps: int
    resumed_from: int | None
    stopped: bool
    checkpoint: Path | None


def train(
    options: TrainOptions,
    run_dir: str | Path,
    *,
    resume: bool = False,
    progress: bool = False,
    allow_pickle: bool = False,
    callbacks: tuple[BaseCallback, ...] = (),
    after_evaluation: BaseCallback | None = None,
    wandb: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    on_start: Callable[[BaseAlgorithm, ResumableCheckpoint | None], None] | None = None,
) -> TrainResult:
    """Train, with all records in ``run_dir``.

    :param run_dir: a new folder, or with ``resume`` that of the run
    :param progress: show SB3's progress bar
    :param allow_pickle: trust ``options.replay_buffer``, and a dataset that is a pickle
    :param callbacks: further ones
    :param after_evaluation: called after each evaluation, with ``EvalCallback`` as its ``parent``;
        training stops if it returns False
    :param wandb: options for ``wandb.init``, where ``options.track`` is ``"wandb"``
    :param config: plain values to add to ``config.json`` and to W&B's config
    :param on_start: called just before ``learn`` with the model and the checkpointing callback
    :raises UsageError: if something asked for cannot be; nothing is left behind then
    """
    th.set_num_threads(options.threads)
    _, cls = find_algorithm(options.algorithm)
    options = dataclasses.replace(
        options, hyperparameters=with_data_at_home(options.hyperparameters)
    )
    require_env(options)
    folder = Path(run_dir)
    fresh = not folder.exists()
    above = [one for one in folder.absolute().parents if not one.exists()]
    try:
        run = RunDirectory.create(folder, exist_ok=resume)
    except OSError as error:
        told = str(error) if isinstance(error, FileExistsError) else f"{folder}: {error.strerror}"
        raise UsageError(f"no run can be written there: {told}") from error
    try:
        lock_folder(folder)
    except CheckpointError as error:  # it is another's, and so not for us to take away
        raise UsageError(str(error)) from error
    recorded = run_options(folder) if resume else options
    try:
        if resume:
            _require_way_on(cls, run, options)
        if options.video_every:
            require_film(options)
        if not resume:  # before all else: a run that is killed now can be told from no run
            write_options(run, options)
        model, evaluation_env = _build(cls, options, run, resume, allow_pickle)
        write_options(run, options)  # a resumed run may have been given more steps
    except BaseException:
        unlock_folder(folder)
        if not resume:  # what was just made, and nothing else
            shutil.rmtree(folder, ignore_errors=True)
            if not fresh:
                folder.mkdir(exist_ok=True)
            for one in above:
                with contextlib.suppress(OSError):  # somebody else's run may be there by now
                    one.rmdir()
        raise
    keeping = _keeping(cls, options, run)
    shown = [ProgressBarCallback()] if progress else []
    track = Track(
        run.path,
        wandb=(wandb or True) if options.track == "wandb" else False,
        tensorboard=options.track != "none",
        save_best=options.save_best,
        video_every=options.video_every,
        video_env=lambda: make_film_env(options),
        resume=resume,
        config={"options": dataclasses.asdict(options), **(config or {})},
    )
    evaluations = _evaluation(cls, options, run, evaluation_env, after_evaluation)
    listed = [track, *evaluations, *callbacks, *shown]
    if on_start is not None:
        on_start(model, keeping)
    try:
        with track:
            try:
                model.learn(options.steps, callback=[*listed, *([keeping] if keeping else [])])
            except CheckpointError as error:  # refused: the run stays as it was
                write_options(run, recorded)
                before = {name: recorded.hyperparameters.get(name) for name in DATA}
                data = ", ".join(f"{name}={value}" for name, value in before.items() if value)
                raise CheckpointError(f"{error}; it had {data}" if data else str(error)) from error
        stopped = keeping is not None and keeping.stopped
        if not stopped:
            _save(model, run, options)
    finally:  # a session may outlive a run that failed, and others may want to go on with it
        for env in (model.get_env(), evaluation_env):
            if env is not None:
                with contextlib.suppress(ConnectionError, EOFError):  # workers that are gone
                    env.close()
        unlock_folder(folder)
    return TrainResult(
        run.path,
        # The step after a stop's checkpoint is done again.
        int(read_manifest(keeping.last)["num_timesteps"])
        if stopped and keeping is not None and keeping.last is not None
        else model.num_timesteps,
        keeping.resumed_from if keeping else None,
        stopped,
        keeping.last if keeping else None,
    )


def _require_way_on(cls: type, run: RunDirectory, options: TrainOptions) -> None:
    """Refuse to begin a run again that had got somewhere; its records would be lost.

    :raises UsageError: if there is no whole checkpoint, or it is beyond the steps asked for
    """
    if (run / "config.json").exists():
        try:
            read_json(run / "config.json")
        except ValueError as error:
            raise UsageError(str(error)) from error
    newest = latest_checkpoint(run.path)
    if newest is None:
        if any(run.path.glob("checkpoints/step-*")):
            raise UsageError(f"{run.path} has no whole checkpoint left to go on from")
        rollouts = hasattr(cls, "collect_rollouts")
        if not (options.checkpoint_every and rollouts) or (run / "model.zip").exists():
            raise UsageError(f"{run.path} was trained without checkpoints and cannot go on")
        return  # killed before the first was written
    done = int(read_manifest(newest)["num_timesteps"])
    # A rollout may have carried the run beyond what was asked for at first.
    if options.steps < done and options.steps != run_options(run.path).steps:
        raise UsageError(
            f"{run.path} has done {done:,} steps already: --steps may only ask for more, got "
            f"{options.steps:,}"
        )


def _build(
    cls: Any, options: TrainOptions, run: RunDirectory, resume: bool, allow_pickle: bool
) -> tuple[BaseAlgorithm, VecEnv | None]:
    goes_on = resume and latest_checkpoint(run.path) is not None
    env = make_env(
        options, n_envs=options.n_envs, seed=options.seed, monitor=run.path, append=goes_on
    )
    evaluation_env = None
    if options.eval_every:
        seed = None if options.seed is None else options.seed + EVALUATION_SEED
        evaluation_env = make_env(options, n_envs=1, seed=seed, monitor=None)
    try:
        if options.normalize:
            if hasattr(cls, "one_gradient_step"):
                raise UsageError(
                    f"{options.algorithm} acts nowhere, so --normalize has no episodes to learn "
                    "its statistics from: leave it out"
                )
            env = VecNormalize(env)
            if evaluation_env is not None:
                evaluation_env = VecNormalize(evaluation_env, training=False, norm_reward=False)
        model = make_model(cls, options, env, allow_pickle=allow_pickle)
        if not goes_on:  # a checkpoint holds both
            if options.trained_agent is not None:
                start_from_agent(model, Path(options.trained_agent))
            if options.replay_buffer is not None:
                start_from_buffer(model, Path(options.replay_buffer), trusted=allow_pickle)
        return model, evaluation_env
    except BaseException:
        env.close()
        if evaluation_env is not None:
            evaluation_env.close()
        raise


def _keeping(cls: type, options: TrainOptions, run: RunDirectory) -> ResumableCheckpoint | None:
    if options.checkpoint_every and not hasattr(cls, "collect_rollouts"):
        print(f"{options.algorithm} collects no rollouts, so this run has no checkpoints.")
        return None
    if not options.checkpoint_every:
        return None
    return ResumableCheckpoint(run.path, every=options.checkpoint_every, keep=options.keep)


def _evaluation(
    cls: Any,
    options: TrainOptions,
    run: RunDirectory,
    env: VecEnv | None,
    after: BaseCallback | None,
) -> list[BaseCallback]:
    if env is None:
        return []
    # A gradient step is of no environment.
    steps_at_once = 1 if hasattr(cls, "one_gradient_step") else options.n_envs
    return [
        EvalCallback(
            env,
            callback_after_eval=after,
            callback_on_new_best=_KeepStatistics(run / "best_model"),
            n_eval_episodes=options.eval_episodes,
            eval_freq=max(1, options.eval_every // steps_at_once),
            log_path=str(run.path),
            best_model_save_path=str(run.path),
            verbose=0,
        )
    ]


class _KeepStatistics(BaseCallback):
    """The running means of ``VecNormalize``, without which a model sees another world."""

    resumed_attributes = frozenset[str]()

    def __init__(self, stem: Path) -> None:
        super().__init__()
        self.stem = stem

    def _on_step(self) -> bool:
        save_statistics(self.stem, self.model.get_vec_normalize_env())
        return True


def _save(model: BaseAlgorithm, run: RunDirectory, options: TrainOptions) -> None:
    model.save(run / "model.zip")
    save_statistics(run / "model", model.get_vec_normalize_env())
    if options.save_replay_buffer and isinstance(model, OffPolicyAlgorithm):
        model.save_replay_buffer(run / "replay_buffer.pkl")
