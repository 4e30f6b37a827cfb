import csv
import json
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest

from sb3_ext.cli import curves, plot
from sb3_ext.cli.parsing import Parser
from sb3_ext.errors import UsageError

SAC, STOCK = "sb3_ext.algorithms.sac:SAC", "stable_baselines3.sac.sac:SAC"
LFIW = "sb3_ext.plugins.lfiw.algorithms:LFIWSAC"


def call(*words) -> int:
    parser = Parser(prog="sb3-ext")
    plot.add_parser(parser.add_subparsers())
    arguments = parser.parse_args(["plot", *map(str, words)])
    return arguments.run(arguments)


def make_run(path, returns=None, *, steps=None, algorithm=SAC, env="Hopper-v5", seed=0, **values):
    """A run directory; one evaluation of two episodes each 100 steps, around the given returns."""
    path.mkdir(parents=True)
    config = {"algorithm": algorithm, "env": env, "seed": seed, "hyperparameters": values}
    (path / "config.json").write_text(json.dumps(config))
    if returns is not None:
        steps = 100 * np.arange(1, len(returns) + 1) if steps is None else steps
        results = np.stack([np.asarray(returns) - 1.0, np.asarray(returns) + 1.0], axis=1)
        np.savez(path / "evaluations.npz", timesteps=steps, results=results, ep_lengths=results)
    return path


def write_monitor(path, rows, *, start=1000.0, header=True):
    lines = [f'#{{"t_start": {start}, "env_id": "Hopper-v5"}}', "r,l,t"] if header else []
    lines += [",".join(map(str, row)) for row in rows]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_has_the_numbers_that_the_files_hold(tmp_path, capsys):
    for seed, shift in enumerate((0.0, 10.0, 20.0, 1000.0)):
        returns = np.array([0.0, 3.0, 6.0, 9.0]) + shift
        make_run(tmp_path / f"runs/sac/{seed}", returns, seed=seed)
    make_run(tmp_path / "runs/lfiw/0", [1.0, 1.0, 1.0, 1.0], algorithm=LFIW)
    assert call("runs", "--csv", "out/table.csv") == 0
    lfiw, sac = table(tmp_path / "out/table.csv")
    assert (lfiw["algorithm"], sac["algorithm"], sac["env"]) == ("LFIWSAC", "SAC", "Hopper-v5")
    assert (sac["seeds"], sac["steps"], lfiw["seeds"]) == ("4", "400", "1")
    # Last three: 6, 16, 26 and 1006; the middle half is 16 and 26. Along training: 4.5 on average.
    assert float(sac["final_mean"]) == pytest.approx(263.5)
    assert float(sac["final_iqm"]) == pytest.approx(21.0)
    assert 6.0 <= float(sac["final_iqm_low"]) < 21.0 < float(sac["final_iqm_high"]) <= 1006.0
    assert float(sac["area"]) == pytest.approx(4.5 + 257.5)
    assert lfiw["final_iqm_low"] == lfiw["final_iqm_high"] == ""
    out = capsys.readouterr()
    assert out.out.splitlines()[2].split()[:6] == ["SAC", "Hopper-v5", "4", "400", "263.5", "21"]
    assert out.out.splitlines()[-2:] == ["picture: learning_curves.png", "table: out/table.csv"]
    assert out.err == ""
    assert matplotlib.image.imread("learning_curves.png").std() > 0.01


def drawn(monkeypatch):
    """What would be drawn: title -> label -> seeds."""
    seen = {}

    def record(lines, path, title, **options):
        seen[title] = {"lines": lines, "path": str(path), **options}

    monkeypatch.setattr("sb3_ext.plots.plot_learning_curves", record)
    return seen


def test_the_picture_gets_every_seed_and_the_interquartile_mean(tmp_path, monkeypatch):
    seen = drawn(monkeypatch)
    for seed in (2, 10, 1):
        make_run(tmp_path / f"runs/Hopper-v5_{seed}", [seed, 5.0], seed=seed)
    call("runs", "--out", "deep/er.svg")
    one = seen["Hopper-v5"]
    assert (one["path"], one["ylabel"]) == ("deep/er.svg", "evaluation return")
    assert one["statistic"].__name__ == "interquartile_mean"
    assert [returns.tolist() for _, returns in one["lines"]["SAC"]] == [[1, 5], [2, 5], [10, 5]]


def test_each_environment_has_its_picture(tmp_path, capsys):
    make_run(tmp_path / "a", [1.0, 2.0], env="Hopper-v5")
    make_run(tmp_path / "b", [1.0, 2.0], env="ALE/Pong-v5")
    assert call("a", "b", "--out", "x.png") == 0
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "x-hopper-v5.png",
        "x-ale-pong-v5.png",
    }
    assert capsys.readouterr().out.count("picture: ") == 2


def test_environments_whose_names_differ_in_signs_do_not_share_a_file(tmp_path):
    make_run(tmp_path / "a", [1.0], env="A/x")
    make_run(tmp_path / "b", [1.0], env="a-x")
    call("a", "b", "--out", "x.png")
    assert {path.name for path in tmp_path.glob("*.png")} == {"x-a-x.png", "x-a-x-2.png"}


def test_a_picture_of_evaluations_and_of_training_claims_neither(tmp_path, monkeypatch):
    seen = drawn(monkeypatch)
    make_run(tmp_path / "a", [1.0])
    write_monitor(make_run(tmp_path / "b", env="Ant-v5") / "monitor.csv", [(1, 10, 1)])
    call("a", "b", "--group-by", "env")
    assert seen["SAC"]["ylabel"] == "return"


def test_a_curve_may_be_an_environment_or_a_folder(tmp_path, monkeypatch, capsys):
    seen = drawn(monkeypatch)
    for rate in ("slow", "fast"):
        for seed in (0, 1):
            make_run(tmp_path / f"runs/{rate}/{seed}", [1.0], seed=seed, learning_rate=rate)
    make_run(tmp_path / "runs/pendulum/0", [1.0], env="Pendulum-v1")
    call("runs", "--group-by", "env")
    assert {title: list(one["lines"]) for title, one in seen.items()} == {
        "SAC": ["Hopper-v5", "Pendulum-v1"]
    }
    assert "differ in learning_rate; --group-by folder" in capsys.readouterr().err
    seen.clear()
    call("runs", "--group-by", "folder")
    assert list(seen["Hopper-v5"]["lines"]) == ["fast", "slow"]
    assert list(seen["Pendulum-v1"]["lines"]) == ["pendulum"]
    told = capsys.readouterr()
    assert "differ" not in told.err
    assert told.out.split()[0] == "folder"
    make_run(tmp_path / "runs/slow/2", [1.0], algorithm=LFIW)
    with pytest.raises(UsageError, match="must be of one algorithm, but the folder slow holds LF"):
        call("runs", "--group-by", "folder")


def test_folders_of_one_name_are_told_apart(tmp_path, monkeypatch):
    seen = drawn(monkeypatch)
    for name in ("a/x", "b/x"):
        make_run(tmp_path / name / "0", [1.0])
    call("a", "b", "--group-by", "folder")
    assert list(seen["Hopper-v5"]["lines"]) == ["a/x", "b/x"]


def test_two_classes_of_one_name_are_two_curves(tmp_path, monkeypatch):
    seen = drawn(monkeypatch)
    make_run(tmp_path / "ours", [1.0])
    make_run(tmp_path / "stock", [1.0], algorithm=STOCK)
    call("ours", "stock")
    assert list(seen["Hopper-v5"]["lines"]) == ["SAC (sb3_ext)", "SAC (stable_baselines3)"]


def test_a_run_named_twice_counts_once_and_a_seed_twice_is_told(tmp_path, monkeypatch, capsys):
    seen = drawn(monkeypatch)
    make_run(tmp_path / "runs/0", [1.0, 2.0])
    call("runs", "runs/0", tmp_path / "runs")
    assert len(seen["Hopper-v5"]["lines"]["SAC"]) == 1
    assert capsys.readouterr().err == ""
    make_run(tmp_path / "runs/1", [1.0, 2.0])
    call("runs")
    assert "SAC on Hopper-v5 has several runs of seed 0: all" in capsys.readouterr().err


def test_seeds_meet_at_their_common_steps(tmp_path, monkeypatch, capsys):
    seen = drawn(monkeypatch)
    make_run(tmp_path / "runs/0", [1.0, 2.0, 3.0, 4.0], seed=0)
    make_run(tmp_path / "runs/1", [5.0, 6.0, 7.0], steps=[200, 250, 300], seed=1)
    call("runs")
    lines = seen["Hopper-v5"]["lines"]["SAC"]
    assert [(x.tolist(), y.tolist()) for x, y in lines] == [
        ([200, 300], [2, 3]),
        ([200, 300], [5, 7]),
    ]
    assert "used are the 2 in common, from 200 to 300" in capsys.readouterr().err
    make_run(tmp_path / "runs/2", [5.0], steps=[120], seed=2)
    with pytest.raises(UsageError, match=r"none in common: .*0 from 100 to 400; .*2 from 120 to"):
        call("runs")


def test_a_step_that_was_evaluated_again_counts_once(tmp_path, monkeypatch):
    seen = drawn(monkeypatch)
    make_run(tmp_path / "run", [1.0, 2.0, 7.0, 3.0], steps=[100, 200, 200, 300])
    call("run")
    ((steps, returns),) = seen["Hopper-v5"]["lines"]["SAC"]
    assert (steps.tolist(), returns.tolist()) == ([100, 200, 300], [1, 7, 3])


def test_curves_that_end_at_different_steps_are_told(tmp_path, capsys):
    make_run(tmp_path / "a", [1.0, 2.0])
    make_run(tmp_path / "b", [1.0, 2.0, 3.0], algorithm=LFIW)
    call("a", "b")
    assert "on Hopper-v5 end at different steps (200, 300)" in capsys.readouterr().err


def test_without_evaluations_the_training_episodes_are_drawn(tmp_path, monkeypatch, capsys):
    seen = drawn(monkeypatch)
    run = make_run(tmp_path / "run")
    # Two environments side by side: by time, the returns are 1, 2, ..., 10, of 10 steps each.
    write_monitor(run / "0.monitor.csv", [(i, 10, i) for i in (1, 3, 5, 7, 9)])
    write_monitor(run / "1.monitor.csv", [(i, 10, i - 500) for i in (2, 4, 6, 8, 10)], start=1500.0)
    assert call("run", "--csv", "t.csv") == 0
    one = seen["Hopper-v5"]
    assert one["ylabel"] == "training return, mean of 5 episodes"
    ((steps, returns),) = one["lines"]["SAC"]
    assert (steps[0], steps[-1], returns[0], returns[-1]) == (10, 100, 1, 8)
    assert np.interp(50.0, steps, returns) == pytest.approx(3.0, abs=0.01)
    (row,) = table(tmp_path / "t.csv")
    assert (row["final_mean"], row["steps"]) == ("8.0", "100")
    assert "no evaluations; drawn are training episodes, 5 to a mean" in capsys.readouterr().err


def test_a_resumed_and_a_cut_monitor_file_are_read(tmp_path):
    # SB3 writes no header into a new file with override_existing=False.
    write_monitor(tmp_path / "monitor.csv", [(1, 5, 1.0), (2, 5, 9.0), (3, 5, 0.5)], header=False)
    with (tmp_path / "monitor.csv").open("a") as file:
        file.write("4,5")
    steps, returns = curves._episodes(tmp_path)
    assert (steps.tolist(), returns.tolist()) == ([5, 10, 15], [1, 2, 3])


def test_training_runs_of_one_panel_are_smoothed_alike(tmp_path, monkeypatch):
    seen = drawn(monkeypatch)
    for seed, n in enumerate((120, 400)):
        run = make_run(tmp_path / f"runs/{seed}", seed=seed)
        write_monitor(run / "monitor.csv", [(i, 1, i) for i in range(n)])
    call("runs")
    assert seen["Hopper-v5"]["ylabel"] == "training return, mean of 6 episodes"
    for steps, returns in seen["Hopper-v5"]["lines"]["SAC"]:
        assert (steps[-1], returns[-1]) == (120, pytest.approx(116.5))


def test_what_has_nothing_evaluated_is_refused_if_named_and_left_out_if_found(tmp_path, capsys):
    make_run(tmp_path / "runs/0", [1.0, 2.0])
    empty, training = make_run(tmp_path / "runs/1"), make_run(tmp_path / "runs/2")
    write_monitor(training / "monitor.csv", [(1, 10, 1)])
    assert call("runs", "--csv", "t.csv") == 0
    assert table(tmp_path / "t.csv")[0]["seeds"] == "1"
    err = capsys.readouterr().err
    assert "runs/1 has nothing evaluated: no evaluations.npz and no finished episode; it is" in err
    assert "runs/2 has training episodes only, and other runs on Hopper-v5 have eval" in err
    for named, law in ((empty, "has nothing evaluated"), (training, "has training episodes only")):
        with pytest.raises(UsageError, match=f"{law}.*; leave it out"):
            call("runs/0", named)
    make_run(tmp_path / "bare/1")
    with pytest.raises(UsageError, match="no run has anything to draw"):
        call("bare")


def broken_config(path):
    (path / "config.json").write_text("{")


def foreign_config(path):
    (path / "config.json").write_text('{"model_type": "bert"}')


def damaged_results(path):
    (path / "evaluations.npz").write_bytes(b"PK\3\4 cut")


def foreign_results(path):
    np.savez(path / "evaluations.npz", other=np.zeros(2))


def nan_results(path):
    np.savez(path / "evaluations.npz", timesteps=[5, 6], results=[[1.0, 2.0], [np.nan, 1.0]])


def pickled_results(path):
    np.savez(path / "evaluations.npz", timesteps=[5], results=np.array([[{}]], dtype=object))


def ragged_results(path):
    np.savez(path / "evaluations.npz", timesteps=[5, 6], results=[[1.0]])


def nan_episodes(path):
    (path / "evaluations.npz").unlink()
    write_monitor(path / "monitor.csv", [("nan", 10, 1)])


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (broken_config, "config.json cannot be read"),
        (foreign_config, "config.json is not that of a run: it must be a JSON object with `algor"),
        (damaged_results, "evaluations.npz is no file of SB3's EvalCallback"),
        (foreign_results, "evaluations.npz is no file of SB3's EvalCallback: .*timesteps"),
        (nan_results, "must hold finite returns; at step 6 one is not"),
        (pickled_results, "evaluations.npz is no file of SB3's EvalCallback: .*pickle"),
        (ragged_results, r"timesteps are \[2\], results \[1, 1\]"),
        (nan_episodes, "must hold finite returns in its monitor.csv"),
    ],
)
def test_a_damaged_run_is_a_sentence(tmp_path, damage, sentence):
    damage(make_run(tmp_path / "run", [1.0]))
    with pytest.raises(UsageError, match=sentence) as told:
        call("run")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("damage", [broken_config, damaged_results, nan_results])
def test_a_damaged_run_among_others_is_left_out(tmp_path, damage, capsys):
    make_run(tmp_path / "runs/good", [1.0])
    damage(make_run(tmp_path / "runs/bad", [2.0]))
    call("runs")
    told = capsys.readouterr()
    assert "runs/bad/" in told.err or "runs/bad " in told.err
    assert "it is left out" in told.err
    assert told.out.splitlines()[1].split()[2] == "1"  # one seed


def test_a_folder_that_is_no_run_is_a_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "results").mkdir()
    np.savez(tmp_path / "results/evaluations.npz", timesteps=[1], results=[[1.0]])
    (tmp_path / "file").touch()
    for word, sentence in {
        "empty": "empty is no run and holds none: it has no config.json and no results",
        "results": "results is no run and holds none: it has no config.json; runs of",
        "file": "file is a file; give the run directory",
        "nowhere": "nowhere does not exist",
    }.items():
        with pytest.raises(UsageError, match=sentence):
            call(word)


def test_files_below_a_run_and_in_hidden_folders_are_no_runs(tmp_path, monkeypatch):
    seen = drawn(monkeypatch)
    make_run(tmp_path / "runs/0", [1.0])
    make_run(tmp_path / "runs/0/wandb/files", [9.0])
    make_run(tmp_path / "runs/.old/1", [9.0])
    foreign_config(make_run(tmp_path / "runs/model"))
    call("runs")
    assert len(seen["Hopper-v5"]["lines"]["SAC"]) == 1


def test_a_name_that_cannot_be_written_is_a_sentence(tmp_path):
    run = make_run(tmp_path / "run", [1.0])
    (tmp_path / "file").touch()
    for words, sentence in (
        (("--out", "x.bmp"), "--out must end in .png, .pdf or .svg, got x.bmp"),
        (("--out", run), "--out must name a file, but .*run is a folder"),
        (("--csv", run), "--csv must name a file"),
        (("--out", "file/x.png"), "file/x.png cannot be written"),
        (("--csv", "file/x.csv"), "file/x.csv cannot be written"),
    ):
        with pytest.raises(UsageError, match=sentence):
            call(run, *words)


def test_a_terminal_gets_the_table_by_rich(tmp_path, monkeypatch, capsys):
    make_run(tmp_path / "runs/0", [1234.5, 1.0], env="[red]Env[/red]")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    call("runs")
    assert "[red]Env[/red]" in capsys.readouterr().out


def test_help_is_fast():
    code = (
        "import sys; from sb3_ext.cli import plot, doctor;"
        "print([m for m in ('torch', 'stable_baselines3', 'matplotlib', 'pandas', 'numpy',"
        " 'gymnasium') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"
