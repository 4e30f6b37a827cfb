"""What a run is made from, as plain values, and its YAML."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sb3_ext.errors import UsageError
from sb3_ext.tracking import RunDirectory

OPTIONS = "options.yaml"
TRACKS = ("none", "tensorboard", "wandb")
VEC_ENVS = ("dummy", "subproc", "packed")


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
    :param vec_env: ``"dummy"`` steps them in turn, ``"subproc"`` each in a process of its own,
        ``"packed"`` several in each process, with a process for each core
    :param normalize: put ``VecNormalize`` around them
    :param seed: None for a different run each time
    :param eval_every: steps between evaluations; 0 for none
    :param eval_episodes: episodes of an evaluation
    :param checkpoint_every: steps between checkpoints; 0 for none
    :param keep: how many checkpoints stay
    :param track: ``"none"``, ``"tensorboard"``, or ``"wandb"``, which is both; CSV is always there
    :param save_best: send each best model to W&B as an artifact; needs ``track="wandb"``
    :param video_every: steps between films of an episode; 0 for none
    :param save_replay_buffer: keep it at the end, in SB3's form
    :param trained_agent: a zip or a run directory, with whose parameters this run begins
    :param replay_buffer: a file of ``save_replay_buffer``, with whose transitions it begins; it is
        a pickle, which must be trusted anew at each use
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
    save_best: bool = False
    video_every: int = 0
    save_replay_buffer: bool = False
    trained_agent: str | None = None
    replay_buffer: str | None = None
    device: str = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        least = {"steps": 1, "n_envs": 1, "eval_every": 0, "eval_episodes": 1, "keep": 1}
        least |= {"checkpoint_every": 0, "video_every": 0, "threads": 1, "seed": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if isinstance(value, float) and value.is_integer():  # 1e5
                value = int(value)
                object.__setattr__(self, name, value)
            if name == "seed" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise UsageError(f"{name} must be an integer of at least {low}, got {value!r}")
        for name, known in {"track": TRACKS, "vec_env": VEC_ENVS}.items():
            if getattr(self, name) not in known:
                raise UsageError(
                    f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
        for name in ("hyperparameters", "env_kwargs"):
            if not isinstance(getattr(self, name), Mapping):
                raise UsageError(f"{name} must be a mapping, got {getattr(self, name)!r}")
        for name in ("policy", "trained_agent", "replay_buffer"):
            if getattr(self, name) is not None and not isinstance(getattr(self, name), str):
                raise UsageError(f"{name} must be a text, got {getattr(self, name)!r}")
        if self.save_best and (self.track != "wandb" or not self.eval_every):
            raise UsageError(
                "save_best sends the best model of the evaluations to W&B: it needs track wandb, "
                "and eval_every above 0"
            )
        for name in ("normalize", "save_best", "save_replay_buffer"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name} must be true or false, got {getattr(self, name)!r}")
        for name in ("algorithm", "env", "device"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise UsageError(f"{name} must be a name, got {getattr(self, name)!r}")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str) -> TrainOptions:
        """Options from a config.

        :param where: names the config in errors
        :raises UsageError: for an unknown key, with the near miss, or a missing one
        """
        cls.require_known(values, where)
        for name in ("algorithm", "env"):
            if values.get(name) is None:
                raise UsageError(f"{where} lacks {name}")
        try:
            return cls(**values)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error

    @classmethod
    def require_known(cls, values: Mapping[str, Any], where: str) -> None:
        """Refuse misspelt keys.

        :raises UsageError: with the near miss
        """
        known = [one.name for one in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
                raise UsageError(f"{where} has an unknown key {name!r}{hint}")


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
