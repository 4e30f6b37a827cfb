"""Intervention by policy execution: act under graphs, and regress returns on them."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from rich.progress import Progress
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.utils import check_for_correct_spaces, configure_logger
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_ext.plugins.causal.equations import (
    Floats,
    Graphs,
    default_temperature,
    draw_graphs,
    edge_probabilities,
)
from sb3_ext.plugins.causal.posterior import Kind, Posterior
from sb3_ext.plugins.causal.store import Store

if TYPE_CHECKING:
    from sb3_ext.plugins.causal.algorithm import CausalBC


def execute_policies(
    model: CausalBC,
    env: GymEnv | str,
    episodes: int = 20,
    *,
    temperature: float | None = None,
    ridge: float = 1.0,
    seed: int | None = None,
    callback: MaybeCallback = None,
    progress_bar: bool = False,
    path: str | os.PathLike[str] | None = None,
) -> Posterior:
    """Algorithm 2: draw a graph, act under it for an episode, regress returns on graphs, repeat.

    ``p(G)`` is proportional to ``exp(<w, G> / tau)``. At the end the model acts under the best
    graph.

    :param model: trained
    :param env: an id, an environment or a VecEnv, of which each environment plays an episode with a
        graph of its own, all drawn from the same ``p(G)``
    :param episodes: the budget, over all environments
    :param temperature: tau; None is a tenth of the range of the returns so far
    :param ridge: of the regression
    :param seed: of graphs and environments; None is the model's
    :param callback: as in SB3's ``learn``; a step is a round of episodes, and ``locals`` holds the
        ``posterior`` so far. Returning False stops
    :param path: a JSON file that is written after each round. If it is there, its episodes are not
        played again
    :return: what was found; also :attr:`CausalBC.posterior`
    :raises ValueError: for an environment of other spaces, options out of range, returns that are
        not finite
    :raises CheckpointError: if ``path`` is of another model, other settings or another kind of
        intervention, or is damaged
    """
    require_budget("episodes", episodes)
    require_temperature(temperature)
    kind: Kind = "policy execution"
    venv = vec_env_for(model, env)
    seed = int(model.stream_seed or 0) if seed is None else seed
    where = {"seed": seed, "n_envs": venv.num_envs, "env": _name_of(venv)}
    store = Store(model, path, kind, where)
    posterior = store.read() or empty_posterior(model, kind, temperature, ridge)
    posterior = replace(posterior, temperature=temperature, ridge=ridge)
    left = episodes - posterior.cost
    with Watched(model, callback, posterior, episodes, progress_bar) as watched:
        while left > 0 and watched.goes_on:
            generator = np.random.default_rng([seed, posterior.cost])
            graphs = next_graphs(posterior, venv.num_envs, generator)
            venv.seed(int(generator.integers(2**31 - venv.num_envs)))
            returns = play(model, venv, graphs)[:left]
            if not np.isfinite(returns).all():
                raise ValueError(
                    f"an episode's return is {returns}: rewards must be finite. What was found "
                    "before this round is kept"
                )
            cost = posterior.cost + len(returns)
            posterior = posterior.with_scores(graphs[: len(returns)], returns, cost)
            left -= len(returns)
            store.write(posterior)
            watched.tell(posterior, **{"return": float(returns.mean())})
    if isinstance(env, str):
        venv.close()
    return adopt(model, posterior)


def play(model: CausalBC, venv: VecEnv, graphs: Graphs) -> Floats:
    """The return of one episode in each environment, deterministic, under a graph of its own.

    Rewards are the environment's own, also under ``VecNormalize``.

    :param graphs: ``[n_envs, n]``
    :return: ``[n_envs]``
    """
    normalizer = unwrap_vec_normalize(venv)
    given = th.as_tensor(graphs, device=model.device)
    observations: Any = venv.reset()
    totals, running = np.zeros(venv.num_envs), np.ones(venv.num_envs, bool)
    while running.any():
        with model.extractor.under(given):
            actions, _ = model.predict(observations, deterministic=True)
        observations, rewards, dones, _ = venv.step(actions)
        if normalizer is not None:
            rewards = normalizer.get_original_reward()
        totals += np.where(running, rewards, 0.0)
        running &= ~dones
    return totals


def vec_env_for(model: CausalBC, env: GymEnv | str) -> VecEnv:
    """The environments to act in, as the model's.

    :raises ValueError: if their spaces are not the model's
    """
    made: Any = maybe_make_env(env, 0)
    venv = model._wrap_env(made, 0)
    normalizer = unwrap_vec_normalize(venv)
    if normalizer is not None and normalizer.training:
        raise ValueError(
            "VecNormalize would change its statistics while graphs are compared: set "
            "env.training = False"
        )
    try:
        check_for_correct_spaces(venv, model.observation_space, model.action_space)
    except ValueError as error:
        raise ValueError(
            f"the model cannot act in this environment: {error}. Wrap it as the one that the "
            "demonstrations are of"
        ) from error
    return venv


def _name_of(venv: VecEnv) -> str:
    """What tells environments apart: id, and the mode of what confounds them."""
    found = []
    for name in ("spec", "mode"):
        try:
            value = venv.get_attr(name, [0])[0]
        except AttributeError:
            continue
        found.append(str(getattr(value, "id", value)))
    return " ".join(found)


def next_graphs(posterior: Posterior, size: int, generator: np.random.Generator) -> Graphs:
    """Graphs of ``p(G)``, ``[size, n]``; uniform as long as nothing is known."""
    tau = posterior.temperature
    tau = default_temperature(posterior.scores) if tau is None else tau
    probabilities = edge_probabilities(posterior.fit.mean, tau)
    return draw_graphs(size, probabilities, len(posterior.factors), generator)


def empty_posterior(
    model: CausalBC, kind: Kind, temperature: float | None, ridge: float
) -> Posterior:
    """Nothing tried yet."""
    n = len(model.layout)
    none = np.zeros((0, n), bool)
    return Posterior(kind, model.layout.names, none, np.zeros(0), 0, temperature, ridge)


def adopt(model: CausalBC, posterior: Posterior) -> Posterior:
    """Let the model act under the best graph, and remember why."""
    model.fix(posterior.graph)
    model.intervention = posterior.to_dict()
    return posterior


def require_budget(name: str, value: Any) -> None:
    """Refuse what is no whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def require_temperature(value: float | None) -> None:
    """Refuse what cannot divide a weight."""
    if value is not None and not 0 < value < np.inf:
        raise ValueError(f"temperature must be positive, or None for a tenth of the range: {value}")


class Watched:
    """SB3's callbacks, the logger and a progress bar around a budget.

    :param total: what the bar goes up to
    """

    def __init__(
        self,
        model: CausalBC,
        callback: MaybeCallback,
        posterior: Posterior,
        total: int,
        progress_bar: bool,
    ) -> None:
        if not hasattr(model, "_logger"):  # of a model that was loaded
            name = type(model).__name__
            model._logger = configure_logger(model.verbose, model.tensorboard_log, name, False)
        self.model, self.posterior, self.total = model, posterior, total
        self.root: BaseCallback = model._init_callback(callback)
        self.progress_bar, self.goes_on = progress_bar, True

    def __enter__(self) -> Watched:
        self.bar = Progress(disable=not self.progress_bar)
        kind, begun = self.posterior.kind, self.posterior.cost
        self.task = self.bar.add_task(kind, total=self.total, completed=begun)
        self.bar.start()
        given = {"self": self.model, "callback": self.root, "posterior": self.posterior}
        self.root.on_training_start(given, {})
        return self

    def tell(self, posterior: Posterior, **figures: float) -> None:
        """What is known by now."""
        self.bar.update(self.task, completed=posterior.cost)
        logger = self.model.logger
        for name, value in figures.items():
            logger.record(f"intervention/{name}", value)
        for name, weight in posterior.weights.items():
            logger.record(f"intervention/weight/{name}", weight)
        logger.dump(step=posterior.cost)
        self.root.update_locals({"posterior": posterior})
        self.goes_on = self.root.on_step()

    def __exit__(self, *_: Any) -> None:
        self.root.on_training_end()
        self.bar.stop()
