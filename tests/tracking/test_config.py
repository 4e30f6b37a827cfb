"""`config.json` says what was run: plugin, distribution, environments, commit."""

import json
import subprocess
import sys

import gymnasium as gym
import pytest
from sb3_contrib import TQC
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecNormalize

import sb3_ext
from sb3_ext import LFIWSAC, PackedSubprocVecEnv
from sb3_ext.tracking import git_state, model_config
from sb3_ext.tracking.config import plain


def small():
    # A new one each time: SB3 writes into policy_kwargs.
    return {"buffer_size": 100, "policy_kwargs": {"net_arch": [4]}}


class Unregistered(gym.Wrapper):
    """A wrapper that keeps no arguments."""


@pytest.mark.parametrize(
    ("cls", "plugin", "distribution"),
    [
        (LFIWSAC, "lfiw_sac", {"name": "sb3-ext", "version": sb3_ext.__version__}),
        (SAC, None, {"name": "stable_baselines3"}),
        (TQC, None, {"name": "sb3_contrib"}),
        (type("Mine", (SAC,), {"__module__": "__main__"}), None, None),
    ],
    ids=["plugin", "sb3", "contrib", "script"],
)
def test_the_source_of_the_algorithm(cls, plugin, distribution):
    more = {"fast_buffer_size": 10} if cls is LFIWSAC else {}
    config = model_config(cls("MlpPolicy", "Pendulum-v1", **small(), **more))
    assert config["plugin"] == plugin
    if distribution is None:
        assert config["distribution"] is None
    else:
        assert config["distribution"].items() >= distribution.items()
        assert config["distribution"]["version"]
    assert json.loads(json.dumps(config)) == config


@pytest.mark.parametrize("kind", [DummyVecEnv, SubprocVecEnv, PackedSubprocVecEnv])
def test_environments_by_their_classes_outermost_first(kind):
    env = VecNormalize(
        VecFrameStack(
            make_vec_env("Pendulum-v1", 2, vec_env_cls=kind, wrapper_class=Unregistered), 2
        )
    )
    try:
        config = model_config(SAC("MlpPolicy", env, **small()))
    finally:
        env.close()
    assert config["vec_env"] == ["VecNormalize", "VecFrameStack", kind.__name__]
    expected = ["Unregistered", "Monitor", "TimeLimit", "OrderEnforcing", "PassiveEnvChecker"]
    assert config["wrappers"] == expected
    assert (config["env"], config["n_envs"]) == ("Pendulum-v1", 2)


class Bare(gym.Env):
    """An environment that nobody registered."""

    observation_space = action_space = gym.spaces.Box(-1, 1, (1,))

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


@pytest.mark.parametrize("kind", [DummyVecEnv, SubprocVecEnv, PackedSubprocVecEnv])
def test_an_environment_without_an_id(kind):
    env = kind([lambda: Unregistered(gym.wrappers.TimeLimit(Bare(), 5))])
    try:
        config = model_config(SAC("MlpPolicy", env, **small()))
    finally:
        env.close()
    assert config["env"] is None
    assert config["wrappers"] == ["Unregistered", "TimeLimit"]


def test_a_foreign_vec_env_without_doors_is_no_error(monkeypatch):
    def closed(*_, **__):
        raise NotImplementedError

    model = SAC("MlpPolicy", "Pendulum-v1", **small())
    monkeypatch.setattr(DummyVecEnv, "get_attr", closed)
    monkeypatch.setattr(DummyVecEnv, "unwrapped", property(lambda self: object()))
    config = model_config(model)
    assert (config["env"], config["wrappers"]) == (None, [])


def test_schedules_and_noise_have_plain_forms():
    ppo = PPO("MlpPolicy", "CartPole-v1", n_steps=8, clip_range=0.25, batch_size=8)
    assert model_config(ppo)["hyperparameters"]["clip_range"] == 0.25
    noise = NormalActionNoise([0.0], [0.1])
    td3 = TD3("MlpPolicy", "Pendulum-v1", action_noise=noise, **small())
    assert model_config(td3)["hyperparameters"]["action_noise"] == repr(noise)
    assert plain([1, {"a": (2.0, float("nan"))}]) == [1, {"a": [2.0, "nan"]}]


def git(*arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    ended = subprocess.run(
        ["git", *identity, *arguments], check=True, capture_output=True, text=True
    )
    return ended.stdout.strip()


def test_the_commit_and_whether_files_differ_from_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state() is None, "no repository"
    git("init", "-q")
    assert git_state() is None, "no commit"
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-q", "-m", "one")
    (tmp_path / "new").write_text("untracked files change nothing")
    assert git_state() == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "file").write_text("2")
    assert git_state()["dirty"] is True


def test_a_repository_runs_nothing_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-q", "-m", "one")
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    trap.chmod(0o755)
    git("config", "core.fsmonitor", str(trap))
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "post-index-change").write_text(trap.read_text())
    (hooks / "post-index-change").chmod(0o755)
    git("config", "core.hooksPath", str(hooks))
    (tmp_path / "file").write_text("2")
    assert git_state()["dirty"] is True
    assert not (tmp_path / "sprung").exists()
    git("status")
    assert (tmp_path / "sprung").exists(), "the trap works"


@pytest.mark.parametrize("git_there", ["missing", "slow", "failing"])
def test_trouble_with_git_is_silent(tmp_path, monkeypatch, capfd, git_there):
    if git_there != "missing":
        tool = tmp_path / "git"
        body = "import time; time.sleep(30)" if git_there == "slow" else "raise SystemExit(1)"
        tool.write_text(f"#!{sys.executable}\n{body}\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sb3_ext.tracking.config.GIT_SECONDS", 0.2)
    assert git_state() is None
    assert capfd.readouterr() == ("", "")
