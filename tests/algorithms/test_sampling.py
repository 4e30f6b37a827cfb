"""The sampler knows what the buffer holds, whoever wrote it and wherever it came from."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv

import sb3_ext
from sb3_ext import Drawn, EmphasizeRecent, EREReplayBuffer, PrioritizedReplayBuffer, Sampler
from sb3_ext.replay.buffers import DrawingReplayBuffer
from sb3_ext.resume import ResumableCheckpoint
from sb3_ext.updates import Clock
from tests.environments import make_env

SMALL = {"learning_starts": 30, "batch_size": 16, "buffer_size": 200, "seed": 3}
NET = {"net_arch": [8]}
NOW = Clock(0, 1, 1.0)


def sac(replay: Any = "per", env: Any = None, cls: Any = sb3_ext.SAC, **kwargs: Any) -> Any:
    env = make_env() if env is None else env
    if replay is not None:
        kwargs["replay"] = replay
    policy = kwargs.pop("policy", "MlpPolicy")
    return cls(policy, env, policy_kwargs=NET, **{**SMALL, **kwargs})


def demonstrate(buffer: ReplayBuffer, steps: int) -> None:
    """Fill it by hand, as SB3's users do."""
    n = buffer.n_envs
    for k in range(steps):
        obs = np.full((n, 3), k / 100)
        rewards, ends = np.full(n, 1.0 + k), np.zeros(n)
        buffer.add(obs, obs, np.zeros((n, 2), np.float32), rewards, ends, [{}] * n)


def masses(model: Any) -> np.ndarray:
    sampler = model.sampler.inner if hasattr(model.sampler, "inner") else model.sampler
    return np.array(sampler.tree.leaves)


@pytest.mark.parametrize("before", [0, 35, 60, 90])
@pytest.mark.parametrize("by_hand", [1, 59, 60, 61, 65, 119, 120, 121])
def test_however_often_the_ring_came_round_all_that_is_new_is_drawn(before, by_hand):
    model = sac(buffer_size=60)
    if before:
        model.learn(before)
        model.sampler.tree.set(np.arange(60), np.full(60, 1e-3))
    demonstrate(model.replay_buffer, by_hand)
    model.tell_sampler()
    held = masses(model)
    rows = model.replay_view.window.rows()
    assert (held[rows] > 0).all()
    assert (held[rows[-by_hand:]] >= 1).all()  # what is new has the largest priority


def test_a_ring_that_was_emptied_and_filled_further_is_looked_at_anew():
    model = sac(buffer_size=200)
    model.learn(80)
    model.sampler.tree.set(np.arange(80), np.full(80, 1e-3))
    model.replay_buffer.reset()
    demonstrate(model.replay_buffer, 100)
    model.tell_sampler()
    assert (masses(model)[:100] >= 1).all()


@pytest.mark.parametrize("n_envs", [1, 3])
def test_demonstrations_that_were_added_by_hand_are_drawn(n_envs):
    model = sac(env=make_env(n_envs=n_envs), learning_starts=0, buffer_size=200 * n_envs)
    demonstrate(model.replay_buffer, 100)
    model.learn(20 * n_envs)
    assert (masses(model)[: 120 * n_envs] > 0).all()
    drawn = np.concatenate(
        [model.sampler.draw(64, model.replay_view.window, NOW).indices for _ in range(20)]
    )
    assert (drawn < 100 * n_envs).any()


def test_a_ring_that_was_filled_to_the_last_row_by_hand():
    model = sac()
    demonstrate(model.replay_buffer, 200)
    assert (model.replay_buffer.pos, model.replay_buffer.full) == (0, True)
    model.tell_sampler()
    assert (masses(model) > 0).all()
    demonstrate(model.replay_buffer, 30)
    model.sampler.tree.set(np.arange(200), 0.5)
    model.tell_sampler()
    assert np.flatnonzero(masses(model) != 0.5).tolist() == list(range(30))


def test_a_buffer_that_was_emptied_is_looked_at_anew():
    model = sac()
    model.learn(60)
    model.replay_buffer.reset()
    demonstrate(model.replay_buffer, 10)
    model.tell_sampler()
    assert np.flatnonzero(masses(model)).tolist() == list(range(10))


def test_a_buffer_of_another_model_may_be_assigned_also_of_another_size():
    other = sac(None, buffer_size=500)
    other.learn(120)
    for replay in ("per", {"name": "ere", "c_min": 10, "inner": "per"}):
        model = sac(replay)
        model.replay_buffer = other.replay_buffer
        model.learn(40)
        assert (masses(model)[:120] > 0).all()
        assert len(masses(model)) == 500


# -- files -----------------------------------------------------------------------------------------


def test_what_stock_sb3_wrote_on_is_drawn(tmp_path):
    model = sac()
    model.learn(60)
    model.save_replay_buffer(tmp_path / "buffer")
    stock = sac(None, cls=sb3.SAC)
    stock.load_replay_buffer(tmp_path / "buffer")
    stock.learn(20)
    stock.save_replay_buffer(tmp_path / "buffer")
    model.load_replay_buffer(tmp_path / "buffer")
    assert np.flatnonzero(masses(model)).tolist() == list(range(80))


def test_a_pickle_that_is_no_buffer_leaves_the_own_one(tmp_path):
    import pickle

    (tmp_path / "buffer.pkl").write_bytes(pickle.dumps({"a": 1}))
    model = sac()
    model.learn(60)
    before, known = model.replay_buffer, masses(model)
    with pytest.raises((AssertionError, ValueError)):
        model.load_replay_buffer(tmp_path / "buffer")
    assert model.replay_buffer is before
    assert np.array_equal(masses(model), known)


def test_hindsight_is_refused_in_a_file_too(tmp_path):
    env = BitFlippingEnv(n_bits=3, continuous=True)
    kwargs = {"policy": "MultiInputPolicy", "learning_starts": 20}
    her = sac(None, env, sb3.SAC, replay_buffer_class=HerReplayBuffer, **kwargs)
    her.learn(30)
    her.save_replay_buffer(tmp_path / "buffer")
    model = sac("per", env, **kwargs)
    with pytest.raises(ValueError, match="HerReplayBuffer relabels goals while it samples"):
        model.load_replay_buffer(tmp_path / "buffer")
    assert type(model.replay_buffer) is DictReplayBuffer
    model.learn(30)


def test_n_steps_of_a_file_must_be_the_model_s(tmp_path):
    sac(None, n_steps=3).save_replay_buffer(tmp_path / "buffer")
    with pytest.raises(ValueError, match="over n_steps=3, and this model over n_steps=1"):
        sac().load_replay_buffer(tmp_path / "buffer")


@pytest.mark.parametrize("kind", ["box", "dict"])
def test_a_buffer_that_drew_by_itself_does_not_beside_our_clock(tmp_path, kind):
    policy = "MultiInputPolicy" if kind == "dict" else "MlpPolicy"
    door = {"replay_buffer_class": EREReplayBuffer, "replay_buffer_kwargs": {"c_min": 10}}
    stock = sac(None, make_env(kind), sb3.SAC, policy=policy, **door)
    stock.learn(60)
    stock.save_replay_buffer(tmp_path / "buffer")
    model = sac(None, make_env(kind), policy=policy)
    model.load_replay_buffer(tmp_path / "buffer")
    assert type(model.replay_buffer) in (ReplayBuffer, DictReplayBuffer)
    assert (model.replay_buffer.pos, model.sampler) == (60, None)
    model.learn(40)


# -- SB3's door ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("buffer", "options", "name"),
    [
        (PrioritizedReplayBuffer, {"alpha": 0.7}, "per"),
        (EREReplayBuffer, {"c_min": 10}, "ere"),
    ],
)
def test_the_door_of_load_and_of_positional_arguments(tmp_path, buffer, options, name):
    sac(None).save(tmp_path / "model")
    door = {"replay_buffer_class": buffer, "replay_buffer_kwargs": options}
    loaded = sb3_ext.SAC.load(tmp_path / "model", env=make_env(), **door)
    # learning_rate to action_noise, in SB3's order
    positional = (3e-4, 200, 30, 16, 0.005, 0.99, 1, 1, None, buffer, options)
    made = sb3_ext.SAC("MlpPolicy", make_env(), *positional, policy_kwargs=NET)
    for model in (loaded, made):
        assert model.replay["name"] == name
        assert {key: model.replay[key] for key in options} == options
        assert type(model.replay_buffer) is ReplayBuffer
        model.learn(40)
        assert model.sampler.metrics()


def test_a_stock_zip_with_such_a_buffer_warm_starts_with_its_sampler(tmp_path):
    door = {"replay_buffer_class": EREReplayBuffer, "replay_buffer_kwargs": {"c_min": 10}}
    sac(None, cls=sb3.SAC, **door).save(tmp_path / "stock")
    model = sb3_ext.SAC.load(tmp_path / "stock", env=make_env())
    assert (model.replay["name"], model.replay["c_min"]) == ("ere", 10)


@pytest.mark.parametrize("replay", ["per", None])
def test_replay_wins_over_the_class_in_a_stock_zip(tmp_path, replay):
    door = {"replay_buffer_class": EREReplayBuffer, "replay_buffer_kwargs": {"c_min": 10}}
    sac(None, cls=sb3.SAC, **door).save(tmp_path / "stock")
    model = sb3_ext.SAC.load(tmp_path / "stock", env=make_env(), replay=replay)
    assert (model.replay and model.replay["name"]) == replay
    model.save(tmp_path / "ours")
    assert sb3_ext.SAC.load(tmp_path / "ours").replay == model.replay


@pytest.mark.parametrize("chosen", [ReplayBuffer, NStepReplayBuffer])
def test_a_buffer_class_for_load_takes_the_place_of_a_saved_sampler(tmp_path, chosen):
    sac("per").save(tmp_path / "model")
    model = sb3_ext.SAC.load(tmp_path / "model", env=make_env(), replay_buffer_class=chosen)
    assert (model.replay, model.sampler) == (None, None)
    model.learn(40)
    assert sb3_ext.SAC.load(tmp_path / "model").replay["name"] == "per"


def test_a_sampler_s_class_for_load_wins_over_no_replay(tmp_path):
    sac("per").save(tmp_path / "model")
    door = {"replay_buffer_class": EREReplayBuffer, "replay_buffer_kwargs": {"c_min": 10}}
    model = sb3_ext.SAC.load(tmp_path / "model", env=make_env(), replay=None, **door)
    assert model.replay["name"] == "ere"


def test_swapped_doors_are_told():
    with pytest.raises(TypeError, match=r"got Prioritized; give it as replay=Prioritized\(...\)"):
        sac(None, replay_buffer_class=sb3_ext.Prioritized)
    with pytest.raises(TypeError, match="given as replay_buffer_class=PrioritizedReplayBuffer"):
        sac(PrioritizedReplayBuffer)
    with pytest.raises(TypeError, match="got 'n_steps', which is an argument of SAC itself"):
        sac(None, replay_buffer_kwargs={"n_steps": 3})


def test_the_class_takes_sb3_s_arguments_by_position():
    env = make_env(n_envs=2)
    spaces = (env.observation_space, env.action_space)
    buffer = EREReplayBuffer(100, *spaces, "cpu", 2, True, False, c_min=10)
    assert (buffer.buffer_size, buffer.n_envs, buffer.optimize_memory_usage) == (50, 2, True)
    assert buffer.sampler.config.c_min == 10


def test_what_an_author_of_a_buffer_forgot_is_told():
    env = make_env()
    spaces = (env.observation_space, env.action_space)

    class Drawing(DrawingReplayBuffer):
        config = EmphasizeRecent

        def make_sampler(self, config: Any) -> Any:
            return None

    class Nameless(DrawingReplayBuffer):
        pass

    class Weighing(Sampler):
        def draw(self, n: int, window: Any, clock: Any) -> Drawn:
            return Drawn(np.zeros(n, int), th.full((n, 1), 0.5))

    class Weighed(Drawing):
        def make_sampler(self, config: Any) -> Any:
            return Weighing()

    with pytest.raises(TypeError, match=r"make_sampler must return a sb3_ext.Sampler, got None"):
        Drawing(100, *spaces)
    with pytest.raises(TypeError, match="must name its sampler's options: config = MyConfig"):
        Nameless(100, *spaces)
    with pytest.raises(TypeError, match="has no class for Dict observations"):
        Drawing(100, make_env("dict").observation_space, spaces[1])
    model = sac(None, cls=sb3.SAC, replay_buffer_class=Weighed)
    with pytest.raises(TypeError, match="Weighing gave importance weights, for which a class of"):
        model.learn(40)


class Inner:
    """A sampler within ERE that does not keep to the window, and says what it is told."""

    def __init__(self, part: Any) -> None:
        self.part = part

    def build(self, algorithm: Any) -> Any:
        return self.part


class Anywhere(Sampler):
    started = 0

    def draw(self, n: int, window: Any, clock: Any) -> Drawn:
        return Drawn(np.zeros(n, int))

    def training_starts(self, window: Any, timesteps: int) -> None:
        self.started += 1

    def fitted(self) -> Any:
        return sb3_ext.Prioritized(alpha=0.3)


def test_a_sampler_within_ere_is_checked_as_if_it_were_alone():
    ere = {"name": "ere", "c_min": 10, "cycle": 4}
    with pytest.raises(TypeError, match=r"Inner.build must return .* sb3_ext.Sampler, got object"):
        sac({**ere, "inner": Inner(object())})
    with pytest.raises(TypeError, match="inner='per' got an unknown argument 'alfa'"):
        sac({**ere, "inner": {"name": "per", "alfa": 1}})
    inner = Anywhere()
    model = sac({**ere, "inner": Inner(inner)})
    assert model.replay["inner"]["alpha"] == 0.3
    assert model.replay["c_min"] == 10
    with pytest.raises(ValueError, match=r"Anywhere.draw must return transitions that .* holds"):
        model.learn(200)
    assert inner.started == 1


def test_a_subclass_without_a_class_for_dicts_is_told():
    class Mine(EREReplayBuffer):
        pass

    class MineForDicts(Mine, DictReplayBuffer):
        pass

    env = make_env("dict")
    with pytest.raises(TypeError, match=r"name it Mine\.for_dicts"):
        Mine(100, env.observation_space, env.action_space, c_min=10)
    Mine.for_dicts = MineForDicts
    made = Mine(100, env.observation_space, env.action_space, c_min=10)
    assert type(made) is MineForDicts
    assert made.sampler.config.c_min == 10


# -- ERE's defaults and episodes -------------------------------------------------------------------


def test_an_episode_that_was_cut_off_by_a_reset_is_not_counted_on():
    model = sac({"name": "ere", "c_min": 5})
    model.learn(10)  # in mid-episode
    model.set_env(make_env())
    model.learn(200)
    assert max(model.sampler._lengths) <= 25
    before = model.sampler._running.copy()
    model.learn(5, reset_num_timesteps=False)
    assert (model.sampler._running != 0).any() or (before == 0).any()


def test_a_buffer_brings_no_cycle_of_its_own(tmp_path):
    model = sac({"name": "ere", "c_min": 10, "cycle": 1000})
    model.learn(100)
    model.save_replay_buffer(tmp_path / "buffer")
    other = sac({"name": "ere", "c_min": 10, "cycle": 20})
    other.load_replay_buffer(tmp_path / "buffer")
    assert (other.sampler.k, other.sampler.round) == (0, 20)


def test_a_user_s_n_step_class_is_heeded_after_load(tmp_path):
    model = sac(None, n_steps=3)
    model.learn(40)
    model.save(tmp_path / "model")
    loaded = sb3_ext.SAC.load(tmp_path / "model", env=make_env())
    assert type(loaded.replay_buffer) is NStepReplayBuffer
    loaded = sb3_ext.SAC.load(tmp_path / "model", env=make_env(), n_steps=1)
    assert type(loaded.replay_buffer) is ReplayBuffer
    loaded.learn(40)


def test_sb3_s_own_way_to_n_steps_stays(tmp_path):
    kwargs = {"n_steps": 2, "gamma": 0.9}
    given = dict(kwargs)
    model = sac(None, replay_buffer_class=NStepReplayBuffer, replay_buffer_kwargs=kwargs)
    assert (model.replay_buffer.n_steps, model.replay_buffer.gamma) == (2, 0.9)
    assert kwargs == given


# -- a checkpoint of a run with another sampler ----------------------------------------------------

RECENT = {"name": "ere", "c_min": 10}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("per", RECENT),
        (RECENT, "per"),
        (RECENT, {**RECENT, "inner": "per"}),
        (None, "per"),
        ("per", "lap"),
    ],
)
def test_a_run_that_goes_on_with_another_sampler_draws_all_it_has(tmp_path, before, after):
    checkpoint = ResumableCheckpoint(tmp_path, every=40)
    sac(before).learn(80, callback=checkpoint)
    model = sac(after)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model.learn(90, callback=ResumableCheckpoint(tmp_path, every=40))
    assert any("the sampler begins anew" in str(one.message) for one in told)
    if after != RECENT:
        assert (masses(model)[:90] > 0).all()
