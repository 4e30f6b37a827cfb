"""Every base with every sampler, with and without LFIW: it runs, saves, loads and resumes."""

from __future__ import annotations

from typing import Any

import pytest

import sb3_ext
from sb3_ext.testing.runs import lost_by_a_kill
from sb3_ext.trees import same, snapshot
from tests.environments import make_env

BASES = {
    "SAC": False,
    "TD3": False,
    "DDPG": False,
    "TQC": False,
    "CrossQ": False,
    "DQN": True,
    "QRDQN": True,
}
RECENT = {"name": "ere", "c_min": 10, "cycle": 7}
SAMPLERS: dict[str, Any] = {
    "uniform": None,
    "per": "per",
    "lap": "lap",
    "ere": RECENT,
    "ere around per": {**RECENT, "inner": "per"},
    "ere around lap": {**RECENT, "inner": {"name": "lap", "alpha": 0.6}, "eta_end": 1.0},
    "ere by age": {**RECENT, "cycle": "age"},
}
LFIW = {"name": "lfiw", "fast_buffer_size": 20, "ratio_net_arch": (4,)}
STEPS = 48


def model(base: str, sampler: str, weighting: Any) -> Any:
    cls = getattr(sb3_ext, base)
    return cls(
        "MlpPolicy",
        make_env(discrete=BASES[base], n_envs=2),
        replay=SAMPLERS[sampler],
        weighting=weighting,
        policy_kwargs={"net_arch": [4]},
        learning_starts=22,
        train_freq=1,
        batch_size=8,
        buffer_size=40,
        seed=3,
    )


@pytest.mark.parametrize("weighting", [None, LFIW], ids=["", "lfiw"])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("base", BASES)
def test_it_learns_and_goes_on(tmp_path, base, sampler, weighting):
    before = snapshot(model(base, sampler, weighting))
    whole = model(base, sampler, weighting).learn(STEPS)
    assert whole._n_updates >= 10
    assert not same(before, snapshot(whole))
    if weighting:
        assert whole.weigher.metrics()["lfiw/active"] == 1, "LFIW had its part in it"

    whole.save(tmp_path / "model")
    whole.save_replay_buffer(tmp_path / "buffer")
    loaded = type(whole).load(
        tmp_path / "model", env=make_env(discrete=BASES[base], n_envs=2), device="cpu"
    )
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert same(snapshot(loaded), snapshot(whole))
    assert same(state(loaded), state(whole))
    loaded.learn(10, reset_num_timesteps=False)

    lost = lost_by_a_kill(lambda: model(base, sampler, weighting), STEPS, tmp_path / "run")
    assert not lost


def state(one: Any) -> Any:
    """What the sampler knows."""
    return None if one.sampler is None else one.sampler.state_dict()
