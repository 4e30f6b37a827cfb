import importlib
import json
import sys
import tempfile
import types

import pytest

from sb3_ext import registry
from sb3_ext.cli import doctor
from sb3_ext.cli.parsing import Parser
from sb3_ext.discovery import GROUP, Plugin
from sb3_ext.spec import Choice, PluginSpec


def call(*words) -> int:
    parser = Parser(prog="sb3-ext")
    doctor.add_parser(parser.add_subparsers())
    arguments = parser.parse_args(["doctor", *words])
    return arguments.run(arguments)


def report(capsys) -> tuple[int, dict, dict]:
    """Exit code, the JSON, and its rows by name."""
    capsys.readouterr()
    code = call("--json")
    told = json.loads(capsys.readouterr().out)
    return code, told, {row["name"]: row for row in told["checks"]}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a distribution in front of all others."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def add(name, version, *, requires=(), entry="", code=None, group=GROUP, editable=""):
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {one}" for one in requires]
        (folder / "METADATA").write_text("\n".join(lines) + "\n")
        if entry:
            (folder / "entry_points.txt").write_text(f"[{group}]\n{entry}\n")
        if editable:
            origin = {"url": f"file://{editable}", "dir_info": {"editable": True}}
            (folder / "direct_url.json").write_text(json.dumps(origin))
        if code is not None:
            (tmp_path / f"{name.replace('-', '_')}.py").write_text(code)
        registry.refresh()

    yield add
    monkeypatch.undo()
    registry.refresh()


@pytest.fixture
def register():
    specs = []

    def add(**values):
        given = {"kind": "sampler", "name": "toy", "summary": "Plays.", "target": f"{__name__}:Toy"}
        specs.append(PluginSpec(**{**given, **values}))
        registry.register(specs[-1])

    yield add
    for spec in specs:
        registry.unregister(spec)


class Toy:
    def __init__(self, size: int = 1) -> None:
        pass

    def build(self, algorithm):
        pass


def test_this_installation_is_well(capsys):
    code, told, rows = report(capsys)
    assert code == 0 and told["ok"]
    assert told["summary"].startswith("all is well")
    for name in ("python", "sb3-ext", "stable_baselines3", "sb3_contrib", "torch", "gymnasium"):
        assert rows[name]["status"] == "ok" and rows[name]["told"][0].isdigit()
    for name in ("mujoco", "numpy", "cpu", "Hopper-v5", "temporary folder", "lfiw_sac"):
        assert rows[name]["status"] == "ok"
    assert {"wandb", "tensorboard", "optuna", "imitation", "imageio", "cuda", "mps"} <= set(rows)
    assert "torch uses 1" in rows["cpu"]["told"]


def test_text_has_a_line_for_each_row_and_a_last_word(capsys, register):
    register(summary="[red]")
    call("--json")
    rows = json.loads(capsys.readouterr().out)["checks"]
    assert call() == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"versions", "devices", "optional parts", "checks", "plugins"} <= set(lines)
    assert len([line for line in lines if line.startswith("  ")]) == len(rows)
    assert lines[-1].startswith("all is well")


def test_a_terminal_gets_tables(capsys, monkeypatch, register):
    register(name="toy", needs=("no_such_dep",), install_hint="pip install [red]dep")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert call() == 0
    out = capsys.readouterr().out
    assert "[red]dep" in out and "lfiw_sac" in out
    assert "toy" in out.splitlines()[-1]


def test_a_version_out_of_range_is_broken(capsys, install):
    install("stable_baselines3", "2.2.1")
    code, told, rows = report(capsys)
    row = rows["stable_baselines3"]
    assert (code, row["status"]) == (1, "broken")
    assert row["told"].startswith("2.2.1, but stable-baselines3") and "needed" in row["told"]
    assert row["remedy"].startswith("pip install 'stable-baselines3")
    assert told["summary"].startswith("not well: stable_baselines3;")


def without(monkeypatch, *names):
    """These distributions are not installed."""
    found = importlib.metadata.version
    told = importlib.metadata.metadata
    requires = importlib.metadata.requires

    def refuse(function):
        def look(name):
            if name.lower().replace("_", "-") in names:
                raise importlib.metadata.PackageNotFoundError(name)
            return function(name)

        return look

    monkeypatch.setattr(importlib.metadata, "version", refuse(found))
    monkeypatch.setattr(importlib.metadata, "metadata", refuse(told))
    monkeypatch.setattr(importlib.metadata, "requires", refuse(requires))


def test_a_missing_requirement_is_named_with_its_install_line(capsys, monkeypatch):
    without(monkeypatch, "gymnasium", "sb3-contrib", "wandb", "optuna", "imitation")
    code, told, rows = report(capsys)
    assert code == 1
    assert rows["gymnasium"]["status"] == rows["sb3_contrib"]["status"] == "missing"
    assert rows["gymnasium"]["remedy"] == "pip install 'gymnasium[mujoco]>=1.0'"
    assert told["summary"].startswith("not well: sb3_contrib, gymnasium;")
    # What is optional has its line, too, and is no fault.
    assert rows["wandb"]["remedy"] == 'pip install "sb3-ext[tracking]"'
    assert rows["optuna"]["remedy"] == 'pip install "sb3-ext[tuning]"'
    assert rows["imitation"]["remedy"] == "pip install --no-deps imitation==1.0.1"
    assert not rows["wandb"]["needed"]


def test_missing_optional_parts_leave_all_well(capsys, monkeypatch):
    without(monkeypatch, "wandb", "optuna")
    code, told, _ = report(capsys)
    assert code == 0
    assert "wandb" in told["summary"] and "optuna" in told["summary"]


def test_a_checkout_that_was_not_installed_is_told(capsys, monkeypatch):
    without(monkeypatch, "sb3-ext")
    monkeypatch.setattr(registry, "is_installed", lambda: False)
    code, _, rows = report(capsys)
    assert code == 1
    assert rows["requirements"]["remedy"] == "pip install -e ."
    assert rows["sb3-ext's own"]["status"] == "missing"


def test_a_requirement_that_does_not_import_is_broken(capsys, monkeypatch):
    def fail(name, *rest):
        if name in ("sb3_contrib", "wandb"):
            raise OSError("libfoo.so:\n cannot open")
        return real(name, *rest)

    real = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", fail)
    code, _, rows = report(capsys)
    assert code == 1
    row = rows["sb3_contrib"]
    assert row["told"].endswith("does not import: OSError: libfoo.so: cannot open")
    assert "--force-reinstall" in row["remedy"]
    assert rows["wandb"]["status"] == "broken" and not rows["wandb"]["needed"]


def test_what_imitation_asks_for_and_what_works_is_told(capsys, install):
    install("imitation", "1.0.1", requires=["stable-baselines3~=2.2.1"], code="")
    code, _, rows = report(capsys)
    running = importlib.metadata.version("stable_baselines3")
    assert code == 0
    assert rows["imitation"]["told"] == (
        f"1.0.1; its metadata wants SB3 ~=2.2.1, running {running}: BC, GAIL, AIRL and DAgger are "
        "supported, its SQIL and the functions that reload files not; pip check goes on naming the "
        "difference"
    )


def test_another_imitation_was_not_tried(capsys, install):
    install("imitation", "1.1.0", requires=["stable-baselines3>=2"], code="")
    assert report(capsys)[2]["imitation"]["told"].endswith("only 1.0.1 was tried with it")


@pytest.mark.parametrize("where", ["make", "step"])
def test_mujoco_that_does_not_work_is_a_row(capsys, monkeypatch, where):
    from gymnasium.envs.mujoco.hopper_v5 import HopperEnv

    def fail(*_, **__):
        raise RuntimeError("no GL\nhere")

    monkeypatch.setattr(HopperEnv, {"make": "__init__", "step": "step"}[where], fail)
    code, _, rows = report(capsys)
    assert code == 1
    assert "RuntimeError" in rows["Hopper-v5"]["told"] and "no GL here" in rows["Hopper-v5"]["told"]
    assert rows["Hopper-v5"]["remedy"] == 'pip install --upgrade "gymnasium[mujoco]"'


def test_a_temporary_folder_that_cannot_be_written_is_a_row(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    code, _, rows = report(capsys)
    assert code == 1
    assert rows["temporary folder"]["status"] == "broken"
    assert "nowhere" in rows["temporary folder"]["told"]
    assert "TMPDIR" in rows["temporary folder"]["remedy"]


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("raise OSError('disk')", "OSError: disk"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("SPEC = 3", "must be a PluginSpec"),
    ],
)
def test_a_broken_plugin_is_named_with_distribution_and_cause(capsys, install, code, cause):
    install("bad-rl", "1.2", entry="bad = bad_rl:SPEC", code=code)
    sys.modules.pop("bad_rl", None)
    exit_code, told, rows = report(capsys)
    assert exit_code == 1
    assert rows["bad"]["status"] == "broken"
    assert rows["bad"]["told"].startswith("from bad-rl 1.2; ") and cause in rows["bad"]["told"]
    assert rows["bad"]["remedy"] == "pip install --upgrade bad-rl, or pip uninstall bad-rl"
    assert told["summary"].startswith("not well: bad;")


def test_a_plugin_that_is_listed_and_does_not_import_is_found(capsys, register):
    register(target="no_such_package:Toy")
    code, _, rows = report(capsys)
    assert (code, rows["toy"]["status"]) == (1, "broken")
    assert "from this process; ModuleNotFoundError: No module named" in rows["toy"]["told"]


def test_the_author_of_a_broken_plugin_is_told_where_to_repair_it(capsys, install):
    install("mine-rl", "0", entry="mine = mine_rl:SPCE", code="SPEC = 3", editable="/home/me/my rl")
    sys.modules.pop("mine_rl", None)
    _, _, rows = report(capsys)
    assert rows["mine"]["remedy"] == "repair it, then pip install -e '/home/me/my rl'"


def test_a_spec_of_another_version_brings_its_own_remedy(capsys, register):
    register(api=2)
    _, _, rows = report(capsys)
    assert rows["toy"]["told"].endswith("api must be 1, got 2")
    assert rows["toy"]["remedy"].startswith("install the versions of")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"search_space": {"siez": Choice((1, 2))}}, "its search space has siez"),
        ({"kind": "algorithm"}, "does not inherit from an algorithm of SB3"),
        ({"kind": "weighting", "target": "json:JSONDecoder"}, "has no build(algorithm)"),
    ],
)
def test_a_spec_that_its_target_does_not_keep_is_told(capsys, register, values, told):
    register(**values)
    code, _, rows = report(capsys)
    assert (code, rows["toy"]["status"]) == (1, "broken")
    assert told in rows["toy"]["told"]


def test_a_misspelt_group_is_found(capsys, install):
    install("odd-rl", "1", entry="odd = odd_rl:SPEC", code="SPEC = 3", group="sb3_ext.plugin")
    code, _, rows = report(capsys)
    assert (code, rows["sb3_ext.plugin"]["status"]) == (1, "misspelt")
    assert "the group is sb3_ext.plugins" in rows["sb3_ext.plugin"]["remedy"]


def test_a_clash_is_told_for_both(capsys, monkeypatch, install):
    code = (
        "from sb3_ext.spec import PluginSpec\nSPEC = PluginSpec(kind='sampler', name='lfiw',"
        " summary='Plays.', target='copy_rl:Copy')"
    )
    install("copy-rl", "3", entry="copy = copy_rl:SPEC", code=code)
    sys.modules.pop("copy_rl", None)
    exit_code, _, rows = report(capsys)
    assert (exit_code, rows["lfiw"]["status"]) == (1, "clash")
    assert "is claimed by" in rows["lfiw"]["told"] and "copy-rl 3" in rows["lfiw"]["told"]
    assert "SB3_EXT_PLUGINS" in rows["lfiw"]["remedy"]
    monkeypatch.setenv("SB3_EXT_DISABLE_PLUGINS", "1")
    registry.refresh()
    exit_code, _, rows = report(capsys)
    assert (exit_code, rows["copy"]["status"]) == (0, "disabled")


def test_a_plugin_whose_dependency_is_missing_is_no_fault(capsys, register):
    register(needs=("no_such_dep",), install_hint="pip install no-such-dep")
    code, told, rows = report(capsys)
    assert code == 0
    assert rows["toy"]["status"] == "needs no_such_dep"
    assert rows["toy"]["remedy"] == "pip install no-such-dep"
    assert told["summary"].endswith("toy")


def test_an_error_inside_a_check_is_its_row_and_ends_no_other(capsys, monkeypatch):
    def fail(*_):
        print("noise")
        raise SystemExit("enough")

    for name in ("_system", "_requirements", "_devices", "_optional"):
        monkeypatch.setattr(doctor, name, fail)
    monkeypatch.setattr(registry, "plugins", fail)
    code, _, rows = report(capsys)
    assert code == 1
    for name in ("system", "requirements", "devices", "optional parts", "plugins"):
        assert (rows[name]["status"], rows[name]["told"]) == ("broken", "SystemExit: enough")
    assert rows["Hopper-v5"]["status"] == "ok"


def test_broken_rows_come_in_words_on_a_terminal_too(capsys, monkeypatch):
    broken = Plugin(entry="bad", distribution="bad-rl", version="1.2", cause=OSError("disk\nfull"))
    rows = [*registry.plugins(), broken]
    monkeypatch.setattr(registry, "plugins", lambda: rows)
    assert call() == 1
    assert "bad-rl 1.2; OSError: disk full; do: pip install --upgrade" in capsys.readouterr().out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert call() == 1
    assert capsys.readouterr().out.splitlines()[-1] == (
        "not well: bad; above stands what to do about it"
    )


def test_without_rich_there_is_plain_text(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setitem(sys.modules, "rich.table", None)
    call()
    assert "\n  lfiw_sac  " in capsys.readouterr().out


def fake_torch(result):
    def ones(*_, device):
        if isinstance(result, Exception):
            raise result
        return types.SimpleNamespace(sum=lambda: result)

    return types.SimpleNamespace(ones=ones)


def test_a_device_must_compute():
    assert doctor._device(fake_torch(2.0), "cuda:0", "GPU").fine
    for result in (RuntimeError("no kernel image"), 3.0):
        row = doctor._device(fake_torch(result), "cuda:0", "GPU")
        assert not row.fine and row.told.startswith("GPU; ") and "--device cpu" in row.remedy
