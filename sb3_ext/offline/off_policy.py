"""Off-policy evaluation: what a policy would be worth, told from a dataset of another policy's."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_ext.evaluation import Interval
from sb3_ext.offline.bootstrap import ratio_of_means
from sb3_ext.offline.dataset import OfflineDataset
from sb3_ext.offline.fitted_q import fit_q
from sb3_ext.offline.importance import Floats, by_episode, effective_sample_size, log_weights
from sb3_ext.offline.isolation import random_state_kept
from sb3_ext.offline.off_policy_results import METHODS, Estimate, OfflineEvaluation, Told
from sb3_ext.offline.policies import EvaluatedPolicy, SB3Policy, as_policy, rows_of
from sb3_ext.offline.q_functions import NetworkQ, QFunction
from sb3_ext.offline.regression import estimate_behavior

WITH_RATIOS = ("is", "wis", "pdis", "wpdis", "dr", "wdr")
WITH_Q = ("dr", "wdr", "fqe")
N_REFITS = 200
#: Refits of more transitions than these, all together, would take minutes.
MOST_REFITTED = 20_000_000


def evaluate_policy_offline(
    policy: Any,
    dataset: OfflineDataset,
    gamma: float = 0.99,
    methods: Sequence[str] = tuple(METHODS),
    behavior: Any = None,
    *,
    epsilon: float | None = None,
    behavior_epsilon: float | None = None,
    q: QFunction | None = None,
    q_options: Mapping[str, Any] | None = None,
    folds: int = 2,
    bootstrap_cut: bool = True,
    confidence: float = 0.95,
    n_resamples: int = 1999,
    seed: int = 0,
) -> OfflineEvaluation:
    """Estimate a policy's discounted value at the start of an episode, from recorded episodes.

    Importance sampling estimates the return within the recorded steps. Doubly robust estimates and
    fitted Q evaluation add what follows where an episode was cut by a time limit. Intervals are
    bootstrap intervals over episodes; they know nothing of a behaviour policy or a Q function that
    is wrong, except that fitted Q evaluation with tables or linear features is fitted again to each
    resample. That of a network has no interval.

    :param policy: a model or policy of SB3, a function ``(observations, actions) -> log_prob``, or
        an object with ``log_prob`` and ``sample(observations)``
    :param dataset: the episodes
    :param gamma: in [0, 1]; below 1 for methods that fit a Q function
    :param methods: keys of ``METHODS``
    :param behavior: whose episodes they are: None for ``dataset.behavior_log_prob``, a policy as
        above, or ``"estimate"`` to fit one by maximum likelihood
    :param epsilon: of a target policy that is greedy in a Q function
    :param behavior_epsilon: the same of the behaviour
    :param q: for doubly robust estimates and fitted Q evaluation; None fits one
    :param q_options: for :func:`sb3_ext.offline.fitted_q.fit_q`
    :param folds: doubly robust estimates judge each fold by a Q that was fitted on the others, so
        that it knows nothing of their luck; 1 fits one Q on all
    :param bootstrap_cut: whether doubly robust estimates add the value where an episode was cut
    :param seed: of resamples, folds, fits and sampled actions; global generators are left alone
    :raises TypeError: for a policy without what a method needs
    :raises ValueError: for unknown methods, a missing behaviour, and spaces that do not fit
    """
    methods = _require_methods(methods)
    told = Told()
    if not isinstance(dataset, OfflineDataset):
        raise TypeError(
            f"dataset must be an OfflineDataset, got {type(dataset).__name__}: "
            "sb3_ext.offline.load_dataset reads one from a file"
        )
    if epsilon is None and not any(method in WITH_RATIOS for method in methods):
        epsilon = 0.0  # no probability is asked for: the greedy policy is judged as it is
    target = as_policy(policy, dataset, epsilon=epsilon)
    ends = np.append(dataset.episode_starts[1:], len(dataset)) - 1
    cut = ~dataset.terminated[ends]
    options = dict(q_options or {})
    if "seed" not in options and options.get("model") == "network":
        options["seed"] = seed
    estimates: dict[str, Estimate] = {}
    size = ratio = float("nan")
    source = "not needed"
    with random_state_kept(seed), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if any(method in WITH_RATIOS for method in methods):
            behavior_log_prob, source = _behavior(
                behavior, behavior_epsilon, target, dataset, seed, told
            )
            flat = target.log_prob(dataset.observations, dataset.actions) - behavior_log_prob
            ratio = _judge_ratios(flat, told)
            starts = dataset.episode_starts
            data = {
                "rewards": by_episode(dataset.rewards, starts),
                "log_ratios": by_episode(flat, starts),
            }
            size = effective_sample_size(log_weights(data["log_ratios"])[:, -1])
            _judge_size(size, dataset.n_episodes, told)
            if "dr" in methods or "wdr" in methods:
                data |= _values(target, dataset, gamma, q, options, folds, bootstrap_cut, seed)
            for method in methods:
                if method not in WITH_RATIOS:
                    continue
                beyond = method in WITH_Q and bootstrap_cut
                used = data if method in WITH_Q else {key: data[key] for key in _RATIO_DATA}
                try:
                    interval = ratio_of_means(method, gamma=gamma, **used).interval(
                        confidence, n_resamples, seed
                    )
                except OverflowError as error:
                    told.note(f"{METHODS[method]}: {error}", alarm=True)
                    interval = _no_interval(np.nan, confidence, dataset)
                estimates[method] = Estimate(method, interval, beyond)
        if "fqe" in methods:
            estimates["fqe"] = Estimate(
                "fqe",
                _fitted(target, dataset, gamma, q, options, confidence, seed, told),
                True,
            )
    for one in caught:
        told.note(str(one.message), alarm=True)
    if cut.any():
        _explain_cuts(dataset, cut, gamma, told)
    for words in told.alarms:
        warnings.warn(words, stacklevel=2)
    return OfflineEvaluation(
        tuple(estimates[method] for method in methods),
        gamma,
        dataset.n_episodes,
        int(cut.sum()),
        size,
        ratio,
        source,
        tuple(told.notes),
    )


_RATIO_DATA = ("rewards", "log_ratios")


def _require_methods(methods: Sequence[str]) -> tuple[str, ...]:
    chosen = (methods,) if isinstance(methods, str) else tuple(dict.fromkeys(methods))
    if unknown := [one for one in chosen if one not in METHODS]:
        raise ValueError(f"there are no methods {unknown}; there are {list(METHODS)}")
    if not chosen:
        raise ValueError(f"name at least one method of {list(METHODS)}")
    return chosen


def _behavior(
    behavior: Any,
    epsilon: float | None,
    target: EvaluatedPolicy,
    dataset: OfflineDataset,
    seed: int,
    told: Told,
) -> tuple[Floats, str]:
    """The log probabilities of the recorded actions, and where they are from."""
    if behavior is None:
        if dataset.behavior_log_prob is None:
            raise ValueError(
                "the dataset does not know how probable its actions were: pass behavior= the "
                'policy that recorded it, behavior="estimate" to fit one, or methods=("fqe",), '
                "which needs none"
            )
        _explain_bounds(target, dataset, told)
        return dataset.behavior_log_prob.astype(np.float64), "the dataset's probabilities"
    if isinstance(behavior, str):
        if behavior != "estimate":
            raise ValueError(f'behavior must be a policy or "estimate", got {behavior!r}')
        fitted = estimate_behavior(dataset, seed=seed)
        told.note(
            "the behaviour was estimated from these data; the intervals do not contain that error"
        )
        acting, source = fitted, f"estimated ({type(fitted).__name__})"
    else:
        acting = as_policy(behavior, dataset, epsilon=epsilon, argument="behavior_epsilon")
        source = acting.name
    found = acting.log_prob(dataset.observations, dataset.actions)
    if impossible := int((found == -np.inf).sum()):
        raise ValueError(
            f"the behaviour never takes the actions of {impossible} of {len(dataset)} transitions, "
            "so these are not its episodes; for a greedy policy, behavior_epsilon= is how often it "
            "acted at random"
        )
    _judge_support(target, acting, dataset, told)
    return found, source


def _judge_support(
    target: EvaluatedPolicy, acting: EvaluatedPolicy, dataset: OfflineDataset, told: Told
) -> None:
    """How often the target takes what the behaviour never does, where that can be listed."""
    if not isinstance(dataset.action_space, spaces.Discrete):
        return
    rows = np.linspace(0, len(dataset) - 1, min(len(dataset), 50_000)).astype(int)
    observations = rows_of(dataset.observations, rows)
    wanted, there = target.probabilities(observations), acting.probabilities(observations)
    missing = float(np.where(there > 0, 0.0, wanted).sum(axis=1).mean())
    if missing > 1e-6:
        told.note(
            f"support is missing: {missing:.1%} of what the policy does, the behaviour never does. "
            "Importance sampling takes its value for 0",
            alarm=True,
        )


def _judge_ratios(log_ratios: Floats, told: Told) -> float:
    """The mean ratio, whose expectation is 1 in every state if the behaviour may do anything."""
    with np.errstate(over="ignore"):
        ratios = np.exp(np.minimum(log_ratios, 300.0))
    mean = float(ratios.mean())
    error = float(ratios.std()) / np.sqrt(len(ratios))
    if mean + 4 * error < 0.95 and not any("support" in one for one in told.notes):
        told.note(
            f"the mean ratio is {mean:.2g} and should be 1: support is missing, that is, the "
            "policy does what the behaviour never did in these data, or hardly ever",
            alarm=True,
        )
    if mean - 4 * error > 1.05:
        told.note(
            f"the mean ratio is {mean:.2g} and should be 1: the behaviour's probabilities are "
            "not those of these data",
            alarm=True,
        )
    return mean


def _judge_size(size: float, episodes: int, told: Told) -> None:
    if size < min(10.0, episodes / 2):
        told.note(
            f"weights leave an effective sample of {size:.1f} of {episodes} episodes: estimates "
            "and intervals of importance sampling rest on these few, and are not to be trusted",
            alarm=True,
        )


def _values(
    target: EvaluatedPolicy,
    dataset: OfflineDataset,
    gamma: float,
    q: QFunction | None,
    options: Mapping[str, Any],
    folds: int,
    bootstrap_cut: bool,
    seed: int,
) -> dict[str, Floats]:
    """Q of the actions taken ``[E, T]`` and V ``[E, T + 1]``, of each fold by another's Q."""
    if folds < 1:
        raise ValueError(f"folds must be at least 1, got {folds}")
    n, lengths = dataset.n_episodes, dataset.lengths()
    folds = 1 if q is not None else min(folds, n)
    fold = np.random.default_rng(seed).permutation(n) % folds
    taken, value, after = np.zeros(len(dataset)), np.zeros(len(dataset)), np.zeros(n)
    for one in range(folds):
        inside = np.flatnonzero(fold == one)
        others = dataset if folds == 1 else dataset.subset(episodes=np.flatnonzero(fold != one))
        judge = q if q is not None else fit_q(target, others, gamma, **options)
        rows = np.flatnonzero(np.repeat(fold == one, lengths))
        states = rows_of(dataset.observations, rows)
        taken[rows] = judge.q(states, dataset.actions[rows])
        value[rows] = judge.value(states)
        last = (dataset.episode_starts + lengths - 1)[inside]
        beyond = judge.value(rows_of(dataset.next_observations, last))
        after[inside] = np.where(dataset.terminated[last], 0.0, beyond)
    starts = dataset.episode_starts
    values = by_episode(value, starts)
    values = np.append(values, np.zeros((n, 1)), axis=1)
    if bootstrap_cut:
        values[np.arange(n), lengths] = after
    return {"q_taken": by_episode(taken, starts), "values": values}


def _fitted(
    target: EvaluatedPolicy,
    dataset: OfflineDataset,
    gamma: float,
    q: QFunction | None,
    options: Mapping[str, Any],
    confidence: float,
    seed: int,
    told: Told,
) -> Interval:
    """The mean of V over the recorded starts, fitted again to resamples where that is cheap."""
    starts = rows_of(dataset.observations, dataset.episode_starts)
    fitted = q if q is not None else fit_q(target, dataset, gamma, **options)
    estimate = float(fitted.value(starts).mean())
    costly = isinstance(fitted, NetworkQ) or len(dataset) * N_REFITS > MOST_REFITTED
    if q is not None or costly or dataset.n_episodes < 2:
        told.note("fitted Q evaluation has no interval: that would need many fits")
        return _no_interval(estimate, confidence, dataset)
    generator, n, found = np.random.default_rng(seed), dataset.n_episodes, []
    for _ in range(N_REFITS):
        counts = generator.multinomial(n, np.full(n, 1 / n))
        weights = np.repeat(counts, dataset.lengths())
        again = fit_q(target, dataset, gamma, row_weights=weights, **options)
        found.append(np.average(again.value(starts), weights=counts))
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(estimate, float(low), float(high), confidence, n)


def _no_interval(estimate: float, confidence: float, dataset: OfflineDataset) -> Interval:
    return Interval(estimate, np.nan, np.nan, confidence, dataset.n_episodes)


def _explain_cuts(dataset: OfflineDataset, cut: Any, gamma: float, told: Told) -> None:
    beyond = float(np.mean(float(gamma) ** dataset.lengths()[cut]))
    told.note(
        f"{int(cut.sum())} of {dataset.n_episodes} episodes were cut, by a time limit or the end "
        "of the data. Importance sampling estimates the return within the recorded steps; what "
        f"follows a cut would weigh gamma ** T = {beyond:.2g} (mean)"
    )


def _explain_bounds(target: EvaluatedPolicy, dataset: OfflineDataset, told: Told) -> None:
    space = dataset.action_space
    if not isinstance(space, spaces.Box) or not isinstance(target, SB3Policy):
        return
    if target.policy.squash_output:
        return
    on = (dataset.actions <= space.low) | (dataset.actions >= space.high)
    share = float(on.reshape(len(dataset), -1).any(axis=1).mean())
    if share > 0:
        told.note(
            f"{share:.1%} of the actions lie on a bound, where clipping puts them. There, the "
            "dataset's behavior_log_prob must be the log of the probability of being clipped, "
            "not of a density beyond the bound"
        )
