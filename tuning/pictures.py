"""Optuna's pictures of a study, so that they can be read."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import TrialState

ENOUGH = 20
"""Complete trials below which importances are not drawn: of four trials they were plainly false."""

MOST = 8
"""Hyperparameters that a picture has room for."""

_LEGEND = 10
"""Lines that a legend can tell apart."""

#: Name of a picture -> Optuna's function for it.
PICTURES = {
    "history": "plot_optimization_history",
    "importance": "plot_param_importances",
    "slice": "plot_slice",
    "parallel": "plot_parallel_coordinate",
    "intermediate": "plot_intermediate_values",
}


def write_plots(study: optuna.Study, folder: Path) -> list[Path]:
    """Optuna's pictures as PNG, and as HTML where plotly is installed.

    Slices and parallel coordinates show the ``MOST`` most important hyperparameters.

    :return: the PNGs; what cannot be drawn of these trials is left out, and taken away
    """
    import matplotlib.pyplot as plt

    folder.mkdir(exist_ok=True)
    drawn = []
    for name, function in PICTURES.items():
        png, page = folder / f"{name}.png", folder / f"{name}.html"
        # Optuna sets a style for the whole process, and warns of what is experimental.
        with plt.rc_context(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                options = _options(study, name)
                axes = getattr(optuna.visualization.matplotlib, function)(study, **options)
                figure: Any = plt.gcf() if hasattr(axes, "flat") else axes.figure
                _READABLE[name](figure, len(options.get("params", ())))
                figure.savefig(png, dpi=100, bbox_inches="tight")
                drawn.append(png)
            except (ValueError, RuntimeError, ImportError):  # too few trials, one parameter only
                png.unlink(missing_ok=True)
                page.unlink(missing_ok=True)
                continue
            finally:
                plt.close("all")
            if importlib.util.find_spec("plotly") is not None:
                picture = getattr(optuna.visualization, function)(study, **options)
                picture.write_html(page)
    return drawn


# -- the parts -------------------------------------------------------------------------------------


def _options(study: optuna.Study, name: str) -> dict[str, Any]:
    """What Optuna's function is given.

    :raises ValueError: if nothing can be drawn
    """
    if name == "importance" and len(_complete(study)) < ENOUGH:
        raise ValueError("too few trials")
    if name == "importance":
        return {"evaluator": _evaluator()}
    if name not in ("slice", "parallel"):
        return {}
    params = shown(study)
    if not params or (name == "parallel" and len(params) < 2):
        raise ValueError("too few parameters")
    return {"params": params}


def shown(study: optuna.Study) -> list[str]:
    """The hyperparameters that the pictures have room for, in the order of the space."""
    params = list(dict.fromkeys(name for one in _complete(study) for name in one.params))
    if len(params) <= MOST:
        return params
    if len(_complete(study)) >= ENOUGH:
        found = optuna.importance.get_param_importances(study, evaluator=_evaluator())
        most = list(found)[:MOST]
        return [name for name in params if name in most]
    return params[:MOST]


def _evaluator() -> PedAnovaImportanceEvaluator:
    """What tells the better half of the trials from all of them.

    Optuna's default is the best tenth, two trials of twenty: in ten studies of twenty trials where
    one of 16 hyperparameters decided, that one came first twice, and by the better half six times.
    """
    return PedAnovaImportanceEvaluator(target_quantile=0.5)


def _complete(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _plain(figure: Any, number: int) -> None:
    """As Optuna draws it."""


def _importance(figure: Any, number: int) -> None:
    for axes in figure.axes:  # it names the one objective, and lies on a bar
        if axes.get_legend() is not None:
            axes.get_legend().remove()


def _slice(figure: Any, number: int) -> None:
    figure.set_size_inches(2.2 + 2.0 * number, 4.4)
    for axes in figure.axes[:number]:
        axes.tick_params(axis="x", labelrotation=45, labelsize=8)
        axes.xaxis.label.set_size(9)


def _parallel(figure: Any, number: int) -> None:
    figure.set_size_inches(3.0 + 1.5 * number, 4.8)


def _intermediate(figure: Any, number: int) -> None:
    import matplotlib.pyplot as plt

    (axes,) = figure.axes
    lines = axes.get_lines()
    few = len(lines) <= _LEGEND  # Optuna's colours are pale, and come again after 20
    colors = plt.get_cmap("tab10" if few else "viridis")
    for place, line in enumerate(lines):
        line.set_color(colors(place if few else 0.9 * place / (len(lines) - 1)))
    if few:
        axes.legend(bbox_to_anchor=(1.05, 1), loc="upper left", borderaxespad=0.0)
    else:
        axes.get_legend().remove()
        axes.set_title(f"Intermediate values of {len(lines)} trials, the first ones dark")


_READABLE: dict[str, Callable[[Any, int], None]] = {
    "history": _plain,
    "importance": _importance,
    "slice": _slice,
    "parallel": _parallel,
    "intermediate": _intermediate,
}
