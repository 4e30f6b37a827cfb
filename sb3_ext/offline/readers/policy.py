"""A policy in an environment, as a dataset."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecNormalize,
    VecTransposeImage,
    unwrap_vec_normalize,
)

from sb3_ext.offline.arrays import Array, map_observations
from sb3_ext.offline.behaviour import Act, acting
from sb3_ext.offline.dataset import OfflineDataset
from sb3_ext.offline.random_state import RandomState
from sb3_ext.offline.readers.columns import Columns

#: Steps whose arrays are made together while nobody knows how many there will be.
_BLOCK = 1024


def from_policy(
    policy: Any,
    env: Any = None,
    *,
    n_steps: int | None = None,
    n_episodes: int | None = None,
    deterministic: bool = False,
    seed: int | None = None,
    n_envs: int = 1,
) -> OfflineDataset:
    """Let a policy act, and record what happens.

    Rewards and observations are the environment's own, also under ``VecNormalize``: the policy sees
    normalised ones, and the statistics stay as they are. The last observation of an episode is the
    real one, not that of the reset. The behaviour's log-probabilities are recorded where the policy
    has them: see :func:`~sb3_ext.offline.behaviour.acting`.

    :param policy: a model or policy of SB3's; or a function of observations ``[n_envs, ...]`` that
        returns actions ``[n_envs, ...]`` in the environment's units, or them and log-probabilities
    :param env: an id, an environment, a VecEnv; default: the model's
    :param n_steps: how many transitions, rounded up to a multiple of the environments; where it
        stops, episodes are cut
    :param n_episodes: how many whole episodes, shared out evenly among the environments, so that
        short ones are not preferred
    :param deterministic: whether a model takes its best action
    :param seed: of the environments and of what the policy draws
    :param n_envs: how many environments to make of an id
    :raises ValueError: unless exactly one of ``n_steps`` and ``n_episodes`` is given
    """
    venv, env_id = vec_env(policy, env, n_envs)
    act = acting(policy, venv.action_space, deterministic, seed)
    name = type(policy).__name__
    if not hasattr(policy, "predict"):
        name = getattr(policy, "__name__", name)
    source = {
        "format": "policy",
        "policy": name,
        "env_id": env_id,
        "deterministic": deterministic,
        "seed": seed,
    }
    forget_last_observation(policy, venv)
    # SB3's policies draw from the global generators.
    own = RandomState(seed, getattr(policy, "device", "cpu")) if seed is not None else None
    with own or contextlib.nullcontext():
        return record(act, venv, n_steps=n_steps, n_episodes=n_episodes, seed=seed, source=source)


def forget_last_observation(policy: Any, venv: VecEnv) -> None:
    """Let a model whose own environment is played in begin there anew when it goes on training."""
    if isinstance(policy, BaseAlgorithm) and policy.get_env() is venv:
        policy._last_obs = None


def vec_env(policy: Any, env: Any, n_envs: int = 1) -> tuple[VecEnv, str | None]:
    """The environments to record in, and their id where it is known.

    Images get their channels first where the policy was made for that, as SB3 does it.

    :raises ValueError: if there are none
    """
    if env is None:
        env = policy.get_env() if isinstance(policy, BaseAlgorithm) else None
        if env is None:
            raise ValueError("there is no environment: pass env=, an id or an environment")
    if isinstance(env, str):
        venv: VecEnv = make_vec_env(env, n_envs)
    elif isinstance(env, VecEnv):
        venv = env
    else:
        venv = DummyVecEnv([lambda: env])
    space = getattr(policy, "observation_space", None)
    shape = getattr(venv.observation_space, "shape", None)
    if space is not None and shape is not None and len(shape) == 3 and space.shape != shape:
        transposed = (shape[2], *shape[:2])
        if space.shape == transposed:
            venv = VecTransposeImage(venv)
    try:
        spec = venv.get_attr("spec", 0)[0]
    except AttributeError:
        spec = None
    return venv, getattr(spec, "id", None)


def record(
    act: Act,
    venv: VecEnv,
    *,
    n_steps: int | None,
    n_episodes: int | None,
    seed: int | None,
    source: dict[str, Any],
) -> OfflineDataset:
    """Play and record; see :func:`from_policy`.

    :param act: gives the actions
    :param venv: where to play; a ``VecNormalize`` only serves what the policy sees
    :param source: where the dataset says it is from
    """
    if (n_steps is None) == (n_episodes is None):
        raise ValueError(
            f"pass either n_steps or n_episodes, got n_steps={n_steps}, n_episodes={n_episodes}"
        )
    count = n_steps if n_episodes is None else n_episodes
    assert count is not None
    if count < 1:
        raise ValueError(f"there must be at least one step or episode to record, got {count}")
    normalizer, below = venv if isinstance(venv, VecNormalize) else None, None
    inner = normalizer.venv if normalizer is not None else venv
    if normalizer is None:
        below = unwrap_vec_normalize(venv)
        if below is not None and below.norm_obs:
            raise ValueError(
                "VecNormalize must be the outermost wrapper, because datasets hold the "
                f"environment's own observations; it lies under {type(venv).__name__}"
            )
    tape = _Tape(inner, n_steps, n_episodes)
    if seed is not None:
        inner.seed(seed)
    observations: Any = inner.reset()
    starts = np.ones(inner.num_envs, dtype=np.bool_)
    with _frozen(below):
        while tape.goes_on():
            seen = observations
            if normalizer is not None:
                seen = normalizer.normalize_obs(_copy(observations))
            actions, log_prob = act(seen, starts)
            follow, rewards, dones, infos = inner.step(actions)
            if below is not None:
                rewards = below.get_original_reward()
            tape.write(_copy(observations), actions, log_prob, rewards, follow, dones, infos)
            observations, starts = follow, np.asarray(dones, dtype=np.bool_)
    columns = tape.columns()
    if tape.log_prob_unknown:
        columns.log_prob = None
        columns.notes.append(
            f"behavior_log_prob left out: {tape.log_prob_unknown} actions were set on a bound, "
            "where a Gaussian has no density"
        )
    return columns.dataset(source, out_of_bounds="raise")


class _Tape:
    """Rows of all environments in blocks, then each environment's one after the other."""

    def __init__(self, venv: VecEnv, n_steps: int | None, n_episodes: int | None) -> None:
        n = venv.num_envs
        self.venv, self.blocks, self.rows = venv, list[Columns](), 0
        self.steps = None if n_steps is None else -(-n_steps // n)
        #: Episodes that each environment still has to play, as in SB3's evaluate_policy.
        self.left = np.array([((n_episodes or 0) + env) // n for env in range(n)])
        self.kept = np.zeros(n, dtype=np.int64)
        self.size = self.steps or _BLOCK
        self.log_prob_known, self.log_prob_unknown = True, 0

    def goes_on(self) -> bool:
        return self.rows < self.steps if self.steps is not None else bool(self.left.any())

    def write(
        self,
        observations: Any,
        actions: Array,
        log_prob: Array | None,
        rewards: Array,
        follow: Any,
        dones: Array,
        infos: Any,
    ) -> None:
        n, row = self.venv.num_envs, self.rows % self.size
        if row == 0:
            spaces_ = (self.venv.observation_space, self.venv.action_space)
            self.blocks.append(Columns(self.size * n, *spaces_))
        block, at = self.blocks[-1], row * n
        follow = _with_terminal_observations(_copy(follow), dones, infos)
        block.put_observations("observations", at, observations)
        block.put_observations("next_observations", at, follow)
        block.put_actions(at, actions)
        block.rewards[at : at + n] = rewards
        cut = np.array([bool(info.get("TimeLimit.truncated", False)) for info in infos])
        block.truncated[at : at + n] = dones & cut
        block.terminated[at : at + n] = dones & ~cut
        if log_prob is None:
            self.log_prob_known = False
        elif self.log_prob_known:
            block.put_log_prob(at, log_prob)
        wanted = np.ones(n, dtype=np.bool_) if self.steps is not None else self.left > 0
        if log_prob is not None:
            self.log_prob_unknown += int(np.isnan(np.asarray(log_prob)[wanted]).sum())
        self.kept += wanted
        self.left -= wanted & dones
        self.left = np.maximum(self.left, 0)
        self.rows += 1

    def columns(self) -> Columns:
        n, total = self.venv.num_envs, int(self.kept.sum())
        columns = Columns(total, self.venv.observation_space, self.venv.action_space)
        for env, at, block, rows in self._pieces(n):
            for name in ("observations", "next_observations"):
                part = map_observations(lambda held, r=rows: held[r], getattr(block, name))
                columns.put_observations(name, at, part)
            columns.put_actions(at, block.actions[rows])
            count = len(block.rewards[rows])
            for name in ("rewards", "terminated", "truncated"):
                getattr(columns, name)[at : at + count] = getattr(block, name)[rows]
            if self.log_prob_known and block.log_prob is not None:
                columns.put_log_prob(at, block.log_prob[rows])
            del env
        columns.filled = total
        for last in np.cumsum(self.kept[self.kept > 0]) - 1:
            columns.unfinished += columns.cut(int(last))
        return columns

    def _pieces(self, n: int) -> Iterator[tuple[int, int, Columns, slice]]:
        at = 0
        for env in range(n):
            left = int(self.kept[env])
            for block in self.blocks:
                count = min(left, self.size)
                if count:
                    yield env, at, block, slice(env, count * n, n)
                at, left = at + count, left - count


def _with_terminal_observations(follow: Any, dones: NDArray[np.bool_], infos: Any) -> Any:
    """What really followed, where a VecEnv has already reset."""
    for env in np.flatnonzero(dones):
        last = infos[env].get("terminal_observation")
        if last is None:
            continue
        if isinstance(follow, dict):
            for key, values in follow.items():
                values[env] = last[key]
        else:
            follow[env] = last
    return follow


def _copy(observations: Any) -> Any:
    return map_observations(np.array, observations)


@contextlib.contextmanager
def _frozen(normalizer: VecNormalize | None) -> Iterator[None]:
    """Leave a VecNormalize's statistics as they are."""
    if normalizer is None:
        yield
        return
    before, normalizer.training = normalizer.training, False
    try:
        yield
    finally:
        normalizer.training = before
