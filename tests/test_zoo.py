"""`sb3-ext zoo`: RL Zoo trains, plays, plots and tunes our algorithms.

Whatever imports ``rl_zoo3`` runs in a process of its own: it patches Gymnasium's TimeLimit.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from sb3_ext import cli, registry

needs_zoo = pytest.mark.skipif(
    importlib.util.find_spec("rl_zoo3") is None,
    reason='rl_zoo3 is not installed: pip install "sb3-ext[zoo]"',
)
# One process runs several commands, since importing the Zoo takes seconds.
DRIVER = """
import contextlib, io, json, sys, torch
torch.set_num_threads(1)
from sb3_ext import cli
told = []
for words in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main(words)
        except SystemExit as error:
            code = error.code
        except Exception as error:
            code = 1
            err.write(f"{type(error).__name__}: {error}")
    told.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(told))
"""
NET = ["policy_kwargs:dict(net_arch=[8])", "learning_starts:50"]
LFIW = [*NET, "ratio_net_arch:(8,)", "fast_buffer_size:60"]
PENDULUM = ["--env", "Pendulum-v1"]
BY_NAME = """\
default:
  n_timesteps: 200
  policy: MlpPolicy
  n_envs: 2
  normalize: true
  learning_starts: 50
  policy_kwargs: "dict(net_arch=[8])"
  replay: {name: per, alpha: 0.5}
  weighting: {name: lfiw, fast_buffer_size: 40, ratio_net_arch: [8]}
"""
BY_CLASS = """\
from sb3_ext import PrioritizedReplayBuffer
hyperparams = {"default": dict(n_timesteps=100, policy="MlpPolicy", learning_starts=50,
    policy_kwargs=dict(net_arch=[8]), replay_buffer_class=PrioritizedReplayBuffer)}
"""


class Told(NamedTuple):
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str


def python(code: str, folder: Path, given: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=given,
        cwd=folder,
        env={**os.environ, "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def play(folder: Path, *commands: list[str]) -> list[Told]:
    """The commands one after another, in one process, in that folder."""
    given = json.dumps([["zoo", *words] for words in commands])
    return [Told(*one) for one in json.loads(python(DRIVER, folder, given).splitlines()[-1])]


def train(algo: str, *more: str, env: list[str] = PENDULUM) -> list[str]:
    return ["train", "--algo", algo, *env, "--seed", "1", "--verbose", "0", *more]


def fails(capsys, *words: str) -> str:
    capsys.readouterr()
    assert cli.main(["zoo", *words]) == 2
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    return told.err


def test_nothing_imports_the_zoo_unasked(tmp_path):
    code = (
        "import sys, sb3_ext, sb3_ext.zoo, sb3_ext.cli\n"
        "sb3_ext.LFIWSAC\n"
        "for words in (['--help'], ['zoo', '--help']):\n"
        "    try: sb3_ext.cli.main(words)\n"
        "    except SystemExit: pass\n"
        "print([name for name in sys.modules if name.startswith('rl_zoo3')])"
    )
    out = python(code, tmp_path)
    assert out.splitlines()[-1] == "[]"
    assert "RL Zoo with our algorithms" in out
    assert "ext_sac" in out


def test_without_rl_zoo3_the_sentence_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rl_zoo3", None)
    told = fails(capsys, *train("lfiw_sac"))
    assert "RL Zoo cannot be imported" in told
    assert "pip install 'sb3-ext[zoo]'" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "give an action: train, optimize, enjoy, plot"),
        (["trian"], "no action 'trian'; did you mean train?"),
        (["push"], "no action 'push'; there are train, optimize"),
        (["plot", "-a", "lfiw_sac", "--env=Pendulum-v1"], "zoo plot needs -f or --exp-folders"),
        (["plot_train"], "zoo plot_train needs -a or --algo"),
    ],
)
def test_what_can_be_seen_without_the_zoo_is_told_at_once(capsys, words, told):
    assert told in fails(capsys, *words)


@needs_zoo
@pytest.mark.slow
def test_every_algorithm_is_entered_and_the_zoos_own_stay(tmp_path):
    code = (
        "import json\n"
        "from sb3_ext import zoo\n"
        "first, entered = zoo.register(), zoo.register()\n"
        "from rl_zoo3 import ALGOS\n"
        "from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER\n"
        "assert first == entered\n"
        "assert set(entered) <= set(HYPERPARAMS_CONVERTER) & set(HYPERPARAMS_SAMPLER)\n"
        "print(json.dumps([entered, {k: v.__module__ for k, v in ALGOS.items()}]))"
    )
    entered, homes = json.loads(python(code, tmp_path).splitlines()[-1])
    ours = {one.name for one in registry.public_names().values() if one.kind == "algorithm"}
    assert set(entered.values()) == ours
    assert {"lfiw_sac", "lfiw_td3", "lfiw_dqn", "ext_sac", "ext_crossq"} <= set(entered)
    for name, home in homes.items():
        assert home.startswith("sb3_ext." if name in entered else ("stable_baselines3.", "sb3_c"))
    assert {"sac", "ppo", "tqc"} <= set(homes) - set(entered)


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Two seeds of LFIWSAC, trained by the Zoo with our presets."""
    folder = tmp_path_factory.mktemp("zoo")
    evaluated = ["-n", "420", "--eval-freq", "200", "--eval-episodes", "2"]
    done = play(
        folder,
        train("lfiw_sac", *evaluated, "--save-replay-buffer", "-params", *LFIW),
        train("lfiw_sac", *evaluated, "-params", *LFIW),
    )
    assert [one.code for one in done] == [0, 0], done
    assert f"presets{os.sep}lfiw_sac.yml" in done[0].out
    return folder


@needs_zoo
@pytest.mark.slow
def test_the_zoo_trains_and_plays_ours(logs):
    runs = [logs / "logs" / "lfiw_sac" / f"Pendulum-v1_{number}" for number in (1, 2)]
    assert np.load(runs[0] / "evaluations.npz")["timesteps"].tolist() == [200, 400]
    # The same seed, so the same run: the Zoo seeds it whole.
    one, other = (np.load(run / "evaluations.npz")["results"] for run in runs)
    assert np.array_equal(one, other)
    config = (runs[0] / "Pendulum-v1" / "config.yml").read_text()
    assert "temperature" in config  # of our preset
    on = ["-i", str(runs[0] / "Pendulum-v1.zip"), "-n", "60", "--eval-freq", "-1"]
    enjoyed, plotted, went_on = play(
        logs,
        ["enjoy", "--algo", "lfiw_sac", *PENDULUM, "--no-render", "-n", "210"],
        ["plot", "-a", "lfiw_sac", "-e", "Pendulum-v1", "-f", "logs", "--no-display"],
        train("lfiw_sac", *on, "-f", "more", "-params", *LFIW),
    )
    assert (enjoyed.code, plotted.code, went_on.code) == (0, 0, 0), (enjoyed, plotted, went_on)
    assert "Pendulum-v1_2" in enjoyed.out  # the newest, in the folder that train writes to
    assert "Mean reward" in enjoyed.out
    assert "LFIW_SAC" in plotted.out
    assert "Loading replay buffer" in went_on.out
    assert (logs / "more" / "lfiw_sac" / "Pendulum-v1_1" / "Pendulum-v1.zip").exists()


@needs_zoo
@pytest.mark.slow
def test_the_zoo_tunes_over_our_search_space(tmp_path):
    common = ["--algo", "lfiw_sac", *PENDULUM, "--seed", "1", "--storage", "study.log"]
    common += ["--study-name", "s", "--verbose", "0"]
    small = [*NET, "ratio_net_arch:(8,)"]
    budget = ["-n", "210", "--n-evaluations", "1", "--eval-episodes", "1", "--n-trials", "3"]
    # Of seed 1's draws for the fast buffer, 27,580 and 23,462 and 86,401, this one can hold one.
    tuned, trained = play(
        tmp_path,
        ["optimize", *common, *budget, "--no-optim-plots", "-params", *small, "buffer_size:25000"],
        ["train", *common, "-n", "60", "--eval-freq", "-1", "--trial-id", "1", "-params", *small],
    )
    assert tuned.code == 0, tuned
    assert "This trial is pruned: fast_buffer_size must be smaller" in tuned.out
    (report,) = (tmp_path / "logs" / "lfiw_sac").glob("report*.csv")
    trials = pd.read_csv(report)
    space = {f"params_{name}" for name in registry.spec("lfiw_sac").search_space}
    assert {name for name in trials if name.startswith("params_")} == space
    fits = trials["params_fast_buffer_size"] < 25_000
    assert 0 < fits.sum() < len(trials) == 3
    assert trials["state"].tolist() == ["COMPLETE" if one else "PRUNED" for one in fits]
    assert fits[1]
    assert trained.code == 0, trained
    assert f"('temperature', {trials['params_temperature'][1]})" in trained.out


@needs_zoo
@pytest.mark.slow
def test_parts_by_name_work_and_classes_do_not(tmp_path):
    (tmp_path / "named.yml").write_text(BY_NAME)
    (tmp_path / "classes.py").write_text(BY_CLASS)
    dotted = "replay_buffer_class:'sb3_ext.PrioritizedReplayBuffer'"
    never = ["--eval-freq", "-1"]
    enjoy = ["enjoy", "--algo", "ext_sac", *PENDULUM, "--no-render", "-n", "20", "-f"]
    done = play(
        tmp_path,
        train("ext_sac", *never, "-conf", "named.yml", "-f", "named"),
        [*enjoy, "named"],
        train("ext_sac", *never, "-conf", "classes.py", "-f", "classes"),
        [*enjoy, "classes"],
        train("ext_sac", *never, "-params", dotted),
    )
    assert [one.code for one in done] == [0, 0, 0, 2, 2], done
    assert "TypeError: argument of type 'ABCMeta'" in done[3].err
    assert "NameError: name 'sb3_ext' is not defined" in done[4].err


@needs_zoo
@pytest.mark.slow
def test_mistakes_are_told_in_a_sentence(tmp_path):
    (tmp_path / "broken.yml").write_text("a: [")
    cases = {
        "no algorithm 'lfiw_sax'; did you mean lfiw_sac?": train("lfiw_sax"),
        "no algorithm 'LFIWTD3'; did you mean lfiw_td3?": train("LFIWTD3"),
        "'per' (from sb3-ext": train("per"),
        "did you mean 'temperature'?": train("lfiw_sac", "-params", "temperatur:3"),
        "maybe meant Pendulum-v1": train("lfiw_sac", env=["--env", "Pendulm-v1"]),
        "No such file or directory: 'no.yml'": train("lfiw_sac", "--conf-file", "no.yml"),
        "ParserError": train("lfiw_sac", "--conf-file", "broken.yml"),
        "No model found": ["enjoy", "--algo", "lfiw_sac", *PENDULUM],
        "--algo: expected one argument": ["train", "--algo"],
    }
    for told, done in zip(cases, play(tmp_path, *cases.values()), strict=True):
        assert done.code == 2, done
        assert told in done.err
        assert done.err.count("\n") == 1


@needs_zoo
@pytest.mark.slow
def test_the_zoos_own_options_are_refused_by_the_zoo(tmp_path):
    (wrong, helped) = play(tmp_path, train("lfiw_sac", "--n-step", "3"), ["train", "--help"])
    assert wrong.code == 2
    assert "usage: sb3-ext zoo train" in wrong.err
    assert helped.code == 0
    assert "lfiw_sac" in helped.out
