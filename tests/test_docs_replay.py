"""The pages of PER, LAP, PAL and ERE: every option and metric is explained; what is refused, is."""

import dataclasses
import re
from pathlib import Path

import pytest
import sb3_contrib
import stable_baselines3 as sb3
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.logger import KVWriter, Logger

import sb3_ext
from sb3_ext import (
    LAP,
    PAL,
    EmphasizeRecent,
    EREReplayBuffer,
    Huber,
    Prioritized,
    PrioritizedReplayBuffer,
)
from tests.environments import make_env

METHODS = Path(__file__).parents[1] / "docs" / "methods"
PER, ERE = METHODS / "per.md", METHODS / "ere.md"
RECENT = {"name": "ere", "c_min": 10}
SMALL = {"learning_starts": 20, "batch_size": 8, "buffer_size": 60, "seed": 0}
BASES = ("SAC", "TD3", "DDPG", "TQC", "CrossQ", "DQN", "QRDQN")


def section(page: Path, heading: str) -> str:
    """What stands under a heading, down to the next of its rank or a higher one."""
    text = page.read_text(encoding="utf-8")
    found = re.search(rf"^(#+) {re.escape(heading)}\n(.*)", text, re.MULTILINE | re.DOTALL)
    assert found, f"{page.name} has no heading {heading!r}"
    return re.split(rf"^#{{1,{len(found[1])}}} ", found[2], flags=re.MULTILINE)[0]


@pytest.mark.parametrize(
    ("page", "heading", "config"),
    [
        (PER, "Prioritized", Prioritized),
        (PER, "LAP", LAP),
        (ERE, "EmphasizeRecent", EmphasizeRecent),
    ],
)
def test_the_table_of_options_is_that_of_the_config(page, heading, config):
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", section(page, heading), re.MULTILINE)
    assert rows == [(one.name, repr(one.default)) for one in dataclasses.fields(config)]


def test_the_table_of_losses_is_that_of_the_losses():
    table = section(PER, "Critic losses")
    rows = re.findall(r"^\| `(\w+)` of `(\w+)` \| `([^`]+)` \|", table, re.MULTILINE)
    assert rows == [
        (one.name, loss.__name__, repr(one.default))
        for loss in (Huber, PAL)
        for one in dataclasses.fields(loss)
    ]


class Keys(KVWriter):
    """Notes what is logged."""

    def __init__(self):
        self.seen = set()

    def write(self, key_values, key_excluded, step=0):
        self.seen |= set(key_values)

    def close(self):
        pass


def logged(prefix, replay):
    """What a run writes to SB3's logger under a prefix."""
    model = sb3_ext.SAC("MlpPolicy", make_env(), replay=replay, **SMALL)
    keys = Keys()
    model.set_logger(Logger(None, [keys]))
    model.learn(60, log_interval=1)
    model.logger.dump()
    return {key for key in keys.seen if key.startswith(prefix)}


def explained(page):
    rows = re.findall(r"^\| `(\w+/\w+)` \|", section(page, "Metrics"), re.MULTILINE)
    assert len(rows) == len(set(rows))
    return rows


def test_the_metrics_of_per_are_those_on_its_page():
    assert set(explained(PER)) == logged("per/", "per")
    assert set(explained(PER)[:4]) == logged("per/", "lap")


def test_the_metrics_of_ere_are_those_on_its_page():
    for replay in (RECENT, {**RECENT, "cycle": "age"}):
        assert set(explained(ERE)) == logged("ere/", replay)
    assert logged("per/", {**RECENT, "inner": "per"}) == set(explained(PER))


# -- docs/guide/which-replay.md --------------------------------------------------------------------


@pytest.mark.parametrize("base", BASES)
def test_stock_classes_take_ere_and_refuse_per(base):
    stock = getattr(sb3_contrib if base in ("TQC", "QRDQN", "CrossQ") else sb3, base)
    env = make_env(discrete="DQN" in base)
    kwargs = {"c_min": 10, "cycle": 7}
    model = stock(
        "MlpPolicy",
        env,
        replay_buffer_class=EREReplayBuffer,
        replay_buffer_kwargs=kwargs,
        **SMALL,
    )
    model.learn(60)
    assert model.replay_buffer.sampler.metrics()["ere/window"] > 0
    with pytest.raises(TypeError, match="take the class of the same name from sb3_ext"):
        stock("MlpPolicy", env, replay_buffer_class=PrioritizedReplayBuffer)


@pytest.mark.parametrize("base", BASES)
def test_a_critic_loss_is_for_all_but_quantiles_and_lap_goes_with_these_too(base):
    cls, env = getattr(sb3_ext, base), make_env(discrete="DQN" in base)
    by_lap = cls("MlpPolicy", env, replay="lap", **SMALL).loss_function
    if base in ("TQC", "QRDQN"):
        assert by_lap is None
        with pytest.raises(ValueError, match="takes no critic_loss="):
            cls("MlpPolicy", env, critic_loss="pal", **SMALL)
    else:
        assert by_lap == Huber(1.0)
        chosen = cls("MlpPolicy", env, replay="lap", critic_loss="mse", **SMALL)
        assert chosen.loss_function == sb3_ext.MSE()


def hindsight(**kwargs):
    return sb3_ext.SAC(
        "MultiInputPolicy",
        BitFlippingEnv(n_bits=3, continuous=True, max_steps=3),
        **{**SMALL, "replay_buffer_class": HerReplayBuffer, **kwargs},
    )


def test_hindsight_goes_with_a_loss_and_with_no_sampler():
    assert hindsight(critic_loss="pal").learn(40).loss_function == PAL()
    for refused in ({"replay": "per"}, {"weighting": "lfiw"}, {"n_steps": 3}):
        with pytest.raises(ValueError, match=r"replay_buffer_class=|HerReplayBuffer"):
            hindsight(**refused)


@pytest.mark.parametrize("replay", [None, "per", RECENT], ids=str)
def test_memory_saving_and_n_steps_exclude_each_other_as_in_sb3(replay):
    buffer = {"handle_timeout_termination": False}
    kwargs = {"optimize_memory_usage": True, "replay_buffer_kwargs": buffer, **SMALL}
    sb3_ext.SAC("MlpPolicy", make_env(), replay=replay, **kwargs).learn(80)
    with pytest.raises(NotImplementedError, match="optimize_memory_usage"):
        sb3_ext.SAC("MlpPolicy", make_env(), replay=replay, n_steps=3, **kwargs)
