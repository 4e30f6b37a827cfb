"""What acts while data is recorded: a model, a policy or a function, and with which probability."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy

from sb3_ext.offline.arrays import Array
from sb3_ext.offline.scaling import scaled, unscaled
from sb3_ext.offline.spaces import Space

#: Observations and first-step flags, both of all environments -> actions in the environment's
#: units, and the log of the probability (density) with which they were chosen, if it is known.
Act: TypeAlias = Callable[[Any, NDArray[np.bool_]], tuple[Array, Array | None]]


def acting(policy: Any, action_space: Space, deterministic: bool, seed: int | None) -> Act:
    """The rule by which a model, a policy or a function acts.

    Known are the probabilities of SB3's actor-critic policies (PPO, A2C), of squashed Gaussians
    (SAC, TQC), of epsilon-greedy models (DQN, QRDQN), and those that a function returns itself.
    With gSDE they are not: there the noise stays the same for several steps.

    :param policy: a model or policy of SB3's; or a function of observations ``[n_envs, ...]`` that
        returns actions ``[n_envs, ...]``, or them and ``[n_envs]`` log-probabilities
    :param deterministic: whether a model takes its best action
    :param seed: of what is drawn here
    :raises TypeError: if it can do neither
    """
    inner = policy.policy if isinstance(policy, BaseAlgorithm) else policy
    if isinstance(inner, BasePolicy):
        actor = getattr(inner, "actor", None)
        sde = any(getattr(one, "use_sde", False) for one in (policy, inner, actor))
        if isinstance(action_space, spaces.Discrete) and hasattr(policy, "exploration_rate"):
            epsilon = 0.0 if deterministic else float(policy.exploration_rate)
            rng = np.random.default_rng(seed)
            return _EpsilonGreedy(policy.predict, action_space, epsilon, rng)
        # A Box action that is always the same has no density.
        if not sde and not (deterministic and isinstance(action_space, spaces.Box)):
            if isinstance(inner, ActorCriticPolicy) and not hasattr(inner, "lstm_actor"):
                return _ActorCritic(inner, action_space, deterministic)
            if hasattr(actor, "action_log_prob"):
                return _SquashedGaussian(inner, action_space)
    if hasattr(policy, "predict"):
        return _Predicting(policy, deterministic)
    if callable(policy):
        return lambda observations, starts: _pair(policy(observations))
    raise TypeError(
        f"policy must be a model or policy of SB3's, or a function of observations, got {policy!r}"
    )


def _pair(answer: Any) -> tuple[Array, Array | None]:
    if isinstance(answer, tuple):
        actions, log_prob = answer
        return np.asarray(actions), None if log_prob is None else np.asarray(log_prob)
    return np.asarray(answer), None


@dataclass
class _Predicting:
    """Anything with SB3's ``predict``, recurrent ones included."""

    policy: Any
    deterministic: bool
    state: Any = None

    def __call__(self, observations: Any, starts: NDArray[np.bool_]) -> tuple[Array, None]:
        actions, self.state = self.policy.predict(
            observations,
            state=self.state,
            episode_start=starts,
            deterministic=self.deterministic,
        )
        return actions, None


@dataclass
class _EpsilonGreedy:
    """DQN's rule, drawn for each environment: ``eps / n``, and ``1 - eps`` more for the best."""

    predict: Any
    space: spaces.Discrete
    epsilon: float
    rng: np.random.Generator

    def __call__(self, observations: Any, starts: NDArray[np.bool_]) -> tuple[Array, Array]:
        best = np.asarray(self.predict(observations, deterministic=True)[0]).reshape(-1)
        n = int(self.space.n)
        random = self.space.start + self.rng.integers(n, size=len(best))
        actions = np.where(self.rng.random(len(best)) < self.epsilon, random, best)
        probability = self.epsilon / n + (1 - self.epsilon) * (actions == best)
        return actions, np.log(probability)


@dataclass
class _ActorCritic:
    """PPO and A2C. A Gaussian's action beyond a bound is played on it, where it has no density."""

    policy: ActorCriticPolicy
    space: Space
    deterministic: bool

    def __call__(self, observations: Any, starts: NDArray[np.bool_]) -> tuple[Array, Array]:
        self.policy.set_training_mode(False)
        tensor, _ = self.policy.obs_to_tensor(observations)
        with th.no_grad():
            distribution = self.policy.get_distribution(tensor)
            chosen = distribution.get_actions(deterministic=self.deterministic)
            log_prob = distribution.log_prob(chosen).cpu().numpy()
        actions = chosen.cpu().numpy().reshape(-1, *(self.space.shape or ()))
        if isinstance(self.space, spaces.Box):
            inside = np.clip(actions, self.space.low, self.space.high)
            over = (inside != actions).reshape(len(actions), -1).any(axis=1)
            actions, log_prob = inside, np.where(over, np.nan, log_prob)
        elif self.deterministic:
            log_prob = np.zeros_like(log_prob)
        return actions, log_prob


@dataclass
class _SquashedGaussian:
    """SAC and TQC: a density in [-1, 1], brought to the environment's units."""

    policy: Any
    space: Space

    def __call__(self, observations: Any, starts: NDArray[np.bool_]) -> tuple[Array, Array]:
        assert isinstance(self.space, spaces.Box)
        self.policy.set_training_mode(False)
        tensor, _ = self.policy.obs_to_tensor(observations)
        with th.no_grad():
            chosen, log_prob = self.policy.actor.action_log_prob(tensor)
        low, high = self.space.low.astype(np.float64), self.space.high.astype(np.float64)
        actions = unscaled(chosen.cpu().numpy(), self.space)
        # The density of a variable that is stretched by half the range.
        stretched = np.log((high - low) / 2).sum()
        return actions.reshape(-1, *self.space.shape), log_prob.cpu().numpy() - stretched


@dataclass
class Imperfect:
    """Demonstrations with errors: sometimes a random action, else the policy's with noise.

    BCQ's recipe: with probability 0.3 a uniform random action, else noise of N(0, 0.3), in scaled
    units, where [-1, 1] is the whole range. Drawn anew at each step, for each environment. A
    Discrete action takes no noise.
    """

    act: Act
    space: Space
    random_action_probability: float
    noise_std: float
    rng: np.random.Generator

    def __call__(self, observations: Any, starts: NDArray[np.bool_]) -> tuple[Array, Array | None]:
        best, _ = self.act(observations, starts)
        random = self.rng.random(len(best)) < self.random_action_probability
        if isinstance(self.space, spaces.Box):
            flat = scaled(best.reshape(len(best), -1), self.space)
            noisy = flat + self.rng.normal(0.0, self.noise_std, flat.shape)
            uniform = self.rng.uniform(-1.0, 1.0, flat.shape)
            actions = np.where(random[:, None], uniform, np.clip(noisy, -1.0, 1.0))
            return unscaled(actions, self.space).reshape(best.shape), None
        assert isinstance(self.space, spaces.Discrete)
        n = int(self.space.n)
        best = best.reshape(-1)
        uniform = self.space.start + self.rng.integers(n, size=len(best))
        actions = np.where(random, uniform, best)
        share = self.random_action_probability
        return actions, np.log(share / n + (1 - share) * (actions == best))
