"""`sb3-ext collect`: an expert's episodes as a file of demonstrations."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from sb3_ext import __version__
from sb3_ext.cli.evaluate import WHICH, load_agent
from sb3_ext.cli.parsing import add_command, at_least
from sb3_ext.errors import UsageError

MORE = """\
The file is an .npz without pickle, for demonstrations= (GAIL, BC), for dataset= (BCQ), and for
OfflineDataset.load. It says what was recorded: the agent's file and its digest, algorithm,
environment, seed. Observations and rewards are the environment's own, also where the agent was
trained under VecNormalize. A run's agent is read without unpickling; a zip needs --allow-pickle."""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "collect",
        "record an expert's episodes for imitation or offline learning",
        examples=(
            "collect --expert runs/sac/Hopper-v5_1 --episodes 10 --out hopper.npz",
            "collect --expert ppo.zip --algo PPO --env CartPole-v1 --episodes 5 --out cartpole.npz "
            "--allow-pickle",
        ),
        more=MORE,
    )
    add = parser.add_argument
    add("--expert", type=Path, required=True, metavar="PATH", help="a run directory, or a zip")
    add("--episodes", type=at_least(1), required=True, metavar="N", help="how many whole episodes")
    add("--out", type=Path, required=True, metavar="FILE", help="an .npz that is not there yet")
    add("--env", metavar="ID", help="of a zip; or another environment than the run's")
    add("--algo", metavar="ALGO", help="of a zip")
    add("--which", choices=WHICH, default="best", help="of a run's agents (best)")
    add("--stochastic", action="store_true", help="draw actions instead of taking the best")
    add("--seed", type=at_least(0), default=0, metavar="S", help="of environment and actions (0)")
    add("--device", default="auto", metavar="D", help="(auto)")
    add("--allow-pickle", action="store_true", help="load a zip, which may run its writer's code")
    add("--overwrite", action="store_true", help="replace FILE if it is there")
    add("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Record, save, and print."""
    out = _require_out(arguments.out, arguments.overwrite)
    import torch as th

    from sb3_ext.offline import from_policy

    th.set_num_threads(1)
    arguments.path, arguments.render = arguments.expert, False
    model, env, options, told = load_agent(arguments)
    try:
        dataset = from_policy(
            model,
            env,
            n_episodes=arguments.episodes,
            deterministic=not arguments.stochastic,
            seed=arguments.seed,
        )
    finally:
        env.close()
    agent = Path(told["agent"])
    source = {
        **dataset.source,
        "protocol": "collect",
        "expert": str(agent.absolute()),
        "sha256": hashlib.sha256(agent.with_suffix(".zip").read_bytes()).hexdigest(),
        "algorithm": told["algorithm"],
        "env_id": options.env,
        "env_kwargs": dict(options.env_kwargs),
        "sb3_ext": __version__,
    }
    dataset = dataclasses.replace(dataset, source=source)
    path = dataset.save(out)
    returns, lengths = dataset.returns(), dataset.lengths()
    if arguments.json:
        row = {**told, "out": path, "transitions": len(dataset), "seed": arguments.seed}
        row |= {"returns": returns.tolist(), "lengths": lengths.tolist()}
        print(json.dumps(row))
        return 0
    print(", ".join(f"{name} {value}" for name, value in told.items()))
    print(f"episodes   {dataset.n_episodes}, {len(dataset)} transitions, seed {arguments.seed}")
    print(f"return     mean {returns.mean():.1f}, {returns.min():.1f} to {returns.max():.1f}")
    print(f"length     mean {lengths.mean():.1f}, {lengths.min()} to {lengths.max()}")
    print(f"written    {path}")
    return 0


def _require_out(path: Path, overwrite: bool) -> Path:
    """Refuse a file that cannot be written, before anything is played."""
    if path.suffix.lower() != ".npz":
        raise UsageError(f"--out must end in .npz, got {path}")
    if path.is_dir():
        raise UsageError(f"--out must name a file, but {path} is a folder")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} is there already: name another file, or add --overwrite")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UsageError(f"--out cannot be written to {path.parent}: {error.strerror}") from error
    return path
