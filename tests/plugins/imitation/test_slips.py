"""What a fresh reader stumbled over: data in every form, slips in words, whose returns are told."""

import json
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ext import AIRL, BC, GAIL, CausalBC, DAgger
from sb3_ext.cli import main
from sb3_ext.errors import CheckpointError
from sb3_ext.offline import OfflineDataset, episode_starts_after, from_policy
from sb3_ext.testing.environments import kit_env
from sb3_ext.testing.offline import kit_dataset

SMALL: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "seed": 0, "device": "cpu"}
PPO_SMALL: dict[str, Any] = {"n_steps": 20, "batch_size": 20, "n_epochs": 1}


class Line(gym.Env[Any, Any]):
    """Noise in two dimensions; the action 1 is paid. Ends by itself after ``length`` steps."""

    observation_space = spaces.Box(-4, 4, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, length: int = 5) -> None:
        self.length = length

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self._seen(), {}

    def _seen(self) -> Any:
        return self.np_random.normal(size=2).clip(-4, 4).astype(np.float32)

    def step(self, action: Any) -> Any:
        self.t += 1
        return self._seen(), float(action), self.t == self.length, False, {}


class Picture(Line):
    """The same as an image with its channels last."""

    observation_space = spaces.Box(0, 255, (36, 36, 1), np.uint8)  # type: ignore[assignment]

    def _seen(self) -> Any:
        return np.full((36, 36, 1), self.np_random.integers(255), np.uint8)


def ones(seen: Any) -> Any:
    return np.ones(len(seen), int)


def zeros(seen: Any) -> Any:
    return np.zeros(len(seen), int)


def demonstrations(length: int = 5, n: int = 4, terminated: bool = True) -> OfflineDataset:
    rows = np.random.default_rng(0).normal(size=(n * length + 1, 2)).clip(-4, 4)
    ends = np.arange(1, n * length + 1) % length == 0
    return OfflineDataset(
        rows[:-1].astype(np.float32),
        np.ones(n * length, int),
        np.zeros(n * length, np.float32),
        rows[1:].astype(np.float32),
        ends & terminated,
        ends & (not terminated),
        episode_starts_after(ends),
        Line.observation_space,
        Line.action_space,
    )


def gail(cls: Any = GAIL, env: Any = None, **options: Any) -> Any:
    data = options.pop("demonstrations", demonstrations())
    options.setdefault("generator_kwargs", PPO_SMALL)
    made = DummyVecEnv([Line]) if env is None else env
    return cls("MlpPolicy", made, demonstrations=data, **{**SMALL, **options})


# -- generators ------------------------------------------------------------------------------------


def test_a_generator_that_is_made_already_is_told() -> None:
    with pytest.raises(ValueError, match="got a PPO that is made already: give generator='PPO'"):
        gail(generator=PPO("MlpPolicy", Line(), **PPO_SMALL))
    with pytest.raises(ValueError, match="name or class, got 5"):
        gail(generator=5)


def test_another_generator_does_not_go_on_with_a_zip(tmp_path: Any) -> None:
    gail().save(tmp_path / "m")
    with pytest.raises(CheckpointError, match=r"made with the generator 'sb3:PPO'.*no SAC's"):
        GAIL.load(tmp_path / "m", generator="SAC")
    for same in ("PPO", "sb3:PPO", PPO):
        assert isinstance(GAIL.load(tmp_path / "m", generator=same, device="cpu"), PPO)


def test_a_class_without_a_name_is_given_again(tmp_path: Any) -> None:
    class Own(PPO):
        pass

    gail(generator=Own).save(tmp_path / "m")
    with pytest.raises(CheckpointError, match="a generator of yours"):
        GAIL.load(tmp_path / "m")
    assert isinstance(GAIL.load(tmp_path / "m", generator=Own, device="cpu"), Own)


def test_a_policy_that_the_generator_has_not() -> None:
    with pytest.raises(
        ValueError, match=r"RecurrentPPO has no policy 'MlpPolicy'.*'MlpLstmPolicy'"
    ):
        gail(generator="RecurrentPPO")
    # AIRL cannot have it at all, and says that first.
    with pytest.raises(TypeError, match=r"probability of the generator's actions.*'PPO', 'A2C'"):
        gail(AIRL, generator="RecurrentPPO")


@pytest.mark.parametrize("cls", [GAIL, AIRL])
@pytest.mark.parametrize("generator", ["PPO", "SAC"])
def test_save_for_sb3_is_the_generator_for_stock_sb3(
    cls: Any, generator: str, tmp_path: Any
) -> None:
    env = kit_env()
    model = cls(
        "MlpPolicy",
        env,
        demonstrations=kit_dataset(env),
        generator=generator,
        allow_variable_horizon=True,
        **SMALL,
    )
    model.save_for_sb3(tmp_path / "m")
    stock = getattr(stable_baselines3, generator).load(tmp_path / "m", device="cpu")
    seen = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    told = [one.predict(seen, deterministic=True)[0] for one in (stock, model)]
    assert np.array_equal(*told)
    model.save(tmp_path / "whole")  # as before
    assert isinstance(cls.load(tmp_path / "whole", device="cpu"), cls)


# -- the learned reward ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({0: np.zeros(2)}, r"observations must have the shape \[B, 2\].*got \[2\].*\[None\]"),
        ({2: np.zeros((4, 3))}, r"next_observations must have the shape \[B, 2\].*got \[4, 3\]"),
        ({1: 0}, r"actions must have the shape \[B\], one a row, got \[\].*actions\[None\]"),
        ({3: np.zeros(3)}, r"one of each, got 4 observations, 4 actions.*3 dones"),
    ],
)
def test_a_learned_reward_of_other_shapes(changed: Any, told: str) -> None:
    model = gail()
    batch = {0: np.zeros((4, 2)), 1: np.zeros(4, int), 2: np.zeros((4, 2)), 3: np.zeros(4)}
    assert model.learned_reward(*batch.values()).shape == (4,)
    with pytest.raises(ValueError, match=told):
        model.learned_reward(*(batch | changed).values())


# -- horizons --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [GAIL, AIRL])
def test_episodes_of_another_length_than_the_demonstrations(cls: Any) -> None:
    with pytest.raises(ValueError, match=r"end after 3 steps, the environment's after 5.*allow"):
        gail(cls, demonstrations=demonstrations(3)).learn(20)
    gail(cls, demonstrations=demonstrations(5)).learn(20)
    gail(cls, demonstrations=demonstrations(3), allow_variable_horizon=True).learn(20)
    # Data that merely stop may do so in the midst of an episode.
    gail(cls, demonstrations=demonstrations(3, terminated=False)).learn(20)


# -- demonstrations that do not say their spaces ---------------------------------------------------


@pytest.mark.parametrize("cls", [BC, CausalBC])
def test_trajectories_without_an_environment(cls: Any) -> None:
    one = SimpleNamespace(
        obs=np.zeros((4, 2), np.float32), acts=np.zeros(3, int), infos=None, terminal=True
    )
    with pytest.raises(ValueError, match="make the model with env=") as told:
        cls("MlpPolicy", demonstrations=[one])
    assert "action_space=" not in str(told.value)
    cls("MlpPolicy", Line(), demonstrations=[one], **SMALL)


def test_a_minari_dataset_that_is_not_there(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"`minari download x/y-v0`, or by sb3_ext.offline"):
        gail(demonstrations="minari:x/y-v0")


# -- DAgger ----------------------------------------------------------------------------------------

ROUND: dict[str, Any] = {"round_min_timesteps": 32, "round_min_episodes": 1, "n_epochs": 1}


def test_images_with_channels_last_go_with_what_dagger_is_told() -> None:
    data = from_policy(ones, Picture(), n_episodes=3, seed=0)
    assert data.observation_space.shape == (36, 36, 1)
    model = DAgger(
        "CnnPolicy", Picture(), expert=ones, demonstrations=data, seed=0, device="cpu", **ROUND
    )
    model.learn(32)
    told: Any = model.labelled()
    assert len(told) == len(data) + model.expert_queries
    assert told.observations.shape[1:] == (1, 36, 36)
    assert np.array_equal(told.observations[: len(data), 0], data.observations[..., 0])  # type: ignore[index, call-overload]


def test_demonstrations_of_another_task_are_named_themselves() -> None:
    with pytest.raises(ValueError, match="this demonstrations=") as told:
        DAgger("MlpPolicy", kit_env(), expert=ones, demonstrations=demonstrations(), **SMALL)
    assert "expert=" not in str(told.value)


def test_statistics_that_change_are_refused_with_what_an_expert_has() -> None:
    env = VecNormalize(DummyVecEnv([Line]))
    with pytest.raises(ValueError, match=r"from round to round.*from_policy\(expert") as told:
        DAgger("MlpPolicy", env, expert=ones, **SMALL)
    assert "expert.observations" not in str(told.value)
    with pytest.raises(ValueError, match=r"update\(demonstrations\.observations\)"):
        BC("MlpPolicy", env, demonstrations=demonstrations(), **SMALL)


def test_returns_of_the_clone_alone_are_those_of_rounds_without_the_expert(tmp_path: Any) -> None:
    """The expert is paid 5 an episode; the clone, who always takes 0 and never learns, nothing."""
    model = DAgger(
        "MlpPolicy",
        DummyVecEnv([lambda: gym.wrappers.RecordEpisodeStatistics(Line())] * 2),
        expert=ones,
        learning_rate=0.0,
        beta_rampdown_rounds=2,
        **ROUND,
        **SMALL,
    )
    model.policy.action_net.bias.data.copy_(model.policy.action_net.bias.data.new([40.0, -40.0]))
    model.set_logger(configure(str(tmp_path), ["json"]))
    model.learn(40 * 5)
    model.logger.close()
    rows = [json.loads(line) for line in (tmp_path / "progress.json").read_text().splitlines()]
    assert [row["dagger/beta"] for row in rows] == [1, 0.5, 0, 0, 0]
    alone = [row.get("dagger/clone_ep_rew_mean") for row in rows]
    assert alone == [None, None, 0, 0, 0]


def test_pictures_do_not_call_the_expert_s_returns_the_clone_s(
    tmp_path: Any, monkeypatch: Any, capsys: Any
) -> None:
    from sb3_ext import plots

    drawn: list[Any] = []
    save = plots._save
    monkeypatch.setattr(plots, "_save", lambda f, path: drawn.append(f.axes) or save(f, path))
    ppo, run = str(tmp_path / "ppo"), str(tmp_path / "dagger")
    words = ["--env", "CartPole-v1", "--eval-every", "0", "--checkpoint-every", "0"]
    words += ["--no-progress", "--set", "policy_kwargs.net_arch=[8]"]
    short = ["--steps", "64", "--set", "n_steps=64", "--set", "batch_size=64"]
    assert main(["train", "PPO", *words, *short, "--run-dir", ppo]) == 0
    asks = ["--set", f"expert={ppo}", "--set", "round_min_timesteps=60", "--steps", "60"]
    assert main(["train", "DAgger", *words, *asks, "--run-dir", run]) == 0
    legends = [{line.get_label() for line in axes[0].lines} for axes in drawn]
    assert "training (mean of 5 episodes)" in legends[0]
    assert "expert and clone in turn (mean of 5 episodes)" in legends[1]
    assert [axes[-1].get_xlabel() for axes in drawn] == ["environment steps"] * 2
    assert BC.learn_counts == "gradient steps"
    capsys.readouterr()
    assert main(["plot", run, "--out", str(tmp_path / "curves.png")]) == 0
    assert "played by expert and clone in turn, and are not the agent's own" in (
        capsys.readouterr().err
    )


def test_a_replay_of_trajectories_cannot_be_relabelled() -> None:
    """ACER keeps no transitions; without relabelling it is a generator like others."""
    from sb3_ext import ACER

    env = kit_env(action="Discrete")
    given = {"generator": ACER, "allow_variable_horizon": True, "device": "cpu", "seed": 0}
    given |= {"demonstrations": kit_dataset(kit_env(action="Discrete"))}
    given |= {"generator_kwargs": {"n_steps": 8, "replay_start": 16}, "gen_train_timesteps": 32}
    with pytest.raises(ValueError, match=r"buffer of ACER holds trajectories.*relabel_rewards"):
        GAIL("MlpPolicy", env, **given)
    model = GAIL("MlpPolicy", env, relabel_rewards=False, **given)
    assert model.learn(64).num_timesteps >= 64
