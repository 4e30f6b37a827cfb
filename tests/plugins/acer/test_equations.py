"""ACER's equations against hand calculations, autograd, a QP solver, and faults that are around."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch as th
from scipy.optimize import minimize
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from sb3_ext.plugins.acer.equations import (
    FLOOR,
    categorical_constraint,
    categorical_gradient,
    categorical_kl,
    correction_weight,
    entropy_gradient,
    gaussian_constraint,
    gaussian_kl,
    gaussian_score,
    log_ratio,
    logit_constraint,
    product_score,
    project_to_trust_region,
    sampled_gradient,
    stochastic_dueling,
    to_logits,
    truncated_ratio,
    value_target,
)
from sb3_ext.trajectories.returns import retrace

CUTS = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, math.inf)


def row(*numbers: float) -> Tensor:
    return th.tensor([numbers], dtype=th.float64)


def flat(*numbers: float) -> Tensor:
    return th.tensor(numbers, dtype=th.float64)


def close(found: Tensor, expected: Tensor | list[float], tolerance: float = 1e-12) -> bool:
    expected = expected if isinstance(expected, Tensor) else row(*expected)
    return found.shape == expected.shape and th.allclose(found, expected, rtol=0, atol=tolerance)


# Importance weights


@pytest.mark.parametrize("c", CUTS)
def test_truncation_and_correction_add_up(c: float) -> None:
    """mu min(c, rho) + pi [1 - c / rho]+ = pi, also where pi or mu never takes an action."""
    pi, mu = flat(0.7, 0.2, 0.1, 0.0, 0.3), flat(0.1, 0.3, 0.6, 0.2, 0.3)
    log_rho = pi.log() - mu.log()
    whole = mu * truncated_ratio(log_rho, c) + pi * correction_weight(log_rho, c)
    assert close(whole, pi, 1e-15)


def test_weights_by_hand() -> None:
    log_rho = flat(7, 2, 2 / 3, 1 / 6).log()
    assert close(truncated_ratio(log_rho, 2), flat(2, 2, 2 / 3, 1 / 6))
    assert close(correction_weight(log_rho, 2), flat(5 / 7, 0, 0, 0))
    assert close(correction_weight(log_rho, 0.5), flat(13 / 14, 0.75, 0.25, 0))


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_weights_at_the_limits(dtype: th.dtype) -> None:
    log_rho = th.tensor([-math.inf, -1e4, -1.0, 0.0, 1.0, 1e4, math.inf], dtype=dtype)
    rho = log_rho.exp()
    for c in (0.0, 1e-30, 1.0, 1e30):
        weight, correction = truncated_ratio(log_rho, c), correction_weight(log_rho, c)
        assert th.allclose(weight, rho.clamp(max=c)) and weight.isfinite().all()
        assert ((correction >= 0) & (correction <= 1)).all()
        assert weight[0] == 0 and correction[-1] == 1
    assert truncated_ratio(log_rho, math.inf).tolist() == rho.tolist()
    # Nothing is cut, so nothing is left to correct; everything is cut, so all of it is.
    assert correction_weight(log_rho, math.inf).tolist() == [0.0] * 7
    assert correction_weight(log_rho, 0.0).tolist() == [1.0] * 7
    assert correction_weight(log_rho, 1.0)[:4].tolist() == [0.0] * 4


@pytest.mark.parametrize("c", [-1.0, math.nan])
def test_a_negative_truncation_is_refused(c: float) -> None:
    for weight in (truncated_ratio, correction_weight):
        with pytest.raises(ValueError, match="c, the truncation of importance weights, must be >="):
            weight(th.zeros(2), c)


def test_log_ratios_are_exact_on_policy_and_finite() -> None:
    pi, mu = row(0.7, 0.2, 0.1), row(0.1, 0.3, 0.6)
    assert close(log_ratio(pi, mu).exp(), [7, 2 / 3, 1 / 6])
    assert log_ratio(pi, pi).tolist() == [[0.0] * 3]
    assert log_ratio(row(0, 1), row(1, 0)).isfinite().all()


# The gradient of a categorical policy


PI, MU, Q = row(0.7, 0.2, 0.1), row(0.1, 0.3, 0.6), row(2, 1, -1)
VALUE, Q_RET = flat(1.5), flat(2.5)


def hand_gradient(c: float, action: int = 0, q_ret: Tensor = Q_RET, mu: Tensor = MU) -> Tensor:
    return categorical_gradient(PI, th.tensor([action]), log_ratio(PI, mu), c, q_ret, Q, VALUE)


def test_gradient_by_hand() -> None:
    assert close(hand_gradient(2.0), [3.2142857, 0, 0], 1e-7)
    assert close(to_logits(PI, hand_gradient(2.0)), [0.675, -0.45, -0.225])


def test_gradient_without_truncation_is_importance_sampling() -> None:
    assert close(to_logits(PI, hand_gradient(math.inf)), [7 * 0.3, -7 * 0.2, -7 * 0.1])


def test_gradient_at_0_is_the_critic_s_alone() -> None:
    """sum_a pi (Q - V) grad log pi: whatever was done, how probable it was, and its return."""
    expected = [0.5, -0.5, -2.5]  # Q - V on probabilities, as pi and 1 / pi cancel
    for action in range(3):
        for q_ret in (flat(2.5), flat(-70)):
            for mu in (MU, PI):
                assert close(hand_gradient(0.0, action, q_ret, mu), expected)


@pytest.mark.parametrize("c", [1.0, 2.0, math.inf])
def test_on_policy_it_is_the_plain_policy_gradient(c: float) -> None:
    """pi = mu and c >= 1: A3C's, with V from Q as the baseline. With c < 1 it is not."""
    for action in range(3):
        score = th.nn.functional.one_hot(th.tensor([action]), 3) - PI
        found = to_logits(PI, hand_gradient(c, action, mu=PI))
        assert close(found, score * (Q_RET - VALUE))
        assert not close(to_logits(PI, hand_gradient(0.5, action, mu=PI)), found)


@pytest.mark.parametrize("c", CUTS)
def test_the_mean_over_the_behaviour_does_not_depend_on_the_truncation(c: float) -> None:
    """With Q for Q^ret both terms tell the same story, so no bias is left."""
    mean = sum(MU[0, action] * hand_gradient(c, action, q_ret=Q[:, action]) for action in range(3))
    assert isinstance(mean, Tensor) and close(mean, Q - VALUE)


class Problem:
    """Random samples of a categorical policy, float64."""

    def __init__(self, seed: int, n: int = 6, actions: int = 4) -> None:
        random = th.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return th.randn(*shape, generator=random, dtype=th.float64)

        self.logits, self.q, self.q_ret = normal(n, actions), normal(n, actions), normal(n)
        self.pi = self.logits.softmax(1)
        self.mu, self.average = normal(n, actions).softmax(1), normal(n, actions).softmax(1)
        self.value = (self.pi * self.q).sum(1)
        self.actions = th.randint(actions, (n,), generator=random)

    def objective(self, log_f: Tensor, c: float) -> Tensor:
        """Eq. 9 as it is printed, with grad log f left to autograd; ``log_f`` is ``[N, A]``."""
        rho = self.pi / self.mu
        total = th.zeros((), dtype=th.float64)
        for i, a in enumerate(self.actions.tolist()):
            total = (
                total
                + min(c, rho[i, a].item()) * log_f[i, a] * (self.q_ret[i] - self.value[i]).item()
            )
            for b in range(self.pi.shape[1]):
                weight = max(0.0, (rho[i, b].item() - c) / rho[i, b].item())
                advantage = (self.q[i, b] - self.value[i]).item()
                total = total + self.pi[i, b].item() * weight * log_f[i, b] * advantage
        return total

    def gradient(self, c: float) -> Tensor:
        return categorical_gradient(
            self.pi, self.actions, log_ratio(self.pi, self.mu), c, self.q_ret, self.q, self.value
        )


@pytest.mark.parametrize("c", [0.0, 0.7, 1.0, 2.0, 10.0, math.inf])
@pytest.mark.parametrize("seed", range(5))
def test_gradient_is_autograd_s(seed: int, c: float) -> None:
    problem = Problem(seed)
    phi = problem.pi.clone().requires_grad_()
    (expected,) = th.autograd.grad(problem.objective(phi.log(), c), phi)
    assert close(problem.gradient(c), expected, 1e-10)
    logits = problem.logits.clone().requires_grad_()
    (expected,) = th.autograd.grad(problem.objective(logits.log_softmax(1), c), logits)
    assert close(to_logits(problem.pi, problem.gradient(c)), expected, 1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_constraint_entropy_and_kl_are_autograd_s(seed: int) -> None:
    problem = Problem(seed)
    phi = problem.pi.clone().requires_grad_()
    kl = (problem.average * (problem.average.log() - phi.log())).sum()
    assert close(
        categorical_constraint(problem.pi, problem.average), th.autograd.grad(kl, phi)[0], 1e-10
    )
    entropy = -(phi * phi.log()).sum()
    assert close(entropy_gradient(problem.pi), th.autograd.grad(entropy, phi)[0])

    logits = problem.logits.clone().requires_grad_()
    average = Categorical(probs=problem.average)
    each = kl_divergence(average, Categorical(logits=logits))
    assert close(categorical_kl(problem.average, problem.pi), each.detach())
    (expected,) = th.autograd.grad(each.sum(), logits)
    assert close(logit_constraint(problem.pi, problem.average), expected)
    constraint = categorical_constraint(problem.pi, problem.average)
    assert close(to_logits(problem.pi, constraint), expected)
    (expected,) = th.autograd.grad(Categorical(logits=logits).entropy().sum(), logits)
    assert close(to_logits(problem.pi, entropy_gradient(problem.pi)), expected)


def test_probabilities_of_zero_give_no_infinity() -> None:
    pi, mu = th.tensor([[1.0, 0.0, 0.0]]), th.tensor([[0.0, 0.0, 1.0]])
    log_rho = log_ratio(pi, mu)
    for action in range(3):
        for c in CUTS:
            g = categorical_gradient(
                pi, th.tensor([action]), log_rho, c, th.ones(1), th.ones(1, 3), th.zeros(1)
            )
            k = categorical_constraint(pi, mu)
            for found in (g, k, to_logits(pi, g), project_to_trust_region(g, k, 1.0)):
                assert found.isfinite().all()
    assert entropy_gradient(pi).isfinite().all()
    assert categorical_kl(mu, pi).item() == pytest.approx(-math.log(FLOOR))
    assert categorical_kl(pi, pi).item() == 0


# Products of categoricals


SIZES = [2, 4, 3]


def product_problem(seed: int, n: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    random = th.Generator().manual_seed(seed)
    logits = th.randn(n, sum(SIZES), generator=random, dtype=th.float64)
    actions = th.stack([th.randint(size, (n,), generator=random) for size in SIZES], dim=1)
    parts = [one.softmax(1) for one in logits.split(SIZES, 1)]
    return logits, th.cat(parts, dim=1), actions


@pytest.mark.parametrize("seed", range(3))
def test_product_score_is_autograd_s(seed: int) -> None:
    logits, probabilities, actions = product_problem(seed)
    phi = probabilities.clone().requires_grad_()
    log_f = sum(
        part.log()[range(5), actions[:, j]].sum() for j, part in enumerate(phi.split(SIZES, 1))
    )
    score = product_score(probabilities, actions, SIZES)
    assert isinstance(log_f, Tensor) and close(score, th.autograd.grad(log_f, phi)[0])

    logits = logits.clone().requires_grad_()
    joint = sum(
        Categorical(logits=part).log_prob(actions[:, j]).sum()
        for j, part in enumerate(logits.split(SIZES, 1))
    )
    assert isinstance(joint, Tensor)
    found = to_logits(probabilities, score, SIZES)
    assert close(found, th.autograd.grad(joint, logits)[0])
    assert not close(to_logits(probabilities, score), found)  # one softmax over all is another


def test_product_kl_and_constraint_are_joint() -> None:
    logits, probabilities, _ = product_problem(0)
    _, average, _ = product_problem(1)
    logits = logits.requires_grad_()
    pairs = zip(average.split(SIZES, 1), logits.split(SIZES, 1), strict=True)
    each = [kl_divergence(Categorical(probs=a), Categorical(logits=b)) for a, b in pairs]
    joint = th.stack(each).sum(0)
    assert close(categorical_kl(average, probabilities), joint.detach())
    (expected,) = th.autograd.grad(joint.sum(), logits)
    assert close(logit_constraint(probabilities, average), expected)
    constraint = categorical_constraint(probabilities, average)
    assert close(to_logits(probabilities, constraint, SIZES), expected)


def test_a_product_of_one_is_a_categorical() -> None:
    problem = Problem(0)
    score = product_score(problem.pi, problem.actions.unsqueeze(1), [4])
    expected = th.zeros_like(problem.pi)
    for i, a in enumerate(problem.actions.tolist()):
        expected[i, a] = 1 / problem.pi[i, a]
    assert close(score, expected)
    assert close(to_logits(problem.pi, score, [4]), to_logits(problem.pi, score))


# Gaussians, and the sampled form


def test_gaussian_parts_are_autograd_s() -> None:
    th.manual_seed(0)
    mean, average, action = th.randn(3, 5, 4, dtype=th.float64)
    for sigma in (0.3, flat(0.1, 0.3, 1.0, 2.0)):
        leaf = mean.clone().requires_grad_()
        scale = th.as_tensor(sigma, dtype=th.float64).expand_as(leaf)
        policy, old = Independent(Normal(leaf, scale), 1), Independent(Normal(average, scale), 1)
        (score,) = th.autograd.grad(policy.log_prob(action).sum(), leaf)
        assert close(gaussian_score(mean, action, sigma), score, 1e-10)
        each = kl_divergence(old, policy)
        assert close(gaussian_kl(average, mean, sigma), each.detach(), 1e-10)
        (k,) = th.autograd.grad(each.sum(), leaf)
        assert close(gaussian_constraint(mean, average, sigma), k, 1e-10)


@pytest.mark.parametrize("c", [0.0, 0.5, 1.0, 5.0, math.inf])
def test_sampled_gradient_is_autograd_s(c: float) -> None:
    th.manual_seed(1)
    n, sigma = 6, 0.3
    mean, behaviour = 0.3 * th.randn(2, n, 2, dtype=th.float64)
    q_opc, q_sampled, value = th.randn(3, n, dtype=th.float64)
    mu = Independent(Normal(behaviour, sigma * th.ones_like(mean)), 1)
    leaf = mean.clone().requires_grad_()
    pi = Independent(Normal(leaf, sigma * th.ones_like(mean)), 1)
    action, sampled = mu.sample(), pi.sample()
    rho, sampled_rho = ((pi.log_prob(a) - mu.log_prob(a)).exp().detach() for a in (action, sampled))
    objective = (rho.clamp(max=c) * pi.log_prob(action) * (q_opc - value)).sum() + (
        # By its definition; c = infinity would be infinity over a number.
        (((sampled_rho - min(c, 1e300)) / sampled_rho).clamp(min=0))
        * pi.log_prob(sampled)
        * (q_sampled - value)
    ).sum()
    (expected,) = th.autograd.grad(objective, leaf)
    found = sampled_gradient(
        gaussian_score(mean, action, sigma),
        gaussian_score(mean, sampled, sigma),
        rho.log(),
        sampled_rho.log(),
        c,
        q_opc,
        q_sampled,
        value,
    )
    assert close(found, expected, 1e-9)


@pytest.mark.parametrize("c", [0.0, 0.5, 2.0, 10.0, math.inf])
def test_the_sampled_form_s_mean_is_the_exact_sum(c: float) -> None:
    """Over a' ~ pi it is eq. 9; the first term is the same."""
    problem = Problem(3, n=1)
    log_rho = log_ratio(problem.pi, problem.mu)
    taken = problem.actions.unsqueeze(1)
    mean = th.zeros_like(problem.pi)
    for b in range(4):
        other = th.tensor([[b]])
        mean += problem.pi[0, b] * sampled_gradient(
            product_score(problem.pi, taken, [4]),
            product_score(problem.pi, other, [4]),
            log_rho.gather(1, taken).squeeze(1),
            log_rho.gather(1, other).squeeze(1),
            c,
            problem.q_ret,
            problem.q[:, b],
            problem.value,
        )
    assert close(mean, problem.gradient(c))


def test_on_policy_the_sampled_form_is_the_plain_policy_gradient() -> None:
    score, other = row(2, -1), row(9, 9)
    zero = flat(0)
    found = sampled_gradient(score, other, zero, zero, 5.0, flat(3), flat(100), flat(1))
    assert found.tolist() == [[4.0, -2.0]]


# Stochastic dueling


def test_dueling_by_moments() -> None:
    """A = w a. Draws m +- sigma have the Gaussian's mean and variance, so the moments are exact."""
    w, m, sigma, n, value, a = 2.0, 0.4, 0.3, 5, 1.7, 1.1
    signs = th.cartesian_prod(*[flat(-1, 1)] * n)  # all 2^n draws, [2^n, n]
    draws = (m + sigma * signs).T
    samples = draws.shape[1]
    q = stochastic_dueling(
        th.full((samples,), value).double(), flat(w * a).expand(samples), w * draws
    )
    assert q.mean().item() == pytest.approx(value + w * (a - m))
    assert q.var(unbiased=False).item() == pytest.approx(w**2 * sigma**2 / n)
    assert q.var(unbiased=False).item() == pytest.approx(0.072)
    # Over a ~ pi, independent of the draws, V is left.
    actions = [m - sigma, m + sigma]
    means = [
        stochastic_dueling(
            th.full((samples,), value).double(), flat(w * one).expand(samples), w * draws
        ).mean()
        for one in actions
    ]
    assert (sum(means) / 2).item() == pytest.approx(value)


def test_dueling_is_differentiable_and_trains_the_value_through_q() -> None:
    value, advantage = th.zeros(2, requires_grad=True), th.zeros(2, requires_grad=True)
    others = th.zeros(4, 2, requires_grad=True)
    stochastic_dueling(value, advantage, others).sum().backward()
    assert value.grad.tolist() == [1, 1] and advantage.grad.tolist() == [1, 1]
    assert others.grad.tolist() == [[-0.25, -0.25]] * 4


def test_value_target_by_hand() -> None:
    """With continuous Retrace (d = 2) before it; the power is the trace's alone, not this one's."""
    rewards, q_taken, values = flat(1, 0, 2), flat(0.5, 1, 0.8), flat(0.4, 0.9, 0.6)
    rho, flags = flat(2, 0.5, 3), th.zeros(3, 1, dtype=th.bool)
    q_ret = retrace(
        *(one.unsqueeze(1) for one in (rewards, q_taken, values)),
        flat(1.5),
        rho.unsqueeze(1),
        0.9,
        flags,
        flags,
        dimensions=2,
    ).squeeze(1)
    found = value_target(q_ret, q_taken, values, rho.log())
    assert close(found, flat(2.8777868, 1.8175, 3.15), 1e-7)


# The trust region


def test_projection_by_hand() -> None:
    g, k = row(3, 1), row(1, 2)
    z = project_to_trust_region(g, k, 1.0)
    assert close(z, [2.2, -0.6]) and (k * z).sum().item() == pytest.approx(1)
    assert project_to_trust_region(g, k, 6.0).tolist() == g.tolist()
    assert project_to_trust_region(g, k, math.inf).tolist() == g.tolist()


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_without_a_constraint_g_stays(dtype: th.dtype) -> None:
    g, k = th.tensor([[3.0, 1.0]], dtype=dtype), th.zeros(1, 2, dtype=dtype)
    for delta in (0.0, 1.0, math.inf):
        assert project_to_trust_region(g, k, delta).tolist() == g.tolist()
        # A k whose square is no number of this dtype any more.
        small = th.full_like(k, 1e-30 if dtype == th.float32 else 1e-200)
        assert project_to_trust_region(g, small, delta).isfinite().all()


TRUST = {"average": row(0.2, 0.3, 0.5), "pi": row(0.5, 0.3, 0.2)}


def categorical_example() -> tuple[Tensor, Tensor]:
    """Action 2, rho = 1 and an advantage of -2, in the probabilities' coordinates."""
    pi = TRUST["pi"]
    g = categorical_gradient(
        pi, th.tensor([2]), th.zeros_like(pi), 10.0, flat(-2), th.zeros_like(pi), flat(0)
    )
    return g, categorical_constraint(pi, TRUST["average"])


def test_a_categorical_s_trust_region_by_hand() -> None:
    g, k = categorical_example()
    assert close(g, [0, 0, -10]) and close(k, [-0.4, -1, -2.5])
    z = project_to_trust_region(g, k, 1.0)
    assert close(z, [1.2955466, 3.2388664, -1.9028340], 1e-7)
    assert (k * z).sum().item() == pytest.approx(1)
    assert close(to_logits(TRUST["pi"], z), [0.0283401, 0.6, -0.6283401], 1e-7)
    assert close(to_logits(TRUST["pi"], g), [1, 0.6, -1.6])


def test_on_logits_the_same_bound_does_not_bind() -> None:
    pi = TRUST["pi"]
    g, k = to_logits(pi, categorical_example()[0]), logit_constraint(pi, TRUST["average"])
    assert close(k, [0.3, 0, -0.3]) and (k * g).sum().item() == pytest.approx(0.78)
    assert close(project_to_trust_region(g, k, 1.0), g)
    expected = [-0.1333333, 0.6, -0.4666667]
    assert close(project_to_trust_region(g, k, 0.1), expected, 1e-7)


def test_a_gaussian_s_trust_region_by_hand() -> None:
    mean, average, action, sigma = row(0.5, -0.2), row(0.1, 0), row(0.8, -0.5), 0.3
    zero = flat(0)
    score = gaussian_score(mean, action, sigma)
    g = sampled_gradient(score, score, zero, zero, 5.0, flat(2), flat(0), zero)
    k = gaussian_constraint(mean, average, sigma)
    assert close(g, [6.6667, -6.6667], 1e-4) and close(k, [4.4444, -2.2222], 1e-4)
    assert (k * g).sum().item() == pytest.approx(44.444, abs=1e-3)
    z = project_to_trust_region(g, k, 1.0)
    assert close(z, [-1.15333, -2.75667], 1e-5) and (k * z).sum().item() == pytest.approx(1)
    assert close(gaussian_kl(average, mean, sigma), flat(1.11111), 1e-5)


def test_the_projection_is_a_qp_solver_s() -> None:
    rng = np.random.default_rng(0)
    binding = 0
    for _ in range(200):
        n = int(rng.integers(1, 6))
        g, k = 2 * rng.normal(size=(2, n))
        delta = float(rng.uniform(0, 2))
        found = project_to_trust_region(*(th.from_numpy(one)[None] for one in (g, k)), delta)
        answer = minimize(
            lambda z, g=g: 0.5 * np.square(z - g).sum(),
            np.zeros(n),
            jac=lambda z, g=g: z - g,
            method="SLSQP",
            constraints={
                "type": "ineq",
                "fun": lambda z, k=k, delta=delta: delta - k @ z,
                "jac": lambda z, k=k: -k,
            },
            options={"ftol": 1e-15, "maxiter": 200},
        )
        np.testing.assert_allclose(found[0].numpy(), answer.x, atol=1e-7)
        binding += k @ g > delta
    assert 50 < binding < 150  # both sides were tried


def test_each_sample_is_its_own() -> None:
    """Repeated, reordered or alone: no sample's z knows of the others (no mean comes before it)."""
    problem = Problem(7)
    g, k = problem.gradient(2.0), categorical_constraint(problem.pi, problem.average)
    together = project_to_trust_region(g, k, 0.5)
    assert not close(together, g)
    for i in range(6):
        alone = slice(i, i + 1)
        one = categorical_gradient(
            problem.pi[alone],
            problem.actions[alone],
            log_ratio(problem.pi, problem.mu)[alone],
            2.0,
            problem.q_ret[alone],
            problem.q[alone],
            problem.value[alone],
        )
        z = project_to_trust_region(one, k[alone], 0.5)
        assert close(z, together[alone])
        repeated = project_to_trust_region(one.repeat(50, 1), k[alone].repeat(50, 1), 0.5)
        assert close(repeated, together[alone].repeat(50, 1))


def test_a_policy_that_is_its_average_is_not_held() -> None:
    """k is then -1 everywhere: the bound may bind, but moves z along what the softmax ignores."""
    problem = Problem(8)
    g = problem.gradient(10.0)
    z = project_to_trust_region(g, categorical_constraint(problem.pi, problem.pi), 0.1)
    assert not close(z, g)
    assert close(to_logits(problem.pi, z), to_logits(problem.pi, g))
    same = logit_constraint(problem.pi, problem.pi)
    assert close(project_to_trust_region(g, same, 0.1), g)


# Faults of public implementations: each gives another number where ours is known


def test_dividing_by_the_norm_of_g_leaves_the_trust_region() -> None:
    """dchetelat/acer: ||g||^2 for ||k||^2."""
    g, k = categorical_example()
    ours = project_to_trust_region(g, k, 1.0)
    theirs = g - ((k * g).sum() - 1).clamp(min=0) / g.square().sum() * k
    assert (k * theirs).sum().item() == pytest.approx(23.2, abs=0.05)
    assert (k * ours).sum().item() == pytest.approx(1)


def test_the_taken_action_alone_is_no_trust_region() -> None:
    """Kaixhin/ACER gathers g and KL at the taken action: the others' share of k is lost."""
    g, k = categorical_example()
    theirs = g[:, 2:] - ((k * g)[:, 2:].sum() - 1).clamp(min=0) / k[:, 2:].square().sum() * k[:, 2:]
    assert theirs.item() == pytest.approx(-0.4)
    assert project_to_trust_region(g, k, 1.0)[0, 2].item() == pytest.approx(-1.9028340)


def test_a_projection_of_the_mean_is_another() -> None:
    """Kaixhin/ACER: one multiplier for all. One sample that binds, and one far from binding."""
    g, k = th.cat([row(3, 1), row(-9, 0)]), th.cat([row(1, 2), row(1, 0)])
    ours = project_to_trust_region(g, k, 1.0)
    assert close(ours, th.cat([row(2.2, -0.6), row(-9, 0)]))
    multiplier = ((k * g).sum(1) - 1).mean().clamp(min=0) / k.square().sum(1).mean()
    theirs = g - multiplier * k
    assert close(theirs, g)  # the mean of 5 and -9 does not bind, so nobody is held
    assert (k[0] * theirs[0]).sum().item() == pytest.approx(5)


def test_a_g_of_the_batch_s_mean_makes_delta_meaningless() -> None:
    """DI-engine divides g by N, dchetelat g and k: the same sample in a larger batch is let go."""
    g, k = row(3, 1), row(1, 2)
    n = 10
    ours = project_to_trust_region(g.repeat(n, 1), k.repeat(n, 1), 1.0)
    assert close(ours, row(2.2, -0.6).repeat(n, 1))
    assert close(project_to_trust_region(g / n, k, 1.0) * n, g)
    assert close(project_to_trust_region(g / n, k / n, 1.0) * n, g)


def test_log_probabilities_are_another_space() -> None:
    """DI-engine projects there: k = -average and g is w at the action, so delta is another."""
    pi, average = TRUST["pi"], TRUST["average"]
    g, k = row(0, 0, -2), -average
    theirs = project_to_trust_region(g, k, 1.0)
    assert close(theirs, g)  # k.g = 1: on the bound, so all of g passes
    assert close(to_logits(pi, theirs / pi), [1, 0.6, -1.6])
    z = to_logits(pi, project_to_trust_region(*categorical_example(), 1.0))
    assert close(z, [0.0283401, 0.6, -0.6283401], 1e-7)


def test_ratios_of_single_dimensions_are_not_the_joint_s() -> None:
    """dchetelat/acer keeps the continuous densities apart: each dimension its own weight."""
    log_rho = row(math.log(2), math.log(0.25))
    score, zero = row(1, 1), flat(0)
    ours = sampled_gradient(score, score, log_rho.sum(1), zero, 5.0, flat(1), zero, zero)
    assert close(ours, [0.5, 0.5])
    assert close(truncated_ratio(log_rho, 5.0) * score, [2, 0.25])


def test_separate_projections_are_not_joint() -> None:
    """dchetelat/acer projects parts of phi by themselves, each with the whole delta."""
    g, k = row(3, 1), row(1, 2)
    parts = [project_to_trust_region(g[:, i : i + 1], k[:, i : i + 1], 1.0) for i in range(2)]
    theirs = th.cat(parts, dim=1)
    assert close(theirs, [1, 0.5]) and (k * theirs).sum().item() == pytest.approx(2)
    assert close(project_to_trust_region(g, k, 1.0), [2.2, -0.6])


# It learns, and the signs are right


def bandit(sign: float, c: float, delta: float = 1.0) -> Tensor:
    """Probabilities after 300 steps on three arms, from what a uniform behaviour did."""
    random = th.Generator().manual_seed(0)
    rewards = th.tensor([0.0, 1.0, 0.2], dtype=th.float64)
    logits, average = th.zeros(2, 1, 3, dtype=th.float64)
    mu = th.full((32, 3), 1 / 3, dtype=th.float64)
    for _ in range(300):
        pi = logits.softmax(1).expand(32, 3)
        actions = th.randint(3, (32,), generator=random)
        q = rewards.expand(32, 3)
        value = (pi * q).sum(1)
        g = categorical_gradient(pi, actions, log_ratio(pi, mu), c, rewards[actions], q, value)
        k = categorical_constraint(pi, average.softmax(1).expand(32, 3))
        z = to_logits(pi, project_to_trust_region(g, k, delta))
        logits = logits + sign * 0.5 * z.mean(0, keepdim=True)
        average = 0.9 * average + 0.1 * logits
    return logits.softmax(1)


@pytest.mark.parametrize("c", [0.0, 1.0, 10.0])
def test_a_bandit_is_learned_and_the_wrong_sign_fails(c: float) -> None:
    assert bandit(1.0, c)[0, 1].item() > 0.9
    assert bandit(-1.0, c)[0, 1].item() < 0.1


@pytest.mark.parametrize("c", [0.0, 1.0, 5.0])
def test_a_gaussian_bandit_is_learned(c: float) -> None:
    """Reward -(a - 1)^2, behaviour around 0: the mean goes to 1."""
    random = th.Generator().manual_seed(0)
    n, sigma = 64, 0.3
    mean = average = th.zeros(1, 1, dtype=th.float64)

    def reward(a: Tensor) -> Tensor:
        return -(a - 1).square().squeeze(1)

    for _ in range(400):
        noise = sigma * th.randn(2, n, 1, generator=random, dtype=th.float64)
        old = mean - 0.1
        phi = mean.expand(n, 1)
        action, sampled = old + noise[0], mean + noise[1]
        log_rho = [
            (((a - old) ** 2 - (a - mean) ** 2) / (2 * sigma**2)).squeeze(1)
            for a in (action, sampled)
        ]
        value = (-((mean - 1) ** 2) - sigma**2).expand(n, 1).squeeze(1)
        g = sampled_gradient(
            gaussian_score(phi, action, sigma),
            gaussian_score(phi, sampled, sigma),
            *log_rho,
            c,
            reward(action),
            reward(sampled),
            value,
        )
        k = gaussian_constraint(phi, average.expand(n, 1), sigma)
        mean = mean + 0.01 * project_to_trust_region(g, k, 1.0).mean()
        average = 0.9 * average + 0.1 * mean
    assert mean.item() == pytest.approx(1, abs=0.1)


def test_a_step_adds_no_more_than_delta_to_the_divergence() -> None:
    """Along z the KL rises at a rate of delta at most; of just delta where the bound binds."""
    problem = Problem(5, n=200)
    delta = 0.3
    k = categorical_constraint(problem.pi, problem.average)
    z = project_to_trust_region(problem.gradient(5.0), k, delta)
    phi = problem.pi.clone().requires_grad_()
    divergence = -(problem.average * phi.log()).sum()  # and the average's entropy, a constant
    rate = (th.autograd.grad(divergence, phi)[0] * z).sum(1)
    assert (rate <= delta + 1e-9).all()
    binds = (rate - delta).abs() < 1e-9
    assert 20 < binds.sum().item() < 180
    assert close(z[~binds], problem.gradient(5.0)[~binds])


# Gradients, dtypes, refusals


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_gradients_are_constants_of_the_same_dtype(dtype: th.dtype) -> None:
    pi = th.tensor([[0.5, 0.3, 0.2]], dtype=dtype, requires_grad=True)
    one, index = pi[:, 0], th.tensor([0])
    found = (
        categorical_gradient(pi, index, pi, 2.0, one, pi, one),
        categorical_constraint(pi, pi),
        logit_constraint(pi, pi),
        entropy_gradient(pi),
        to_logits(pi, pi),
        product_score(pi, th.tensor([[0, 1]]), [1, 2]),
        gaussian_score(pi, pi, 0.3),
        gaussian_constraint(pi, pi, 0.3),
        sampled_gradient(pi, pi, one, one, 2.0, one, one, one),
        value_target(one, one, one, one),
        project_to_trust_region(pi, pi, 1.0),
    )
    for tensor in found:
        assert tensor.dtype == dtype and not tensor.requires_grad


WIDE, NARROW = th.full((4, 3), 1 / 3), th.zeros(4)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            lambda: categorical_gradient(
                WIDE, NARROW.long(), WIDE, 2.0, NARROW, WIDE, NARROW[:, None]
            ),
            r"value must have the shape \[4\], got \[4, 1\]",
        ),
        (
            lambda: categorical_gradient(WIDE, NARROW.long(), NARROW, 2.0, NARROW, WIDE, NARROW),
            r"log_rho must have the shape \[4, 3\], got \[4\]",
        ),
        (lambda: categorical_constraint(WIDE, WIDE[:1]), r"average must have the shape \[4, 3\]"),
        (lambda: categorical_kl(WIDE[:1], WIDE), r"average must have the shape \[4, 3\]"),
        (lambda: gaussian_kl(WIDE[:1], WIDE, 0.3), r"average must have the shape \[4, 3\]"),
        (lambda: logit_constraint(WIDE, WIDE[:1]), r"average must have the shape \[4, 3\]"),
        (lambda: gaussian_constraint(WIDE, WIDE[:1], 1), r"average must have the shape \[4, 3\]"),
        (lambda: gaussian_score(WIDE, WIDE[:, :1], 1), r"action must have the shape \[4, 3\]"),
        (lambda: to_logits(WIDE, NARROW), r"gradient must have the shape \[4, 3\], got \[4\]"),
        (lambda: to_logits(WIDE, WIDE, [1, 1]), r"sizes must add up to the 3 .* \[1, 1\] .* sum 2"),
        (
            lambda: product_score(WIDE, NARROW.long(), [1, 2]),
            r"actions must have shape \[N, D\] = \[4, 2\], one index for each of .* \[1, 2\]",
        ),
        (
            lambda: sampled_gradient(
                WIDE, WIDE, NARROW[:, None], NARROW, 1.0, NARROW, NARROW, NARROW
            ),
            r"log_rho must have the shape \[4\], got \[4, 1\]",
        ),
        (
            lambda: stochastic_dueling(NARROW, NARROW, WIDE),
            r"sampled_advantages must have shape \[n, N\] with n >= 1 .* N = 4 .* got \[4, 3\]",
        ),
        (
            lambda: stochastic_dueling(NARROW, NARROW[:, None], NARROW[None]),
            r"advantage must have the shape \[4\]",
        ),
        (
            lambda: value_target(NARROW, NARROW, NARROW[:, None], NARROW),
            r"value must have the shape \[4\]",
        ),
        (lambda: project_to_trust_region(WIDE, WIDE[:1], 1.0), r"k must have the shape \[4, 3\]"),
        (lambda: project_to_trust_region(WIDE, WIDE, -1.0), r"delta, .* must be >= 0, got -1.0"),
        (lambda: project_to_trust_region(WIDE, WIDE, math.nan), r"delta, .* >= 0, got nan"),
    ],
)
def test_refusals(wrong: Callable[[], Tensor], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        wrong()
