"""The prioritised sampler: each fault of other implementations, and each option."""

from __future__ import annotations

import importlib.util
import pickle
from typing import Any

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from scipy.stats import chisquare
from stable_baselines3.common.buffers import NStepReplayBuffer

import sb3_ext
from sb3_ext import LAP, EmphasizeRecent, Prioritized, PrioritizedReplayBuffer
from sb3_ext.errors import NonFiniteError
from sb3_ext.replay.window import Window
from sb3_ext.updates import Clock
from tests.environments import make_env

SMALL = {"learning_starts": 30, "batch_size": 16, "buffer_size": 200, "seed": 3}
NOW = Clock(0, 1, 1.0)


def sac(replay: Any = "per", env: Any = None, cls: Any = sb3_ext.SAC, **kwargs: Any) -> Any:
    policy = kwargs.pop("policy", "MlpPolicy")
    net = {"net_arch": [8]}
    options = {**SMALL, **kwargs}
    env = make_env() if env is None else env
    return cls(policy, env, replay=replay, policy_kwargs=net, **options)


def drawn(sampler: Any, window: Window, rounds: int, n: int = 64) -> np.ndarray:
    return np.concatenate([sampler.draw(n, window, NOW).indices for _ in range(rounds)])


def with_masses(masses: list[float], **options: Any) -> tuple[Any, Window]:
    """A sampler over a full ring of these masses (alpha 1, so masses are priorities)."""
    sampler = sac(Prioritized(alpha=1.0, eps=0.0, **options), buffer_size=len(masses)).sampler
    sampler.tree.fill(np.array(masses))
    for extreme in sampler._extremes.values():
        extreme.refill()
    return sampler, Window(0, len(masses), len(masses))


# -- how often, and with what weight ---------------------------------------------------------------


def test_transitions_are_drawn_in_proportion_to_their_masses():
    masses = [1.0, 2.0, 3.0, 4.0, 0.0, 10.0]
    sampler, window = with_masses(masses)
    counts = np.bincount(drawn(sampler, window, 500), minlength=6)
    assert counts[4] == 0, "no mass, no draw"
    expected = np.array(masses)[[0, 1, 2, 3, 5]] / 20 * counts.sum()
    # Stratified draws vary less than the law allows, so this may only be too good.
    assert chisquare(counts[[0, 1, 2, 3, 5]], expected).pvalue > 0.01


def test_the_newest_and_the_oldest_can_be_drawn():
    """Some trees never give the last leaf."""
    sampler, window = with_masses([1.0] * 7)
    assert set(drawn(sampler, window, 20)) == set(range(7))


def test_alpha_0_draws_uniformly_and_beta_0_does_not_weigh():
    model = sac(Prioritized(alpha=0.0, beta=0.0, beta_end=0.0))
    model.learn(300)
    leaves = np.array(model.sampler.tree.leaves)
    assert (leaves == 1).all()
    weights = model.sampler.draw(64, model.replay_view.window, NOW).weights
    assert th.equal(weights, th.ones(64, 1))


def test_weights_are_those_of_the_probabilities():
    masses = [1.0, 2.0, 3.0, 4.0]
    sampler, window = with_masses(masses, beta=0.4)
    draw = sampler.draw(64, window, NOW)
    p = np.array(masses)[draw.indices] / 10
    raw = (4 * p) ** -0.4
    np.testing.assert_allclose(draw.weights.flatten().numpy(), raw / raw.max(), rtol=1e-6)


def test_weights_by_the_buffer_s_least_priority_do_not_move_with_the_batch():
    masses = [1.0] + [100.0] * 7
    sampler, window = with_masses(masses, beta=1.0, normalize="buffer")
    draw = sampler.draw(4, window, NOW)
    expected = 1.0 / np.array(masses)[draw.indices]
    np.testing.assert_allclose(draw.weights.flatten().numpy(), expected, rtol=1e-6)


def test_beta_is_annealed_by_the_clock():
    sampler, window = with_masses([1.0, 2.0, 3.0, 4.0], beta=0.4)
    for remaining, beta in ((1.0, 0.4), (0.5, 0.7), (0.0, 1.0)):
        sampler.draw(8, window, Clock(0, 1, remaining))
        assert sampler._beta == pytest.approx(beta)


def test_weights_reach_the_critic_s_loss():
    """OpenAI Baselines once computed them and left them out (PR 52)."""
    ends = []
    for beta in (0.0, 1.0):
        model = sac(Prioritized(beta=beta, beta_end=beta))
        model.learn(40)
        state = model.sampler.state_dict()
        assert np.ptp(state["masses"][:30]) > 0
        ends.append(model.critic.state_dict()["qf0.0.weight"])
    assert not th.equal(*ends)


# -- priorities ------------------------------------------------------------------------------------


def test_a_new_transition_gets_the_largest_priority_once_raised_to_alpha():
    """TorchRL raised it twice until 2026 (PR 3925), Flashbax rounded it to an integer (PR 58)."""
    model = sac(Prioritized(alpha=0.5, eps=0.0))
    sampler = model.sampler
    sampler.added(np.array([0]))
    assert sampler.tree.leaves[0] == 1
    sampler.observe(np.array([0]), th.tensor([[6.25, -1.0]]))
    sampler.added(np.array([1]))
    assert sampler.tree.leaves[:2].tolist() == [2.5, 2.5]
    sampler.observe(np.array([0]), th.tensor([[0.01, 0.0]]))
    sampler.added(np.array([2]))
    assert sampler.tree.leaves[:3].tolist() == pytest.approx([0.1, 2.5, 2.5])


def test_the_largest_of_the_buffer_forgets_what_was_overwritten():
    model = sac(Prioritized(alpha=1.0, eps=0.0, max_priority="buffer"))
    sampler = model.sampler
    sampler.added(np.arange(3))
    assert sampler.tree.leaves[:3].tolist() == [1, 1, 1]
    sampler.observe(np.arange(3), th.tensor([[50.0], [2.0], [3.0]]))
    sampler.observe(np.array([0]), th.tensor([[0.5]]))
    sampler.added(np.array([3]))
    assert sampler.tree.leaves[3] == 3, "an early outlier does not stay for ever"


def test_small_errors_need_not_stay_under_the_first_priority_of_1():
    model = sac(Prioritized(alpha=1.0, eps=0.0, max_priority="buffer"))
    model.sampler.added(np.arange(3))
    model.sampler.observe(np.arange(3), th.tensor([[1e-3], [2e-3], [1e-3]]))
    model.sampler.added(np.array([3]))
    assert model.sampler.tree.leaves[3] == pytest.approx(2e-3)


def test_the_errors_of_every_gradient_step_are_refreshed():
    model = sac(gradient_steps=3, train_freq=3)
    seen: list[Any] = []
    observe = model.sampler.observe
    model.sampler.observe = lambda indices, errors: (seen.append(errors), observe(indices, errors))
    model.learn(60)
    assert len(seen) == model._n_updates
    assert seen[0].shape == (16, 2)


def test_priorities_are_of_the_errors_before_the_update():
    model = sac(Prioritized(alpha=1.0, eps=0.0))
    model.learn(60)
    before = {name: value.clone() for name, value in model.critic.state_dict().items()}
    kept: dict[str, Any] = {}
    step = model.gradient_step

    def noting(batch: Any, weights: Any) -> Any:
        with th.no_grad():
            state = th.random.get_rng_state()
            _ = model.actor.action_log_prob(batch.observations)
            target = model.bellman_target(batch)
            th.random.set_rng_state(state)
            q_values = model.critic(batch.observations, batch.actions)
            kept["errors"] = th.cat([(q - target).abs() for q in q_values], dim=1).amax(dim=1)
        return step(batch, weights)

    model.gradient_step = noting
    model.train(1, 16)
    assert not th.equal(before["qf0.0.weight"], model.critic.state_dict()["qf0.0.weight"])
    np.testing.assert_allclose(model.sampler._errors, kept["errors"].numpy(), rtol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_errors_that_are_no_numbers_say_when_and_change_nothing(bad):
    model = sac()
    model.learn(60)
    before = np.array(model.sampler.tree.leaves)
    errors = th.tensor([[0.5, 1.0], [bad, 1.0], [2.0, 2.0]])
    sentence = rf"transition 7 is not finite at update {model._n_updates}, step 60"
    with pytest.raises(NonFiniteError, match=sentence):
        model.sampler.observe(np.array([5, 7, 9]), errors)
    assert np.array_equal(before, model.sampler.tree.leaves)
    assert model.sampler.tree.total == pytest.approx(before.sum())


def test_nan_to_the_power_of_0_is_no_number_either():
    model = sac(Prioritized(alpha=0.0))
    model.learn(40)
    with pytest.raises(NonFiniteError, match="transition 3 is not finite"):
        model.sampler.observe(np.array([3]), th.tensor([[float("nan"), 1.0]]))
    model = sac(Prioritized(alpha=50.0))
    model.learn(20)
    with pytest.raises(NonFiniteError, match=r"to the power of alpha=50.0 .*; lower alpha"):
        model.sampler.observe(np.array([3]), th.tensor([[1e10]]))


def test_a_run_that_diverges_stops_with_that_sentence():
    model = sac()
    model.learn(60)
    with th.no_grad():
        model.critic.qf0[0].weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="TD error of transition"):
        model.train(1, 16)


def test_no_errors_at_all_and_no_eps_is_uniform():
    sampler, window = with_masses([0.0] * 8)
    draw = sampler.draw(400, window, NOW)
    assert set(draw.indices) == set(range(8))
    assert th.equal(draw.weights, th.ones(400, 1))


# -- the ring --------------------------------------------------------------------------------------


def test_what_is_overwritten_loses_its_priority_and_nothing_else_is_drawn():
    for n_envs in (1, 3):
        model = sac(env=make_env(n_envs=n_envs), buffer_size=60)
        model.learn(150)
        leaves, window = np.array(model.sampler.tree.leaves), model.replay_view.window
        assert model.replay_buffer.full
        assert (leaves > 0).all()
        model.sampler.tree.set(np.arange(60), 1e-9)
        model.sampler.added(window.newest(n_envs).indices())
        assert np.array(model.sampler.tree.leaves).argmax() in window.newest(n_envs).indices()
        model.sampler.tree.set(np.arange(60), leaves)
        indices = drawn(model.sampler, window, 50)
        assert len(set(indices)) == 60


def test_the_environment_s_column_is_the_one_that_was_drawn():
    """SB3 draws the environment anew after the row: priorities would go astray."""
    model = sac(Prioritized(alpha=1.0, eps=0.0), env=make_env(n_envs=4))
    model.learn(100)
    marked = 4 * 7 + 2
    model.sampler.tree.fill(np.zeros(200))
    model.sampler.tree.set(np.array([marked]), 1.0)
    batch = model.replay_view.draw(8, NOW)
    assert (batch.indices == marked).all()
    assert (batch.samples.rewards == th.tensor(model.replay_buffer.rewards[7, 2])).all()
    model.sampler.observe(batch.indices, th.full((8, 2), 5.0))
    assert np.flatnonzero(np.array(model.sampler.tree.leaves)).tolist() == [marked]


@pytest.mark.parametrize("newest", [1, 10, 37, 60, 200])
@pytest.mark.parametrize("steps", [41, 150])  # before and after the ring has wrapped around
def test_a_window_of_the_newest_is_drawn_from_alone(newest, steps):
    """BY571's ERE takes the first slots of the ring, which are the oldest transitions."""
    model = sac(env=make_env(n_envs=2), buffer_size=80)
    model.learn(steps)
    window = model.replay_view.window.newest(newest)
    draws = [model.sampler.draw(64, window, NOW) for _ in range(30)]
    indices = np.concatenate([one.indices for one in draws])
    assert window.contains(indices).all()
    masses = np.array(model.sampler.tree.leaves)[window.indices()]
    counts = np.array([(indices == index).sum() for index in window.indices()])
    np.testing.assert_allclose(counts / len(indices), masses / masses.sum(), atol=0.03)
    # N of the weights is the window's, and so are the probabilities.
    p = np.array(model.sampler.tree.leaves)[draws[0].indices] / masses.sum()
    raw = (window.size * p) ** -0.4
    np.testing.assert_allclose(draws[0].weights.flatten().numpy(), raw / raw.max(), rtol=1e-5)


def test_memory_saving_rings_never_give_the_row_under_the_head():
    model = sac(
        optimize_memory_usage=True,
        replay_buffer_kwargs={"handle_timeout_termination": False},
        buffer_size=50,
    )
    model.learn(130)
    window = model.replay_view.window
    assert (window.length, window.capacity) == (49, 50)
    indices = drawn(model.sampler, window, 50)
    assert model.replay_buffer.pos not in indices
    assert len(set(indices)) == 49


@pytest.mark.parametrize(
    "setting",
    [
        {"n_steps": 3},
        {"n_steps": 3, "env": {"n_envs": 3}},
        {"env": {"kind": "dict"}, "policy": "MultiInputPolicy"},
        {"env": {"normalize": True, "n_envs": 2}},
    ],
    ids=str,
)
def test_every_layout_of_the_buffer(setting):
    setting = dict(setting)
    env = make_env(**setting.pop("env", {}))
    model = sac(env=env, **setting)
    model.learn(120)
    assert np.ptp(model.sampler.tree.leaves[: model.replay_view.window.size]) > 0
    if "n_steps" in setting:
        assert type(model.replay_buffer) is NStepReplayBuffer
        assert model.replay_view.draw(8, NOW).samples.discounts is not None


# -- saving ----------------------------------------------------------------------------------------


def test_the_tree_goes_with_the_buffer(tmp_path):
    model = sac()
    model.learn(120)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    assert not hasattr(model.replay_buffer, "sb3_ext_sampler")
    loaded = sb3_ext.SAC.load(tmp_path / "model", env=make_env())
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert np.array_equal(loaded.sampler.tree.leaves, model.sampler.tree.leaves)
    window = model.replay_view.window
    one, other = (each.sampler.draw(16, window, NOW) for each in (model, loaded))
    assert np.array_equal(one.indices, other.indices)
    assert th.equal(one.weights, other.weights)


def test_a_zip_without_a_sampler_may_be_loaded_with_one_and_the_other_way_round(tmp_path):
    plain = sac(None)
    plain.learn(60)
    plain.save(tmp_path / "plain")
    plain.save_replay_buffer(tmp_path / "buffer")
    loaded = sb3_ext.SAC.load(tmp_path / "plain", env=make_env(), replay="per")
    loaded.load_replay_buffer(tmp_path / "buffer")
    loaded.learn(40, reset_num_timesteps=False)
    assert np.ptp(np.array(loaded.sampler.tree.leaves)[:60]) > 0
    loaded.save(tmp_path / "per")
    again = sb3_ext.SAC.load(tmp_path / "per", env=make_env(), replay=None)
    assert again.sampler is None
    again.learn(40, reset_num_timesteps=False)


def test_another_alpha_rescales_the_tree(tmp_path):
    model = sac(Prioritized(alpha=0.6))
    model.learn(120)
    model.save_replay_buffer(tmp_path / "buffer")
    other = sac(Prioritized(alpha=0.3))
    other.load_replay_buffer(tmp_path / "buffer")
    np.testing.assert_allclose(
        np.array(other.sampler.tree.leaves), np.array(model.sampler.tree.leaves) ** 0.5
    )


def test_a_buffer_of_stock_sb3_or_another_sampler_begins_with_equal_priorities(tmp_path):
    stock = sb3.SAC("MlpPolicy", make_env(), policy_kwargs={"net_arch": [8]}, **SMALL)
    stock.learn(120)
    stock.save_replay_buffer(tmp_path / "buffer")
    model = sac(Prioritized(eps=0.0))
    model.learn(60)  # what its tree knew is of another buffer
    model.load_replay_buffer(tmp_path / "buffer")
    leaves = np.array(model.sampler.tree.leaves)
    assert (leaves[:120] == 1).all()
    assert (leaves[120:] == 0).all()
    lap = sac("lap")
    lap.learn(60)
    lap.save_replay_buffer(tmp_path / "lap")
    model.load_replay_buffer(tmp_path / "lap")
    assert (np.array(model.sampler.tree.leaves)[:60] == 1).all()


def test_stock_sb3_reads_the_file(tmp_path):
    model = sac()
    model.learn(60)
    model.save_replay_buffer(tmp_path / "buffer")
    stock = sb3.SAC("MlpPolicy", make_env(), policy_kwargs={"net_arch": [8]}, **SMALL)
    stock.load_replay_buffer(tmp_path / "buffer")
    stock.learn(40)
    assert b"sb3_ext." not in (tmp_path / "buffer.pkl").read_bytes()


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ({"env": {"n_envs": 2}}, "holds transitions of 2 environments, and this model has 1"),
        ({"env": {"kind": "image"}, "policy": "CnnPolicy"}, "transitions with observation_space"),
    ],
)
def test_a_buffer_of_another_shape_is_refused_and_the_own_one_stays(tmp_path, other, sentence):
    other = dict(other)
    foreign = sac(env=make_env(**other.pop("env")), **other)
    foreign.learn(40)
    foreign.save_replay_buffer(tmp_path / "buffer")
    model = sac()
    model.learn(60)
    before, leaves = model.replay_buffer, np.array(model.sampler.tree.leaves)
    with pytest.raises(ValueError, match=sentence):
        model.load_replay_buffer(tmp_path / "buffer")
    assert model.replay_buffer is before
    assert np.array_equal(model.sampler.tree.leaves, leaves)


def test_priorities_of_another_ring_are_refused():
    small, large = sac(buffer_size=100).sampler, sac(buffer_size=200).sampler
    with pytest.raises(RuntimeError, match="of 100 transitions, and this replay buffer has room"):
        large.load_state_dict(small.state_dict())


# -- SB3's own door --------------------------------------------------------------------------------


def test_the_two_doors_are_one():
    models = [
        sac(Prioritized(alpha=0.7)).learn(80),
        sac(
            None,
            replay_buffer_class=PrioritizedReplayBuffer,
            replay_buffer_kwargs={"alpha": 0.7, "handle_timeout_termination": True},
        ).learn(80),
    ]
    assert models[0].replay == models[1].replay
    one, other = (model.critic.state_dict() for model in models)
    assert all(th.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("cls", [sb3.SAC, sb3.TD3, sb3.DDPG, sb3.DQN])
def test_stock_classes_refuse_it_at_once_and_name_ours(cls):
    env = make_env(discrete=cls is sb3.DQN)
    with pytest.raises(TypeError, match=r"name from sb3_ext \(`from sb3_ext import SAC`, say"):
        cls("MlpPolicy", env, replay_buffer_class=PrioritizedReplayBuffer)


def test_a_misspelt_option_of_the_door_gets_its_near_miss():
    kwargs = {"replay_buffer_class": PrioritizedReplayBuffer}
    with pytest.raises(TypeError, match=r"'alhpa'; did you mean 'alpha'\?"):
        sac(None, replay_buffer_kwargs={"alhpa": 1}, **kwargs)
    with pytest.raises(ValueError, match="both replay= and replay_buffer_class="):
        sac("per", **kwargs)


def test_options_of_the_sampler_at_the_buffer_s_door_are_told_where_they_belong():
    with pytest.raises(
        TypeError, match=r"alpha in replay_buffer_kwargs is .* option of Prioritized"
    ):
        sac("per", replay_buffer_kwargs={"alpha": 0.7})


def test_n_steps_with_a_class_of_the_user_s_own():
    class Mine(NStepReplayBuffer):
        pass

    class OneStep(sb3.common.buffers.ReplayBuffer):
        pass

    model = sac(None, n_steps=3, replay_buffer_class=Mine)
    assert (model.replay_buffer.n_steps, type(model.replay_buffer)) == (3, Mine)
    with pytest.raises(ValueError, match="OneStep is no subclass of"):
        sac(None, n_steps=3, replay_buffer_class=OneStep)


# -- bad options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Prioritized(alpha=-0.1), r"alpha must be >= 0, a finite number, got -0.1"),
        (lambda: Prioritized(alpha=float("nan")), "alpha must be >= 0"),
        (lambda: Prioritized(beta=1.5), r"beta must be in \[0, 1\], got 1.5"),
        (lambda: Prioritized(beta_end=-1), r"beta_end must be in \[0, 1\]"),
        (lambda: Prioritized(eps=-1e-9), "eps must be >= 0"),
        (lambda: Prioritized(normalize="all"), r"normalize must be one of \('batch', 'buffer'\)"),
        (lambda: Prioritized(max_priority="max"), "max_priority must be one of"),
        (lambda: Prioritized(reduce="signed"), r"reduce must be one of \('max', 'mean'\)"),
        (lambda: Prioritized(backend="cuda"), "backend must be one of"),
        (lambda: LAP(min_priority=0), "LAP: min_priority must be > 0"),
        (lambda: sac({"name": "per", "alpah": 1}), r"did you mean 'alpha'\?"),
        (lambda: sac(Prioritized), r"did you mean Prioritized\(\)\?"),
        (lambda: sac(None, replay_buffer_class="per"), "replay_buffer_class= takes a class"),
        (lambda: sac("perr"), r"did you mean 'per'\?"),
        (lambda: sac(critic_loss="hubber"), r"did you mean 'huber'\?"),
        (lambda: sac(critic_loss={"name": "pal", "alpha": 2}), r"alpha must be in \[0, 1\]"),
        (lambda: sac(critic_loss=3), "critic_loss= takes a name"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(make, sentence):
    with pytest.raises((ValueError, TypeError, LookupError), match=sentence):
        make()


def test_hindsight_is_refused_in_words():
    from stable_baselines3 import HerReplayBuffer
    from stable_baselines3.common.envs import BitFlippingEnv

    for part in ({"weighting": "lfiw"}, {"replay": "per"}):
        with pytest.raises(ValueError, match="HerReplayBuffer relabels goals while it samples"):
            sb3_ext.DQN(
                "MultiInputPolicy",
                BitFlippingEnv(n_bits=3),
                replay_buffer_class=HerReplayBuffer,
                **part,
            )


# -- LAP -------------------------------------------------------------------------------------------


def test_lap_brings_its_loss_and_no_weights():
    model = sac("lap")
    assert model.loss_function == sb3_ext.Huber(1.0)
    model.learn(60)
    assert model.sampler.draw(8, model.replay_view.window, NOW).weights is None
    assert sac(LAP(min_priority=0.01)).loss_function == sb3_ext.Huber(0.01)
    assert sac(EmphasizeRecent(c_min=10, inner="lap")).loss_function == sb3_ext.Huber(1.0)


def test_another_loss_may_be_chosen_and_is_saved(tmp_path):
    assert sac("lap", critic_loss="mse").loss_function == sb3_ext.MSE()
    model = sac(None, critic_loss=sb3_ext.PAL(alpha=0.5))
    model.learn(60)
    model.save(tmp_path / "model")
    loaded = sb3_ext.SAC.load(tmp_path / "model")
    assert loaded.critic_loss == {"name": "pal", "alpha": 0.5, "min_priority": 1.0}
    assert loaded.loss_function == sb3_ext.PAL(alpha=0.5)
    again = sb3_ext.SAC.load(tmp_path / "model", critic_loss="huber")
    assert again.loss_function == sb3_ext.Huber()
    model.save_for_sb3(tmp_path / "stock")
    sb3.SAC.load(tmp_path / "stock")


def test_the_chosen_loss_is_the_one_that_is_descended():
    seen = []

    def loss(errors: th.Tensor, weights: th.Tensor) -> th.Tensor:
        seen.append((errors.shape, weights.shape))
        return (weights * errors.abs()).mean()

    for cls, discrete, critics in (
        (sb3_ext.SAC, False, 2),
        (sb3_ext.TD3, False, 2),
        (sb3_ext.DQN, True, 1),
        (sb3_ext.CrossQ, False, 2),
    ):
        seen.clear()
        sac(None, make_env(discrete=discrete), cls, critic_loss=loss).learn(40)
        assert seen
        assert set(seen) == {((critics, 16, 1), (16, 1))}


@pytest.mark.parametrize("weighting", [None, {"name": "lfiw", "fast_buffer_size": 20}])
@pytest.mark.parametrize("cls", [sb3_ext.SAC, sb3_ext.TD3, sb3_ext.DDPG, sb3_ext.DQN])
def test_pal_learns_with_every_base_and_with_lfiw(cls, weighting):
    """Large errors count less than under the mean square, so the same draws end elsewhere."""
    env = make_env(discrete=cls is sb3_ext.DQN)
    ends = []
    for loss in (None, "pal"):
        model = sac(None, env, cls, critic_loss=loss, weighting=weighting).learn(60)
        ends.append(model.policy.state_dict())
        assert all(th.isfinite(value).all() for value in ends[-1].values())
    assert any(not th.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize("cls", [sb3_ext.TQC, sb3_ext.QRDQN])
def test_distributional_critics_keep_their_loss(cls):
    env = make_env(discrete=cls is sb3_ext.QRDQN)
    with pytest.raises(ValueError, match=r"takes no critic_loss=.*learns quantiles"):
        sac(None, env, cls, critic_loss="pal")
    assert sac("lap", env, cls).loss_function is None


def test_the_pickle_of_a_model_s_config_is_plain():
    model = sac(Prioritized(alpha=np.float64(0.5)))
    assert pickle.loads(pickle.dumps(model.replay)) == model.replay
    assert type(model.replay["alpha"]) is float


@pytest.mark.skipif(not importlib.util.find_spec("numba"), reason="numba is not installed")
def test_the_compiled_tree_trains_to_the_same_bits():
    models = [sac(Prioritized(backend=backend)).learn(120) for backend in ("numpy", "numba")]
    one, other = (model.policy.state_dict() for model in models)
    assert all(th.equal(one[name], other[name]) for name in one)


# -- what it says ----------------------------------------------------------------------------------


def test_the_quantiles_are_looked_at_every_50_updates():
    sampler, window = with_masses([1.0] * 64)
    seen = []
    for update in range(101):
        indices = sampler.draw(4, window, NOW).indices
        sampler.observe(indices, th.full((4, 2), 1.0 + update))
        seen.append(dict(sampler.metrics()))
    medians = [figures["per/td_error_median"] for figures in seen]
    assert medians == [1.0] * 50 + [51.0] * 50 + [101.0]
    assert [figures["per/largest_mass"] for figures in seen] == [1.0 + k for k in range(101)]


def test_what_it_says_goes_on_after_loading():
    (one, window), (other, _) = with_masses([1.0] * 64), with_masses([1.0] * 64)
    one.draw(4, window, NOW)
    one.observe(np.arange(4), th.ones(4, 2))
    said = dict(one.metrics())
    other.load_state_dict(one.state_dict())
    assert other.metrics() == said
    for sampler in (one, other):
        for _ in range(60):
            sampler.draw(4, window, NOW)
            sampler.observe(np.arange(4), th.full((4, 2), 7.0))
            said = dict(sampler.metrics())
    assert one.metrics() == other.metrics() and said["per/td_error_median"] == 7
