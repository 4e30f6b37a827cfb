"""A package from the template: installed, found, used, and green by its own tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sb3_ext import cli
from sb3_ext.errors import UsageError
from sb3_ext.scaffold import new_plugin

EXAMPLE = Path(__file__).parents[1] / "examples" / "third_party_plugin"


def python(*words: str, site: Path, cwd: Path) -> str:
    """Run Python with the folder of installed packages on its path."""
    done = subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Where the example was installed by pip, as a stranger would."""
    home = tmp_path_factory.mktemp("third_party")
    # A copy: a build leaves files beside the sources.
    source = new_plugin("reward_softmax", home)
    target = home / "site"
    words = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    python(*words, "--target", str(target), str(source), site=home, cwd=home)
    return target


def test_the_example_is_what_the_template_gives(tmp_path):
    home = new_plugin("reward_softmax", tmp_path)
    made = {path.relative_to(home) for path in home.rglob("*.*")}
    kept = {path.relative_to(EXAMPLE) for path in EXAMPLE.rglob("*.*")}
    assert {path for path in kept if "__pycache__" not in path.parts} == made
    for path in made:
        told = f"write the example anew: {path} differs"
        assert (EXAMPLE / path).read_text() == (home / path).read_text(), told


def test_it_is_listed_with_where_it_is_from(site, tmp_path):
    listed = python("-m", "sb3_ext", "list", site=site, cwd=tmp_path)
    (row,) = [line for line in listed.splitlines() if line.startswith("reward_softmax")]
    assert row.split()[:6] == [
        *("reward_softmax", "RewardSoftmax", "weighting", "ok"),
        *("sb3-ext-reward-softmax", "0.1.0"),
    ]
    told = python("-m", "sb3_ext", "info", "RewardSoftmax", site=site, cwd=tmp_path)
    assert "  temperature: 0.5 to 10.0, log scale" in told


def test_it_trains_by_its_name_and_by_its_class(site, tmp_path):
    code = (
        "from sb3_ext import SAC, RewardSoftmax\n"
        "for one in ('reward_softmax', {'name': 'reward_softmax', 'temperature': 2.0}, "
        "RewardSoftmax(temperature=2.0)):\n"
        "    model = SAC('MlpPolicy', 'Pendulum-v1', weighting=one, learning_starts=20,\n"
        "                policy_kwargs={'net_arch': [8]}).learn(60)\n"
        "    print(model.weighting_config(), model.weigher.metrics())\n"
    )
    lines = python("-c", code, site=site, cwd=tmp_path).splitlines()
    assert [line.partition(" {")[0] for line in lines] == [
        "RewardSoftmax(temperature=1.0)",
        *["RewardSoftmax(temperature=2.0)"] * 2,
    ]


def test_its_own_tests_pass(site, tmp_path):
    tests = str(site.parent / "sb3-ext-reward-softmax" / "tests")
    told = python("-m", "pytest", "-q", "-p", "no:cacheprovider", tests, site=site, cwd=tmp_path)
    assert "12 passed" in told


def test_the_switches_turn_it_off(site, tmp_path, monkeypatch):
    monkeypatch.setenv("SB3_EXT_DISABLE_PLUGINS", "1")
    listed = python("-m", "sb3_ext", "list", site=site, cwd=tmp_path)
    assert "disabled" in next(line for line in listed.splitlines() if "reward_softmax" in line)
    assert "lfiw_sac" in listed


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("MyMethod", "is lower_snake"),
        ("1st", "is lower_snake"),
        ("../out", "is lower_snake"),
        ("class", "is a word of Python"),
        ("lfiw", "is taken by a plugin from sb3-ext"),
        ("likelihood_free", "is taken by a plugin from sb3-ext"),
        ("there", "is there already"),
    ],
)
def test_a_bad_name_is_refused_and_nothing_is_written(tmp_path, capsys, name, told):
    (tmp_path / "sb3-ext-there").mkdir()
    with pytest.raises(UsageError, match=told):
        new_plugin(name, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["sb3-ext-there"]
    assert cli.main(["new", name, "--folder", str(tmp_path)]) == 2
    assert told in capsys.readouterr().err


def test_the_command_says_what_comes_next(tmp_path, capsys):
    assert cli.main(["new", "my-method", "--folder", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"cd {tmp_path}/sb3-ext-my-method" in out
    assert "sb3-ext info my_method" in out
    assert (tmp_path / "sb3-ext-my-method/sb3_ext_my_method/weighting.py").exists()
