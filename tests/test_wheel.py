"""The wheel, installed away from the tree: what a user of the package index gets."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def run(*command: str | Path, **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy: a build folder in the tree would carry stale files into the next wheel."""
    copy = tmp_path_factory.mktemp("tree")
    for folder in ("sb3_ext", "plugins", "tuning"):
        leave_out = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=leave_out)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy)
    out = tmp_path_factory.mktemp("wheel")
    run(*PIP, "wheel", "-q", "--no-deps", "--no-build-isolation", "--wheel-dir", out, ".", cwd=copy)
    (built,) = out.glob("sb3_ext-*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """Runs Python outside the tree, with the wheel before any editable install of the tree."""
    site = tmp_path_factory.mktemp("site")
    run(*PIP, "install", "-q", "--no-deps", "--no-index", "--target", site, wheel)
    # A path from the environment comes before those of site-packages and their import hooks.
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def call(*arguments: str) -> str:
        return run(sys.executable, *arguments, cwd=site, env=environment)

    assert call("-c", "import sb3_ext; print(sb3_ext.__file__)").startswith(str(site))
    return call


def test_the_wheel_holds_the_files_of_the_tree_and_no_others(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    # rglob does not follow the symlinks, so plugins/ and tuning/ are walked under their own names.
    ours = {path.relative_to(ROOT) for path in (ROOT / "sb3_ext").rglob("*.py")}
    for folder in ("plugins", "tuning"):
        ours |= {"sb3_ext" / path.relative_to(ROOT) for path in (ROOT / folder).rglob("*.py")}
    assert {name for name in packed if name.endswith(".py")} == {path.as_posix() for path in ours}
    assert {"sb3_ext/py.typed", "sb3_ext/__init__.pyi"} <= packed
    templates = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("sb3_ext/**/*.tmpl")}
    assert templates
    assert templates <= packed
    presets = {
        f"sb3_ext/{path.relative_to(ROOT).as_posix()}" for path in ROOT.glob("plugins/**/*.yml")
    }
    assert presets
    assert presets <= packed


def test_plugins_and_tuning_import_from_the_wheel(python):
    code = (
        "import sb3_ext.plugins.lfiw.plugin as plugin, sb3_ext.tuning as tuning\n"
        "print(plugin.__file__, tuning.__file__)"
    )
    assert python("-c", code).count("site") == 2


def test_the_wheel_lists_its_plugins(python):
    out = python("-m", "sb3_ext", "list")
    assert all(f"\n{name} " in out for name in ("sac", "td3", "ddpg", "lfiw_sac", "lfiw"))
    assert "broken" not in out


def test_the_console_script_is_declared(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (entries,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert "sb3-ext = sb3_ext.cli:main" in archive.read(entries).decode()
