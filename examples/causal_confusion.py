"""More information makes a clone worse: causal confusion, and two interventions that cure it.

De Haan, Jayaraman and Levine (2019) show an imitator the expert's previous action beside the state.
It predicts the next one so well that the clone copies it, and repeats itself for ever when it acts:

* **ORIGINAL**: noise in that slot; plain cloning works;
* **CONFOUNDED**: the previous action in it; plain cloning fails, on the same demonstrations;
* **policy execution** and **expert queries**: CausalBC on CONFOUNDED, and the graph that each finds
  for its budget of episodes or queries;
* **dropout**: the same network with all inputs, which is what hiding inputs at random does alone.

The rule "push along the velocity" is the expert of MountainCar; in Hopper an SAC agent is trained
first. Any other algorithm that imitates joins by its name. A second call does what is missing.

    python examples/causal_confusion.py                          # MountainCar, 15 minutes
    python examples/causal_confusion.py --also DAgger --also GAIL
    python examples/causal_confusion.py --env Hopper-v5 --samples 3000 --out runs/causal_hopper
"""

import argparse
import dataclasses
import json
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import gymnasium as gym
import matplotlib
import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_ext import CausalBC, PreviousAction, RichStart, catalog, with_previous_action
from sb3_ext.evaluation import bootstrap_interval
from sb3_ext.offline import OfflineDataset, from_policy
from sb3_ext.plugins.causal.queries import collect_states
from sb3_ext.running import TrainOptions, train
from sb3_ext.signatures import constructor_arguments

LINES = ("expert", "ORIGINAL", "CONFOUNDED", "dropout")
COLOURS = dict(zip(LINES, ("#5B5B5B", "#009E73", "#D55E00", "#CC79A7"), strict=True))
CURVES = {"policy execution": "#0072B2", "expert queries": "#E69F00"}
EPISODES = (1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 60, 100)
QUERIES = (1, 2, 5, 10, 20, 50, 100, 200)


@dataclasses.dataclass(frozen=True)
class Task:
    """What all imitators learn from, for how long, and how they are looked at."""

    env: str
    samples: int
    steps: int
    evaluations: int
    episodes: int
    queries: int
    expert_steps: int
    also: tuple[str, ...]
    out: Path


def raw_env(task: Task) -> gym.Env:
    """As the expert sees it; MountainCar from anywhere, as the authors have it."""
    env = gym.make(task.env)
    return RichStart(env) if task.env.startswith("MountainCar-") else env


def imitators_env(task: Task, mode: str, n_envs: int, seed: int) -> Any:
    """As the imitator sees it."""
    return make_vec_env(lambda: PreviousAction(gym.make(task.env), mode), n_envs, seed=seed)


def expert_of(task: Task) -> Callable[[np.ndarray], np.ndarray]:
    """A function of the imitator's observations, which does not look at the previous action."""
    if task.env.startswith("MountainCar-"):
        return lambda seen: np.where(seen[:, 1] < 0, 0, 2)
    run = task.out / "expert"
    if not (run / "model.zip").exists():  # it goes on where a killed call stopped
        options = TrainOptions(
            algorithm="sb3:SAC", env=task.env, steps=task.expert_steps, eval_every=0, device="cpu"
        )
        train(options, run, resume=(run / "options.yaml").exists())
    model = SAC.load(run / "model.zip", device="cpu")
    size = model.observation_space.shape[0]
    return lambda seen: model.predict(seen[:, :size], deterministic=True)[0]


def samples_of(dataset: OfflineDataset, n: int, seed: int) -> OfflineDataset:
    """Some steps, drawn at random, each an episode of its own."""
    n = min(n, len(dataset))
    rows = np.random.default_rng(seed).choice(len(dataset), n, replace=False)
    names = ("observations", "actions", "rewards", "next_observations", "terminated")
    return dataclasses.replace(
        dataset,
        **{name: getattr(dataset, name)[rows] for name in names},
        truncated=~dataset.terminated[rows],
        episode_starts=np.arange(n),
        behavior_log_prob=None,
    )


def changes_of(dataset: OfflineDataset) -> np.ndarray:
    """Where an action is another one than that before it, which stands last in the observation."""
    seen = dataset.observations
    assert isinstance(seen, np.ndarray)
    return np.asarray(seen[:, -1] != dataset.actions.reshape(len(dataset)))


def evaluated(task: Task, model: Any, mode: str, seed: int) -> float:
    """The mean return; the same starts for all."""
    env = imitators_env(task, mode, 5, 10_000 + 100 * seed)
    returns, _ = evaluate_policy(model, env, task.evaluations, deterministic=True)
    env.close()
    return float(returns)


def clone(task: Task, data: OfflineDataset, seed: int, *, plain: bool) -> CausalBC:
    """Cloning under every graph, or plain: a layer less, and half the steps, as by the authors."""
    own: dict[str, Any] = {"keep_probability": 1.0, "policy_kwargs": {"net_arch": [50, 50]}}
    options = own if plain else {}
    model = CausalBC("MlpPolicy", demonstrations=data, seed=seed, device="cpu", **options)
    return model.learn(task.steps // 2 if plain else task.steps)


def other(task: Task, name: str, data: OfflineDataset, expert: Any, seed: int) -> Any:
    """An algorithm that somebody registered, with what it asks for; its own budget is --steps."""
    _, cls = catalog.find_algorithm(name)
    offered = {
        "demonstrations": data,
        "expert": expert,
        "allow_variable_horizon": True,
        "seed": seed,
        "device": "cpu",
    }
    known = constructor_arguments(cls)
    env = imitators_env(task, "confounded", 1, seed)
    given = {key: value for key, value in offered.items() if key in known}
    return cls("MlpPolicy", env, **given).learn(task.steps)


def one_seed(task: Task, seed: int) -> Path:
    """All returns of one seed, in one file; parts of it that are there are left."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*(rich is experimental|Monitor)")
    path = task.out / f"seed_{seed}.json"
    done: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def keep(name: str, value: Any) -> None:
        done[name] = value
        path.write_text(json.dumps(done))

    expert = expert_of(task)
    n_steps = max(5_000, 4 * task.samples)
    raw = from_policy(expert, raw_env(task), n_steps=n_steps, seed=seed)
    data = {
        mode: samples_of(with_previous_action(raw, mode, seed=seed), task.samples, seed)
        for mode in ("original", "confounded")
    }
    if task.env.startswith("MountainCar-"):
        repeats = 1 - changes_of(with_previous_action(raw)).mean()
        changes = changes_of(data["confounded"]).sum()
        told = f"{repeats:.1%} of the expert's actions repeat the one before"
        print(f"seed {seed}: {told}, {changes} of the samples do not", flush=True)
    if "expert" not in done:
        acting = from_policy(expert, gym.make(task.env), n_episodes=task.evaluations, seed=seed)
        keep("expert", float(acting.returns().mean()))
    for name, mode in (("ORIGINAL", "original"), ("CONFOUNDED", "confounded")):
        if name not in done:
            model = clone(task, data[mode], seed, plain=True)
            keep(name, evaluated(task, model, mode, seed))
    for name in task.also:
        if name not in done:
            model = other(task, name, data["confounded"], expert, seed)
            keep(name, evaluated(task, model, "confounded", seed))
    if {"dropout", *CURVES} <= set(done):
        return path
    model = clone(task, data["confounded"], seed, plain=False)

    def worth(graph: dict[str, bool]) -> float:
        """The return under a graph, which many budgets find alike."""
        known = done.setdefault("graphs", {})
        key = "".join(str(int(one)) for one in graph.values())
        if key not in known:
            model.fix(graph)
            known[key] = evaluated(task, model, "confounded", seed)
        return float(known[key])

    if "dropout" not in done:
        keep("dropout", worth(dict.fromkeys(model.graph, True)))
    if "policy execution" not in done:
        found = done.get("policy execution so far", [])
        log = str(task.out / f"intervention_{seed}.json")
        posterior = None
        for budget in sorted({min(one, task.episodes) for one in EPISODES}):
            if budget in [known for known, _ in found]:
                continue  # the log may hold later episodes already, which were not known then
            posterior = model.intervene(
                imitators_env(task, "confounded", 1, seed), budget, seed=seed, path=log
            )
            found.append([budget, worth(posterior.graph)])
            keep("policy execution so far", found)
        if posterior is not None:
            print(posterior.table(), flush=True)
            posterior.plot(task.out / f"weights_{seed}.png")
        keep("policy execution", found)
    if "expert queries" not in done:
        env = imitators_env(task, "confounded", 5, seed)
        states, found = collect_states(model, env, 10 * task.queries, seed), []
        for budget in sorted({min(one, task.queries) for one in QUERIES}):
            posterior = model.query(expert, states, budget, seed=seed)
            found.append([budget, worth(posterior.graph)])
        print(posterior.table(), flush=True)
        keep("expert queries", found)
    return path


def records(out: Path) -> list[dict[str, Any]]:
    """What was kept, a seed each."""
    return [json.loads(path.read_text()) for path in sorted(out.glob("seed_*.json"))]


def table(task: Task) -> None:
    """Means over seeds with 95 % bootstrap intervals; of a curve, its end."""
    print("| imitator | return |")
    print("| --- | --: |")
    for name in (*LINES, *task.also, *CURVES):
        values = [one[name] for one in records(task.out)]
        if name in CURVES:
            budget, unit = values[0][-1][0], name.split()[1].replace("execution", "episodes")
            name, values = f"{name}, {budget} {unit}", [one[-1][1] for one in values]
        print(f"| {name} | {bootstrap_interval(np.array(values), np.mean)} |")


def draw(task: Task) -> Path:
    """A panel an intervention: its curve with the seeds' range, and the others as lines."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    seeds = records(task.out)
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True)
    for panel, (name, colour) in zip(axes, CURVES.items(), strict=True):
        curves = np.array([one[name] for one in seeds])
        at, returns = curves[0, :, 0], curves[:, :, 1]
        panel.plot(at, returns.T, color=colour, linewidth=0.6, alpha=0.4)
        panel.plot(at, returns.mean(axis=0), color=colour, linewidth=2.2, marker="o", label=name)
        greys = iter(("#999999", "#777777", "#555555"))
        for line in (*LINES, *task.also):
            mean = np.mean([one[line] for one in seeds])
            look = COLOURS.get(line) or next(greys, "#333333")
            style = "--" if line in LINES else ":"
            panel.axhline(mean, color=look, linestyle=style, linewidth=1.4, label=line)
        panel.set_xscale("log")
        panel.set_xticks(at, [str(int(one)) for one in at])
        panel.minorticks_off()
        panel.set_xlabel("episodes" if name == "policy execution" else "expert queries")
        panel.set_title(name)
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("return")
    handles = [*axes[0].get_lines()[len(seeds) :], axes[1].get_lines()[len(seeds)]]
    figure.legend(handles=handles, loc="outside right center", frameon=False)
    figure.suptitle(f"{task.env}: {task.samples} samples of the expert, {len(seeds)} seeds")
    figure.set_layout_engine("constrained")
    path = task.out / "causal_confusion.png"
    figure.savefig(path, dpi=130)
    return path


def main() -> None:
    """Run what is missing, print the table, draw the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--env", default="MountainCar-v0", help="or Hopper-v5, ...")
    parser.add_argument("--samples", type=int, default=300, help="of the expert")
    parser.add_argument("--steps", type=int, default=10_000, help="gradient steps under graphs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--evaluations", type=int, default=20, help="episodes")
    parser.add_argument("--episodes", type=int, default=40, help="of policy execution, at most")
    parser.add_argument("--queries", type=int, default=200, help="of the expert, at most")
    parser.add_argument("--expert-steps", type=int, default=300_000, help="of SAC, elsewhere")
    parser.add_argument("--also", action="append", default=[], help="another algorithm, by name")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--out", type=Path, default=Path("runs/causal_confusion"))
    given = vars(parser.parse_args())
    seeds, jobs = given.pop("seeds"), given.pop("jobs")
    task = Task(**{**given, "also": tuple(given["also"])})
    task.out.mkdir(parents=True, exist_ok=True)
    expert_of(task)  # once, not by each process
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for job in as_completed(pool.submit(one_seed, task, seed) for seed in range(seeds)):
            print(job.result(), flush=True)
    table(task)
    print(draw(task))


if __name__ == "__main__":
    main()
