"""PER's equations: known answers of replay.md section 3.5, and what must hold for any input."""

import numpy as np
import pytest
import torch as th

from sb3_ext.losses import PAL, Huber
from sb3_ext.plugins.per.equations import (
    absolute_errors,
    annealed_beta,
    clipped_masses,
    importance_weights,
    proportional_masses,
    sampling_probabilities,
    stratified,
)
from sb3_ext.td import weighted_pal_error

PRIORITIES = th.tensor([1.0, 2.0, 3.0, 4.0], dtype=th.float64)


def test_probabilities():
    found = sampling_probabilities(PRIORITIES, 0.6)
    expected = th.tensor([0.14823, 0.22467, 0.28655, 0.34054], dtype=th.float64)
    th.testing.assert_close(found, expected, atol=5e-6, rtol=0)
    assert th.equal(sampling_probabilities(PRIORITIES, 0), th.full((4,), 0.25, dtype=th.float64))


def test_weights():
    probabilities = sampling_probabilities(PRIORITIES, 0.6)
    found = importance_weights(probabilities, 4, 0.4)
    expected = th.tensor([1.23254, 1.04365, 0.94688, 0.88371], dtype=th.float64)
    th.testing.assert_close(found, expected, atol=5e-6, rtol=0)
    normalised = th.tensor([1, 0.84675, 0.76823, 0.71698], dtype=th.float64)
    th.testing.assert_close(found / found.max(), normalised, atol=5e-6, rtol=0)
    full = importance_weights(probabilities, 4, 1.0)
    expected = th.tensor([1, 0.65975, 0.51728, 0.43528], dtype=th.float64)
    th.testing.assert_close(full / full.max(), expected, atol=5e-6, rtol=0)
    assert th.equal(importance_weights(probabilities, 4, 0.0), th.ones(4, dtype=th.float64))


def test_with_beta_1_the_weighted_mean_over_draws_is_the_mean_over_the_buffer():
    values = th.tensor([3.0, -1.0, 10.0, 0.5], dtype=th.float64)
    probabilities = sampling_probabilities(PRIORITIES, 0.6)
    found = (probabilities * importance_weights(probabilities, 4, 1.0) * values).sum()
    th.testing.assert_close(found, values.mean())


def test_signs_go_before_the_critics_are_reduced():
    """A signed mean would take two opposite errors for none."""
    errors = th.tensor([[2.0, -2.0], [0.5, 1.5], [-3.0, 0.0]])
    assert absolute_errors(errors, "max").tolist() == [2, 1.5, 3]
    assert absolute_errors(errors, "mean").tolist() == [2, 1, 1.5]


def test_masses():
    errors = np.array([0.0, 0.5, 1.0, 4.0])
    assert proportional_masses(errors, 0.5, 0.25) == pytest.approx(np.sqrt(errors + 0.25))
    assert clipped_masses(errors, 0.5, 1.0) == pytest.approx([1, 1, 1, 2])
    assert clipped_masses(errors, 0.5, 0.25) == pytest.approx([0.5, np.sqrt(0.5), 1, 2])
    assert proportional_masses(errors, 0.0, 0.0).tolist() == [1, 1, 1, 1]


def test_beta_is_linear_in_progress():
    assert [annealed_beta(t, 0.4, 1.0) for t in (0, 0.25, 0.5, 1)] == pytest.approx(
        [0.4, 0.55, 0.7, 1]
    )
    assert annealed_beta(1.2, 0.4, 1.0) == 1
    assert annealed_beta(-0.1, 0.4, 1.0) == 0.4


def test_a_stratified_draw_has_one_number_in_each_part():
    found = stratified(1000, np.random.default_rng(0))
    assert np.array_equal(np.floor(found * 1000), np.arange(1000))


# -- LAP and PAL: one gradient in expectation ------------------------------------------------------


@pytest.mark.parametrize("min_priority", [1.0, 0.3])
def test_huber_under_lap_has_pal_s_gradient(min_priority):
    """Fujimoto et al. 2020, theorem 1 and section 4: exact on any fixed set, for one critic."""
    values = th.linspace(-4, 5, 23, dtype=th.float64).reshape(1, -1, 1)
    errors, alpha = values.clone().requires_grad_(), 0.4
    masses = clipped_masses(values.abs().numpy().flatten(), alpha, min_priority)
    probabilities = th.from_numpy(masses / masses.sum()).reshape(1, -1, 1)
    n = values.shape[1]
    # The expectation over draws is a sum weighted by probabilities; Huber's own gradient by hand.
    huber = values.clamp(-min_priority, min_priority)
    expected = probabilities * huber
    weighted_pal_error(errors, th.ones(n, 1, dtype=th.float64), alpha, min_priority).backward()
    th.testing.assert_close(errors.grad, expected, rtol=1e-12, atol=1e-15)


def test_pal_by_hand():
    errors = th.tensor([[[0.5], [-4.0]], [[2.0], [0.0]]], dtype=th.float64)
    weights = th.tensor([[1.0], [3.0]], dtype=th.float64)
    # lambda: the mean of max over critics, max(|d|, 1) ** 0.5: (sqrt 2 + 2) / 2
    scale = (2**0.5 + 2) / 2
    inside, outside = 0.125, 2**1.5 / 1.5
    expected = (inside + 3 * (4**1.5 / 1.5) + outside + 0) / 2 / scale
    assert PAL(alpha=0.5)(errors, weights).item() == pytest.approx(expected)


def test_pal_with_alpha_0_is_huber_s_gradient():
    values = th.linspace(-3, 3, 13).reshape(1, -1, 1)
    ones, grads = th.ones(13, 1), []
    for loss in (PAL(alpha=0.0), Huber()):
        errors = values.clone().requires_grad_()
        loss(errors, ones).backward()
        grads.append(errors.grad)
    th.testing.assert_close(*grads)


def test_pal_has_no_nan_at_0():
    errors = th.zeros(2, 4, 1, requires_grad=True)
    PAL(alpha=0.4, min_priority=1e-3)(errors, th.ones(4, 1)).backward()
    assert th.equal(errors.grad, th.zeros(2, 4, 1))


def test_weights_of_a_flat_shape_are_refused():
    with pytest.raises(ValueError, match=r"must have shape \[4, 1\]"):
        PAL()(th.zeros(1, 4, 1), th.ones(4))


def test_per_under_mse_descends_another_power_of_the_error():
    """Fujimoto et al. 2020, corollary: the gradient is that of |d| ** (2 + alpha - alpha beta)."""
    alpha, beta = 0.6, 0.4
    errors = th.linspace(0.5, 5, 40, dtype=th.float64)
    probabilities = sampling_probabilities(errors, alpha)
    weights = importance_weights(probabilities, 40, beta)
    gradient = probabilities * weights * errors
    exponent = 1 + alpha - alpha * beta
    ratio = gradient / errors**exponent
    th.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-10, atol=0)
