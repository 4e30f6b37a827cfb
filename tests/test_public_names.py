import ast
import subprocess
import sys
import types
from pathlib import Path

import pytest

import sb3_ext
from sb3_ext import registry
from sb3_ext.spec import PluginSpec

STUB = Path(sb3_ext.__file__).with_suffix(".pyi")


@pytest.fixture
def plugin(monkeypatch):
    """A plugin of this process with the public name `Local`."""
    module = types.ModuleType("made_up_module")
    module.Local = type("Local", (), {"__module__": "made_up_module"})
    monkeypatch.setitem(sys.modules, "made_up_module", module)
    spec = PluginSpec(
        kind="sampler", name="a_plugin", summary="A fake.", target="made_up_module:Local"
    )
    registry.register(spec)
    yield module
    registry.unregister(spec)


def stub() -> dict[str, str]:
    """Name -> module, as the stub states it."""
    imports = [n for n in ast.parse(STUB.read_text()).body if isinstance(n, ast.ImportFrom)]
    for alias in (alias for node in imports for alias in node.names):
        assert alias.asname == alias.name, "a stub re-exports only what it imports `as` itself"
    return {alias.name: node.module for node in imports for alias in node.names}


def test_the_stub_names_exactly_the_plugins_of_ours_and_the_framework():
    ours = {
        name: target.partition(":")[0]
        for row in registry.plugins()
        if row.spec and row.distribution == registry.OWN_DISTRIBUTION
        for name, target in row.spec.targets.items()
    }
    assert stub() == {**ours, **sb3_ext.FRAMEWORK}


def test_dir_lists_every_public_name_and_nothing_that_merely_got_imported():
    assert set(stub()) <= set(dir(sb3_ext))
    assert not {"Any", "importlib", "difflib"} & set(dir(sb3_ext))


def test_a_star_brings_what_is_ours_and_leaves_strangers_plugins_alone(plugin):
    brought: dict = {}
    exec("from sb3_ext import *", brought)
    assert set(stub()) == set(brought) - {"__builtins__"}
    assert brought["SAC"] is sb3_ext.SAC


def test_a_plugin_is_imported_by_its_public_name_only(plugin):
    from sb3_ext import Local

    assert Local is sb3_ext.Local is plugin.Local
    assert "Local" in dir(sb3_ext)
    assert not hasattr(sb3_ext, "a_plugin")


def test_a_framework_name_is_the_one_of_its_module():
    from sb3_ext import Window
    from sb3_ext.replay import window

    assert Window is window.Window


def test_a_submodule_needs_no_import_of_its_own_and_no_search_for_plugins():
    code = (
        "import sys, sb3_ext\n"
        "from sb3_ext import spec\n"
        "assert sb3_ext.cli.main and spec.API_VERSION\n"
        "assert 'sb3_ext.algorithms.specs' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("LFIWSCA", "did you mean 'LFIWSAC'?"),
        ("lfiwsac", "did you mean 'LFIWSAC'?"),
        ("Windows", "did you mean 'Window'?"),
        ("qqqqqqqq", "`sb3-ext list` shows the plugins"),
    ],
)
def test_an_unknown_name_is_an_attribute_error_with_the_near_miss(typed, hint):
    with pytest.raises(AttributeError) as e:
        getattr(sb3_ext, typed)
    assert str(e.value) == f"module 'sb3_ext' has no attribute '{typed}'; {hint}"
    assert e.value.__cause__ is e.value.__context__ is None
    assert not hasattr(sb3_ext, typed)


def test_private_names_fail_without_touching_the_registry(monkeypatch):
    monkeypatch.setattr(registry, "plugins", lambda: pytest.fail("the registry was asked"))
    for name in ("__wrapped__", "_repr_html_"):
        assert not hasattr(sb3_ext, name)


def test_a_plugin_that_cannot_be_used_says_why_and_stays_out_of_dir():
    spec = PluginSpec(
        kind="sampler", name="x", summary="A fake.", target="a.b:NeedsMore", needs=("no_such_dep",)
    )
    registry.register(spec)
    try:
        assert "NeedsMore" not in dir(sb3_ext)
        with pytest.raises(ImportError, match="needs no_such_dep, which is not installed"):
            from sb3_ext import NeedsMore  # noqa: F401
    finally:
        registry.unregister(spec)


def test_a_checkout_that_is_not_installed_says_so_on_import(monkeypatch):
    monkeypatch.setattr("sb3_ext.discovery.entry_points", lambda group: [])
    registry.refresh()
    try:
        with pytest.raises(ImportError, match=r"run: pip install -e \."):
            from sb3_ext import LFIWSAC  # noqa: F401
    finally:
        monkeypatch.undo()
        registry.refresh()
