"""Data in which every number says where it belongs: step t of episode e observes ``[e, t]``."""

from dataclasses import dataclass

import gymnasium as gym
import numpy as np
from gymnasium import spaces

# Bounds of their own for each dimension, none of them symmetric.
LOW, HIGH = np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32)
OBSERVATIONS = spaces.Box(-np.inf, np.inf, (2,), np.float32)
ACTIONS = spaces.Box(LOW, HIGH)
SPACES = (OBSERVATIONS, ACTIONS)


def observation(e, t):
    return np.array([e, t], np.float32)


def action(e, t):
    """In the environment's units; eighths are exact in float32."""
    return LOW + (HIGH - LOW) * ((3 * e + t) % 8) / 8


def reward(e, t):
    return 10.0 * e + t


@dataclass(frozen=True)
class Episode:
    e: int
    length: int
    end: str  # "terminated", "truncated" or "none"

    @property
    def observations(self):
        """T + 1 of them."""
        return np.array([observation(self.e, t) for t in range(self.length + 1)])

    @property
    def actions(self):
        return np.array([action(self.e, t) for t in range(self.length)], np.float32)

    @property
    def rewards(self):
        return np.array([reward(self.e, t) for t in range(self.length)])

    def flags(self, end):
        at_end = np.zeros(self.length, bool)
        at_end[-1] = self.end == end
        return at_end


#: One of each end, of different lengths.
EPISODES = (Episode(0, 3, "terminated"), Episode(1, 5, "truncated"), Episode(2, 4, "terminated"))


def steps(*episodes):
    """Every (e, t), in order."""
    return [(one.e, t) for one in episodes for t in range(one.length)]


def ends(end, *episodes):
    return {(one.e, one.length - 1) for one in episodes if one.end == end}


def assert_is(dataset, rows, terminated=(), truncated=(), without_next=()):
    """The dataset holds these steps in this order, each with all that belongs to it."""
    rows = list(rows)
    assert [tuple(map(int, seen)) for seen in dataset.observations] == rows
    follow = [(e, t) if (e, t) in without_next else (e, t + 1) for e, t in rows]
    assert [tuple(map(int, seen)) for seen in dataset.next_observations] == follow
    assert np.allclose(dataset.actions, [action(e, t) for e, t in rows], atol=1e-6)
    assert dataset.rewards.tolist() == [reward(e, t) for e, t in rows]
    assert {rows[i] for i in np.flatnonzero(dataset.terminated)} == set(terminated)
    assert {rows[i] for i in np.flatnonzero(dataset.truncated)} == set(truncated)
    for rows_of_one in dataset.episodes():
        assert len({int(e) for e, _ in dataset.observations[rows_of_one]}) == 1


class Counting(gym.Env):
    """Plays the given episodes, again and again; each number says where it belongs.

    The agent's action is ignored but recorded; so tests act by :func:`action`.
    """

    observation_space, action_space = SPACES

    def __init__(self, episodes=EPISODES, first=0, stride=1, dict_observations=False):
        self.episodes, self.e, self.stride = episodes, first - stride, stride
        self.dicts, self.t, self.acts = dict_observations, 0, []
        if dict_observations:
            self.observation_space = spaces.Dict({"a": OBSERVATIONS, "b": spaces.Discrete(100)})

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.e += self.stride
        self.t = 0
        return self.seen(), {}

    def seen(self):
        seen = observation(self.e, self.t)
        return {"a": seen, "b": self.t} if self.dicts else seen

    def step(self, act):
        self.acts.append(np.array(act))
        given, self.t = reward(self.e, self.t), self.t + 1
        plan = self.episodes[self.e % len(self.episodes)]
        over = self.t == plan.length
        ended = over and plan.end == "terminated", over and plan.end == "truncated"
        return self.seen(), given, *ended, {}


def behaviour(observations):
    """The policy whose actions :func:`action` gives."""
    return np.array([action(int(e), int(t)) for e, t in observations], np.float32)
