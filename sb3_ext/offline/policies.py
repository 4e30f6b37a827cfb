"""Any policy as off-policy evaluation asks it: for probabilities, and for actions.

:func:`as_policy` takes SB3's models and policies, functions, and objects with these methods.
Observations and actions are NumPy arrays in the environment's units, as datasets hold them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

if TYPE_CHECKING:
    from sb3_ext.offline.dataset import OfflineDataset

Floats = NDArray[np.float64]
Array: TypeAlias = NDArray[Any]
Observations: TypeAlias = Array | dict[str, Array]
LogProb: TypeAlias = Callable[[Observations, Array], Any]

#: Rows that a network sees together.
BATCH = 8192


class EvaluatedPolicy:
    """What the estimators ask. A policy that cannot answer one question says why, and which.

    :param action_space: of the environment
    """

    def __init__(self, action_space: spaces.Space[Any]) -> None:
        self.action_space = action_space

    def log_prob(self, observations: Observations, actions: Array) -> Floats:
        """Log of the probability (density, in the environment's units) of each action, ``[B]``."""
        raise TypeError(
            f"{self.name} is deterministic in a continuous space, so it has no action "
            "probabilities: importance sampling and doubly robust estimates need a stochastic "
            'policy; methods=("fqe",) does without'
        )

    def probabilities(self, observations: Observations) -> Floats:
        """Of every action of a Discrete space, ``[B, n]``."""
        assert isinstance(self.action_space, spaces.Discrete)
        n, rows = int(self.action_space.n), count(observations)
        columns = [
            np.exp(self.log_prob(observations, np.full(rows, int(self.action_space.start) + one)))
            for one in range(n)
        ]
        return np.stack(columns, axis=1)

    def sample(self, observations: Observations) -> Array:
        """One action a row."""
        if not isinstance(self.action_space, spaces.Discrete):
            raise TypeError(
                f"{self.name} gives log probabilities and no actions, and a continuous space has "
                "too many to ask for each: fitted Q evaluation and doubly robust estimates need "
                "actions. Pass an object that has sample(observations), too"
            )
        below = np.cumsum(self.probabilities(observations), axis=1)
        drawn: Array = (np.random.random((len(below), 1)) * below[:, -1:] > below).sum(axis=1)
        return drawn + int(self.action_space.start)

    @property
    def name(self) -> str:
        """For sentences."""
        return type(self).__name__


class FunctionPolicy(EvaluatedPolicy):
    """A function ``(observations, actions) -> log_prob``, or an object with that method.

    :param function: gets ``[B, ...]`` arrays, returns ``[B]``
    :param sampler: ``observations -> actions``; without it, only a Discrete space can be sampled
    """

    def __init__(
        self,
        function: LogProb,
        action_space: spaces.Space[Any],
        sampler: Callable[[Observations], Any] | None = None,
    ) -> None:
        super().__init__(action_space)
        self.function, self.sampler = function, sampler

    def log_prob(self, observations: Observations, actions: Array) -> Floats:
        found = np.asarray(self.function(observations, actions), dtype=np.float64)
        if found.shape != (len(actions),):
            raise ValueError(
                f"{self.name} must return one log probability a row, shape [{len(actions)}], got "
                f"{list(found.shape)}"
            )
        if np.isnan(found).any() or (found == np.inf).any():
            raise ValueError(f"{self.name} returned NaN or +inf as a log probability")
        if isinstance(self.action_space, spaces.Discrete) and (found > 1e-4).any():
            raise ValueError(
                f"{self.name} returned log probabilities up to {found.max():.3g}, but a "
                "probability is at most 1 and its log at most 0: did it return probabilities?"
            )
        return found

    def probabilities(self, observations: Observations) -> Floats:
        found = super().probabilities(observations)
        sums = found.sum(axis=1)
        if not np.allclose(sums, 1.0, atol=1e-3):
            worst = float(sums[np.argmax(np.abs(sums - 1))])
            raise ValueError(
                f"{self.name} must return logs of probabilities that sum to 1 over the actions, "
                f"got a sum of {worst:.4g}"
            )
        return found

    def sample(self, observations: Observations) -> Array:
        return super().sample(observations) if self.sampler is None else self.sampler(observations)

    @property
    def name(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)


class SB3Policy(EvaluatedPolicy):
    """A policy of SB3 that acts as ``predict`` says.

    :param policy: in whose units the dataset is
    :param vec_normalize: of the environment it was trained in, whose means observations go through
    :param deterministic: which of its two ways of acting is meant
    """

    deterministic = True

    def __init__(self, policy: BasePolicy, vec_normalize: VecNormalize | None = None) -> None:
        super().__init__(policy.action_space)
        self.policy, self.vec_normalize = policy, vec_normalize

    def sample(self, observations: Observations) -> Array:
        parts = [
            self.policy.predict(self._seen(part), deterministic=self.deterministic)[0]
            for part in batches(observations)
        ]
        return np.concatenate(parts)

    def tensors(self, observations: Observations) -> Any:
        """What the networks see."""
        self.policy.set_training_mode(False)
        return self.policy.obs_to_tensor(self._seen(observations))[0]

    def _seen(self, observations: Observations) -> Any:
        if self.vec_normalize is None:
            return observations
        seen: Any = self.vec_normalize.normalize_obs(observations)
        return seen

    @property
    def name(self) -> str:
        return type(self.policy).__name__


class StochasticPolicy(SB3Policy):
    """PPO, A2C and their kin by ``get_distribution``; SAC, TQC and CrossQ by their actor.

    Where a Gaussian's actions are clipped to the bounds on their way to the environment, the bounds
    have a probability of their own: all of the tail beyond. Where ``tanh`` squashes them, densities
    carry its Jacobian and that of the scale from [-1, 1] to the environment's units.
    """

    deterministic = False

    def log_prob(self, observations: Observations, actions: Array) -> Floats:
        starts = range(0, len(actions), BATCH)
        with th.no_grad():
            parts = [
                self._log_prob(part, actions[start : start + BATCH])
                for start, part in zip(starts, batches(observations), strict=True)
            ]
        return np.concatenate(parts).astype(np.float64)

    def _log_prob(self, observations: Observations, actions: Array) -> Array:
        policy: Any = self.policy
        seen = self.tensors(observations)
        if isinstance(policy, ActorCriticPolicy):
            distribution: Any = policy.get_distribution(seen)
        else:
            mean, log_std, extra = policy.actor.get_action_dist_params(seen)
            distribution = policy.actor.action_dist.proba_distribution(mean, log_std, **extra)
        space, offset = self.action_space, 0.0
        if isinstance(space, spaces.Discrete):
            actions = actions - int(space.start)
        elif isinstance(space, spaces.Box):
            if policy.squash_output:
                actions = policy.scale_action(actions)
                offset = float(np.log(2.0 / (space.high.astype(float) - space.low)).sum())
            elif type(distribution) is DiagGaussianDistribution:
                normal = distribution.distribution
                taken = th.as_tensor(actions, device=normal.mean.device).reshape(normal.mean.shape)
                return clipped_log_prob(normal.mean, normal.stddev, taken, space).cpu().numpy()
            actions = actions.reshape(len(actions), -1)
        found = distribution.log_prob(th.as_tensor(actions, device=policy.device))
        return np.asarray(found.cpu().numpy() + offset)

    def probabilities(self, observations: Observations) -> Floats:
        if not isinstance(self.policy, ActorCriticPolicy):
            return super().probabilities(observations)
        with th.no_grad():
            parts = [
                self.policy.get_distribution(self.tensors(part)).distribution.probs  # type: ignore[union-attr]
                for part in batches(observations)
            ]
        return np.concatenate([part.cpu().numpy() for part in parts]).astype(np.float64)


class GreedyPolicy(SB3Policy):
    """DQN, QR-DQN and their kin: the greedy action, and with probability epsilon any.

    :param epsilon: share of uniform actions, in [0, 1]
    """

    def __init__(
        self, policy: BasePolicy, vec_normalize: VecNormalize | None, epsilon: float
    ) -> None:
        super().__init__(policy, vec_normalize)
        if not 0.0 <= epsilon <= 1.0:
            raise ValueError(f"epsilon must lie in [0, 1], got {epsilon}")
        self.epsilon = epsilon

    def probabilities(self, observations: Observations) -> Floats:
        assert isinstance(self.action_space, spaces.Discrete)
        n = int(self.action_space.n)
        greedy = super().sample(observations) - int(self.action_space.start)
        found: Floats = (1 - self.epsilon) * np.eye(n)[greedy] + self.epsilon / n
        return found

    def log_prob(self, observations: Observations, actions: Array) -> Floats:
        assert isinstance(self.action_space, spaces.Discrete)
        chosen = np.asarray(actions)[:, None] - int(self.action_space.start)
        with np.errstate(divide="ignore"):
            logs: Floats = np.log(self.probabilities(observations))
        return np.take_along_axis(logs, chosen, 1)[:, 0]

    def sample(self, observations: Observations) -> Array:
        return EvaluatedPolicy.sample(self, observations)


def as_policy(
    policy: Any,
    dataset: OfflineDataset,
    *,
    epsilon: float | None = None,
    argument: str = "epsilon",
) -> Any:
    """A policy in the form that the estimators ask.

    :param policy: a model of SB3, one of its policies, a function ``(observations, actions) ->
        log_prob``, or an object with ``log_prob`` and ``sample(observations)``
    :param dataset: whose observations it will get
    :param epsilon: for policies that are greedy in a Q function: how often they act at random
    :param argument: what the caller has epsilon from, for errors
    :return: an :class:`EvaluatedPolicy`
    :raises TypeError: if it is none of these
    :raises ValueError: if its spaces are not the dataset's, or epsilon is missing
    """
    if isinstance(policy, EvaluatedPolicy):
        return policy
    vec_normalize = None
    if isinstance(policy, BaseAlgorithm):
        vec_normalize = policy.get_vec_normalize_env()
        if not hasattr(policy.policy, "observation_space"):
            raise TypeError(f"{type(policy).__name__} has no policy of SB3's kind")
        policy = policy.policy
    if isinstance(policy, BasePolicy):
        dataset.require_fits(
            (_images_like(dataset.observation_space, policy), policy.action_space),
            name=f"the {type(policy).__name__}",
        )
        masked = hasattr(policy, "get_distribution") and not isinstance(policy, ActorCriticPolicy)
        if masked or hasattr(policy, "lstm_actor"):
            raise TypeError(
                f"{type(policy).__name__} acts on more than the observation (a memory, or masks of "
                "actions), which a dataset does not hold: pass an object with log_prob and sample"
            )
        if isinstance(policy, ActorCriticPolicy) or hasattr(
            getattr(policy, "actor", None), "get_action_dist_params"
        ):
            return StochasticPolicy(policy, vec_normalize)
        if not isinstance(policy.action_space, spaces.Discrete):
            return SB3Policy(policy, vec_normalize)
        if epsilon is None:
            raise ValueError(
                f"{type(policy).__name__} is greedy, and all but one action has probability 0: say "
                f"{argument}=0.05, for one that takes any action with that probability, or "
                f"{argument}=0.0 for the greedy one itself"
            )
        return GreedyPolicy(policy, vec_normalize, epsilon)
    if callable(log_prob := getattr(policy, "log_prob", None)):
        return FunctionPolicy(log_prob, dataset.action_space, getattr(policy, "sample", None))
    if callable(policy):
        return FunctionPolicy(policy, dataset.action_space)
    raise TypeError(
        "a policy must be a model or policy of SB3, a function (observations, actions) -> "
        f"log_prob, or an object with log_prob and sample, got {type(policy).__name__}"
    )


def clipped_log_prob(mean: Tensor, std: Tensor, actions: Tensor, space: spaces.Box) -> Tensor:
    """Log probability of a Gaussian's action after clipping to the bounds.

    Inside it is the density. On a bound it is the log of a probability: of all that was clipped to
    it. Two policies that are clipped alike have a ratio of such numbers.

    :param mean: ``[B, d]``
    :param std: ``[B, d]``
    :param actions: ``[B, d]``, in the space's units
    :return: ``[B]``, summed over dimensions
    """
    flat = actions.reshape(len(actions), -1).to(mean.dtype)
    low, high = (
        th.as_tensor(end.reshape(-1), device=mean.device, dtype=mean.dtype)
        for end in (space.low, space.high)
    )
    inside = th.distributions.Normal(mean, std, validate_args=False).log_prob(flat)
    below = th.special.log_ndtr((low - mean) / std)
    above = th.special.log_ndtr((mean - high) / std)
    return th.where(flat <= low, below, th.where(flat >= high, above, inside)).sum(dim=1)


def count(observations: Observations) -> int:
    """Rows of an array, or of each array of a dict."""
    return len(
        next(iter(observations.values())) if isinstance(observations, dict) else observations
    )


def rows_of(observations: Observations, rows: Any) -> Observations:
    """Some rows, of an array or of each array of a dict."""
    if isinstance(observations, dict):
        return {key: array[rows] for key, array in observations.items()}
    chosen: Array = observations[rows]
    return chosen


def batches(observations: Observations) -> list[Observations]:
    """Slices of at most ``BATCH`` rows."""
    return [
        rows_of(observations, slice(start, start + BATCH))
        for start in range(0, count(observations), BATCH)
    ]


def _images_like(space: spaces.Space[Any], policy: BasePolicy) -> spaces.Space[Any]:
    """The policy's observation space with images as the dataset has them: SB3 turns them itself."""
    wanted = policy.observation_space
    if isinstance(space, spaces.Dict) and isinstance(wanted, spaces.Dict):
        return spaces.Dict(
            {key: _turned(space.spaces.get(key), part) for key, part in wanted.spaces.items()}
        )
    return _turned(space, wanted)


def _turned(ours: spaces.Space[Any] | None, theirs: spaces.Space[Any]) -> spaces.Space[Any]:
    if (
        isinstance(ours, spaces.Box)
        and isinstance(theirs, spaces.Box)
        and len(ours.shape) == 3
        and theirs.shape == (ours.shape[2], *ours.shape[:2])
    ):
        return ours
    return theirs
