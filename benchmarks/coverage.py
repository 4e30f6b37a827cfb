"""How often do our "95 %" intervals hold the truth? Where it is known, by repeated draws.

    python benchmarks/coverage.py policies      # off-policy evaluation, on the tests' tabular MDP
    python benchmarks/coverage.py seeds         # the gain of a study's second stage

``policies`` draws datasets of a three-state MDP whose values linear algebra gives, and evaluates
another policy on each. ``seeds`` draws normal scores for two configurations with the same seeds,
and asks the interval of the gain between them. Everything is seeded.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

from sb3_ext.offline.off_policy import evaluate_policy_offline
from sb3_ext.offline.policies import as_policy
from sb3_ext.offline.q_functions import TabularQ
from sb3_ext.tuning.finals import Candidate, gain

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the MDP that the tests hold
from tests.offline.tabular import BEHAVIOR, TARGET, TabularMDP

METHODS = ("is", "wis", "pdis", "wpdis", "dr", "wdr")


def policies(draws: int, n_episodes: int, horizon: int) -> None:
    """Print the share of datasets whose interval holds the policy's value, by method."""
    warnings.simplefilter("ignore")  # of few effective episodes, which is the point
    mdp = TabularMDP(gamma=0.8)
    log_target = np.log(TARGET)

    def target(observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        return log_target[observations, actions]

    within, beyond = mdp.value(TARGET, horizon), mdp.value(TARGET)
    held: Counter[str] = Counter()
    for draw in range(draws):
        episodes = mdp.sample(BEHAVIOR, n_episodes, horizon, np.random.default_rng(draw))
        data = mdp.dataset(episodes)
        exact = TabularQ(mdp.q(TARGET), data, as_policy(target, data))
        found = evaluate_policy_offline(target, data, mdp.gamma, METHODS, q=exact, seed=draw)
        for one in found.estimates:
            truth = beyond if one.beyond_the_cut else within
            held[one.method] += one.interval.low <= truth <= one.interval.high
    print(f"{draws} datasets of {n_episodes} episodes of at most {horizon} steps, gamma 0.8\n")
    print("| method | held the truth |\n| --- | --: |")
    for method in METHODS:
        print(f"| {method} | {held[method] / draws:.0%} |")


def seeds(draws: int) -> None:
    """Print the share of gains whose interval holds the true one, by the number of seeds."""
    rng = np.random.default_rng(0)
    print(f"normal scores of two configurations, {draws} draws; the true gain is 0\n")
    print("| seeds | held the truth |\n| --: | --: |")
    for count in (4, 5, 10):
        held = 0
        for _ in range(draws):
            mine, theirs = (
                Candidate(of, {}, None, {"testing": rng.normal(size=count).tolist()})
                for of in (0, -1)
            )
            interval = gain(mine, theirs)
            assert interval is not None
            held += interval.low <= 0.0 <= interval.high
        print(f"| {count} | {held / draws:.0%} |")


def main() -> None:
    """One of the two."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("policies", "seeds"))
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--episodes", type=int, default=60)
    parser.add_argument("--horizon", type=int, default=4)
    arguments = parser.parse_args()
    if arguments.what == "policies":
        policies(arguments.draws, arguments.episodes, arguments.horizon)
    else:
        seeds(arguments.draws)


if __name__ == "__main__":
    main()
