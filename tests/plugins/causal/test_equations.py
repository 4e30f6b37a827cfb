"""The maths of causal confusion, against hand calculation, enumeration and other programs."""

import itertools

import numpy as np
import pytest
import torch as th
from scipy import stats

from sb3_ext.plugins.causal.equations import (
    all_graphs,
    best_graph,
    beta_vae_loss,
    categorical_disagreement,
    default_temperature,
    draw_graphs,
    edge_probabilities,
    fit_energy,
    gaussian_disagreement,
    graph_probabilities,
    masked_input,
)


def test_masked_input_by_hand() -> None:
    """Three columns of two factors, the second of which has two columns."""
    x = th.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    graphs = th.tensor([[1, 0], [0, 1]])
    found = masked_input(x, graphs, th.tensor([0, 1, 1]))
    assert found.tolist() == [[1, 0, 0, 1, 0], [0, 5, 6, 0, 1]]
    assert masked_input(x, th.tensor([0.0, 0.0]), th.tensor([0, 1, 1])).abs().sum() == 0


@pytest.mark.parametrize("n", [1, 3, 5])
def test_all_graphs_are_those_of_itertools(n: int) -> None:
    listed = [tuple(map(bool, bits)) for bits in itertools.product((0, 1), repeat=n)]
    assert [tuple(row) for row in all_graphs(n).tolist()] == listed


def test_too_many_graphs_are_not_listed() -> None:
    with pytest.raises(ValueError, match="got 32: draw some"):
        all_graphs(32)


def test_every_graph_is_drawn_alike() -> None:
    """All 2^3 masks are reached, each an eighth of the time."""
    drawn = draw_graphs(8_000, 0.5, 3, np.random.default_rng(0))
    counts = np.bincount(drawn @ [4, 2, 1], minlength=8)
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("n", [1, 4, 7])
def test_edges_of_the_energy_model_are_independent(n: int) -> None:
    """Enumerating ``exp(<w, G> / tau)`` over 2^n graphs gives the product of sigmas."""
    weights, tau = np.random.default_rng(n).normal(size=n) * 30, 10.0
    graphs, exact = all_graphs(n), graph_probabilities(weights, tau)
    edges = edge_probabilities(weights, tau)
    product = np.where(graphs, edges, 1 - edges).prod(axis=1)
    assert np.allclose(exact, product)
    assert np.array_equal(graphs[exact.argmax()], best_graph(weights))


def test_edge_probabilities_by_hand() -> None:
    found = edge_probabilities(np.array([0.0, 10.0, -10.0, 1e6]), 10.0)
    e = float(np.exp(1))
    assert found == pytest.approx([0.5, e / (1 + e), 1 / (1 + e), 1.0])


def test_a_weight_of_zero_is_no_edge() -> None:
    assert best_graph(np.array([0.0, 1e-9, -1.0])).tolist() == [False, True, False]


def test_the_temperature_is_a_tenth_of_the_range() -> None:
    assert default_temperature(np.array([-200.0, -100.0, -150.0])) == 10.0  # as on MountainCar
    assert default_temperature(np.array([-200.0])) == default_temperature(np.zeros(0)) == 1.0


def test_ridge_regression_by_hand() -> None:
    """Two graphs of one factor: centred +-1/2, so w = (1/2 * 2) / (1/2 + 1) = 2/3."""
    found = fit_energy(np.array([[False], [True]]), np.array([3.0, 5.0]))
    assert found.mean == pytest.approx([2 / 3])
    assert found.intercept == pytest.approx(4 - 1 / 3)


def test_ridge_regression_is_that_of_an_augmented_least_squares() -> None:
    """Rows of sqrt(ridge) below, the intercept's column free: an independent program's answer."""
    rng = np.random.default_rng(0)
    graphs, scores = rng.random((30, 5)) < 0.5, rng.normal(size=30) * 20 - 100
    design = np.hstack([np.ones((30, 1)), graphs])
    extra = np.hstack([np.zeros((5, 1)), np.sqrt(2.0) * np.eye(5)])
    stacked = np.vstack([design, extra]), np.concatenate([scores, np.zeros(5)])
    solved, *_ = np.linalg.lstsq(*stacked, rcond=None)
    found = fit_energy(graphs, scores, ridge=2.0)
    assert np.allclose(found.mean, solved[1:])
    assert found.intercept == pytest.approx(solved[0])


def test_intervals_are_those_of_ordinary_regression_where_nothing_is_shrunk() -> None:
    """Against scipy, for one factor: the same scale but for a degree of freedom that w costs."""
    rng = np.random.default_rng(1)
    graphs = rng.random((40, 1)) < 0.5
    scores = 3.0 * graphs[:, 0] + rng.normal(size=40)
    found = fit_energy(graphs, scores, ridge=1e-9)
    theirs = stats.linregress(graphs[:, 0].astype(float), scores)
    assert found.mean[0] == pytest.approx(theirs.slope)
    assert found.scale[0] * np.sqrt(39 / 38) == pytest.approx(theirs.stderr)


def test_intervals_hold_what_they_promise() -> None:
    """Weights drawn from the prior are in their 90 % intervals 90 % of the time: calibration."""
    rng, inside = np.random.default_rng(2), []
    for _ in range(400):
        weights = rng.normal(size=4)  # noise of 1, ridge 1: the prior's N(0, 1)
        graphs = rng.random((15, 4)) < 0.5
        found = fit_energy(graphs, graphs @ weights + 7 + rng.normal(size=15))
        reach = stats.t.ppf(0.95, found.degrees_of_freedom) * found.scale
        inside += (np.abs(found.mean - weights) < reach).tolist()
    assert np.mean(inside) == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("tau", [1.0, 10.0])
def test_an_additive_return_is_seen_through(tau: float) -> None:
    """Fact sheet 8.2 (14): signs of all true weights in 60 episodes, at either temperature."""
    truth, right = np.array([3.0, -2.0, 1.0, 0.0, -1.0, 2.0]), 0
    for seed in range(50):
        rng = np.random.default_rng(seed)
        graphs, scores, weights = np.zeros((0, 6), bool), np.zeros(0), np.zeros(6)
        for _ in range(60):
            one = draw_graphs(1, edge_probabilities(weights, tau), 6, rng)
            scores = np.append(scores, -5 + one[0] @ truth + 0.5 * rng.normal())
            graphs = np.concatenate([graphs, one])
            weights = fit_energy(graphs, scores).mean
        right += bool((np.sign(weights)[truth != 0] == np.sign(truth)[truth != 0]).all())
    assert right == 50


@pytest.mark.parametrize(
    ("graphs", "scores", "ridge", "told"),
    [
        (np.zeros((2, 3)), np.zeros(3), 1.0, "scores"),
        (np.zeros((0, 3)), np.zeros(0), 1.0, "N > 0"),
        (np.zeros((2, 3)), np.array([1.0, np.nan]), 1.0, "must be finite"),
        (np.zeros((2, 3)), np.zeros(2), 0.0, "ridge must be positive"),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    graphs: np.ndarray, scores: np.ndarray, ridge: float, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        fit_energy(graphs, scores, ridge)


def test_disagreement_by_hand() -> None:
    """Two graphs that are sure of two other actions: log 2. Two that agree: 0."""
    sure = th.tensor([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]])
    found = categorical_disagreement((sure + 1e-20).log())
    assert found.tolist() == pytest.approx([np.log(2), 0.0], abs=1e-5)


def test_disagreement_is_a_mean_of_kullback_leibler_divergences() -> None:
    """Against scipy, state by state and graph by graph."""
    probabilities = th.softmax(th.randn(5, 7, 3, generator=th.Generator().manual_seed(0)), -1)
    found = categorical_disagreement(probabilities.log())
    table = probabilities.double().numpy()
    mixture = table.mean(axis=0)
    expected = [np.mean([stats.entropy(one[b], mixture[b]) for one in table]) for b in range(7)]
    assert found.numpy() == pytest.approx(expected, abs=1e-5)


def test_disagreement_of_deterministic_policies_is_the_kl_of_equal_gaussians() -> None:
    """The mean KL(N(m_G, 1) || N(mean m, 1)) = half the variance, here in two dimensions."""
    means = th.tensor([[[1.0, 0.0]], [[3.0, 4.0]]])
    around = means.mean(0)
    divergences = [(one - around).square().sum().item() / 2 for one in means]
    assert gaussian_disagreement(means).item() == pytest.approx(2 * np.mean(divergences))


def test_the_beta_vae_loss_against_torch() -> None:
    generator = th.Generator().manual_seed(0)
    x, y = (th.rand(3, 2, 4, 4, generator=generator) for _ in range(2))
    mean, log_variance = (th.randn(3, 5, generator=generator) for _ in range(2))
    loss, error, divergence = beta_vae_loss(y, x, mean, log_variance, 4.0)
    posterior = th.distributions.Normal(mean, (log_variance / 2).exp())
    prior = th.distributions.Normal(th.zeros(3, 5), th.ones(3, 5))
    expected = th.distributions.kl_divergence(posterior, prior).sum(1).mean()
    assert divergence.item() == pytest.approx(expected.item(), rel=1e-5)
    assert error.item() == pytest.approx(((x - y) ** 2).sum().item() / 3, rel=1e-5)
    assert loss.item() == pytest.approx((error + 4 * divergence).item())
