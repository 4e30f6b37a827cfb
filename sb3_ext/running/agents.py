"""Agents and transitions of earlier runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_ext.errors import UsageError
from sb3_ext.parameters import warm_start
from sb3_ext.resume import latest_checkpoint
from sb3_ext.resume.buffers import cut_off_episodes
from sb3_ext.statistics import load_statistics, statistics_path

WHICH = ("best", "final", "last")


def find_agent(run_dir: Path, which: str = "best") -> Path:
    """The zip asked for; without an evaluation, the best is the one at the end.

    :param which: ``"best"`` of all evaluations, ``"final"``, or ``"last"``: of the last checkpoint
    :raises UsageError: if there is none
    """
    last = latest_checkpoint(run_dir)
    agents = {
        "best": run_dir / "best_model.zip",
        "final": run_dir / "model.zip",
        "last": run_dir / "none" if last is None else last / "model.zip",
    }
    for name in WHICH if which == "best" else (which,):
        if agents[name].exists():
            return agents[name]
    there = [name for name, path in agents.items() if path.exists()]
    raise UsageError(
        f"{run_dir} has no such agent ({which}); there is {', '.join(there) or 'none at all yet'}"
    )


def start_from_agent(model: BaseAlgorithm, path: Path) -> None:
    """Begin with the networks and optimisers of an agent; nothing is unpickled.

    :param path: a zip, or a run directory, of which it is the best
    :raises UsageError: if there is none, or VecNormalize's means are not beside it
    :raises CheckpointError: if it does not fit
    """
    if not path.exists():
        raise UsageError(f"there is no agent {path}; give a zip or a run directory")
    agent = find_agent(path) if path.is_dir() else path
    normalize = model.get_vec_normalize_env()
    stem = agent.with_suffix("")
    if normalize is not None:
        if not statistics_path(stem).exists():
            raise UsageError(
                f"this run normalises, and {agent} has no means of VecNormalize beside it: leave "
                "--normalize out, or give the best or final agent of a run that normalised"
            )
        load_statistics(stem, normalize)
    elif statistics_path(stem).exists():
        raise UsageError(f"{agent} was trained under VecNormalize: add --normalize")
    warm_start(model, agent)


def start_from_buffer(model: BaseAlgorithm, path: Path, *, trusted: bool) -> None:
    """Begin with the transitions of a replay buffer that SB3 saved.

    :param trusted: whether the user said so; it is a pickle
    :raises UsageError: if it is not trusted, is no replay buffer, or does not fit
    """
    if hasattr(model, "one_gradient_step"):
        name = getattr(model, "data_argument", "dataset")
        raise UsageError(f"{type(model).__name__} learns from data alone: give --set {name}={path}")
    if not isinstance(model, OffPolicyAlgorithm):
        raise UsageError(
            f"{type(model).__name__} learns from its own rollouts and has no replay buffer"
        )
    if not path.is_file():
        raise UsageError(f"there is no replay buffer {path}; give a file of save_replay_buffer")
    if not trusted:
        raise UsageError(
            f"{path} is a pickle of SB3, and reading one runs the code of whoever wrote it. Add "
            "--allow-pickle if you trust it"
        )
    own = model.replay_buffer
    assert own is not None
    try:
        with path.open("rb") as file:  # SB3 leaves its own open when it fails
            model.load_replay_buffer(file)
    except Exception as error:  # a pickle of anything may fail with anything
        told = " ".join(str(error).split())
        raise UsageError(
            f"{path} cannot be used as replay buffer ({type(error).__name__}): {told}"
        ) from error
    found = model.replay_buffer
    for name in (
        *("n_envs", "observation_space", "action_space"),
        # A resumed run makes its buffer from its options, and puts the rows back into that.
        *("buffer_size", "optimize_memory_usage", "handle_timeout_termination", "n_steps"),
    ):
        if not hasattr(own, name):
            continue
        wanted: Any = getattr(own, name)
        got: Any = getattr(found, name, None)
        if name == "buffer_size" and wanted != got:
            n_envs = own.n_envs
            raise UsageError(
                f"{path} has buffer_size {got * n_envs}, and this run has {wanted * n_envs}: add "
                f"--set buffer_size={got * n_envs}"
            )
        if wanted != got:
            raise UsageError(f"{path} has {name} {got}, and this run has {wanted}")
    if type(found) is not type(own):
        raise UsageError(
            f"{path} is a {type(found).__name__}, and this run uses a {type(own).__name__}"
        )
    cut_off_episodes(found)  # this run's first episode is another than the last one in there
