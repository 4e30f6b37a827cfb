"""Pictures that can be read, and none that says what cannot be known."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import optuna
import pytest

from sb3_ext.catalog import find_algorithm
from sb3_ext.tuning.pictures import ENOUGH, MOST, shown, write_plots
from sb3_ext.tuning.spaces import draw, study_space

optuna.logging.set_verbosity(optuna.logging.WARNING)


def study(trials: int, params: int, *, decides: int = 0) -> optuna.Study:
    rng = np.random.default_rng(0)
    made = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(trials):
        trial = made.ask()
        drawn = [trial.suggest_float(f"parameter_{one}", 0, 1) for one in range(params)]
        for step in (1, 2, 3):
            trial.report(drawn[decides] * step + rng.normal(0, 0.01), step)
        made.tell(trial, drawn[decides])
    return made


@pytest.fixture
def figures(monkeypatch):
    """By the picture's name: its width in inches, its legends, its lines and its axes."""
    found = {}
    save = plt.Figure.savefig

    def seen(figure, path, **options):
        axes = figure.axes
        legends = [one.get_legend() for one in axes if one.get_legend() is not None]
        found[path.stem] = (figure, legends, axes)
        save(figure, path, **options)

    monkeypatch.setattr(plt.Figure, "savefig", seen)
    return found


def test_importances_of_few_trials_are_not_drawn_and_an_old_picture_goes(tmp_path):
    folder = tmp_path / "plots"
    folder.mkdir()
    (folder / "importance.png").write_bytes(b"of an earlier version")
    names = [path.stem for path in write_plots(study(ENOUGH - 1, 2), folder)]
    assert names == ["history", "slice", "parallel", "intermediate"]
    assert not (folder / "importance.png").exists()
    assert "importance" in [path.stem for path in write_plots(study(ENOUGH, 2), folder)]
    assert (folder / "importance.png").stat().st_size > 1000


def test_many_parameters_have_room_and_the_most_important_ones_are_shown(tmp_path, figures):
    many = study(30, 12, decides=11)
    names = shown(many)
    assert len(names) == MOST
    assert names[-1] == "parameter_11"  # in the order of the space
    assert names == sorted(names, key=lambda name: int(name.split("_")[1]))
    write_plots(many, tmp_path / "many")
    write_plots(study(30, 2), tmp_path / "few")
    # 12 parameters were 3234 points wide.
    assert shown(study(5, 12)) == [f"parameter_{one}" for one in range(MOST)]
    slices, _, axes = figures["slice"]
    assert slices.get_figwidth() < 7
    assert len(axes) == 3  # two slices and the bar of colours


def test_the_hyperparameter_that_decides_is_shown():
    """Optuna's own measure looks at the best tenth, and finds nine others before it."""
    _, cls = find_algorithm("LFIWSAC")
    atoms = study_space(cls, {})
    made = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=9))
    rng = np.random.default_rng(9)
    for _ in range(ENOUGH):
        trial = made.ask()
        drawn = {name: draw(trial, name, atom) for name, atom in atoms.items()}
        made.tell(trial, 100 * np.log10(drawn["learning_rate"] / 1e-4) + rng.normal(0, 40))
    assert "learning_rate" in shown(made)


def test_a_legend_is_there_for_few_trials_only_and_has_the_colours_of_the_lines(tmp_path, figures):
    write_plots(study(10, 2), tmp_path / "few")
    _, (legend,), (axes,) = figures["intermediate"]
    lines = [line.get_color() for line in axes.get_lines()]
    assert [line.get_color() for line in legend.get_lines()] == lines
    assert len(set(lines)) == 10
    write_plots(study(25, 2), tmp_path / "many")
    _, legends, (axes,) = figures["intermediate"]
    assert legends == []
    assert len({line.get_color() for line in axes.get_lines()}) == 25
    assert figures["importance"][1] == []


def test_the_style_of_who_calls_is_left_alone(tmp_path):
    before = plt.rcParams["axes.facecolor"]
    write_plots(study(3, 2), tmp_path)
    assert plt.rcParams["axes.facecolor"] == before
