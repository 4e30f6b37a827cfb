"""Does the Q function say what comes true? A callback that compares the two during training."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize, unwrap_vec_normalize

from sb3_ext.offline.isolation import attributes_kept, evaluating, random_state_kept
from sb3_ext.offline.rollouts import Evaluated, evaluate_values
from sb3_ext.offline.values import entropy_coefficient, probe, q_estimate, zeros_of
from sb3_ext.replay.storage import Replay

History = Mapping[str, Sequence[float]]


class ValueDiagnostic(BaseCallback):
    """Value estimates of an off-policy algorithm beside the discounted returns that come true.

    At each evaluation the current policy acts for some episodes in ``eval_env``. Logged, and kept
    in ``history``, is

    ==================================  ==========================================================
    ``value/estimate_start``            Q of the first state and action of each episode, mean
    ``value/true_start``                their discounted Monte-Carlo returns, mean
    ``value/overestimation``            the first minus the second
    ``value/estimate_visited``          Q of all states and actions on the way, mean
    ``value/true_visited``              the returns from there on, mean
    ``value/overestimation_visited``    the first minus the second
    ``value/estimate_buffer``           Q of states and actions of the replay buffer, mean
    ``value/return``                    undiscounted returns of the episodes, mean
    ``value/neglected``                 see time limits
    ``value/entropy_bonus``             see entropy; for SAC, TQC and CrossQ
    ==================================  ==========================================================

    The start pair and the visited pair are each about the same states and actions, so their
    difference is an error of Q. ``estimate_buffer`` is what the author of BCQ reports (Fujimoto et
    al. 2019, figure 1: the mean of Q1 over a batch). There is no truth for it, because an
    environment cannot be put into the buffer's states: ``true_visited`` is the nearest, and as near
    as the buffer's states are to the policy's.

    **Time limits.** Q is about an infinite horizon, and a return ends where a time limit cuts the
    episode. It neglects ``gamma ** T`` times the value of the state at the cut. ``value/neglected``
    is the mean of this weight over episodes, 0 for those that terminated; above ``max_neglected`` a
    warning says it once. For the visited pair, steps of cut episodes of which more than
    ``max_neglected`` is neglected are left out.

    **Entropy.** Q of SAC, TQC and CrossQ contains, from the next step on, the bonus
    ``-alpha * log pi``, and it is about the stochastic policy. So this policy is what acts, and its
    discounted bonus, ``value/entropy_bonus``, is part of the true values, unless
    ``include_entropy`` is False.

    Training goes on as if nothing had happened, bit for bit: random generators, networks' modes and
    noise are put back.

    :param eval_env: an id, or not the one that is trained in. VecNormalize around it is taken off,
        because the model's own counts; rewards are normalised if those that Q is learned from are
    :param eval_freq: calls of ``env.step`` (offline: gradient steps) between two evaluations
    :param n_eval_episodes: episodes an evaluation
    :param n_pairs: states and actions of the replay buffer for ``estimate_buffer``
    :param deterministic: how the policy acts; None for the way that its Q is about: stochastic
        with an entropy bonus, else deterministic
    :param include_entropy: whether true values contain the entropy bonus
    :param max_neglected: in (0, 1]
    :param seed: of the evaluation environment, at every evaluation, so that all have the same
        starts; None leaves it alone
    :param save_path: an ``.npz`` file that is written at each evaluation
    """

    resumed_attributes: ClassVar[frozenset[str]] = frozenset({"history"})

    def __init__(
        self,
        eval_env: gym.Env[Any, Any] | VecEnv | str,
        eval_freq: int = 10_000,
        n_eval_episodes: int = 10,
        *,
        n_pairs: int = 1024,
        deterministic: bool | None = None,
        include_entropy: bool = True,
        max_neglected: float = 0.05,
        seed: int | None = None,
        save_path: str | Path | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        for name, value in (
            ("eval_freq", eval_freq),
            ("n_eval_episodes", n_eval_episodes),
            ("n_pairs", n_pairs),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer >= 1, got {value!r}")
        if not 0.0 < max_neglected <= 1.0:
            raise ValueError(f"max_neglected must lie in (0, 1], got {max_neglected}")
        self.eval_env = _without_normalization(eval_env)
        self.eval_freq, self.n_eval_episodes, self.n_pairs = eval_freq, n_eval_episodes, n_pairs
        self.deterministic, self.include_entropy = deterministic, include_entropy
        self.max_neglected, self.seed = max_neglected, seed
        self.save_path = None if save_path is None else Path(save_path)
        #: One list for each metric, and ``timesteps``; nan where there was nothing to average.
        self.history: dict[str, list[float]] = {}
        self._warned = False

    def _init_callback(self) -> None:
        with random_state_kept(), evaluating(self.model.policy):
            probe(self.model)
        training = self.model.get_env()
        if training is not None and set(_parts(training)) & set(_parts(self.eval_env)):
            raise ValueError(
                "eval_env is the environment that is trained in, and evaluating would reset it: "
                "make another one"
            )
        if self.eval_env.action_space != self.model.action_space:
            raise ValueError(
                f"eval_env has the actions {self.eval_env.action_space}, the model "
                f"{self.model.action_space}"
            )
        try:
            self.model.policy.obs_to_tensor(zeros_of(self.eval_env.observation_space))
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"eval_env has the observations {self.eval_env.observation_space}, the model "
                f"{self.model.observation_space}"
            ) from error

    def _on_step(self) -> bool:
        if self.n_calls % self.eval_freq == 0:
            self.evaluate()
        return True

    def evaluate(self) -> dict[str, float]:
        """Evaluate now: log, remember, save.

        :return: the metrics, without ``value/``
        """
        model: Any = self.model
        seed = (self.seed or 0) + 7919 * len(self.history.get("timesteps", ()))
        noisy = [one for one in (_distribution(model),) if one is not None]
        with random_state_kept(seed), evaluating(model.policy), attributes_kept(*noisy):
            if self.seed is not None:
                self.eval_env.seed(self.seed)
            soft = entropy_coefficient(model) > 0
            deterministic = (not soft) if self.deterministic is None else self.deterministic
            episodes = evaluate_values(model, self.eval_env, self.n_eval_episodes, deterministic)
            buffer = buffer_estimate(model, self.n_pairs, np.random.default_rng(seed))
        metrics = compare(
            episodes, model.gamma, self.include_entropy, self.max_neglected, entropy=soft
        )
        metrics["estimate_buffer"] = buffer
        self._remember(metrics)
        return metrics

    def _remember(self, metrics: Mapping[str, float]) -> None:
        for name, value in {"timesteps": float(self.num_timesteps), **metrics}.items():
            self.history.setdefault(name, []).append(value)
        for name, value in metrics.items():
            if np.isfinite(value):
                self.logger.record(f"value/{name}", value)
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)
        if self.verbose:
            print(
                f"value at {self.num_timesteps}: estimate {metrics['estimate_start']:.4g}, "
                f"true {metrics['true_start']:.4g}"
            )
        if metrics["neglected"] > self.max_neglected and not self._warned:
            self._warned = True
            warnings.warn(
                "time limits cut the evaluation's episodes so early that returns neglect "
                f"{metrics['neglected']:.2g} (gamma ** T, mean) of the value at the cut, and Q "
                "does not: true values are too small where rewards are positive, too large where "
                "they are negative. Visited steps that this is true of are left out"
                + ("" if np.isfinite(metrics["true_visited"]) else ", which are all of them")
                + ". Evaluate with a longer time limit, or train with a smaller gamma",
                stacklevel=2,
            )
        if self.save_path is not None:
            self.save_path.parent.mkdir(parents=True, exist_ok=True)
            arrays: dict[str, Any] = {key: np.array(one) for key, one in self.history.items()}
            np.savez(self.save_path, **arrays)


def compare(
    episodes: Sequence[Evaluated],
    gamma: float,
    include_entropy: bool = True,
    max_neglected: float = 0.05,
    *,
    entropy: bool = False,
) -> dict[str, float]:
    """The metrics of :class:`ValueDiagnostic`, but the buffer's.

    :param episodes: at least one
    :param gamma: the algorithm's
    :param include_entropy: whether true values contain the entropy bonus
    :param max_neglected: visited steps of which more is neglected are left out
    :param entropy: whether there is a bonus to speak of
    """
    truths, bonuses, estimates, neglected = [], [], [], []
    for one in episodes:
        bonus = one.soft_bonuses(gamma)
        bonuses.append(bonus)
        truths.append(one.returns(gamma) + (bonus if include_entropy else 0.0))
        estimates.append(one.estimates)
        neglected.append(one.neglected(gamma))
    metrics = {
        "estimate_start": float(np.mean([one[0] for one in estimates])),
        "true_start": float(np.mean([one[0] for one in truths])),
        "neglected": float(np.mean([one[0] for one in neglected])),
        "return": float(np.mean([one.rewards.sum() for one in episodes])),
    }
    kept = np.concatenate(neglected) <= max_neglected
    for name, values in (("estimate", estimates), ("true", truths)):
        visited = np.concatenate(values)[kept]
        metrics[f"{name}_visited"] = float(visited.mean()) if len(visited) else float("nan")
    metrics["overestimation"] = metrics["estimate_start"] - metrics["true_start"]
    metrics["overestimation_visited"] = metrics["estimate_visited"] - metrics["true_visited"]
    if entropy:
        metrics["entropy_bonus"] = float(np.mean([one[0] for one in bonuses]))
    return metrics


def buffer_estimate(model: Any, n_pairs: int, rng: np.random.Generator) -> float:
    """The mean of Q over states and actions of the replay buffer; nan if there are none.

    Read by row, not sampled: a sampler that counts its draws does not notice.
    """
    buffer = getattr(model, "replay_buffer", None)
    if buffer is None:
        return float("nan")
    replay = Replay(buffer, model.get_vec_normalize_env())
    if not replay.window.size:
        return float("nan")
    with th.no_grad():
        pairs = replay.observations_and_actions(replay.window.draw(n_pairs, rng))
        return float(q_estimate(model)(*pairs).mean())


def _without_normalization(env: gym.Env[Any, Any] | VecEnv | str) -> VecEnv:
    if isinstance(env, str):
        env = make_vec_env(env)
    vectorized = env if isinstance(env, VecEnv) else DummyVecEnv([lambda: env])
    while isinstance(vectorized, VecNormalize):
        vectorized = vectorized.venv
    if unwrap_vec_normalize(vectorized) is not None:
        raise ValueError(
            "eval_env has VecNormalize below another wrapper, where it cannot be taken off; pass "
            "it without VecNormalize: the model's own means are used"
        )
    return vectorized


def _parts(env: Any) -> Iterator[int]:
    """The identities of an environment and of all that it wraps."""
    while env is not None:
        yield id(env)
        for one in getattr(env, "envs", ()):
            yield id(one.unwrapped)
        env = getattr(env, "venv", None)


def _distribution(model: Any) -> Any:
    """What holds the noise of gSDE."""
    return getattr(getattr(model.policy, "actor", None), "action_dist", None)
