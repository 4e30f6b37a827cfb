import subprocess
import sys
from pathlib import Path

import pytest

import sb3_ext
from sb3_ext import cli, registry
from sb3_ext.discovery import Plugin
from sb3_ext.losses import LOSSES
from sb3_ext.signatures import own_arguments
from sb3_ext.spec import CRITIC_LOSSES, Choice, Float, Int, Paper, PluginSpec

PAPER = Paper(title="On toys", authors="Doe", year=2026, url="https://example.org/toys")


class Toy:
    """A target whose class is no child of SB3's: all its arguments are its own."""

    def __init__(self, size: int, *, alpha: float = 0.6, mode: str = "a", **others: object) -> None:
        pass


def toy(**changes) -> PluginSpec:
    given = {
        "kind": "sampler",
        "name": "toy",
        "summary": "Plays.",
        "target": f"{__name__}:Toy",
        "paper": PAPER,
        "search_space": {
            "alpha": Float(0.1, 1.0, log=True),
            "n": Int(2, 8, step=2),
            "mode": Choice(("a", None)),
        },
        "action_spaces": ("Box", "Discrete"),
    }
    return PluginSpec(**{**given, **changes})


@pytest.fixture
def register():
    """Registers a spec until the end of the test."""
    specs = []

    def add(spec):
        registry.register(spec)
        specs.append(spec)

    yield add
    for spec in specs:
        registry.unregister(spec)


def test_the_list_is_complete_when_it_is_not_read_by_a_terminal(capsys, register):
    name = "a_very_long_name_" * 8 + "x"
    register(toy(name=name, summary="Words [red]and[/red] words. " * 10))
    assert cli.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith(name)]
    assert line.split()[1:6] == ["Toy", "sampler", "ok", "this", "process"]
    assert line.endswith(("Words [red]and[/red] words. " * 10).strip())
    assert len(lines) == 1 + len(registry.plugins())


def test_a_terminal_gets_a_table_with_whole_names(capsys, monkeypatch, register):
    register(toy(summary="Words [red]and[/red] words. " * 10))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert cli.main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("lfiw_sac", "LFIWSAC", "LikelihoodFree", "toy", "[red]"))


def test_the_list_marks_what_cannot_be_used(capsys, monkeypatch, register):
    register(toy(needs=("no_such_dep",)))
    broken = Plugin(entry="bad", distribution="bad-rl", version="1.2", cause=OSError("disk\nfull"))
    monkeypatch.setattr(registry, "plugins", lambda: [*registry._rows(), broken])
    cli.main(["list"])
    out = capsys.readouterr().out
    assert "needs no_such_dep" in out
    assert out.splitlines()[-1].split() == ["bad", "-", "-", "broken", "bad-rl", "1.2", "disk"]


@pytest.mark.parametrize("name", ["toy", "Toy"])
def test_info_tells_all_that_the_spec_and_the_target_say(capsys, register, name):
    register(toy())
    assert cli.main(["info", name]) == 0
    out = capsys.readouterr().out
    for line in (
        "Toy (toy), sampler",
        "Plays.",
        "import        from sb3_ext import Toy",
        "distribution  this process",
        "paper         Doe (2026). On toys.",
        "              https://example.org/toys",
        "actions       Box, Discrete",
        "observations  any",
        "  alpha: 0.1 to 1.0, log scale",
        "  n: 2 to 8, step 2",
        "  mode: one of 'a', None",
        "  size = required",
        "  alpha = 0.6",
        "  mode = 'a'",
    ):
        assert line in out.splitlines()
    assert "others" not in out


def test_the_arguments_of_the_host_class_are_not_the_plugins_own():
    class Host:
        def __init__(self, policy: str, env: str, *, gamma: float = 0.99) -> None:
            pass

    class Ours(Host):
        def __init__(self, policy: str, env: str, *, gamma: float = 0.9, phi: int = 1) -> None:
            pass

    assert [p.name for p in own_arguments(Ours)] == ["policy", "env", "gamma", "phi"]
    Host.__module__ = "stable_baselines3.some.module"
    assert [p.name for p in own_arguments(Ours)] == ["phi"]
    assert own_arguments(type("Child", (Ours,), {}))[0].name == "phi"


def test_info_on_a_plugin_with_a_missing_dependency_shows_the_install_line(capsys, register):
    register(toy(needs=("no_such_dep",), install_hint="pip install no-such-dep"))
    assert cli.main(["info", "toy"]) == 0
    assert "to use it: pip install no-such-dep" in capsys.readouterr().out


def test_a_target_that_does_not_import_ends_info_with_one_sentence(capsys, register):
    register(toy(target="no_such_package:Toy"))
    assert cli.main(["info", "toy"]) == 2
    told = capsys.readouterr()
    assert "On toys" in told.out
    assert told.err.startswith("sb3-ext: plugin 'toy' (from this process) could not be loaded:")


def test_an_unknown_name_is_one_sentence_and_exit_code_two():
    done = subprocess.run(
        [sys.executable, "-m", "sb3_ext", "info", "LFIWSCA"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(
        "sb3-ext: no plugin named 'LFIWSCA' is installed; did you mean 'L"
    )
    assert done.stderr.count("\n") == 1


def test_version_and_a_missing_command(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"sb3-ext {sb3_ext.__version__}\n"
    with pytest.raises(SystemExit, match="2"):
        cli.main([])


def test_help_and_list_import_no_torch():
    code = (
        "import sys; from sb3_ext import cli; cli.main(['list'])\n"
        "try: cli.main(['train', '--help'])\n"
        "except SystemExit: print('torch' in sys.modules, 'stable_baselines3' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False False"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["trian"], "no command 'trian'; did you mean train?"),
        (["list", "--all"], "sb3-ext list: unknown option --all"),
        (["info", "PPO", "TQC"], "'TQC' is one argument too many"),
        ([], "give a command; see sb3-ext --help"),
    ],
)
def test_a_slip_of_the_finger_is_one_sentence(capsys, words, told):
    with pytest.raises(SystemExit, match="2"):
        cli.main(words)
    found = capsys.readouterr()
    assert told in found.err
    assert found.err.count("\n") == 1


@pytest.mark.parametrize("name", ["PPO", "ppo", "contrib:TQC", "sb3:SAC", "TRPO"])
def test_info_knows_the_stock_algorithms(capsys, name):
    assert cli.main(["info", name]) == 0
    out = capsys.readouterr().out
    assert "algorithm of s" in out
    assert "  gamma = 0.99" in out.splitlines()


def test_info_on_a_sampler_says_how_it_is_used(capsys):
    assert cli.main(["info", "per"]) == 0
    told = capsys.readouterr().out
    assert "use           SAC(..., replay='per'), or --set replay=per" in told
    assert "also          from sb3_ext import PrioritizedReplayBuffer" in told


@pytest.mark.parametrize("name", ["pal", "PAL"])
def test_losses_are_listed_and_explained(capsys, monkeypatch, name):
    assert tuple(LOSSES) == CRITIC_LOSSES
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert cli.main(["list"]) == 0
    assert "for critic_loss=: mse, huber, pal" in capsys.readouterr().out
    assert cli.main(["info", name]) == 0
    told = capsys.readouterr().out
    assert "PAL (pal), loss of the critic" in told
    assert "use           SAC(..., critic_loss='pal'), or --set critic_loss=pal" in told
    assert "min_priority = 1.0" in told


def test_info_on_a_sampler_s_replay_buffer_shows_the_sampler_s_options(capsys):
    assert cli.main(["info", "EREReplayBuffer"]) == 0
    told = capsys.readouterr().out
    assert "EmphasizeRecent (ere), sampler" in told
    assert "also          from sb3_ext import EREReplayBuffer" in told
    assert "c_min = None" in told
