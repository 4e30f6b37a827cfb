"""Environments that raise and workers that die: in words, or as truncated episodes."""

from __future__ import annotations

import multiprocessing.connection
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
from gymnasium import spaces

from sb3_ext.errors import EnvironmentFailedError, WorkerDiedError
from sb3_ext.trees import same
from sb3_ext.vec_env import PackedSubprocVecEnv

ANEW = "What was lost is made anew"
GO, RAISE, EXIT, KILL, LEAVE, STRANGE = range(6)


class HandMadeError(Exception):
    """Can be written as a pickle and not read."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class Fragile(gym.Env):
    """Counts its steps from a start that its seed draws; breaks on demand."""

    action_space = spaces.Discrete(6)

    def __init__(self, breaks: str = "", number: int = 0, kind: str = "box") -> None:
        box = spaces.Box(-np.inf, np.inf, (1,), np.float64)
        self.kind = kind
        self.observation_space = {
            "box": box,
            "dict": spaces.Dict({"a": box, "b": box}),
            "tuple": spaces.Tuple((box, box)),
        }[kind]
        self.breaks, self.number, self.resets = breaks, number, 0
        if breaks == "make":
            raise RuntimeError(f"number {number} cannot be made")

    def _observe(self) -> Any:
        seen = np.array([self.count])
        return {"box": seen, "dict": {"a": seen, "b": -seen}, "tuple": (seen, -seen)}[self.kind]

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.resets += 1
        if self.breaks == f"reset {self.resets}":
            raise RuntimeError("no reset")
        self.count = self.np_random.integers(1000) + 0.5 if seed is not None else 0.0
        return self._observe(), {"seed": seed}

    def step(self, action: Any) -> Any:
        if action == RAISE:
            raise ValueError("it is broken")
        if action == STRANGE:
            raise HandMadeError(1, 2)
        if action == EXIT:
            os._exit(3)
        if action == LEAVE:
            sys.exit("enough")
        if action == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1
        done = self.breaks == "reset 2" and self.count % 1 == 0.5 and self.resets == 1
        return self._observe(), 1.0, done, False, {}


def made(n: int = 5, on_crash: str = "raise", n_processes: int = 2, **given: Any) -> Any:
    fns = [lambda i=i: Fragile(number=i, **given) for i in range(n)]
    env = PackedSubprocVecEnv(fns, n_processes, start_method="fork", on_crash=on_crash)
    env.seed(4)
    env.reset()
    return env


def actions(**by_env: int) -> np.ndarray:
    given = np.zeros(5, int)
    for name, action in by_env.items():
        given[int(name[1:])] = action
    return given


def require_gone(env: PackedSubprocVecEnv) -> None:
    assert env.closed and not env.waiting
    assert not multiprocessing.active_children()
    env.close()
    with pytest.raises(RuntimeError, match="is closed"):
        env.step(actions())


def test_what_an_environment_raises_is_told_with_its_index_and_traceback():
    env = made()
    with pytest.raises(EnvironmentFailedError) as caught:
        env.step(actions(e3=RAISE))
    told = str(caught.value)
    assert told.startswith("Environment 3 raised during step: ValueError: it is broken. ")
    assert "All environments were closed; on_crash='restart' goes on" in told
    assert 'raise ValueError("it is broken")' in told and "test_crashes.py" in told
    assert isinstance(caught.value.__cause__, ValueError)
    require_gone(env)


def test_an_exception_that_cannot_be_sent_is_told_without_a_cause():
    env = made()
    with pytest.raises(EnvironmentFailedError, match="HandMadeError: 1 and 2") as caught:
        env.step(actions(e0=STRANGE))
    assert caught.value.__cause__ is None
    require_gone(env)


def test_sys_exit_in_an_environment_is_an_exception_of_it():
    env = made()
    with pytest.raises(EnvironmentFailedError, match=r"Environment 4 raised .*SystemExit: enough"):
        env.step(actions(e4=LEAVE))
    require_gone(env)


@pytest.mark.parametrize(
    ("breaks", "doing"), [("make", "make"), ("reset 1", "reset"), ("reset 2", "reset")]
)
def test_what_it_was_doing_is_told(breaks, doing):
    def run() -> None:
        fns = [Fragile, Fragile, lambda: Fragile(breaks)]
        env = PackedSubprocVecEnv(fns, 2, start_method="fork")
        env.seed(0)
        env.reset()
        env.step(np.zeros(3, int))

    with pytest.raises(EnvironmentFailedError, match=f"^Environment 2 raised during {doing}: Runt"):
        run()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("how", "told"),
    [(EXIT, "it ended with exit code 3"), (KILL, "it was ended by SIGKILL (which the system")],
)
def test_a_dead_worker_is_told_with_its_environments_and_how_it_ended(how, told):
    env = made()
    with pytest.raises(WorkerDiedError) as caught:
        env.step(actions(e1=how))
    words = "The worker process of environments 0 to 2 died during step: "
    assert str(caught.value).startswith(words + told)
    require_gone(env)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_one_that_dies_between_two_calls_is_told_at_the_next(method):
    env = PackedSubprocVecEnv([lambda: gym.make("CartPole-v1")] * 3, 2, start_method=method)
    env.reset()
    os.kill(env.processes[1].pid, signal.SIGTERM)
    multiprocessing.connection.wait([env.processes[1].sentinel], 10)
    with pytest.raises(WorkerDiedError, match=r"process of environment 2 died .*by SIGTERM"):
        env.get_attr("render_mode")
    require_gone(env)


def test_a_script_without_a_main_guard_gets_the_hint(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import gymnasium as gym\n"
        "from sb3_ext.vec_env import PackedSubprocVecEnv\n"
        "PackedSubprocVecEnv([lambda: gym.make('CartPole-v1')], start_method='spawn')\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert "WorkerDiedError: The worker process of environment 0 died during make" in done.stderr
    assert "must stand under `if __name__ == '__main__':`" in done.stderr


@pytest.mark.parametrize("kind", ["box", "dict", "tuple"])
@pytest.mark.parametrize("how", [RAISE, EXIT])
def test_a_restart_ends_episodes_as_truncations(how, kind):
    env = made(on_crash="restart", kind=kind)
    before = env.step(actions())[0]
    before = before[0] if kind == "tuple" else before["a"] if kind == "dict" else before
    with pytest.warns(UserWarning, match=r"during step: .* its episodes end as truncations"):
        observations, rewards, dones, infos = env.step(actions(e1=how))
    # The others of its worker (0 to 2) are lost with the process, and not by an exception.
    lost = [False, True, False, False, False] if how == RAISE else [True, True, True, False, False]
    assert dones.tolist() == lost
    assert rewards.tolist() == [float(not one) for one in lost]
    assert [info["TimeLimit.truncated"] for info in infos] == lost
    for i, info in enumerate(infos):
        assert ("terminal_observation" in info) == lost[i]
        if lost[i]:
            first = info["terminal_observation"]
            first = first[0] if kind == "tuple" else first["a"] if kind == "dict" else first
            assert first == before[i]
    # The new episodes begin where the documented seeds say, and the others have gone on.
    seen = observations[0] if kind == "tuple" else observations
    seen = observations["a"] if kind == "dict" else seen
    for i in range(5):
        seed = int(np.random.SeedSequence([4 + i, 1]).generate_state(1)[0])
        fresh = np.random.Generator(np.random.PCG64(seed)).integers(1000) + 0.5
        assert seen[i] == (fresh if lost[i] else before[i] + 1)
        assert env.reset_infos[i] == {"seed": seed if lost[i] else 4 + i}
    again = env.step(actions())
    assert not again[2].any() and again[1].tolist() == [1.0] * 5
    assert env.get_attr("number") == [0, 1, 2, 3, 4]
    env.close()
    assert not multiprocessing.active_children()


def test_restarts_are_deterministic():
    def run() -> list[Any]:
        env, seen = made(on_crash="restart"), []
        for how in (RAISE, EXIT, GO, RAISE, KILL):
            seen += [env.step(actions(e0=how, e4=how))[:3], env.step(actions())[:3]]
        env.close()
        return seen

    with pytest.warns(UserWarning, match=ANEW):
        assert same(run(), run())


def test_two_environments_of_one_worker_may_fail_in_one_step():
    env = made(on_crash="restart")
    with pytest.warns(UserWarning, match=ANEW) as told:
        _, _, dones, _ = env.step(actions(e0=RAISE, e2=LEAVE))
    assert dones.tolist() == [True, False, True, False, False]
    assert [str(one.message)[:13] for one in told] == ["environment 0", "environment 2"]
    env.close()


@pytest.mark.parametrize("how", [RAISE, EXIT])
def test_who_fails_again_and_again_ends_the_run(how):
    env = made(on_crash="restart")

    def often(again: int, *between: int) -> None:
        for _ in range(again):
            for one in (how, *between):
                env.step(actions(e1=one))

    with pytest.warns(UserWarning, match=ANEW):
        often(5, GO)  # with steps between them there is no limit
    with pytest.warns(UserWarning, match=ANEW):
        often(3)
    with pytest.raises((EnvironmentFailedError, WorkerDiedError), match="started again 3 tim"):
        env.step(actions(e1=how))
    require_gone(env)


def test_what_cannot_be_made_again_ends_the_run_too(tmp_path: Path):
    class Once(Fragile):
        def __init__(self) -> None:
            super().__init__()
            (tmp_path / "made").touch(exist_ok=False)

    env = PackedSubprocVecEnv([Once], start_method="fork", on_crash="restart")
    env.reset()
    with (
        pytest.warns(UserWarning, match=ANEW),
        pytest.raises(EnvironmentFailedError, match="raised during make: FileExistsError"),
    ):
        env.step(np.array([EXIT]))
    require_gone(env)


def test_a_worker_that_dies_while_idle_is_started_again_by_reset_and_step():
    env = made(on_crash="restart")
    for call in (env.reset, lambda: env.step(actions())):
        env.processes[0].kill()
        env.processes[0].join()
        with pytest.raises(WorkerDiedError, match="environments 0 to 2 died during get_attr"):
            env.get_attr("number")
        with pytest.warns(UserWarning, match="ended by SIGKILL"):
            call()
        assert env.get_attr("number") == [0, 1, 2, 3, 4]
    env.close()


def test_a_restarted_reset_gives_the_episodes_that_were_asked_for():
    env, whole = made(on_crash="restart"), made()
    env.processes[1].kill()
    for one in (env, whole):
        one.seed(11)
    with pytest.warns(UserWarning, match=ANEW):
        assert same(env.reset(), whole.reset())
    env.close()
    whole.close()


def test_a_step_before_the_first_reset_is_no_crash_to_recover_from():
    env = PackedSubprocVecEnv(
        [lambda: gym.make("CartPole-v1")], start_method="fork", on_crash="restart"
    )
    with pytest.raises(EnvironmentFailedError, match=r"ResetNeeded.*must be reset before the fi"):
        env.step(np.zeros(1, int))
    require_gone(env)


class Unlucky(Fragile):
    """Its process dies now and then."""

    def step(self, action: Any) -> Any:
        if self.number == 1 and self.count % 20 == 19.5:
            os._exit(1)
        return super().step(GO)


def test_training_goes_on():
    fns = [lambda i=i: Unlucky(number=i) for i in range(4)]
    env = PackedSubprocVecEnv(fns, 2, start_method="fork", on_crash="restart")
    env.seed(1)
    model = sb3.A2C("MlpPolicy", env, seed=1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model.learn(400)
    assert sum("died during step" in str(one.message) for one in told) >= 2
    assert model.num_timesteps == 400
    env.close()
