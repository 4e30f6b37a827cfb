"""Bad input gets one sentence, before training or at the step where it appears."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_ext import DQN, LFIWDQN, LFIWSAC, LFIWTD3, PAL, QRDQN, SAC, TD3, TQC, CrossQ
from sb3_ext.errors import NonFiniteError
from sb3_ext.replay.sampler import Drawn, Sampler
from sb3_ext.testing.environments import kit_env
from sb3_ext.updates import Clock, Draw
from sb3_ext.weighting import Weighting
from tests.environments import Drift, make_env

SMALL: dict[str, Any] = {
    "learning_starts": 10,
    "batch_size": 8,
    "buffer_size": 200,
    "policy_kwargs": {"net_arch": [8]},
    "device": "cpu",
}


def small() -> dict[str, Any]:
    """A copy: SB3 writes into ``policy_kwargs``."""
    return copy.deepcopy(SMALL)


@pytest.mark.parametrize("cls", [LFIWSAC, LFIWTD3, SAC, TD3, TQC, CrossQ])
def test_a_discrete_action_space_is_refused(cls: Any) -> None:
    told = rf"{cls.__name__} supports Box .*got Discrete\(2\); .*sb3_ext\.DQN or sb3_ext\.LFIWDQN"
    with pytest.raises(ValueError, match=told):
        cls("MlpPolicy", "CartPole-v1")


@pytest.mark.parametrize("cls", [DQN, QRDQN, LFIWDQN])
def test_a_box_action_space_is_refused_where_actions_are_counted(cls: Any) -> None:
    told = rf"{cls.__name__} supports Discrete .*got Box.*for Box actions use .*sb3_ext\.SAC"
    with pytest.raises(ValueError, match=told):
        cls("MlpPolicy", "Pendulum-v1")


def test_actions_that_nobody_of_ours_takes_are_refused_with_an_algorithm_that_does() -> None:
    with pytest.raises(ValueError, match=r"got MultiBinary\(2\); .* stable_baselines3\.PPO"):
        DQN("MlpPolicy", kit_env(action="MultiBinary"))


def test_an_unknown_env_id_is_answered_with_the_near_miss() -> None:
    with pytest.raises(gym.error.UnregisteredEnv, match=r"(?i)did you mean.*Pendulum"):
        LFIWSAC("MlpPolicy", "Pendulun-v1")


@pytest.mark.parametrize("cls", [LFIWSAC, LFIWTD3])
def test_a_misspelt_argument_is_answered_with_the_near_miss(cls: Any) -> None:
    with pytest.raises(TypeError, match=f"{cls.__name__} got an .*'temprature'; .*'temperature'"):
        cls("MlpPolicy", make_env(), temprature=5)


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ValueError, match=r"engine must be one of 'auto', .*got 'warp'"):
        SAC("MlpPolicy", make_env(), engine="warp")


@pytest.mark.parametrize(
    ("doors", "error", "sentence"),
    [
        ({"weighting": "lfwi"}, Exception, "did you mean 'lfiw'"),
        ({"weighting": {"temperature": 5}}, TypeError, "must have a 'name'.*'temperature'"),
        (
            {"weighting": {"name": "lfiw", "temprature": 5}},
            TypeError,
            "weighting='lfiw' got an unknown argument 'temprature'; did you mean 'temperature'",
        ),
        ({"weighting": {"name": "lfiw", "temperature": 0}}, ValueError, "temperature must be > 0"),
        ({"weighting": 5}, TypeError, "weighting= takes a config object.*got 5"),
        ({"weighting": dict}, TypeError, "weighting= takes"),
        ({"replay": "lfiw"}, Exception, "sampler"),
        ({"replay": 3.5}, TypeError, "replay= takes a config object"),
        ({"replay": "pal"}, LookupError, "is a loss and no sampler: give it as critic_loss='pal'"),
        ({"weighting": "Huber"}, LookupError, "give it as critic_loss='huber'"),
        ({"replay": PAL()}, TypeError, "a loss is given as critic_loss="),
        ({"replay": "uniform"}, LookupError, "leave replay= out, or give None"),
        ({"weighting": "none"}, LookupError, "leave weighting= out, or give None"),
        ({"replay": "lfiw"}, LookupError, "goes into an algorithm, as weighting='lfiw'"),
        ({"replay_buffer_kwargs": {"alpha": 1}}, TypeError, "got 'alpha', .* go into replay=, as"),
    ],
)
def test_doors_refuse_what_is_no_config(doors: Any, error: Any, sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        SAC("MlpPolicy", make_env(), **small(), **doors)


class Returns(Weighting):
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def build(self, algorithm: Any) -> Weighting:
        return self

    def weigh(self, draw: Draw, replay: Any) -> th.Tensor:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (th.ones(8), r"weights of Returns must have shape \[8, 1\], got \[8\].*reshape"),
        (th.ones(1, 8), r"weights of Returns must have shape \[8, 1\], got \[1, 8\]"),
        (th.ones(7, 1), r"weights of Returns must have shape \[8, 1\], got \[7, 1\]"),
        (-th.ones(8, 1), "weights must be finite and >= 0"),
        (th.full((8, 1), th.nan), "weights must be finite and >= 0"),
        (th.full((8, 1), th.inf), "weights must be finite and >= 0"),
        (np.ones((8, 1)), r"Returns must give its weights as a tensor of shape \[8, 1\]"),
        (None, "as a tensor .* got NoneType"),
    ],
)
@pytest.mark.parametrize("cls", [SAC, TD3])
def test_weights_are_checked_at_the_seam(cls: Any, answer: Any, sentence: str) -> None:
    model = cls("MlpPolicy", make_env(), weighting=Returns(answer), **small())
    with pytest.raises((ValueError, TypeError), match=sentence):
        model.learn(30)


class NoWeighting:
    def build(self, algorithm: Any) -> Any:
        return object()


def test_a_config_must_build_a_weighting() -> None:
    with pytest.raises(TypeError, match=r"must return .*inherits from sb3_ext\.Weighting"):
        SAC("MlpPolicy", make_env(), weighting=NoWeighting(), **small())


class Faulty(gym.Wrapper):
    """Hands out one wrong number at the 37th step."""

    def __init__(self, where: str, value: float, kind: str = "box") -> None:
        super().__init__(Drift(kind))
        self.where, self.value, self.steps = where, value, 0

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.steps += 1
        if self.steps == 37:
            if self.where == "reward":
                reward = self.value
            elif isinstance(observation, dict):
                observation = {**observation, "a": np.full(3, self.value)}
            else:
                observation = np.array([0.0, self.value, 0.0])
            terminated, truncated = self.where == "terminal observation", False
        return observation, reward, terminated, truncated, info


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["reward", "observation", "terminal observation"])
def test_a_number_that_is_none_stops_training_and_spoils_nothing(where: str, value: float) -> None:
    model = LFIWSAC("MlpPolicy", Faulty(where, value), fast_buffer_size=20, **small())
    with pytest.raises(NonFiniteError, match=rf"non-finite {where} \(.*\) at step 37 in env"):
        model.learn(100)
    assert model.replay_buffer.size() == 36
    assert np.isfinite(model.replay_buffer.observations).all()
    assert np.isfinite(model.replay_buffer.rewards).all()
    assert all(p.isfinite().all() for p in model.policy.parameters())


def test_the_wrong_key_of_a_dict_observation_is_named() -> None:
    env = Faulty("observation", np.nan, "dict")
    model = SAC("MultiInputPolicy", env, **small())
    with pytest.raises(NonFiniteError, match=r"non-finite observation 'a' \(nan\) at step 37"):
        model.learn(100)


@pytest.mark.parametrize("where", ["reward", "observation"])
def test_behind_vec_normalize_the_right_environment_is_named(where: str) -> None:
    makers = [Drift, Drift, lambda: Faulty(where, np.nan)]
    env = VecNormalize(DummyVecEnv(makers))
    model = SAC("MlpPolicy", env, **small())
    sentence = rf"non-finite {where} .* in environment 2; .*running statistics have taken it in"
    with pytest.raises(NonFiniteError, match=sentence):
        model.learn(300)
    assert np.isfinite(model.replay_buffer.observations).all()


class BadStart(Drift):
    def reset(self, **kwargs: Any) -> Any:
        observation, info = super().reset(**kwargs)
        return observation * np.nan, info


def test_a_first_observation_is_checked_too() -> None:
    with pytest.raises(NonFiniteError, match=r"observation .* at step 0"):
        SAC("MlpPolicy", BadStart(), **small()).learn(20)


class Reach(gym.Env):
    """The smallest goal environment."""

    observation_space = spaces.Dict(
        {k: spaces.Box(-1, 1, (2,)) for k in ("observation", "achieved_goal", "desired_goal")}
    )
    action_space = spaces.Box(-1, 1, (2,))

    def reset(self, **kwargs: Any) -> Any:
        super().reset(seed=kwargs.get("seed"))
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        return self.observation_space.sample(), 0.0, False, self.t >= 10, {}

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        return -np.linalg.norm(achieved - desired, axis=-1)


def test_her_works_on_a_base_and_is_refused_with_a_weighting() -> None:
    options = {**small(), "replay_buffer_class": HerReplayBuffer, "learning_starts": 30}
    SAC("MultiInputPolicy", Reach(), **copy.deepcopy(options)).learn(60)
    with pytest.raises(ValueError, match="HerReplayBuffer relabels goals"):
        LFIWSAC("MultiInputPolicy", Reach(), fast_buffer_size=20, **options)


class OldestFirst(Sampler):
    """A toy sampler that keeps count of everything it is told."""

    def __init__(self) -> None:
        self.known: list[int] = []
        self.observed = 0

    def draw(self, n: int, window: Any, clock: Any) -> Drawn:
        assert set(window.indices()) <= set(self.known)
        assert 0 <= clock.update < clock.n_updates == 2
        return Drawn(window.indices()[np.arange(n) % window.size])

    def added(self, indices: Any) -> None:
        self.known.extend(indices.tolist())

    def observe(self, indices: Any, td_error: th.Tensor) -> None:
        assert td_error.shape[0] == len(indices)
        assert not td_error.requires_grad
        self.observed += 1


class OldestFirstConfig:
    def build(self, algorithm: Any) -> Sampler:
        return OldestFirst()


def test_two_doors_to_one_room_are_refused() -> None:
    with pytest.raises(ValueError, match="both replay= and replay_buffer_class="):
        SAC(
            "MlpPolicy",
            make_env(),
            replay=OldestFirstConfig(),
            replay_buffer_class=ReplayBuffer,
            **small(),
        )


@pytest.mark.parametrize("cls", [SAC, TD3])
@pytest.mark.parametrize("env", [{}, {"n_envs": 3}, {"kind": "dict"}])
def test_a_sampler_of_ones_own_is_fed_and_told(cls: Any, env: Any) -> None:
    policy = "MultiInputPolicy" if env.get("kind") == "dict" else "MlpPolicy"
    model = cls(policy, make_env(**env), replay=OldestFirstConfig(), gradient_steps=2, **small())
    model.learn(60)
    assert model.sampler.observed == model._n_updates > 0
    n_envs = env.get("n_envs", 1)
    assert model.sampler.known == list(range(60 // n_envs * n_envs))


class Wrong(Sampler):
    """Answers with what it was made with."""

    def __init__(self, index: int, weight: float) -> None:
        self.index, self.weight = index, weight

    def build(self, algorithm: Any) -> Sampler:
        return self

    def draw(self, n: int, window: Any, clock: Any) -> Drawn:
        return Drawn(np.full(n, self.index), th.full((n, 1), self.weight))


@pytest.mark.parametrize(
    ("index", "weight", "sentence"),
    [
        (0, np.nan, "weights must be finite and >= 0.* from Wrong"),
        (150, 1.0, r"Wrong\.draw must return transitions that the buffer holds"),
    ],
)
def test_a_samplers_answer_is_checked(index: int, weight: float, sentence: str) -> None:
    model = SAC("MlpPolicy", make_env(), replay=Wrong(index, weight), **small())
    with pytest.raises(ValueError, match=sentence):
        model.learn(30)


def test_a_sampler_is_told_what_a_loaded_buffer_holds(tmp_path: Any) -> None:
    model = SAC("MlpPolicy", make_env(), replay=OldestFirstConfig(), gradient_steps=2, **small())
    model.learn(30)
    model.save_replay_buffer(tmp_path / "b")
    fresh = SAC("MlpPolicy", make_env(), replay=OldestFirstConfig(), gradient_steps=2, **small())
    fresh.load_replay_buffer(tmp_path / "b")
    assert fresh.sampler.known == list(range(30))
    fresh.learn(20)


class Answers(Wrong):
    """Its answer need not even be of the right kind."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def draw(self, n: int, window: Any, clock: Any) -> Any:
        return self.answer(n)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (np.arange, r"Answers\.draw must return sb3_ext\.Drawn\(indices, weights\), got ndarray"),
        (lambda n: Drawn(list(range(n))), "must return 8 indices in a NumPy array .*, got list"),
        (lambda n: Drawn(th.arange(n)), "must return 8 indices in a NumPy array .*, got Tensor"),
        (lambda n: Drawn(np.arange(n - 1)), r"must return 8 indices .*, got int64 \[7\]"),
        (lambda n: Drawn(np.zeros((n, 1), int)), r"must return 8 indices .*, got int64 \[8, 1\]"),
        (lambda n: Drawn(np.zeros(n)), r"must return 8 indices .*, got float64 \[8\]"),
    ],
)
def test_the_kind_of_a_samplers_answer_is_checked(answer: Any, sentence: str) -> None:
    model = SAC("MlpPolicy", make_env(), replay=Answers(answer), **{**small(), "batch_size": 8})
    with pytest.raises(TypeError, match=sentence):
        model.learn(30)


@pytest.mark.parametrize("index", [-1, 200, 10**6])
@pytest.mark.parametrize("steps", [60, 250])  # before and after the ring is full
def test_an_index_beyond_the_ring_is_told(index: int, steps: int) -> None:
    model = SAC("MlpPolicy", make_env(), **{**small(), "buffer_size": 200})
    model.learn(steps)
    model.sampler = Wrong(index, 1.0)
    with pytest.raises(ValueError, match=r"Wrong\.draw must return transitions that the buffer"):
        model.replay_view.draw(4, Clock(0, 1, 1.0))
