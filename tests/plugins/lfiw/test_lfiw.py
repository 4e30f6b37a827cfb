"""LFIW at work: when it is active, what it is fed, what it believes, and what it refuses."""

from __future__ import annotations

import copy
import tracemalloc
from typing import Any

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from stable_baselines3.common.logger import configure
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from sb3_ext import LFIWSAC, LFIWTD3, SAC, TD3, LikelihoodFree
from sb3_ext.algorithms.td3 import DDPG
from sb3_ext.plugins.lfiw.weighting import LikelihoodFreeWeighting
from sb3_ext.replay.sampler import Drawn, Sampler
from sb3_ext.replay.split import draw_split, held_out
from sb3_ext.replay.window import Window
from sb3_ext.updates import Clock, Draw
from tests.environments import make_env

SMALL: dict[str, Any] = {
    "learning_starts": 20,
    "batch_size": 32,
    "buffer_size": 200,
    "fast_buffer_size": 40,
    "policy_kwargs": {"net_arch": [16, 16]},
    "ratio_net_arch": (16, 16),
    "device": "cpu",
    "seed": 0,
}


def small(cls: Any = LFIWSAC, env: Any = None, policy: str = "MlpPolicy", **kwargs: Any) -> Any:
    options = copy.deepcopy(SMALL) | kwargs
    return cls(policy, make_env() if env is None else env, **options)


def parameters(model: Any) -> list[th.Tensor]:
    return [p.detach().clone() for p in model.policy.parameters()]


# -- when it is active ---------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "stock"), [(LFIWSAC, sb3.SAC), (LFIWTD3, sb3.TD3)])
def test_until_the_slow_buffer_outgrows_the_fast_one_it_is_stock_sb3_to_the_bit(
    cls: Any, stock: Any
) -> None:
    ours = small(cls, fast_buffer_size=199, engine="reference")
    with pytest.warns(UserWarning, match="weights will stay at 1"):
        ours.learn(199)  # not one transition more than the fast buffer holds
    options = {k: v for k, v in SMALL.items() if k not in ("fast_buffer_size", "ratio_net_arch")}
    theirs = stock("MlpPolicy", make_env(), **copy.deepcopy(options))
    theirs.learn(199)
    for mine, other in zip(parameters(ours), parameters(theirs), strict=True):
        assert th.equal(mine, other)
    assert ours.weigher.updates == 0
    assert ours.weigher.metrics() == {"lfiw/active": 0.0}


@pytest.mark.parametrize("n_envs", [1, 3])
def test_it_begins_with_the_first_row_that_the_fast_buffer_does_not_hold(n_envs: int) -> None:
    model = small(env=make_env(n_envs=n_envs), buffer_size=210)
    rows = -(-40 // n_envs)
    model.learn((rows + 1) * n_envs)
    assert model.weigher.metrics()["lfiw/active"] == 1
    assert model.weigher.updates == 1


def test_a_budget_that_never_gets_there_is_said_before_training() -> None:
    model = small(fast_buffer_size=150)
    with pytest.warns(UserWarning, match=r"weights will stay at 1.*fast_buffer_size=150"):
        model.learn(100)
    model.learn(60, reset_num_timesteps=False)  # 160 transitions: no warning, or pytest fails
    assert model.weigher.metrics()["lfiw/active"] == 1


def test_all_health_figures_reach_the_logger() -> None:
    model = small()
    model.set_logger(configure(None, []))
    model.learn(150, log_interval=10_000)
    logged = model.logger.name_to_value
    assert 0 < logged["lfiw/effective_sample_size"] <= 1
    assert logged["lfiw/weight_max"] >= 1
    assert 0 <= logged["lfiw/holdout_accuracy"] <= 1
    assert 0 <= logged["lfiw/train_accuracy"] <= 1
    assert logged["lfiw/ratio_mean"] > 0
    assert np.isfinite(logged["lfiw/ratio_loss"])
    assert logged["lfiw/active"] == 1


# -- what it believes ------------------------------------------------------------------------------


def shifting_model(cls: Any = LFIWSAC, env: Any = None, **kwargs: Any) -> Any:
    """A full buffer whose older part lies around -1 and whose newest 400 transitions around +1.

    The ring has wrapped: the newest transitions stand at its start and at its end.
    """
    kwargs = {"buffer_size": 2400, "fast_buffer_size": 400, "batch_size": 128} | kwargs
    model = small(cls, env, ratio_learning_rate=3e-3, **kwargs)
    model.set_logger(configure(None, []))
    buffer, rng = model.replay_buffer, np.random.default_rng(0)
    n_envs, rows = buffer.n_envs, buffer.buffer_size
    newest = -(-400 // n_envs)
    for k in range(rows + newest // 2):
        centre = 1.0 if k >= rows - newest // 2 else -1.0

        def point(centre: float = centre) -> Any:
            if isinstance(buffer.observations, dict):
                return {
                    "a": rng.normal(centre, 0.5, (n_envs, 3)),
                    "b": np.zeros((n_envs, 2), np.float32),
                }
            shape = buffer.obs_shape
            if len(shape) == 3:
                image = np.zeros((n_envs, *shape), np.uint8)
                image[:, :, : shape[1] // 2] = 200 if centre > 0 else 20
                return image
            return rng.normal(centre, 0.5, (n_envs, 3))

        action = rng.uniform(-1, 1, (n_envs, 2)).astype(np.float32)
        nothing = np.zeros(n_envs)
        buffer.add(point(), point(), action, nothing, nothing, [{}] * n_envs)
    assert buffer.full
    return model


def weights_of_new_and_old(model: Any) -> tuple[float, float]:
    """Mean weight of transitions in the fast window and of all others, by the trained network."""
    replay = model.replay_view
    fast = replay.window.newest(model.fast_buffer_size)
    everything = replay.window.indices()
    is_new = fast.contains(everything)
    samples = replay.gather(everything)
    drawn = Draw(samples, th.ones(len(everything), 1))
    weights = model.weigher.weigh(drawn, replay).flatten().numpy()
    assert weights.mean() == pytest.approx(1, abs=1e-4)
    return float(weights[is_new].mean()), float(weights[~is_new].mean())


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "KL": {"divergence": "kl"},
    "chi-square": {"divergence": "chi2"},
    "Hellinger": {"divergence": "hellinger"},
    "authors' form": {"weight_form": "prob"},
    "three updates": {"ratio_updates": 3},
    "TD3": {"cls": LFIWTD3},
    "three envs": {"env": {"n_envs": 3}},
    "VecNormalize": {"env": {"normalize": True}},
    "Dict": {"env": {"kind": "dict"}, "policy": "MultiInputPolicy"},
    "n-step": {"n_steps": 3},
    "memory": {
        "optimize_memory_usage": True,
        "replay_buffer_kwargs": {"handle_timeout_termination": False},
    },
    "image": {
        "env": {"kind": "image"},
        "policy": "CnnPolicy",
        "policy_kwargs": {
            "net_arch": [16],
            "features_extractor_kwargs": {"features_dim": 16},
        },
        "buffer_size": 1600,
        "fast_buffer_size": 400,
        "batch_size": 32,
    },
    "no bound, no normaliser, no hold-out": {
        "logit_clip": None,
        "normalize_inputs": False,
        "holdout_fraction": 0.0,
    },
}


@pytest.mark.parametrize("case", CASES)
def test_rows_near_the_current_policy_outweigh_stale_ones(case: str) -> None:
    options = dict(CASES[case])
    cls = options.pop("cls", LFIWSAC)
    model = shifting_model(cls, make_env(**options.pop("env", {})), **options)
    before = model.replay_buffer.pos
    model.train(gradient_steps=150 if case != "image" else 60, batch_size=model.batch_size)
    assert model.replay_buffer.pos == before
    new, old = weights_of_new_and_old(model)
    assert new > 1.15
    assert old < 1
    metrics = model.weigher.metrics()
    assert metrics["lfiw/train_accuracy"] > 0.8
    if model.holdout_fraction:
        assert metrics["lfiw/holdout_accuracy"] > 0.8


def test_exchanging_fast_and_slow_would_turn_the_weights_around(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The test above can fail: with the two exchanged, stale rows outweigh new ones."""
    from sb3_ext.plugins.lfiw import weighting

    right = weighting.density_ratio_loss
    monkeypatch.setattr(weighting, "density_ratio_loss", lambda s, f, d: right(f, s, d))
    model = shifting_model()
    model.train(gradient_steps=150, batch_size=128)
    new, old = weights_of_new_and_old(model)
    assert new < old


def test_a_hotter_temperature_is_milder() -> None:
    spread = []
    for temperature in (1.0, 5.0, 50.0):
        model = shifting_model(temperature=temperature)
        model.train(gradient_steps=150, batch_size=128)
        new, old = weights_of_new_and_old(model)
        spread.append(new / old)
    assert spread[0] > spread[1] > spread[2]
    assert spread[2] < 1.1


def test_one_distribution_in_both_buffers_leaves_the_weights_near_one() -> None:
    # Ten times more slow than fast, all of it the same noise: the truth is w = 1, and the bound
    # alone would allow weights between 0.1 and 10.
    model = memorising_model(
        fast_buffer_size=400, ratio_net_arch=(16, 16), ratio_learning_rate=1e-3
    )
    model.train(gradient_steps=301, batch_size=256)
    metrics = model.weigher.metrics()
    assert metrics["lfiw/ratio_loss"] == pytest.approx(0, abs=0.1)
    assert metrics["lfiw/ratio_mean"] == pytest.approx(1, abs=0.15)
    assert metrics["lfiw/effective_sample_size"] > 0.85
    assert metrics["lfiw/holdout_accuracy"] == pytest.approx(0.5, abs=0.1)


# -- what it touches -------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [LFIWSAC, LFIWTD3])
def test_networks_learn_from_their_own_loss_only(cls: Any) -> None:
    model = small(cls)
    model.learn(100)
    replay, weigher = model.replay_view, model.weigher
    draw = replay.draw(32, Clock(0, 1, 1.0))
    policy = parameters(model)
    weights = weigher.weigh(draw, replay)
    assert not weights.requires_grad
    for before, after in zip(policy, parameters(model), strict=True):
        assert th.equal(before, after)
    network = [p.detach().clone() for p in weigher.network.parameters()]
    for parameter in weigher.network.parameters():
        parameter.grad = None
    model.gradient_step(draw.samples, weights)
    assert all(p.grad is None for p in weigher.network.parameters())
    for before, after in zip(network, weigher.network.parameters(), strict=True):
        assert th.equal(before, after)


def test_weights_follow_the_ratio_form_of_the_network_before_its_step() -> None:
    model = small(temperature=2.0, logit_clip=None, normalize_inputs=False)
    model.learn(120)
    replay = model.replay_view
    draw = replay.draw(16, Clock(0, 1, 1.0))
    observations = draw.samples.observations.float()
    with th.no_grad():
        logits = model.weigher.network(observations, draw.samples.actions)
    expected = 16 * th.softmax(logits / 2.0, dim=0)
    th.testing.assert_close(model.weigher.weigh(draw, replay), expected)


def test_images_are_weighed_by_detached_encoder_features() -> None:
    kwargs = {"net_arch": [8], "features_extractor_kwargs": {"features_dim": 6}}
    model = small(env=make_env("image"), policy="CnnPolicy", policy_kwargs=kwargs)
    model.learn(60)
    assert model.weigher.network.layers[0].in_features == 6 + 2
    assert model.weigher.network.normalize
    encoder = model.critic.features_extractor
    for parameter in encoder.parameters():
        parameter.grad = None
    replay = model.replay_view
    model.weigher.weigh(replay.draw(8, Clock(0, 1, 1.0)), replay)
    assert all(parameter.grad is None for parameter in encoder.parameters())


@pytest.mark.parametrize(
    ("normalize_env", "option", "expected"),
    [(False, "auto", True), (True, "auto", False), (True, True, True), (False, False, False)],
)
def test_the_networks_own_normaliser(normalize_env: bool, option: Any, expected: bool) -> None:
    model = small(env=make_env(normalize=normalize_env), normalize_inputs=option)
    assert model.weigher.network.normalize is expected
    model.learn(100)
    moved = not th.equal(model.weigher.network.mean, th.zeros(3))
    assert moved is expected


def test_the_normaliser_learns_mean_and_variance() -> None:
    model = shifting_model()
    model.train(gradient_steps=100, batch_size=128)
    stored = model.replay_buffer.observations[:, 0]
    network = model.weigher.network
    np.testing.assert_allclose(network.mean, stored.mean(0), atol=0.08)
    np.testing.assert_allclose(network.variance, stored.var(0), rtol=0.1)


def test_no_second_copy_of_the_buffer() -> None:
    model = small(buffer_size=60_000, fast_buffer_size=30_000, learning_starts=10)
    buffer = model.replay_buffer
    buffer.full = True
    replay = model.replay_view
    model.weigher.weigh(replay.draw(32, Clock(0, 1, 1.0)), replay)
    fast_bytes = buffer.observations.nbytes // 2
    tracemalloc.start()
    for _ in range(5):
        model.weigher.weigh(replay.draw(32, Clock(0, 1, 1.0)), replay)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < fast_bytes / 5


class Skewed(Sampler):
    """Draws old transitions four times as often as new ones, and corrects for it."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def draw(self, n: int, window: Window, clock: Clock) -> Drawn:
        indices = window.indices()
        is_new = window.newest(400).contains(indices)
        chance = np.where(is_new, 0.25, 1.0)
        chance /= chance.sum()
        chosen = self.rng.choice(len(indices), size=n, p=chance)
        correction = 1 / (chance[chosen] * len(indices))
        return Drawn(indices[chosen], th.as_tensor(correction, dtype=th.float32)[:, None])


class SkewedConfig:
    def build(self, algorithm: Any) -> Sampler:
        return Skewed()


def test_under_a_skewed_sampler_negatives_stay_uniform_and_weights_are_corrected() -> None:
    uniform, skewed = shifting_model(), shifting_model(replay=SkewedConfig())
    ratios = []
    for model in (uniform, skewed):
        model.train(gradient_steps=200, batch_size=128)
        new, old = weights_of_new_and_old(model)
        ratios.append(new / old)
    assert ratios[1] == pytest.approx(ratios[0], rel=0.25)
    replay = skewed.replay_view
    draw = replay.draw(2000, Clock(0, 1, 1.0))
    weights = skewed.weigher.weigh(draw, replay)
    corrected = (draw.weights * weights).mean() / draw.weights.mean()
    assert corrected.item() == pytest.approx(1, abs=1e-5)


# -- the watch on memorising -----------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_the_held_out_slice_has_its_share_in_runs_and_keeps_its_rows(fraction: float) -> None:
    window = Window(head=350, length=1000, capacity=5000, n_envs=2)
    indices = window.indices()
    out = held_out(indices, window, fraction)
    assert out.mean() == pytest.approx(fraction, abs=0.03)
    boundaries = np.flatnonzero(np.diff(out.astype(int)))
    assert len(boundaries) < len(indices) / 8  # runs, not single rows
    later = Window(head=450, length=1000, capacity=5000, n_envs=2)
    stayed = indices[later.contains(indices)]
    assert (held_out(stayed, later, fraction) == held_out(stayed, window, fraction)).all()


def test_training_never_sees_the_held_out_slice() -> None:
    window, rng = Window(head=100, length=500, capacity=2000), np.random.default_rng(0)
    trained = draw_split(window, 20_000, rng, 0.2, out=False)
    unseen = draw_split(window, 20_000, rng, 0.2, out=True)
    assert len(trained) == len(unseen) == 20_000
    assert not set(trained) & set(unseen)
    assert set(trained) | set(unseen) == set(window.indices())
    assert (held_out(unseen, window, 0.2)).all()


@pytest.mark.parametrize("n_envs", [1, 3])
def test_the_held_out_slice_is_no_negative_either(
    n_envs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Met as slow only, held-out transitions would be learned as stale and lose weight."""
    from sb3_ext.plugins.lfiw import weighting

    counts: list[tuple[int, int]] = []
    right = weighting.density_ratio_loss

    def spy(slow: th.Tensor, fast: th.Tensor, divergence: str) -> th.Tensor:
        counts.append((len(slow), len(fast)))
        return right(slow, fast, divergence)

    monkeypatch.setattr(weighting, "density_ratio_loss", spy)
    model = shifting_model(env=make_env(n_envs=n_envs), holdout_fraction=0.5)
    replay = model.replay_view
    for _ in range(20):
        draw = replay.draw(128, Clock(0, 1, 1.0))
        model.weigher.weigh(draw, replay)
        fast = replay.window.newest(400)
        in_fast = np.isin(draw.rows, fast.rows())
        out = in_fast & held_out(draw.rows * n_envs, fast, 0.5)
        assert counts[-1] == (128 - out.sum(), 64)
    assert sum(128 - slow for slow, _ in counts) > 50  # about half of a sixth of 20 * 128


def test_weighing_leaves_batch_norm_and_dropout_of_an_encoder_alone() -> None:
    class Encoder(BaseFeaturesExtractor):
        def __init__(self, space: Any) -> None:
            super().__init__(space, 8)
            self.layers = th.nn.Sequential(
                th.nn.Linear(3, 8), th.nn.BatchNorm1d(8), th.nn.Dropout(0.5)
            )

        def forward(self, observations: th.Tensor) -> th.Tensor:
            return self.layers(observations)

    model = small(policy_kwargs={"net_arch": [8], "features_extractor_class": Encoder})
    model.learn(60)
    encoder = model.critic.features_extractor
    encoder.train(True)
    replay = model.replay_view
    draw = replay.draw(16, Clock(0, 1, 1.0))
    before = [b.clone() for b in encoder.buffers()], th.get_rng_state()
    model.weigher.weigh(draw, replay)
    assert all(th.equal(a, b) for a, b in zip(before[0], encoder.buffers(), strict=True))
    assert th.equal(before[1], th.get_rng_state())
    assert encoder.training


def test_a_tiny_window_still_gives_a_batch() -> None:
    window = Window(head=3, length=1, capacity=10)
    for out in (True, False):
        assert draw_split(window, 5, np.random.default_rng(0), 0.1, out).tolist() == [2] * 5


def memorising_model(**kwargs: Any) -> Any:
    """Pure noise in many dimensions, few of it fast: nothing to learn but the rows themselves."""
    options = {
        "buffer_size": 4000,
        "fast_buffer_size": 60,
        "batch_size": 256,
        "ratio_net_arch": (256, 256),
        "ratio_learning_rate": 3e-3,
        "temperature": 1.0,
    }
    model = small(**(options | kwargs))
    model.set_logger(configure(None, []))
    buffer, rng = model.replay_buffer, np.random.default_rng(0)
    buffer.observations[:] = rng.normal(size=buffer.observations.shape)
    buffer.actions[:] = rng.uniform(-1, 1, buffer.actions.shape)
    buffer.full = True
    return model


def test_memorising_shows_in_the_held_out_accuracy_and_is_warned_of() -> None:
    model = memorising_model(logit_clip=None)
    with pytest.warns(UserWarning, match="importance weights have collapsed.*raise temperature"):
        model.train(gradient_steps=1001, batch_size=256)
    metrics = model.weigher.metrics()
    assert metrics["lfiw/train_accuracy"] > 0.9
    assert metrics["lfiw/holdout_accuracy"] < 0.75
    assert metrics["lfiw/effective_sample_size"] < 0.1


def test_the_bound_and_the_papers_temperature_prevent_the_collapse() -> None:
    model = memorising_model(temperature=5.0)
    model.train(gradient_steps=1001, batch_size=256)  # a warning would fail the test
    metrics = model.weigher.metrics()
    bound = 4000 / 60
    assert metrics["lfiw/weight_max"] <= bound ** (2 / 5) + 1e-4
    assert metrics["lfiw/effective_sample_size"] > 0.5


# -- options and bad input -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"temperature": 0}, "temperature must be > 0"),
        ({"temperature": -2.0}, "temperature must be > 0"),
        ({"temperature": float("nan")}, "temperature must be > 0"),
        ({"temperature": "hot"}, "temperature must be > 0.*'hot'"),
        ({"fast_buffer_size": 0}, "fast_buffer_size must be an integer >= 1"),
        ({"fast_buffer_size": 1e4}, "fast_buffer_size must be an integer >= 1"),
        ({"fast_buffer_size": True}, "fast_buffer_size must be an integer >= 1"),
        ({"ratio_net_arch": 64}, "ratio_net_arch must be a tuple of layer widths"),
        ({"holdout_fraction": "x"}, "holdout_fraction must be in"),
        ({"divergence": "tv"}, r"divergence must be one of \('js', .*got 'tv'"),
        ({"weight_form": "odds"}, r"weight_form must be one of \('ratio', 'prob'\).*got 'odds'"),
        ({"ratio_net_arch": (64, 0)}, "ratio_net_arch must be a tuple of layer widths"),
        ({"ratio_learning_rate": -1e-3}, "ratio_learning_rate must be None or > 0"),
        ({"ratio_updates": 0}, "ratio_updates must be an integer >= 1"),
        ({"logit_clip": 0}, "logit_clip must be 'auto', None or > 0"),
        ({"normalize_inputs": "yes"}, "normalize_inputs must be one of"),
        ({"holdout_fraction": 0.9}, "holdout_fraction must be in"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(options: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        small(**options)
    with pytest.raises(ValueError, match=sentence):
        LikelihoodFree(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"fast_buffer_size": 200},
        {"fast_buffer_size": 5000},
        {"fast_buffer_size": 198, "env": {"n_envs": 3}},  # 66 rows of 66
        {
            "fast_buffer_size": 199,
            "optimize_memory_usage": True,
            "replay_buffer_kwargs": {"handle_timeout_termination": False},
        },
    ],
)
def test_a_chosen_fast_buffer_that_fills_the_ring_is_refused(options: Any) -> None:
    env = make_env(**options.pop("env", {}))
    with pytest.raises(ValueError, match="fast_buffer_size must be smaller than the replay buffer"):
        small(env=env, **options)


def test_the_default_fast_buffer_shrinks_with_a_note_and_is_saved_shrunken(tmp_path: Any) -> None:
    options = {k: v for k, v in SMALL.items() if k != "fast_buffer_size"}
    with pytest.warns(UserWarning, match="default fast_buffer_size=10000 does not fit.*using 20"):
        model = LFIWSAC("MlpPolicy", make_env(), **copy.deepcopy(options))
    assert model.fast_buffer_size == 20
    model.save(tmp_path / "m")
    assert LFIWSAC.load(tmp_path / "m").fast_buffer_size == 20


@pytest.mark.parametrize("base", [SAC, TD3, DDPG])
@pytest.mark.parametrize(
    "weighting",
    [
        LikelihoodFree(fast_buffer_size=40, ratio_net_arch=(16, 16)),
        {"name": "lfiw", "fast_buffer_size": 40, "ratio_net_arch": [16, 16]},
    ],
    ids=["config", "mapping"],
)
def test_every_base_takes_it_as_a_weighting(base: Any, weighting: Any) -> None:
    options = {k: v for k, v in SMALL.items() if k not in ("fast_buffer_size", "ratio_net_arch")}
    model = base("MlpPolicy", make_env(), weighting=weighting, **copy.deepcopy(options))
    model.learn(100)
    assert isinstance(model.weigher, LikelihoodFreeWeighting)
    assert model.weigher.metrics()["lfiw/active"] == 1
    if base in (SAC, TD3):
        named = small({SAC: LFIWSAC, TD3: LFIWTD3}[base])
        named.learn(100)
        for a, b in zip(parameters(model), parameters(named), strict=True):
            assert th.equal(a, b)


def test_its_own_weighting_leaves_no_room_for_another(tmp_path: Any) -> None:
    with pytest.raises(TypeError, match=r"LFIWSAC takes no weighting=.*brings its own"):
        small(weighting="lfiw")
    small().save(tmp_path / "m")
    with pytest.raises(TypeError, match=r"LFIWSAC\.load takes no weighting="):
        LFIWSAC.load(tmp_path / "m", weighting={"name": "lfiw", "temperature": 9})


def test_an_option_changed_on_the_model_takes_effect_or_says_why_not() -> None:
    model = small()
    model.learn(80)
    model.temperature = 1e6
    model.learn(1, reset_num_timesteps=False)
    assert model.weigher.metrics()["lfiw/weight_max"] == pytest.approx(1, abs=1e-3)
    model.ratio_net_arch = (8,)
    with pytest.raises(ValueError, match="ratio_net_arch is built into the ratio network"):
        model.learn(1, reset_num_timesteps=False)
    model.ratio_net_arch, model.temperature = (16, 16), -1
    with pytest.raises(ValueError, match="temperature must be > 0"):
        model.learn(1, reset_num_timesteps=False)
    model.temperature, model.fast_buffer_size = 5.0, 500
    with pytest.raises(ValueError, match="fast_buffer_size must be smaller"):
        model.learn(1, reset_num_timesteps=False)


def test_numpy_numbers_are_numbers() -> None:
    model = small(fast_buffer_size=np.int64(40), temperature=np.float32(3.0))
    assert type(model.fast_buffer_size) is int
    assert type(model.temperature) is float
    model.learn(60)


def test_the_same_seed_gives_the_same_run() -> None:
    runs = []
    for _ in range(2):
        model = small()
        model.learn(150)
        runs.append([*parameters(model), *model.weigher.network.parameters()])
    for a, b in zip(*runs, strict=True):
        assert th.equal(a, b)


def test_the_learning_rate_follows_the_critics_schedule_unless_given() -> None:
    schedule = lambda progress: 1e-3 * (0.5 + progress / 2)  # noqa: E731
    follows, own = small(learning_rate=schedule), small(ratio_learning_rate=5e-4)
    for model in (follows, own):
        model.learn(100)
    rate = follows.weigher.optimizer.param_groups[0]["lr"]
    assert rate == follows.critic.optimizer.param_groups[0]["lr"]
    assert rate < 6e-4
    assert own.weigher.optimizer.param_groups[0]["lr"] == 5e-4
