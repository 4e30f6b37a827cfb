"""Off-policy evaluation of whole policies on whole datasets, against exact values."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import stable_baselines3 as sb3

from sb3_ext.offline.bootstrap import MOST_EPISODES_FOR_BCA, RatioOfMeans, ratio_of_means
from sb3_ext.offline.importance import doubly_robust, importance_sampling, per_decision
from sb3_ext.offline.off_policy import evaluate_policy_offline
from sb3_ext.offline.off_policy_results import METHODS
from sb3_ext.offline.policies import as_policy
from sb3_ext.offline.q_functions import TabularQ
from tests.environments import make_env
from tests.offline.recorded import record
from tests.offline.tabular import BEHAVIOR, TARGET, Episode, TabularMDP

MDP = TabularMDP(gamma=0.8)
HORIZON = 4
LOG_TARGET, LOG_BEHAVIOR = np.log(TARGET), np.log(BEHAVIOR)


def target(observations, actions):
    return LOG_TARGET[observations, actions]


def behavior(observations, actions):
    return LOG_BEHAVIOR[observations, actions]


def episodes(n: int, seed: int = 0):
    return MDP.sample(BEHAVIOR, n, HORIZON, np.random.default_rng(seed))


def evaluate(data, methods=tuple(METHODS), policy=target, **options):
    return evaluate_policy_offline(
        policy, data, MDP.gamma, methods, **{"n_resamples": 99, **options}
    )


def test_all_methods_find_the_values_of_a_tabular_mdp():
    """Within the recorded steps, or beyond the cut: each what it says."""
    result = evaluate(MDP.dataset(episodes(3000)))
    within, beyond = MDP.value(TARGET, HORIZON), MDP.value(TARGET)
    assert abs(within - beyond) > 0.3, "or the two could not be told apart"
    assert abs(MDP.value(BEHAVIOR, HORIZON) - within) > 0.3
    for one in result.estimates:
        assert one.beyond_the_cut == (one.method in ("dr", "wdr", "fqe"))
        truth = beyond if one.beyond_the_cut else within
        width = one.interval.high - one.interval.low
        assert abs(one.value - truth) < width, one  # twice the margin of 95 %
        assert 0 < width < 0.6
        assert result[one.method] is one
    # What doubly robust estimates are for.
    width = {one.method: one.interval.high - one.interval.low for one in result.estimates}
    assert width["dr"] < width["pdis"] < width["is"]


def test_doubly_robust_within_the_recorded_steps():
    data = MDP.dataset(episodes(3000))
    result = evaluate(data, ["dr", "pdis"], bootstrap_cut=False)
    assert not result["dr"].beyond_the_cut
    assert result["dr"].value == pytest.approx(MDP.value(TARGET, HORIZON), abs=0.15)


def test_a_q_of_one_s_own_is_used_for_both():
    data = MDP.dataset(episodes(50))
    wrong = TabularQ(np.full((3, 2), 7.0), data, as_policy(target, data))
    result = evaluate(data, ["dr", "wdr", "fqe"], q=wrong)
    assert result["fqe"].value == pytest.approx(7)
    arrays = MDP.arrays(episodes(50), BEHAVIOR, TARGET, np.full((3, 2), 7.0))
    expected = doubly_robust(**arrays, gamma=MDP.gamma).mean()
    assert result["dr"].value == pytest.approx(expected, rel=1e-5)


def test_each_fold_is_judged_by_a_q_that_has_not_seen_it():
    """Two episodes of one step, rewards 1 and 2: a Q of the other episode says 0 of either."""
    data = MDP.dataset([Episode(np.nan, [s], [s], True, s) for s in (0, 1)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what so few data leave open
        apart, together = (evaluate(data, ["dr"], folds=folds)["dr"].value for folds in (2, 1))
    ratios = TARGET[[0, 1], [0, 1]] / BEHAVIOR[[0, 1], [0, 1]]
    assert apart == pytest.approx((ratios * [1, 2]).mean())
    # Of itself it knows all, so that nothing is left to correct: V(s) = pi(a|s) * r.
    assert together == pytest.approx((TARGET[[0, 1], [0, 1]] * [1, 2]).mean())


# -- where the behaviour's probabilities are from --------------------------------------------------


def test_a_behaviour_policy_is_as_good_as_recorded_probabilities():
    made = episodes(200)
    known = evaluate(MDP.dataset(made), ["is", "wpdis"])
    told = evaluate(MDP.dataset(made, None), ["is", "wpdis"], behavior=behavior)
    for method in ("is", "wpdis"):
        assert told[method].value == pytest.approx(known[method].value, rel=1e-5)
    assert told.behavior == "behavior" and "dataset's" in known.behavior
    with pytest.raises(ValueError, match=r"does not know how probable.*behavior=\"estimate\""):
        evaluate(MDP.dataset(made, None), ["is"])
    alone = evaluate(MDP.dataset(made, None), ["fqe"])
    assert np.isnan(alone.effective_sample_size) and alone.behavior == "not needed"


def test_an_estimated_behaviour_says_so():
    made = episodes(2000)
    result = evaluate(MDP.dataset(made, None), ["pdis"], behavior="estimate")
    assert any("estimated from these data" in note for note in result.notes)
    assert "estimated" in result.behavior
    assert result["pdis"].value == pytest.approx(MDP.value(TARGET, HORIZON), abs=0.25)
    with pytest.raises(ValueError, match=r'a policy or "estimate", got \'guess\''):
        evaluate(MDP.dataset(made, None), ["pdis"], behavior="guess")


def test_a_behaviour_that_could_not_have_done_it_is_refused():
    def never_one(observations, actions):
        return np.where(actions == 1, -np.inf, 0.0)

    with pytest.raises(ValueError, match=r"never takes the actions of \d+ of \d+ transitions"):
        evaluate(MDP.dataset(episodes(20)), ["is"], behavior=never_one)


def test_wrong_probabilities_of_the_behaviour_show_in_the_mean_ratio():
    data = MDP.dataset(episodes(500), behavior_log_prob=np.full(10_000, -3.0)[: _length(500)])
    with pytest.warns(UserWarning, match="should be 1: the behaviour's probabilities are not"):
        evaluate(data, ["wis"])


def _length(n: int) -> int:
    return sum(len(one.actions) for one in episodes(n))


# -- how far to trust ------------------------------------------------------------------------------


def test_missing_support_is_told_of_policies_and_of_recorded_probabilities():
    timid = np.array([[1.0, 0.0], [0.7, 0.3], [0.4, 0.6]])  # never action 1 in state 0
    made = MDP.sample(timid, 500, HORIZON, np.random.default_rng(0))
    with np.errstate(divide="ignore"):
        logs = np.log(timid)
    acting = lambda states, actions: logs[states, actions]  # noqa: E731
    data = MDP.dataset(made, None)
    share = (0.2 * (data.observations == 0)).mean()
    with pytest.warns(UserWarning, match=f"support is missing: {share:.1%} of what the policy"):
        evaluate(data, ["wis"], behavior=acting)
    bold = lambda s, a: np.log(np.array([[0.1, 0.9]] * 3))[s, a]  # noqa: E731
    with pytest.warns(UserWarning, match=r"mean ratio is 0\.\d+ and should be 1: support is mis"):
        evaluate(MDP.dataset(made, timid), ["wis"], policy=bold)


def test_few_effective_episodes_are_told():
    far = lambda s, a: np.log(np.array([[0.01, 0.99]] * 3))[s, a]  # noqa: E731
    with pytest.warns(UserWarning, match=r"effective sample of \d\.\d of 40 episodes"):
        result = evaluate(MDP.dataset(episodes(40)), ["wis"], policy=far)
    assert result.effective_sample_size < 10


def test_cuts_are_explained_with_the_weight_of_what_follows():
    result = evaluate(MDP.dataset(episodes(50)), ["is"])
    (note,) = (one for one in result.notes if "were cut" in one)
    assert f"{0.8**HORIZON:.2g}" in note and f"{result.n_cut} of 50" in note
    assert result.n_cut == sum(not one.terminated for one in episodes(50))


def test_the_table_says_what_each_number_is():
    result = evaluate(MDP.dataset(episodes(50)))
    text = str(result)
    for method, name in METHODS.items():
        (line,) = (one for one in text.splitlines() if one.startswith(f"  {name} "))
        assert f"{result[method].value:.4g}" in line
        beyond = method in ("dr", "wdr", "fqe")
        assert line.endswith("with what follows a cut" if beyond else "within recorded steps")
    assert f"effective sample size {result.effective_sample_size:.1f} of 50" in text
    assert [row["method"] for row in result.rows()] == list(METHODS)
    with pytest.raises(KeyError, match="'magic' is none of"):
        result["magic"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"methods": ["magic"]}, r"no methods \['magic'\]"),
        ({"methods": []}, "at least one method"),
        ({"methods": "dr", "folds": 0}, "folds must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        evaluate(MDP.dataset(episodes(5)), **options)


# -- intervals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["is", "wis", "pdis", "wpdis", "dr", "wdr"])
def test_the_form_for_the_bootstrap_is_the_estimator_itself(method):
    arrays = MDP.arrays(episodes(30), BEHAVIOR, TARGET, MDP.q(TARGET) + 0.5)
    short = {key: arrays[key] for key in ("rewards", "log_ratios")}
    normalize = method.startswith("w")
    if method.endswith("dr"):
        expected = doubly_robust(**arrays, gamma=0.8, normalize=normalize)
    else:
        estimator = importance_sampling if method.endswith("is") else None
        estimator = per_decision if method.endswith("pdis") else estimator
        expected = estimator(**short, gamma=0.8, normalize=normalize)
    form = ratio_of_means(method, gamma=0.8, **arrays)
    assert form.estimate() == pytest.approx(expected.mean(), rel=1e-12)
    # A resample is the same as those episodes repeated.
    drawn = np.array([0, 0, 3, 29])
    counts = np.bincount(drawn, minlength=30).astype(float)
    again = ratio_of_means(method, gamma=0.8, **{key: one[drawn] for key, one in arrays.items()})
    assert form.estimates(counts[None])[0] == pytest.approx(again.estimate(), rel=1e-12)
    assert form._of_indices(drawn, axis=0) == pytest.approx(again.estimate(), rel=1e-12)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    truth, held = MDP.value(TARGET, HORIZON), {"pdis": 0, "wpdis": 0}
    q = np.zeros((3, 2))
    for seed in range(150):
        arrays = MDP.arrays(episodes(60, seed), BEHAVIOR, TARGET, q)
        for method in held:
            interval = ratio_of_means(method, gamma=0.8, **arrays).interval(0.9, 299, seed)
            held[method] += interval.low <= truth <= interval.high
    # 90 %, give or take 3 standard errors of 150 draws and what skewness takes away.
    assert all(0.8 <= count / 150 <= 0.97 for count in held.values()), held


def test_many_episodes_get_percentiles():
    """Of a mean of normal numbers, they are known: 1.96 standard errors."""
    n = MOST_EPISODES_FOR_BCA + 500
    numbers = np.random.default_rng(0).normal(3, 2, (n, 1))
    interval = RatioOfMeans(numbers, np.ones((n, 1))).interval(0.95, 2000, 0)
    margin = 1.96 * numbers.std() / np.sqrt(n)
    assert interval.estimate == pytest.approx(numbers.mean())
    assert interval.low == pytest.approx(numbers.mean() - margin, abs=0.1 * margin)
    assert interval.high == pytest.approx(numbers.mean() + margin, abs=0.1 * margin)


def test_the_same_seed_gives_the_same_numbers_and_global_generators_are_left_alone():
    data = MDP.dataset(episodes(40))
    np.random.seed(5)
    rows = [evaluate(data, seed=seed).rows() for seed in (1, 1, 2)]
    assert rows[0] == rows[1] != rows[2]
    drawn = np.random.random()
    np.random.seed(5)
    assert drawn == np.random.random()


# -- SB3's models ----------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["PPO", "SAC"])
def test_a_policy_that_is_its_own_behaviour_has_weights_of_one(algorithm):
    options = {"n_steps": 8, "batch_size": 8} if algorithm == "PPO" else {}
    model = getattr(sb3, algorithm)(
        "MlpPolicy", make_env(), policy_kwargs={"net_arch": [8]}, seed=0, device="cpu", **options
    )
    data = record(n=200, policy=lambda seen: model.predict(seen)[0])
    result = evaluate_policy_offline(
        model, data, 0.9, ["is", "wis", "pdis", "wpdis"], behavior=model, n_resamples=99
    )
    assert result.effective_sample_size == pytest.approx(data.n_episodes)
    discounts = [0.9 ** np.arange(n) for n in data.lengths()]
    returns = np.add.reduceat(data.rewards * np.concatenate(discounts), data.episode_starts)
    for one in result.estimates:
        assert one.value == pytest.approx(returns.mean(), rel=1e-6)


def test_a_deterministic_policy_has_fitted_q_evaluation():
    model = sb3.TD3("MlpPolicy", make_env(), policy_kwargs={"net_arch": [8]}, device="cpu")
    data = record(n=200)
    with pytest.raises(TypeError, match="TD3Policy is deterministic"):
        evaluate_policy_offline(model, data, methods=["is"], behavior="estimate")
    options = {"model": "network", "n_steps": 30, "net_arch": (8,)}
    result = evaluate_policy_offline(model, data, methods="fqe", q_options=options)
    assert np.isfinite(result["fqe"].value) and np.isnan(result["fqe"].interval.low)
    assert any("no interval" in note for note in result.notes)
    assert "no interval" in str(result)


def test_weights_that_leave_floating_point_give_words_and_no_number():
    n = 2000
    data = record(n=n, discrete=True, behavior_log_prob=np.full(n, -60.0))
    data = type(data)(
        **{**vars(data), "terminated": np.zeros(n, bool), "truncated": np.arange(n) == n - 1,
           "episode_starts": np.array([0])},
    )  # fmt: skip
    uniform = lambda s, a: np.full(len(a), -np.log(3))  # noqa: E731
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = evaluate_policy_offline(uniform, data, methods=["is", "wis"])
    assert np.isnan(result["is"].value) and np.isfinite(result["wis"].value)
    assert any("too far apart" in str(one.message) for one in caught)
