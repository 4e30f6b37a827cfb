"""The policy-dependent norm: known moduli, the only-if direction, brute force, errors."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


def _load() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "examples" / "policy_dependent_norm.py"
    spec = importlib.util.spec_from_file_location("example_policy_dependent_norm", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up here
    spec.loader.exec_module(module)
    return module


norm = _load()

TWO = [[0.9, 0.1], [0.5, 0.5]]
THREE = [[0.5, 0.5, 0.0], [0.0, 0.2, 0.8], [0.6, 0.0, 0.4]]
STICKY = [[0.0, 1.0], [0.05, 0.95]]

KNOWN = [
    pytest.param(TWO, 0.9, [5 / 6, 1 / 6], 0.9, id="two-stationary"),
    pytest.param(TWO, 0.9, [0.5, 0.5], 0.979710, id="two-uniform"),
    pytest.param(TWO, 0.9, [0.95, 0.05], 0.952617, id="two-too-common"),
    pytest.param(TWO, 0.9, [0.2, 0.8], 1.266976, id="two-rare"),
    pytest.param(TWO, 0.9, [0.859375, 0.140625], 0.901081, id="two-occupancy-from-0"),
    pytest.param(TWO, 0.9, [0.703125, 0.296875], 0.915433, id="two-occupancy-from-1"),
    pytest.param(THREE, 0.95, [24 / 59, 15 / 59, 20 / 59], 0.95, id="three-stationary"),
    # With a uniform d the formula is gamma * ||P||_2 = gamma * sqrt(largest eigenvalue of P'P).
    pytest.param(THREE, 0.95, [1 / 3, 1 / 3, 1 / 3], 0.979174, id="three-uniform"),
    pytest.param(STICKY, 0.99, [1 / 21, 20 / 21], 0.99, id="sticky-stationary"),
    pytest.param(STICKY, 0.99, [0.5, 0.5], 1.365944, id="sticky-uniform"),
    pytest.param(STICKY, 0.99, [0.99, 0.01], 9.895173, id="sticky-rare"),
]


def random_chain(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.dirichlet(np.ones(n), size=n)


@pytest.mark.parametrize(("transition", "gamma", "distribution", "expected"), KNOWN)
def test_known_moduli(transition, gamma, distribution, expected) -> None:
    assert norm.bellman_modulus(transition, distribution, gamma) == pytest.approx(
        expected, abs=1e-6
    )


def test_the_printed_table_holds_the_same_numbers() -> None:
    assert [row.modulus for row in norm.table()] == pytest.approx(
        [case.values[3] for case in KNOWN], abs=1e-6
    )
    printed = norm.format_table(norm.table())
    assert printed.count("= gamma") == 3
    assert printed.count("no contraction") == 3
    assert len(printed.splitlines()) == 2 + len(KNOWN)


@pytest.mark.parametrize(
    ("transition", "expected"),
    [(TWO, [5 / 6, 1 / 6]), (THREE, [24 / 59, 15 / 59, 20 / 59]), (STICKY, [1 / 21, 20 / 21])],
)
def test_stationary_distribution(transition, expected) -> None:
    d = norm.stationary_distribution(transition)
    np.testing.assert_allclose(d, expected, atol=1e-12)
    np.testing.assert_allclose(d @ np.asarray(transition), d, atol=1e-12)


def test_stationary_distribution_of_transient_states_is_zero() -> None:
    d = norm.stationary_distribution([[0.5, 0.5, 0.0], [0.0, 0.3, 0.7], [0.0, 0.6, 0.4]])
    np.testing.assert_allclose(d, [0.0, 6 / 13, 7 / 13], atol=1e-12)
    assert (d >= 0).all()


@pytest.mark.parametrize(
    ("start", "expected"), [([1, 0], [0.859375, 0.140625]), ([0, 1], [0.703125, 0.296875])]
)
def test_discounted_occupancy(start, expected) -> None:
    d = norm.discounted_occupancy(TWO, start, 0.9)
    np.testing.assert_allclose(d, expected, atol=1e-12)
    series = 0.1 * sum(
        0.9**t * np.asarray(start) @ np.linalg.matrix_power(TWO, t) for t in range(400)
    )
    np.testing.assert_allclose(d, series, atol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_gamma_is_reached_at_the_stationary_distribution_and_nowhere_else(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 7))
    p, gamma = random_chain(rng, n), float(rng.uniform(0.1, 0.99))
    stationary = norm.stationary_distribution(p)
    assert norm.bellman_modulus(p, stationary, gamma) == pytest.approx(gamma, abs=1e-9)
    for _ in range(20):
        d = 0.95 * rng.dirichlet(np.ones(n)) + 0.05 / n
        if np.abs(d - stationary).max() > 0.01:
            assert norm.bellman_modulus(p, d, gamma) > gamma + 1e-6


def test_every_stationary_distribution_of_a_reducible_chain_gives_gamma() -> None:
    two = np.asarray(TWO)
    p = np.block([[two, np.zeros((2, 2))], [np.zeros((2, 2)), two]])
    for share in (0.1, 0.5, 0.8):
        d = np.concatenate([share * np.array([5, 1]) / 6, (1 - share) * np.array([5, 1]) / 6])
        assert norm.bellman_modulus(p, d, 0.9) == pytest.approx(0.9, abs=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_a_discounted_occupancy_contracts_at_root_gamma(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, gamma = random_chain(rng, 4), float(rng.uniform(0.5, 0.99))
    d = norm.discounted_occupancy(p, rng.dirichlet(np.ones(4)), gamma)
    assert d.sum() == pytest.approx(1, abs=1e-12)
    assert gamma - 1e-12 <= norm.bellman_modulus(p, d, gamma) <= np.sqrt(gamma) + 1e-12


@pytest.mark.parametrize(("transition", "gamma", "distribution", "expected"), KNOWN)
def test_a_random_search_reaches_the_modulus_from_below(
    transition, gamma, distribution, expected
) -> None:
    p, d = np.asarray(transition), np.asarray(distribution)
    delta = np.random.default_rng(0).normal(size=(20_000, len(d))) / np.sqrt(d)
    ratio = gamma * np.sqrt(((delta @ p.T) ** 2 @ d) / (delta**2 @ d))
    modulus = norm.bellman_modulus(transition, distribution, gamma)
    assert ratio.max() <= modulus + 1e-12
    assert ratio.max() == pytest.approx(modulus, rel=1e-3)


@pytest.mark.parametrize("seed", range(10))
def test_terminals_keep_the_modulus_at_most_gamma(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, gamma = 4, 0.95
    p = random_chain(rng, n) * rng.uniform(0.5, 1.0, size=(n, 1))
    start = rng.dirichlet(np.ones(n))
    reset = norm.reset_chain(p, start)
    np.testing.assert_allclose(reset.sum(axis=1), 1)
    visited = norm.stationary_distribution(reset)
    modulus = norm.bellman_modulus(p, visited, gamma, allow_termination=True)
    assert modulus <= gamma + 1e-12


def test_over_weighting_the_rare_state_raises_the_error_in_the_policys_norm() -> None:
    for features in (np.eye(2), norm.SHARED_FEATURE):
        final = {name: np.median(e[-1]) for name, e in norm.td_runs(features).items()}
        assert final["stationary"] < final["uniform"] < final["rare"]
    # With a table every weighting still learns; with a shared parameter this one diverges.
    assert np.median(norm.td_runs(np.eye(2))["rare"][-1]) < 1
    assert np.median(norm.td_runs()["rare"][-1]) > 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: norm.bellman_modulus([[1.0, 0.0]], [1.0], 0.9), r"shape \[n, n\], got \[1, 2\]"),
        (
            lambda: norm.bellman_modulus([[0.5, 0.4], [0.5, 0.5]], [0.5, 0.5], 0.9),
            r"must sum to 1, got 0\.9 in row 0",
        ),
        (
            lambda: norm.bellman_modulus(
                [[0.5, 0.6], [0.5, 0.5]], [0.5, 0.5], 0.9, allow_termination=True
            ),
            r"must sum to at most 1, got 1\.1 in row 0",
        ),
        (
            lambda: norm.bellman_modulus([[1.5, -0.5], [0.5, 0.5]], [0.5, 0.5], 0.9),
            r"probabilities, got values down to -0\.5",
        ),
        (lambda: norm.bellman_modulus(TWO, [1.0, 0.0], 0.9), "above 0 everywhere"),
        (lambda: norm.bellman_modulus(TWO, [np.nan, 0.5], 0.9), "above 0 everywhere"),
        (lambda: norm.bellman_modulus(TWO, [0.5, 0.4], 0.9), r"must sum to 1, got 0\.9"),
        (lambda: norm.bellman_modulus(TWO, [1.0], 0.9), r"shape \[2\] .* got \[1\]"),
        (lambda: norm.bellman_modulus(TWO, [0.5, 0.5], 1.0), r"gamma must be in \[0, 1\), got 1"),
        (lambda: norm.discounted_occupancy(TWO, [1.0, 0.0], -0.1), r"gamma must be in \[0, 1\)"),
        (lambda: norm.discounted_occupancy(TWO, [1.5, -0.5], 0.9), "start must be nowhere below 0"),
        (lambda: norm.stationary_distribution(np.eye(2)), "one stationary distribution, got 2"),
        (lambda: norm.reset_chain(TWO, [1.0, 1.0]), "start must sum to 1, got 2"),
    ],
)
def test_errors_say_the_rule_and_the_values(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_the_script_prints_and_plots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    norm.main(["--no-plot"])
    assert "1.266976" in capsys.readouterr().out
    pytest.importorskip("matplotlib")
    target = tmp_path / "figures" / "norm.png"
    norm.main(["--out", str(target)])
    assert target.stat().st_size > 10_000
