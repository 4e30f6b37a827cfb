"""Algorithms that learn from a compact buffer end where they end with SB3's plain one."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import stable_baselines3 as sb3
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer

import sb3_ext
from sb3_ext import CompactReplayBuffer
from sb3_ext.errors import CheckpointError
from sb3_ext.offline import from_replay_buffer
from sb3_ext.plugins.ere.buffer import EREReplayBuffer
from sb3_ext.replay.compact import CompactDictReplayBuffer, CompactNStepReplayBuffer
from sb3_ext.resume import ResumableCheckpoint
from sb3_ext.resume.buffers import capture_buffer
from sb3_ext.resume.encoder import Encoder
from sb3_ext.running.hyperparameters import constructor_values
from sb3_ext.trees import same
from tests.cut_runs import cut_and_resume, require_same
from tests.environments import make_env
from tests.resume.test_exact import venv

PENDULUM, CARTPOLE = "Pendulum-v1", "CartPole-v1"
SMALL = {
    "policy_kwargs": {"net_arch": [8]},
    "seed": 3,
    "learning_starts": 40,
    "buffer_size": 150,
    "batch_size": 16,
}
LFIW = {"name": "lfiw", "fast_buffer_size": 60, "ratio_net_arch": (8,)}
ERE_PER = {"name": "ere", "c_min": 10, "inner": {"name": "per"}}


def make(cls: Any, env: Any, compact: bool = True, **kwargs: Any) -> Any:
    env = venv(env) if isinstance(env, str) else env
    door = {"replay_buffer_class": CompactReplayBuffer} if compact else {}
    policy = kwargs.pop("policy", "MlpPolicy")
    return cls(policy, env, **copy.deepcopy({**SMALL, **kwargs}), **door)


CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "SAC": (sb3_ext.SAC, lambda: venv(PENDULUM), {}),
    "SAC, 3 envs": (sb3_ext.SAC, lambda: venv(PENDULUM, 3), {}),
    "SAC, PER": (sb3_ext.SAC, lambda: venv(PENDULUM), {"replay": "per"}),
    "SAC, ERE around PER": (sb3_ext.SAC, lambda: venv(PENDULUM, 3), {"replay": ERE_PER}),
    "SAC, LFIW": (sb3_ext.SAC, lambda: venv(PENDULUM), {"weighting": LFIW}),
    "SAC, n steps, LAP, LFIW": (
        sb3_ext.SAC,
        lambda: venv(PENDULUM, 2),
        {"replay": "lap", "weighting": LFIW, "n_steps": 3},
    ),
    "SAC, Dict": (
        sb3_ext.SAC,
        lambda: make_env("dict", 2),
        {"policy": "MultiInputPolicy", "replay": "per", "weighting": LFIW},
    ),
    "SAC, float64": (sb3_ext.SAC, lambda: make_env("box", 2), {"replay": "ere"}),
    "SAC, VecNormalize": (sb3_ext.SAC, lambda: make_env("box", normalize=True), {}),
    "TD3": (sb3_ext.TD3, lambda: venv(PENDULUM), {}),
    "TD3, PER": (sb3_ext.TD3, lambda: venv(PENDULUM), {"replay": "per"}),
    "TD3, ERE, LFIW": (
        sb3_ext.TD3,
        lambda: venv(PENDULUM),
        {"replay": {"name": "ere", "c_min": 10}, "weighting": LFIW},
    ),
    "DQN": (sb3_ext.DQN, lambda: venv(CARTPOLE), {}),
    "DQN, PER": (sb3_ext.DQN, lambda: venv(CARTPOLE, 2), {"replay": "per"}),
    "DQN, n steps, LFIW": (
        sb3_ext.DQN,
        lambda: venv(CARTPOLE),
        {"n_steps": 3, "weighting": LFIW},
    ),
    "DQN, images": (
        sb3_ext.DQN,
        lambda: make_env("image", discrete=True),
        {"policy": "CnnPolicy", "train_freq": 20, "replay": {"name": "ere", "c_min": 10}},
    ),
    "STEVE": (
        sb3_ext.STEVE,
        lambda: make_env("box"),
        {"horizon": 1, "n_models": 2, "n_rewards": 1, "train_freq": 5},
    ),
    "stock SAC": (sb3.SAC, lambda: venv(PENDULUM), {}),
    "stock SAC, Dict": (
        sb3.SAC,
        lambda: make_env("dict"),
        {"policy": "MultiInputPolicy"},
    ),
    "stock DQN": (sb3.DQN, lambda: venv(CARTPOLE, 3), {}),
    "sb3-contrib's TQC": (sb3_contrib.TQC, lambda: venv(PENDULUM), {}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_seeds_give_the_same_parameters(name: str) -> None:
    cls, env, kwargs = CASES[name]
    if name == "DQN, images":
        kwargs |= {"policy_kwargs": {"features_extractor_kwargs": {"features_dim": 8}}}
    # One after the other: a model seeds the generators that all of them draw from.
    models = [make(cls, env(), compact, **kwargs).learn(200) for compact in (False, True)]
    plain, compact = (model.replay_buffer for model in models)
    assert isinstance(compact, CompactReplayBuffer)
    assert plain.full
    assert compact.full
    before, after = (model.get_parameters() for model in models)
    if "VecNormalize" in name:  # rounded before the means are taken off, not after
        for part, held in before["policy"].items():
            np.testing.assert_allclose(held, after["policy"][part], atol=1e-3)
    else:
        assert same(before, after)
    # What the memory is saved by: an end a row at most, of each environment.
    for one in compact._next_observations():
        assert one.kept_apart <= compact.dones.sum() + 2 * compact.n_envs


# -- with whom it goes -----------------------------------------------------------------------------


def test_the_variant_is_chosen_by_itself() -> None:
    dicts = make(sb3_ext.SAC, make_env("dict"), policy="MultiInputPolicy").replay_buffer
    assert isinstance(dicts, CompactDictReplayBuffer | DictReplayBuffer)
    steps = make(sb3_ext.SAC, PENDULUM, n_steps=3).replay_buffer
    assert isinstance(steps, CompactNStepReplayBuffer)
    assert isinstance(steps, NStepReplayBuffer)
    assert (steps.n_steps, steps.gamma) == (3, 0.99)
    stock = make(sb3.SAC, PENDULUM, replay_buffer_kwargs={"n_steps": 2, "gamma": 0.5})
    assert (stock.replay_buffer.n_steps, stock.replay_buffer.gamma) == (2, 0.5)
    assert type(make(sb3_ext.SAC, PENDULUM).replay_buffer) is CompactReplayBuffer


def test_what_our_bases_cannot_store_so_is_told() -> None:
    with pytest.raises(ValueError, match="sums no rewards with Dict observations"):
        make(sb3_ext.SAC, make_env("dict"), policy="MultiInputPolicy", n_steps=3)
    with pytest.raises(ValueError, match="optimize_memory_usage must be False"):
        make(sb3_ext.SAC, PENDULUM, optimize_memory_usage=True)
    with pytest.raises(TypeError, match="got 'c_min', which SB3's replay buffer does not take"):
        make(sb3_ext.SAC, PENDULUM, replay_buffer_kwargs={"c_min": 10})
    with pytest.raises(TypeError, match="alpha in replay_buffer_kwargs is for the sampler"):
        make(sb3_ext.SAC, PENDULUM, replay="per", replay_buffer_kwargs={"alpha": 0.5})

    class Mine(CompactReplayBuffer):
        pass

    with pytest.raises(ValueError, match="Mine is no subclass of stable_baselines3's NStepReplay"):
        sb3_ext.SAC("MlpPolicy", PENDULUM, n_steps=3, replay_buffer_class=Mine)


def test_load_chooses_storage_and_sampler_apart(tmp_path: Any) -> None:
    make(sb3_ext.SAC, PENDULUM, compact=False, replay="per").save(tmp_path / "per")
    door = {"replay_buffer_class": CompactReplayBuffer, "env": venv(PENDULUM)}
    loaded = sb3_ext.SAC.load(tmp_path / "per", **door)
    assert (loaded.replay["name"], type(loaded.replay_buffer)) == ("per", CompactReplayBuffer)
    loaded.save(tmp_path / "both")
    again = sb3_ext.SAC.load(tmp_path / "both", env=venv(PENDULUM), replay="ere", n_steps=2)
    assert again.replay["name"] == "ere"
    assert type(again.replay_buffer) is CompactNStepReplayBuffer
    both = sb3_ext.SAC.load(tmp_path / "both", **door, replay="lap")
    assert (both.replay["name"], type(both.replay_buffer)) == ("lap", CompactReplayBuffer)
    plain = sb3_ext.SAC.load(
        tmp_path / "both", env=venv(PENDULUM), replay_buffer_class=ReplayBuffer
    )
    assert (plain.replay, type(plain.replay_buffer)) == (None, ReplayBuffer)
    for model in (loaded, again, both, plain):
        model.learn(60)


def test_a_stock_zip_with_it_warm_starts_ours(tmp_path: Any) -> None:
    make(sb3.SAC, PENDULUM).save(tmp_path / "stock")
    model = sb3_ext.SAC.load(tmp_path / "stock", env=venv(PENDULUM), replay="per")
    assert (model.replay["name"], type(model.replay_buffer)) == ("per", CompactReplayBuffer)
    sampled = make(
        sb3.SAC, PENDULUM, False, replay_buffer_class=EREReplayBuffer, replay_buffer_kwargs={}
    )
    sampled.save(tmp_path / "ere")
    door = {"replay_buffer_class": CompactReplayBuffer, "env": venv(PENDULUM)}
    assert sb3_ext.SAC.load(tmp_path / "ere", **door).replay is None


def test_the_command_line_knows_it_by_name() -> None:
    given = {"replay_buffer_class": "CompactReplayBuffer"}
    assert constructor_values(sb3.SAC, given, venv(PENDULUM)) == {
        "replay_buffer_class": CompactReplayBuffer
    }


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SAC, PER", "SAC, Dict", "SAC, n steps, LAP, LFIW"])
def test_a_saved_buffer_goes_on(name: str, tmp_path: Any) -> None:
    cls, env, kwargs = CASES[name]
    whole = make(cls, env(), **kwargs)
    whole.learn(200)
    whole.save_replay_buffer(tmp_path / "buffer")
    other = make(cls, env(), **kwargs)
    other.load_replay_buffer(tmp_path / "buffer")
    assert type(other.replay_buffer) is type(whole.replay_buffer)
    for one, two in zip(
        whole.replay_buffer._next_observations(),
        other.replay_buffer._next_observations(),
        strict=True,
    ):
        assert same(one.state_dict(len(one)), two.state_dict(len(two)))
        assert np.asarray(one).tobytes() == np.asarray(two).tobytes()
    other.learn(100)


def test_the_file_says_how_its_transitions_are_stored(tmp_path: Any) -> None:
    """As in SB3, where a loaded buffer takes the place of the model's, whatever its class."""
    for stored in (False, True):
        source = make(sb3_ext.SAC, PENDULUM, stored)
        source.learn(60)
        source.save_replay_buffer(tmp_path / "buffer")
        for cls in (sb3_ext.SAC, sb3.SAC):
            model = make(cls, PENDULUM, not stored)
            model.load_replay_buffer(tmp_path / "buffer")
            assert type(model.replay_buffer) is type(source.replay_buffer)
            model.learn(60)


def test_a_dataset_of_it_is_that_of_the_plain_one() -> None:
    datasets = []
    for compact in (False, True):
        model = make(sb3_ext.SAC, make_env("box", 2), compact)
        model.learn(260)
        datasets.append(from_replay_buffer(model.replay_buffer))
    plain, ours = datasets
    for name in ("observations", "next_observations", "actions", "rewards", "truncated"):
        assert np.array_equal(getattr(plain, name), getattr(ours, name)), name
    assert plain.truncated.any()


# -- exact resume ----------------------------------------------------------------------------------


@pytest.mark.parametrize("buffer_size", [1_000, 130])
@pytest.mark.parametrize(
    ("n_envs", "kwargs"),
    [(1, {"replay": "per", "n_steps": 3}), (3, {"weighting": LFIW}), (2, {"kind": "dict"})],
    ids=["PER, n steps", "LFIW, 3 envs", "Dict"],
)
def test_a_resumed_run_equals_the_unstopped_one(
    n_envs: int, kwargs: Any, buffer_size: int, tmp_path: Any
) -> None:
    kwargs = {**kwargs, "buffer_size": buffer_size}
    kind = kwargs.pop("kind", "box")
    policy = "MultiInputPolicy" if kind == "dict" else "MlpPolicy"

    def again() -> Any:
        return make(sb3_ext.SAC, make_env(kind, n_envs), policy=policy, **kwargs)

    runs = cut_and_resume(again, tmp_path, total=320, cut=275, every=90)
    buffers = [model.replay_buffer for model in runs[:2]]
    held = [[one.state_dict(len(one)) for one in b._next_observations()] for b in buffers]
    assert same(*held)
    assert all(len(state["values"]) for state in held[0])
    for one in buffers[1]._next_observations():
        assert len(one._free) + one.kept_apart <= one._used
    for buffer in buffers:  # compared above
        del buffer.next_observations
    require_same(*runs)


def test_a_checkpoint_holds_rows_in_use_once() -> None:
    model = make(sb3_ext.SAC, PENDULUM, buffer_size=1_000)
    model.learn(20)
    encoder = Encoder()
    nodes = capture_buffer(encoder, model.replay_buffer)["nodes"]
    apart = nodes["next_observations"]["apart"][""]["dict"]
    shapes = [encoder.arrays[node["array"]].shape for _, node in apart if isinstance(node, dict)]
    assert shapes == [(21, 1), (1, 3)]  # as many rows as observations; the newest has its own
    assert sum(array.nbytes for array in encoder.arrays) < 21 * 4 * (3 + 1 + 3) + 21 + 12 + 1


def test_a_checkpoint_of_another_storage_is_refused(tmp_path: Any) -> None:
    make(sb3_ext.SAC, PENDULUM, False).learn(60, callback=ResumableCheckpoint(tmp_path, every=50))
    told = r"holds a .*:ReplayBuffer, the model has a .*:CompactReplayBuffer"
    with (
        pytest.raises(CheckpointError, match=told),
        pytest.warns(UserWarning, match="replay_buffer_class was None and is .*Compact"),
    ):
        make(sb3_ext.SAC, PENDULUM).learn(90, callback=ResumableCheckpoint(tmp_path, every=50))
