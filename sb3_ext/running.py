"""Train from a plain description: what ``sb3-ext train`` does, for Python.

    train(TrainOptions(algorithm="LFIWSAC", env="Hopper-v5", steps=100_000), "runs/hopper")

The description is written into the run directory. It rebuilds the run, so ``resume`` needs nothing
else.
"""

from __future__ import annotations

import dataclasses
import difflib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch as th
import yaml
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback, ProgressBarCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize

from sb3_ext.catalog import find_algorithm
from sb3_ext.errors import UsageError
from sb3_ext.hyperparameters import constructor_values
from sb3_ext.resume import ResumableCheckpoint, ResumableEnv, latest_checkpoint
from sb3_ext.statistics import save_statistics
from sb3_ext.tracking import RunDirectory, Track

OPTIONS = "options.yaml"
TRACKS = ("none", "tensorboard", "wandb")
VEC_ENVS: dict[str, type[DummyVecEnv] | type[SubprocVecEnv]] = {
    "dummy": DummyVecEnv,
    "subproc": SubprocVecEnv,
}
#: Seeds of the evaluation environments: far from those of 1,000 training environments.
EVALUATION_SEED = 1_000_000


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """All that a training run is made from; plain values only.

    :param algorithm: as :func:`sb3_ext.catalog.find_algorithm` takes it
    :param env: a registered id
    :param steps: environment steps, over all environments together
    :param hyperparameters: the algorithm's arguments
    :param env_kwargs: passed to ``gymnasium.make``
    :param policy: by default what fits the observations
    :param n_envs: how many environments
    :param vec_env: ``"dummy"`` steps them in turn, ``"subproc"`` each in a process of its own
    :param normalize: put ``VecNormalize`` around them
    :param seed: None for a different run each time
    :param eval_every: steps between evaluations; 0 for none
    :param eval_episodes: episodes of an evaluation
    :param checkpoint_every: steps between checkpoints; 0 for none
    :param keep: how many checkpoints stay
    :param track: ``"none"``, ``"tensorboard"``, or ``"wandb"``, which is both; CSV is always there
    :param save_replay_buffer: keep it at the end, in SB3's form
    :param device: as in SB3
    :param threads: of torch; more than one hurts small networks on a busy machine
    """

    algorithm: str
    env: str
    steps: int = 100_000
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    policy: str | None = None
    n_envs: int = 1
    vec_env: str = "dummy"
    normalize: bool = False
    seed: int | None = 0
    eval_every: int = 10_000
    eval_episodes: int = 10
    checkpoint_every: int = 10_000
    keep: int = 2
    track: str = "none"
    save_replay_buffer: bool = False
    device: str = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        least = {"steps": 1, "n_envs": 1, "eval_every": 0, "eval_episodes": 1, "keep": 1}
        for name, low in {**least, "checkpoint_every": 0, "threads": 1, "seed": 0}.items():
            value = getattr(self, name)
            if name == "seed" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise UsageError(f"{name} must be an integer of at least {low}, got {value!r}")
        for name, known in {"track": TRACKS, "vec_env": tuple(VEC_ENVS)}.items():
            if getattr(self, name) not in known:
                raise UsageError(
                    f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
        for name in ("hyperparameters", "env_kwargs"):
            if not isinstance(getattr(self, name), Mapping):
                raise UsageError(f"{name} must be a mapping, got {getattr(self, name)!r}")
        for name in ("algorithm", "env", "device"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise UsageError(f"{name} must be a name, got {getattr(self, name)!r}")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str) -> TrainOptions:
        """Options from a config.

        :param where: names the config in errors
        :raises UsageError: for an unknown key, with the near miss, or a missing one
        """
        known = [one.name for one in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
                raise UsageError(f"{where} has an unknown key {name!r}{hint}")
        for name in ("algorithm", "env"):
            if values.get(name) is None:
                raise UsageError(f"{where} lacks {name}")
        return cls(**values)


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
    callbacks: tuple[BaseCallback, ...] = (),
    on_start: Callable[[BaseAlgorithm, ResumableCheckpoint | None], None] | None = None,
) -> TrainResult:
    """Train, with all records in ``run_dir``.

    :param run_dir: a new folder, or with ``resume`` that of the run
    :param progress: show SB3's progress bar
    :param callbacks: further ones
    :param on_start: called just before ``learn`` with the model and the checkpointing callback
    :raises UsageError: if something asked for cannot be; nothing is left behind then
    """
    th.set_num_threads(options.threads)
    _, cls = find_algorithm(options.algorithm)
    require_env(options)
    folder = Path(run_dir)
    fresh = not folder.exists()
    try:
        run = RunDirectory.create(folder, exist_ok=resume)
    except OSError as error:
        told = str(error) if isinstance(error, FileExistsError) else f"{folder}: {error.strerror}"
        raise UsageError(f"no run can be written there: {told}") from error
    try:
        model, evaluation_env = _build(cls, options, run, resume)
        write_options(run, options)  # a resumed run may have been given more steps
    except BaseException:
        if not resume:  # what was just made, and nothing else
            shutil.rmtree(folder, ignore_errors=True)
            if not fresh:
                folder.mkdir(exist_ok=True)
        raise
    keeping = _keeping(cls, options, run)
    shown = [ProgressBarCallback()] if progress else []
    track = Track(
        run.path,
        wandb=options.track == "wandb",
        tensorboard=options.track != "none",
        resume=resume,
        config={"options": dataclasses.asdict(options)},
    )
    listed = [track, *_evaluation(options, run, evaluation_env), *callbacks, *shown]
    if on_start is not None:
        on_start(model, keeping)
    with track:
        model.learn(options.steps, callback=[*listed, *([keeping] if keeping else [])])
    stopped = keeping is not None and keeping.stopped
    if not stopped:
        _save(model, run, options)
    for env in (model.get_env(), evaluation_env):
        if env is not None:
            env.close()
    return TrainResult(
        run.path,
        model.num_timesteps,
        keeping.resumed_from if keeping else None,
        stopped,
        keeping.last if keeping else None,
    )


def write_options(run: RunDirectory, options: TrainOptions) -> None:
    """Write what rebuilds the run; ``--config`` reads it, too."""
    text = yaml.safe_dump(dataclasses.asdict(options), sort_keys=False)
    draft = run / f".{OPTIONS}.draft"
    draft.write_text(text)
    draft.replace(run / OPTIONS)


def read_options(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, by ``yaml.safe_load``.

    :raises UsageError: if there is none
    """
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        told = " ".join(str(error).split())
        raise UsageError(f"{path} is no YAML: {told}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} must hold a mapping of options, got {values!r}")
    return values


def run_options(run_dir: Path) -> TrainOptions:
    """The options of a run that was made by ``train``.

    :raises UsageError: if the folder holds none
    """
    if not (run_dir / OPTIONS).is_file():
        raise UsageError(f"{run_dir} holds no run of `sb3-ext train`: it has no {OPTIONS}")
    return TrainOptions.from_mapping(read_options(run_dir / OPTIONS), str(run_dir / OPTIONS))


def require_env(options: TrainOptions) -> None:
    """Refuse an environment that is not registered or cannot be made.

    :raises UsageError: with the near miss
    """
    try:
        gym.make(options.env, **options.env_kwargs).close()
    except gym.error.NameNotFound as error:
        near = difflib.get_close_matches(options.env, gym.registry, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"no environment {options.env!r} is registered{hint}") from error
    except (gym.error.Error, ImportError, TypeError, ValueError) as error:
        told = " ".join(str(error).split())
        raise UsageError(f"the environment {options.env!r} cannot be made: {told}") from error


def make_env(
    options: TrainOptions,
    *,
    n_envs: int,
    seed: int | None,
    monitor: Path | None,
    append: bool = False,
) -> VecEnv:
    """The vectorised environment of a run, without ``VecNormalize``."""
    return make_vec_env(
        options.env,
        n_envs,
        seed=seed,
        env_kwargs=dict(options.env_kwargs),
        monitor_dir=None if monitor is None else str(monitor),
        monitor_kwargs={"override_existing": not append},
        wrapper_class=ResumableEnv,
        vec_env_cls=VEC_ENVS[options.vec_env],
    )


def make_model(cls: Any, options: TrainOptions, env: VecEnv) -> BaseAlgorithm:
    """The algorithm, from plain values.

    :raises UsageError: if the class refuses them
    """
    policy = options.policy or default_policy(cls, env)
    values = constructor_values(cls, options.hyperparameters, env)
    try:
        model: BaseAlgorithm = cls(
            policy, env, seed=options.seed, device=options.device, verbose=0, **values
        )
    except (ValueError, TypeError, AssertionError, KeyError, RuntimeError) as error:
        told = " ".join(str(error).split())
        raise UsageError(f"{options.algorithm} cannot be made: {told}") from error
    return model


def default_policy(cls: Any, env: VecEnv) -> str:
    """The policy that fits the observations."""
    if isinstance(env.observation_space, gym.spaces.Dict):
        fitting = "MultiInput"
    else:
        fitting = "Cnn" if is_image_space(env.observation_space) else "Mlp"
    names: Mapping[str, Any] = cls.policy_aliases
    for name in (f"{fitting}Policy", f"{fitting}LstmPolicy"):
        if name in names:
            return name
    raise UsageError(
        f"{cls.__name__} has no policy for observations like {env.observation_space}; "
        f"it has {', '.join(names)}"
    )


def _build(
    cls: Any, options: TrainOptions, run: RunDirectory, resume: bool
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
            env = VecNormalize(env)
            if evaluation_env is not None:
                evaluation_env = VecNormalize(evaluation_env, training=False, norm_reward=False)
        if resume and not goes_on and (run / "model.zip").exists():
            raise UsageError(f"{run.path} has no checkpoint to go on from")
        return make_model(cls, options, env), evaluation_env
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


def _evaluation(options: TrainOptions, run: RunDirectory, env: VecEnv | None) -> list[BaseCallback]:
    if env is None:
        return []
    return [
        EvalCallback(
            env,
            callback_on_new_best=_KeepStatistics(run / "best_model"),
            n_eval_episodes=options.eval_episodes,
            eval_freq=max(1, options.eval_every // options.n_envs),
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
