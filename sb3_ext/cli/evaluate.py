"""`sb3-ext eval`: how good an agent is, with an interval."""

import argparse
import json
import tempfile
import textwrap
from pathlib import Path
from typing import Any

from sb3_ext.cli.parsing import add_command, at_least
from sb3_ext.errors import CheckpointError, UsageError

WHICH = ("best", "final", "last")
MORE = """\
PATH is a run directory of `sb3-ext train`, or a zip. A run's agent is made from its options.yaml
and its tensors, and nothing is unpickled. A zip of SB3 can only be read by unpickling, which runs
code of whoever wrote it: --allow-pickle says that you trust the file."""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "eval",
        "evaluate a trained agent",
        examples=(
            "eval runs/lfiw_sac/Hopper-v5_1",
            "eval runs/lfiw_sac/Hopper-v5_1 --which last --episodes 50 --json",
            "eval runs/lfiw_sac/Hopper-v5_1 --video hopper.gif",
            "eval hopper.zip --algo LFIWSAC --env Hopper-v5 --allow-pickle",
        ),
        more=MORE,
    )
    add = parser.add_argument
    add("path", type=Path, metavar="PATH", help="a run directory, or a zip")
    add(
        "--which",
        choices=WHICH,
        default="best",
        help="of a run: the best evaluation's, the final one, the last checkpoint's (best)",
    )
    add("--episodes", type=at_least(1), default=20, metavar="N", help="(20)")
    add("--seed", type=at_least(0), default=0, metavar="S", help="of the environment (0)")
    add("--stochastic", action="store_true", help="draw actions instead of taking the best")
    add("--render", action="store_true", help="show the episodes in a window")
    add("--video", type=Path, metavar="FILE", help="film one episode: a .gif")
    add("--algo", metavar="ALGO", help="of a zip")
    add("--env", metavar="ID", help="of a zip; or another environment than the run's")
    add("--device", default="auto", metavar="D", help="(auto)")
    add("--allow-pickle", action="store_true", help="load a zip, which may run its writer's code")
    add("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, and print."""
    import torch as th
    from stable_baselines3.common.evaluation import evaluate_policy

    from sb3_ext.evaluation import bootstrap_interval

    th.set_num_threads(1)
    _require_film(arguments.video)
    model, env, options, told = load_agent(arguments)
    model.set_random_seed(
        arguments.seed
    )  # of actions, and of the environment: a model brings its own
    recorder = None if arguments.video is None else _recorder(arguments, model, options)
    returns: Any
    lengths: Any
    returns, lengths = evaluate_policy(
        model,
        env,
        n_eval_episodes=arguments.episodes,
        deterministic=not arguments.stochastic,
        return_episode_rewards=True,
        warn=False,
    )
    film = None if recorder is None else recorder.film(arguments.video)
    for one in (env, recorder):
        if one is not None:
            one.close()
    interval = bootstrap_interval(returns)
    spread = th.tensor(returns).std(correction=0).item()
    if arguments.json:
        row = {
            **told,
            "episodes": arguments.episodes,
            "seed": arguments.seed,
            "mean": sum(returns) / len(returns),
            "std": spread,
            "iqm": interval.estimate,
            "interval": [interval.low, interval.high] if interval.n > 1 else None,
            "returns": [float(one) for one in returns],
            "lengths": lengths,
            "video": None if film is None else str(film.path),
        }
        print(json.dumps(row))
        return 0
    print(", ".join(f"{name} {value}" for name, value in told.items()))
    print(f"episodes   {arguments.episodes}, seed {arguments.seed}")
    print(f"return     mean {sum(returns) / len(returns):.1f}, standard deviation {spread:.1f}")
    if interval.n > 1:
        print(f"           interquartile mean {interval}, 95 % over episodes")
    else:
        print("           no interval from one episode")
    print(f"length     mean {sum(lengths) / len(lengths):.1f}, {min(lengths)} to {max(lengths)}")
    if film is not None:
        print(f"film       {film.path}, return {film.reward:.1f} in {film.length} steps")
    return 0


def _require_film(path: Path | None) -> None:
    """Refuse a name before anything is played."""
    if path is None:
        return
    if path.suffix.lower() != ".gif":
        raise UsageError(f"--video must end in .gif, got {path}")
    if path.is_dir():
        raise UsageError(f"--video must name a file, but {path} is a folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UsageError(f"--video cannot be written to {path.parent}: {error.strerror}") from error


def _recorder(arguments: argparse.Namespace, model: Any, options: Any) -> Any:
    """What films; the environment is made again, to be drawn into pictures."""
    from sb3_ext.running.making import make_film_env, require_film
    from sb3_ext.tracking.video import EpisodeRecorder

    require_film(options)
    try:
        return EpisodeRecorder(
            model,
            arguments.video.parent,
            lambda: make_film_env(options),
            seed=arguments.seed,
            deterministic=not arguments.stochastic,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def load_agent(arguments: argparse.Namespace) -> tuple[Any, Any, Any, dict[str, Any]]:
    """The agent that a command names, its environment, the run's options, and what to call it.

    :param arguments: with ``path``, ``which``, ``algo``, ``env``, ``device``, ``seed``,
        ``render`` and ``allow_pickle``
    :raises UsageError: if there is none, or it may not be read
    """
    if arguments.path.is_dir():
        return _load_run(arguments)
    if not arguments.path.exists():
        raise UsageError(f"there is no {arguments.path}; give a run directory or a zip")
    if not arguments.allow_pickle:
        raise UsageError(
            f"{arguments.path} is a zip of SB3, which is read by unpickling: that runs the code of "
            "whoever wrote it. Add --allow-pickle if you trust it, or give a run directory"
        )
    if arguments.algo is None or arguments.env is None:
        raise UsageError(
            "a zip says neither its algorithm nor its environment: give --algo and --env"
        )
    return _load_zip(arguments)


def _load_zip(arguments: argparse.Namespace) -> tuple[Any, Any, Any, dict[str, Any]]:
    from stable_baselines3.common.vec_env import VecNormalize

    from sb3_ext.catalog import find_algorithm
    from sb3_ext.running import TrainOptions
    from sb3_ext.statistics import load_statistics, statistics_path

    name, cls = find_algorithm(arguments.algo)
    options = TrainOptions(algorithm=name, env=arguments.env)
    env = _env(arguments, options)
    stem = arguments.path.with_suffix("")
    if statistics_path(stem).exists():
        env = VecNormalize(env, training=False, norm_reward=False)
        load_statistics(stem, env)
    try:
        model = cls.load(arguments.path, env=env, device=arguments.device)
    except Exception as error:
        told = textwrap.shorten(str(error), 200, placeholder=" ...")
        raise UsageError(f"{arguments.path} is no {name}: {told}") from error
    names = {"agent": str(arguments.path), "algorithm": name, "env": arguments.env}
    return model, env, options, names


def _load_run(arguments: argparse.Namespace) -> tuple[Any, Any, Any, dict[str, Any]]:
    import dataclasses

    from stable_baselines3.common.vec_env import VecNormalize

    from sb3_ext.catalog import find_algorithm
    from sb3_ext.parameters import load_parameters
    from sb3_ext.running.agents import find_agent
    from sb3_ext.running.making import make_model
    from sb3_ext.running.options import run_options
    from sb3_ext.statistics import load_statistics, statistics_path

    if arguments.algo is not None:
        raise UsageError("a run directory says its algorithm; --algo is for a zip")
    options = run_options(arguments.path)
    agent, trained_in = find_agent(arguments.path, arguments.which), options.env
    options = dataclasses.replace(
        options, env=arguments.env or options.env, device=arguments.device
    )
    _, cls = find_algorithm(options.algorithm)
    env = _env(arguments, options)
    if options.normalize:
        stem = agent.with_suffix("")
        if not statistics_path(stem).exists():
            raise UsageError(
                f"{agent} was trained under VecNormalize, whose means are not beside it: "
                f"{statistics_path(stem).name} is missing"
            )
        env = VecNormalize(env, training=False, norm_reward=False)
        load_statistics(stem, env)
    model: Any = make_model(cls, options, env)
    try:
        load_parameters(model, agent)
    except CheckpointError as error:
        if arguments.env in (None, trained_in):
            raise
        raise UsageError(
            f"{agent} was trained in {trained_in}, and does not fit {arguments.env}, with "
            f"observations {env.observation_space} and actions {env.action_space}"
        ) from error
    names = {"agent": str(agent), "algorithm": options.algorithm, "env": options.env}
    return model, env, options, names


def _env(arguments: argparse.Namespace, options: Any) -> Any:
    import dataclasses

    from sb3_ext.running.making import make_env, require_env

    options = dataclasses.replace(options, vec_env="dummy")
    if arguments.render:
        shown = {**options.env_kwargs, "render_mode": "human"}
        options = dataclasses.replace(options, env_kwargs=shown)
    require_env(options)
    return make_env(options, n_envs=1, seed=arguments.seed, monitor=None)
