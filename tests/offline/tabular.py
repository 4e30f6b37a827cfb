"""A small MDP whose values linear algebra gives exactly, and whose episodes can be enumerated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_ext.offline.importance import by_episode

N_STATES, N_ACTIONS = 3, 2
# [s, a, s']; what is missing to 1 is the probability that the episode terminates.
TRANSITIONS = np.array(
    [
        [[0.1, 0.6, 0.2], [0.0, 0.2, 0.8]],
        [[0.5, 0.0, 0.3], [0.7, 0.2, 0.0]],
        [[0.0, 0.4, 0.4], [0.3, 0.3, 0.2]],
    ]
)
REWARDS = np.array([[1.0, -0.5], [0.0, 2.0], [-1.0, 0.7]])
START = np.array([0.5, 0.3, 0.2])
BEHAVIOR = np.array([[0.5, 0.5], [0.7, 0.3], [0.4, 0.6]])
TARGET = np.array([[0.8, 0.2], [0.3, 0.7], [0.25, 0.75]])


@dataclass(frozen=True)
class Episode:
    """One episode and its probability under the behaviour."""

    probability: float
    states: list[int]
    actions: list[int]
    terminated: bool
    last_state: int


@dataclass(frozen=True)
class TabularMDP:
    gamma: float = 0.9
    transitions: np.ndarray = field(default_factory=lambda: TRANSITIONS)
    rewards: np.ndarray = field(default_factory=lambda: REWARDS)
    start: np.ndarray = field(default_factory=lambda: START)

    def q(self, policy: np.ndarray) -> np.ndarray:
        """Q of the policy, [S, A], over an infinite horizon: solved, not iterated."""
        size = N_STATES * N_ACTIONS
        following = self.transitions[..., None] * policy  # [s, a, s', a']
        matrix = np.eye(size) - self.gamma * following.reshape(size, size)
        return np.linalg.solve(matrix, self.rewards.reshape(size)).reshape(N_STATES, N_ACTIONS)

    def q_within(self, policy: np.ndarray, horizon: int) -> np.ndarray:
        """Q by the number of steps that are left, [horizon + 1, S, A]."""
        q = np.zeros((horizon + 1, N_STATES, N_ACTIONS))
        for left in range(1, horizon + 1):
            values = (policy * q[left - 1]).sum(1)
            q[left] = self.rewards + self.gamma * self.transitions @ values
        return q

    def value(self, policy: np.ndarray, horizon: int | None = None) -> float:
        q = self.q(policy) if horizon is None else self.q_within(policy, horizon)[-1]
        return float(self.start @ (policy * q).sum(1))

    def enumerate(self, behavior: np.ndarray, horizon: int) -> Iterator[Episode]:
        """Every episode of at most ``horizon`` steps that can happen."""

        def grow(p: float, states: list[int], actions: list[int], state: int) -> Any:
            if len(actions) == horizon:
                yield Episode(p, states, actions, False, state)
                return
            for action in range(N_ACTIONS):
                chosen = p * behavior[state, action]
                if chosen == 0:
                    continue
                row = self.transitions[state, action]
                taken = [*states, state], [*actions, action]
                if (ends := 1 - row.sum()) > 1e-12:
                    yield Episode(chosen * ends, *taken, True, state)
                for following in np.flatnonzero(row):
                    yield from grow(chosen * row[following], *taken, int(following))

        for state in range(N_STATES):
            yield from grow(self.start[state], [], [], state)

    def sample(
        self, behavior: np.ndarray, n_episodes: int, horizon: int, rng: np.random.Generator
    ) -> list[Episode]:
        drawn = []
        for _ in range(n_episodes):
            state, states, actions, terminated = rng.choice(N_STATES, p=self.start), [], [], False
            while len(actions) < horizon and not terminated:
                action = int(rng.random() < behavior[state, 1])
                states.append(int(state))
                actions.append(action)
                row = self.transitions[state, action]
                following = int(np.searchsorted(np.cumsum(row), rng.random(), side="right"))
                terminated = following == N_STATES
                state = state if terminated else following
            drawn.append(Episode(np.nan, states, actions, terminated, int(state)))
        return drawn

    def arrays(
        self, episodes: list[Episode], behavior: np.ndarray, target: np.ndarray, q: np.ndarray
    ) -> dict[str, np.ndarray]:
        """What the pure estimators take; V at the cut is there, as the infinite horizon wants."""
        starts = np.cumsum([0, *(len(one.actions) for one in episodes)])[:-1]
        states = np.concatenate([one.states for one in episodes])
        actions = np.concatenate([one.actions for one in episodes])
        with np.errstate(divide="ignore"):
            ratios = np.log(target[states, actions]) - np.log(behavior[states, actions])
        value = (target * q).sum(1)
        values = by_episode(value[states], starts)
        values = np.append(values, np.zeros((len(values), 1)), axis=1)
        for row, one in enumerate(episodes):
            values[row, len(one.actions)] = 0.0 if one.terminated else value[one.last_state]
        return {
            "rewards": by_episode(self.rewards[states, actions], starts),
            "log_ratios": by_episode(ratios, starts),
            "q_taken": by_episode(q[states, actions], starts),
            "values": values,
        }

    def dataset(
        self, episodes: list[Episode], behavior: np.ndarray | None = BEHAVIOR, **changes: Any
    ) -> Any:
        """An OfflineDataset of these episodes, with the behaviour's log probabilities."""
        from sb3_ext.offline.dataset import OfflineDataset

        states = np.concatenate([one.states for one in episodes])
        actions = np.concatenate([one.actions for one in episodes])
        lengths = [len(one.actions) for one in episodes]
        last = np.zeros(len(states), bool)
        last[np.cumsum(lengths) - 1] = True
        terminated = last & np.repeat([one.terminated for one in episodes], lengths)
        log_prob = None if behavior is None else np.log(behavior[states, actions])
        fields = {
            "observations": states,
            "actions": actions,
            "rewards": self.rewards[states, actions],
            "next_observations": np.concatenate(
                [[*one.states[1:], one.last_state] for one in episodes]
            ),
            "terminated": terminated,
            "truncated": last & ~terminated,
            "episode_starts": np.cumsum([0, *lengths[:-1]]),
            "observation_space": spaces.Discrete(N_STATES),
            "action_space": spaces.Discrete(N_ACTIONS),
            "source": {"format": "test"},
            "behavior_log_prob": log_prob,
        }
        return OfflineDataset(**{**fields, **changes})
