"""LFIW's equations against closed forms: two unit-variance Gaussians, P = N(1, 1), Q = N(0, 1)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch as th
from scipy import integrate, stats

from sb3_ext.plugins.lfiw.equations import (
    DIVERGENCES,
    balanced_accuracy,
    bounded_logits,
    density_ratio_loss,
    effective_sample_size,
    normalized_weights,
)
from sb3_ext.plugins.lfiw.ratio import RatioNetwork

# -D_f(P || Q) in closed form; for "js" by quadrature of its definition, not of our loss.
MINIMA = {"js": -0.222843, "kl": -0.5, "chi2": 1 - math.e, "hellinger": 2 * math.exp(-1 / 8) - 2}


def quadrature_samples(mean: float, n: int = 1_000_001) -> th.Tensor:
    """Evenly spaced quantiles of N(mean, 1): a deterministic stand-in for many samples."""
    return th.tensor(stats.norm.ppf((np.arange(n) + 0.5) / n, loc=mean))


def test_js_minimum_is_minus_twice_the_textbook_divergence() -> None:
    p, q = stats.norm(1, 1), stats.norm(0, 1)
    mixture = lambda x: (p.pdf(x) + q.pdf(x)) / 2  # noqa: E731
    kl = lambda a: integrate.quad(  # noqa: E731
        lambda x: a.pdf(x) * math.log(a.pdf(x) / mixture(x)), -12, 13
    )[0]
    assert -(kl(p) + kl(q)) == pytest.approx(MINIMA["js"], abs=1e-5)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_true_ratio_reaches_minus_the_divergence_and_nothing_goes_below(divergence: str) -> None:
    true_logit = lambda x: x - 0.5  # noqa: E731
    slow, fast = quadrature_samples(0), quadrature_samples(1)
    best = density_ratio_loss(true_logit(slow), true_logit(fast), divergence)
    assert best.item() == pytest.approx(MINIMA[divergence], abs=6e-3)
    for wrong in (lambda x: 0 * x, lambda x: 0.5 - x, lambda x: 0.7 * x - 0.5, lambda x: x):
        assert density_ratio_loss(wrong(slow), wrong(fast), divergence) > best + 1e-3


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_loss_is_zero_where_the_network_starts(divergence: str) -> None:
    loss = density_ratio_loss(th.zeros(8, 1), th.zeros(5, 1), divergence)
    assert loss.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_loss_by_hand_on_two_samples(divergence: str) -> None:
    slow, fast = th.tensor([[math.log(2)]]), th.tensor([[math.log(3)], [math.log(0.5)]])
    by_hand = {
        "js": math.log(3) + (math.log(4 / 3) + math.log(3)) / 2 - 2 * math.log(2),
        "kl": 2 - (math.log(3) + math.log(0.5)) / 2 - 1,
        "chi2": 4 - 2 * (3 + 0.5) / 2 + 1,
        "hellinger": math.sqrt(2) + (math.sqrt(1 / 3) + math.sqrt(2)) / 2 - 2,
    }
    loss = density_ratio_loss(slow, fast, divergence).item()
    assert loss == pytest.approx(by_hand[divergence], abs=1e-6)


def test_each_mean_is_its_own_whatever_the_batch_sizes() -> None:
    slow, fast = th.randn(64, 1), th.randn(16, 1)
    assert density_ratio_loss(slow, fast.repeat(10, 1)).item() == pytest.approx(
        density_ratio_loss(slow, fast).item(), abs=1e-6
    )


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_linear_logit_learns_the_ratio_of_two_gaussians(divergence: str) -> None:
    generator = th.Generator().manual_seed(0)
    layer = th.nn.Linear(1, 1)
    th.nn.init.zeros_(layer.weight)
    th.nn.init.zeros_(layer.bias)
    optimizer = th.optim.Adam(layer.parameters(), 1e-2)
    averaged = th.zeros(2)
    for step in range(3000):
        slow = th.randn(512, 1, generator=generator)
        fast = th.randn(512, 1, generator=generator) + 1
        optimizer.zero_grad()
        density_ratio_loss(layer(slow), layer(fast), divergence).backward()
        optimizer.step()
        if step >= 2000:
            averaged += th.stack([layer.weight[0, 0], layer.bias[0]]).detach() / 1000
    assert averaged.tolist() == pytest.approx([1, -0.5], abs=0.06)


def test_the_network_learns_the_ratio_and_its_mean_over_the_slow_buffer_is_one() -> None:
    generator = th.Generator().manual_seed(1)
    th.manual_seed(1)
    network = RatioNetwork(1, 1, (128, 128), normalize=False)
    optimizer = th.optim.Adam(network.parameters(), 3e-4)
    nothing = th.zeros(256, 1)
    for _ in range(3000):
        slow = th.randn(256, 1, generator=generator)
        fast = th.randn(256, 1, generator=generator) + 1
        optimizer.zero_grad()
        density_ratio_loss(network(slow, nothing), network(fast, nothing)).backward()
        optimizer.step()
    x = th.linspace(-2, 3, 51).reshape(-1, 1)
    with th.no_grad():
        error = network(x, th.zeros(51, 1)) - (x - 0.5)
        fresh = quadrature_samples(0, 20_001).float().reshape(-1, 1)
        mean = network(fresh, th.zeros_like(fresh)).exp().mean()
    assert error.abs().max() < 0.35
    assert error.square().mean().sqrt() < 0.15
    assert mean.item() == pytest.approx(1, abs=0.08)


@pytest.mark.parametrize(("x", "expected"), [(5.0, 47.6), (10.0, 99.3)])
def test_a_contained_fast_buffer_bounds_the_ratio(x: float, expected: float) -> None:
    # Slow = rho P + (1 - rho) Q0 contains fast = P, so w* = r / (rho r + 1 - rho) <= 1 / rho.
    rho, r = 0.01, math.exp(x - 0.5)
    ratio = r / (rho * r + 1 - rho)
    assert ratio == pytest.approx(expected, abs=0.1)
    # The bound that bounded_logits imposes leaves room for it, and the infinite claim is cut.
    assert math.log(ratio) < math.log(1 / rho)
    limit = math.log(1 / rho)
    assert bounded_logits(th.tensor([50.0, -50.0, 0.01]), limit).tolist() == pytest.approx(
        [limit, -limit, 0.01], abs=1e-6
    )


def test_no_bound_leaves_logits_alone_and_a_bound_must_be_positive() -> None:
    logits = th.tensor([[3.0], [-70.0]])
    assert bounded_logits(logits, math.inf) is logits
    with pytest.raises(ValueError, match="limit must be > 0"):
        bounded_logits(logits, 0.0)


@pytest.mark.parametrize(
    ("temperature", "ratio", "prob"),
    [
        (1.0, (0.01, 0.1, 1, 10, 100), (0.00990, 0.09091, 0.5, 0.90909, 0.99010)),
        (2.5, (0.158, 0.398, 1, 2.51, 6.31), (0.137, 0.285, 0.5, 0.715, 0.863)),
        (5.0, (0.398, 0.631, 1, 1.58, 2.51), (0.285, 0.387, 0.5, 0.613, 0.715)),
        (10.0, (0.631, 0.794, 1, 1.26, 1.58), (0.387, 0.443, 0.5, 0.557, 0.613)),
    ],
)
def test_both_forms_for_known_ratios(
    temperature: float, ratio: tuple[float, ...], prob: tuple[float, ...]
) -> None:
    logits = th.tensor([0.01, 0.1, 1, 10, 100]).log().reshape(-1, 1)
    for form, expected in (("ratio", ratio), ("prob", prob)):
        weights = normalized_weights(logits, temperature, form)
        assert weights.shape == (5, 1)
        assert weights.mean().item() == pytest.approx(1, abs=1e-6)
        relative = (weights / weights[2] * expected[2]).flatten().tolist()
        assert relative == pytest.approx(expected, rel=5e-3)


def test_ratio_form_is_a_tempered_softmax_times_the_batch_size() -> None:
    logits = th.randn(64, 1) * 3
    expected = 64 * th.softmax(logits / 2.5, dim=0)
    th.testing.assert_close(normalized_weights(logits, 2.5), expected)


def test_a_perfect_logit_at_temperature_one_gives_the_true_ratio() -> None:
    slow = quadrature_samples(0).reshape(-1, 1)
    weights = normalized_weights(slow - 0.5, 1.0)
    th.testing.assert_close(weights, (slow - 0.5).exp(), rtol=2e-3, atol=0)


@pytest.mark.parametrize("form", ["ratio", "prob"])
def test_an_infinite_temperature_believes_everything_alike(form: str) -> None:
    weights = normalized_weights(th.randn(32, 1) * 5, 1e9, form)
    th.testing.assert_close(weights, th.ones(32, 1))


@pytest.mark.parametrize("form", ["ratio", "prob"])
def test_huge_logits_stay_finite(form: str) -> None:
    for temperature in (1.0, 1e-3, 1e-30):
        small = normalized_weights(th.tensor([[-3.0], [-4.0]]), max(temperature, 1e-3), form)
        assert small.mean().item() == pytest.approx(1)
        assert normalized_weights(th.tensor([[80.0], [-80.0]]), temperature, form).isfinite().all()


@pytest.mark.parametrize("form", ["ratio", "prob"])
def test_a_correction_restores_the_expectation_over_the_slow_buffer(form: str) -> None:
    # Four kinds of transitions; a sampler that draws kind i with chance p_i instead of 1/4, and
    # corrects by 1 / (4 p_i), must weigh each kind as a uniform draw does.
    logits = th.tensor([[-1.0], [0.0], [0.5], [2.0]])
    uniform = normalized_weights(logits, 2.0, form)
    counts = th.tensor([1, 2, 3, 10])
    correction = (16 / (4 * counts.float())).reshape(-1, 1)
    drawn = normalized_weights(
        logits.repeat_interleave(counts, 0),
        2.0,
        form,
        correction.repeat_interleave(counts, 0),
    )
    th.testing.assert_close(drawn, uniform.repeat_interleave(counts, 0))


def test_weights_carry_no_gradient() -> None:
    logits = th.randn(4, 1, requires_grad=True)
    assert not normalized_weights(logits, 5.0).requires_grad


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"logits": th.zeros(4)}, r"logits must have shape \[B, 1\], got \[4\]"),
        ({"temperature": 0.0}, "temperature must be > 0"),
        ({"temperature": -1.0}, "temperature must be > 0"),
        ({"weight_form": "odds"}, "weight_form must be one of"),
        ({"correction": th.ones(4)}, "correction must have the logits' shape"),
    ],
)
def test_weights_refuse(arguments: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        normalized_weights(**{"logits": th.zeros(4, 1), "temperature": 5.0} | arguments)


def test_an_unknown_divergence_is_refused() -> None:
    with pytest.raises(ValueError, match=r"divergence must be one of .*'js'.* got 'tv'"):
        density_ratio_loss(th.zeros(1, 1), th.zeros(1, 1), "tv")


def test_effective_sample_size_by_hand() -> None:
    assert effective_sample_size(th.ones(8, 1)).item() == pytest.approx(1)
    assert effective_sample_size(th.tensor([[1.0], [0], [0], [0]])).item() == pytest.approx(1 / 4)
    assert effective_sample_size(th.tensor([[1.0], [3.0]])).item() == pytest.approx(16 / 20)


def test_balanced_accuracy_by_hand() -> None:
    slow, fast = th.tensor([[-1.0], [2.0], [-3.0], [0.0]]), th.tensor([[1.0], [-1.0]])
    assert balanced_accuracy(slow, fast).item() == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert balanced_accuracy(fast, fast).item() == pytest.approx(0.5)
