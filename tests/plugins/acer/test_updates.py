"""A whole update, against gradients that autograd takes of the paper's objectives."""

import dataclasses

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch import Tensor

from sb3_ext.plugins.acer.policies import ACERPolicy
from sb3_ext.plugins.acer.statistics import Categoricals, Gaussian, statistics_of
from sb3_ext.plugins.acer.updates import Direction, Options, _quantiles, direction
from sb3_ext.trajectories.replay import Windows

SEEN = spaces.Box(-1, 1, (3,), np.float64)
SPACES = {
    "Discrete": spaces.Discrete(4),
    "MultiDiscrete": spaces.MultiDiscrete([3, 2]),
    "Box": spaces.Box(-1, 1, (2,), np.float32),
}
PLAIN = Options(
    gamma=0.9,
    correction_term=float("inf"),
    bias_correction=True,
    trust_region=False,
    trust_region_space="probabilities",
    delta=1.0,
    retrace_lambda=1.0,
    n_dual_samples=0,
    ent_coef=0.0,
    project_entropy=True,
    vf_coef=1.0,
)
every_space = pytest.mark.parametrize("kind", SPACES)


def policy_of(kind: str, seed: int = 0) -> ACERPolicy:
    """In float64, with an average that is another policy."""
    th.manual_seed(seed)
    made = ACERPolicy(SEEN, SPACES[kind], lambda _: 1e-3, net_arch=[8], ortho_init=False).double()
    made._seen = lambda obs: obs  # type: ignore[method-assign]  # SB3's has float32
    for parameter in made.average.parameters():
        parameter += 0.3 * th.randn_like(parameter)
    return made


def windows_of(policy: ACERPolicy, t: int = 4, b: int = 3, *, on_policy: bool = False) -> Windows:
    """Random steps; one window has a terminal step, another a truncated one."""
    n, family = t * b, policy.statistics
    seen = th.randn(n, 3, dtype=th.float64)
    with th.no_grad():
        outputs = policy.heads(seen)[0]
        noise = 0.0 if on_policy else 0.5
        behavior = family.parameters(outputs + noise * th.randn_like(outputs))
        actions = family.sample(behavior)[0]
    terminated, truncated = th.zeros(t, b, dtype=th.bool), th.zeros(t, b, dtype=th.bool)
    terminated[1, 0] = truncated[2, 1] = True
    return Windows(
        observations=seen,
        last_observations=th.randn(b, 3, dtype=th.float64),
        final_observations=th.randn(1, 3, dtype=th.float64),
        finals=th.tensor([2 * b + 1]),
        actions=actions,
        behavior=behavior,
        rewards=th.randn(t, b, dtype=th.float64),
        terminated=terminated,
        truncated=truncated,
    )


def log_prob(policy: ACERPolicy, seen: Tensor, actions: Tensor) -> Tensor:
    """By torch's distributions."""
    outputs = policy.heads(seen)[0]
    family = policy.statistics
    if isinstance(family, Gaussian):
        return th.distributions.Normal(outputs, 0.3).log_prob(actions).sum(dim=1)
    assert isinstance(family, Categoricals)
    return sum(  # type: ignore[return-value]
        th.distributions.Categorical(logits=part).log_prob(actions[:, i])
        for i, part in enumerate(outputs.split(family.sizes, dim=1))
    )


def behaved(policy: ACERPolicy, windows: Windows) -> Tensor:
    """Log density of what was done under what did it."""
    return policy.statistics.log_prob(windows.behavior, windows.actions)


def values_of(policy: ACERPolicy, windows: Windows) -> tuple[Tensor, Tensor]:
    """``Q`` of the taken actions and ``V``, flat; without samples, Q is V + A."""
    seen = windows.observations
    with th.no_grad():
        value = policy.predict_values(seen).squeeze(1)
        latent = policy.heads(seen)[2]
        if policy.advantage_net is None:
            return policy.value_net(latent).gather(1, windows.actions).squeeze(1), value
        return value + policy.advantages(latent, windows.actions[None])[0], value


def retraced(policy: ACERPolicy, windows: Windows, traces: Tensor, gamma: float = 0.9) -> Tensor:
    """Targets step by step: ``Q^ret_i = r_i + gamma (c (Q^ret - Q) + V)``, flat."""
    q, value = (one.reshape(windows.rewards.shape) for one in values_of(policy, windows))
    found = th.zeros_like(windows.rewards)
    with th.no_grad():
        beyond = policy.predict_values(windows.last_observations).squeeze(1)
        final = policy.predict_values(windows.final_observations).squeeze(1)
    t, b = found.shape
    for column in range(b):
        following = beyond[column]
        for step in reversed(range(t)):
            if windows.terminated[step, column]:
                following = th.zeros(())
            elif windows.truncated[step, column]:
                following = final[windows.finals.tolist().index(step * b + column)]
            found[step, column] = windows.rewards[step, column] + gamma * following
            c = traces.reshape(t, b)[step, column]
            following = c * (found[step, column] - q[step, column]) + value[step, column]
    return found.flatten()


def gradient(policy: ACERPolicy, loss: Tensor) -> list[Tensor]:
    """Of the actor alone."""
    learned = [p for one in policy._actor() for p in one.parameters()]
    return list(th.autograd.grad(loss, learned, allow_unused=False))


def actor_gradient(policy: ACERPolicy, found: Direction) -> list[Tensor]:
    policy.optimizer.zero_grad()
    found.backward()
    taken = [p.grad.clone() for one in policy._actor() for p in one.parameters()]  # type: ignore[union-attr]
    policy.optimizer.zero_grad()
    return taken


def require_close(one: list[Tensor], other: list[Tensor]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert th.allclose(a, b, rtol=1e-6, atol=1e-9)
    assert any(a.abs().max() > 1e-6 for a in one)


@every_space
def test_on_policy_it_is_the_actor_critic_gradient(kind: str) -> None:
    """pi = mu, nothing cut: the mean of grad log pi(a) (R - V), with R the on-policy return."""
    policy = policy_of(kind)
    windows = windows_of(policy, on_policy=True)
    returns = retraced(policy, windows, th.ones(12, dtype=th.float64))
    advantage = returns - values_of(policy, windows)[1]
    objective = (log_prob(policy, windows.observations, windows.actions) * advantage).mean()
    expected = gradient(policy, -objective)
    for c in (1.0, 10.0, float("inf")):  # all ratios are 1
        found = direction(policy, windows, dataclasses.replace(PLAIN, correction_term=c))
        require_close(actor_gradient(policy, found), expected)


@every_space
def test_without_a_cut_it_is_importance_sampling(kind: str) -> None:
    """The limit c = infinity, on old data: rho grad log pi (target - V)."""
    policy = policy_of(kind, 1)
    windows = windows_of(policy)
    logs = log_prob(policy, windows.observations, windows.actions)
    rho = (logs - behaved(policy, windows)).detach().exp()
    value = values_of(policy, windows)[1]
    traces = rho.clamp(max=1) if kind == "Discrete" else th.ones_like(rho)  # Q-opc elsewhere
    target = retraced(policy, windows, traces)
    expected = gradient(policy, -(rho * logs * (target - value)).mean())
    require_close(actor_gradient(policy, direction(policy, windows, PLAIN)), expected)


def test_cut_at_zero_it_is_the_critics_own_gradient() -> None:
    """c = 0: all of it is the exact correction, sum pi(a) (Q(a) - V), whatever was done."""
    policy = policy_of("Discrete", 2)
    windows = windows_of(policy)
    probabilities = policy.heads(windows.observations)[0].softmax(dim=1)
    q = policy.value_net(policy.heads(windows.observations)[2]).detach()
    expected = gradient(policy, -(probabilities * q).sum(dim=1).mean())
    options = dataclasses.replace(PLAIN, correction_term=0.0)
    require_close(actor_gradient(policy, direction(policy, windows, options)), expected)
    without = dataclasses.replace(options, bias_correction=False)
    taken = actor_gradient(policy, direction(policy, windows, without))
    assert all(one.abs().max() < 1e-12 for one in taken)


@pytest.mark.parametrize("kind", ["MultiDiscrete", "Box"])
def test_cut_at_zero_it_is_one_action_of_the_policy(kind: str) -> None:
    """grad log pi(a') (Q(a') - V) at an a' that was drawn; nothing if the correction is off."""
    policy = policy_of(kind, 9)
    windows = windows_of(policy)
    family = policy.statistics
    outputs, _, latent = policy.heads(windows.observations)
    th.manual_seed(0)
    drawn = family.sample(family.parameters(outputs).detach())[0]
    advantage = policy.advantages(latent, drawn[None])[0].detach()
    objective = log_prob(policy, windows.observations, drawn) * advantage
    expected = gradient(policy, -objective.mean())
    options = dataclasses.replace(PLAIN, correction_term=0.0)
    th.manual_seed(0)
    require_close(actor_gradient(policy, direction(policy, windows, options)), expected)
    without = dataclasses.replace(options, bias_correction=False)
    taken = actor_gradient(policy, direction(policy, windows, without))
    assert all(one.abs().max() < 1e-12 for one in taken)


@every_space
def test_what_is_logged(kind: str) -> None:
    """Against NumPy and torch's distributions."""
    policy = policy_of(kind, 10)
    windows = windows_of(policy)
    options = dataclasses.replace(PLAIN, correction_term=1.2)
    told = {k: v.item() for k, v in direction(policy, windows, options).metrics.items()}
    logs = log_prob(policy, windows.observations, windows.actions)
    rho = (logs - behaved(policy, windows)).exp().detach().numpy()
    assert told["truncated"] == pytest.approx((rho > 1.2).mean()) and 0 < told["truncated"] < 0.9
    for name, share in (("rho_p10", 0.1), ("rho_p50", 0.5), ("rho_p90", 0.9)):
        assert told[name] == pytest.approx(np.quantile(rho, share))
    outputs, slow, _ = policy.heads(windows.observations)
    family = policy.statistics
    if isinstance(family, Gaussian):
        pairs = [(th.distributions.Normal(slow, 0.3), th.distributions.Normal(outputs, 0.3))]
    else:
        assert isinstance(family, Categoricals)
        parts = (slow.split(family.sizes, dim=1), outputs.split(family.sizes, dim=1))
        made = [[th.distributions.Categorical(logits=one) for one in each] for each in parts]
        pairs = list(zip(*made, strict=True))
    kl = sum(th.distributions.kl_divergence(*pair).reshape(12, -1).sum(dim=1) for pair in pairs)
    entropy = sum(pair[1].entropy().reshape(12, -1).sum(dim=1) for pair in pairs)
    assert told["kl_to_average"] == pytest.approx(kl.mean().item())  # type: ignore[union-attr]
    assert told["entropy"] == pytest.approx(entropy.mean().item())  # type: ignore[union-attr]


@every_space
def test_the_critics_gradient(kind: str) -> None:
    """(Q^ret - Q) grad Q; with a dueling network also min(1, rho) (Q^ret - Q) grad V."""
    policy = policy_of(kind, 3)
    windows = windows_of(policy)
    rho = (
        log_prob(policy, windows.observations, windows.actions) - behaved(policy, windows)
    ).detach()
    rho = rho.exp()
    dimensions = policy.statistics.dimensions
    target = retraced(policy, windows, rho.pow(1 / dimensions).clamp(max=1))
    q, _ = values_of(policy, windows)
    error = target - q
    latent = policy.heads(windows.observations)[2]
    if kind == "Discrete":
        objective = error * policy.value_net(latent).gather(1, windows.actions).squeeze(1)
    else:
        v = policy.value_net(latent).squeeze(1)
        advantage = policy.advantages(latent, windows.actions[None])[0]
        objective = error * (v + advantage) + rho.clamp(max=1) * error * v
    critic = [*policy.mlp_extractor.value_net.parameters(), *policy.value_net.parameters()]
    if policy.advantage_net is not None:
        critic += list(policy.advantage_net.parameters())
    expected = list(th.autograd.grad(-objective.mean(), critic))
    found = direction(policy, windows, PLAIN)
    require_close(list(th.autograd.grad(found.critic_loss, critic)), expected)


@every_space
def test_the_critic_trains_no_actor(kind: str) -> None:
    """Neither through V, a mean under the policy, nor through sampled actions."""
    policy = policy_of(kind)
    options = dataclasses.replace(PLAIN, n_dual_samples=3)
    found = direction(policy, windows_of(policy), options)
    learned = [p for one in policy._actor() for p in one.parameters()]
    taken = th.autograd.grad(found.critic_loss, learned, allow_unused=True)
    assert all(one is None or one.abs().max() == 0 for one in taken)


@pytest.mark.parametrize(
    ("kind", "space"),
    [
        *((kind, "probabilities") for kind in SPACES),
        ("Discrete", "logits"),
        ("MultiDiscrete", "logits"),
    ],
)
def test_every_step_is_held_within_its_own_trust_region(kind: str, space: str) -> None:
    """k . z <= delta, with k by autograd of KL(average || policy), and z near g where it holds."""
    policy = policy_of(kind, 4)
    windows = windows_of(policy)
    options = dataclasses.replace(
        PLAIN, trust_region=True, delta=0.05, trust_region_space=space, correction_term=5.0
    )
    free = dataclasses.replace(options, trust_region=False)
    th.manual_seed(0)
    held = direction(policy, windows, options)
    th.manual_seed(0)
    loose = direction(policy, windows, free)
    outputs, slow, _ = policy.heads(windows.observations)
    if kind == "Box":
        leaf = outputs.detach().requires_grad_()
        kl = ((leaf - slow).square() / (2 * 0.3**2)).sum()
    else:
        family = policy.statistics
        base = outputs if space == "logits" else family.parameters(outputs).exp()
        leaf = base.detach().requires_grad_()
        live = family.parameters(leaf) if space == "logits" else leaf.log()
        kl = (family.parameters(slow).exp() * -live).sum()
    (k,) = th.autograd.grad(kl, leaf)
    along = (k * loose.z).sum(dim=1)
    assert (along > 0.05).any() and (along < 0.05).any()
    assert ((k * held.z).sum(dim=1) <= 0.05 + 1e-9).all()
    inside = along <= 0.05
    assert th.allclose(held.z[inside], loose.z[inside])
    assert held.metrics["binding"].item() == pytest.approx((~inside).double().mean().item())


def test_a_repeated_step_never_changes_its_direction() -> None:
    """Means are taken after the projection, so a window's z does not know of the others."""
    policy = policy_of("Discrete", 5)
    one = windows_of(policy, b=1 + 2)
    options = dataclasses.replace(PLAIN, trust_region=True, delta=0.05, ent_coef=0.1)
    alone = direction(policy, one, options).z
    times = 4
    twice = dataclasses.replace(
        one,
        observations=one.observations.reshape(4, 3, 3).repeat(1, times, 1).reshape(-1, 3),
        last_observations=one.last_observations.repeat(times, 1),
        final_observations=one.final_observations.repeat(times, 1),
        finals=th.tensor([2 * 12 + 1 + 3 * i for i in range(times)]),
        actions=one.actions.reshape(4, 3, 1).repeat(1, times, 1).reshape(-1, 1),
        behavior=one.behavior.reshape(4, 3, -1).repeat(1, times, 1).reshape(48, -1),
        rewards=one.rewards.repeat(1, times),
        terminated=one.terminated.repeat(1, times),
        truncated=one.truncated.repeat(1, times),
    )
    many = direction(policy, twice, options)
    assert th.allclose(many.z.reshape(4, times, 3, -1), alone.reshape(4, 1, 3, -1))
    # And the gradient is a mean: entropy and all, it does not grow with the batch.
    require_close(
        actor_gradient(policy, many), actor_gradient(policy, direction(policy, one, options))
    )


@pytest.mark.parametrize("projected", [True, False])
@pytest.mark.parametrize("kind", ["Discrete", "MultiDiscrete"])
def test_entropy_is_ascended_as_a_mean(kind: str, projected: bool) -> None:
    policy = policy_of(kind, 6)
    windows = windows_of(policy)
    family = policy.statistics
    logs = family.parameters(policy.heads(windows.observations)[0])
    entropy = -(logs.exp() * logs).sum(dim=1).mean()
    expected = gradient(policy, -0.3 * entropy)
    options = dataclasses.replace(PLAIN, project_entropy=projected, n_dual_samples=2)
    th.manual_seed(0)
    without = actor_gradient(policy, direction(policy, windows, options))
    th.manual_seed(0)
    paid = dataclasses.replace(options, ent_coef=0.3)
    found = actor_gradient(policy, direction(policy, windows, paid))
    require_close([a - b for a, b in zip(found, without, strict=True)], expected)


def test_entropy_before_or_after_the_projection() -> None:
    """Before, the bound holds the sum; after, the bonus comes on top of what is held."""
    policy = policy_of("Discrete", 7)
    windows = windows_of(policy)
    options = dataclasses.replace(PLAIN, trust_region=True, delta=0.01, correction_term=2.0)
    held = direction(policy, windows, options).z
    free = direction(policy, windows, dataclasses.replace(options, trust_region=False)).z
    outputs, slow, _ = policy.heads(windows.observations)
    pi, k = outputs.softmax(1).detach(), -slow.softmax(1) / outputs.softmax(1).detach()
    bonus = 5.0 * (-pi.log() - 1)
    paid = dataclasses.replace(options, ent_coef=5.0)
    after = direction(policy, windows, dataclasses.replace(paid, project_entropy=False)).z
    assert th.allclose(after, held + bonus)
    before = direction(policy, windows, paid).z
    whole = free + bonus
    excess = ((k * whole).sum(dim=1, keepdim=True) - 0.01).clamp(min=0)
    assert th.allclose(before, whole - excess / k.square().sum(dim=1, keepdim=True) * k)
    assert not th.allclose(before, after)


def test_logits_and_probabilities_agree_where_nothing_is_projected() -> None:
    for kind in ("Discrete", "MultiDiscrete"):
        policy = policy_of(kind, 8)
        windows = windows_of(policy)
        taken = []
        for space in ("probabilities", "logits"):
            th.manual_seed(0)
            options = dataclasses.replace(PLAIN, trust_region_space=space, correction_term=2.0)
            taken.append(actor_gradient(policy, direction(policy, windows, options)))
        require_close(*taken)


def test_densities_are_of_all_dimensions_together() -> None:
    """Against torch; per dimension, they would be of another shape."""
    family = statistics_of(spaces.Box(-1, 1, (3,)), 0.5)
    mean, actions = th.randn(6, 3), th.randn(6, 3)
    normal = th.distributions.Independent(th.distributions.Normal(mean, 0.5), 1)
    assert th.allclose(
        family.log_prob(family.parameters(mean), actions), normal.log_prob(actions), atol=1e-5
    )
    several = statistics_of(spaces.MultiDiscrete([3, 4]), 0.5)
    logits, chosen = th.randn(6, 7), th.tensor([[2, 0], [0, 3], [1, 1]]).repeat(2, 1)
    expected = th.distributions.Categorical(logits=logits[:, :3]).log_prob(chosen[:, 0])
    expected += th.distributions.Categorical(logits=logits[:, 3:]).log_prob(chosen[:, 1])
    assert th.allclose(several.log_prob(several.parameters(logits), chosen), expected, atol=1e-6)
    assert several.encode(chosen)[0].tolist() == [0, 0, 1, 1, 0, 0, 0]


@every_space
def test_samples_follow_the_distribution(kind: str) -> None:
    th.manual_seed(0)
    family = statistics_of(SPACES[kind], 0.3)
    parameters = family.parameters(th.randn(1, family.outputs)).repeat(40_000, 1)
    drawn = family.encode(family.sample(parameters)[0]).float()
    expected = parameters[0, : family.outputs]
    expected = expected if kind == "Box" else expected.exp()
    assert th.allclose(drawn.mean(dim=0), expected, atol=0.012)
    if kind == "Box":
        assert th.allclose(drawn.std(dim=0), th.tensor(0.3), atol=0.01)
    assert th.equal(family.mode(parameters[:1]), family.mode(parameters)[:1])


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_the_quantiles_that_are_logged_are_torch_s(n: int) -> None:
    values, shares = th.randn(n), (0.1, 0.5, 0.9)
    th.testing.assert_close(_quantiles(values, shares), values.quantile(th.tensor(shares)))
