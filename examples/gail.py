"""How many demonstrations does it take? GAIL beside behavioural cloning, as in the GAIL paper.

Ho and Ermon 2016 (section 6, figure 1) train an expert, give a learner a few of its episodes, of
which every 20th step is kept, and compare the learner's return with the expert's: 1 is the expert,
0 is random actions. Cloning needs many episodes, since it learns where the expert was and not how
to come back there; GAIL acts, and learns that.

This script trains the expert (PPO), records it, trains GAIL and BC for each number of episodes and
seed, and draws the scores. It goes on where a killed call stopped, in the midst of a training, too.

Hopper does not end when it falls here, so that all episodes are equally long: else a reward above 0
alone would teach to stay upright, whatever the expert does. The paper's Hopper is that of
``--env-kwargs`` without a value.

    python examples/gail.py                      # Hopper-v5, an hour and a half on two free cores
    python examples/gail.py --env HalfCheetah-v5 --env-kwargs --out runs/gail_cheetah
    python examples/gail.py --env Pendulum-v1 --env-kwargs --expert-steps 200000 --steps 100000
"""

import argparse
import dataclasses
import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from stable_baselines3.common.env_util import make_vec_env

from sb3_ext import cli
from sb3_ext.evaluation import bootstrap_interval
from sb3_ext.offline import OfflineDataset, from_policy
from sb3_ext.running import TrainOptions, train
from sb3_ext.running.hyperparameters import read_settings

AGENTS = ("GAIL", "BC")
COLOURS = {"GAIL": "#0072B2", "BC": "#D55E00"}
#: Of the expert and of the generator alike; RL Zoo's for MuJoCo, rounded.
PPO = {
    "n_steps": 512,
    "batch_size": 128,
    "n_epochs": 10,
    "gamma": 0.995,
    "gae_lambda": 0.95,
    "learning_rate": 2e-4,
    "clip_range": 0.2,
}
N_ENVS = 4


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained, and for how long."""

    env: str
    env_kwargs: dict[str, Any]
    expert_steps: int
    steps: int
    clone_steps: int
    episodes: tuple[int, ...]
    keep_every: int
    trials: int
    out: Path


def resumed(options: TrainOptions, folder: Path) -> None:
    """Train, or go on; a finished run is left."""
    if (folder / "model.zip").exists():
        return
    train(options, folder, resume=(folder / "options.yaml").exists())


def options_of(task: Task, algorithm: str, seed: int, **more: Any) -> TrainOptions:
    """What all trainings share."""
    shared: dict[str, Any] = {"eval_every": 0, "track": "none", "checkpoint_every": 20_000}
    given = {"env": task.env, "env_kwargs": task.env_kwargs, "seed": seed, "device": "cpu"}
    return TrainOptions(algorithm=algorithm, **{**given, **shared, **more})


def expert(task: Task) -> Path:
    """Train the expert and record it; the file of its episodes."""
    run, file = task.out / "expert", task.out / "expert.npz"
    resumed(
        options_of(
            task,
            "PPO",
            1,
            steps=task.expert_steps,
            hyperparameters=PPO,
            n_envs=N_ENVS,
            normalize=True,
        ),
        run,
    )
    if not file.exists():
        words = ["collect", "--expert", str(run), "--which", "final", "--out", str(file)]
        if cli.main([*words, "--episodes", str(max(task.episodes))]):
            raise SystemExit(2)
    return file


def thinned(dataset: OfflineDataset, every: int, rng: np.random.Generator) -> OfflineDataset:
    """Every n-th step of each episode, from a random one on; each stands for itself."""
    rows = np.concatenate(
        [np.arange(e.start + rng.integers(every), e.stop, every) for e in dataset.episodes()]
    )
    terminated = dataset.terminated[rows]
    observations, following = dataset.observations, dataset.next_observations
    assert isinstance(observations, np.ndarray) and isinstance(following, np.ndarray)
    return OfflineDataset(
        observations=observations[rows],
        actions=dataset.actions[rows],
        rewards=dataset.rewards[rows],
        next_observations=following[rows],
        terminated=terminated,
        truncated=~terminated,
        episode_starts=np.arange(len(rows)),
        observation_space=dataset.observation_space,
        action_space=dataset.action_space,
        source={**dataset.source, "keep_every": every},
    )


def learner(task: Task, agent: str, n: int, seed: int) -> Path:
    """Train one agent on n episodes, and say what it is worth."""
    torch.set_num_threads(1)
    told = task.out / f"{agent}_{n}_{seed}.json"
    if told.exists():
        return told
    demonstrations = task.out / f"demonstrations_{n}_{seed}.npz"
    if not demonstrations.exists():
        rng = np.random.default_rng(seed)
        data = OfflineDataset.load(task.out / "expert.npz")
        chosen = rng.permutation(data.n_episodes)[:n].tolist()
        thinned(data.subset(episodes=chosen), task.keep_every, rng).save(demonstrations)
    given: dict[str, Any] = {"demonstrations": str(demonstrations)}
    if agent == "BC":
        options = options_of(
            task, "BC", seed, steps=task.clone_steps, hyperparameters={**given, "ent_weight": 0.0}
        )
    else:
        given |= {"generator": "PPO", "generator_kwargs": PPO, "n_disc_updates_per_round": 8}
        given |= {"allow_variable_horizon": True}  # for who wants the paper's Hopper
        options = options_of(
            task,
            "GAIL",
            seed,
            steps=task.steps,
            hyperparameters=given,
            n_envs=N_ENVS,
            normalize=True,
        )
    run = task.out / f"{agent}_{n}_{seed}"
    resumed(options, run)
    told.write_text(json.dumps(returns_of(task, run, seed)))
    return told


def returns_of(task: Task, run: Path, seed: int) -> list[float]:
    """Returns of a run's final agent, by the command ``collect``, which says what it played."""
    file = run / "played.npz"
    words = ["collect", "--expert", str(run), "--which", "final", "--out", str(file), "--overwrite"]
    words += ["--episodes", str(task.trials), "--seed", str(1000 + seed), "--json"]
    if cli.main(words):
        raise SystemExit(2)
    return [float(one) for one in OfflineDataset.load(file).returns()]


def normalised(task: Task, scores: Any) -> Any:
    """0 for random actions, 1 for the expert."""
    bounds = json.loads((task.out / "bounds.json").read_text())
    return (np.asarray(scores) - bounds["random"]) / (bounds["expert"] - bounds["random"])


def write_bounds(task: Task) -> None:
    """The returns that 0 and 1 stand for."""
    env = make_vec_env(task.env, env_kwargs=task.env_kwargs)
    env.action_space.seed(0)
    data = from_policy(
        lambda seen: np.stack([env.action_space.sample() for _ in seen]), env, n_episodes=20, seed=0
    )
    experts = OfflineDataset.load(task.out / "expert.npz").returns()
    bounds = {"random": float(data.returns().mean()), "expert": float(experts.mean())}
    (task.out / "bounds.json").write_text(json.dumps(bounds))
    print(", ".join(f"{name} {value:.1f}" for name, value in bounds.items()))


def scores(task: Task, agent: str, n: int) -> np.ndarray:
    """One score a seed: the mean over its episodes."""
    files = sorted(task.out.glob(f"{agent}_{n}_*.json"))
    found = [np.mean(json.loads(file.read_text())) for file in files]
    return np.asarray(normalised(task, found))


def report(task: Task) -> Path:
    """The table and the figure: each seed a point, their mean a line."""
    print("| episodes | " + " | ".join(AGENTS) + " |\n| --: |" + " --: |" * len(AGENTS))
    for n in task.episodes:
        cells = [str(bootstrap_interval(scores(task, one, n), np.mean)) for one in AGENTS]
        print(f"| {n} | {' | '.join(cells)} |")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5.5, 4))
    for agent in AGENTS:
        found = [scores(task, agent, n) for n in task.episodes]
        for n, points in zip(task.episodes, found, strict=True):
            axes.plot([n] * len(points), points, ".", color=COLOURS[agent], alpha=0.5)
        axes.plot(task.episodes, [one.mean() for one in found], color=COLOURS[agent], label=agent)
    axes.axhline(1, color="#5B5B5B", linewidth=0.8, linestyle=":")
    axes.set_xscale("log")
    axes.set_xticks(task.episodes, [str(n) for n in task.episodes])
    axes.minorticks_off()
    axes.set_xlabel(f"expert episodes, every {task.keep_every}th step of each")
    axes.set_ylabel("score (0 random, 1 expert)")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"{task.env}, {task.steps:,} steps of GAIL")
    figure.tight_layout()
    path = task.out / "gail.png"
    figure.savefig(path, dpi=130)
    return path


def main() -> None:
    """Run what is missing, print the table, draw the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--env", default="Hopper-v5", help="continuous actions")
    add(
        "--env-kwargs",
        nargs="*",
        default=["terminate_when_unhealthy=false"],
        metavar="KEY=VALUE",
        help="of the environment; without a value, none",
    )
    add("--expert-steps", type=int, default=1_000_000, help="of the expert's training")
    add("--steps", type=int, default=500_000, help="of GAIL, in the environment")
    add("--clone-steps", type=int, default=20_000, help="of BC, gradient steps")
    add("--episodes", type=int, nargs="+", default=[1, 4, 11, 25], help="(the paper's)")
    add("--keep-every", type=int, default=20, help="of an episode's steps (the paper's)")
    add("--trials", type=int, default=20, help="episodes that say what an agent is worth")
    add("--seeds", type=int, default=5)
    add("--jobs", type=int, default=2, help="processes")
    add("--out", type=Path, default=Path("runs/gail"))
    given = vars(parser.parse_args())
    seeds, jobs = given.pop("seeds"), given.pop("jobs")
    given["env_kwargs"] = read_settings(given["env_kwargs"], "--env-kwargs")
    task = Task(**{**given, "episodes": tuple(sorted(given["episodes"]))})
    task.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    expert(task)
    write_bounds(task)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting = [
            pool.submit(learner, task, agent, n, seed)
            for seed in range(seeds)
            for n in task.episodes
            for agent in AGENTS
        ]
        for one in as_completed(waiting):
            print(one.result(), flush=True)
    print(report(task))


if __name__ == "__main__":
    main()
