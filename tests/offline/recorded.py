"""Datasets of the small environments that tests share, recorded by random actions."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_ext.offline.dataset import OfflineDataset, episode_starts_after
from tests.environments import Drift


def stacked(observations: list[Any]) -> Any:
    if isinstance(observations[0], dict):
        return {key: np.stack([one[key] for one in observations]) for key in observations[0]}
    return np.stack(observations)


def record(
    kind: str = "box", discrete: bool = False, n: int = 300, policy: Any = None, **changes: Any
) -> OfflineDataset:
    """``n`` transitions; the last episode is cut by the end of the data."""
    env = Drift(kind, discrete)
    env.action_space.seed(0)
    seen, _ = env.reset(seed=0)
    rows: list[tuple[Any, ...]] = []
    for step in range(n):
        action = env.action_space.sample() if policy is None else policy(seen)
        following, reward, terminated, truncated, _ = env.step(action)
        truncated = not terminated and (truncated or step == n - 1)
        rows.append((seen, action, reward, following, terminated, truncated))
        seen = env.reset()[0] if terminated or truncated else following
    observations, actions, rewards, following, terminated, truncated = zip(*rows, strict=True)
    ends = np.array(terminated) | np.array(truncated)
    fields = {
        "observations": stacked(list(observations)),
        "actions": np.array(actions, np.int64 if discrete else np.float32),
        "rewards": np.array(rewards),
        "next_observations": stacked(list(following)),
        "terminated": np.array(terminated),
        "truncated": np.array(truncated),
        "episode_starts": episode_starts_after(ends),
        "observation_space": env.observation_space,
        "action_space": env.action_space,
    }
    if discrete and isinstance(env.action_space, spaces.Discrete):
        fields["behavior_log_prob"] = np.full(n, -np.log(env.action_space.n))
    return OfflineDataset(**{**fields, **changes})
