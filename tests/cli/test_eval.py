"""`sb3-ext eval`: runs without unpickling, zips only when they are trusted."""

import json
from pathlib import Path

import pytest

from sb3_ext import LFIWSAC, cli


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("eval") / "run"
    words = ["train", "LFIWSAC", "--env", "Pendulum-v1", "--steps", "120", "--no-progress"]
    words += ["--set", "policy_kwargs.net_arch=[8]", "--set", "fast_buffer_size=60"]
    words += ["--eval-every", "60", "--eval-episodes", "1", "--run-dir", str(folder)]
    assert cli.main(words) == 0
    return folder


def test_it_prints_what_the_agent_is_worth(run, capsys):
    assert cli.main(["eval", str(run), "--episodes", "3"]) == 0
    out = capsys.readouterr().out
    assert f"agent {run}/best_model.zip, algorithm LFIWSAC, env Pendulum-v1" in out
    assert "length     mean 200.0, 200 to 200" in out


def test_json_is_exact_and_repeatable(run, capsys):
    found = []
    for _ in range(2):
        assert cli.main(["eval", str(run), "--episodes", "3", "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]
    assert len(found[0]["returns"]) == 3
    assert found[0]["mean"] == pytest.approx(sum(found[0]["returns"]) / 3)


def test_the_seed_chooses_episodes_and_actions(run, capsys):
    found = {}
    for words in (["--seed", "1"], ["--seed", "2"], ["--seed", "1", "--stochastic"]):
        for _ in range(2):
            assert cli.main(["eval", str(run), "--episodes", "2", "--json", *words]) == 0
            returns = json.loads(capsys.readouterr().out)["returns"]
            assert found.setdefault(" ".join(words), returns) == returns
    assert len({tuple(returns) for returns in found.values()}) == 3


@pytest.mark.parametrize("which", ["best", "final", "last"])
def test_a_run_is_read_without_unpickling(run, which, monkeypatch, capsys):
    def forbidden(*_args, **_kwargs):
        raise AssertionError("something was unpickled")

    for target in ("pickle.load", "pickle.loads", "cloudpickle.loads"):
        monkeypatch.setattr(target, forbidden)
    assert cli.main(["eval", str(run), "--which", which, "--episodes", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["agent"].startswith(str(run))


def test_a_zip_needs_trust_and_gives_the_same(run, capsys):
    words = ["eval", str(run / "model.zip"), "--episodes", "2", "--json"]
    assert cli.main(words) == 2
    assert "Add --allow-pickle if you trust it" in capsys.readouterr().err
    assert cli.main([*words, "--allow-pickle"]) == 2
    assert "give --algo and --env" in capsys.readouterr().err
    trusted = ["--allow-pickle", "--algo", "LFIWSAC", "--env", "Pendulum-v1"]
    assert cli.main([*words, *trusted]) == 0
    told = json.loads(capsys.readouterr().out)
    cli.main(["eval", str(run), "--which", "final", "--episodes", "2", "--json"])
    assert told["returns"] == json.loads(capsys.readouterr().out)["returns"]
    assert cli.main([*words, *trusted[:1], "--algo", "TD3", "--env", "Pendulum-v1"]) == 2
    assert "is no TD3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "words", "told"),
    [
        (lambda at: None, ["x"], "there is no"),
        (lambda at: (at / "x").mkdir(), ["x"], "holds no run of `sb3-ext train`"),
    ],
)
def test_a_mistake_is_one_sentence(make, words, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make(tmp_path)
    assert cli.main(["eval", *words]) == 2
    assert told in capsys.readouterr().err


def test_a_run_with_another_network_is_told(run, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    (other / "options.yaml").write_text((run / "options.yaml").read_text())
    LFIWSAC("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [4]}).save(other / "model")
    assert cli.main(["eval", str(other)]) == 2
    assert "model.zip does not fit this LFIWSAC" in capsys.readouterr().err
