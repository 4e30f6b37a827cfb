"""State that several parts of a run hold, and values of the user's own classes."""

import contextlib
import enum
import subprocess
import sys
import warnings
from typing import Any, NamedTuple

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from sb3_ext.errors import CheckpointError
from sb3_ext.resume import ResumableCheckpoint, ResumableEnv
from sb3_ext.resume.decoder import Decoder
from sb3_ext.resume.encoder import Encoder
from sb3_ext.resume.episodes import Episode
from sb3_ext.resume.store import lock_folder, unlock_folder
from sb3_ext.resume.tree import StateMismatchError
from sb3_ext.trees import same
from sb3_ext.vec_env import PackedSubprocVecEnv
from tests.cut_runs import CutError, Recorder, cut_and_resume, require_same
from tests.environments import Drift


class Wood(enum.Enum):
    OAK = 1
    ELM = 2


class Place(NamedTuple):
    x: int
    y: int


class Carrying(Drift):
    """Keeps an inventory by enum, and tells how an episode ended by one."""

    def __init__(self) -> None:
        super().__init__()
        self.inventory: dict[Any, int] = {}
        self.seen: set[Any] = set()
        self.places: list[Place] = []

    def step(self, action: np.ndarray) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        self.inventory[Wood.ELM] = self.inventory.get(Wood.ELM, 0) + 1
        self.seen |= {frozenset({Wood.OAK}), Wood.ELM}
        self.places.append(Place(self.t, 2))
        reward += 0.01 * self.inventory[Wood.ELM] + len(self.seen) + self.places[-1].x
        return observation, reward, terminated, truncated, {**info, "end": Wood.OAK}


class Simulator:
    """Hides its state in an iterator."""

    def __init__(self) -> None:
        self.numbers = iter(np.linspace(0, 1, 1000).tolist())


class Simulated(Drift):
    def __init__(self) -> None:
        super().__init__()
        self.simulator = Simulator()

    def reset(self, **kwargs: Any) -> Any:
        self.simulator = Simulator()
        return super().reset(**kwargs)

    def step(self, action: np.ndarray) -> Any:
        return super().step(action + np.float32(next(self.simulator.numbers)))


class SameArray(Simulated):
    """Returns the very array that it keeps."""

    def step(self, action: np.ndarray) -> Any:
        observation, *rest = super().step(action)
        self.state = np.array(observation)
        return self.state, *rest


class Holding(BaseCallback):
    """Holds what it is given."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.held = held

    def _on_step(self) -> bool:
        return True


def ppo(env: Any) -> Any:
    return sb3.PPO("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=1, seed=3)


def carrying() -> Any:
    return ppo(DummyVecEnv([lambda: Monitor(Carrying(), info_keywords=("end",))]))


def test_enums_named_tuples_and_frozensets_come_back(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        require_same(*cut_and_resume(carrying, tmp_path, total=160, cut=120, every=32))


@pytest.mark.parametrize(
    "value",
    [
        {Wood.OAK: 1, Wood.ELM: [Wood.OAK]},
        {Wood.OAK},
        {frozenset({Place(1, 2)}): Place(3, 4)},
        frozenset({1, 2}),
        [Place(1, 2)],
    ],
)
def test_they_need_nothing_of_their_kind_at_the_reader_s(value):
    encoder = Encoder()
    node = encoder.encode(value, "value")
    found = Decoder(dict(enumerate(encoder.arrays))).restore(node, None)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("name", ["os:system", "subprocess:Popen", "builtins:dict", "no:Where"])
def test_no_other_class_is_taken_from_a_file(name):
    for node in ({"enum": "OAK", "class": name}, {"tuple": [1], "class": name}):
        with pytest.raises(StateMismatchError, match="was saved"):
            Decoder({}).restore(node, None)


def learn(model: Any, tmp_path: Any, total: int, *others: BaseCallback, cut: Any = None) -> Any:
    checkpoint = ResumableCheckpoint(tmp_path, every=32)
    with contextlib.suppress(CutError):
        model.learn(total, callback=[Recorder(cut), *others, checkpoint])
    return checkpoint


def test_a_callback_that_holds_the_environment_hides_nothing_of_it(tmp_path):
    """Met first in the callback, the simulator was thought to be readable in the environment."""
    for cut in (70, None):
        model = ppo(DummyVecEnv([lambda: Monitor(Simulated())]))
        holding = Holding([model.get_env(), model.get_env().envs[0].unwrapped.simulator])
        if cut:
            learn(model, tmp_path, 128, holding, cut=cut)
            continue
        with pytest.warns(UserWarning, match=r"with new episodes, since .*list_iterator"):
            learn(model, tmp_path, 128, holding)


def test_a_callback_that_held_the_environment_may_be_left_out(tmp_path):
    def make() -> Any:
        return ppo(VecNormalize(DummyVecEnv([lambda: Monitor(Drift())])))

    model = make()
    learn(model, tmp_path, 160, Holding(model.get_env()), cut=120)
    again = make()
    with pytest.warns(UserWarning, match="without its callbacks Holding"):
        assert learn(again, tmp_path, 160).resumed_from == 96
    whole = make()
    learn(whole, tmp_path / "whole", 160)
    assert np.array_equal(whole.get_env().obs_rms.mean, again.get_env().obs_rms.mean)


def test_an_episode_is_played_again_where_the_environment_keeps_what_it_returns(tmp_path):
    def make() -> Any:
        return ppo(DummyVecEnv([lambda: ResumableEnv(Monitor(SameArray()))]))

    with pytest.warns(UserWarning, match="played again from their beginnings"):
        require_same(*cut_and_resume(make, tmp_path, total=160, cut=120, every=32))


@pytest.mark.parametrize(
    "actions",
    [[np.ones(2, np.float32) * k for k in range(500)], [np.int64(k) for k in range(500)]],
)
def test_a_long_episode_s_actions_are_one_array(actions):
    episode = Episode()
    episode.begin(Drift(), None, None)
    for action in actions:
        episode.act(action)
    encoder = Encoder()
    node = encoder.encode(episode.record(), "episode")
    assert len(encoder.arrays) < 5
    found = Decoder(dict(enumerate(encoder.arrays))).restore(node, None)["actions"]
    assert [type(one) for one in found] == [type(one) for one in actions]
    assert np.array_equal(np.stack(list(found)), np.stack(actions))


def test_a_finished_run_is_not_begun_again_under_a_progress_bar(tmp_path, capsys):
    for _ in range(2):
        model = ppo(DummyVecEnv([lambda: Monitor(Drift())]))
        model.learn(64, callback=ResumableCheckpoint(tmp_path, every=32), progress_bar=True)
    assert "nothing to train" in capsys.readouterr().out
    assert model.num_timesteps == 64


def test_workers_that_are_gone_are_no_full_disk(tmp_path, monkeypatch):
    model = ppo(DummyVecEnv([lambda: Monitor(Drift())]))
    checkpoint = ResumableCheckpoint(tmp_path, every=32)

    def gone(*args: Any) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("sb3_ext.resume.callback.capture", gone)
    with pytest.raises(CheckpointError, match="environments' processes have ended"):
        model.learn(64, callback=checkpoint)
    unlock_folder(tmp_path)


def test_a_forked_child_does_not_keep_the_folder(tmp_path):
    """The child outlives its parent here; whoever comes next may train."""
    code = (
        "import os, sys, time; from pathlib import Path\n"
        "from sb3_ext.resume.store import lock_folder\n"
        "lock_folder(Path(sys.argv[1]))\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os.close(1); os.close(2); time.sleep(20); os._exit(0)\n"
        "print(child, flush=True)\n"
        "time.sleep(1); os._exit(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    try:
        lock_folder(tmp_path)
    finally:
        unlock_folder(tmp_path)
        subprocess.run(["kill", done.stdout.strip()], check=True)


def test_what_a_stranger_s_attribute_does_becomes_a_sentence():
    class Refusing:
        held = 0

    node = {"held": {"scalar": 7}}
    with pytest.raises(StateMismatchError, match=r"Refusing.held cannot be put back \(KeyError"):
        Decoder({}).set_attributes(node, Refusing())


class Counting(Drift):
    """Its episodes and its time have the names of things on a screen."""

    def __init__(self) -> None:
        super().__init__()
        self.episode, self.clock = 0, 0.0

    def reset(self, **kwargs: Any) -> Any:
        self.episode += 1
        return super().reset(**kwargs)

    def step(self, action: np.ndarray) -> Any:
        self.clock += 0.25
        observation, reward, *rest = super().step(action)
        return observation, reward + self.episode + np.sin(self.clock), *rest


@pytest.mark.parametrize("vec", [DummyVecEnv, SubprocVecEnv, PackedSubprocVecEnv])
def test_an_episode_counter_and_a_simulated_clock_are_state(tmp_path, vec):
    def make() -> Any:
        workers = {} if vec is DummyVecEnv else {"start_method": "fork"}
        return ppo(vec([lambda: ResumableEnv(Monitor(Counting()))], **workers))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        require_same(*cut_and_resume(make, tmp_path, total=160, cut=120, every=32))


@pytest.mark.parametrize("vec", [SubprocVecEnv, PackedSubprocVecEnv])
def test_a_wrapper_outside_of_ours_in_a_worker_is_not_lost_in_silence(tmp_path, vec):
    def make() -> Any:
        return ppo(vec([lambda: Monitor(ResumableEnv(Counting()))], start_method="fork"))

    learn(make(), tmp_path, 160, cut=120)
    with pytest.warns(UserWarning, match=r"wrap each in sb3_ext.resume.ResumableEnv, outermost"):
        learn(make(), tmp_path, 160)


class Best(BaseCallback):
    """Reaches its best early."""

    def __init__(self) -> None:
        super().__init__()
        self.best = -np.inf

    def _on_step(self) -> bool:
        self.best = max(self.best, -abs(self.num_timesteps - 40.0))
        return True


def test_what_an_earlier_learn_of_the_same_objects_reached_is_kept(tmp_path):
    """A notebook's cell, run again: the best is what it was at the start of that learn, too."""
    model, best = ppo(DummyVecEnv([lambda: Monitor(Drift())])), Best()
    learn(model, tmp_path, 160, best, cut=100)
    assert best.best == 0
    learn(model, tmp_path, 160, best, cut=140)
    again = Best()
    seen: list[float] = []

    class Look(BaseCallback):
        resumed_attributes = frozenset[str]()

        def _on_rollout_end(self) -> None:
            seen.append(again.best)

        def _on_step(self) -> bool:
            return True

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learn(ppo(DummyVecEnv([lambda: Monitor(Drift())])), tmp_path, 160, again, Look())
    assert seen == [0.0]


def test_a_stop_that_is_asked_for_during_set_up_counts(tmp_path):
    checkpoint = ResumableCheckpoint(tmp_path, every=32)
    checkpoint.request_stop()
    model = ppo(DummyVecEnv([lambda: Monitor(Drift())]))
    model.learn(320, callback=checkpoint)
    assert checkpoint.stopped
    assert model.num_timesteps < 64
    model = ppo(DummyVecEnv([lambda: Monitor(Drift())]))
    model.learn(96, callback=checkpoint)
    assert not checkpoint.stopped
    assert model.num_timesteps == 96


def test_where_all_checkpoints_are_damaged_nothing_is_begun_or_dropped(tmp_path):
    model = ppo(DummyVecEnv([lambda: Monitor(Drift())]))
    learn(model, tmp_path, 160)
    files = sorted(tmp_path.glob("checkpoints/*/model.zip"))
    for path in files:
        path.write_bytes(path.read_bytes() + b"x")
    with (
        pytest.warns(UserWarning, match="passed over"),
        pytest.raises(CheckpointError, match=r"none of the 2 checkpoints in .* is whole"),
    ):
        learn(ppo(DummyVecEnv([lambda: Monitor(Drift())])), tmp_path, 160)
    assert sorted(tmp_path.glob("checkpoints/*/model.zip")) == files


def test_a_damaged_one_is_not_among_those_that_are_kept(tmp_path):
    learn(ppo(DummyVecEnv([lambda: Monitor(Drift())])), tmp_path, 160)
    damaged = max(tmp_path.glob("checkpoints/step-*"))
    (damaged / "model.zip").write_bytes(b"")
    with pytest.warns(UserWarning, match="passed over"):
        learn(ppo(DummyVecEnv([lambda: Monitor(Drift())])), tmp_path, 320)
    names = sorted(path.name for path in tmp_path.glob("checkpoints/step-*"))
    assert names == ["step-000000288", "step-000000320"]


class WithFeatures(sb3.PPO):
    """Holds a network and an optimiser that its zip leaves out."""

    def _setup_model(self) -> None:
        super()._setup_model()
        self.features = th.nn.Linear(2, 2)
        self.stepper = th.optim.Adam(self.policy.parameters(), lr=0.1)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "features", "stepper"]

    def train(self) -> None:
        super().train()
        self.stepper.zero_grad()
        self.policy.value_net.weight.grad = th.ones_like(self.policy.value_net.weight)
        self.stepper.step()


def test_a_network_and_an_optimiser_beside_the_zip_come_back(tmp_path):
    def make() -> Any:
        env = DummyVecEnv([lambda: Monitor(Drift())])
        return WithFeatures("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=1)

    model = make()  # without a seed: a new process draws others
    learn(model, tmp_path, 96)
    again = make()
    assert not same(again.features.state_dict(), model.features.state_dict())
    learn(again, tmp_path, 96)
    assert same(again.features.state_dict(), model.features.state_dict())
    assert same(again.stepper.state_dict(), model.stepper.state_dict())
    assert model.stepper.state_dict()["state"]
