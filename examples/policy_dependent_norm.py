"""Why weigh the replay towards the current policy? The policy-dependent norm, on small chains.

Sinha, Song, Garg and Ermon, "Experience Replay with Likelihood-free Importance Weights" (L4DC
2022), prove that the Bellman operator of a policy contracts at rate gamma in the norm weighted with
that policy's own distribution d, and in no other d-weighted norm. On a finite chain the rate in
any norm ||x||_d = sqrt(sum_i d_i x_i^2) is an exact number, so the theorem can be computed:

    modulus(d) = gamma * || D^(1/2) P D^(-1/2) ||_2,    D = diag(d), largest singular value

A "state" of the chain is a state-action pair; P says where each pair goes next under the policy.
Two readings of the paper are made precise here:

* its proof needs d = d P, the *undiscounted stationary* distribution. For the normalised discounted
  occupancy only sqrt(gamma) is certain, as there d P <= d / gamma;
* "if and only if d = d_pi" means: d is *a* stationary distribution (a reducible chain has many).

    python examples/policy_dependent_norm.py   # the table and a plot; see --help
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

TOLERANCE = 1e-8


def bellman_modulus(
    transition: npt.ArrayLike,
    distribution: npt.ArrayLike,
    gamma: float,
    *,
    allow_termination: bool = False,
) -> float:
    """The rate of the Bellman operator B: the least c with ||B x - B y||_d <= c ||x - y||_d.

    It equals gamma exactly where ``distribution`` is stationary, and is larger everywhere else
    (Sinha et al., L4DC 2022, theorem on the policy-dependent norm). Above 1 the operator does not
    contract in this norm, though it always does in the maximum norm.

    :param transition: P, shape [n, n]; row i is where pair i goes next.
    :param distribution: d, shape [n]; the weights of the norm, all above 0.
    :param gamma: discount factor in [0, 1).
    :param allow_termination: accept rows that sum to less than 1; the missing mass ends the episode
        and bootstraps nothing. With d stationary for ``reset_chain`` the modulus is at most gamma.
    :raises ValueError: in words, when an argument breaks one of these rules.
    """
    p = _transition(transition, allow_termination)
    d = _probabilities("distribution", distribution, len(p), positive=True)
    root = np.sqrt(d)
    return _discount(gamma) * float(np.linalg.norm(root[:, None] * p / root[None, :], ord=2))


def stationary_distribution(transition: npt.ArrayLike) -> Array:
    """The d with d = d P and sum(d) = 1, shape [n]: where the chain is in the long run.

    Sinha et al. (L4DC 2022) write d_pi for the unnormalised discounted occupancy; the proof of
    their theorem uses d = d P, which is this one.

    :param transition: P, shape [n, n], rows sum to 1.
    :raises ValueError: when P is no transition matrix, or has several stationary distributions.
    """
    p = _transition(transition, allow_termination=False)
    _, singular, right = np.linalg.svd(p.T - np.eye(len(p)))
    n_solutions = int(np.sum(singular < TOLERANCE))
    if n_solutions > 1:
        raise ValueError(
            f"transition must have one stationary distribution, got {n_solutions} independent ones "
            "(the chain falls apart into closed classes); pass one class at a time"
        )
    d: Array = np.clip(right[-1] / right[-1].sum(), 0.0, None)
    return d


def discounted_occupancy(transition: npt.ArrayLike, start: npt.ArrayLike, gamma: float) -> Array:
    """The normalised discounted visits (1 - gamma) * sum_t gamma^t start P^t, shape [n], sum 1.

    This is the distribution that Sinha et al. (L4DC 2022) define, divided by its sum. Since
    d = (1 - gamma) start + gamma d P, we have d P <= d / gamma: a modulus of at most sqrt(gamma).

    :param transition: P, shape [n, n], rows sum to 1.
    :param start: distribution of the first pair, shape [n]; zeros are welcome.
    :param gamma: discount factor in [0, 1).
    :raises ValueError: in words, when an argument breaks one of these rules.
    """
    p = _transition(transition, allow_termination=False)
    first = _probabilities("start", start, len(p), positive=False)
    discount = _discount(gamma)
    visits = np.linalg.solve(np.eye(len(p)) - discount * p.T, first)
    d: Array = (1.0 - discount) * np.clip(visits, 0.0, None)
    return d


def reset_chain(transition: npt.ArrayLike, start: npt.ArrayLike) -> Array:
    """The chain of an episodic task that starts anew after every end, shape [n, n], rows sum to 1.

    :param transition: P, shape [n, n]; rows may sum to less than 1, the rest ends the episode.
    :param start: distribution of the first pair of an episode, shape [n].
    :raises ValueError: in words, when an argument breaks one of these rules.
    """
    p = _transition(transition, allow_termination=True)
    first = _probabilities("start", start, len(p), positive=False)
    chain: Array = p + (1.0 - p.sum(axis=1))[:, None] * first[None, :]
    return chain


def weighted_td(
    transition: npt.ArrayLike,
    rewards: npt.ArrayLike,
    gamma: float,
    *,
    features: npt.ArrayLike,
    replay: npt.ArrayLike,
    target: npt.ArrayLike,
    learning_rate: float,
    n_updates: int,
    batch_size: int = 32,
    n_runs: int = 50,
    seed: int = 0,
) -> Array:
    """TD from values 0 on batches drawn from ``replay``, samples weighted with target / replay.

    :param transition: P, shape [n, n], rows sum to 1.
    :param rewards: shape [n].
    :param features: shape [n, k]; values are features @ parameters. The identity makes a table.
    :param replay: where the samples come from, shape [n], all above 0.
    :param target: the distribution that the weights imitate, shape [n].
    :return: || values - true values || in the norm of the stationary distribution, shape
        [n_updates + 1, n_runs], divided by its first row.
    :raises ValueError: in words, when an argument breaks one of these rules.
    """
    p = _transition(transition, allow_termination=False)
    n = len(p)
    discount = _discount(gamma)
    drawn_from = _probabilities("replay", replay, n, positive=True)
    weights = _probabilities("target", target, n, positive=False) / drawn_from
    reward, phi = np.asarray(rewards, dtype=np.float64), np.asarray(features, dtype=np.float64)
    if reward.shape != (n,) or phi.ndim != 2 or len(phi) != n:
        raise ValueError(
            f"rewards must have shape [{n}] and features [{n}, k], got {list(reward.shape)} and "
            f"{list(phi.shape)}"
        )
    d = stationary_distribution(p)
    true_values = np.linalg.solve(np.eye(n) - discount * p, reward)
    rng = np.random.default_rng(seed)
    theta = np.zeros((n_runs, phi.shape[1]))
    errors: Array = np.empty((n_updates + 1, n_runs))
    cumulative = np.cumsum(p, axis=1)
    for update in range(n_updates + 1):
        values = theta @ phi.T  # [runs, n]
        errors[update] = np.sqrt(((values - true_values) ** 2) @ d)
        at = rng.choice(n, size=(n_runs, batch_size), p=drawn_from)
        draw = rng.random((n_runs, batch_size, 1))
        to = np.minimum((draw > cumulative[at]).sum(axis=-1), n - 1)
        run = np.arange(n_runs)[:, None]
        td_error = reward[at] + discount * values[run, to] - values[run, at]
        theta += learning_rate * np.mean((weights[at] * td_error)[..., None] * phi[at], axis=1)
    errors /= errors[0].copy()
    return errors


def _transition(transition: npt.ArrayLike, allow_termination: bool) -> Array:
    p = np.asarray(transition, dtype=np.float64)
    if p.ndim != 2 or p.shape[0] != p.shape[1] or p.size == 0:
        raise ValueError(f"transition must have shape [n, n], got {list(p.shape)}")
    if not np.isfinite(p).all() or (p < 0).any():
        raise ValueError(f"transition must hold probabilities, got values down to {p.min():g}")
    sums = p.sum(axis=1)
    if (sums > 1 + TOLERANCE).any() or (not allow_termination and (sums < 1 - TOLERANCE).any()):
        row = int(np.argmax(np.abs(sums - 1)))
        rule = "to at most 1" if allow_termination else "to 1"
        raise ValueError(f"every row of transition must sum {rule}, got {sums[row]:g} in row {row}")
    return p


def _probabilities(name: str, values: npt.ArrayLike, size: int, *, positive: bool) -> Array:
    d = np.asarray(values, dtype=np.float64)
    if d.shape != (size,):
        raise ValueError(f"{name} must have shape [{size}] as transition has, got {list(d.shape)}")
    if not np.isfinite(d).all() or (d < 0).any() or (positive and (d <= 0).any()):
        bound = "above 0 everywhere" if positive else "nowhere below 0"
        why = "; with a zero the weighted norm is no norm" if positive else ""
        raise ValueError(f"{name} must be {bound}, got {d.tolist()}{why}")
    if abs(d.sum() - 1) > TOLERANCE:
        raise ValueError(f"{name} must sum to 1, got {d.sum():g}; divide it by its sum")
    return d


def _discount(gamma: float) -> float:
    if not 0 <= gamma < 1:
        raise ValueError(f"gamma must be in [0, 1), got {gamma:g}")
    return float(gamma)


@dataclass(frozen=True)
class Row:
    """One line of the table: a chain, a weighting of the norm, and what to call it."""

    chain: str
    transition: list[list[float]]
    gamma: float
    label: str
    distribution: Array

    @property
    def modulus(self) -> float:
        return bellman_modulus(self.transition, self.distribution, self.gamma)


TWO_STATES = [[0.9, 0.1], [0.5, 0.5]]
THREE_STATES = [[0.5, 0.5, 0.0], [0.0, 0.2, 0.8], [0.6, 0.0, 0.4]]
STICKY = [[0.0, 1.0], [0.05, 0.95]]


def table() -> list[Row]:
    """The chains and distributions that the theorem is checked on."""

    def rows(
        name: str, p: list[list[float]], gamma: float, more: dict[str, npt.ArrayLike]
    ) -> list[Row]:
        choices = {"stationary": stationary_distribution(p), **more}
        return [Row(name, p, gamma, k, np.asarray(v, float)) for k, v in choices.items()]

    two: dict[str, npt.ArrayLike] = {
        "uniform": [0.5, 0.5],
        "a bit too much of state 0": [0.95, 0.05],
        "mostly the rare state": [0.2, 0.8],
        "discounted, from state 0": discounted_occupancy(TWO_STATES, [1, 0], 0.9),
        "discounted, from state 1": discounted_occupancy(TWO_STATES, [0, 1], 0.9),
    }
    return [
        *rows("two states", TWO_STATES, 0.9, two),
        *rows("three states", THREE_STATES, 0.95, {"uniform": [1 / 3, 1 / 3, 1 / 3]}),
        *rows(
            "sticky", STICKY, 0.99, {"uniform": [0.5, 0.5], "mostly the rare state": [0.99, 0.01]}
        ),
    ]


def format_table(rows: Sequence[Row]) -> str:
    """The table as markdown."""
    lines = [
        "| chain | gamma | norm weighted with d = | d | modulus | |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        modulus = row.modulus
        verdict = "= gamma" if abs(modulus - row.gamma) < 1e-9 else "above gamma"
        verdict = "no contraction" if modulus >= 1 else verdict
        d = ", ".join(f"{x:.4f}" for x in row.distribution)
        lines.append(
            f"| {row.chain} | {row.gamma:g} | {row.label} | ({d}) | {modulus:.6f} | {verdict} |"
        )
    return "\n".join(lines)


# One shared parameter for both states, as a network shares its weights: value = theta * (3, 1).
# The reward makes the true values (3, 1), so every weighting has the same, exact solution and
# only the way there differs.
SHARED_FEATURE = [[3.0], [1.0]]


def td_runs(features: npt.ArrayLike = SHARED_FEATURE, n_updates: int = 500) -> dict[str, Array]:
    """Errors [n_updates + 1, runs] of TD with three weightings of one uniform replay."""
    values = np.asarray(SHARED_FEATURE)[:, 0]
    rewards = values - 0.9 * np.asarray(TWO_STATES) @ values
    targets: dict[str, npt.ArrayLike] = {
        "stationary": stationary_distribution(TWO_STATES),
        "uniform": [0.5, 0.5],
        "rare": [0.2, 0.8],
    }
    return {
        name: weighted_td(
            TWO_STATES,
            rewards,
            0.9,
            features=features,
            replay=[0.5, 0.5],
            target=target,
            learning_rate=0.01,
            n_updates=n_updates,
        )
        for name, target in targets.items()
    }


def plot(path: Path) -> None:
    """Draw the modulus over all d of the two-state chain, and what it means for learning."""
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise SystemExit(
            "the plot needs matplotlib: pip install matplotlib, or use --no-plot"
        ) from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    gamma, blue, grey, red = 0.9, "#1f6fb4", "#6b6b6b", "#c8372d"
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.4), layout="constrained")

    grid = np.linspace(0.005, 0.995, 991)
    curve = np.array([bellman_modulus(TWO_STATES, [x, 1 - x], gamma) for x in grid])
    left.axhspan(1, 2, color=red, alpha=0.07, lw=0)
    left.plot(grid, curve, color="black", lw=1.8)
    left.axhline(1, color=red, lw=1)
    left.axhline(gamma, color=blue, lw=1)
    left.text(0.015, 1.007, "above 1: no contraction", color=red, ha="left", va="bottom")
    left.text(0.015, gamma - 0.006, "gamma = 0.9", color=blue, ha="left", va="top")
    ends = [discounted_occupancy(TWO_STATES, start, gamma) for start in ([0, 1], [1, 0])]
    left.plot([ends[0][0], ends[1][0]], [gamma**0.5] * 2, color="#a06a00", lw=2.5)
    left.axhline(gamma**0.5, color="#a06a00", lw=0.8, ls=":")
    left.text(
        0.015, gamma**0.5 - 0.004, "sqrt(gamma): the most that a\ndiscounted occupancy can reach",
        color="#a06a00", ha="left", va="top", linespacing=1.1, fontsize=8.5,
    )  # fmt: skip
    for end in ends:
        height = bellman_modulus(TWO_STATES, end, gamma)
        left.plot(end[0], height, "o", mfc="white", mec="#a06a00", ms=6)
    marks = ((5 / 6, blue), (0.5, grey), (0.2, red))
    for x, color in marks:
        left.plot(x, bellman_modulus(TWO_STATES, [x, 1 - x], gamma), "o", color=color, ms=8)
    left.text(0.99, gamma - 0.012, "stationary: exactly gamma", color=blue, ha="right", va="top")
    left.text(0.52, 0.978, "uniform", color=grey, ha="left", va="center")
    left.text(0.225, 1.268, "mostly the rare state", color=red, ha="left", va="bottom")
    left.set(
        xlim=(0, 1), ylim=(0.86, 1.4), xlabel="d(state 0), weight of the common state in the norm",
        ylabel="modulus of the Bellman operator",
        title="The Bellman operator contracts at rate gamma\nonly in the policy's own norm",
    )  # fmt: skip

    names = {
        "rare": ("over-weighting the rare state", red, (-4, 8), "bottom"),
        "uniform": ("no weights: the replay is uniform", grey, (-4, -8), "top"),
        "stationary": ("weighted to the stationary d", blue, (-130, -2), "top"),
    }
    runs = td_runs()
    for name, (label, color, offset, side) in names.items():
        updates = np.arange(len(runs[name]))
        low, median, high = np.quantile(runs[name], [0.1, 0.5, 0.9], axis=1)
        right.fill_between(updates, low, high, color=color, alpha=0.15, lw=0)
        right.plot(updates, median, color=color, lw=1.8)
        right.annotate(label, (updates[-1], float(median[-1])), offset, ha="right", va=side,
                       textcoords="offset points", color=color)  # fmt: skip
    right.axhline(1, color="black", lw=0.8, ls=":")
    right.set(
        yscale="log", xlim=(0, len(updates) - 1), ylim=(0.003, 20),
        xlabel="TD updates (50 runs: median, 10 % to 90 %)",
        ylabel="value error in the policy's norm, start = 1",
        title="TD with one shared parameter, same replay:\nthe weights decide if it converges",
    )  # fmt: skip
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, pil_kwargs={"optimize": True})
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables and draw the plot."""
    parser = argparse.ArgumentParser(description="The policy-dependent norm of LFIW, computed.")
    parser.add_argument("--out", type=Path, default=Path("policy_dependent_norm.png"))
    parser.add_argument("--no-plot", action="store_true", help="print the tables only")
    arguments = parser.parse_args(argv)

    print(format_table(table()))
    print(
        "\nTD on the two states: error in the policy's norm after 500 updates, start = 1, median\n"
    )
    print("| values | weighted to stationary | uniform replay | rare state over-weighted |")
    print("| --- | --- | --- | --- |")
    for label, features in (("one shared parameter", SHARED_FEATURE), ("a table", np.eye(2))):
        cells = " | ".join(f"{np.median(e[-1]):.3f}" for e in td_runs(features).values())
        print(f"| {label} | {cells} |")
    if not arguments.no_plot:
        plot(arguments.out)
        print(f"\nplot: {arguments.out}")


if __name__ == "__main__":
    main()
