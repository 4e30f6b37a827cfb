"""The worker's side: several environments, and a loop that does what the parent asks."""

from __future__ import annotations

import copyreg
import io
import pickle
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env.patch_gym import _patch_env
from stable_baselines3.common.vec_env.subproc_vec_env import _stack_obs

from sb3_ext.vec_env.trouble import Trouble

EnvFn = Callable[[], gym.Env[Any, Any]]
Seeds = Sequence[int | None]


class Steps(NamedTuple):
    """One step of all environments of a worker, in their order; resets are already done.

    :param observations: stacked ``[n, ...]``, or a dict or tuple of such
    :param rewards: as the environments gave them
    :param dones: terminated or truncated
    :param truncated: and not terminated
    :param infos: by position; those that are empty are left out
    :param reset_infos: by position; of those that were reset
    :param troubles: of those that raised; their rows hold nothing
    """

    observations: Any
    rewards: list[Any]
    dones: list[bool]
    truncated: list[bool]
    infos: dict[int, dict[str, Any]]
    reset_infos: dict[int, dict[str, Any]]
    troubles: tuple[Trouble, ...] = ()


#: NumPy's scalars, of which MuJoCo's infos are full, as quick to send as Python's floats; by
#: themselves they take the way of arrays, which is four times as long.
_QUICK = copyreg.dispatch_table | dict.fromkeys(
    (np.float64, np.float32), lambda number: (type(number), (float(number),))
)


def dumps(value: Any) -> memoryview:
    """A message."""
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, pickle.HIGHEST_PROTOCOL)
    pickler.dispatch_table = _QUICK
    pickler.dump(value)
    return stream.getbuffer()


class _EnvError(Exception):
    """Carries which environment raised past the ones that were still to come."""

    def __init__(self, position: int) -> None:
        self.position = position


@contextmanager
def _blamed(position: int) -> Iterator[None]:
    try:
        yield
    except BaseException as error:  # SystemExit, too: the worker lives on and tells
        raise _EnvError(position) from error


class Envs:
    """The environments of one worker.

    :param first: the index of the first one, for what is told of troubles
    :param env_fns: they make them; or pickles of SB3's ``CloudpickleWrapper`` around them
    """

    def __init__(self, first: int, env_fns: Sequence[EnvFn | bytes]) -> None:
        self.indices = range(first, first + len(env_fns))
        self.env_fns = env_fns
        self.envs: list[gym.Env[Any, Any]] = []
        self.observations: list[Any] = []

    def make(self) -> list[tuple[gym.Space[Any], gym.Space[Any]]]:
        """Make them all; returns their spaces of observations and actions."""
        for i in range(len(self.env_fns)):
            with _blamed(i):
                self.envs.append(self._made(i))
        # SB3's SubprocVecEnv has one in each process, so there this cannot happen.
        if len({id(env.unwrapped) for env in self.envs}) < len(self.envs):
            raise ValueError(
                "each function of env_fns must make a new environment, and two of them returned "
                "the same object; call gym.make inside of the function"
            )
        self.observations = [None] * len(self.envs)
        return [(env.observation_space, env.action_space) for env in self.envs]

    def reset(
        self, which: Sequence[int], seeds: Seeds, options: Sequence[dict[str, Any]], anew: bool
    ) -> tuple[Any, list[dict[str, Any]]]:
        """Reset those at these positions.

        :param which: positions in this worker
        :param anew: make them again before
        :return: observations, stacked, and reset infos
        """
        infos = []
        for i, seed, option in zip(which, seeds, options, strict=True):
            with _blamed(i):
                if anew:
                    self._close(self.envs[i])
                    self.envs[i] = self._made(i)
                given = {"options": option} if option else {}
                self.observations[i], info = self.envs[i].reset(seed=seed, **given)
            infos.append(info)
        space = self.envs[0].observation_space
        return _stack_obs([self.observations[i] for i in which], space), infos

    def step(self, actions: Sequence[Any]) -> Steps | Trouble:
        """A step of each, and a reset where an episode ends.

        One that raises holds up none of the others.
        """
        rewards, dones, truncateds = [], [], []
        infos, reset_infos, troubles = {}, {}, []
        for i, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
            reward, done, cut_off, doing = 0.0, False, False, "step"
            try:
                observation, reward, terminated, truncated, info = env.step(action)  # type: ignore[assignment]
                done, cut_off = bool(terminated or truncated), bool(truncated and not terminated)
                if done:
                    doing = "reset"
                    info["terminal_observation"] = observation
                    observation, reset_infos[i] = env.reset()
                self.observations[i] = observation
                if info:
                    infos[i] = info
            except BaseException as error:
                troubles.append(Trouble.of(error, doing, self.indices[i]))
            rewards.append(reward)
            dones.append(done)
            truncateds.append(cut_off)
        if troubles and any(one is None for one in self.observations):  # it was never reset
            return troubles[0]
        stacked = _stack_obs(self.observations, self.envs[0].observation_space)
        return Steps(stacked, rewards, dones, truncateds, infos, reset_infos, tuple(troubles))

    def each(self, asked: Callable[..., Any], which: Sequence[int], *given: Any) -> list[Any]:
        """The same of each of those at these positions."""
        found = []
        for i in which:
            with _blamed(i):
                found.append(asked(self.envs[i], *given))
        return found

    def close(self) -> None:
        """Close them all; what one raises is printed, and the next is closed, too."""
        for env in self.envs:
            self._close(env)

    def _made(self, i: int) -> gym.Env[Any, Any]:
        made = self.env_fns[i]
        return _patch_env((pickle.loads(made).var if isinstance(made, bytes) else made)())

    @staticmethod
    def _close(env: gym.Env[Any, Any]) -> None:
        try:
            env.close()
        except Exception:
            traceback.print_exc()


def _has_attr(env: gym.Env[Any, Any], name: str) -> bool:
    try:
        env.get_wrapper_attr(name)
    except AttributeError:
        return False
    return True


#: What is asked of one environment after the other, by the names of SB3's methods.
EACH: dict[str, Callable[..., Any]] = {
    "get_attr": lambda env, name: env.get_wrapper_attr(name),
    "set_attr": setattr,
    "env_method": lambda env, name, args, kwargs: env.get_wrapper_attr(name)(*args, **kwargs),
    "has_attr": _has_attr,
    "env_is_wrapped": is_wrapped,
    "render": lambda env: env.render(),
}


def work(end: Connection, first: int, env_fns: Sequence[EnvFn | bytes]) -> None:
    """Make the environments, then do what the parent asks until it hangs up.

    :param end: this process's end of the pipe
    :param first: the index of the first environment
    :param env_fns: functions, or their pickles
    """
    # A terminal's Ctrl-C reaches the whole family; the parent decides when it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    envs = Envs(first, env_fns)
    try:
        _answer(end, envs, "make", ())
        while True:
            command, given = pickle.loads(end.recv_bytes())
            _answer(end, envs, command, given)
    except (EOFError, OSError):  # the parent hung up, or is gone
        pass
    finally:
        envs.close()


def _answer(end: Connection, envs: Envs, command: str, given: tuple[Any, ...]) -> None:
    try:
        asked = EACH.get(command)
        answer = envs.each(asked, *given) if asked else getattr(envs, command)(*given)
        message = dumps(answer)
    except _EnvError as error:
        raised = error.__cause__ or error
        message = dumps(Trouble.of(raised, command, envs.indices[error.position]))
    except Exception as error:  # of all together: an answer that cannot be pickled, for one
        message = dumps(Trouble.of(error, command, *envs.indices))
    end.send_bytes(message)
