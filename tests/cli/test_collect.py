"""`sb3-ext collect`: an expert's episodes, and where they are from."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import PPO

from sb3_ext import cli
from sb3_ext.offline import OfflineDataset

SMALL = ["--set", "policy_kwargs.net_arch=[8]", "--set", "n_steps=64", "--set", "batch_size=64"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("collect") / "run"
    words = [
        "train",
        "PPO",
        "--env",
        "CartPole-v1",
        "--steps",
        "64",
        "--no-progress",
        "--normalize",
    ]
    assert cli.main([*words, *SMALL, "--eval-every", "0", "--run-dir", str(folder)]) == 0
    return folder


def collect(*words: str) -> int:
    return cli.main(["collect", *words])


def test_a_runs_expert_is_recorded_as_it_was_seen(run, tmp_path, capsys):
    out = tmp_path / "new" / "demos.npz"
    assert collect("--expert", str(run), "--episodes", "3", "--out", str(out)) == 0
    assert f"written    {out}" in capsys.readouterr().out
    data = OfflineDataset.load(out)
    assert data.n_episodes == 3
    assert np.array_equal(data.rewards, np.ones(len(data)))  # not normalised
    assert data.terminated[data.episode_starts[1:] - 1].all()
    source = data.source
    digest = hashlib.sha256((run / "model.zip").read_bytes()).hexdigest()
    assert (source["sha256"], source["env_id"]) == (digest, "CartPole-v1")
    assert (source["algorithm"], source["deterministic"], source["seed"]) == ("sb3:PPO", True, 0)


def test_the_seed_and_the_manner_decide(run, tmp_path, capsys):
    found = {}
    for words in ([], ["--seed", "1"], ["--stochastic"]):
        for _ in range(2):
            given = ["--expert", str(run), "--episodes", "2", "--json", "--overwrite", *words]
            assert collect(*given, "--out", str(tmp_path / "demos.npz")) == 0
            returns = tuple(json.loads(capsys.readouterr().out)["returns"])
            data = OfflineDataset.load(tmp_path / "demos.npz")
            assert found.setdefault(" ".join(words), (returns, data.actions.tolist()))[0] == returns
    assert len({str(actions) for _, actions in found.values()}) == 3


def test_a_zip_is_taken_when_it_is_trusted(tmp_path, capsys):
    PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [8]}).save(tmp_path / "ppo.zip")
    words = ["--expert", str(tmp_path / "ppo.zip"), "--episodes", "1"]
    words += ["--out", str(tmp_path / "demos.npz"), "--algo", "PPO", "--env", "CartPole-v1"]
    assert collect(*words) == 2
    assert "--allow-pickle" in capsys.readouterr().err
    assert collect(*words, "--allow-pickle") == 0
    assert OfflineDataset.load(tmp_path / "demos.npz").n_episodes == 1


@pytest.mark.parametrize(
    ("out", "told"),
    [("demos.pkl", "must end in .npz"), ("there.npz", "there already"), ("dir.npz", "is a folder")],
)
def test_what_cannot_be_written_is_refused_before_anything_is_played(out, told, tmp_path, capsys):
    (tmp_path / "there.npz").write_text("")
    (tmp_path / "dir.npz").mkdir()
    words = ["--expert", "nowhere", "--episodes", "1", "--out", str(tmp_path / out)]
    assert collect(*words) == 2
    assert told in capsys.readouterr().err


def test_no_expert(tmp_path, capsys):
    words = ["--expert", "nowhere", "--episodes", "1", "--out", str(tmp_path / "demos.npz")]
    assert collect(*words) == 2
    assert "there is no nowhere" in capsys.readouterr().err
    assert not (tmp_path / "demos.npz").exists()


def test_a_run_of_another_task_is_told_in_spaces(run, tmp_path, capsys):
    given = ["--expert", str(run), "--env", "Pendulum-v1", "--episodes", "1"]
    assert collect(*given, "--out", str(tmp_path / "demos.npz")) == 2
    told = capsys.readouterr().err
    assert "CartPole-v1" in told and "Pendulum-v1" in told and "actions Box(-2.0" in told
