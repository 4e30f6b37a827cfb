"""Off-policy algorithms that are not: DDPG on data of another agent, and BCQ on the same data.

Fujimoto et al. 2019 (section 3.1, figure 1) train a DDPG agent, the behaviour, and a second one
that never acts:

* **final buffer**: on all that the behaviour saw in its training, with much noise (0.5);
* **concurrent**: step by step beside the behaviour (noise 0.1), from the same growing buffer;
* **imitation**: on what the trained behaviour does without noise.

DDPG is called off-policy, and yet the second agent falls behind, while its values rise above what
comes true: it asks for values of actions that the data do not have. BCQ asks only for those of
actions that the data could have. This script runs all of it, and draws returns, and value estimates
beside true values. A second call does only what is missing.

    python examples/truly_off_policy.py                      # an hour and a half on two cores
    python examples/truly_off_policy.py --env Hopper-v5 --seeds 5 --out runs/hopper
"""

import argparse
import json
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise

from sb3_ext import BCQ, DDPG, OfflineDDPG
from sb3_ext.evaluation import bootstrap_interval
from sb3_ext.offline import ConcurrentLearner, record_final_buffer, record_imitation
from sb3_ext.offline.diagnostics import ValueDiagnostic

PROTOCOLS = ("final buffer", "concurrent", "imitation")
AGENTS = ("behaviour", "off-policy DDPG", "BCQ")
COLOURS = dict(zip(AGENTS, ("#5B5B5B", "#D55E00", "#0072B2"), strict=True))
#: Narrower than the paper's [400, 300] and [750, 750].
DDPG_NETS, BCQ_NETS = {"net_arch": [256, 256]}, {"net_arch": "small"}


@dataclass(frozen=True)
class Task:
    """What all agents are trained in, for how long, and how often they are looked at."""

    env: str
    steps: int
    evaluations: int
    episodes: int


class Watch(BaseCallback):
    """Returns, value estimates and true values of an agent, several times in a training.

    :param watched: the agent, which may be another than the one that ``learn`` is called on
    """

    def __init__(self, watched: Any, task: Task, seed: int) -> None:
        super().__init__()
        self.watched, self.every = watched, max(1, task.steps // task.evaluations)
        evaluation = make_vec_env(task.env, n_envs=task.episodes, seed=5_000 + 100 * seed)
        self.values = ValueDiagnostic(evaluation, n_eval_episodes=task.episodes)

    def _init_callback(self) -> None:
        self.values.init_callback(self.watched)

    def _on_step(self) -> bool:
        if self.n_calls % self.every == 0:
            self.values.num_timesteps = self.num_timesteps
            self.values.evaluate()
        return True

    def record(self) -> dict[str, list[float]]:
        """What was seen, by name."""
        return self.values.history


def behaviour(task: Task, seed: int, noise: float) -> DDPG:
    """A DDPG agent: random for the first twentieth of the steps, then with noise."""
    dimensions = make_vec_env(task.env).action_space.shape
    return DDPG(
        "MlpPolicy",
        make_vec_env(task.env, seed=seed),
        batch_size=100,
        buffer_size=task.steps,
        learning_starts=max(10, task.steps // 20),
        action_noise=NormalActionNoise(np.zeros(dimensions), noise * np.ones(dimensions)),
        policy_kwargs=dict(DDPG_NETS),
        seed=seed,
        device="cpu",
    )


def off_policy(name: str, seed: int, **options: Any) -> Any:
    """An agent that never acts; it is seeded otherwise than the behaviour."""
    shared = {"batch_size": 100, "seed": 100 + seed, "device": "cpu", **options}
    if name == "BCQ":
        return BCQ("MlpPolicy", policy_kwargs=dict(BCQ_NETS), **shared)
    return OfflineDDPG("MlpPolicy", policy_kwargs=dict(DDPG_NETS), **shared)


def offline(name: str, dataset: Any, task: Task, seed: int) -> dict[str, Any]:
    """As many gradient steps as the behaviour took steps, on its data."""
    agent = off_policy(name, seed, dataset=dataset)
    watch = Watch(agent, task, seed)
    agent.learn(task.steps, callback=watch)
    return watch.record()


def one_seed(task: Task, seed: int, concurrent: bool, out: Path) -> list[Path]:
    """The protocols of one seed that share a behaviour; what is there already is left."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="time limits cut the evaluation")
    done: dict[str, dict[str, Any]] = {}
    if concurrent:
        model = behaviour(task, seed, noise=0.1)
        agents = {name: off_policy(name, seed, env=task.env) for name in AGENTS[1:]}
        watched = {"behaviour": Watch(model, task, seed)}
        watched |= {name: Watch(agent, task, seed) for name, agent in agents.items()}
        learners = [ConcurrentLearner(agent, seed=seed) for agent in agents.values()]
        model.learn(task.steps, callback=[*learners, *watched.values()])
        done["concurrent"] = {name: watch.record() for name, watch in watched.items()}
    else:
        model = behaviour(task, seed, noise=0.5)
        watch = Watch(model, task, seed)
        dataset = record_final_buffer(model, task.steps, noise_std=0.5, callback=watch)
        found = {name: offline(name, dataset, task, seed) for name in AGENTS[1:]}
        done["final buffer"] = {"behaviour": watch.record(), **found}
        dataset = record_imitation(
            model, make_vec_env(task.env, seed=8_000 + seed), n_steps=task.steps
        )
        found = {name: offline(name, dataset, task, seed) for name in AGENTS[1:]}
        lasting = float(dataset.returns()[:-1].mean()) if dataset.n_episodes > 1 else 0.0
        flat = {"return": [lasting] * task.evaluations}
        done["imitation"] = {"behaviour": flat, **found}
    paths = []
    for protocol, record in done.items():
        paths.append(out / f"{protocol.replace(' ', '_')}_{seed}.json")
        paths[-1].write_text(json.dumps(record))
    return paths


def recorded(out: Path, protocol: str, agent: str, name: str) -> np.ndarray:
    """One curve a seed, ``[seeds, evaluations]``; empty if it was not recorded."""
    files = sorted(out.glob(f"{protocol.replace(' ', '_')}_*.json"))
    curves = [json.loads(file.read_text())[agent].get(name) for file in files]
    return np.array([curve for curve in curves if curve])


def table(out: Path) -> None:
    """The mean over seeds of the last three evaluations."""
    print("| data | agent | return | value estimate | true value |")
    print("| --- | --- | --: | --: | --: |")
    for protocol in PROTOCOLS:
        for agent in AGENTS:
            cells = []
            for name in ("return", "estimate_start", "true_start"):
                curves = recorded(out, protocol, agent, name)
                last = curves[:, -3:].mean(axis=1) if curves.size else None
                cells.append("" if last is None else str(bootstrap_interval(last, np.mean)))
            print(f"| {protocol} | {agent} | {' | '.join(cells)} |")


def draw(out: Path, task: Task) -> Path:
    """Returns above, values below: estimates full, true values dotted; thin seeds, bold mean."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(11, 6), sharex=True, sharey="row")
    at = np.arange(1, task.evaluations + 1) * max(1, task.steps // task.evaluations)
    for column, protocol in enumerate(PROTOCOLS):
        axes[0, column].set_title(protocol)
        axes[1, column].set_xlabel("gradient steps")
        for agent in AGENTS:
            for row, name, style in (
                (0, "return", "-"),
                (1, "estimate_start", "-"),
                (1, "true_start", ":"),
            ):
                curves = recorded(out, protocol, agent, name)
                if not curves.size:
                    continue
                look = {"color": COLOURS[agent], "linestyle": style}
                axes[row, column].plot(at, curves.T, linewidth=0.6, alpha=0.4, **look)
                label = agent if row == 0 else None
                axes[row, column].plot(at, curves.mean(0), linewidth=2, label=label, **look)
    axes[0, 0].set_ylabel("return")
    axes[1, 0].set_ylabel("value at the start\n(full: estimate, dotted: true)")
    if max(map(abs, axes[1, 0].get_ylim())) > 2_000:  # estimates that diverge
        axes[1, 0].set_yscale("symlog", linthresh=100)
    for one in axes.flat:
        one.spines[["top", "right"]].set_visible(False)
        one.xaxis.set_major_formatter("{x:,.0f}")
    lines, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="lower center", ncols=3, frameon=False)
    seeds = len(list(out.glob("concurrent_*.json")))
    figure.suptitle(f"{task.env}, {task.steps:,} steps; thin: {seeds} seeds, bold: their mean")
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    path = out / "truly_off_policy.png"
    figure.savefig(path, dpi=130)
    return path


def main() -> None:
    """Run what is missing, print the table, draw the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--env", default="HalfCheetah-v5", help="continuous actions")
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--evaluations", type=int, default=10)
    parser.add_argument("--episodes", type=int, default=3, help="of an evaluation")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--out", type=Path, default=Path("runs/truly_off_policy"))
    arguments = parser.parse_args()
    task = Task(arguments.env, arguments.steps, arguments.evaluations, arguments.episodes)
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        jobs = [
            pool.submit(one_seed, task, seed, concurrent, out)
            for seed in range(arguments.seeds)
            for concurrent in (False, True)
            if not (out / f"{'concurrent' if concurrent else 'imitation'}_{seed}.json").exists()
        ]
        for job in as_completed(jobs):
            print(*job.result(), flush=True)
    table(out)
    print(draw(out, task))


if __name__ == "__main__":
    main()
