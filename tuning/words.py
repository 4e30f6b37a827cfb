"""What a study has found, in sentences and as a table: for the terminal, and for the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from sb3_ext.evaluation import Interval
from sb3_ext.tuning.finals import DEFAULT, Candidate, Finals
from sb3_ext.tuning.study import OpenStudy, best_trials
from sb3_ext.tuning.trials import DEFAULTS

FEWEST = 4
"""Seeds below which no interval is shown: that of two holds the truth in half of all cases."""


def summary(opened: OpenStudy, found: Finals | None) -> list[str]:
    """Sentences: how many trials, what was chosen, and what it is worth."""
    options = opened.options
    counts = Counter(one.state.name.lower() for one in opened.queue.slots())
    told = ", ".join(f"{number} {state}" for state, number in counts.items())
    lines = [f"{options.algorithm} on {options.env}, {options.steps:,} steps a run: {told}."]
    if found is None:
        return [*lines, _best_of_the_study(opened)]
    if found.chosen is None:
        return [*lines, _nothing_chosen(found), *_failures(found)]
    return [*lines, *_worth(opened, found, found.chosen), *_failures(found), verdict(found)]


def verdict(found: Finals) -> str:
    """What the search was worth, in one sentence."""
    chosen, gap = found.chosen, found.gap
    if chosen is None or chosen.of == DEFAULT:
        return "The search gained nothing: no trial was better than the defaults on fresh seeds."
    if gap is None:
        failed = [one.name for one in (chosen, found.defaults) if one.estimate("testing") is None]
        return (
            "What the search gained cannot be said: "
            f"{' and '.join(failed)} failed on a testing seed."
        )
    gain = number(gap.estimate)
    if gap.n < FEWEST:
        return (
            f"The gain over the defaults is {gain}, but {count(gap.n, 'seed')} cannot show whether "
            "that is more than luck: give --final-seeds 5 or more."
        )
    bounds = f"[{number(gap.low)}, {number(gap.high)}]"
    if gap.low > 0:
        return (
            f"The search gained {gain} over the defaults: the gain's interval {bounds} is above 0."
        )
    if gap.high < 0:
        return (
            f"The search lost {number(-gap.estimate)} against the defaults (the gain's interval "
            f"{bounds} is below 0): train with the defaults."
        )
    return (
        f"The search gained nothing that these seeds can show: the gain over the defaults is "
        f"{gain}, and its interval {bounds} holds 0."
    )


def table(opened: OpenStudy, found: Finals | None) -> tuple[list[str], list[list[str]]]:
    """The configurations of the second stage, or the best trials without one."""
    seeds = count(opened.options.final_seeds, "seed")
    if found is None:
        header = ["configuration", "score", "hyperparameters"]
        best = best_trials(opened.queue.slots(), 5)
        rows = [[trial_name(one), number(one.value), _drawn(one)] for one in best]
        return header, rows
    header = [
        *("configuration", "in the study", f"{seeds} to choose", f"{seeds} to test"),
        "hyperparameters",
    ]
    return header, [_row(one) for one in found.candidates]


def interval(found: Interval) -> str:
    """An estimate with its interval, where there are seeds enough for one."""
    if found.n < FEWEST:
        return f"{number(found.estimate)} ({count(found.n, 'seed')}: no interval)"
    return f"{number(found.estimate)} [{number(found.low)}, {number(found.high)}]"


def number(value: float | None) -> str:
    """A return, a bound or a gain, to four digits."""
    return "" if value is None else f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def count(many: int, what: str) -> str:
    """``1 seed``, ``2 seeds``."""
    return f"{many:,} {what}{'' if many == 1 else 's'}"


def trial_name(trial: FrozenTrial) -> str:
    """``defaults`` or ``trial 7``."""
    return "defaults" if trial.user_attrs.get(DEFAULTS) else f"trial {trial.number}"


# -- the parts -------------------------------------------------------------------------------------


def _best_of_the_study(opened: OpenStudy) -> str:
    options, slots = opened.options, opened.queue.slots()
    complete = sum(one.state == TrialState.COMPLETE for one in slots)
    (best,) = best_trials(slots, 1)
    if options.top:
        why = "no second stage was run, since no complete trial differs from the defaults"
    else:
        why = "no second stage was run"
    luck = "" if complete == 1 else f", the luckiest of {complete} and so too good"
    return (
        f"Best: {trial_name(best)} with {number(best.value)} over "
        f"{count(options.seeds, 'tuning seed')}{luck}: {why}."
    )


def _nothing_chosen(found: Finals) -> str:
    return (
        "Nothing was chosen, since each of the "
        f"{count(len(found.candidates), 'configuration')} failed on a choosing seed."
    )


def _worth(opened: OpenStudy, found: Finals, chosen: Candidate) -> list[str]:
    tested = chosen.estimate("testing")
    seeds = count(opened.options.final_seeds, "seed")
    what = "mean" if opened.options.final_seeds < FEWEST else "interquartile mean, 95 % interval"
    told = "it failed" if tested is None else f"it has {interval(tested)} ({what})"
    believe = "" if tested is None else ": believe this figure"
    lines = [f"Chosen: {chosen.name}. On {seeds} that chose nothing {told}{believe}."]
    if chosen.tuned is not None:
        complete = sum(one.state == TrialState.COMPLETE for one in opened.queue.slots())
        lucky = chosen.of != DEFAULT and complete > 1
        luck = f", as one of the luckiest of {complete} and so too good" if lucky else ""
        lines.append(f"In the study it had {number(chosen.tuned)}{luck}.")
    theirs = found.defaults.estimate("testing")
    if chosen.of != DEFAULT:
        told = "failed" if theirs is None else f"have {interval(theirs)}"
        lines.append(f"The defaults {told} on the same seeds.")
    return lines


def _failures(found: Finals) -> list[str]:
    return [f"Failed: {one.name}, {told}." for one in found.candidates for told in one.failures]


def _row(one: Candidate) -> list[str]:
    def told(purpose: str) -> str:
        found = one.estimate(purpose)
        if found is None:
            return "failed" if purpose in one.scores else ""
        return interval(found)

    return [one.name, number(one.tuned), told("choosing"), told("testing"), params(one.params)]


def _drawn(trial: FrozenTrial) -> str:
    return "" if trial.user_attrs.get(DEFAULTS) else params(trial.params)


def params(values: Mapping[str, Any]) -> str:
    """``gamma=0.99, batch_size=64``."""
    return ", ".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in values.items()
    )
