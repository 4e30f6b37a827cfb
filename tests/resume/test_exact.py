"""A resumed run equals the one that was never stopped, over algorithms and settings."""

import copy
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import stable_baselines3 as sb3
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnv,
    VecFrameStack,
    VecNormalize,
)

import sb3_ext
from sb3_ext.resume import ResumableEnv
from tests.cut_runs import cut_and_resume, require_same
from tests.environments import make_env

SMALL = {"policy_kwargs": {"net_arch": [16, 16]}, "seed": 3}
OFF = {**SMALL, "learning_starts": 50, "buffer_size": 1_000, "batch_size": 32}
LFIW = {**OFF, "fast_buffer_size": 60, "ratio_net_arch": (8, 8)}
PENDULUM, CARTPOLE = "Pendulum-v1", "CartPole-v1"


def venv(env_id: str, n_envs: int = 1, kind: Any = DummyVecEnv) -> VecEnv:
    return make_vec_env(
        env_id,
        n_envs,
        seed=3,
        vec_env_cls=kind,
        wrapper_class=ResumableEnv,
    )


def model(
    cls: Any,
    env_id: str,
    n_envs: int = 1,
    *,
    policy: str = "MlpPolicy",
    wrap: Any = lambda env: env,
    **kwargs: Any,
) -> Any:
    # A copy each time: SB3 adds to the policy_kwargs that it is given.
    return lambda: cls(policy, wrap(venv(env_id, n_envs)), **copy.deepcopy(kwargs))


CASES = {
    "LFIWSAC": model(sb3_ext.LFIWSAC, PENDULUM, **LFIW),
    "LFIWSAC, 3 envs": model(sb3_ext.LFIWSAC, PENDULUM, 3, **LFIW),
    "LFIWTD3, delayed": model(sb3_ext.LFIWTD3, PENDULUM, **LFIW, policy_delay=2),
    "LFIWDQN, 2 envs": model(sb3_ext.LFIWDQN, CARTPOLE, 2, **LFIW, target_update_interval=70),
    "our DQN": model(sb3_ext.DQN, CARTPOLE, **OFF, double_q=True, target_update_interval=70),
    "our QRDQN": model(sb3_ext.QRDQN, CARTPOLE, **OFF, target_update_interval=70),
    "our TQC": model(sb3_ext.TQC, PENDULUM, **OFF),
    "our CrossQ": model(sb3_ext.CrossQ, PENDULUM, **OFF),
    "stock SAC": model(sb3.SAC, PENDULUM, **OFF),
    "gSDE": model(sb3_ext.SAC, PENDULUM, **OFF, use_sde=True, sde_sample_freq=-1),
    "n steps": model(sb3_ext.SAC, PENDULUM, **OFF, n_steps=3),
    "memory": model(
        sb3_ext.SAC,
        PENDULUM,
        **{**OFF, "buffer_size": 130},
        optimize_memory_usage=True,
        replay_buffer_kwargs={"handle_timeout_termination": False},
    ),
    "wrapped ring": model(sb3_ext.SAC, PENDULUM, 3, **{**OFF, "buffer_size": 150}),
    "train_freq 4": model(sb3_ext.SAC, PENDULUM, **OFF, train_freq=4, gradient_steps=-1),
    "noise": model(
        sb3_ext.TD3, PENDULUM, **OFF, action_noise=NormalActionNoise(np.zeros(1), np.ones(1))
    ),
    "noise that remembers, 2 envs": model(
        sb3.DDPG,
        PENDULUM,
        2,
        **OFF,
        action_noise=OrnsteinUhlenbeckActionNoise(np.zeros(1), np.ones(1)),
    ),
    "VecNormalize": model(sb3_ext.LFIWSAC, PENDULUM, wrap=VecNormalize, **LFIW),
    "VecFrameStack": model(sb3_ext.SAC, PENDULUM, wrap=lambda env: VecFrameStack(env, 2), **OFF),
    "Dict observations": lambda: sb3_ext.SAC(
        "MultiInputPolicy", make_env("dict", 2), **copy.deepcopy(OFF)
    ),
    "images": lambda: sb3_ext.SAC(
        "CnnPolicy",
        make_env("image"),
        **OFF | {"policy_kwargs": {"features_extractor_kwargs": {"features_dim": 8}}},
    ),
    "HER": lambda: sb3.DQN(
        "MultiInputPolicy",
        DummyVecEnv([lambda: BitFlippingEnv(n_bits=4)]),
        **copy.deepcopy(OFF),
        replay_buffer_class=sb3.HerReplayBuffer,
    ),
    "TQC": model(sb3_contrib.TQC, PENDULUM, **OFF),
    "CrossQ": model(sb3_contrib.CrossQ, PENDULUM, **OFF),
    "DQN": model(sb3.DQN, CARTPOLE, **OFF, target_update_interval=70),
    "QRDQN": model(sb3_contrib.QRDQN, CARTPOLE, 2, **OFF),
    "PPO": model(sb3.PPO, CARTPOLE, 2, **SMALL, n_steps=40, batch_size=40, n_epochs=2),
    "PPO with gSDE": model(
        sb3.PPO, PENDULUM, **SMALL, n_steps=80, batch_size=40, n_epochs=2, use_sde=True
    ),
    "A2C": model(sb3.A2C, CARTPOLE, **SMALL),
    "TRPO": model(sb3_contrib.TRPO, CARTPOLE, **SMALL, n_steps=80, batch_size=40),
    "RecurrentPPO": model(
        sb3_contrib.RecurrentPPO,
        CARTPOLE,
        policy="MlpLstmPolicy",
        policy_kwargs={"net_arch": [8], "lstm_hidden_size": 8},
        seed=3,
        n_steps=80,
        batch_size=40,
        n_epochs=2,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_resumed_run_equals_the_unstopped_one(name, tmp_path):
    require_same(*cut_and_resume(CASES[name], tmp_path, total=320, cut=275, every=90))


@pytest.mark.parametrize("env_id", ["Hopper-v5", "Ant-v5"])
def test_mujoco_goes_on_in_mid_episode(env_id, tmp_path):
    make = model(sb3_ext.LFIWSAC, env_id, **LFIW)
    require_same(*cut_and_resume(make, tmp_path, total=320, cut=275, every=90))


@pytest.mark.parametrize("kind", [SubprocVecEnv, sb3_ext.PackedSubprocVecEnv])
def test_workers_give_their_state(tmp_path, kind):
    def make():
        return sb3_ext.LFIWSAC("MlpPolicy", venv(PENDULUM, 3, kind), **copy.deepcopy(LFIW))

    require_same(*cut_and_resume(make, tmp_path, total=320, cut=275, every=90))


def test_episodic_training(tmp_path):
    make = model(sb3_ext.SAC, PENDULUM, **OFF, train_freq=(1, "episode"))
    require_same(*cut_and_resume(make, tmp_path, total=900, cut=750, every=100))


def test_evaluations_go_on(tmp_path):
    folders = iter(["whole", "run", "run"])
    held = []

    def evaluation():
        folder = tmp_path / next(folders)
        held.append(
            EvalCallback(
                venv(PENDULUM), n_eval_episodes=2, eval_freq=60, log_path=str(folder), verbose=0
            )
        )
        return [held[-1]]

    make = model(sb3_ext.SAC, PENDULUM, **OFF)
    runs = cut_and_resume(make, tmp_path / "run", total=320, cut=275, every=90, extra=evaluation)
    require_same(*runs)
    whole, again = (np.load(tmp_path / one / "evaluations.npz") for one in ("whole", "run"))
    assert whole["timesteps"].tolist() == [60, 120, 180, 240, 300]
    for name in ("timesteps", "results", "ep_lengths"):
        assert np.array_equal(whole[name], again[name])
    assert held[0].best_mean_reward == held[2].best_mean_reward
