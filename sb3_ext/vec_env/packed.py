"""Several environments in each worker process, where SB3 has a process for each environment."""

from __future__ import annotations

import copy
import multiprocessing
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env.base_vec_env import (
    VecEnv,
    VecEnvIndices,
    VecEnvObs,
    VecEnvStepReturn,
)

from sb3_ext.vec_env.arguments import (
    MAIN_GUARD,
    chosen_start_method,
    pickled,
    require_functions,
    require_same,
    worker_count,
)
from sb3_ext.vec_env.process import PATIENCE, Worker
from sb3_ext.vec_env.rows import joined, put, row
from sb3_ext.vec_env.trouble import Trouble
from sb3_ext.vec_env.worker import EnvFn, Steps

#: How often environments are started again without a completed step.
RESTARTS = 3
REMEDY = "All environments were closed; on_crash='restart' goes on with new ones."


class PackedSubprocVecEnv(VecEnv):
    """Environments in worker processes, several in each.

    SB3's ``SubprocVecEnv`` has a process for each environment, and a message for each environment
    and step. Here a worker steps its environments in turn and answers once, with their observations
    as one array; with more environments than cores, which is usual, that is faster. What comes out
    is what comes out of a ``SubprocVecEnv``, to the bit: seeds, types of arrays, infos, resets.
    (SB3's ``DummyVecEnv`` rounds rewards to float32.) Environments that draw from a process's
    global random generator share it with their neighbours.

    Where an environment raises while it is made, reset or stepped, or where a worker dies, all are
    closed and the call raises. With ``on_crash="restart"`` training goes on instead: what raised in
    a step is made anew in its worker, a dead worker is started anew with all of its environments,
    and a warning says what happened. Their episodes end *as truncations*: ``done`` is True,
    ``infos[i]["TimeLimit.truncated"]`` is True, the reward is 0, and
    ``infos[i]["terminal_observation"]`` is the last observation that was seen. A crash says nothing
    about the task, so what would have followed must come from the value function, and that is the
    one observation to ask it about; a termination would teach that the state is worth nothing. A
    ``Monitor`` in the worker loses the episode. As after any end, what is returned is the first
    observation of the next one, whose seed is made from the last that ``seed`` gave to this
    environment and the number of its restarts; without the former there is none. What was started
    anew three times and never completed a step raises. ``reset`` starts anew, too; other methods
    raise, and the next of these two starts anew.

    Ctrl-C is the parent's affair: workers ignore it, so that environments can still be asked for
    their state. A parent that is interrupted while it waits for an answer closes all.

    :param env_fns: functions, each makes one environment; all with the same spaces
    :param n_processes: workers, at most as many as environments; each has ``n_envs / n_processes``
        of them, some one more. By default one for each core that this process may use
    :param start_method: of ``multiprocessing``; as in SB3, ``"forkserver"`` where there is one and
        ``"spawn"`` elsewhere. With these two, the script needs ``if __name__ == "__main__":``
    :param on_crash: ``"raise"`` or ``"restart"``
    :raises ValueError: for arguments that cannot be, and for environments with different spaces
    :raises EnvironmentFailedError: if an environment raised; ``__cause__`` is its exception
    :raises WorkerDiedError: if a worker is gone
    """

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gym.Env[Any, Any]]],
        n_processes: int | None = None,
        start_method: str | None = None,
        on_crash: str = "raise",
    ) -> None:
        require_functions(env_fns)
        n_processes = worker_count(n_processes, len(env_fns))
        method = chosen_start_method(start_method)
        if on_crash not in ("raise", "restart"):
            raise ValueError(f"on_crash must be 'raise' or 'restart', got {on_crash!r}")
        self.on_crash = on_crash
        self.closed = False
        self._workers: list[Worker] = []
        # As pickles each has objects of its own, as in SB3; a fork takes what cannot be pickled.
        fns: list[EnvFn | bytes] = list(env_fns)
        if method != "fork":
            fns = [pickled(i, fn, method) for i, fn in enumerate(env_fns)]
        context = multiprocessing.get_context(method)
        try:
            for part in np.array_split(np.arange(len(fns)), n_processes):
                first, count = int(part[0]), len(part)
                self._workers.append(Worker(context, first, fns[first : first + count]))
            answers = self._answers(self._workers)
            for answer in answers:
                if isinstance(answer, Trouble):
                    self._fail(answer, MAIN_GUARD if answer.dead and method != "fork" else "")
            spaces = [one for answer in answers for one in answer]
            require_same(spaces)
            super().__init__(len(fns), *spaces[0])
        except BaseException:
            self.close()
            raise
        self._last_seeds: list[int | None] = [None] * self.num_envs
        self._restarts = [0] * self.num_envs
        self._attempts: dict[int, int] = {}  # restarts since the last completed step
        self._seen: Any = None  # a copy of the last observations, if they may be needed

    @property
    def processes(self) -> list[Any]:
        """The worker processes, as ``multiprocessing`` has them."""
        return [worker.process for worker in self._workers]

    @property
    def waiting(self) -> bool:
        """Whether an answer is awaited: ``step_async`` was called, ``step_wait`` was not."""
        return any(worker.busy for worker in self._workers)

    def reset(self) -> VecEnvObs:
        """Reset all environments, with the seeds and options that wait for it.

        :return: observations ``[n_envs, ...]``, or a dict or tuple of such
        """
        self._require_open()
        # SB3's contract: a step under way is given up.
        self._answers([worker for worker in self._workers if worker.busy])
        for i, seed in enumerate(self._seeds):
            self._last_seeds[i] = self._last_seeds[i] if seed is None else seed
        for worker in self._workers:
            self._ask_reset(worker)
        parts, self.reset_infos = [], []
        for worker, answer in zip(self._workers, self._answers(self._workers), strict=True):
            while isinstance(answer, Trouble):
                self._started_again(worker, [answer])
                self._ask_reset(worker)
                (answer,) = self._answers([worker])
            parts.append(answer[0])
            self.reset_infos += answer[1]
        self._reset_seeds()
        self._reset_options()
        return self._noted(joined(parts))

    def step_async(self, actions: np.ndarray) -> None:
        """Send the actions.

        :param actions: one for each environment, ``[n_envs, ...]``
        """
        self._require_open()
        self._require_idle("step_async")
        if len(actions) != self.num_envs:
            raise ValueError(
                f"a step needs an action for each of the {self.num_envs} environments, got "
                f"{len(actions)}"
            )
        for worker in self._workers:
            worker.ask("step", actions[worker.envs.start : worker.envs.stop])

    def step_wait(self) -> VecEnvStepReturn:
        """Wait for what the actions did. No array is used again by a later step.

        :return: observations ``[n_envs, ...]``, rewards ``[n_envs]``, dones ``[n_envs]``, infos
        """
        self._require_open()
        if not self.waiting:
            raise RuntimeError("step_wait has nothing to wait for; call step_async before it")
        answers = self._answers(self._workers)
        parts, infos = [], []
        for worker, answer in zip(self._workers, answers, strict=True):
            part = self._recovered(worker, answer)
            for i, truncated in enumerate(part.truncated):
                info = part.infos.get(i) or {}
                info["TimeLimit.truncated"] = truncated
                infos.append(info)
            for i, info in part.reset_infos.items():
                self.reset_infos[worker.first + i] = info
            parts.append(part)
        rewards = np.array([reward for part in parts for reward in part.rewards])
        dones = np.array([done for part in parts for done in part.dones])
        return self._noted(joined([part.observations for part in parts])), rewards, dones, infos

    def close(self) -> None:
        """Close the environments and end their processes; a second call does nothing.

        Workers have ten seconds to finish what they do and to close theirs, then they are ended.
        """
        if self.closed:
            return
        self.closed = True
        try:
            for worker in self._workers:
                worker.hang_up()
            deadline = time.monotonic() + PATIENCE
            for worker in self._workers:
                worker.end(max(0.0, deadline - time.monotonic()))
        except BaseException:  # a second Ctrl-C
            for worker in self._workers:
                worker.end(0.0)
            raise

    def get_images(self) -> Sequence[np.ndarray | None]:
        """What ``render`` returns in each environment; None where they do not draw arrays."""
        if self.render_mode != "rgb_array":
            warnings.warn(
                f"get_images needs environments with render_mode 'rgb_array', and theirs is "
                f"{self.render_mode!r}",
                stacklevel=2,
            )
            return [None] * self.num_envs
        return self._each("render", None)

    def has_attr(self, attr_name: str) -> bool:
        """Whether all environments have it."""
        return all(self._each("has_attr", None, attr_name))

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of each of these environments, from the outermost layer that has it.

        :raises AttributeError: if one has none
        """
        return self._each("get_attr", indices, attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the outermost layer of each of these environments."""
        self._each("set_attr", indices, attr_name, value)

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Call a method of each of these environments.

        :return: what they returned, in the order of the indices
        """
        return self._each("env_method", indices, method_name, method_args, method_kwargs)

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Whether each of these environments has a wrapper of this class."""
        return self._each("env_is_wrapped", indices, wrapper_class)

    def _each(self, what: str, indices: VecEnvIndices, *given: Any) -> list[Any]:
        self._require_open()
        self._require_idle(what)
        wanted = [range(self.num_envs)[i] for i in self._get_indices(indices)]
        asked = []
        for worker in self._workers:
            which = [i - worker.first for i in wanted if i in worker.envs]
            if which:
                worker.ask(what, which, *given)
                asked.append(worker)
        answers = self._answers(asked)
        for answer in answers:
            if isinstance(answer, Trouble):
                if answer.dead and self.on_crash == "raise":
                    self._fail(answer, REMEDY)
                raise answer.error("")
        found = [(worker.envs, iter(answer)) for worker, answer in zip(asked, answers, strict=True)]
        return [next(values) for i in wanted for envs, values in found if i in envs]

    def _answers(self, workers: Iterable[Worker]) -> list[Any]:
        try:
            return [worker.answer() for worker in workers]
        except BaseException:  # Ctrl-C, perhaps in the midst of a message: the rest is lost
            self.close()
            raise

    def _ask_reset(self, worker: Worker) -> None:
        part = slice(worker.envs.start, worker.envs.stop)
        which = list(range(worker.count))
        worker.ask("reset", which, self._seeds[part], self._options[part], False)

    def _recovered(self, worker: Worker, answer: Steps | Trouble) -> Steps:
        """The answer to a step; where there is none, an episode's end by truncation."""
        troubles = [answer] if isinstance(answer, Trouble) else list(answer.troubles)
        if self._attempts:
            troubled = {i for trouble in troubles for i in trouble.envs}
            for i in set(worker.envs) - troubled:
                self._attempts.pop(i, None)
        if not troubles:
            return answer  # type: ignore[return-value]
        if self._seen is None and self.on_crash == "restart":
            self._fail(troubles[0], "Environments must be reset before the first step.")
        which, observations, reset_infos = self._started_again(worker, troubles)
        if isinstance(answer, Trouble) or len(which) == worker.count:
            n = worker.count
            answer = Steps(observations, [0.0] * n, [True] * n, [True] * n, {}, {})
        else:
            put(answer.observations, which, observations)
        for i, reset_info in zip(which, reset_infos, strict=True):
            answer.rewards[i], answer.dones[i], answer.truncated[i] = 0.0, True, True
            answer.infos[i] = {"terminal_observation": row(self._seen, worker.first + i)}
            answer.reset_infos[i] = reset_info
        return answer

    def _started_again(
        self, worker: Worker, troubles: Sequence[Trouble]
    ) -> tuple[list[int], Any, list[dict[str, Any]]]:
        """New environments in the place of those in trouble, and of all if their worker is dead.

        :return: their positions in the worker, observations ``[n, ...]`` and reset infos
        """
        which: set[int] = set()
        while True:
            everyone = range(worker.count)
            which |= {i - worker.first for trouble in troubles for i in trouble.envs}
            which = set(everyone) if worker.dead else which
            self._count_restart(worker, which, troubles)
            if worker.dead:
                worker.start()
                (answer,) = self._answers([worker])
                if isinstance(answer, Trouble):
                    worker.end(PATIENCE)
                    troubles = [answer]
                    continue
                anew = False
            else:
                anew = True
            chosen = sorted(which)
            seeds = [self._fresh_seed(worker.first + i) for i in chosen]
            worker.ask("reset", chosen, seeds, [{}] * len(chosen), anew)
            (answer,) = self._answers([worker])
            if not isinstance(answer, Trouble):
                return chosen, *answer
            troubles = [answer]

    def _count_restart(
        self, worker: Worker, which: Iterable[int], troubles: Sequence[Trouble]
    ) -> None:
        """Warn, or raise if it was tried too often or not asked for."""
        if self.on_crash == "raise":
            self._fail(troubles[0], REMEDY)
        for i in which:
            env = worker.first + i
            self._restarts[env] += 1
            self._attempts[env] = self._attempts.get(env, 0) + 1
            if self._attempts[env] > RESTARTS:
                self._fail(
                    troubles[0],
                    f"It was started again {RESTARTS} times without one completed step, and all "
                    "environments were closed.",
                )
        # With the number, for Python shows equal warnings once.
        number = max(self._restarts[worker.first + i] for i in which)
        for trouble in troubles:
            warnings.warn(
                f"{trouble.words()}. What was lost is made anew (restart {number}), and its "
                f"episodes end as truncations.\n{trouble.trace}",
                stacklevel=5,
            )

    def _fresh_seed(self, env: int) -> int | None:
        given = self._last_seeds[env]
        if given is None:
            return None
        return int(np.random.SeedSequence([given, self._restarts[env]]).generate_state(1)[0])

    def _noted(self, observations: Any) -> VecEnvObs:
        if self.on_crash == "restart":
            self._seen = copy.deepcopy(observations)
        return observations  # type: ignore[no-any-return]

    def _fail(self, trouble: Trouble, remedy: str) -> NoReturn:
        self.close()
        raise trouble.error(remedy)

    def _require_open(self) -> None:
        if self.closed:
            raise RuntimeError(
                "this PackedSubprocVecEnv is closed, by close() or since something failed before; "
                "make a new one"
            )

    def _require_idle(self, what: str) -> None:
        if self.waiting:
            raise RuntimeError(
                f"{what} must wait until step_wait has fetched what step_async began"
            )
