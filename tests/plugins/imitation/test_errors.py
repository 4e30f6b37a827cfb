"""What GAIL and AIRL refuse, when, and in which words."""

from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from sb3_ext import AIRL, BC, GAIL, DAgger
from sb3_ext.errors import UsageError
from sb3_ext.offline import OfflineDataset
from sb3_ext.plugins.imitation.demonstrations import read_demonstrations
from sb3_ext.running.hyperparameters import require_arguments
from sb3_ext.testing.environments import kit_env
from sb3_ext.testing.offline import kit_dataset


def made(cls: Any = GAIL, env: Any = None, data: Any = None, **options: Any) -> Any:
    """A model on the kit's environment."""
    env = kit_env() if env is None else env
    data = kit_dataset(kit_env()) if data is None else data
    options.setdefault("allow_variable_horizon", True)
    return cls("MlpPolicy", env, demonstrations=data, device="cpu", seed=0, **options)


def trajectory(n: int = 5, n_observations: int | None = None, **more: Any) -> Any:
    """As the package imitation has it, without rewards."""
    count = n + 1 if n_observations is None else n_observations
    held = {"obs": np.zeros((count, 3), np.float32), "acts": np.zeros((n, 2), np.float32)}
    return SimpleNamespace(**held, infos=None, terminal=True, **more)


def test_demonstrations_of_other_spaces() -> None:
    with pytest.raises(ValueError, match=r"do not fit each other.*actions"):
        made(data=kit_dataset(kit_env(action="Discrete")))
    model = made()
    with pytest.raises(ValueError, match="do not fit each other"):
        model.set_demonstrations(kit_dataset(kit_env(action="Discrete")))


def test_no_demonstrations_at_all() -> None:
    with pytest.raises(ValueError, match="no trajectory at all"):
        made(data=[])
    with pytest.raises(ValueError, match="no demonstrations"):
        GAIL("MlpPolicy", kit_env(), device="cpu").learn(1)


def test_what_is_no_demonstration(tmp_path: Any) -> None:
    with pytest.raises(TypeError, match="got int"):
        made(data=5)
    (tmp_path / "expert.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match="is a pickle"):
        made(data=str(tmp_path / "expert.pkl"))


def test_a_missing_last_observation() -> None:
    with pytest.raises(ValueError, match="5 observations and 5 actions"):
        made(data=[trajectory(n_observations=5)])


def test_trajectories_without_rewards_will_do() -> None:
    model = made(data=[trajectory(), trajectory()], demo_batch_size=4)
    assert len(model.demonstrations) == 10


def test_flat_transitions_of_imitation_will_do() -> None:
    dones = np.array([False, True, False])
    given = SimpleNamespace(
        obs=np.zeros((3, 3), np.float32),
        acts=np.zeros((3, 2), np.float32),
        next_obs=np.ones((3, 3), np.float32),
        dones=dones,
    )
    env = kit_env()
    data = read_demonstrations(given, (env.observation_space, env.action_space))
    assert data.terminated.tolist() == [False, True, False]
    assert data.truncated.tolist() == [False, False, True]


def test_trajectories_of_imitation_itself() -> None:
    from imitation.data import rollout, types

    one = types.Trajectory(
        obs=np.zeros((6, 3), np.float32),
        acts=np.zeros((5, 2), np.float32),
        infos=None,
        terminal=True,
    )
    env = kit_env()
    box = (env.observation_space, env.action_space)
    assert len(read_demonstrations([one, one], box)) == 10
    assert len(read_demonstrations(rollout.flatten_trajectories([one, one]), box)) == 10


def test_variable_horizons_are_refused_before_training_and_in_it() -> None:
    with pytest.raises(ValueError, match=r"demonstrations have some of .* steps.*") as told:
        made(allow_variable_horizon=False)
    for words in ("allow_variable_horizon=True", "staying alive", "ending early", "reward_form"):
        assert words in str(told.value)
    one_episode = kit_dataset(kit_env()).subset(episodes=[0])
    model = made(
        data=one_episode,
        allow_variable_horizon=False,
        demo_batch_size=2,
        generator_kwargs={"n_steps": 200, "batch_size": 50},
    )
    with pytest.raises(ValueError, match="the environment's episodes have some of"):
        model.learn(400)


def test_a_time_limit_alone_is_no_variable_horizon() -> None:
    """Data may stop in the midst of an episode."""
    whole = kit_dataset(kit_env())
    assert whole.truncated[-1] or not whole.terminated[-1]
    ends = whole.terminated | whole.truncated
    changed = {**vars(whole), "terminated": np.zeros_like(ends), "truncated": ends}
    made(data=OfflineDataset(**changed), allow_variable_horizon=False)


def test_more_than_there_is_in_a_batch() -> None:
    with pytest.raises(ValueError, match="demo_batch_size=500 is more than the 60"):
        made(demo_batch_size=500)
    assert made().batch_of_demonstrations == 60


def test_dict_observations() -> None:
    env = kit_env(observation="Dict")
    with pytest.raises(ValueError, match="FlattenObservation"):
        GAIL("MultiInputPolicy", env, demonstrations=kit_dataset(env), device="cpu")


def test_vec_normalize_within() -> None:
    env = VecFrameStack(VecNormalize(kit_env()), 2)
    with pytest.raises(ValueError, match="VecNormalize must be the outermost"):
        GAIL("MlpPolicy", env, device="cpu")


@pytest.mark.parametrize(
    ("generator", "told"),
    [
        ("BCQ", "acts in the environment"),
        ("GAIL", "acts in the environment"),
        ("ARS", "collects rollouts"),
        (int, "algorithm's name or class"),
    ],
)
def test_generators_that_cannot(generator: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        made(generator=generator)


def test_misspelt_generators_and_arguments() -> None:
    with pytest.raises(ValueError, match="did you mean 'TRPO'"):
        made(generator="TRPPO")
    with pytest.raises(TypeError, match=r"generator_kwargs of PPO got.*did you mean 'n_steps'"):
        made(generator_kwargs={"n_step": 5})
    with pytest.raises(TypeError, match="give seed= to GAIL itself"):
        made(generator_kwargs={"seed": 5})


def test_misspelt_and_misplaced_arguments() -> None:
    with pytest.raises(TypeError, match="did you mean 'demonstrations'"):
        GAIL("MlpPolicy", kit_env(), demonstration=None)
    with pytest.raises(TypeError, match=r"n_steps is an argument of PPO: give generator_kwargs="):
        GAIL("MlpPolicy", kit_env(), n_steps=64)
    with pytest.raises(TypeError, match="did you mean 'ent_weight'"):
        BC("MlpPolicy", kit_env(), ent_weigth=0)


def test_no_environment_to_act_in() -> None:
    with pytest.raises(ValueError, match="learns by acting"):
        GAIL("MlpPolicy", demonstrations=kit_dataset(kit_env()))


@pytest.mark.parametrize("generator", ["TD3", "sb3:DQN", "RecurrentPPO", "TQC"])
def test_airl_needs_a_density(generator: str) -> None:
    env = kit_env(action="Discrete" if "DQN" in generator else "Box")
    policy = "MlpLstmPolicy" if "Recurrent" in generator else "MlpPolicy"
    with pytest.raises(TypeError, match="probability of the generator's actions"):
        AIRL(
            policy,
            env,
            demonstrations=kit_dataset(env),
            generator=generator,
            allow_variable_horizon=True,
            device="cpu",
        )


def test_a_recurrent_generator_goes_with_gail() -> None:
    env = kit_env()
    model = GAIL(
        "MlpLstmPolicy",
        env,
        demonstrations=kit_dataset(env),
        generator="RecurrentPPO",
        generator_kwargs={"n_steps": 16, "batch_size": 16, "n_epochs": 1},
        policy_kwargs={"lstm_hidden_size": 8},
        allow_variable_horizon=True,
        device="cpu",
    )
    assert model.learn(32).num_timesteps == 32


@pytest.mark.parametrize(
    ("option", "value", "kind"),
    [
        ("reward_form", "sigmoid", ValueError),
        ("n_disc_updates_per_round", 0, ValueError),
        ("demo_batch_size", 1.5, TypeError),
        ("disc_learning_rate", -1, ValueError),
        ("disc_net_arch", [0], ValueError),
        ("normalize_rewards", "yes", TypeError),
    ],
)
def test_options_out_of_range(option: str, value: Any, kind: Any) -> None:
    with pytest.raises(kind, match=option):
        made(**{option: value})


def test_memory_saving_buffers_cannot_be_relabelled() -> None:
    options = {
        "optimize_memory_usage": True,
        "replay_buffer_kwargs": {"handle_timeout_termination": False},
    }
    with pytest.raises(ValueError, match="relabel_rewards=False"):
        made(generator="sb3:SAC", generator_kwargs=options)
    made(generator="sb3:SAC", generator_kwargs=options, relabel_rewards=False)


def test_less_than_a_round_is_told() -> None:
    model = made(generator="SAC", generator_kwargs={"learning_starts": 10, "buffer_size": 100})
    with pytest.warns(UserWarning, match="less than a round of 250"):
        model.learn(20)


def test_arguments_of_the_generator_may_be_plain_text() -> None:
    """As the command line and YAML give them."""
    from sb3_ext.errors import UsageError
    from sb3_ext.running.hyperparameters import constructor_values

    given = {"n_steps": 64.0, "learning_rate": "lin_3e-4"}
    found = constructor_values(GAIL, {"generator_kwargs": given}, kit_env())["generator_kwargs"]
    assert found["n_steps"] == 64 and isinstance(found["n_steps"], int)
    assert found["learning_rate"](0.5) == pytest.approx(1.5e-4)
    with pytest.raises(UsageError, match="did you mean 'n_steps'"):
        constructor_values(GAIL, {"generator_kwargs": {"n_step": 64}}, kit_env())


class Broken(gym.Env[Any, Any]):
    """Observes NaN."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.full(1, np.nan, np.float32), 0.0, False, False, {}


def test_nan_observations_are_told() -> None:
    ones = np.zeros((4, 1), np.float32)
    ends = np.array([False, False, False, True])
    data = OfflineDataset(
        ones,
        ones,
        np.zeros(4),
        ones,
        np.zeros(4, bool),
        ends,
        np.array([0]),
        Broken.observation_space,
        Broken.action_space,
    )
    env = DummyVecEnv([lambda: Monitor(Broken())])
    model = GAIL("MlpPolicy", env, demonstrations=data, generator="A2C", device="cpu")
    with pytest.raises(ValueError, match=r"nan|NaN|finite"):
        model.learn(20)


def test_without_the_package_the_error_is_the_line_that_installs_it(monkeypatch: Any) -> None:
    import importlib.util

    from sb3_ext.plugins.imitation import compat
    from sb3_ext.plugins.imitation.plugin import SPECS

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install --no-deps imitation==1\.0\.1"):
        compat.require()
    assert {spec.install_hint for spec in SPECS} == {compat.INSTALL}


def test_a_generator_of_other_actions_is_named_itself() -> None:
    with pytest.raises(ValueError, match=r"generator DQN acts in Discrete spaces.*'PPO'"):
        made(generator="DQN")


def test_a_command_says_where_a_generators_argument_belongs() -> None:
    with pytest.raises(UsageError, match=r"of its generator PPO: set generator_kwargs.n_steps"):
        require_arguments(GAIL, {"n_steps": 64})
    with pytest.raises(UsageError, match="did you mean 'demo_batch_size'"):
        require_arguments(GAIL, {"demo_batchsize": 64})


def test_dagger_without_an_environment() -> None:
    with pytest.raises(ValueError, match="DAgger plays in an environment"):
        DAgger("MlpPolicy", expert=lambda seen: seen)
