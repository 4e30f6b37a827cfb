"""The second stage: who is run again, who is chosen, and what is said of it."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml

from sb3_ext.errors import UsageError
from sb3_ext.evaluation import Interval, interquartile_mean
from sb3_ext.tuning import TuneOptions, tune
from sb3_ext.tuning.callbacks import Report
from sb3_ext.tuning.finals import DEFAULT, Candidate, Finals
from sb3_ext.tuning.results import write_results
from sb3_ext.tuning.study import open_study
from sb3_ext.tuning.words import interval, verdict

Scored = Callable[[Mapping[str, Any], int], float]
OPTIONS: dict[str, Any] = {
    "algorithm": "sb3:A2C",
    "env": "CartPole-v1",
    "study": "small",
    "trials": 5,
    "steps": 100,
    "top": 2,
    "final_seeds": 5,
    "sampler": "random",
    "ranges": {"gamma": {"low": 0.9, "high": 0.999}},
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def study(monkeypatch):
    """A study whose runs cost nothing: a function says their scores, or raises."""

    def run(score: Scored, **options: Any) -> Any:
        def scored(
            options: TuneOptions,
            drawn: Mapping[str, Any],
            seed: int,
            where: Path,
            report: Report,
            **_: Any,
        ) -> None:
            report.means.append(score(drawn, seed))

        for module in ("trials", "finals"):
            monkeypatch.setattr(f"sb3_ext.tuning.{module}.run_once", scored)
        monkeypatch.setattr("sb3_ext.tuning.results.write_plots", lambda study, folder: [])
        told: list[str] = []
        try:
            return tune(TuneOptions(**{**OPTIONS, **options}), tell=told.append), told
        except UsageError as error:
            return error, told

    return run


def test_the_defaults_win_a_tie(study):
    result, _ = study(lambda drawn, seed: 9.0)
    assert result.finals.chosen.of == DEFAULT
    assert result.finals.gap is None
    assert result.best.hyperparameters == {}
    assert result.summary[-1] == (
        "The search gained nothing: no trial was better than the defaults on fresh seeds."
    )


@pytest.mark.parametrize("enqueue", [True, False])
def test_no_configuration_is_run_twice(study, enqueue):
    """Of 0.9 and 0.99, the default, there is one to be compared; so with "default" networks."""
    options = {"ranges": {"gamma": [0.9, 0.99]}, "top": 3, "trials": 8, "enqueue": enqueue}
    result, told = study(lambda drawn, seed: seed / 100_000 + drawn.get("gamma", 0.99), **options)
    params = [one.params for one in result.study.trials]
    assert {"gamma": 0.9} in params
    assert {"gamma": 0.99} in params[1:]
    found = result.finals.candidates
    assert sorted(one.params.get("gamma", 0.99) for one in found) == [0.9, 0.99]
    assert len([line for line in told if line.startswith("choosing: ")]) == 2 * 5


def test_a_study_of_nothing_but_the_defaults_says_why_there_is_no_second_stage(study):
    result, _ = study(lambda drawn, seed: 1.0, trials=1)
    assert result.finals is None
    assert result.summary[-1] == (
        "Best: defaults with 1 over 1 tuning seed: no second stage was run, since no complete "
        "trial differs from the defaults."
    )


def test_nothing_is_chosen_by_nothing(study):
    def score(drawn: Mapping[str, Any], seed: int) -> float:
        if seed == 100_003:
            raise RuntimeError("the simulator is gone")
        return 1.0

    Path("studies/small").mkdir(parents=True)
    Path("studies/small/best.yaml").write_text("of an earlier time")
    error, told = study(score)
    assert isinstance(error, UsageError)
    assert str(error).startswith("nothing was chosen, since every configuration failed on a ")
    assert "choosing, seed 100003: RuntimeError: the simulator is gone" in str(error)
    assert "choosing: defaults, seed 100003: failed: RuntimeError: the simulator is gone" in told
    assert not any(line.startswith("testing") for line in told)
    assert not Path("studies/small/best.yaml").exists()
    report = Path("studies/small/report.md").read_text()
    assert "Nothing was chosen, since each of the 3 configurations failed" in report
    assert "Failed: defaults, choosing, seed 100003: RuntimeError: the simulator is gone." in report


def test_a_candidate_that_fails_is_never_chosen_over_one_that_does_not(study):
    def score(drawn: Mapping[str, Any], seed: int) -> float:
        if drawn and seed == 100_001:
            raise RuntimeError("no")
        return 10.0 if drawn else 1.0

    result, _ = study(score)
    assert result.finals.chosen.of == DEFAULT


def test_defaults_that_fail_in_testing_leave_the_gain_unknown_and_say_so(study):
    def score(drawn: Mapping[str, Any], seed: int) -> float:
        if not drawn and seed == 200_002:
            raise RuntimeError("no luck")
        return 10.0 if drawn else 1.0

    result, _ = study(score)
    report = (result.folder / "report.md").read_text()
    assert result.finals.chosen.of != DEFAULT
    for told in (
        "The defaults failed on the same seeds.",
        "Failed: defaults, testing, seed 200002: RuntimeError: no luck.",
        "What the search gained cannot be said: defaults failed on a testing seed.",
    ):
        assert told in result.summary
        assert told in report


def test_the_gain_is_the_difference_of_the_two_figures_of_the_table(study):
    """With a mean beside interquartile means, one could say plus and the other minus."""
    luck = np.random.default_rng(0).normal(0, 5, 10)

    def score(drawn: Mapping[str, Any], seed: int) -> float:
        lost = 400.0 if drawn and seed == 200_004 else 0.0  # a mean would call it a loss
        return (20.0 if drawn else 0.0) + luck[seed % 10 + (3 if drawn else 0)] - lost

    found = study(score)[0].finals
    tested = [one.estimate("testing").estimate for one in (found.chosen, found.defaults)]
    assert found.gap.estimate == pytest.approx(tested[0] - tested[1])
    scores = [one.scores["testing"] for one in (found.chosen, found.defaults)]
    assert found.gap.estimate == pytest.approx(
        interquartile_mean(scores[0]) - interquartile_mean(scores[1])
    )
    assert found.gap.estimate > 0 > np.mean(scores[0]) - np.mean(scores[1])
    assert found.gap.low < found.gap.estimate < found.gap.high


@pytest.mark.parametrize(
    ("gap", "told"),
    [
        (Interval(5.0, 1.0, 9.0, 0.95, 5), "The search gained 5 over the defaults: .* is above 0"),
        (
            Interval(5.0, -1.0, 9.0, 0.95, 5),
            r"gained nothing that these seeds can show: .* holds 0",
        ),
        (Interval(0.0, 0.0, 0.0, 0.95, 5), "gained nothing that these seeds can show"),
        (Interval(-5.0, -9.0, -1.0, 0.95, 5), "The search lost 5 against the defaults .* below 0"),
        (Interval(5.0, 4.0, 6.0, 0.95, 2), "gain over the defaults is 5, but 2 seeds cannot show"),
    ],
)
def test_the_verdict_is_one_sentence(gap, told):
    scores = {"testing": [1.0] * gap.n}
    both = [Candidate(3, {}, 1.0, scores), Candidate(DEFAULT, {}, 1.0, scores)]
    sentence = verdict(Finals(both, both[0], gap))
    assert re.search(told, sentence)
    assert sentence.endswith(".")


@pytest.mark.parametrize(("seeds", "what"), [(2, "(2 seeds: no interval) (mean)"), (4, "[1, 7]")])
def test_the_figure_to_believe_says_what_it_is(study, seeds, what):
    def score(drawn: Mapping[str, Any], seed: int) -> float:
        return 2.0 * (seed % 10) + 1.0 if drawn else 0.0

    result, _ = study(score, final_seeds=seeds)
    (told,) = [line for line in result.summary if line.startswith("Chosen: ")]
    assert f"On {seeds} seeds that chose nothing it has " in told
    assert what in told
    assert told.endswith(": believe this figure.")
    assert ("cannot show" in result.summary[-1]) == (seeds == 2)


def test_few_seeds_have_no_interval():
    assert interval(Interval(10.66, 9.0, 12.0, 0.95, 2)) == "10.66 (2 seeds: no interval)"
    assert interval(Interval(10.66, np.nan, np.nan, 0.95, 1)) == "10.66 (1 seed: no interval)"
    assert interval(Interval(10.66, 9.0, 12.0, 0.95, 4)) == "10.66 [9, 12]"


def test_the_chosen_configuration_has_a_seed_that_the_study_never_used(study):
    result, _ = study(lambda drawn, seed: 1.0, seed=2)
    assert yaml.safe_load((result.folder / "best.yaml").read_text())["seed"] == 302_000
    options = open_study(result.folder).options
    used = [options.seeds_for(one, 5) for one in (0, 100_000, 200_000)]
    assert all(result.best.seed not in seeds for seeds in used)


def test_a_slow_run_of_the_second_stage_fails_as_a_trial_does():
    few = {"top": 1, "trials": 2, "final_seeds": 1, "evaluations": 2, "eval_episodes": 1}
    options = TuneOptions(**{**OPTIONS, **few})
    tune(TuneOptions(**{**OPTIONS, **few, "top": 0}), tell=lambda line: None)
    told: list[str] = []
    with pytest.raises(UsageError, match=r"nothing was chosen, .* took longer than 1e-06 seconds"):
        tune(replace(options, trial_timeout=1e-6), tell=told.append)
    assert "choosing: defaults, seed 100000: failed: it took longer than 1e-06 seconds" in told


def test_the_report_can_be_defended_alone(study):
    fixed = {"policy_kwargs": {"net_arch": [4]}, "n_steps": 7}
    ranges = {"learning_rate": {"low": 1e-5, "high": 1e-2, "log": True}, "gamma": [0.9, 0.99]}
    result, told = study(
        lambda drawn, seed: 10.0 + seed % 7 if drawn else 1.0,
        hyperparameters=fixed,
        ranges=ranges,
        seeds=3,
        eval_episodes=4,
    )
    report = (result.folder / "report.md").read_text()
    for part in (
        "fixed: policy_kwargs.net_arch=[4], n_steps=7;",
        "- learning_rate: 1e-05 to 0.01, logarithmic",
        "- gamma: one of 0.9, 0.99",
        "sampler random, pruner median, seed 0; the first trial is the default configuration",
        "a run has 100 steps and an evaluation every 10",
        "seeds for tuning: 0 to 2",
        "seeds for choosing: 100000 to 100004; for testing: 200000 to 200004",
        "the mean return of its last 3 evaluations, of 4 episodes each, deterministic; a trial's",
        "Only the figures of the testing seeds are to be believed",
        "89 with 5",
        "5 trials of 3 runs, and 25 further runs: ",
        "optuna ",
        "stable-baselines3 ",
        "The search gained ",
        "it takes 20 complete trials to tell them, and there are 5",
    ):
        assert part in report, part
    assert told[0] == "small: 5 trials of 3 runs and up to 25 further runs, each of 100 steps"


def test_a_pruned_trial_has_no_score_in_the_table_of_trials(study, monkeypatch):
    def score(drawn: Mapping[str, Any], seed: int) -> float:
        return drawn.get("gamma", 0.0)

    study(score, top=0, trials=3)
    opened = open_study(Path("studies/small"))
    trial = opened.study.ask()
    trial.report(77.0, 40)
    opened.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    assert opened.study.trials[-1].value == 77.0  # which is one evaluation, and no score
    write_results(opened, None)
    with Path("studies/small/trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    last = rows[-1]
    assert (last["state"], last["score"]) == ("pruned", "")
    assert (last["pruned_at"], last["last_report"]) == ("40", "77.0")
    assert [row["pruned_at"] for row in rows[:-1]] == ["", "", ""]
    assert all(float(row["score"]) >= 0 for row in rows[:-1])
