"""Intervention by expert queries: ask where graphs disagree, and regress likelihoods on graphs."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_ext.errors import CheckpointError
from sb3_ext.offline import OfflineDataset
from sb3_ext.offline.arrays import map_observations
from sb3_ext.plugins.causal.equations import (
    MOST_LISTED,
    Floats,
    Graphs,
    all_graphs,
    draw_graphs,
)
from sb3_ext.plugins.causal.experts import FUNCTION, Expert, resolve_expert
from sb3_ext.plugins.causal.interventions import (
    Watched,
    adopt,
    empty_posterior,
    next_graphs,
    require_budget,
    require_temperature,
    vec_env_for,
)
from sb3_ext.plugins.causal.outputs import disagreement, imitation_loss
from sb3_ext.plugins.causal.posterior import Kind, Posterior
from sb3_ext.plugins.causal.store import Store

if TYPE_CHECKING:
    from sb3_ext.plugins.causal.algorithm import CausalBC

#: Graphs that a disagreement is the mean over, where there are too many to list.
_MIXTURE = 128
#: States in which a function is asked again, to see whether the answers in a file are its own.
_ASKED_AGAIN = 3


def query_expert(
    model: CausalBC,
    expert: Any,
    states: GymEnv | str | OfflineDataset | Any,
    queries: int = 100,
    *,
    n_states: int | None = None,
    n_graphs: int = 300,
    temperature: float | None = None,
    ridge: float = 1.0,
    seed: int | None = None,
    callback: MaybeCallback = None,
    progress_bar: bool = False,
    path: str | os.PathLike[str] | None = None,
) -> Posterior:
    """Algorithm 1: ask the expert where graphs disagree, and take the graph that does as it does.

    States are collected by the mixture of all graphs, ranked by
    ``D(X) = E_G KL(pi_G(X) || pi_mix(X))``, and the first ``queries`` of them shown to the expert.
    Each graph scores minus its mean loss there; no further episode is played. With up to 10 factors
    all graphs are scored, and the best of them is the answer: no sum of weights stands between.
    Otherwise ``n_graphs`` are, drawn as in policy execution. At the end the model acts under the
    best graph.

    (The paper's Algorithm 1 regresses on the loss and takes the maximum, which would choose the
    worst graph; scores are log-likelihoods here.)

    :param model: trained
    :param expert: an SB3 model, a function of observations ``[B, ...]`` that returns actions
        ``[B, ...]``, or ``"human"``, who is asked on the terminal
    :param states: an environment (or its id) to collect states in; a dataset; or observations
    :param queries: the budget
    :param n_states: to collect and choose from; None is 10 a query, and at least 1,000
    :param n_graphs: to score, where there are more than 10 factors
    :param temperature: tau; None is a tenth of the range of the scores so far
    :param ridge: of the regression
    :param seed: of graphs and environments; None is the model's
    :param callback: as in SB3's ``learn``; a step is an answer of a human, or all of a model's
    :param path: a JSON file that answers are written to as they come. If it is there, the expert is
        not asked again for a state that it answered, also where there are more queries now. A
        model is known by its parameters, a function by what it says in three of those states
    :return: what was found; also :attr:`CausalBC.posterior`
    :raises ValueError: for states of other spaces or that are not finite, fewer states than
        queries, or an expert's actions that the space does not have
    :raises CheckpointError: if ``path`` is of another model, another expert, another seed or
        another kind of intervention, or is damaged
    """
    require_budget("queries", queries)
    require_budget("n_graphs", n_graphs)
    require_temperature(temperature)
    seed = int(model.stream_seed or 0) if seed is None else seed
    asked = resolve_expert(expert, model)
    kind: Kind = "expert query"
    store = Store(model, path, kind, {"seed": seed, "expert": asked.name})
    store.read()  # which checks it, before anything is played or asked
    wanted = max(10 * queries, 1_000) if n_states is None else n_states
    seen = _states(model, states, wanted, seed)
    if _count(seen) < queries:
        raise ValueError(f"{queries} queries need at least as many states, got {_count(seen)}")
    _require_finite(seen)
    chosen = most_disputed(model, seen, queries, seed)
    shown = map_observations(lambda values: values[chosen], seen)
    posterior = empty_posterior(model, kind, temperature, ridge)
    with Watched(model, callback, posterior, queries, progress_bar) as watched:
        states_of = _digests(shown)
        known = _answers(model, asked, shown, states_of, store, watched, posterior)
        # All of them, unless a callback said that it is enough.
        rows = [row for row, state in enumerate(states_of) if state in known]
        shown = map_observations(lambda values: values[rows], shown)
        answers = np.array([known[states_of[row]] for row in rows], model.action_space.dtype)
        posterior = _score(model, shown, answers, n_graphs, posterior, seed)
        store.write(posterior, answers=known)
        watched.tell(posterior, best_score=float(posterior.scores.max()))
    return adopt(model, posterior)


def collect_states(model: CausalBC, env: GymEnv | str, n_states: int, seed: int) -> Any:
    """What the mixture of all graphs sees: at each step, each environment draws a graph.

    :return: ``[n_states, ...]``, or a dict of such, as the policy sees them
    """
    venv = vec_env_for(model, env)
    generator = np.random.default_rng([seed, 0, 1])
    venv.seed(int(generator.integers(2**31 - venv.num_envs)))
    observations: Any = venv.reset()
    rows: list[Any] = []
    for _ in range(-(-n_states // venv.num_envs)):
        rows.append(map_observations(np.copy, observations))
        graphs = draw_graphs(venv.num_envs, 0.5, len(model.layout), generator)
        with model.extractor.under(th.as_tensor(graphs, device=model.device)):
            actions, _ = model.predict(observations, deterministic=True)
        observations, _, _, _ = venv.step(actions)
    if isinstance(env, str):
        venv.close()
    return map_observations(lambda *parts: np.concatenate(parts)[:n_states], *rows)


def most_disputed(
    model: CausalBC, observations: Any, size: int, seed: int = 0
) -> NDArray[np.int64]:
    """The rows of the states with the largest ``D(X)``, the most disputed first, ``[size]``."""
    n = len(model.layout)
    graphs = all_graphs(n) if n <= MOST_LISTED else None
    if graphs is None or len(graphs) > _MIXTURE:
        graphs = draw_graphs(_MIXTURE, 0.5, n, np.random.default_rng([seed, 1, 1]))
    found = []
    for start in range(0, _count(observations), 1_000):
        part = map_observations(
            lambda values, start=start: values[start : start + 1_000],
            observations,
        )
        outputs = th.cat(list(model.outputs(part, graphs)))
        found.append(disagreement(outputs, model.action_space).cpu().numpy())
    order: NDArray[np.int64] = np.argsort(-np.concatenate(found), kind="stable")[:size]
    return order


def score_graphs(model: CausalBC, observations: Any, actions: Any, graphs: Graphs) -> Floats:
    """Minus the mean loss of the policy under each graph against the expert's actions, ``[N]``."""
    taken = th.as_tensor(np.asarray(actions), device=model.device)
    taken = taken if model.action_space.shape == () else taken.float()
    scores = [
        -imitation_loss(outputs, taken, model.action_space).mean().item()
        for part in model.outputs(observations, graphs)
        for outputs in part
    ]
    return np.array(scores)


def _score(
    model: CausalBC, shown: Any, answers: Any, n_graphs: int, posterior: Posterior, seed: int
) -> Posterior:
    n, cost = len(model.layout), len(answers)
    if n <= MOST_LISTED:
        graphs = all_graphs(n)
        return posterior.with_scores(graphs, score_graphs(model, shown, answers, graphs), cost)
    generator = np.random.default_rng([seed, 2, 1])
    for _ in range(n_graphs):
        graphs = next_graphs(posterior, 1, generator)
        posterior = posterior.with_scores(graphs, score_graphs(model, shown, answers, graphs), cost)
    return posterior


def _answers(
    model: CausalBC,
    expert: Expert,
    shown: Any,
    states_of: list[str],
    store: Store,
    watched: Watched,
    posterior: Posterior,
) -> dict[str, Any]:
    """What the expert does, by state; asked for as much at a time as it likes.

    :param states_of: what tells the states from each other, ``[queries]``
    """
    known = store.answers()
    first = {state: row for row, state in reversed(list(enumerate(states_of)))}
    ordered = [row for state, row in sorted(first.items(), key=lambda one: one[1])]
    left = [row for row in ordered if states_of[row] not in known]
    again = [row for row in ordered if states_of[row] in known][:_ASKED_AGAIN]
    if again and expert.name == FUNCTION:
        part = map_observations(lambda values: values[again], shown)
        said = np.array([known[states_of[row]] for row in again])
        _require_the_same(said, expert(part), expert, store)
    while left and watched.goes_on:
        rows, left = left[: expert.at_once or len(left)], left[expert.at_once or len(left) :]
        part = map_observations(lambda values, rows=rows: values[rows], shown)
        given = expert(part, len(first) - len(left) - len(rows)).tolist()
        known |= {states_of[row]: answer for row, answer in zip(rows, given, strict=True)}
        if left:  # what cost a human's time is kept at once
            so_far = posterior.with_scores(*_none(model), cost=len(first) - len(left))
            store.write(so_far, answers=known)
            watched.tell(so_far)
    return known


def _require_the_same(before: Any, now: Any, expert: Expert, store: Store) -> None:
    """Refuse to mix the answers of two experts.

    :param before: actions ``[k, ...]`` of the file
    :param now: of this expert, in the same states
    :raises CheckpointError: if they differ by more than a network does from batch to batch
    """
    same = [np.allclose(*pair, rtol=1e-3, atol=1e-3) for pair in zip(before, now, strict=True)]
    if not all(same):
        row = same.index(False)
        raise CheckpointError(
            f"{store.path} holds the answers of another expert: it says {before[row]} where this "
            f"one says {now[row]}. Give another path, or remove it. (An expert that throws dice "
            "cannot be told from another one: ask it for all queries in one call)"
        )


def _none(model: CausalBC) -> tuple[Graphs, Floats]:
    return np.zeros((0, len(model.layout)), bool), np.zeros(0)


def _states(model: CausalBC, states: Any, wanted: int, seed: int) -> Any:
    if isinstance(states, (str, gym.Env, VecEnv)):
        return collect_states(model, states, wanted, seed)
    if isinstance(states, OfflineDataset):
        model.require_fitting(states.observation_space, states.action_space)
        from sb3_ext.offline.buffer import rows_for

        seen: Any = rows_for(states.observations, model.observation_space)
        normalizer = model.get_vec_normalize_env()
        return seen if normalizer is None else normalizer.normalize_obs(seen)
    space: Any = model.observation_space
    given = {"": states} if not isinstance(states, dict) else states
    wanted_shapes = (
        {"": space.shape}
        if not isinstance(states, dict)
        else {key: part.shape for key, part in getattr(space, "spaces", {}).items()}
    )
    shapes = {key: np.asarray(part).shape[1:] for key, part in given.items()}
    if shapes != wanted_shapes:
        raise ValueError(
            f"states must be observations of {space}, one a row; got shapes {shapes}. An "
            "environment, its id or a dataset will do, too"
        )
    return map_observations(np.asarray, states)


def _require_finite(states: Any) -> None:
    """Refuse states in which no policy can be compared, before anybody is asked about them.

    :raises ValueError: with the first of them
    """
    for key, part in (states if isinstance(states, dict) else {"": states}).items():
        fine = np.isfinite(np.asarray(part, dtype=float)).reshape(len(part), -1).all(axis=1)
        if not fine.all():
            first = int(np.argmin(fine))
            where = f" in {key!r}" if key else ""
            raise ValueError(
                f"states must be finite, and {int((~fine).sum())} of {len(fine)} hold NaN or "
                f"infinity{where}, first state {first}: {part[first]}. Leave them out"
            )


def _count(observations: Any) -> int:
    first = next(iter(observations.values())) if isinstance(observations, dict) else observations
    return len(first)


def _digests(observations: Any) -> list[str]:
    """What tells states from each other, ``[B]``."""
    parts = sorted(observations.items()) if isinstance(observations, dict) else [("", observations)]
    found = [hashlib.sha256() for _ in range(_count(observations))]
    for _, part in parts:
        for digest, row in zip(found, part, strict=True):
            digest.update(np.ascontiguousarray(row).tobytes())
    return [digest.hexdigest()[:16] for digest in found]
