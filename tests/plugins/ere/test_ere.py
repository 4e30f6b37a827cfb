"""The recency sampler: rounds, windows, the ring, and stock SB3."""

from __future__ import annotations

import copy
import itertools
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import stable_baselines3 as sb3
import torch as th

import sb3_ext
from sb3_ext import EmphasizeRecent, EREReplayBuffer
from sb3_ext.plugins.ere.config import C_MIN
from sb3_ext.plugins.ere.equations import age_probabilities, window_size
from sb3_ext.replay.window import Window
from sb3_ext.testing.runs import lost_by_a_kill
from sb3_ext.updates import Clock
from tests.environments import make_env

SMALL = {"learning_starts": 30, "batch_size": 16, "buffer_size": 200, "seed": 3}
NOW = Clock(0, 1, 1.0)


def sac(replay: Any = None, env: Any = None, cls: Any = sb3_ext.SAC, **kwargs: Any) -> Any:
    policy, net = kwargs.pop("policy", "MlpPolicy"), {"net_arch": [8]}
    replay = EmphasizeRecent(c_min=10) if replay is None else replay
    env = make_env() if env is None else env
    return cls(policy, env, replay=replay, policy_kwargs=net, **{**SMALL, **kwargs})


def stock(cls: Any = sb3.SAC, env: Any = None, **options: Any) -> Any:
    kwargs = {"c_min": 10, **options}
    return cls(
        "MultiInputPolicy" if env is not None and env.envs[0].kind == "dict" else "MlpPolicy",
        make_env(discrete=issubclass(cls, sb3.DQN)) if env is None else env,
        replay_buffer_class=EREReplayBuffer,
        replay_buffer_kwargs=kwargs,
        policy_kwargs={"net_arch": [8]},
        **SMALL,
    )


# -- rounds ----------------------------------------------------------------------------------------


def windows_of(model: Any, updates: int, clock: Any = None) -> list[int]:
    """The window of each of the next draws."""
    found = []
    for k in range(updates):
        model.sampler.draw(4, model.replay_view.window, clock(k) if clock else NOW)
        found.append(int(model.sampler.metrics()["ere/window"]))
    return found


def filled(**options: Any) -> Any:
    model = sac(EmphasizeRecent(c_min=10, **options))
    model.learn(250)
    assert model.replay_buffer.full
    return model


def test_one_update_a_call_does_not_degenerate():
    """With SB3's defaults k is 0 in every call, which would be uniform for ever."""
    model = filled(cycle=50)
    found = windows_of(model, 50)
    assert len(set(found)) > 20
    assert min(found) == 10
    assert max(found) == 200


def test_a_chosen_cycle_is_the_round():
    model = filled(cycle=50)
    model.sampler.k = 0
    expected = [window_size(k, 50, 200, 0.996, 10) for k in range(50)]
    assert windows_of(model, 100) == expected * 2


def test_the_virtual_round_is_as_long_as_episodes_are():
    model = filled()  # episodes of at most 25 steps
    lengths = [episode["l"] for episode in model.ep_info_buffer] or list(model.sampler._lengths)
    assert 1 < model.sampler._next_round() <= 25
    assert model.sampler._next_round() == round(np.mean(lengths))
    model.sampler.k = model.sampler.round - 1
    model.sampler.draw(4, model.replay_view.window, NOW)
    assert (model.sampler.k, model.sampler.round) == (0, model.sampler._next_round())


def test_before_the_first_episode_has_ended_a_round_has_1000_updates():
    assert sac().sampler.round == 1000


def test_a_call_with_several_updates_is_the_paper_s_round():
    model = filled()
    found = windows_of(model, 20, lambda k: Clock(k, 20, 1.0))
    assert found == [window_size(k, 20, 200, 0.996, 10) for k in range(20)]


def test_a_call_of_a_few_updates_is_no_round_yet():
    """With K = 2 the windows would be all and a seventh of all, and never the newest."""
    model = filled(cycle="auto")
    model.sampler.k, model.sampler.round = 0, 20
    found = windows_of(model, 20, lambda k: Clock(k % 2, 2, 1.0))
    assert found == [window_size(k, 20, 200, 0.996, 10) for k in range(20)]


def test_episodic_training_ends_each_round_on_the_newest():
    model = sac(train_freq=(1, "episode"), gradient_steps=-1)
    windows: list[tuple[int, int]] = []
    draw = model.sampler.draw

    def noting(n: int, window: Window, clock: Clock) -> Any:
        drawn = draw(n, window, clock)
        windows.append((clock.update, int(model.sampler.metrics()["ere/window"])))
        return drawn

    model.sampler.draw = noting
    model.learn(300)
    rounds = [i for i, (update, _) in enumerate(windows) if update == 0]
    assert len(rounds) > 3
    for first, after in itertools.pairwise(rounds):
        sizes = [size for _, size in windows[first:after]]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] > sizes[-1]


def test_the_cycle_round_always_takes_the_call():
    with pytest.warns(UserWarning, match="a call of train does one update"):
        model = filled(cycle="round")
    assert windows_of(model, 3) == [200, 200, 200]


def test_eta_is_annealed_by_the_clock():
    model = filled(eta_end=1.0, cycle=10)
    seen = []
    for remaining in (1.0, 0.5, 0.0):
        model.sampler.draw(4, model.replay_view.window, Clock(0, 1, remaining))
        seen.append(model.sampler.metrics()["ere/eta"])
    assert seen == pytest.approx([0.996, 0.998, 1.0])
    assert set(windows_of(model, 10, lambda k: Clock(0, 1, 0.0))) == {200}


def test_n_is_the_capacity_or_the_current_size():
    for size, expected in (("capacity", 200), ("current", 80)):
        model = sac(EmphasizeRecent(c_min=5, cycle=100, size=size), learning_starts=80)
        model.learn(80)
        model.sampler.k = 25
        wanted = min(80, window_size(25, 100, expected, 0.996, 5))
        assert windows_of(model, 1) == [wanted]


# -- what is drawn ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n_envs", [1, 4])
@pytest.mark.parametrize("steps", [120, 512])  # before and after the ring has wrapped around
def test_only_the_newest_are_drawn(n_envs, steps):
    model = sac(EmphasizeRecent(c_min=20, cycle=40), make_env(n_envs=n_envs))
    model.learn(steps)
    window = model.replay_view.window
    for _ in range(80):
        drawn = model.sampler.draw(64, window, NOW)
        size = int(model.sampler.metrics()["ere/window"])
        assert window.newest(size).contains(drawn.indices).all()
        assert size % n_envs == 0
        assert drawn.weights is None


def test_the_row_under_the_head_is_left_out():
    model = sac(
        EmphasizeRecent(eta=1.0, c_min=5),
        optimize_memory_usage=True,
        replay_buffer_kwargs={"handle_timeout_termination": False},
        buffer_size=50,
    )
    model.learn(130)
    drawn = [model.sampler.draw(64, model.replay_view.window, NOW).indices for _ in range(30)]
    assert set(np.concatenate(drawn)) == set(range(50)) - {model.replay_buffer.pos}


@pytest.mark.parametrize("n_envs", [1, 2, 4])
def test_the_age_law_is_the_closed_form(n_envs):
    model = sac(EmphasizeRecent(c_min=20, cycle="age"), make_env(n_envs=n_envs))
    model.learn(512)
    envs = np.concatenate(
        [model.sampler.draw(256, model.replay_view.window, NOW).indices % n_envs for _ in range(80)]
    )
    np.testing.assert_allclose(np.bincount(envs) / len(envs), 1 / n_envs, atol=0.02)
    window, counts = model.replay_view.window, np.zeros(200)
    ages = {int(index): age for age, index in enumerate(window.of_age(np.arange(200)))}
    for _ in range(400):
        for index in model.sampler.draw(256, window, NOW).indices:
            counts[ages[int(index)]] += 1
    expected = age_probabilities(200, 0.996, 20)
    assert np.abs(counts / counts.sum() - expected).sum() / 2 < 0.03


def test_inside_a_window_the_inner_sampler_draws():
    model = sac(EmphasizeRecent(c_min=20, cycle=30, inner="per"))
    model.learn(260)
    inner, window = model.sampler.inner, model.replay_view.window
    assert np.ptp(np.array(inner.tree.leaves)) > 0
    for _ in range(60):
        drawn = model.sampler.draw(32, window, NOW)
        newest = window.newest(int(model.sampler.metrics()["ere/window"]))
        assert newest.contains(drawn.indices).all()
        masses = np.array(inner.tree.leaves)
        p = masses[drawn.indices] / masses[newest.indices()].sum()
        raw = (newest.size * p) ** -0.4
        np.testing.assert_allclose(drawn.weights.flatten().numpy(), raw / raw.max(), rtol=1e-5)


def test_the_ratio_network_s_negatives_stay_uniform_over_the_whole_buffer():
    """Under ERE the batch is recent; LFIW must not take it for the slow buffer."""
    weighting = {"name": "lfiw", "fast_buffer_size": 40, "ratio_net_arch": (8,)}
    model = sac(EmphasizeRecent(c_min=10, cycle=20), weighting=weighting)
    model.learn(250)
    rows: list[Any] = []
    train = model.weigher._train

    def noting(features: Any, actions: Any, at: Any, *rest: Any) -> Any:
        rows.append(at)
        return train(features, actions, at, *rest)

    model.weigher._train = noting
    for _ in range(200):
        model.train(1, 16)
    assert model.weigher.metrics()["lfiw/active"] == 1
    counts = np.histogram(np.concatenate(rows), bins=10, range=(0, 200))[0]
    assert counts.min() > 0.7 * counts.mean()


# -- saving ----------------------------------------------------------------------------------------


def test_its_place_in_the_round_goes_with_the_buffer(tmp_path):
    model = sac(EmphasizeRecent(c_min=10, inner="per"))
    model.learn(130)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = sb3_ext.SAC.load(tmp_path / "model", env=make_env())
    loaded.load_replay_buffer(tmp_path / "buffer")
    one, other = model.sampler.state_dict(), loaded.sampler.state_dict()
    for name in ("k", "round", "lengths"):
        assert one[name] == other[name]
    assert one["lengths"]
    assert np.array_equal(one["inner"]["masses"], other["inner"]["masses"])
    window = model.replay_view.window
    draws = [each.sampler.draw(16, window, NOW).indices for each in (model, loaded)]
    assert np.array_equal(*draws)


# -- stock SB3 -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [sb3.SAC, sb3.TD3, sb3.DDPG, sb3.DQN, sb3_contrib.TQC])
def test_under_stock_classes_it_counts_its_own_draws(cls):
    model = stock(cls, cycle=40)
    model.learn(120)
    buffer = model.replay_buffer
    assert isinstance(buffer, EREReplayBuffer)
    assert buffer.sampler.k == model._n_updates % 40
    window = sb3_ext.Replay(buffer).window
    rows: list[Any] = []
    gather = buffer._get_samples

    def noting(at: Any, env: Any = None) -> Any:
        rows.append(at)
        return gather(at, env=env)

    buffer._get_samples = noting
    for _ in range(40):
        buffer.sample(8)
        assert window.newest(int(buffer.sampler.metrics()["ere/window"])).contains(rows[-1]).all()
    assert min(len(np.unique(one)) for one in rows) > 1


def test_under_stock_classes_dict_observations_and_several_environments():
    model = stock(env=make_env("dict", n_envs=3))
    model.learn(150)
    assert isinstance(model.replay_buffer, EREReplayBuffer)
    assert isinstance(model.replay_buffer, sb3.common.buffers.DictReplayBuffer)
    assert set(model.replay_buffer.sample(4).observations) == {"a", "b"}


def test_under_stock_classes_it_goes_through_a_file(tmp_path):
    for env in (make_env(), make_env("dict")):
        model = stock(env=env)
        model.learn(100)
        model.save_replay_buffer(tmp_path / "buffer")
        other = stock(env=env)
        other.load_replay_buffer(tmp_path / "buffer")
        assert type(other.replay_buffer) is type(model.replay_buffer)
        assert other.replay_buffer.sampler.k == model.replay_buffer.sampler.k
        assert other.replay_buffer.pos == 100
        other.learn(40)
        copied = copy.deepcopy(model.replay_buffer)
        assert copied.sampler.buffer is copied
        pickle.dumps(model.replay_buffer)


def test_the_same_seed_draws_the_same_under_stock_classes():
    one, other = (stock().learn(100).critic.state_dict() for _ in range(2))
    assert all(th.equal(one[name], other[name]) for name in one)


@dataclass(frozen=True)
class Oldest:
    """A sampler of the user's own, which no plugin registers."""

    n: int = 5

    def build(self, algorithm: Any) -> sb3_ext.Sampler:
        return OldestSampler(self.n)


class OldestSampler(sb3_ext.Sampler):
    def __init__(self, n: int) -> None:
        self.n = n

    def draw(self, n: int, window: Window, clock: Clock) -> sb3_ext.Drawn:
        return sb3_ext.Drawn(window.indices()[np.arange(n) % min(self.n, window.size)])


def test_a_sampler_of_the_user_s_own_draws_within_the_window(tmp_path):
    model = sac(EmphasizeRecent(c_min=10, inner=Oldest(3)))
    model.learn(60)
    model.save(tmp_path / "model")
    assert sb3_ext.SAC.load(tmp_path / "model").replay["inner"] == Oldest(3)


@pytest.mark.parametrize("kind", ["box", "dict"])
def test_a_killed_run_of_a_stock_class_goes_on_exactly(tmp_path, kind):
    lost = lost_by_a_kill(lambda: stock(env=make_env(kind, n_envs=2)), 90, tmp_path)
    assert not lost


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"eta_end": 1.0}, "eta_end=1.0 needs to know how far the training is"),
        ({"cycle": "round"}, "cycle='round' needs to know which update of a call of train"),
        ({"inner": "per"}, "needs to know TD errors"),
        ({"etta": 0.9}, r"'etta'; did you mean 'eta'\?"),
        ({"n_steps": 3}, "n_steps=3: take the class of the same name from sb3_ext"),
    ],
)
def test_what_a_stock_class_cannot_give_is_refused(options, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        stock(**options)


def test_the_two_doors_of_ours_are_one():
    door = {
        "replay_buffer_class": EREReplayBuffer,
        "replay_buffer_kwargs": {"c_min": 10, "eta_end": 1.0},
    }
    one = sac(EmphasizeRecent(c_min=10, eta_end=1.0)).learn(100)
    net = {"net_arch": [8]}
    other = sb3_ext.SAC("MlpPolicy", make_env(), policy_kwargs=net, **door, **SMALL).learn(100)
    assert one.replay == other.replay
    one, other = one.critic.state_dict(), other.critic.state_dict()
    assert all(th.equal(one[name], other[name]) for name in one)


# -- bad options -----------------------------------------------------------------------------------


def test_the_default_c_min_is_the_paper_s_or_a_twentieth_of_a_small_buffer(tmp_path):
    model = sac("ere")
    assert (model.replay["c_min"], model.sampler.c_min) == (None, 10)
    assert sac(EmphasizeRecent(c_min=150)).sampler.c_min == 150
    assert sb3_ext.SAC("MlpPolicy", "Pendulum-v1", replay="ere").sampler.c_min == C_MIN == 5000
    model.save(tmp_path / "model")  # and it follows another buffer size
    for size, c_min in ((100_000, 5000), (10_000, 500), (10, 1)):
        loaded = sb3_ext.SAC.load(tmp_path / "model", env=make_env(), buffer_size=size)
        assert loaded.sampler.c_min == c_min


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: EmphasizeRecent(eta=0), r"eta must be in \(0, 1\], got 0"),
        (lambda: EmphasizeRecent(eta=1.1), r"eta must be in \(0, 1\], got 1.1"),
        (lambda: EmphasizeRecent(eta_end=-1), r"eta_end must be None or in \(0, 1\]"),
        (lambda: EmphasizeRecent(c_min=0), "c_min must be None or an integer >= 1"),
        (lambda: EmphasizeRecent(cycle="epoch"), "cycle must be 'auto', 'round', 'age' or"),
        (lambda: EmphasizeRecent(cycle=0), "cycle must be"),
        (lambda: EmphasizeRecent(cycle=1), "an integer >= 2 .a round of one update sees all"),
        (lambda: EmphasizeRecent(size="all"), r"size must be one of \('capacity', 'current'\)"),
        (lambda: EmphasizeRecent(inner="perr"), r"did you mean 'per'\?"),
        (lambda: EmphasizeRecent(inner="ere"), "inner must be another sampler than ERE itself"),
        (lambda: sac(EmphasizeRecent(c_min=201)), "got c_min=201 and room for 200 transitions"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(make, sentence):
    with pytest.raises((ValueError, LookupError), match=sentence):
        make()
