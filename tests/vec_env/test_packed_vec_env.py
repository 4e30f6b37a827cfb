"""The contract of a VecEnv: what SB3's own do, to the bit."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)

import sb3_ext
from sb3_ext import PackedSubprocVecEnv
from sb3_ext.trees import same, snapshot

BOX = spaces.Box(-1, 1, (3,), np.float32)
OBSERVATIONS = {
    "box": BOX,
    "image": spaces.Box(0, 255, (6, 5, 3), np.uint8),
    "discrete": spaces.Discrete(7),
    "dict": spaces.Dict({"a": BOX, "b": spaces.Discrete(3)}),
    "tuple": spaces.Tuple((BOX, spaces.MultiBinary(4))),
}
ACTIONS = {
    "box": spaces.Box(-2, 2, (2,), np.float32),
    "discrete": spaces.Discrete(4),
    "multi": spaces.MultiDiscrete([2, 5]),
}


class Dice(gym.Env):
    """Observes samples of its space, pays for the action, and ends in both ways."""

    metadata: ClassVar[Any] = {"render_modes": ["rgb_array"]}

    def __init__(self, seen: str = "box", acts: str = "discrete", number: int = 0) -> None:
        self.observation_space = OBSERVATIONS[seen]
        self.action_space = ACTIONS[acts]
        self.number = number
        self.render_mode = "rgb_array"

    def _observe(self) -> Any:
        # Not the space's own generator: DummyVecEnv copies the spaces, workers pickle them.
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample()

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self._observe(), {"options": options, "first": float(self.np_random.normal())}

    def step(self, action: Any) -> Any:
        self.t += 1
        reward = float(np.sum(action) + self.np_random.normal())
        info = {"t": np.float64(self.t)} if self.t % 2 else {}
        return self._observe(), reward, self.np_random.random() < 0.1, self.t >= 9, info

    def render(self) -> Any:
        return np.full((2, 2, 3), self.number, np.uint8)

    def generator(self) -> Any:
        yield self.number

    def whoami(self, *, plus: int = 0) -> int:
        return self.number + plus


def fns(n: int, seen: str = "box", acts: str = "discrete") -> list[Any]:
    return [lambda i=i: Monitor(Dice(seen, acts, i)) for i in range(n)]


@pytest.fixture
def packed():
    env = PackedSubprocVecEnv(fns(5), n_processes=2, start_method="fork")
    yield env
    env.close()


def without_clock(infos: Any) -> Any:
    """Infos but for Monitor's seconds."""
    return [{k: {**v, "t": 0} if k == "episode" else v for k, v in info.items()} for info in infos]


def trajectory(env: Any, steps: int = 30) -> list[Any]:
    """Everything that comes out of it, by known seeds, options and actions."""
    env.seed(7)
    env.set_options([{"hard": i} for i in range(env.num_envs)])
    seen = [env.reset(), list(env.reset_infos)]
    env.action_space.seed(1)
    for _ in range(steps):
        actions = np.stack([env.action_space.sample() for _ in range(env.num_envs)])
        observations, rewards, dones, infos = env.step(actions)
        seen.append([observations, rewards, dones, without_clock(infos), list(env.reset_infos)])
    seen += [env.reset(), list(env.reset_infos)]  # neither seeds nor options are used twice
    env.close()
    return seen


def in_float32(seen: list[Any]) -> list[Any]:
    """Rewards as a DummyVecEnv keeps them."""
    steps = [[x[0], x[1].astype(np.float32), *x[2:]] for x in seen[2:-2]]
    return [*seen[:2], *steps, *seen[-2:]]


@pytest.mark.parametrize(
    ("seen", "acts"),
    [
        ("box", "box"),
        ("image", "multi"),
        ("discrete", "discrete"),
        ("dict", "discrete"),
        ("tuple", "box"),
    ],
)
def test_what_comes_out_is_what_comes_out_of_sb3_s(seen, acts):
    made = fns(5, seen, acts)
    ours = trajectory(PackedSubprocVecEnv(made, n_processes=3, start_method="fork"))
    theirs = trajectory(SubprocVecEnv(made, start_method="fork"))
    assert same(ours, theirs)
    assert same(in_float32(ours), trajectory(DummyVecEnv(made)))
    kinds = [[getattr(value, "dtype", None) for value in step] for step in (ours[5], theirs[5])]
    assert kinds[0] == kinds[1]
    ended = [info for step in ours[2:32] for info in step[3] if "terminal_observation" in info]
    assert {info["TimeLimit.truncated"] for info in ended} == {True, False}


def test_nor_do_the_ways_of_packing_or_starting_matter():
    def ids(**how):
        return trajectory(make_vec_env("CartPole-v1", 5, vec_env_cls=PackedSubprocVecEnv, **how))

    first = ids(vec_env_kwargs={"n_processes": 5, "start_method": "fork"})
    assert same(first, ids(vec_env_kwargs={"n_processes": 1, "start_method": "fork"}))
    assert same(first, ids())
    fork = {"start_method": "fork"}
    theirs = make_vec_env("CartPole-v1", 5, vec_env_cls=SubprocVecEnv, vec_env_kwargs=fork)
    assert same(first, trajectory(theirs))


def test_mujoco_is_the_same_to_the_bit():
    made = [lambda: gym.make("HalfCheetah-v5")] * 3
    ours = trajectory(PackedSubprocVecEnv(made, 2, start_method="fork"))
    assert same(ours, trajectory(SubprocVecEnv(made, start_method="fork")))
    assert type(ours[2][3][0]["x_position"]) is np.float64


@pytest.mark.parametrize(("n_processes", "sizes"), [(1, [5]), (2, [3, 2]), (4, [2, 1, 1, 1])])
def test_environments_are_spread_evenly(n_processes, sizes):
    env = PackedSubprocVecEnv([Pid] * 5, n_processes, start_method="fork")
    pids = env.env_method("pid")
    assert [pids.count(process.pid) for process in env.processes] == sizes
    assert pids == sorted(pids, key=[process.pid for process in env.processes].index)
    env.close()


class Pid(Dice):
    def pid(self) -> int:
        return os.getpid()


def test_a_worker_for_each_core_by_default():
    cores = len(os.sched_getaffinity(0))
    for n_envs in (1, cores + 1):
        env = PackedSubprocVecEnv(fns(n_envs), start_method="fork")
        assert len(env.processes) == min(n_envs, cores)
        env.close()


def test_attributes_and_methods_by_indices(packed):
    assert packed.get_attr("number") == [0, 1, 2, 3, 4]
    assert packed.get_attr("number", indices=[4, 0, 4, -2]) == [4, 0, 4, 3]
    assert packed.env_method("whoami", indices=3, plus=10) == [13]
    packed.set_attr("number", 9, indices=[1, 3])
    # The outermost layer is Monitor, and a wrapper's attribute hides the inner one, as in SB3.
    assert packed.get_attr("number") == [0, 9, 2, 9, 4]
    assert packed.has_attr("number") and not packed.has_attr("nothing")
    assert packed.env_is_wrapped(Monitor, indices=[0, 4]) == [True, True]
    assert packed.env_is_wrapped(gym.wrappers.TimeLimit) == [False] * 5
    with pytest.raises(IndexError):
        packed.get_attr("number", indices=5)


def test_a_missing_attribute_is_an_attribute_error_and_harms_nothing(packed):
    with pytest.raises(AttributeError, match=r"^Environment 3 raised during get_attr: .*nothing"):
        packed.get_attr("nothing", indices=[3])
    with pytest.raises(sb3_ext.errors.EnvironmentFailedError, match="TypeError") as caught:
        packed.env_method("whoami", 1, 2, 3)
    assert isinstance(caught.value.__cause__, TypeError)
    with pytest.raises(sb3_ext.errors.EnvironmentFailedError, match=r"3 to 4 raised .*pickle"):
        packed.env_method("generator", indices=[4])
    assert packed.get_attr("number") == [0, 1, 2, 3, 4]


def test_images_are_tiled(packed):
    assert packed.render_mode == "rgb_array"
    assert [int(image[0, 0, 0]) for image in packed.get_images()] == [0, 1, 2, 3, 4]
    # 5 images on a grid of 3 x 2, the last place empty; each image has 2 x 2 pixels
    assert packed.render()[::2, ::2, 0].tolist() == [[0, 1], [2, 3], [4, 0]]


def test_without_pictures_there_are_none():
    env = PackedSubprocVecEnv([lambda: gym.make("CartPole-v1")] * 2, start_method="fork")
    with pytest.warns(UserWarning, match="needs environments with render_mode 'rgb_array'"):
        assert env.get_images() == [None, None]
    env.close()


def test_no_array_is_used_again_by_a_later_step(packed):
    packed.seed(0)
    kept = [packed.reset()]
    copies = [kept[0].copy()]
    for _ in range(12):
        observations, rewards, dones, infos = packed.step(np.zeros(5, int))
        kept += [observations, rewards, dones, infos[0]]
        copies += [observations.copy(), rewards.copy(), dones.copy(), dict(infos[0])]
        observations[:] = 0
        copies[-4] = observations.copy()  # a user may write into what they got
    assert same(kept, copies)


def test_a_reset_gives_up_the_step_under_way(packed):
    packed.seed(3)
    first = packed.reset()
    packed.step_async(np.zeros(5, int))
    assert packed.waiting
    with pytest.raises(RuntimeError, match="get_attr must wait until step_wait"):
        packed.get_attr("number")
    with pytest.raises(RuntimeError, match="step_async must wait until step_wait"):
        packed.step_async(np.zeros(5, int))
    packed.seed(3)
    assert same(packed.reset(), first)
    with pytest.raises(RuntimeError, match="nothing to wait for"):
        packed.step_wait()
    with pytest.raises(ValueError, match="each of the 5 environments, got 4"):
        packed.step(np.zeros(4, int))


@pytest.mark.parametrize(
    "wrap",
    [VecMonitor, VecNormalize, lambda env: VecFrameStack(env, 2)],
    ids=["monitor", "normalize", "stack"],
)
def test_it_stands_under_sb3_s_wrappers(wrap):
    def made(cls, **given):
        dice = [lambda: Dice("box", "box")] * 3
        return trajectory(wrap(cls(dice, start_method="fork", **given)))

    assert same(made(PackedSubprocVecEnv, n_processes=2), made(SubprocVecEnv))


@pytest.mark.parametrize("cls", [sb3.PPO, sb3_ext.SAC])
def test_training_ends_with_the_same_bits(cls):
    def trained(kind):
        how = {"start_method": "fork"}
        env = make_vec_env("Pendulum-v1", 3, seed=1, vec_env_cls=kind, vec_env_kwargs=how)
        given: Any = {"n_steps": 16, "batch_size": 16} if cls is sb3.PPO else {"learning_starts": 9}
        model = cls("MlpPolicy", env, seed=1, policy_kwargs={"net_arch": [8]}, **given).learn(60)
        told = evaluate_policy(model, env, n_eval_episodes=3)
        env.close()
        return [snapshot(model), told]

    assert same(trained(PackedSubprocVecEnv), trained(SubprocVecEnv))


def test_close_is_idempotent_and_leaves_no_process(packed):
    packed.step_async(np.zeros(5, int))
    processes = packed.processes
    packed.close()
    packed.close()
    assert not any(process.is_alive() for process in processes)
    assert not multiprocessing.active_children()
    with pytest.raises(RuntimeError, match=r"is closed.*make a new one"):
        packed.reset()


class Closing(Dice):
    """Leaves a file when it is closed."""

    def __init__(self, path: Any, number: int) -> None:
        super().__init__(number=number)
        self.path = path

    def close(self) -> None:
        if self.number == 0:
            raise OSError("the first cannot be closed")
        (self.path / str(self.number)).touch()


def test_all_environments_are_closed_even_after_one_that_cannot_be(tmp_path):
    made = [lambda i=i: Closing(tmp_path, i) for i in range(3)]
    PackedSubprocVecEnv(made, 1, start_method="fork").close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


INTERRUPTED = """
import gymnasium as gym, numpy as np, os, signal, time
from sb3_ext.vec_env import PackedSubprocVecEnv
class Slow(gym.Env):
    observation_space = action_space = gym.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None): return 0, {}
    def step(self, action):
        time.sleep(0.5 if action else 0)
        return 0, 0.0, False, False, {}
env = PackedSubprocVecEnv([Slow] * 3, 2, start_method="fork")
env.reset(); env.step(np.zeros(3, int))
signal.signal(signal.SIGINT, signal.default_int_handler)
print(*[process.pid for process in env.processes], flush=True)
{after}
"""
HANDLED = """
try:
    env.step(np.ones(3, int))
except KeyboardInterrupt:
    print("closed" if env.closed else "open", not any(p.is_alive() for p in env.processes))
"""
UNHANDLED = """
while True:
    env.step(np.ones(3, int))
"""
IDLE = """
try:
    time.sleep(60)
except KeyboardInterrupt:
    env.step(np.zeros(3, int)); print("open"); env.close()
"""


@pytest.mark.parametrize(
    ("after", "told"),
    [(HANDLED, "closed True\n"), (UNHANDLED, ""), (IDLE, "open\n")],
    ids=["handled", "unhandled", "idle"],
)
def test_ctrl_c_leaves_no_process(after, told):
    """It reaches the whole group, as in a terminal."""
    parent = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED.replace("{after}", after)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    time.sleep(0.2)
    os.killpg(parent.pid, 2)
    out, err = parent.communicate(timeout=30)
    assert out == told, err
    assert ("KeyboardInterrupt" in err) == (after is UNHANDLED), err
    assert err.count("Traceback") == (after is UNHANDLED)
    assert len(pids) == 2 and not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_workers_end_with_a_parent_that_is_killed():
    code = INTERRUPTED.replace("{after}", "os.kill(os.getpid(), signal.SIGKILL)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    pids = done.stdout.split()
    deadline = time.monotonic() + 10
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < deadline, "a worker has outlived its parent"
        time.sleep(0.02)
    assert len(pids) == 2


def locked() -> Any:
    lock = multiprocessing.Lock()  # of this process alone
    return lambda: lock and Dice()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"env_fns": []}, "env_fns must hold at least one function, got an empty list"),
        ({"env_fns": Dice}, "env_fns must be a list of functions .*, got type"),
        ({"env_fns": [Dice, Dice()]}, "element 1 is Dice, .*write `lambda: gym.make"),
        ({"n_processes": 0}, "from 1 to the number of environments, which is 2, got 0"),
        ({"n_processes": 3}, "which is 2, got 3"),
        ({"n_processes": True}, "got True"),
        ({"n_processes": 1.0}, "got 1.0"),
        ({"on_crash": "retry"}, "on_crash must be 'raise' or 'restart', got 'retry'"),
        ({"start_method": "thread"}, "start_method must be one of .*fork.* here, got 'thread'"),
        (
            {"env_fns": [Dice, locked()], "start_method": "spawn"},
            "'spawn' sends env_fns to other processes, and element 1 cannot be pickled",
        ),
        (
            {"env_fns": [Dice, Dice, lambda: Dice("image")]},
            r"same observation space; environment 2 has Box\(0, 255, .*environment 0 has Box\(-1",
        ),
        ({"env_fns": [Dice, lambda: Dice(acts="box")]}, "same action space; environment 1 has Box"),
    ],
)
def test_what_cannot_be_is_refused_in_words(given, told):
    with pytest.raises(ValueError, match=told):
        PackedSubprocVecEnv(**{"env_fns": [Dice, Dice], "start_method": "fork", **given})
    assert not multiprocessing.active_children()


def test_one_object_twice_is_refused():
    env = Dice()
    with pytest.raises(sb3_ext.errors.EnvironmentFailedError, match="must make a new environment"):
        PackedSubprocVecEnv([lambda: env] * 2, 1, start_method="fork")
