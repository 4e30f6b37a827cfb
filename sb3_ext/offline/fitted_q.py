"""Fitted Q evaluation: Q of a given policy, learned from a dataset.

Le, Voloshin and Yue, "Batch policy learning under constraints", ICML 2019: Q is regressed on
``r + gamma * (1 - terminated) * E_pi Q(s', .)``, again and again. For tables and linear features
the fixed point is solved for at once, which is LSTD-Q (Lagoudakis and Parr, "Least-squares policy
iteration", JMLR 2003). A time limit is no termination: the state after it is bootstrapped from.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.utils import get_device, polyak_update

from sb3_ext.offline.dataset import OfflineDataset
from sb3_ext.offline.isolation import random_state_kept
from sb3_ext.offline.policies import BATCH, Array, EvaluatedPolicy, Floats, as_policy, rows_of
from sb3_ext.offline.q_functions import (
    Features,
    LinearQ,
    NetworkQ,
    QFunction,
    TabularQ,
    network_q,
    next_actions,
)
from sb3_ext.offline.regression import DatasetNetwork, is_tabular, table_indices, table_shape

MODELS = ("auto", "tabular", "linear", "network")
LARGEST_TABLE = 10_000


def fit_q(
    policy: Any,
    dataset: OfflineDataset,
    gamma: float = 0.99,
    *,
    model: str = "auto",
    features: Features | None = None,
    epsilon: float | None = None,
    ridge: float = 0.0,
    n_action_samples: int = 10,
    row_weights: Array | None = None,
    **network: Any,
) -> QFunction:
    """Fitted Q evaluation of a policy on a dataset.

    :param policy: what :func:`sb3_ext.offline.policies.as_policy` takes
    :param dataset: of Discrete or Box actions
    :param gamma: in [0, 1)
    :param model: ``"tabular"`` for Discrete states and actions, ``"linear"`` in ``features``,
        ``"network"``, or ``"auto"``: the first of these that can be
    :param features: ``(observations, actions) -> [B, k]``
    :param epsilon: for policies that are greedy in a Q function
    :param ridge: added to the diagonal of the normal equations of ``"linear"``
    :param n_action_samples: samples for the mean over actions that cannot be listed
    :param row_weights: ``[N]``, how often each transition counts; for tables and linear features
    :param network: options of :func:`fit_network_q`
    :raises ValueError: for a model that does not go with the spaces, or an impossible gamma
    """
    if not 0.0 <= gamma < 1.0:
        raise ValueError(f"fitted Q evaluation needs gamma in [0, 1), got {gamma}")
    if not isinstance(dataset.action_space, (spaces.Discrete, spaces.Box)):
        raise TypeError(
            f"fitted Q evaluation takes Discrete and Box actions, got {dataset.action_space}"
        )
    evaluated = as_policy(policy, dataset, epsilon=epsilon)
    with random_state_kept(network.get("seed", 0)):  # policies sample from global generators
        return _fit(
            evaluated,
            dataset,
            gamma,
            model,
            features,
            ridge,
            n_action_samples,
            row_weights,
            network,
        )


def _fit(
    evaluated: EvaluatedPolicy,
    dataset: OfflineDataset,
    gamma: float,
    model: str,
    features: Features | None,
    ridge: float,
    n_action_samples: int,
    row_weights: Array | None,
    network: dict[str, Any],
) -> QFunction:
    if model == "auto":
        fits_table = is_tabular(dataset) and np.prod(table_shape(dataset)) <= LARGEST_TABLE
        model = "linear" if features else "tabular" if fits_table else "network"
    if network and model != "network":
        raise TypeError(f"{sorted(network)} are options of model='network', and it is {model!r}")
    if model == "tabular":
        return fit_tabular_q(evaluated, dataset, gamma, row_weights)
    if model == "linear":
        if features is None:
            raise ValueError("model='linear' needs features=(observations, actions) -> [B, k]")
        return fit_linear_q(
            evaluated, dataset, gamma, features, ridge, n_action_samples, row_weights
        )
    if model != "network":
        raise ValueError(f"model must be one of {MODELS}, got {model!r}")
    return fit_network_q(evaluated, dataset, gamma, n_action_samples=n_action_samples, **network)


def fit_tabular_q(
    policy: EvaluatedPolicy,
    dataset: OfflineDataset,
    gamma: float,
    row_weights: Array | None = None,
) -> TabularQ:
    """Q of the policy in the MDP that the counts of the data make, solved for.

    Pairs of state and action that never occur get Q = 0, with a warning if the policy takes them.
    """
    if not is_tabular(dataset):
        raise ValueError(
            "model='tabular' needs Discrete observations and actions, got "
            f"{dataset.observation_space} and {dataset.action_space}"
        )
    n_states, n_actions = table_shape(dataset)
    size = n_states * n_actions
    if size > LARGEST_TABLE:
        raise ValueError(f"a table of {size} pairs is too large to solve for: model='network'")
    weights = np.ones(len(dataset)) if row_weights is None else np.asarray(row_weights, float)
    states, actions = table_indices(dataset, dataset.observations, dataset.actions)
    following, _ = table_indices(dataset, dataset.next_observations, dataset.actions)
    pairs = states * n_actions + actions
    counts = np.bincount(pairs, weights, size)
    first = int(dataset.observation_space.start)  # type: ignore[attr-defined]
    chosen = policy.probabilities(np.arange(n_states) + first)
    # [pair, next state], how often; then what the policy does there.
    transitions = np.zeros((size, n_states))
    np.add.at(transitions, (pairs, following), weights * ~dataset.terminated)
    matrix = np.diag(counts) - gamma * np.einsum("ps,sa->psa", transitions, chosen).reshape(
        size, size
    )
    sums = np.bincount(pairs, weights * dataset.rewards, size)
    unseen = counts == 0
    matrix[unseen, unseen] = 1.0
    if row_weights is None:
        visited = np.zeros(n_states, bool)
        visited[states] = visited[following[~dataset.terminated]] = True
        missing = np.where(unseen.reshape(n_states, n_actions), chosen, 0.0).sum(axis=1)[visited]
        if missing.max(initial=0.0) > 0:
            warnings.warn(
                f"in {int((missing > 0).sum())} of {len(missing)} states of the data, the policy "
                f"takes actions that the data never do (there with probability up to "
                f"{missing.max():.2g}); their Q is set to 0",
                stacklevel=2,
            )
    return TabularQ(np.linalg.solve(matrix, sums).reshape(n_states, n_actions), dataset, policy)


def fit_linear_q(
    policy: EvaluatedPolicy,
    dataset: OfflineDataset,
    gamma: float,
    features: Features,
    ridge: float = 0.0,
    n_action_samples: int = 10,
    row_weights: Array | None = None,
) -> LinearQ:
    """The fixed point of fitted Q evaluation with linear features, solved for (LSTD-Q).

    ``A w = b`` with ``A = sum phi (phi - gamma * (1 - terminated) * phi')^T``, ``b = sum phi * r``
    and ``phi'`` the policy's mean of the features at the next state (Lagoudakis and Parr 2003).
    """
    matrix: Any = 0.0
    vector: Any = 0.0
    for start in range(0, len(dataset), BATCH):
        rows = slice(start, start + BATCH)
        now = _checked(
            features(rows_of(dataset.observations, rows), dataset.actions[rows]),
            len(dataset.rewards[rows]),
        )
        following = rows_of(dataset.next_observations, rows)
        then = np.zeros_like(now)
        for weights, actions in next_actions(policy, following, n_action_samples):
            then += weights[:, None] * _checked(features(following, actions), len(now))
        then *= gamma * ~dataset.terminated[rows, None]
        weighted = now if row_weights is None else now * np.asarray(row_weights)[rows, None]
        matrix = matrix + weighted.T @ (now - then)
        vector = vector + weighted.T @ dataset.rewards[rows].astype(np.float64)
    coefficients, _, rank, _ = np.linalg.lstsq(matrix + ridge * np.eye(len(vector)), vector)
    if rank < len(vector) and row_weights is None:
        warnings.warn(
            f"the data tell {rank} of {len(vector)} coefficients: the features depend on each "
            "other, or some are 0 in all of the data. The smallest solution is taken; ridge= "
            "chooses another",
            stacklevel=2,
        )
    return LinearQ(coefficients, features, policy, n_action_samples)


def fit_network_q(
    policy: EvaluatedPolicy,
    dataset: OfflineDataset,
    gamma: float,
    *,
    net_arch: Sequence[int] = (64, 64),
    n_steps: int = 5_000,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    tau: float = 0.05,
    target_update_interval: int = 1,
    n_action_samples: int = 10,
    device: str = "auto",
    seed: int = 0,
) -> NetworkQ:
    """Fitted Q evaluation by a small network, with Adam and a target network.

    ``tau=1`` and ``target_update_interval=500``, say, is the iterated form of the paper: 500 steps
    of regression on one target. With a small ``tau`` the target follows all the time.

    :param n_steps: gradient steps. The target network settles within a few times
        ``1 / ((1 - gamma) * tau)`` of them
    :param seed: of weights, batches and sampled actions
    """
    for name, value in (("n_steps", n_steps), ("target_update_interval", target_update_interval)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not 0.0 < tau <= 1.0:
        raise ValueError(f"tau must lie in (0, 1], got {tau}")
    generator = np.random.default_rng(seed)
    space = dataset.action_space
    discrete = isinstance(space, spaces.Discrete)
    width = int(space.n) if isinstance(space, spaces.Discrete) else 1
    network = DatasetNetwork(dataset, width, net_arch, with_actions=not discrete)
    network = network.to(get_device(device))
    target = copy.deepcopy(network)
    # Standardised by the returns of the behaviour: where a network begins is then a fair guess.
    returns = _returns_to_go(dataset, gamma)
    shift, scale = float(returns.mean()), max(float(returns.std()), 1e-6)
    chosen = policy.probabilities(dataset.next_observations) if discrete else None
    optimizer = th.optim.Adam(network.parameters(), lr=learning_rate)
    for step in range(1, n_steps + 1):
        rows = generator.integers(len(dataset), size=batch_size)
        with th.no_grad():
            following = rows_of(dataset.next_observations, rows)
            seen = target.tensors(following)
            if chosen is not None:
                probabilities = th.as_tensor(chosen[rows], device=network.device).float()
                then = (target(seen) * probabilities).sum(dim=1)
            else:
                # One sample a step is unbiased; more of them would make a step slower, not better.
                then = network_q(target, seen, policy.sample(following))
            alive = th.as_tensor(~dataset.terminated[rows], device=network.device).float()
            rewards = th.as_tensor(dataset.rewards[rows], device=network.device)
            wanted = (rewards + gamma * alive * (shift + scale * then) - shift) / scale
        found = network_q(
            network, network.tensors(rows_of(dataset.observations, rows)), dataset.actions[rows]
        )
        loss = th.nn.functional.mse_loss(found, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % target_update_interval == 0:
            polyak_update(network.parameters(), target.parameters(), tau)
    largest = float((shift + scale * found.detach()).abs().max())
    _warn_if_diverged(largest, dataset, gamma)
    return NetworkQ(network, shift, scale, policy, n_action_samples)


def _returns_to_go(dataset: OfflineDataset, gamma: float) -> Floats:
    found, following = np.zeros(len(dataset)), 0.0
    starts = set(dataset.episode_starts.tolist())
    for row in range(len(dataset) - 1, -1, -1):
        found[row] = following = float(dataset.rewards[row]) + gamma * following
        if row in starts:
            following = 0.0
    return found


def _warn_if_diverged(largest: float, dataset: OfflineDataset, gamma: float) -> None:
    possible = float(np.abs(dataset.rewards).max()) / (1 - gamma)
    if not np.isfinite(largest) or largest > 1.5 * possible:
        warnings.warn(
            f"fitted Q evaluation found values up to {largest:.3g}, and rewards like those of the "
            f"data allow {possible:.3g}: it diverged, as it may where the policy leaves the data. "
            "A smaller tau or learning_rate may help",
            stacklevel=3,
        )


def _checked(features: Any, rows: int) -> Floats:
    found = np.asarray(features, dtype=np.float64)
    if found.ndim != 2 or len(found) != rows:
        raise ValueError(
            f"features must return one row a transition, [{rows}, k], got {list(found.shape)}"
        )
    if not np.isfinite(found).all():
        raise ValueError("features must be finite")
    return found
