"""Targets and losses by hand."""

from __future__ import annotations

import pytest
import torch as th
import torch.nn.functional as F
from stable_baselines3.common.utils import polyak_update

from sb3_ext.td import (
    minimum_over_critics,
    polyak_step,
    require_column,
    td_errors,
    td_target,
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
