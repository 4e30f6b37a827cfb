"""``report.md``: what was found, and all that someone must know to judge it or to do it again."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from sb3_ext.spec import Choice
from sb3_ext.tuning.callbacks import LAST
from sb3_ext.tuning.finals import Finals, runs_of_finals
from sb3_ext.tuning.options import CHOOSING, TESTING, TUNING
from sb3_ext.tuning.pictures import ENOUGH
from sb3_ext.tuning.spaces import flat
from sb3_ext.tuning.study import OpenStudy
from sb3_ext.tuning.words import FEWEST, count, params, summary, table

_PACKAGES = ("sb3-ext", "stable-baselines3", "optuna", "gymnasium", "torch", "numpy")


def report(opened: OpenStudy, found: Finals | None, pictures: Sequence[str]) -> str:
    """The whole page.

    :param pictures: paths of the PNGs, as seen from the page
    """
    header, rows = table(opened, found)
    lines = [f"# {opened.options.study}", "", *summary(opened, found), ""]
    lines += [_cells(header), _cells(["---"] * len(header)), *map(_cells, rows), ""]
    lines += [*(_how_to_read(opened, found)), ""]
    lines += ["## How it was made", "", *(f"- {one}" for one in _settings(opened)), ""]
    lines += ["Searched:", "", *(f"- {one}" for one in space(opened)), ""]
    lines += ["## Pictures", "", *(f"![{Path(path).stem}]({path})" for path in pictures)]
    if "importance" in [Path(path).stem for path in pictures]:
        lines += [
            "",
            "The importances are a hint (PED-ANOVA, of what tells the better half of the trials): "
            "the search has drawn more where it was good already.",
        ]
    complete = _complete(opened)
    if complete < ENOUGH:
        lines += [
            "",
            f"There is no picture of the importances: it takes {ENOUGH} complete trials to tell "
            f"them, and there are {complete}.",
        ]
    return "\n".join(lines) + "\n"


def space(opened: OpenStudy) -> list[str]:
    """What was searched, a line each."""
    told = []
    for name, atom in opened.atoms.items():
        if isinstance(atom, Choice):
            told.append(f"{name}: one of {', '.join(map(str, atom.options))}")
            continue
        extra = (", logarithmic" if atom.log else "") + (f", step {atom.step}" if atom.step else "")
        told.append(f"{name}: {atom.low:g} to {atom.high:g}{extra}")
    return told


# -- the parts -------------------------------------------------------------------------------------


def _cells(cells: Sequence[str]) -> str:
    return "| " + " | ".join(one.replace("|", "\\|") for one in cells) + " |"


def _complete(opened: OpenStudy) -> int:
    return sum(one.state == TrialState.COMPLETE for one in opened.queue.slots())


def _how_to_read(opened: OpenStudy, found: Finals | None) -> list[str]:
    options = opened.options
    last = min(LAST, options.evaluations)
    score = (
        f"A run's score is the mean return of its last {count(last, 'evaluation')}, of "
        f"{count(options.eval_episodes, 'episode')} each, deterministic"
    )
    if options.seeds > 1:
        score += f"; a trial's is the median over its {options.seeds} runs"
    lines = [f"{score}."]
    if found is None:
        return lines
    lines.append(
        "Figures of several seeds are interquartile means (of fewer than four, the plain mean), "
        "and the gain is the difference of the two. Only the figures of the testing seeds are to "
        "be believed: the configuration was chosen by the others, so these flatter it."
    )
    if options.final_seeds < FEWEST:
        lines.append(f"Fewer than {FEWEST} seeds have no interval.")
    else:
        lines.append(
            "In brackets: bootstrap intervals of nominally 95 %. With few seeds they are too "
            "narrow: of normal scores, the gain's interval held the truth 85 times in 100 with 4 "
            "seeds, 89 with 5, 92 with 10."
        )
    return lines


def _settings(opened: OpenStudy) -> list[str]:
    options = opened.options
    env = options.env + (f" ({params(options.env_kwargs)})" if options.env_kwargs else "")
    policy = f", policy {options.policy}" if options.policy else ""
    normalized = ", normalized by VecNormalize" if options.normalize else ""
    environments = count(options.n_envs, "environment")
    fixed = params(flat(options.hyperparameters))
    defaults = "is the default configuration" if options.enqueue else "is drawn as the others are"
    told = [
        f"{options.algorithm}{policy} on {env}, {environments} a run{normalized}",
        f"fixed: {fixed or 'nothing'}; what is neither fixed nor searched has its default",
        f"sampler {options.sampler}, pruner {options.pruner}, seed {options.seed}; the first trial "
        f"{defaults}",
        f"a run has {options.steps:,} steps and an evaluation every "
        f"{max(1, options.steps // options.evaluations):,}",
        f"seeds for tuning: {_listed(opened, TUNING, options.seeds)}",
    ]
    if options.top:
        told += [
            f"seeds for choosing: {_listed(opened, CHOOSING, options.final_seeds)}; for testing: "
            f"{_listed(opened, TESTING, options.final_seeds)}",
        ]
    return [*told, *_spent(opened), _versions()]


def _listed(opened: OpenStudy, purpose: int, many: int) -> str:
    seeds = opened.options.seeds_for(purpose, many)
    return str(seeds[0]) if many == 1 else f"{seeds[0]} to {seeds[-1]}"


def _spent(opened: OpenStudy) -> list[str]:
    """When, how long, how many runs."""
    later = runs_of_finals(opened)
    ended = [one for one in opened.study.get_trials(deepcopy=False) if one.state.is_finished()]
    both: list[FrozenTrial] = [*ended, *later]
    begun = [one.datetime_start for one in both if one.datetime_start]
    done = [one.datetime_complete for one in both if one.datetime_complete]
    if not begun or not done:
        return []
    seconds = sum(one.duration.total_seconds() for one in both if one.duration)
    return [
        f"{count(len(ended), 'trial')} of {count(opened.options.seeds, 'run')}, and "
        f"{count(len(later), 'further run')}: {_hours(seconds)} of work, from "
        f"{min(begun):%Y-%m-%d %H:%M} to {max(done):%Y-%m-%d %H:%M}",
    ]


def _hours(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _versions() -> str:
    told: list[Any] = [f"Python {platform.python_version()}"]
    for name in _PACKAGES:
        try:
            told.append(f"{name} {version(name)}")
        except PackageNotFoundError:  # pragma: no cover - run from a checkout, say
            continue
    return f"{', '.join(told)}; {platform.system()} {platform.machine()}"
