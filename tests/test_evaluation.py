"""Statistics with known answers, and pictures that show what they were given."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sb3_ext.evaluation import (
    Interval,
    bootstrap_interval,
    interquartile_mean,
    paired_difference,
)
from sb3_ext.plots import plot_learning_curves, plot_training_run

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "learning.py"
PNG = b"\x89PNG\r\n"


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([7.0], 7.0),
        ([1.0, 2.0, 6.0], 3.0),  # floor(3 / 4) = 0 are cut
        ([0.0, 2.0, 4.0, 100.0], 3.0),  # one at each end
        ([-50.0, 1.0, 2.0, 3.0, 90.0], 2.0),  # floor(5 / 4) = 1
        ([8, 1, 7, 2, 6, 3, 5, 4], 4.5),  # 3, 4, 5, 6
    ],
)
def test_interquartile_mean_by_hand(scores, expected):
    assert interquartile_mean(scores) == pytest.approx(expected)


def test_interquartile_mean_along_an_axis():
    scores = np.array([[0.0, 5.0], [2.0, 5.0], [4.0, 5.0], [100.0, 5.0]])
    np.testing.assert_allclose(interquartile_mean(scores, axis=0), [3.0, 5.0])
    assert interquartile_mean(scores) == pytest.approx(np.mean([4.0, 5.0, 5.0, 5.0]))


@pytest.mark.parametrize("statistic", [interquartile_mean, np.mean, np.median])
def test_equal_scores_have_an_interval_of_no_width(statistic):
    assert bootstrap_interval([3.0] * 5, statistic) == Interval(3.0, 3.0, 3.0, 0.95, 5)


def test_one_seed_has_no_interval_and_says_so():
    interval = bootstrap_interval([3.0])
    assert interval.estimate == 3.0
    assert np.isnan([interval.low, interval.high]).all()
    assert str(interval) == "3 (no interval from 1 seed)"


def test_the_interval_falls_back_where_bca_is_undefined():
    # Leaving one out never moves this median: BCa's acceleration is 0 / 0.
    interval = bootstrap_interval([1.0, 1.0, 1.0, 1.0, 2.0], np.median)
    assert (interval.low, interval.high) == (1.0, 2.0)


def test_the_interval_is_repeatable_and_orders_its_bounds():
    scores = np.random.default_rng(0).normal(size=8)
    first, second = bootstrap_interval(scores), bootstrap_interval(scores)
    assert first == second
    assert first.low < first.estimate < first.high
    wider = bootstrap_interval(scores, confidence=0.99)
    assert wider.low < first.low < first.high < wider.high


def test_the_interval_moves_and_scales_with_the_scores():
    scores = np.random.default_rng(1).normal(size=9)
    plain, moved = bootstrap_interval(scores), bootstrap_interval(10.0 * scores + 3.0)
    expected = 10.0 * np.array([plain.estimate, plain.low, plain.high]) + 3.0
    np.testing.assert_allclose([moved.estimate, moved.low, moved.high], expected)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    intervals = [
        bootstrap_interval(rng.exponential(size=20), np.mean, n_resamples=499) for _ in range(200)
    ]
    coverage = np.mean([interval.low <= 1.0 <= interval.high for interval in intervals])
    assert 0.86 <= coverage <= 0.98


def test_paired_difference_removes_what_seeds_share():
    luck = np.array([0.0, 100.0, 200.0, 300.0, 400.0])
    difference = paired_difference(luck + np.array([1.0, 2.0, 3.0, 2.0, 2.0]), luck)
    assert difference.estimate == pytest.approx(2.0)
    assert 1.0 <= difference.low < 2.0 < difference.high <= 3.0


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: paired_difference([1.0, 2.0], [1.0]), r"same seeds .* \[2\] and \[1\]"),
        (lambda: bootstrap_interval([]), "at least one score"),
        (lambda: bootstrap_interval([1.0, np.nan]), "1 of 2 that are not"),
        (lambda: bootstrap_interval([[1.0, 2.0]]), r"shape \[n\], one per seed, got \[1, 2\]"),
        (lambda: bootstrap_interval([1.0, 2.0], confidence=95), "between 0 and 1, got 95"),
    ],
)
def test_wrong_scores_are_refused_in_words(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_plot_learning_curves_draws_seeds_of_different_grids(tmp_path):
    curves = {
        "one": [([0, 10, 20], [0.0, 1.0, 2.0]), ([0, 5, 10, 15], [0.0, 2.0, 3.0, 4.0])],
        "two": [([0, 10, 20], [1.0, 1.0, 1.0])],
    }
    path = plot_learning_curves(
        curves, tmp_path / "new" / "curves.png", "Two", statistic=interquartile_mean
    )
    assert path.read_bytes().startswith(PNG)
    with pytest.raises(ValueError, match="at least one seed"):
        plot_learning_curves({"one": []}, tmp_path / "none.png", "None")


def write_run(folder):
    (folder / "monitor.csv").write_text(
        '#{"t_start": 0.0, "env_id": "Fake-v0"}\nr,l,t\n' + "1.5,10,0.1\n" * 8
    )
    np.savez(folder / "evaluations.npz", timesteps=[40, 80], results=[[1.0, 3.0], [2.0, 6.0]])
    (folder / "progress.csv").write_text(
        "time/total_timesteps,m/active,m/ess,train/loss\n20,0,,1\n40,1,0.5,1\n80,1,0.6,1\n"
    )


def drawn(monkeypatch, *arguments, **options):
    """The figure that plot_training_run hands to the printer."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figures = []
    original = FigureCanvasAgg.print_figure

    def keep(self, *args, **kwargs):
        figures.append(self.figure)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(FigureCanvasAgg, "print_figure", keep)
    plot_training_run(*arguments, **options)
    return figures[0]


def test_plot_training_run_shows_what_the_files_hold(tmp_path, monkeypatch):
    write_run(tmp_path)
    top, panel = drawn(monkeypatch, tmp_path).axes
    assert (tmp_path / "learning_curve.png").read_bytes().startswith(PNG)
    lines = {line.get_label(): line for line in top.lines}
    evaluation = lines["evaluation (mean and range of 2)"]
    np.testing.assert_array_equal(evaluation.get_xydata(), [[40, 2.0], [80, 4.0]])
    episodes = lines["training (mean of 5 episodes)"]
    np.testing.assert_array_equal(episodes.get_xdata(), np.arange(10, 90, 10))
    assert list(lines["m active"].get_xdata()) == [40, 40]
    assert panel.get_title(loc="left") == "ess"  # SB3's own train/loss is not a diagnostic
    np.testing.assert_array_equal(panel.lines[0].get_xydata(), [[40, 0.5], [80, 0.6]])


def test_plot_training_run_needs_episodes_or_evaluations(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="neither"):
        plot_training_run(tmp_path)
    write_run(tmp_path)
    (tmp_path / "monitor.csv").unlink()
    (tmp_path / "progress.csv").unlink()
    assert len(drawn(monkeypatch, tmp_path).axes) == 1


def test_plots_leave_pyplot_alone(tmp_path):
    write_run(tmp_path)
    program = (
        "import sys; from sb3_ext.plots import plot_training_run; "
        f"plot_training_run({str(tmp_path)!r}); "
        "import matplotlib.pyplot as plt; assert plt.get_fignums() == []"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# The paired benchmark: what it reports comes from its CSV files.


@pytest.fixture
def learning():
    spec = importlib.util.spec_from_file_location("benchmarks_learning", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def write_curve(learning, out, algorithm, seed, returns):
    job = learning.Job(algorithm, "Fake-v0", seed, 30, 10, 2, "cpu", {})
    path = job.file(out, "csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{10 * i},{value},0.0,2" for i, value in enumerate(returns)]
    path.write_text("\n".join([",".join(learning.COLUMNS), *rows]) + "\n")
    record = {"job": vars(job), "cpu_seconds": 60.0}
    job.file(out, "json").write_text(json.dumps(record))


def test_the_report_quotes_its_files(learning, tmp_path, capsys):
    for seed in (0, 1, 2):
        write_curve(learning, tmp_path, "stock_sac", seed, [0, 30, 60, 90])
        write_curve(learning, tmp_path, "LFIWSAC", seed, [0, 60, 90, 120])
    learning.report(learning.parse(["report", str(tmp_path), "--out", str(tmp_path)]))
    printed = capsys.readouterr().out
    assert "| stock_sac | 3 | 60 | 60 [60, 60] | 45 |  | 1.0 |" in printed
    assert "| LFIWSAC | 3 | 90 | 90 [90, 90] | 70 | 30 [30, 30] | 1.0 |" in printed
    assert (tmp_path / "learning-fake-v0.png").read_bytes().startswith(PNG)


def test_the_report_tells_the_steps_to_a_return(learning, tmp_path, capsys):
    for seed, returns in enumerate([[0, 30, 60, 90], [0, 60, 50, 60], [0, 1, 2, 3]]):
        write_curve(learning, tmp_path, "SAC", seed, returns)
    report = ["report", str(tmp_path), "--out", str(tmp_path), "--reach", "60"]
    learning.report(learning.parse(report))
    assert "| 20 [10, never] |" in capsys.readouterr().out


def test_seeds_and_settings_of_the_benchmark(learning, tmp_path):
    assert learning.parse_seeds("0-2,7") == [0, 1, 2, 7]
    options = learning.parse(
        f"run --env E --algorithms SAC,LFIWSAC --seeds 1 --out {tmp_path} "
        "--set learning_starts=5 --set LFIWSAC.divergence=js".split()
    )
    sac, lfiw = learning.plan(options)
    assert sac.arguments == {"learning_starts": 5}
    assert lfiw.arguments == {"learning_starts": 5, "divergence": "js"}
    assert sac.eval_seeds() == lfiw.eval_seeds()
    options.set = ["TD3.gamma=1"]
    with pytest.raises(SystemExit, match=r"ALGORITHM\.argument=value"):
        learning.plan(options)


def test_parts_and_noise_of_the_benchmark(learning):
    arguments = learning.with_parts("STEVE+min+shared", {"gamma": 0.9})
    assert arguments == {"critic_reduction": "min", "critic_subsets": False, "gamma": 0.9}
    assert learning.with_noise(arguments, (2,)) == arguments
    noise = learning.with_noise({"action_noise": 0.1}, (2,))["action_noise"]
    drawn = np.array([noise() for _ in range(2_000)])
    assert drawn.shape == (2_000, 2)
    assert drawn.std(0) == pytest.approx(0.1, rel=0.1) and drawn.mean() == pytest.approx(
        0, abs=0.02
    )


@pytest.mark.slow
def test_the_benchmark_runs_and_does_only_what_is_missing(tmp_path):
    command = [sys.executable, BENCHMARK, "run", "--env", "Pendulum-v1", "--out", tmp_path]
    command += ["--algorithms", "stock_sac", "--steps", "200"]
    command += ["--eval-every", "100", "--eval-episodes", "2"]
    first = subprocess.run(
        [*command, "--seeds", "0"], check=True, capture_output=True, text=True
    ).stdout
    assert first.startswith("1 runs, 0 of them done before")
    rows = (tmp_path / "stock_sac" / "Pendulum-v1_seed0.csv").read_text().splitlines()
    assert [row.partition(",")[0] for row in rows] == ["timesteps", "0", "100", "200"]
    again = subprocess.run(
        [*command, "--seeds", "0-1"], check=True, capture_output=True, text=True
    ).stdout
    assert again.startswith("2 runs, 1 of them done before")
    other = subprocess.run(
        [*command, "--seeds", "0", "--set", "gamma=0.9"], capture_output=True, text=True
    )
    assert other.returncode == 1
    assert "asked for {'gamma': 0.9}; choose another --out" in other.stderr
