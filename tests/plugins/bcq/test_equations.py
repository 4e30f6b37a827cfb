"""BCQ's equations against hand calculations and torch's own distributions."""

import math

import pytest
import torch as th
from torch.distributions import Normal, kl_divergence

from sb3_ext.plugins.bcq.equations import (
    allowed_actions,
    behavior_loss,
    best_of_candidates,
    constrained_greedy_action,
    gaussian_kl,
    perturbed,
    soft_clipped_double_q,
    vae_loss,
)


def test_kl_by_hand_and_by_torch() -> None:
    mean, std = th.tensor([[1.0, 0.0]]), th.tensor([[1.0, 2.0]])
    kl = gaussian_kl(mean, std.log())
    assert kl.sum().item() == pytest.approx(1.3068528, abs=1e-6)
    theirs = kl_divergence(Normal(mean, std), Normal(th.zeros(1, 2), th.ones(1, 2)))
    assert th.allclose(kl, theirs)


def test_vae_loss_weighs_the_mean_kl_by_one_half() -> None:
    mean, log_std = th.tensor([[1.0, 0.0]]), th.tensor([[0.0, math.log(2.0)]])
    actions = th.tensor([[0.5]])
    loss, error, kl = vae_loss(actions, actions, mean, log_std)
    assert (error.item(), kl.item()) == (0.0, pytest.approx(0.6534264, abs=1e-6))
    assert loss.item() == pytest.approx(0.3267132, abs=1e-6)


def test_vae_loss_is_an_elbo_of_variance_one_eighth() -> None:
    """With J = 2 A latents it is (squared error + KL / 4) / A, whatever A is."""
    for dim in (1, 3):
        th.manual_seed(dim)
        actions, reconstruction = th.rand(1, dim), th.rand(1, dim)
        mean, log_std = th.randn(1, 2 * dim), th.randn(1, 2 * dim) / 3
        loss, _, _ = vae_loss(reconstruction, actions, mean, log_std)
        square = (actions - reconstruction).square().sum()
        expected = (square + gaussian_kl(mean, log_std).sum() / 4) / dim
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_vae_loss_has_no_gradient_at_the_linear_gaussian_optimum() -> None:
    """a ~ N(0, v), decoder a = w z, encoder N(u a, s^2): the optimum is known in closed form.

    The loss with one action and two latents, of which one is used, is E(a - w z)^2 plus a quarter
    of the KL of the used one: its posterior has s^2 = 1 / (1 + 8 w^2), u = 8 w s^2, and the best w
    has w^2 = v - 1/8 (probabilistic PCA with noise of variance 1/8).
    """
    v = 0.5
    w = math.sqrt(v - 1 / 8)
    s2 = 1 / (1 + 8 * w * w)
    u = 8 * w * s2
    parameters = [th.tensor(x, dtype=th.float64, requires_grad=True) for x in (w, u, math.log(s2))]
    weight, gain, log_s2 = parameters
    # Points and weights that give Gaussian moments exactly: +-1 has variance 1.
    a = th.tensor([1.0, 1.0, -1.0, -1.0], dtype=th.float64).reshape(-1, 1) * math.sqrt(v)
    eps = th.tensor([1.0, -1.0, 1.0, -1.0], dtype=th.float64).reshape(-1, 1)
    z = gain * a + (log_s2 / 2).exp() * eps
    mean = th.cat([gain * a, th.zeros_like(a)], dim=1)
    log_std = th.cat([(log_s2 / 2).expand_as(a), th.zeros_like(a)], dim=1)
    loss, _, _ = vae_loss(weight * z, a, mean, log_std)
    loss.backward()
    assert all(abs(one.grad.item()) < 1e-12 for one in parameters)


def test_mixture_comes_before_the_maximum() -> None:
    q1, q2 = th.tensor([[1.0, 4.0]]), th.tensor([[3.0, 2.0]])
    mixed = soft_clipped_double_q(q1, q2, 0.75)
    assert mixed.tolist() == [[1.5, 2.5]]
    assert best_of_candidates(mixed).tolist() == [[2.5]]  # 3.25 the other way round
    assert best_of_candidates(soft_clipped_double_q(q1, q2, 1.0)).tolist() == [[2.0]]
    assert soft_clipped_double_q(q1, q2, 0.5).tolist() == [[2.0, 3.0]]
    assert soft_clipped_double_q(q1, q2, 0.0).tolist() == [[3.0, 4.0]]


def test_a_perturbation_is_bounded_and_clipped() -> None:
    actions = th.tensor([[0.0, 0.99, -0.99]])
    moved = perturbed(actions, th.tensor([[1.0, 1.0, -1.0]]), 0.05)
    assert moved.tolist() == [pytest.approx([0.05, 1.0, -1.0])]
    # The full range reaches any action from any other; half of it does not.
    corner = th.tensor([[-1.0]])
    assert perturbed(corner, th.tensor([[1.0]]), 2.0).item() == 1.0
    assert perturbed(corner, th.tensor([[1.0]]), 1.0).item() == 0.0


@pytest.mark.parametrize(("threshold", "best"), [(0.0, 2), (0.3, 1), (0.49, 1), (0.51, 0), (1, 0)])
def test_the_threshold_decides_which_action_is_best(threshold: float, best: int) -> None:
    logits = th.tensor([[0.6, 0.3, 0.1]], dtype=th.float64).log()
    allowed = allowed_actions(logits, threshold)
    assert constrained_greedy_action(th.tensor([[1.0, 2.0, 10.0]]), allowed).item() == best


def test_a_threshold_of_one_is_cloning() -> None:
    """With `>` no action would be allowed, and the first be taken."""
    logits = th.tensor([[0.1, 0.3, 0.6], [5.0, 5.0, 1.0]]).log()
    allowed = allowed_actions(logits, 1.0)
    assert allowed.tolist() == [[False, False, True], [True, True, False]]
    assert constrained_greedy_action(th.tensor([[9.0, 9.0, -9.0]] * 2), allowed).tolist() == [
        [2],
        [0],
    ]


def test_a_threshold_of_zero_allows_what_underflows() -> None:
    assert allowed_actions(th.tensor([[0.0, -1e4]]), 0.0).all()


def test_behavior_loss_by_hand() -> None:
    logits = th.tensor([[math.log(3.0), 0.0]])
    loss = behavior_loss(logits, th.tensor([0]), penalty=0.01)
    assert loss.item() == pytest.approx(-math.log(0.75) + 0.01 * math.log(3.0) ** 2 / 2)
