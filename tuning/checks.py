"""What cannot work is refused before a study is written: its name is then still free."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch as th
from optuna.study import Study
from optuna.trial import TrialState
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext.catalog import find_algorithm
from sb3_ext.errors import UsageError
from sb3_ext.running.making import make_env, make_model
from sb3_ext.spec import Choice
from sb3_ext.tuning.options import TuneOptions
from sb3_ext.tuning.queue import LOST


def require_makeable(options: TuneOptions) -> None:
    """Make the default model once, and one at each end of the ranges that the user gave.

    What plugins declare has been tried by their tests; a user's own range has not.

    :raises UsageError: with what the algorithm says
    """
    _, cls = find_algorithm(options.algorithm)
    atoms, _ = options.search_space(cls)
    th.set_num_threads(options.threads)
    for drawn in ({}, *_ends({name: atoms[name] for name in options.ranges if name in atoms})):
        run = options.run_options(drawn, seed=options.seed)
        # One environment, and in this process: this is about arguments.
        env: Any = make_env(
            dataclasses.replace(run, vec_env="dummy"), n_envs=1, seed=None, monitor=None
        )
        env = VecNormalize(env) if options.normalize else env
        try:
            model = make_model(cls, run, env)
        except Exception as error:  # a stranger's algorithm may raise anything
            told = " ".join(str(error).split()) or type(error).__name__
            where = ", ".join(f"{name}={value!r}" for name, value in drawn.items())
            raise UsageError(f"ranges: {where}: {told}" if drawn else told) from error
        finally:
            env.close()
        _require_rollouts_fit(model, options)


def require_room(study: Study, options: TuneOptions) -> None:
    """Refuse fewer trials than were done: those of a study are never thrown away.

    :raises UsageError: with how many there are
    """
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    done = study.get_trials(deepcopy=False, states=states)
    count = sum(LOST not in one.user_attrs for one in done)
    if options.trials < count:
        raise UsageError(
            f"the study {options.study!r} has done {count} trials already: --trials may only ask "
            f"for more, got {options.trials}"
        )


def _ends(atoms: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Each choice, and both ends of each interval, one at a time."""
    for name, atom in atoms.items():
        values = atom.options if isinstance(atom, Choice) else (atom.low, atom.high)
        for value in values:
            yield {name: value}


def _require_rollouts_fit(model: Any, options: TuneOptions) -> None:
    """A rollout longer than the run would leave nothing to learn from."""
    if not isinstance(model, OnPolicyAlgorithm):
        return
    rollout = model.n_steps * options.n_envs
    if rollout > options.steps:
        raise UsageError(
            f"{options.algorithm} first learns after n_steps * n_envs = {model.n_steps} * "
            f"{options.n_envs} = {rollout} steps, and a run has {options.steps}: ask for more "
            "--steps, or a smaller n_steps"
        )
