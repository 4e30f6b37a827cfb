"""A package from the template: installed, found, used, and green by its own tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sb3_ext import cli
from sb3_ext.errors import UsageError
from sb3_ext.scaffold import new_plugin

PLUGINS = {"weighting": "reward_softmax", "sampler": "newer_first", "algorithm": "mild_sac"}
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
    sources = [str(new_plugin(name, home, kind)) for kind, name in PLUGINS.items()]
    target = home / "site"
    words = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    python(*words, "--target", str(target), *sources, site=home, cwd=home)
    return target


def test_the_example_is_what_the_template_gives(tmp_path):
    home = new_plugin("reward_softmax", tmp_path)
    made = {path.relative_to(home) for path in home.rglob("*") if path.is_file()}
    kept = {path.relative_to(EXAMPLE) for path in EXAMPLE.rglob("*") if path.is_file()}
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


@pytest.mark.parametrize(("kind", "least"), [("weighting", 12), ("sampler", 8), ("algorithm", 20)])
def test_the_tests_of_what_is_written_pass(site, tmp_path, kind, least):
    tests = str(site.parent / f"sb3-ext-{PLUGINS[kind].replace('_', '-')}" / "tests")
    told = python("-m", "pytest", "-q", "-p", "no:cacheprovider", tests, site=site, cwd=tmp_path)
    assert int(told.splitlines()[-1].split(" passed")[0].split()[-1]) >= least
    assert "failed" not in told
    assert "skipped" not in told


@pytest.mark.parametrize("kind", PLUGINS)
def test_the_command_in_its_readme_trains(site, tmp_path, kind):
    readme = site.parent / f"sb3-ext-{PLUGINS[kind].replace('_', '-')}" / "README.md"
    (line,) = [one for one in readme.read_text().splitlines() if one.startswith("sb3-ext train")]
    words = line.replace("--steps 2000", "--steps 150 --eval-every 0").split()[1:]
    python("-m", "sb3_ext", *words, site=site, cwd=tmp_path)
    assert list(tmp_path.glob("runs/*/Pendulum-v1_1/model.zip"))


def test_the_switches_turn_it_off(site, tmp_path, monkeypatch):
    monkeypatch.setenv("SB3_EXT_DISABLE_PLUGINS", "1")
    listed = python("-m", "sb3_ext", "list", site=site, cwd=tmp_path)
    assert "disabled" in next(line for line in listed.splitlines() if "reward_softmax" in line)
    assert "lfiw_sac" in listed


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("MyMethod", "did you mean 'my_method'"),
        ("sampler", "Sampler is a name of sb3_ext itself"),
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


def test_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(UsageError, match="kind must be one of algorithm, sampler, weighting"):
        new_plugin("some_name", tmp_path, kind="policy")
    assert not list(tmp_path.iterdir())


def test_the_command_says_what_comes_next(tmp_path, capsys):
    assert cli.main(["new", "my-method", "--folder", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"cd {tmp_path}/sb3-ext-my-method" in out
    assert "sb3-ext info my_method" in out
    assert (tmp_path / "sb3-ext-my-method/sb3_ext_my_method/weighting.py").exists()
