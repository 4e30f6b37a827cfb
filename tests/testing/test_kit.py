"""The suites on what is right, and on what is wrong in one way each."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import sb3_contrib
import stable_baselines3 as sb3
import torch as th

import sb3_ext
from examples.custom_weighting import RewardSoftmax
from sb3_ext import Drawn, LikelihoodFree, Sampler, Weighting, registry
from sb3_ext.spec import Choice, PluginSpec
from sb3_ext.testing import AlgorithmConformance, SamplerConformance, WeightingConformance

OFF = {"learning_starts": 20, "batch_size": 16, "buffer_size": 500}


class TestLFIWSAC(AlgorithmConformance):
    algorithm = sb3_ext.LFIWSAC
    kwargs: ClassVar = {**OFF, "fast_buffer_size": 30, "ratio_net_arch": (8,)}


class TestTD3(AlgorithmConformance):
    algorithm = sb3_ext.TD3
    kwargs = OFF


@pytest.mark.slow
class TestLFIWTD3(AlgorithmConformance):
    algorithm = sb3_ext.LFIWTD3
    kwargs: ClassVar = {**OFF, "fast_buffer_size": 30, "ratio_net_arch": (8,)}


@pytest.mark.slow
class TestSAC(AlgorithmConformance):
    algorithm = sb3_ext.SAC
    kwargs = OFF


@pytest.mark.slow
class TestDDPG(AlgorithmConformance):
    algorithm = sb3_ext.DDPG
    kwargs = OFF


class TestDQN(AlgorithmConformance):
    algorithm = sb3_ext.DQN
    kwargs: ClassVar = {**OFF, "double_q": True, "target_update_interval": 30}


@pytest.mark.slow
class TestQRDQN(AlgorithmConformance):
    algorithm = sb3_ext.QRDQN
    kwargs: ClassVar = {**OFF, "target_update_interval": 30}


@pytest.mark.slow
class TestTQC(AlgorithmConformance):
    algorithm = sb3_ext.TQC
    kwargs = OFF


@pytest.mark.slow
class TestCrossQ(AlgorithmConformance):
    algorithm = sb3_ext.CrossQ
    kwargs = OFF


@pytest.mark.slow
class TestLFIWDQN(AlgorithmConformance):
    algorithm = sb3_ext.LFIWDQN
    kwargs: ClassVar = {**OFF, "fast_buffer_size": 30, "ratio_net_arch": (8,)}


class Stock(AlgorithmConformance):
    """SB3's classes have no spec."""

    action_spaces = ("Box",)
    observation_spaces = ("Box", "Dict")


class TestStockPPO(Stock):
    algorithm = sb3.PPO
    kwargs: ClassVar = {"n_steps": 20, "batch_size": 20, "n_epochs": 2}
    action_spaces = ("Box", "Discrete", "MultiDiscrete", "MultiBinary")


@pytest.mark.slow
class TestStockSAC(Stock):
    algorithm = sb3.SAC
    kwargs = OFF


@pytest.mark.slow
class TestStockTQC(Stock):
    algorithm = sb3_contrib.TQC
    kwargs = OFF


class TestLikelihoodFree(WeightingConformance):
    config = LikelihoodFree(fast_buffer_size=30, ratio_net_arch=(8,))


@pytest.mark.slow
class TestLikelihoodFreeOnQRDQN(WeightingConformance):
    config = LikelihoodFree(fast_buffer_size=30, ratio_net_arch=(8,))
    base = sb3_ext.QRDQN


class TestExample(WeightingConformance):
    config = RewardSoftmax(temperature=1.0)


@dataclass(frozen=True)
class NewestHalf:
    def build(self, algorithm: Any) -> "NewestHalfSampler":
        return NewestHalfSampler(np.random.default_rng(algorithm.seed))


class NewestHalfSampler(Sampler):
    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def draw(self, n, window, clock):
        newest = window.newest(max(1, window.size // 2))
        return Drawn(newest.draw(n, self.rng), th.ones(n, 1))

    def state_dict(self):
        return {"rng": self.rng.bit_generator.state}

    def load_state_dict(self, state):
        self.rng.bit_generator.state = state["rng"]


class TestSampler(SamplerConformance):
    config = NewestHalf()


@pytest.mark.slow
class TestSamplerOnDQN(SamplerConformance):
    config = NewestHalf()
    base = sb3_ext.DQN


# -- wrong in one way each ---------------------------------------------------------------------


class WrongSAC(sb3.SAC):
    pass


class IgnoresItsSeed(WrongSAC):
    def set_random_seed(self, seed=None):
        super().set_random_seed(7)


class DrawsFromTheAir(WrongSAC):
    def train(self, gradient_steps, batch_size=64):
        super().train(gradient_steps, batch_size)
        noise = np.random.default_rng().normal()
        with th.no_grad():
            next(self.actor.parameters()).add_(noise * 1e-3)


class ForgetsWhatItActsBy(WrongSAC):
    offset = 0.0

    def train(self, gradient_steps, batch_size=64):
        super().train(gradient_steps, batch_size)
        self.offset += 1e-3

    def predict(self, *args, **kwargs):
        actions, state = super().predict(*args, **kwargs)
        low, high = self.action_space.low, self.action_space.high
        return np.clip(actions + np.float32(self.offset), low, high), state

    def _excluded_save_params(self):
        return [*super()._excluded_save_params(), "offset"]


class ChangesItsInput(WrongSAC):
    def predict(self, observation, *args, **kwargs):
        observation += 1e-3
        return super().predict(observation, *args, **kwargs)


class ActsInTheWrongShape(WrongSAC):
    def predict(self, observation, *args, **kwargs):
        actions, state = super().predict(observation, *args, **kwargs)
        return actions[..., :1], state


class NeverStops(WrongSAC):
    def collect_rollouts(self, *args, **kwargs):
        rollout = super().collect_rollouts(*args, **kwargs)
        return rollout._replace(continue_training=True)


class CountsInSecret(WrongSAC):
    """Skips every third update by a counter that nobody can read."""

    def _setup_model(self):
        super()._setup_model()
        self.turns = iter([0, 1, 2] * 1000)

    def train(self, gradient_steps, batch_size=64):
        if next(self.turns):
            super().train(gradient_steps, batch_size)


class SeesNoPictures(WrongSAC):
    def train(self, gradient_steps, batch_size=64):
        if len(self.observation_space.shape) == 1:
            super().train(gradient_steps, batch_size)


class FlatTarget(sb3_ext.TD3):
    def bellman_target(self, batch):
        return super().bellman_target(batch).flatten()


class OneStepOnly(sb3_ext.TD3):
    def bellman_target(self, batch):
        return super().bellman_target(batch._replace(discounts=None))


class Endless(sb3_ext.TD3):
    def bellman_target(self, batch):
        return super().bellman_target(batch._replace(dones=batch.dones * 0))


class LeavesANetBehind(WrongSAC):
    def _setup_model(self):
        super()._setup_model()
        self.model = th.nn.Linear(3, 1)
        with th.no_grad():
            self.model.weight.add_(th.rand(1, 3, generator=th.Generator()))

    def train(self, gradient_steps, batch_size=64):
        super().train(gradient_steps, batch_size)
        with th.no_grad():
            self.model.weight.add_(1.0)

    def _excluded_save_params(self):
        return [*super()._excluded_save_params(), "model"]


class ForgetsAFrozenNet(WrongSAC):
    """A network that nobody trains is drawn anew in another process, unless it is saved."""

    def _setup_model(self):
        super()._setup_model()
        self.features = th.nn.Linear(3, 1)

    def _excluded_save_params(self):
        return [*super()._excluded_save_params(), "features"]


WRONG = [
    (ForgetsAFrozenNet, "test_saves_and_loads", "loses features on save and load"),
    (OneStepOnly, "test_the_target_heeds_ends_and_discounts", "where n_steps > 1"),
    (Endless, "test_the_target_heeds_ends_and_discounts", "beyond the end of an episode"),
    (LeavesANetBehind, "test_saves_and_loads", "loses model on save and load"),
    (CountsInSecret, "test_a_killed_run_goes_on_exactly", "after a kill: .*policy.* ended"),
    (SeesNoPictures, "test_learns_from_images", "learns nothing from images"),
    (IgnoresItsSeed, "test_other_seed_other_parameters", "it ignores its seed"),
    (DrawsFromTheAir, "test_same_seed_same_parameters", "draw all randomness from generators"),
    (ForgetsWhatItActsBy, "test_saves_and_loads", "acts in another way after save and load"),
    (sb3.TD3, "test_nan_is_not_hidden", "has trained on it in silence"),
    (ChangesItsInput, "test_observations_and_arguments_are_left_alone", "changes the observation"),
    (ActsInTheWrongShape, "test_predicts_in_the_action_space", r"shape \(2, 1\) for 2"),
    (NeverStops, "test_a_callback_can_stop_it", "goes on after a callback returned False"),
]


@pytest.mark.parametrize(
    ("wrong", "law", "told"), WRONG, ids=lambda value: getattr(value, "__name__", "")
)
def test_what_is_wrong_breaks_its_law_and_is_told(wrong, law, told, tmp_path):
    suite = Stock()
    suite.algorithm, suite.kwargs, suite.observation_spaces = wrong, OFF, ("Box",)
    method = getattr(AlgorithmConformance, law)
    arguments = [tmp_path] if "tmp_path" in method.__code__.co_varnames else []
    with pytest.raises(AssertionError, match=told):
        method(suite, *arguments)


class ForgetfulSampler(NewestHalfSampler):
    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


@dataclass(frozen=True)
class Forgetful:
    def build(self, algorithm: Any) -> ForgetfulSampler:
        return ForgetfulSampler(np.random.default_rng(algorithm.seed))


def test_a_flat_target_is_refused_where_it_would_broadcast():
    suite = Stock()
    suite.algorithm, suite.kwargs = FlatTarget, OFF
    with pytest.raises(
        ValueError, match=r"\[16, 1\], got \[16\]: return a column .* bellman_target"
    ):
        suite.test_learns_on_every_declared_space()


def test_declared_spaces_and_search_spaces_of_parts_are_tried(monkeypatch):
    spec = PluginSpec(
        kind="weighting",
        name="faulty",
        summary="It is.",
        target=f"{__name__}:Faulty",
        search_space={"fautl": Choice(("none",))},
        observation_spaces=("Dict",),
    )
    registry.register(spec)
    monkeypatch.setattr(registry, "spec_of", lambda target: spec if target is Faulty else None)
    try:
        suite = WeightingConformance()
        suite.config = Faulty("vectors only")
        with pytest.raises(AssertionError, match="has 'fautl', which is no argument"):
            suite.test_search_space_names_arguments()
        with pytest.raises(RuntimeError, match="a vector was expected"):
            suite.test_learns_on_every_declared_space()
    finally:
        registry.unregister(spec)


def test_a_sampler_that_forgets_is_told(tmp_path):
    suite = SamplerConformance()
    suite.config = Forgetful()
    with pytest.raises(AssertionError, match="Put into state_dict all that draw uses"):
        suite.test_a_killed_run_goes_on_exactly(tmp_path)


def test_a_budget_of_one_rollout_is_told(tmp_path):
    suite = Stock()
    suite.algorithm, suite.kwargs, suite.steps = sb3.PPO, {"n_steps": 60, "batch_size": 60}, 60
    with pytest.raises(AssertionError, match="raise steps"):
        suite.test_a_killed_run_goes_on_exactly(tmp_path)


@dataclass(frozen=True)
class Faulty:
    fault: str

    def build(self, algorithm: Any) -> "FaultyWeighting | None":
        if self.fault == "reseeds":
            th.manual_seed(0)
            np.random.seed(0)
        return None if self.fault == "none at all" else FaultyWeighting(self.fault, algorithm)


class FaultyWeighting(Weighting):
    def __init__(self, fault: str, algorithm: Any) -> None:
        self.fault, self.calls = fault, 0
        self.scale = th.tensor(1.0 + np.random.default_rng(algorithm.seed).random())

    def state_dict(self):
        return {"made": Faulty(self.fault)} if self.fault == "object" else {}

    def load_state_dict(self, state, strict=True):
        if self.fault == "lost key":
            self.scale = state["scale"]

    def weigh(self, draw, replay):
        self.calls += 1
        if self.fault == "vectors only" and isinstance(draw.samples.observations, dict):
            raise RuntimeError("a vector was expected")
        rewards = draw.samples.rewards.clone()
        weights = th.softmax(rewards, dim=0) * len(rewards)
        if self.fault == "frozen":
            return weights * self.scale
        if self.fault == "gradient":
            return weights.requires_grad_()
        if self.fault == "mean":
            return weights * 2
        if self.fault == "batch":
            draw.samples.rewards.mul_(2)
        if self.fault == "state":
            return weights * (1 + self.calls % 7) / 4
        return th.ones_like(weights) if self.fault == "idle" else weights

    def metrics(self):
        return {"calls": 1.0} if self.fault == "metrics" else {}


FAULTS = [
    ("gradient", "test_weights_carry_no_gradient", "detach them"),
    ("mean", "test_weights_have_mean_one", "have mean 2.0000"),
    ("batch", "test_the_batch_and_the_buffer_are_left_alone", "changes the batch"),
    ("state", "test_the_state_is_all_there_is", "put into state_dict all that weigh uses"),
    ("state", "test_a_killed_run_goes_on_exactly", "Put into state_dict all that weigh uses"),
    ("idle", "test_it_changes_what_is_learned", "gives no weight other than one"),
    ("none at all", "test_weights_are_a_column", "inherits from sb3_ext.Weighting, got NoneType"),
    ("frozen", "test_the_state_is_all_there_is", "networks, frozen ones too"),
    ("object", "test_the_state_is_all_there_is", r"\['made'\] of Faulty is a Faulty"),
    ("lost key", "test_the_state_is_all_there_is", "looks for 'scale', which state_dict did not"),
    ("reseeds", "test_building_it_leaves_the_generators_alone", "moves a global random generator"),
    ("metrics", "test_metrics_are_numbers", "put its name in front"),
]


@pytest.mark.parametrize(("fault", "law", "told"), FAULTS)
def test_a_faulty_weighting_breaks_its_law_and_is_told(fault, law, told, tmp_path):
    suite = WeightingConformance()
    method = getattr(suite, law)
    arguments = [tmp_path / "run"] if "tmp_path" in method.__code__.co_varnames else []
    suite.config = Faulty(fault)
    with pytest.raises(AssertionError, match=told):
        method(*arguments)
    suite.config = Faulty("none")
    method(*[path / "right" for path in arguments])
