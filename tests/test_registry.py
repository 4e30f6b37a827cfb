import subprocess
import sys
from pathlib import Path

import pytest

from sb3_ext import registry
from sb3_ext.spec import PluginSpec

IMPORT = "from sb3_ext.spec import PluginSpec\n"


def source(name: str, target: str = "", more: str = "") -> str:
    """Python code of one spec."""
    target = target or f"{name}_pkg.targets:{name.title().replace('_', '')}"
    return (
        f"PluginSpec(kind='sampler', name={name!r}, summary='A fake.', target={target!r}, {more})"
    )


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a fake distribution on the path, the way that pip would."""
    for switch in ("SB3_EXT_DISABLE_PLUGINS", "SB3_EXT_PLUGINS"):
        monkeypatch.delenv(switch, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def make(distribution: str, entries: str, modules: dict[str, str]) -> None:
        info = tmp_path / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n"
        )
        (info / "entry_points.txt").write_text(f"[sb3_ext.plugins]\n{entries}\n")
        for module, text in modules.items():
            path = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        registry.refresh()

    registry.refresh()
    yield make
    for module in set(sys.modules) - before:
        found = sys.modules[module]
        places = [getattr(found, "__file__", None), *getattr(found, "__path__", ())]
        if any(str(place).startswith(str(tmp_path)) for place in places):
            del sys.modules[module]
    monkeypatch.undo()
    registry.refresh()


@pytest.fixture
def install_foo(install):
    install(
        "foo-rl",
        "foo = foo_pkg.plugin:SPEC",
        {
            "foo_pkg.plugin": f"{IMPORT}SPEC = {source('foo')}",
            "foo_pkg.targets": "class Foo: ...",
        },
    )
    return install


def row_of(entry: str) -> registry.Plugin:
    (row,) = [row for row in registry.plugins() if row.entry == entry]
    return row


def test_an_entry_may_hold_one_spec_or_a_tuple_of_them(install_foo):
    install_foo(
        "bar-rl",
        "bar = bar_pkg:SPECS",
        {"bar_pkg": f"{IMPORT}SPECS = {source('b1')}, {source('b2')}"},
    )
    theirs = [
        (row.spec.name, row.source, row.status)
        for row in registry.plugins()
        if row.distribution != "sb3-ext"
    ]
    assert theirs == [
        ("b1", "bar-rl 1.2", "ok"),
        ("b2", "bar-rl 1.2", "ok"),
        ("foo", "foo-rl 1.2", "ok"),
    ]


def test_both_names_load_the_target(install_foo):
    assert registry.load("foo") is registry.load("Foo", kind="sampler")
    assert registry.spec("Foo").name == "foo"
    assert registry.public_names()["Foo"] == registry.spec("foo")


def test_the_spec_of_a_target_is_found_and_that_of_a_subclass_is_not(install_foo):
    foo = registry.load("foo")
    assert registry.spec_of(foo) == registry.spec("foo")
    assert registry.spec_of(type("Foo", (foo,), {"__module__": "elsewhere"})) is None
    assert registry.spec_of(None) is None


def test_a_re_exported_target_is_found_too(install):
    install(
        "foo-rl",
        "foo = foo_spec:SPEC",
        {
            "foo_spec": f"{IMPORT}SPEC = {source('foo', 'foo_pkg:Foo')}",
            "foo_pkg.__init__": "from foo_pkg.hidden import Foo",
            "foo_pkg.hidden": "class Foo: ...",
        },
    )
    assert registry.spec_of(registry.load("foo")) == registry.spec("foo")


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("import there_is_no_such_module", "No module named 'there_is_no_such_module'"),
        ("SPEC = 3", "bad:SPEC must be a PluginSpec or a tuple of them, got 3"),
        ("SPEC = ()", r"must be a PluginSpec or a tuple of them, got \(\)"),
        ("OTHER = 3", "has no attribute 'SPEC'"),
        ("import sys; sys.exit('no licence')", "SystemExit: no licence"),
        (f"{IMPORT}SPEC = PluginSpec(kind='what')", "missing .* required keyword-only arguments"),
        (f"{IMPORT}SPEC = {source('bad', more='api=2')}", "api must be 1, got 2; install the ver"),
    ],
)
def test_a_broken_entry_is_a_row_and_an_error_on_its_own_use_only(install_foo, code, cause):
    install_foo("bad-rl", "bad = bad:SPEC", {"bad": code})
    assert row_of("bad").status == "broken"
    assert (row_of("bad").distribution, row_of("bad").version) == ("bad-rl", "1.2")
    assert registry.load("foo").__name__ == "Foo"
    assert "Bad" not in registry.public_names()
    with pytest.raises(
        registry.PluginLoadError, match=rf"'bad' \(from bad-rl 1.2\) .*{cause}"
    ) as e:
        registry.load("bad")
    assert e.value.__cause__ is row_of("bad").cause


def test_a_target_that_does_not_import_raises_on_use_with_the_cause_chained(install):
    install("foo-rl", "foo = foo_spec:SPEC", {"foo_spec": f"{IMPORT}SPEC = {source('foo')}"})
    assert row_of("foo").status == "ok"
    with pytest.raises(registry.PluginLoadError, match=r"foo-rl 1\.2.*No module named 'foo_p") as e:
        registry.load("foo")
    assert isinstance(e.value.__cause__, ModuleNotFoundError)


def test_a_missing_optional_dependency_is_a_status_and_comes_with_the_install_line(install):
    more = "needs=('no_such_dep.sub', 'json'), install_hint='pip install no-such-dep'"
    install(
        "foo-rl", "foo = foo_spec:SPEC", {"foo_spec": f"{IMPORT}SPEC = {source('foo', more=more)}"}
    )
    assert row_of("foo").status == "needs no_such_dep.sub"
    assert "Foo" in registry.public_names()
    with pytest.raises(registry.PluginLoadError, match=r"not installed; run: pip install no-such"):
        registry.load("foo")


@pytest.mark.parametrize(
    ("other", "contested"),
    [(source("foo", "b:B"), "foo"), (source("b", "b:Foo"), "Foo"), (source("b", "b:foo"), "foo")],
)
def test_a_name_that_two_plugins_claim_is_an_error_for_both(install_foo, other, contested):
    install_foo("zoo-rl", "zoo = zoo_spec:SPEC", {"zoo_spec": f"{IMPORT}SPEC = {other}"})
    assert row_of("foo").status == row_of("zoo").status == "clash"
    sentence = rf"'{contested}' is claimed by foo-rl 1\.2 .* and zoo-rl 1\.2 .*; uninstall"
    with pytest.raises(registry.PluginClashError, match=sentence):
        registry.load(contested)
    assert contested not in registry.public_names()
    assert registry.spec("sac").public_name == "SAC"


def test_the_same_spec_twice_and_a_broken_namesake_are_no_clash(install_foo):
    install_foo("one-more", "foo = foo_pkg.plugin:SPEC", {})
    broken = source("foo", "elsewhere:Foo", more="api=2")
    install_foo("old-rl", "old = old_spec:SPEC", {"old_spec": f"{IMPORT}SPEC = {broken}"})
    assert registry.load("foo").__module__ == "foo_pkg.targets"


@pytest.mark.parametrize("typed", ["lfwi_sac", "LFIWSCA", "Lfiw_Sac"])
def test_an_unknown_name_is_answered_with_the_near_miss_and_what_is_installed(install, typed):
    sentence = (
        rf"named '{typed}' is installed; did you mean '(lfiw_sac|LFIWSAC)'\? Installed: .*td3"
    )
    with pytest.raises(registry.UnknownPluginError, match=sentence):
        registry.load(typed)


def test_an_unknown_name_is_answered_with_what_may_hide_it(install):
    install("bad-rl", "bad = bad:SPEC", {"bad": "import there_is_no_such_module"})
    with pytest.raises(registry.UnknownPluginError, match=r"Broken: bad \(bad-rl 1\.2\)\."):
        registry.load("something_else")


def test_a_plugin_of_another_kind_is_refused_by_name(install):
    sentence = r"'lfiw' \(from sb3-ext .*\) is of kind weighting; .* kind algorithm is needed"
    with pytest.raises(registry.UnknownPluginError, match=sentence):
        registry.spec("lfiw", kind="algorithm")


def test_the_off_switch_leaves_ours_and_imports_nothing_of_theirs(install_foo, monkeypatch):
    monkeypatch.setenv("SB3_EXT_DISABLE_PLUGINS", "1")
    sys.modules.pop("foo_pkg.plugin", None)
    registry.refresh()
    assert row_of("foo").status == "disabled"
    assert registry.spec("sac").name == "sac"
    with pytest.raises(registry.UnknownPluginError, match=r"Disabled: foo \(foo-rl 1\.2\)"):
        registry.load("foo")
    assert "foo_pkg.plugin" not in sys.modules


@pytest.mark.parametrize("word", ["foo_rl", "FOO-RL", "foo", "Foo"])
def test_the_allow_list_takes_names_of_plugins_and_of_distributions(install_foo, monkeypatch, word):
    install_foo("bar-rl", "bar = bar_pkg:SPEC", {"bar_pkg": f"{IMPORT}SPEC = {source('other')}"})
    monkeypatch.setenv("SB3_EXT_PLUGINS", f"lfiw, {word}")
    registry.refresh()
    assert (row_of("foo").status, row_of("bar").status) == ("ok", "disabled")
    assert registry.spec("td3").name == "td3"


def test_a_listed_distribution_spares_the_others_their_import(install_foo, monkeypatch):
    monkeypatch.setenv("SB3_EXT_PLUGINS", "foo-rl")
    install_foo("bar-rl", "bar = bar_pkg:SPEC", {"bar_pkg": f"{IMPORT}SPEC = {source('other')}"})
    assert registry.spec("foo").name == "foo"
    assert "bar_pkg" not in sys.modules


class Local:
    pass


def local(name: str = "local", **more) -> PluginSpec:
    return PluginSpec(
        kind="sampler", name=name, summary="A fake.", target=f"{__name__}:Local", **more
    )


def test_a_script_registers_its_own_plugin_once_or_twice(install):
    registry.register(local())
    registry.register(local())
    try:
        assert [row.source for row in registry.plugins() if row.spec == local()] == ["this process"]
        assert registry.load("Local") is Local
        registry.refresh()
        assert registry.spec_of(Local) == local()
        with pytest.raises(registry.PluginClashError, match="'Local' is claimed by this process"):
            registry.register(local("other_name"))
    finally:
        registry.unregister(local())
    with pytest.raises(registry.UnknownPluginError):
        registry.load("Local")


def test_listing_and_looking_up_import_neither_torch_nor_a_target():
    code = (
        "import sys, sb3_ext\n"
        "from sb3_ext import registry\n"
        "assert 'LFIWSAC' in dir(sb3_ext) and registry.spec('lfiw_sac') and registry.plugins()\n"
        "targets = [spec.target.partition(':')[0] for spec in registry.public_names().values()]\n"
        "loaded = {'torch', 'numpy', 'gymnasium', 'stable_baselines3', *targets} & set(sys.modules)"
        "\nassert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)


def test_a_checkout_that_is_not_installed_says_so(monkeypatch):
    monkeypatch.setattr("sb3_ext.discovery.entry_points", lambda group: [])
    registry.refresh()
    try:
        with pytest.raises(registry.UnknownPluginError, match=r"run: pip install -e \."):
            registry.load("lfiw_sac")
    finally:
        monkeypatch.undo()
        registry.refresh()
