"""Saved models come back whole, go to SB3's classes and back, and are refused in words."""

from __future__ import annotations

import copy
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import stable_baselines3 as sb3
import torch as th
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext import (
    DQN,
    LFIWDQN,
    LFIWSAC,
    LFIWTD3,
    QRDQN,
    SAC,
    TD3,
    TQC,
    CrossQ,
    LikelihoodFree,
)
from sb3_ext.algorithms.td3 import DDPG
from sb3_ext.errors import CheckpointError
from sb3_ext.weighting import Weighting
from tests.environments import make_env

PLAIN: dict[str, Any] = {
    "learning_starts": 20,
    "batch_size": 16,
    "buffer_size": 150,
    "policy_kwargs": {"net_arch": [8, 8]},
    "device": "cpu",
    "seed": 0,
}
LFIW: dict[str, Any] = {"fast_buffer_size": 40, "ratio_net_arch": (8, 8)}


WEIGHTED = (LFIWSAC, LFIWTD3, LFIWDQN)


def env_for(cls: Any) -> Any:
    return make_env(discrete="DQN" in cls.__name__)


def learned(cls: Any, steps: int = 120, env: Any = None, **kwargs: Any) -> Any:
    options = copy.deepcopy(PLAIN) | (LFIW if cls in WEIGHTED else {}) | kwargs
    model = cls("MlpPolicy", env_for(cls) if env is None else env, **options)
    return model.learn(steps)


def tensors(state: Any, prefix: str = "") -> dict[str, th.Tensor]:
    if isinstance(state, dict):
        found: dict[str, th.Tensor] = {}
        for key, value in state.items():
            found |= tensors(value, f"{prefix}/{key}")
        return found
    return {prefix: state} if isinstance(state, th.Tensor) else {}


def assert_same(a: Any, b: Any) -> None:
    one, other = tensors(a.get_parameters()), tensors(b.get_parameters())
    assert one.keys() == other.keys()
    assert all(th.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("cls", [SAC, TD3, DDPG, DQN, TQC, QRDQN, CrossQ, *WEIGHTED])
def test_a_model_comes_back_with_all_its_networks_and_optimisers(cls: Any, tmp_path: Path) -> None:
    model = learned(cls)
    model.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model", device="cpu")
    assert_same(model, loaded)
    observation = make_env().reset()
    action, _ = model.predict(observation, deterministic=True)
    assert (action == loaded.predict(observation, deterministic=True)[0]).all()
    if cls in WEIGHTED:
        assert "weigher" in model.get_parameters()
        assert model.weigher.updates == loaded.weigher.updates > 0
        assert model.weigher.rng.bit_generator.state == loaded.weigher.rng.bit_generator.state


def test_the_ratio_network_would_be_noticed_if_it_were_lost(tmp_path: Path) -> None:
    """The comparison above is not empty: a fresh ratio network is another one."""
    model = learned(LFIWSAC)
    fresh = tensors(learned(LFIWSAC, steps=41).weigher.state_dict())
    trained = tensors(model.weigher.state_dict())
    assert any("optimizer" in name for name in trained)
    assert any(not th.equal(trained[n], fresh[n]) for n in trained if n in fresh)


@pytest.mark.parametrize("n_envs", [1, 3])
def test_model_and_buffer_saved_and_loaded_train_on_as_if_never_stopped(
    n_envs: int, tmp_path: Path
) -> None:
    model = learned(LFIWSAC, env=make_env(n_envs=n_envs))
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = LFIWSAC.load(tmp_path / "model", env=make_env(n_envs=n_envs), device="cpu")
    loaded.load_replay_buffer(tmp_path / "buffer")
    for each in (model, loaded):
        each.set_logger(sb3.common.logger.configure(None, []))
        np.random.seed(5)
        th.manual_seed(5)
        each.train(gradient_steps=30, batch_size=16)
    assert_same(model, loaded)
    assert model.weigher.metrics() == loaded.weigher.metrics()


def test_arguments_of_load_override_what_was_saved(tmp_path: Path) -> None:
    learned(LFIWSAC).save(tmp_path / "m")
    loaded = LFIWSAC.load(tmp_path / "m", env=make_env(), temperature=9, gamma=0.5)
    assert (loaded.temperature, loaded.gamma) == (9, 0.5)
    assert loaded.weigher.config.temperature == 9
    loaded.learn(60)
    with pytest.raises(ValueError, match="temperature must be > 0"):
        LFIWSAC.load(tmp_path / "m", temperature=-1)
    with pytest.raises(
        TypeError, match="unknown argument 'temprature'; did you mean 'temperature'"
    ):
        LFIWSAC.load(tmp_path / "m", temprature=9)
    with pytest.raises(CheckpointError, match=r"does not fit ratio_net_arch=\(64,\)"):
        LFIWSAC.load(tmp_path / "m", ratio_net_arch=(64,))


def test_options_are_saved_as_plain_values(tmp_path: Path) -> None:
    learned(LFIWSAC).save(tmp_path / "a")
    weighting = LikelihoodFree(fast_buffer_size=40, ratio_net_arch=(8, 8))
    learned(SAC, weighting=weighting).save(tmp_path / "b")
    for name, key in (("a", "temperature"), ("b", "weighting")):
        with zipfile.ZipFile(tmp_path / f"{name}.zip") as archive:
            value = json.loads(archive.read("data"))[key]
        assert value == 5.0 or value["temperature"] == 5.0
        assert ":serialized:" not in str(value)


def test_a_weighting_given_as_config_survives_and_can_be_exchanged(tmp_path: Path) -> None:
    weighting = LikelihoodFree(fast_buffer_size=40, ratio_net_arch=(8, 8), temperature=3.0)
    model = learned(SAC, weighting=weighting)
    model.save(tmp_path / "m")
    same = SAC.load(tmp_path / "m")
    assert same.weigher.config == weighting
    assert_same(model, same)
    wider = {"name": "lfiw", "fast_buffer_size": 50, "ratio_net_arch": (8, 8)}
    other = SAC.load(tmp_path / "m", weighting=wider)
    assert other.weigher.config.fast_buffer_size == 50
    assert_same(model, other)  # the same kind of weighting keeps what it has learned
    assert isinstance(SAC.load(tmp_path / "m", weighting=Mild()).weigher, MildWeighting)
    assert SAC.load(tmp_path / "m", weighting=None, env=make_env()).learn(40).weigher is None


def test_parameters_can_be_taken_and_put_back() -> None:
    model, other = learned(LFIWSAC), learned(LFIWSAC, seed=1)
    other.set_parameters(copy.deepcopy(model.get_parameters()))
    assert_same(model, other)
    without = {k: v for k, v in model.get_parameters().items() if k != "weigher"}
    with pytest.raises(ValueError, match="Names of parameters do not match"):
        other.set_parameters(without)


class MildWeighting(Weighting):
    def weigh(self, draw: Any, replay: Any) -> th.Tensor:
        return th.ones(len(draw.samples.rewards), 1)


@dataclass(frozen=True)
class Mild:
    """An unregistered config: saved as the object it is."""

    strength: float = 0.5
    name: str = "lfiw"  # not to be taken for the plugin

    def build(self, algorithm: Any) -> Weighting:
        return MildWeighting()


def test_a_config_that_no_plugin_registers_is_saved_as_it_is(tmp_path: Path) -> None:
    learned(SAC, weighting=Mild(0.7)).save(tmp_path / "m")
    assert SAC.load(tmp_path / "m").weighting == Mild(0.7)


def test_a_weighted_class_takes_over_a_base_with_its_options_and_network(tmp_path: Path) -> None:
    options = {"fast_buffer_size": 40, "ratio_net_arch": (8, 8), "temperature": 2.0}
    base = learned(SAC, weighting=LikelihoodFree(**options))
    base.save(tmp_path / "m")
    model = LFIWSAC.load(tmp_path / "m")
    assert (model.temperature, model.fast_buffer_size) == (2.0, 40)
    assert model.weighting is None
    assert_same(base, model)
    assert LFIWSAC.load(tmp_path / "m", temperature=7).temperature == 7


def test_another_weightings_state_is_not_taken_for_a_ratio_network(tmp_path: Path) -> None:
    learned(SAC, weighting=Mild()).save(tmp_path / "m")
    model = LFIWSAC.load(tmp_path / "m", **LFIW)
    assert model.weigher.updates == 0


def test_vec_normalize_may_come_after_loading(tmp_path: Path) -> None:
    env = make_env(normalize=True)
    model = learned(LFIWSAC, env=env)
    assert not model.weigher.network.normalize
    model.save(tmp_path / "m")
    late = LFIWSAC.load(tmp_path / "m")
    late.set_env(env)
    assert not late.weigher.network.normalize  # as it was trained
    late.learn(60)


def test_a_replay_buffer_of_other_environments_is_refused(tmp_path: Path) -> None:
    learned(SAC, env=make_env(n_envs=3)).save_replay_buffer(tmp_path / "three")
    model = learned(SAC)
    kept = model.replay_buffer
    with pytest.raises(ValueError, match="of 3 environments, and this model has 1"):
        model.load_replay_buffer(tmp_path / "three")
    assert model.replay_buffer is kept


def test_an_unknown_engine_is_refused_by_load_too(tmp_path: Path) -> None:
    learned(SAC, steps=30).save(tmp_path / "m")
    with pytest.raises(ValueError, match=r"engine must be one of 'auto', .*got 'warp'"):
        SAC.load(tmp_path / "m", engine="warp")


# -- between SB3 and us ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stock", "ours"),
    [
        (sb3.SAC, SAC),
        (sb3.SAC, LFIWSAC),
        (sb3.TD3, TD3),
        (sb3.TD3, LFIWTD3),
        (sb3.DDPG, DDPG),
        (sb3.DQN, DQN),
        (sb3.DQN, LFIWDQN),
        (sb3_contrib.TQC, TQC),
        (sb3_contrib.QRDQN, QRDQN),
        (sb3_contrib.CrossQ, CrossQ),
    ],
)
def test_a_stock_zip_warm_starts_ours(stock: Any, ours: Any, tmp_path: Path) -> None:
    theirs = learned(stock)
    theirs.save(tmp_path / "stock")
    extra = LFIW if "LFIW" in ours.__name__ else {}
    model = ours.load(tmp_path / "stock", env=env_for(ours), device="cpu", **extra)
    mine, old = tensors(model.get_parameters()), tensors(theirs.get_parameters())
    assert old.keys() <= mine.keys()
    assert all(th.equal(old[name], mine[name]) for name in old)
    assert model.num_timesteps == theirs.num_timesteps
    model.learn(80)
    if extra:
        assert model.weigher.updates > 0


def test_a_stock_dqn_goes_on_as_it_was_unless_double_q_is_asked_for(tmp_path: Path) -> None:
    learned(sb3.DQN).save(tmp_path / "stock")
    assert DQN.load(tmp_path / "stock").double_q is False
    doubled = DQN.load(tmp_path / "stock", double_q=True)
    doubled.save(tmp_path / "ours")
    assert DQN.load(tmp_path / "ours").double_q is True


def test_our_own_base_warm_starts_the_weighted_class(tmp_path: Path) -> None:
    base = learned(SAC)
    base.save(tmp_path / "m")
    model = LFIWSAC.load(tmp_path / "m", **LFIW)
    assert th.equal(model.actor.mu.weight, base.actor.mu.weight)
    assert model.saved_by == "LFIWSAC"


@pytest.mark.parametrize(
    ("ours", "stock"),
    [
        (SAC, sb3.SAC),
        (LFIWSAC, sb3.SAC),
        (TD3, sb3.TD3),
        (LFIWTD3, sb3.TD3),
        (DDPG, sb3.DDPG),
        (DQN, sb3.DQN),
        (LFIWDQN, sb3.DQN),
        (TQC, sb3_contrib.TQC),
        (QRDQN, sb3_contrib.QRDQN),
        (CrossQ, sb3_contrib.CrossQ),
    ],
)
def test_ours_is_exported_to_a_zip_that_stock_sb3_loads(
    ours: Any, stock: Any, tmp_path: Path
) -> None:
    model = learned(ours)
    model.save_for_sb3(tmp_path / "stock")
    with zipfile.ZipFile(tmp_path / "stock.zip") as archive:
        assert b"sb3_ext" not in archive.read("data")
        assert not [name for name in archive.namelist() if "weigher" in name]
    loaded = stock.load(tmp_path / "stock", env=env_for(ours), device="cpu")
    observation = make_env().reset()
    action, _ = model.predict(observation, deterministic=True)
    assert (action == loaded.predict(observation, deterministic=True)[0]).all()
    loaded.learn(40)
    if model.weigher is not None:  # exporting took nothing away
        assert "weigher" in model.get_parameters()
    model.learn(40)


def test_an_env_may_be_named_and_learning_without_one_is_refused(tmp_path: Path) -> None:
    SAC("MlpPolicy", "Pendulum-v1", buffer_size=100).save(tmp_path / "m")
    SAC.load(tmp_path / "m", env="Pendulum-v1").learn(5)
    with pytest.raises(ValueError, match="no environment to learn in: pass env="):
        SAC.load(tmp_path / "m").learn(5)
    with pytest.raises(ValueError, match=r"SAC supports Box action spaces.*use .*sb3_ext\.DQN"):
        SAC.load(tmp_path / "m", env="CartPole-v1")


# -- refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("saved", "loading", "sentence"),
    [
        (sb3.TD3, LFIWSAC, "saved by stable_baselines3's TD3.*continues only models of SAC"),
        (sb3.SAC, TD3, "saved by stable_baselines3's SAC"),
        (sb3.PPO, SAC, "saved by stable_baselines3's PPO"),
        (sb3.A2C, SAC, "saved by stable_baselines3's A2C"),
        (sb3_contrib.TQC, LFIWSAC, "saved by sb3_contrib's TQC"),
        (sb3_contrib.CrossQ, SAC, "saved by sb3_contrib's CrossQ"),
        (sb3.SAC, TQC, "saved by stable_baselines3's SAC.*continues only models of TQC"),
        (sb3_contrib.QRDQN, DQN, "saved by sb3_contrib's QRDQN"),
        (sb3.DQN, QRDQN, "saved by stable_baselines3's DQN"),
        (QRDQN, DQN, r"saved by QRDQN, not by DQN"),
        (LFIWDQN, DQN, r"saved by LFIWDQN, not by DQN: load it with LFIWDQN\.load"),
        (LFIWSAC, SAC, r"saved by LFIWSAC, not by SAC: load it with LFIWSAC\.load"),
        (LFIWTD3, LFIWSAC, "saved by LFIWTD3, not by LFIWSAC"),
        (TD3, DDPG, r"saved by TD3, not by DDPG"),
        (DDPG, TD3, r"saved by DDPG, not by TD3"),
        (sb3.TD3, DDPG, "saved by stable_baselines3's TD3"),
        (sb3.DDPG, LFIWTD3, "saved by stable_baselines3's DDPG"),
    ],
)
def test_a_checkpoint_of_another_class_is_refused(
    saved: Any, loading: Any, sentence: str, tmp_path: Path
) -> None:
    if saved in (sb3.PPO, sb3.A2C):
        saved("MlpPolicy", make_env(), device="cpu").save(tmp_path / "m")
    else:
        learned(saved, steps=45).save(tmp_path / "m")
    with pytest.raises(CheckpointError, match=sentence):
        loading.load(tmp_path / "m")


def test_truncated_and_damaged_files_are_refused(tmp_path: Path) -> None:
    model = learned(LFIWSAC, steps=45)
    model.save(tmp_path / "m")
    whole = (tmp_path / "m.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    spoiled = bytearray(whole)
    spoiled[len(whole) // 3] ^= 0xFF
    (tmp_path / "bad.zip").write_bytes(spoiled)
    (tmp_path / "empty.zip").write_bytes(b"")
    (tmp_path / "text.zip").write_text("this is no model")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("holiday.txt", "sun")
    for name in ("cut", "bad", "empty", "text"):
        with pytest.raises(CheckpointError, match=rf"{name}.*(damaged|cut short)"):
            LFIWSAC.load(tmp_path / name)
    with pytest.raises(CheckpointError, match=r"has no part 'data'.*holiday"):
        LFIWSAC.load(tmp_path / "other")
    with pytest.raises(CheckpointError, match="is a folder; name the zip file"):
        LFIWSAC.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        LFIWSAC.load(tmp_path / "missing")


def test_a_file_object_works_too() -> None:
    model, file = learned(LFIWSAC), io.BytesIO()
    model.save(file)
    file.seek(0)
    assert_same(model, LFIWSAC.load(file, device="cpu"))


def test_vec_normalize_and_callbacks_go_on_working(tmp_path: Path) -> None:
    env = make_env(normalize=True, n_envs=2)
    model = learned(LFIWSAC, env=env)
    model.save(tmp_path / "m")
    env.save(str(tmp_path / "stats"))
    again = VecNormalize.load(str(tmp_path / "stats"), make_env(n_envs=2))
    loaded = LFIWSAC.load(tmp_path / "m", env=again)
    seen: list[int] = []
    checkpoint = sb3.common.callbacks.CheckpointCallback(20, str(tmp_path), save_replay_buffer=True)
    stop = sb3.common.callbacks.StopTrainingOnMaxEpisodes(max_episodes=4)
    count = sb3.common.callbacks.ConvertCallback(lambda *_: seen.append(1) or True)
    loaded.learn(400, callback=[checkpoint, stop, count])
    assert loaded.num_timesteps < 400
    assert seen
    assert list(tmp_path.glob("rl_model_*_steps.zip"))
