"""Q functions of a given policy: a table, linear in features, or a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_ext.offline.dataset import OfflineDataset
from sb3_ext.offline.policies import (
    BATCH,
    Array,
    EvaluatedPolicy,
    Floats,
    Observations,
    count,
    rows_of,
)
from sb3_ext.offline.regression import DatasetNetwork, table_indices

Features = Callable[[Observations, Array], Floats]


class QFunction(ABC):
    """A Q function and the policy whose it is.

    :param policy: for the actions that a state's value is the mean over
    :param n_action_samples: how many of them a state, where they cannot be listed
    """

    def __init__(self, policy: EvaluatedPolicy, n_action_samples: int = 10) -> None:
        self.policy, self.n_action_samples = policy, n_action_samples

    @abstractmethod
    def q(self, observations: Observations, actions: Array) -> Floats:
        """Q of these actions, ``[B]``."""

    def value(self, observations: Observations) -> Floats:
        """``E_pi Q(s, .)``, ``[B]``: a sum over actions if they are Discrete, else over samples."""
        total = np.zeros(count(observations))
        for weights, actions in next_actions(self.policy, observations, self.n_action_samples):
            total += weights * self.q(observations, actions)
        return total


class TabularQ(QFunction):
    """A table.

    :param table: ``[S, A]``
    """

    def __init__(self, table: Floats, dataset: OfflineDataset, policy: EvaluatedPolicy) -> None:
        super().__init__(policy)
        self.table, self.dataset = table, dataset

    def q(self, observations: Observations, actions: Array) -> Floats:
        found: Floats = self.table[table_indices(self.dataset, observations, actions)]
        return found


class LinearQ(QFunction):
    """``features(observations, actions) @ coefficients``."""

    def __init__(
        self,
        coefficients: Floats,
        features: Features,
        policy: EvaluatedPolicy,
        n_action_samples: int = 10,
    ) -> None:
        super().__init__(policy, n_action_samples)
        self.coefficients, self.features = coefficients, features

    def q(self, observations: Observations, actions: Array) -> Floats:
        found: Floats = np.asarray(self.features(observations, actions)) @ self.coefficients
        return found


class NetworkQ(QFunction):
    """``shift + scale * network(s, a)``: the network's own numbers are about 1.

    :param network: one output for each Discrete action, or one output that has the action as input
    """

    def __init__(
        self,
        network: DatasetNetwork,
        shift: float,
        scale: float,
        policy: EvaluatedPolicy,
        n_action_samples: int = 10,
    ) -> None:
        super().__init__(policy, n_action_samples)
        self.network, self.shift, self.scale = network, shift, scale

    def q(self, observations: Observations, actions: Array) -> Floats:
        found = []
        for start in range(0, len(actions), BATCH):
            rows = slice(start, start + BATCH)
            with th.no_grad():
                seen = self.network.tensors(rows_of(observations, rows))
                found.append(network_q(self.network, seen, actions[rows]).cpu().numpy())
        return self.shift + self.scale * np.concatenate(found).astype(np.float64)


def network_q(network: DatasetNetwork, seen: Any, actions: Array) -> Any:
    """The network's number for these actions, ``[B]``."""
    space = network.action_space
    taken = th.as_tensor(np.asarray(actions), device=network.device)
    if isinstance(space, spaces.Discrete):
        return network(seen).gather(1, taken[:, None].long() - int(space.start))[:, 0]
    return network(seen, taken.float())[:, 0]


def next_actions(
    policy: EvaluatedPolicy, observations: Observations, n_samples: int
) -> list[tuple[Floats, Array]]:
    """Weights ``[B]`` and actions whose weighted sum is a mean over the policy.

    Each Discrete action with its probability, or samples with equal weights.
    """
    rows = count(observations)
    if isinstance(policy.action_space, spaces.Discrete):
        first, chosen = int(policy.action_space.start), policy.probabilities(observations)
        return [(chosen[:, a], np.full(rows, a + first)) for a in range(chosen.shape[1])]
    share = np.full(rows, 1.0 / n_samples)
    return [(share, policy.sample(observations)) for _ in range(n_samples)]
