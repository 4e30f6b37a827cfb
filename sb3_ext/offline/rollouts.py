"""Episodes of the current policy, with what the Q function said of each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_ext.offline.values import entropy_coefficient, q_estimate

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Evaluated:
    """One episode of T steps.

    :param rewards: ``[T]``, in the units that the Q function is learned in
    :param estimates: ``[T]``, Q of each step's state and action
    :param bonuses: ``[T]``, ``-alpha * log pi(a|s)``; zeros without an entropy bonus
    :param cut: whether a time limit ended it
    """

    rewards: Floats
    estimates: Floats
    bonuses: Floats
    cut: bool

    def returns(self, gamma: float) -> Floats:
        """``sum_k gamma ** k * r_{t+k}`` from each step to the end, ``[T]``."""
        return returns_to_go(self.rewards, gamma)

    def soft_bonuses(self, gamma: float) -> Floats:
        """``sum_{k >= 1} gamma ** k * bonus_{t+k}``, ``[T]``.

        From the next step on: the action that a soft Q is asked about is given, not drawn.
        """
        return returns_to_go(self.bonuses, gamma) - self.bonuses

    def neglected(self, gamma: float) -> Floats:
        """``gamma ** (T - t)`` for each step if the episode was cut, else zeros, ``[T]``.

        That is how much the value of the state at the cut would weigh, which no return contains.
        """
        left = np.arange(len(self.rewards), 0, -1)
        return np.power(float(gamma), left) if self.cut else np.zeros(len(left))


def returns_to_go(rewards: Floats, gamma: float) -> Floats:
    """The discounted sum from each step on.

    :param rewards: ``[T]``
    :param gamma: in [0, 1]
    :return: ``[T]``
    """
    found, following = np.zeros(len(rewards)), 0.0
    for step in range(len(rewards) - 1, -1, -1):
        found[step] = following = rewards[step] + gamma * following
    return found


def evaluate_values(
    model: BaseAlgorithm, env: VecEnv, n_episodes: int, deterministic: bool
) -> list[Evaluated]:
    """Let the policy act for some episodes, and note its Q on the way.

    Environments share the episodes as in SB3's ``evaluate_policy``, so that short ones are not
    counted more often than long ones. Uses the global random generators.

    :param env: raw, that is, without VecNormalize: the model's own is applied
    :param n_episodes: over all environments
    :param deterministic: whether the policy acts deterministically
    """
    wanted = [(n_episodes + i) // env.num_envs for i in range(env.num_envs)]
    running: list[list[tuple[float, float, float]]] = [[] for _ in wanted]
    done_by = [0] * env.num_envs
    found: list[Evaluated] = []
    normalizer: Any = model.get_vec_normalize_env()
    estimate, soft = q_estimate(model), entropy_coefficient(model)
    observations: Any = env.reset()
    while any(done < target for done, target in zip(done_by, wanted, strict=True)):
        seen = observations if normalizer is None else normalizer.normalize_obs(observations)
        actions, asked, log_prob = _act(model, seen, deterministic)
        with th.no_grad():
            tensors = model.policy.obs_to_tensor(seen)[0]
            values = estimate(tensors, asked).cpu().numpy()
        observations, rewards, dones, infos = env.step(actions)
        if normalizer is not None:
            rewards = normalizer.normalize_reward(rewards)
        for i in range(env.num_envs):
            if done_by[i] >= wanted[i]:
                continue
            bonus = 0.0 if log_prob is None else -soft * float(log_prob[i])
            running[i].append((float(rewards[i]), float(values[i]), bonus))
            if dones[i]:
                rows = np.array(running[i])
                cut = bool(infos[i].get("TimeLimit.truncated", False))
                found.append(Evaluated(rows[:, 0], rows[:, 1], rows[:, 2], cut))
                running[i], done_by[i] = [], done_by[i] + 1
    return found


def _act(model: Any, seen: Any, deterministic: bool) -> tuple[Any, Any, Any]:
    """Actions for the environment, the same for the Q function, their log probabilities."""
    policy = model.policy
    if getattr(model, "use_sde", False):
        policy.reset_noise(len(next(iter(seen.values())) if isinstance(seen, dict) else seen))
    if not deterministic and entropy_coefficient(model) > 0:
        with th.no_grad():
            asked, log_prob = policy.actor.action_log_prob(policy.obs_to_tensor(seen)[0])
        actions = policy.unscale_action(asked.cpu().numpy())
        return actions.reshape(-1, *policy.action_space.shape), asked, log_prob
    actions = policy.predict(seen, deterministic=deterministic)[0]
    if isinstance(policy.action_space, spaces.Box):
        scaled = policy.scale_action(actions).reshape(len(actions), -1)
        return actions, th.as_tensor(scaled, device=model.device).float(), None
    return actions, th.as_tensor(actions, device=model.device).reshape(len(actions), -1), None
