"""What ACER refuses, what it makes fit, and what it says before training starts."""

from typing import Any

import numpy as np
import pytest
import stable_baselines3
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ext import ACER
from sb3_ext.testing.environments import KitEnv, kit_env
from sb3_ext.trees import same, snapshot
from tests.plugins.acer.test_acer import Straight, small


def of_spaces(action: Any, observation: Any = None, n_envs: int = 2) -> DummyVecEnv:
    """Environments that give what they are told, and take anything."""

    class Given(Straight):
        action_space = action
        if observation is not None:
            observation_space = observation

        def reset(self, **kwargs: Any) -> Any:
            super().reset(**kwargs)
            return self.observation_space.sample(), {}

        def step(self, action: Any) -> Any:
            return (self.observation_space.sample(), *super().step(action)[1:])

    return DummyVecEnv([lambda: Given(True)] * n_envs)


# -- when replay begins ------------------------------------------------------------------------


def test_a_replay_start_that_the_ring_never_holds_is_refused() -> None:
    """Of 1,000 transitions of three environments it holds 333 rows, which are 999."""
    env = of_spaces(spaces.Discrete(2), n_envs=3)
    with pytest.raises(ValueError, match=r"replay_start=1000 would never be .* 333 rows .* 999"):
        small(env, buffer_size=1_000, replay_start=1_000)
    model = small(env, buffer_size=1_000, replay_start=999, replay_ratio=5.0)
    rollouts = -(-1_200 // 24)
    model.learn(1_200)
    assert model._n_updates > rollouts


def test_a_replay_start_below_a_rollout_is_at_once() -> None:
    model = small(replay_start=1, replay_ratio=30.0)
    model.learn(16)
    assert model._n_updates > 5


@pytest.mark.parametrize(("n_envs", "env_id"), [(32, "Pendulum-v1"), (40, "CartPole-v1")])
def test_defaults_fit_many_environments(n_envs: int, env_id: str) -> None:
    ACER("MlpPolicy", make_vec_env(env_id, n_envs), device="cpu")
    ACER("MlpPolicy", make_vec_env(env_id, n_envs), buffer_size=100 * n_envs, device="cpu")


def test_a_default_buffer_without_room_for_a_window_grows_with_a_warning() -> None:
    env = make_vec_env("Pendulum-v1", 100)
    with pytest.warns(UserWarning, match=r"buffer_size=5000 holds no window of n_steps=50 of 100"):
        model = ACER("MlpPolicy", env, preset="paper", device="cpu")
    assert model.buffer_size == 2 * 51 * 100 and model.replay_buffer.buffer_size == 102
    assert model.replay_start == 1_000
    with pytest.raises(ValueError, match=r"buffer_size=5000 holds 50 steps .* at least 5100"):
        ACER("MlpPolicy", env, preset="paper", buffer_size=5_000, device="cpu")


def test_it_warns_where_nothing_will_be_replayed(tmp_path: Any) -> None:
    told = r"nothing is replayed in these 900 steps: .* 900 transitions .* replay_start=10000"
    env = make_vec_env("CartPole-v1", 1, seed=0)
    model = ACER("MlpPolicy", env, seed=0, device="cpu")
    with pytest.warns(UserWarning, match=told) as warned:
        model.learn(900)
    assert warned[0].filename == __file__, "the line that called learn"
    ACER("MlpPolicy", env, replay_ratio=0, seed=0, device="cpu").learn(100)
    small(replay_start=16).learn(1)  # a whole rollout is played


def test_it_tells_how_often_it_replays(tmp_path: Any) -> None:
    model = small(replay_ratio=3.0)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(320, log_interval=1)
    model.logger.close()
    names = (tmp_path / "progress.csv").read_text().splitlines()[0].split(",")
    assert "acer/replay/updates" in names


# -- options ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"use_rms_prop": "no"}, "use_rms_prop must be True or False, got 'no'"),
        ({"rms_prop_eps": "x"}, "rms_prop_eps must be a number, got 'x'"),
        ({"rms_prop_eps": -1.0}, "rms_prop_eps must be above 0"),
        ({"learning_rate": -1}, "learning_rate must be a number of at least 0.*got -1"),
        ({"learning_rate": "1e-3"}, "learning_rate must be a number.*got '1e-3'"),
        ({"learning_rate": lambda _: "a"}, "learning_rate.*a function that gives 'a'"),
        ({"learning_rate": lambda _: -1.0}, "learning_rate must be a number of at least 0"),
        ({"buffer_size": 1}, "holds 0 steps of each of 2"),
        ({"policy_kwargs": [1]}, "policy_kwargs must be a mapping"),
        ({"policy_kwargs": {"advantage_net_arch": [8]}}, "with Discrete actions the critic"),
    ],
)
def test_options_that_cannot_work(given: dict[str, Any], told: str) -> None:
    with pytest.raises((ValueError, TypeError), match=told):
        small(**given)


@pytest.mark.parametrize("layers", [64, [-3], "64", [2.5]])
def test_layers_that_cannot_be(layers: Any) -> None:
    with pytest.raises(ValueError, match=r"advantage_net_arch must be a list of layer sizes"):
        small(kit_env(action="Box"), policy_kwargs={"advantage_net_arch": layers})
    small(kit_env(action="Box"), policy_kwargs={"advantage_net_arch": []})


def test_numpys_scalars_are_numbers() -> None:
    model = small(n_steps=np.int64(8), learning_rate=np.float32(1e-3), delta=np.float32(0.5))
    model.learn(32)
    assert model._n_updates > 0


def test_what_the_optimiser_is_given_beside_rmsprop_counts() -> None:
    defaults = small(
        policy_kwargs={"optimizer_kwargs": {"weight_decay": 0.1}}, rms_prop_eps=1e-3
    ).policy.optimizer.defaults
    assert (defaults["weight_decay"], defaults["eps"], defaults["alpha"]) == (0.1, 1e-3, 0.99)


def test_policies_and_environments_that_cannot_work() -> None:
    with pytest.raises(TypeError, match=r"a subclass of .*ACERPolicy, got ActorCriticPolicy"):
        ACER(stable_baselines3.ppo.MlpPolicy, kit_env(action="Discrete"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ACER needs an environment, got None"):
        ACER("MlpPolicy", None)  # type: ignore[arg-type]


# -- spaces ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "told"),
    [
        (spaces.MultiDiscrete([2, 3], start=[1, 1]), "numbers MultiDiscrete actions from 0"),
        (spaces.Discrete(3, start=1), "numbers Discrete actions from 0"),
        (spaces.MultiDiscrete([[2, 3], [2, 2]]), r"of one row.*MultiDiscrete\(\[2, 3, 2, 2\]\)"),
        (spaces.Box(-2, 3, (2,), np.int64), r"holds integers: MultiDiscrete\(\[6, 6\]\)"),
        (spaces.Box(0, 255, (1,), np.uint8), r"holds integers: MultiDiscrete\(\[256\]\)"),
    ],
)
def test_actions_that_would_be_shifted_or_cut(space: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        small(of_spaces(space))


# -- files -----------------------------------------------------------------------------------


def test_another_seed_replays_other_windows(tmp_path: Any) -> None:
    small(seed=3).learn(32).save(tmp_path / "model")
    drawn = [
        ACER.load(tmp_path / "model", device="cpu", **given).replay_rng.random()
        for given in ({"seed": 1}, {"seed": 2}, {"seed": 1}, {}, {})
    ]
    assert drawn[0] == drawn[2] != drawn[1] and drawn[3] == drawn[4] not in drawn[:3]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("train_freq", "n_steps"),
        ("gradient_steps", "replay_ratio"),
        ("learning_starts", "replay_start"),
        ("policy", "networks"),
        ("tau", "average_decay"),
        ("replay_buffer_class", "trajectories"),
        ("use_sde", "Gaussian"),
    ],
)
def test_load_drops_nothing_in_silence(name: str, told: str, tmp_path: Any) -> None:
    small().save(tmp_path / "model")
    with pytest.raises(TypeError, match=rf"load cannot change {name}: .*{told}"):
        ACER.load(tmp_path / "model", **{name: 3})


def test_load_hints_at_no_inner_name(tmp_path: Any) -> None:
    small().save(tmp_path / "model")
    with pytest.raises(TypeError, match="unknown argument 'n_updates'") as error:
        ACER.load(tmp_path / "model", n_updates=3)
    assert "_n_updates" not in str(error.value)
    with pytest.raises(TypeError, match=r"learning_rate must be a number.*None is the preset's"):
        ACER.load(tmp_path / "model", learning_rate=None)


FIVE = spaces.Box(-np.inf, np.inf, (5,), np.float32)


@pytest.mark.parametrize(
    ("saved", "into", "told"),
    [
        ((spaces.Discrete(2),), (spaces.Box(-1, 1, (1,)),), r"is of actions Discrete\(2\)"),
        (
            (spaces.MultiDiscrete([2, 3]),),
            (spaces.MultiDiscrete([3, 2]),),
            r"is of actions MultiDiscrete\(\[2 3\]\)",
        ),
        ((spaces.MultiDiscrete([2, 3]),), (spaces.Discrete(5),), "is of actions MultiDiscrete"),
        ((spaces.Discrete(2),), (spaces.Discrete(2), FIVE), "is of observations Box"),
    ],
)
def test_a_buffer_of_other_spaces_is_refused(
    saved: Any, into: Any, told: str, tmp_path: Any
) -> None:
    """Their numbers of environments, and the widths of their distributions, are the same."""
    small(of_spaces(*saved)).learn(32).save_replay_buffer(tmp_path / "buffer")
    other = small(of_spaces(*into))
    held = other.replay_buffer
    with pytest.raises(ValueError, match=told):
        other.load_replay_buffer(tmp_path / "buffer")
    assert other.replay_buffer is held


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"n_steps": 60, "buffer_size": 2_000}, r"has 50 rows .* n_steps=60"),
        ({"replay_start": 150, "buffer_size": 2_000}, "at most 100 transitions.*replay_start=150"),
    ],
)
def test_a_buffer_without_room_for_a_window_is_refused(
    given: Any, told: str, tmp_path: Any
) -> None:
    model = small(buffer_size=100).learn(128)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    env = kit_env(2, action="Discrete")
    loaded = ACER.load(tmp_path / "model", env=env, device="cpu", **given)
    with pytest.raises(ValueError, match=told):
        loaded.load_replay_buffer(tmp_path / "buffer")
    before = snapshot(loaded)
    loaded.learn(480)  # from the empty one
    assert not same(before["policy"], snapshot(loaded)["policy"])


# -- networks with batch statistics ----------------------------------------------------------


class Normed(BaseFeaturesExtractor):
    def __init__(self, space: Any) -> None:
        super().__init__(space, 8)
        self.net = th.nn.Sequential(th.nn.Linear(space.shape[0], 8), th.nn.BatchNorm1d(8))

    def forward(self, seen: th.Tensor) -> th.Tensor:
        found: th.Tensor = self.net(seen)
        return found


@pytest.mark.parametrize("action", ["Discrete", "Box"])
def test_batch_norm_learns_in_one_environment(action: str) -> None:
    """What lies beyond a window is valued by the running statistics, and leaves them alone."""
    env = DummyVecEnv([lambda: KitEnv(action=action)])
    model = small(env, policy_kwargs={"features_extractor_class": Normed}, replay_ratio=0.0)
    model.learn(64)
    norm = model.policy.features_extractor.net[1]
    # One update a rollout, and each looks at the rollout once.
    assert norm.num_batches_tracked == model._n_updates == 8
    assert model.policy.training
