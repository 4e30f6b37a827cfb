"""Targets and losses by hand."""

from __future__ import annotations

import pytest
import torch as th
import torch.nn.functional as F
from sb3_contrib.common.utils import quantile_huber_loss
from stable_baselines3.common.utils import polyak_update

from sb3_ext.td import (
    minimum_over_critics,
    polyak_step,
    require_column,
    td_errors,
    td_target,
    value_of_greedy_action,
    weighted_huber_error,
    weighted_quantile_huber_error,
    weighted_squared_error,
)


def column(*values: float) -> th.Tensor:
    return th.tensor(values, dtype=th.float32).reshape(-1, 1)


def test_target_by_hand() -> None:
    target = td_target(column(1, 2), column(0, 1), 0.5, column(10, 10))
    assert target.flatten().tolist() == [6, 2]
    n_step = td_target(column(1, 2), column(0, 0), column(0.25, 0.5), column(8, 8))
    assert n_step.flatten().tolist() == [3, 6]


def test_minimum_is_taken_for_each_sample() -> None:
    assert minimum_over_critics((column(1, 5), column(3, 2))).flatten().tolist() == [1, 2]


def test_weighted_squared_error_by_hand() -> None:
    errors = td_errors((column(3, 1), column(0, 0)), column(1, 1))
    assert errors.shape == (2, 2, 1)
    # (2 * 2^2 + 0.5 * 0^2) / 2 + (2 * 1 + 0.5 * 1) / 2
    assert weighted_squared_error(errors, column(2, 0.5)).item() == pytest.approx(4 + 1.25)


def test_unit_weights_have_the_gradient_of_mse_loss_to_the_bit() -> None:
    th.manual_seed(0)
    for batch in (7, 100, 256):
        q1, q2, y = (th.randn(batch, 1) for _ in range(3))
        mine = [q.clone().requires_grad_() for q in (q1, q2)]
        weighted_squared_error(td_errors(tuple(mine), y), th.ones(batch, 1)).backward()
        theirs = [q.clone().requires_grad_() for q in (q1, q2)]
        sum(F.mse_loss(q, y) for q in theirs).backward()
        for a, b in zip(mine, theirs, strict=True):
            assert th.equal(a.grad, b.grad)


def test_gradient_is_that_of_the_weighted_mean_by_hand() -> None:
    q, y = column(3, 1).requires_grad_(), column(1, 2)
    weights = column(2, 0.5).requires_grad_()
    weighted_squared_error(td_errors((q,), y), weights).backward()
    assert q.grad.flatten().tolist() == [2 * 2 * 2 / 2, 2 * 0.5 * -1 / 2]
    assert weights.grad is None


def test_a_zero_weight_is_a_dropped_sample() -> None:
    q = column(3, 1).requires_grad_()
    weighted_squared_error(td_errors((q,), column(0, 0)), column(1, 0)).backward()
    assert q.grad[1].item() == 0
    assert q.grad[0].item() != 0


@pytest.mark.parametrize("shape", [(4,), (1, 4), (4, 2), (5, 1), ()])
def test_weights_that_are_no_column_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"weights must have shape \[4, 1\], got"):
        require_column(th.ones(shape), 4)
    with pytest.raises(ValueError, match=r"reshape\(-1, 1\)"):
        weighted_squared_error(th.ones(2, 4, 1), th.ones(shape))


def test_polyak_step_by_hand_and_as_sb3_rounds() -> None:
    target = [column(1, 2), column(-4)]
    polyak_step([column(3, 4), column(0)], target, 0.25)
    assert [t.flatten().tolist() for t in target] == [[1.5, 2.5], [-3]]
    th.manual_seed(0)
    online = [th.randn(33, 7), th.randn(5)]
    mine, theirs = [t.clone() * 3 for t in online], [t.clone() * 3 for t in online]
    for _ in range(20):
        polyak_step(online, mine, 0.005)
        polyak_update(online, theirs, 0.005)
    assert all(th.equal(a, b) for a, b in zip(mine, theirs, strict=True))


# -- Huber and quantiles ---------------------------------------------------------------------------


def test_greedy_value_by_hand_and_as_double_q_learning_has_it() -> None:
    target, online = th.tensor([[1.0, 5.0], [2.0, 0.0]]), th.tensor([[9.0, 8.0], [0.0, 1.0]])
    assert value_of_greedy_action(target, target).flatten().tolist() == [5, 2]
    assert value_of_greedy_action(target, online).flatten().tolist() == [1, 0]


def test_weighted_huber_error_by_hand() -> None:
    errors = th.stack((column(0.5, -3), column(1, 0)))
    # Critic 1: (2 * 0.125 + 0.5 * 2.5) / 2; critic 2: (2 * 0.5 + 0) / 2
    expected = (0.25 + 1.25) / 2 + 1 / 2
    assert weighted_huber_error(errors, column(2, 0.5)).item() == pytest.approx(expected)
    # Threshold 2: 0.5 * 0.25 and 2 * (3 - 1); 0.5 * 1
    expected = (2 * 0.125 + 0.5 * 4) / 2 + 2 * 0.5 / 2
    assert weighted_huber_error(errors, column(2, 0.5), 2.0).item() == pytest.approx(expected)


@pytest.mark.parametrize("threshold", [0.5, 1.0, 3.0])
def test_the_huber_gradient_is_the_clipped_error_times_its_weight(threshold: float) -> None:
    values = [-5, -threshold, -0.25, 0, 0.25, threshold, 5]
    q, weights = column(*values).requires_grad_(), column(*range(7)).requires_grad_()
    weighted_huber_error(q[None], weights, threshold).backward()
    clipped = column(*values).clamp(-threshold, threshold)
    th.testing.assert_close(q.grad, weights.detach() * clipped / 7)
    assert weights.grad is None


def test_unit_weights_have_the_gradient_of_smooth_l1_loss_to_the_bit() -> None:
    th.manual_seed(0)
    for batch in (7, 32, 100, 257):
        q, y = th.randn(batch, 1) * 2, th.randn(batch, 1)
        mine, theirs = q.clone().requires_grad_(), q.clone().requires_grad_()
        weighted_huber_error(td_errors((mine,), y), th.ones(batch, 1)).backward()
        F.smooth_l1_loss(theirs, y).backward()
        assert th.equal(mine.grad, theirs.grad)


def test_weighted_quantile_huber_error_by_hand() -> None:
    quantiles, target = th.tensor([[0.0, 1.0], [0.0, 0.0]]), th.tensor([[0.5], [-2.0]])
    # Levels 1/4 and 3/4. Sample 1: distances 0.5 and -0.5, H = 1/8 each, tilts 1/4 and 1/4.
    # Sample 2: distances -2 and -2, H = 1.5 each, tilts 3/4 and 1/4.
    first, second = 0.25 * 0.125 * 2, 1.5 * 0.75 + 1.5 * 0.25
    for weights in (column(1, 1), column(3, 0), column(0.5, 2)):
        total = weights[0].item() * first + weights[1].item() * second
        for sums, count in ((True, 2), (False, 4)):
            found = weighted_quantile_huber_error(quantiles, target, weights, sums)
            assert found.item() == pytest.approx(total / count)


def test_its_minimum_are_the_quantiles() -> None:
    """At the known quantiles of a known distribution, the gradient is nought."""
    # A target far wider than the Huber threshold, so that the rounding of the corner hardly counts.
    target = th.linspace(-1000, 1000, 4001)[None]
    quantiles = th.quantile(target, th.tensor([0.125, 0.375, 0.625, 0.875]))[None].requires_grad_()
    weighted_quantile_huber_error(quantiles, target, th.ones(1, 1), True).backward()
    assert quantiles.grad.abs().max() < 1e-3


@pytest.mark.parametrize("sums", [True, False])
@pytest.mark.parametrize("shape", [(32, 25), (20, 2, 25), (37, 3, 7)])
def test_unit_weights_have_the_gradient_of_contrib_to_the_bit(
    shape: tuple[int, ...], sums: bool
) -> None:
    th.manual_seed(0)
    start, target = th.randn(shape) * 2, th.randn(shape[0], 46)
    mine, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()
    weighted_quantile_huber_error(mine, target, th.ones(shape[0], 1), sums).backward()
    wide = target if len(shape) == 2 else target[:, None]
    quantile_huber_loss(theirs, wide, sum_over_quantiles=sums).backward()
    assert th.equal(mine.grad, theirs.grad)


def test_a_weight_of_two_is_a_sample_drawn_twice() -> None:
    th.manual_seed(0)
    quantiles, target = th.randn(3, 2, 5), th.randn(3, 4)
    weighted = weighted_quantile_huber_error(quantiles, target, column(2, 0, 1), False)
    twice = [0, 0, 2]
    drawn = weighted_quantile_huber_error(quantiles[twice], target[twice], th.ones(3, 1), False)
    assert weighted.item() == pytest.approx(drawn.item())


@pytest.mark.parametrize("shape", [(4,), (5, 3), (4, 1, 3)])
def test_quantile_targets_that_would_broadcast_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must have shape \[4, n_target_quantiles\], got"):
        weighted_quantile_huber_error(th.ones(4, 3), th.ones(shape), th.ones(4, 1), True)
    for weights in (th.ones(4), th.ones(1, 4)):
        with pytest.raises(ValueError, match=r"weights must have shape \[4, 1\]"):
            weighted_huber_error(th.ones(1, 4, 1), weights)
        with pytest.raises(ValueError, match=r"weights must have shape \[4, 1\]"):
            weighted_quantile_huber_error(th.ones(4, 3), th.ones(4, 3), weights, True)
