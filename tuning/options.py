"""What a study is made from, as plain values, and its YAML."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sb3_ext.catalog import find_algorithm
from sb3_ext.errors import UsageError
from sb3_ext.running import TrainOptions, read_options
from sb3_ext.running.hyperparameters import require_arguments, with_data_at_home
from sb3_ext.tuning.spaces import (
    hyperparameters,
    plain_space,
    study_space,
    that_learns,
    with_defaults,
)

STUDY = "study.yaml"
SAMPLERS = ("tpe", "random")
PRUNERS = ("median", "halving", "none")
#: Seeds by what they are for: far apart, so that no run of one kind meets another's.
TUNING, CHOOSING, TESTING = 0, 100_000, 200_000

_NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """All that a study is made from; plain values only.

    :param algorithm: as :func:`sb3_ext.catalog.find_algorithm` takes it
    :param env: a registered id
    :param study: its name; letters, digits, ``.``, ``_`` and ``-``
    :param trials: how many; failed ones count, those whose process died do not
    :param steps: environment steps of each run
    :param seeds: runs of a trial, each with a seed of its own, the same for all trials; the median
        is its score
    :param hyperparameters: arguments of the algorithm that are not searched
    :param space: which hyperparameters to search; None: all that are declared
    :param ranges: other ranges than the declared ones, or of further arguments
    :param enqueue: begin with the default configuration
    :param sampler: ``"tpe"`` or ``"random"``
    :param pruner: ``"median"``, ``"halving"`` (successive halving) or ``"none"``
    :param evaluations: evaluations of a run, each of which is reported to the pruner
    :param eval_episodes: episodes of an evaluation
    :param top: how many of the best trials are run again beside the defaults; 0: no second stage
    :param final_seeds: fresh seeds of each of them, and as many again of the one that is chosen
    :param seed: of the sampler and of all runs
    :param timeout: seconds after which no trial is begun; None for no limit. What runs is finished,
        and the second stage comes on top
    :param trial_timeout: seconds after which a trial fails; None for no limit
    :param env_kwargs: passed to ``gymnasium.make``
    :param policy: by default what fits the observations
    :param n_envs: environments of a run
    :param vec_env: ``"dummy"``, ``"subproc"`` or ``"packed"``
    :param normalize: put ``VecNormalize`` around them
    :param track: ``"none"``, ``"tensorboard"`` or ``"wandb"``
    :param keep_models: keep the agents of trials; those of the second stage are always kept
    :param device: as in SB3
    :param threads: of torch, in each worker
    """

    algorithm: str
    env: str
    study: str
    trials: int = 50
    steps: int = 20_000
    seeds: int = 1
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    space: tuple[str, ...] | None = None
    ranges: Mapping[str, Any] = field(default_factory=dict)
    enqueue: bool = True
    sampler: str = "tpe"
    pruner: str = "median"
    evaluations: int = 10
    eval_episodes: int = 10
    top: int = 3
    final_seeds: int = 5
    seed: int = 0
    timeout: float | None = None
    trial_timeout: float | None = None
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    policy: str | None = None
    n_envs: int = 1
    vec_env: str = "dummy"
    normalize: bool = False
    track: str = "none"
    keep_models: bool = False
    device: str = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        least = {"trials": 1, "seeds": 1, "evaluations": 1, "top": 0, "final_seeds": 1, "seed": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise UsageError(f"{name} must be an integer of at least {low}, got {value!r}")
        for name, known in {"sampler": SAMPLERS, "pruner": PRUNERS}.items():
            if getattr(self, name) not in known:
                raise UsageError(
                    f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
        for name in ("timeout", "trial_timeout"):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if value is not None and not (number and value > 0):
                raise UsageError(f"{name} must be a number of seconds above 0, got {value!r}")
        for name in ("enqueue", "keep_models"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name} must be true or false, got {getattr(self, name)!r}")
        if not isinstance(self.study, str) or not _NAME.fullmatch(self.study):
            raise UsageError(
                f"study must be a name of letters, digits, '.', '_' and '-', got {self.study!r}"
            )
        if self.space is not None:
            listed = isinstance(self.space, (list, tuple)) and self.space
            if not listed or not all(isinstance(one, str) for one in self.space):
                raise UsageError(f"space must be a list of names, got {self.space!r}")
            object.__setattr__(self, "space", tuple(self.space))
        if not isinstance(self.ranges, Mapping):
            raise UsageError(f"ranges must be a mapping, got {self.ranges!r}")
        run = self.run_options({}, seed=0)  # steps, n_envs, track and so on keep its laws
        object.__setattr__(self, "steps", run.steps)
        if self.evaluations > self.steps:
            raise UsageError(
                f"evaluations must not be more than steps, got {self.evaluations} and {self.steps}"
            )

    # -- what follows from them ----------------------------------------------------------------

    def resolved(self) -> TuneOptions:
        """The same with the algorithm's canonical name.

        :raises UsageError: for an unknown algorithm or argument, or an impossible space
        """
        name, cls = find_algorithm(self.algorithm)
        require_arguments(cls, self.hyperparameters)
        self.search_space(cls)
        fixed = with_data_at_home(self.hyperparameters)
        return dataclasses.replace(self, algorithm=name, hyperparameters=fixed)

    def search_space(self, cls: type) -> tuple[dict[str, Any], dict[str, Any]]:
        """The space and the default configuration in it, see ``with_defaults``."""
        atoms = study_space(cls, self.hyperparameters, self.space, self.ranges)
        if "learning_starts" not in self.ranges:
            atoms = that_learns(atoms, self.steps)
        return with_defaults(cls, self.hyperparameters, atoms) if self.enqueue else (atoms, {})

    def run_options(self, drawn: Mapping[str, Any], *, seed: int) -> TrainOptions:
        """The options of one run, with what a trial drew."""
        values = {one.name for one in dataclasses.fields(TrainOptions)}
        shared = {
            one.name: getattr(self, one.name)
            for one in dataclasses.fields(self)
            if one.name in values
        }
        every = self.steps // self.evaluations if isinstance(self.steps, int) else 0
        return TrainOptions(
            **{
                **shared,
                "hyperparameters": hyperparameters(self.hyperparameters, drawn),
                "seed": seed,
                "eval_every": every,
                "checkpoint_every": 0,
            }
        )

    def seeds_for(self, purpose: int, number: int) -> list[int]:
        """The seeds of ``number`` runs for tuning, choosing or testing."""
        return [self.seed * 1_000 + purpose + one for one in range(number)]

    def identity(self, cls: type) -> dict[str, Any]:
        """What all trials of a study must share, to be compared."""
        atoms, _ = self.search_space(cls)
        plain = dataclasses.asdict(self)
        free = (
            *("study", "trials", "top", "final_seeds", "timeout", "trial_timeout", "track"),
            *("keep_models", "device", "threads", "space", "ranges", "pruner", "sampler"),
        )
        return {
            **{name: value for name, value in plain.items() if name not in free},
            "space": plain_space(atoms),
        }


def write_study(folder: Path, options: TuneOptions, storage: str | None) -> None:
    """Write what resumes the study.

    :param storage: None for the journal in the folder, which may then be moved
    """
    values = dataclasses.asdict(options) | {"storage": storage}
    values["space"] = None if options.space is None else list(options.space)
    draft = folder / f".{STUDY}.draft"
    draft.write_text(yaml.safe_dump(values, sort_keys=False))
    draft.replace(folder / STUDY)


def read_study(folder: Path) -> tuple[TuneOptions, str | None]:
    """The options of a study, and where it is stored: None for the journal in the folder.

    :raises UsageError: if the folder holds none
    """
    if not (folder / STUDY).is_file():
        raise UsageError(f"{folder} holds no study: it has no {STUDY}")
    values = read_options(folder / STUDY)
    storage = values.pop("storage", None)
    return options_of(values, str(folder / STUDY)), storage


def options_of(values: Mapping[str, Any], where: str) -> TuneOptions:
    """Options from a config.

    :param where: names the config in errors
    :raises UsageError: for an unknown key, with the near miss, or a missing one
    """
    known = [one.name for one in dataclasses.fields(TuneOptions)]
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            raise UsageError(f"{where} has an unknown key {name!r}{hint}")
    for name in ("algorithm", "env", "study"):
        if values.get(name) is None:
            raise UsageError(f"{where} lacks {name}")
    try:
        return TuneOptions(**values)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
