"""Returns against hand calculations, an expanded sum in O(T^2), and exact means in small MDPs."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch as th
from torch import Tensor

from sb3_ext.trajectories.returns import (
    importance_sampled,
    n_step,
    q_opc,
    retrace,
    tree_backup,
    vtrace,
)

Method = Callable[..., Tensor]
GAMMA = 0.9
NO = (False, False, False)


def column(*numbers: float) -> Tensor:
    return th.tensor(numbers, dtype=th.float64).unsqueeze(1)


REWARDS, Q_TAKEN, VALUES = column(1, 0, 2), column(0.5, 1, 0.8), column(0.4, 0.9, 0.6)
PI, MU = column(0.5, 0.2, 0.9), column(0.25, 0.4, 0.3)
RHO, NEXT_VALUE = PI / MU, th.tensor([1.5], dtype=th.float64)

METHODS: dict[str, Method] = {
    "retrace": lambda *ends: retrace(REWARDS, Q_TAKEN, VALUES, NEXT_VALUE, RHO, GAMMA, *ends),
    "q_opc": lambda *ends: q_opc(REWARDS, Q_TAKEN, VALUES, NEXT_VALUE, GAMMA, *ends),
    "continuous": lambda *ends: retrace(
        REWARDS, Q_TAKEN, VALUES, NEXT_VALUE, RHO, GAMMA, *ends, dimensions=2
    ),
    "tree_backup": lambda *ends: tree_backup(
        REWARDS, Q_TAKEN, VALUES, NEXT_VALUE, PI, GAMMA, *ends
    ),
    "importance": lambda *ends: importance_sampled(
        REWARDS, Q_TAKEN, VALUES, NEXT_VALUE, RHO, GAMMA, *ends
    ),
    "one_step": lambda *ends: retrace(
        REWARDS, Q_TAKEN, VALUES, NEXT_VALUE, RHO, GAMMA, *ends, lambda_=0.0
    ),
}


def ends(terminated: tuple[bool, ...] = NO, truncated: tuple[bool, ...] = NO) -> tuple[Tensor, ...]:
    return th.tensor(terminated).unsqueeze(1), th.tensor(truncated).unsqueeze(1)


def close(found: Tensor, expected: Tensor | tuple[float, ...], tolerance: float = 1e-12) -> bool:
    if isinstance(expected, tuple):
        expected = column(*expected)
    return th.allclose(found, expected, rtol=0, atol=tolerance)


# By hand


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("retrace", (2.63575, 2.835, 3.35)),
        ("q_opc", (3.4615, 2.835, 3.35)),
        ("continuous", (2.9777868, 2.835, 3.35)),
        ("tree_backup", (2.09899, 2.6055, 3.35)),
        ("importance", (4.70125, 7.425, 3.35)),
        ("one_step", (1.81, 0.54, 3.35)),
    ],
)
def test_by_hand(method: str, expected: tuple[float, ...]) -> None:
    assert close(METHODS[method](*ends()), expected, 1e-7)


@pytest.mark.parametrize(
    ("method", "expected"), [("retrace", (2.089, 1.62, 2.0)), ("q_opc", (2.368, 1.62, 2.0))]
)
def test_terminated_at_the_end_by_hand(method: str, expected: tuple[float, ...]) -> None:
    assert close(METHODS[method](*ends((False, False, True))), expected)


def test_the_sum_of_traces_is_another_number() -> None:
    """The lecture prints a sum over s for the product of traces, which loses the first error."""
    first = METHODS["retrace"](*ends())[0].item()
    cut = RHO.clamp(max=1).flatten()
    errors = (1.31, -0.46, 2.55)  # r + gamma V' - Q
    assert close(METHODS["one_step"](*ends()) - Q_TAKEN, errors)
    summed = 0.5 + sum(
        GAMMA**t * cut[1 : t + 1].sum().item() * error for t, error in enumerate(errors)
    )
    assert summed == pytest.approx(3.39125)
    assert first == pytest.approx(2.63575)


def test_a_termination_inside() -> None:
    assert close(METHODS["retrace"](*ends((False, True, False))), (1.36, 0, 3.35))


def test_a_truncation_inside() -> None:
    """A time limit is no end of the rewards: the last observation's value counts (2.0), not 0."""
    found = METHODS["retrace"](*ends(truncated=(False, True, False)), column(9, 2, 9))
    assert close(found, (2.17, 1.8, 3.35))


def test_a_truncation_at_the_end_does_not_look_at_the_next_value() -> None:
    """``next_value`` is of the next episode's first observation there."""
    found = METHODS["q_opc"](*ends(truncated=(False, False, True)), column(math.nan, math.nan, 0))
    assert close(found, METHODS["q_opc"](*ends((False, False, True))))


def test_both_ends_at_once_is_a_termination() -> None:
    both = ends((False, True, False), (False, True, False))
    expected = METHODS["retrace"](*ends((False, True, False)))
    assert close(METHODS["retrace"](*both), expected)
    assert close(METHODS["retrace"](*both, column(5, 5, 5)), expected)


def test_vtrace_by_hand() -> None:
    targets, advantages = vtrace(REWARDS, VALUES, NEXT_VALUE, RHO, GAMMA, *ends())
    assert close(targets, (2.76175, 1.9575, 3.35))
    assert close(advantages, (2.36175, 1.0575, 2.75))


def test_vtrace_on_policy_by_hand() -> None:
    ones = th.ones_like(RHO)
    targets, advantages = vtrace(REWARDS, VALUES, NEXT_VALUE, ones, GAMMA, *ends())
    assert close(targets, (3.7135, 3.015, 3.35))
    assert close(targets, n_step(REWARDS, NEXT_VALUE, GAMMA, *ends()))
    assert close(advantages, (3.3135, 2.115, 2.75))


# The expanded sums, term by term


def expanded(window: dict[str, np.ndarray], traces: np.ndarray, gamma: float) -> np.ndarray:
    """Q + sum_t gamma^t (prod_s c_s) (r_t + gamma V(x_{t+1}) - Q_t), in O(T^2) and plain floats."""
    steps, envs = window["rewards"].shape
    found = np.empty((steps, envs))
    for b in range(envs):
        for i in range(steps):
            total = window["q_taken"][i, b]
            for t in range(i, steps):
                product = math.prod(traces[s, b] for s in range(i + 1, t + 1))
                error = window["rewards"][t, b] - window["q_taken"][t, b]
                error += gamma * value_after(window, t, b)
                total += gamma ** (t - i) * product * error
                if window["terminated"][t, b] or window["truncated"][t, b]:
                    break
            found[i, b] = total
    return found


def value_after(window: dict[str, np.ndarray], t: int, b: int) -> float:
    if window["terminated"][t, b]:
        return 0.0
    if window["truncated"][t, b]:
        return float(window["truncation_values"][t, b])
    if t + 1 == len(window["values"]):
        return float(window["next_value"][b])
    return float(window["values"][t + 1, b])


def expanded_vtrace(
    window: dict[str, np.ndarray], gamma: float, lambda_: float, clip_rho: float, clip_c: float
) -> tuple[np.ndarray, np.ndarray]:
    steps, envs = window["rewards"].shape
    targets, advantages = np.empty((2, steps, envs))
    for b in range(envs):
        for i in range(steps):
            total = window["values"][i, b]
            for t in range(i, steps):
                product = math.prod(lambda_ * min(clip_c, window["rho"][s, b]) for s in range(i, t))
                error = window["rewards"][t, b] + gamma * value_after(window, t, b)
                error -= window["values"][t, b]
                total += gamma ** (t - i) * product * min(clip_rho, window["rho"][t, b]) * error
                if window["terminated"][t, b] or window["truncated"][t, b]:
                    break
            targets[i, b] = total
        for i in range(steps):
            # The value after a step is V-trace's own where the episode goes on.
            following = value_after({**window, "values": targets}, i, b)
            advantages[i, b] = min(1.0, window["rho"][i, b]) * (
                window["rewards"][i, b] + gamma * following - window["values"][i, b]
            )
    return targets, advantages


def random_window(seed: int) -> dict[str, np.ndarray]:
    """Some steps of some environments, of which about every fourth ends."""
    rng = np.random.default_rng(seed)
    steps, envs = int(rng.integers(1, 13)), int(rng.integers(2, 6))
    shape = (steps, envs)
    kind = rng.choice(4, size=shape, p=[0.72, 0.12, 0.12, 0.04])
    numbers = {name: rng.normal(size=shape) for name in ("rewards", "q_taken", "values")}
    return {
        **numbers,
        "next_value": rng.normal(size=envs),
        "rho": np.exp(rng.normal(size=shape)),
        "pi_taken": rng.uniform(size=shape),
        "terminated": np.isin(kind, (1, 3)),
        "truncated": np.isin(kind, (2, 3)),
        # What is not truncated must not be looked at.
        "truncation_values": np.where(kind == 2, rng.normal(size=shape), np.nan),
    }


SEEDS = range(60)


@pytest.mark.parametrize("seed", SEEDS)
def test_equal_to_the_expanded_sum(seed: int) -> None:
    window = random_window(seed)
    rho, pi_taken, gamma = window["rho"], window["pi_taken"], (0.9, 0.99, 1.0)[seed % 3]
    lambda_ = (1.0, 0.7)[seed % 2]
    given = {name: th.from_numpy(array) for name, array in window.items()}
    rest = {name: given[name] for name in ("terminated", "truncated", "truncation_values")}
    critic = [given[name] for name in ("rewards", "q_taken", "values", "next_value")]
    found = {
        "retrace": retrace(*critic, given["rho"], gamma, **rest, lambda_=lambda_),
        "continuous": retrace(*critic, given["rho"], gamma, **rest, dimensions=3),
        "q_opc": q_opc(*critic, gamma, **rest),
        "tree_backup": tree_backup(*critic, given["pi_taken"], gamma, **rest, lambda_=lambda_),
        "importance": importance_sampled(*critic, given["rho"], gamma, **rest),
    }
    traces = {
        "retrace": lambda_ * np.minimum(1, rho),
        "continuous": np.minimum(1, rho ** (1 / 3)),
        "q_opc": np.ones_like(rho),
        "tree_backup": lambda_ * pi_taken,
        "importance": rho,
    }
    for name, trace in traces.items():
        np.testing.assert_allclose(
            found[name].numpy(), expanded(window, trace, gamma), rtol=1e-9, atol=1e-9, err_msg=name
        )


@pytest.mark.parametrize("seed", SEEDS)
def test_n_step_is_equal_to_the_discounted_rewards(seed: int) -> None:
    window = random_window(seed)
    given = {name: th.from_numpy(array) for name, array in window.items()}
    rest = [given[name] for name in ("terminated", "truncated", "truncation_values")]
    found = n_step(given["rewards"], given["next_value"], GAMMA, *rest)
    steps, envs = window["rewards"].shape
    for b in range(envs):
        for i in range(steps):
            total = 0.0
            for t in range(i, steps):
                total += GAMMA ** (t - i) * window["rewards"][t, b]
                over = window["terminated"][t, b] or window["truncated"][t, b]
                if over or t + 1 == steps:
                    total += GAMMA ** (t + 1 - i) * value_after(window, t, b)
                    break
            assert found[i, b].item() == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_vtrace_is_equal_to_the_expanded_sum(seed: int) -> None:
    window = random_window(seed)
    given = {name: th.from_numpy(array) for name, array in window.items()}
    options = {"lambda_": (1.0, 0.8)[seed % 2], "clip_rho": (1.0, 2.0, 0.5)[seed % 3]}
    options["clip_c"] = (1.0, 1.3)[seed % 2]
    names = ("terminated", "truncated", "truncation_values")
    critic = [given[name] for name in ("rewards", "values", "next_value", "rho")]
    targets, advantages = vtrace(*critic, GAMMA, *(given[name] for name in names), **options)
    expected = expanded_vtrace(window, GAMMA, **options)
    np.testing.assert_allclose(targets.numpy(), expected[0], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(advantages.numpy(), expected[1], rtol=1e-9, atol=1e-9)


# Limits, and what connects the methods


def whole_window(seed: int) -> tuple[list[Tensor], list[Tensor]]:
    window = random_window(seed)
    given = {name: th.from_numpy(array) for name, array in window.items()}
    critic = [given[name] for name in ("rewards", "q_taken", "values", "next_value")]
    return critic, [given[name] for name in ("terminated", "truncated", "truncation_values")]


@pytest.mark.parametrize("seed", range(10))
def test_on_policy_with_deterministic_actions_it_is_the_n_step_return(seed: int) -> None:
    """pi = mu and lambda = 1; V = Q as for a policy of one action: nothing is left to correct."""
    (rewards, values, _, next_value), ended = whole_window(seed)
    critic = (rewards, values, values, next_value)
    expected = n_step(rewards, next_value, GAMMA, *ended)
    ones = th.ones_like(rewards)
    assert close(retrace(*critic, ones, GAMMA, *ended), expected)
    assert close(q_opc(*critic, GAMMA, *ended), expected)
    assert close(importance_sampled(*critic, ones, GAMMA, *ended), expected)
    assert close(vtrace(rewards, values, next_value, ones, GAMMA, *ended)[0], expected)


@pytest.mark.parametrize("seed", range(10))
def test_without_a_trace_it_is_the_one_step_target(seed: int) -> None:
    critic, ended = whole_window(seed)
    zeros = th.zeros_like(critic[0])
    expected = retrace(*critic, zeros + 7, GAMMA, *ended, lambda_=0.0)
    for c in (
        retrace(*critic, zeros, GAMMA, *ended),
        retrace(*critic, zeros, GAMMA, *ended, dimensions=6),
        tree_backup(*critic, zeros, GAMMA, *ended),
        importance_sampled(*critic, zeros, GAMMA, *ended),
    ):
        assert close(c, expected)


def test_dimensions_change_the_trace_where_the_ratio_is_small() -> None:
    """(1/64)^(1/3) = 1/4; a ratio above 1 is cut at 1 either way."""
    zeros, ones = th.zeros(2, 2), th.ones(2, 2)
    rho = th.tensor([[1.0, 1.0], [1 / 64, 64.0]])
    flags = zeros.bool()
    given = (ones, zeros, zeros, th.zeros(2), rho, 1.0, flags, flags)
    assert retrace(*given, dimensions=3)[0].tolist() == pytest.approx([1.25, 2.0])
    assert retrace(*given)[0].tolist() == pytest.approx([1 + 1 / 64, 2.0])


# Exact expectations in small MDPs


class Tabular:
    """A random MDP, two policies and a critic; and a return's mean over all trajectories of mu."""

    states, actions, steps, gamma = 3, 2, 4, 0.9

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.transition = rng.dirichlet(np.ones(self.states), (self.states, self.actions))
        self.reward = rng.normal(size=(self.states, self.actions))
        self.pi, self.mu = rng.dirichlet(np.ones(self.actions), (2, self.states))
        self.q = 3 * rng.normal(size=(self.states, self.actions))
        n = self.states * self.actions
        step = np.einsum("xay,yb->xayb", self.transition, self.pi).reshape(n, n)
        exact = np.linalg.solve(np.eye(n) - self.gamma * step, self.reward.reshape(n))
        self.q_pi = exact.reshape(self.states, self.actions)

    def mean(self, method: Method, q: np.ndarray) -> np.ndarray:
        """``E_mu[target of the first step | x, a]``, all trajectories enumerated, ``[S, A]``."""
        found = np.empty_like(q)
        for x in range(self.states):
            for a in range(self.actions):
                trajectories, weights = self._trajectories(x, a)
                found[x, a] = weights @ self._targets(method, trajectories, q)
        return found

    def error(self, q: np.ndarray) -> float:
        return float(np.abs(q - self.q_pi).max())

    def _trajectories(self, x: int, a: int) -> tuple[np.ndarray, np.ndarray]:
        """x0 a0 x1 a1 ... x_T, ``[N, 2 T + 1]``, and how probable each one is under mu."""
        paths = [((x, a), 1.0)]
        for i in range(self.steps):
            paths = [
                ((*path, y), p * self.transition[path[-2], path[-1], y])
                for path, p in paths
                for y in range(self.states)
            ]
            if i + 1 < self.steps:
                paths = [
                    ((*path, b), p * self.mu[path[-1], b])
                    for path, p in paths
                    for b in range(self.actions)
                ]
        return np.array([path for path, _ in paths]), np.array([p for _, p in paths])

    def _targets(self, method: Method, paths: np.ndarray, q: np.ndarray) -> np.ndarray:
        x, a, last = paths[:, 0:-1:2].T, paths[:, 1::2].T, paths[:, -1]
        v = (self.pi * q).sum(axis=1)
        flags = th.zeros(x.shape, dtype=th.bool)
        given = [th.from_numpy(one) for one in (self.reward[x, a], q[x, a], v[x], v[last])]
        found = method(
            given, th.from_numpy(self.pi[x, a]), th.from_numpy(self.mu[x, a]), self.gamma, flags
        )
        return found[0].numpy()

    def truncated_with_correction(self, c: float) -> np.ndarray:
        """ACER's operator B over a window: weights cut at c, and the correction inside."""
        n = self.states * self.actions
        cut = np.minimum(self.pi, c * self.mu) if math.isfinite(c) else self.pi
        leftover = self.pi - cut  # = pi [1 - c / rho]+
        go = self.gamma * np.einsum("xay,yb->xayb", self.transition, cut).reshape(n, n)
        corrected = self.transition @ (leftover * self.q).sum(axis=1)
        whole = self.transition @ (self.pi * self.q).sum(axis=1)
        inner = (self.reward + self.gamma * corrected).reshape(n)
        total = (self.reward + self.gamma * whole).reshape(n)  # the window's last step
        for _ in range(self.steps - 1):
            total = inner + go @ total
        return total.reshape(self.states, self.actions)


def by_retrace(given, pi, mu, gamma, flags, lambda_=1.0):
    rho = pi / mu
    return retrace(*given, rho, gamma, flags, flags, lambda_=lambda_)


def by_importance(given, pi, mu, gamma, flags):
    return importance_sampled(*given, pi / mu, gamma, flags, flags)


def by_q_opc(given, pi, mu, gamma, flags):
    return q_opc(*given, gamma, flags, flags)


def by_tree(given, pi, mu, gamma, flags):
    return tree_backup(*given, pi, gamma, flags, flags)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("method", [by_retrace, by_tree, by_importance])
def test_the_policy_s_values_are_a_fixed_point(method: Method, seed: int) -> None:
    mdp = Tabular(seed)
    np.testing.assert_allclose(mdp.mean(method, mdp.q_pi), mdp.q_pi, atol=1e-10)


@pytest.mark.parametrize("seed", range(8))
def test_retrace_is_a_contraction_for_any_behaviour(seed: int) -> None:
    mdp = Tabular(seed)
    q = mdp.q
    for lambda_ in (1.0, 0.5):
        after = mdp.mean(partial(by_retrace, lambda_=lambda_), q)
        assert mdp.error(after) <= mdp.gamma * mdp.error(q) + 1e-12
    assert mdp.error(mdp.mean(by_tree, q)) <= mdp.gamma * mdp.error(q) + 1e-12


def test_retrace_iterated_finds_the_policy_s_values() -> None:
    mdp = Tabular(0)
    q, bound = mdp.q, mdp.error(mdp.q)
    for _ in range(12):
        q, bound = mdp.mean(by_retrace, q), bound * mdp.gamma
        assert mdp.error(q) <= bound
    assert mdp.error(q) < 0.1 * mdp.error(mdp.q)


@pytest.mark.parametrize("seed", range(5))
def test_acer_s_operator_is_retrace_at_1_importance_at_infinity_one_step_at_0(seed: int) -> None:
    mdp = Tabular(seed)
    for c, method in (
        (1.0, by_retrace),
        (math.inf, by_importance),
        (0.0, partial(by_retrace, lambda_=0.0)),
    ):
        expected = mdp.truncated_with_correction(c)
        np.testing.assert_allclose(mdp.mean(method, mdp.q), expected, atol=1e-12)


def test_q_with_whole_traces_may_first_move_away() -> None:
    """Far off-policy Q(lambda = 1) is no contraction; Retrace on the same data is."""
    mdp = Tabular(0)
    mdp.pi, mdp.mu = np.array([[[1.0, 0.0]] * 3, [[0.05, 0.95]] * 3])
    n = mdp.states * mdp.actions
    step = np.einsum("xay,yb->xayb", mdp.transition, mdp.pi).reshape(n, n)
    mdp.q_pi = np.linalg.solve(np.eye(n) - mdp.gamma * step, mdp.reward.ravel()).reshape(3, 2)
    # The critic is wrong about what mu does, and pi never does.
    q = mdp.q_pi + np.array([[0.0, 3.0]] * 3)
    assert mdp.error(mdp.mean(by_q_opc, q)) > 1.5 * mdp.error(q)
    assert mdp.error(mdp.mean(by_retrace, q)) <= mdp.gamma * mdp.error(q)


# Faults of implementations that are around


def test_one_sample_s_trace_does_not_serve_the_others() -> None:
    """dchetelat/acer cuts the whole batch by its first sample: each column must be as if alone."""
    critic, ended = whole_window(11)
    rho = th.from_numpy(random_window(11)["rho"])
    together = retrace(*critic, rho, GAMMA, *ended, dimensions=2)
    for b in range(rho.shape[1]):
        mine = [one[..., b : b + 1] for one in critic]
        alone = retrace(
            *mine, rho[:, b : b + 1], GAMMA, *(one[:, b : b + 1] for one in ended), dimensions=2
        )
        assert close(together[:, b : b + 1], alone)


def test_an_overflow_stays_in_its_episode() -> None:
    """Importance weights of one episode may leave floating point; those before it must not care."""
    rewards = th.ones(4, 1)
    zeros = th.zeros(4, 1)
    rho = th.tensor([[1.0], [1.0], [3e38], [3e38]])
    terminated = th.tensor([[False], [True], [False], [True]])
    found = importance_sampled(
        rewards, zeros, zeros, th.zeros(1), rho, 1.0, terminated, zeros.bool()
    )
    assert found[:2].flatten().tolist() == [2.0, 1.0]


def test_the_first_step_s_trace_is_nobody_s() -> None:
    """It would belong to a step before the window, and must not come round to the last one."""
    zeros = th.zeros(3, 1)
    rho = th.tensor([[math.inf], [1.0], [1.0]])
    given = (th.ones(3, 1), zeros, zeros, th.zeros(1), rho, 1.0, zeros.bool(), zeros.bool())
    assert importance_sampled(*given).flatten().tolist() == [3.0, 2.0, 1.0]


# Gradients, dtypes, refusals


def call(name: str, **changes: object) -> object:
    shape = (3, 2)
    flags = th.zeros(shape, dtype=th.bool)
    needed = {
        "retrace": "rewards q_taken values next_value rho",
        "q_opc": "rewards q_taken values next_value",
        "tree_backup": "rewards q_taken values next_value pi_taken",
        "importance_sampled": "rewards q_taken values next_value rho",
        "n_step": "rewards next_value",
        "vtrace": "rewards values next_value rho",
    }[name]
    given: dict[str, object] = {
        one: th.full((2,) if one == "next_value" else shape, 0.5) for one in needed.split()
    }
    given |= {"gamma": GAMMA, "terminated": flags, "truncated": flags}
    return FUNCTIONS[name](**given | changes)


FUNCTIONS: dict[str, Callable[..., object]] = {
    one.__name__: one for one in (retrace, q_opc, tree_backup, importance_sampled, n_step, vtrace)
}


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_gradient_flows_and_the_dtype_stays(name: str, dtype: th.dtype) -> None:
    leaves = {
        one: th.full((2,) if one == "next_value" else (3, 2), 0.5, dtype=dtype, requires_grad=True)
        for one in ("rewards", "q_taken", "values", "next_value", "rho", "pi_taken")
    }
    wanted = FUNCTIONS[name].__wrapped__.__code__.co_varnames  # type: ignore[attr-defined]
    found = call(name, **{one: leaf for one, leaf in leaves.items() if one in wanted})
    for tensor in found if isinstance(found, tuple) else (found,):
        assert isinstance(tensor, Tensor)
        assert not tensor.requires_grad and tensor.dtype == dtype and tensor.shape == (3, 2)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_ends_may_be_zeros_and_ones(name: str) -> None:
    """Buffers keep them as floats."""
    flags = th.tensor([[0.0, 1.0]] * 3)
    found = call(name, terminated=flags)
    expected = call(name, terminated=flags.bool())
    assert th.equal(found[0], expected[0])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nothing_given_is_changed(name: str) -> None:
    rewards = th.ones(3, 2)
    call(name, rewards=rewards)
    assert rewards.tolist() == th.ones(3, 2).tolist()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_truncation_without_a_value_is_refused(name: str) -> None:
    truncated = th.tensor([[False, True], [False, False], [True, False]])
    with pytest.raises(ValueError, match="truncation_values is None, but 2 of 6 steps were trunc"):
        call(name, truncated=truncated)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_wrong_shapes_are_refused_by_name(name: str) -> None:
    parameters = [
        one
        for one in ("q_taken", "values", "rho", "pi_taken", "terminated", "truncated")
        if one in FUNCTIONS[name].__wrapped__.__code__.co_varnames  # type: ignore[attr-defined]
    ]
    for one in [*parameters, "truncation_values"]:
        # [T, 1] and [B] would broadcast without a word.
        for shape in ((3, 1), (2,)):
            words = rf"{one} must have the shape of rewards, \[T, B\] = \[3, 2\], got "
            with pytest.raises(ValueError, match=words):
                call(name, **{one: th.zeros(shape)})
    with pytest.raises(ValueError, match=r"next_value must have one value an env.* got \[1, 2\]"):
        call(name, next_value=th.zeros(1, 2))


def test_rewards_must_be_windows() -> None:
    for rewards in (th.zeros(3), th.zeros(0, 2)):
        with pytest.raises(ValueError, match=r"rewards must have shape \[T, B\] with T >= 1"):
            call("n_step", rewards=rewards)


def test_dimensions_must_be_at_least_1() -> None:
    with pytest.raises(ValueError, match="dimensions, of the action, must be at least 1, got 0"):
        call("retrace", dimensions=0)


# Bad input


WHOLE: dict[str, Callable[..., Tensor]] = {
    "retrace": lambda **k: retrace(**given(k, "q_taken", "values", "rho")),
    "q_opc": lambda **k: q_opc(**given(k, "q_taken", "values")),
    "tree_backup": lambda **k: tree_backup(**given(k, "q_taken", "values", pi_taken=PI)),
    "importance": lambda **k: importance_sampled(**given(k, "q_taken", "values", "rho")),
    "n_step": lambda **k: n_step(**given(k)),
    "vtrace": lambda **k: vtrace(**given(k, "values", "rho"))[0],
}
every_return = pytest.mark.parametrize("name", WHOLE)


def given(changes: dict, *names: str, **more: Tensor) -> dict:
    known = {"q_taken": Q_TAKEN, "values": VALUES, "rho": RHO}
    never = ends()
    made = {"rewards": REWARDS, "next_value": NEXT_VALUE, "gamma": GAMMA, "terminated": never[0]}
    return made | {"truncated": never[1]} | {n: known[n] for n in names} | more | changes


@every_return
def test_what_is_no_tensor_is_refused(name: str) -> None:
    WHOLE[name]()
    with pytest.raises(TypeError, match=r"rewards must be a tensor, got ndarray: give torch"):
        WHOLE[name](rewards=REWARDS.numpy())
    with pytest.raises(TypeError, match=r"terminated must be a tensor, got NoneType"):
        WHOLE[name](terminated=None)
    with pytest.raises(TypeError, match=r"next_value must be a tensor, got float"):
        WHOLE[name](next_value=0.0)


@every_return
@pytest.mark.parametrize("gamma", [2, -0.1, float("nan")])
def test_discounts_lie_between_0_and_1(name: str, gamma: float) -> None:
    with pytest.raises(ValueError, match=r"gamma must lie in \[0, 1\], got"):
        WHOLE[name](gamma=gamma)
    assert WHOLE[name](gamma=1).isfinite().all() and WHOLE[name](gamma=0).isfinite().all()


@pytest.mark.parametrize("name", ["retrace", "tree_backup", "vtrace"])
def test_lambda_lies_between_0_and_1(name: str) -> None:
    with pytest.raises(ValueError, match=r"lambda_ must lie in \[0, 1\], got 2"):
        WHOLE[name](lambda_=2)


@pytest.mark.parametrize("name", ["retrace", "importance", "vtrace"])
def test_ratios_are_not_negative(name: str) -> None:
    with pytest.raises(ValueError, match=r"rho, ratios .* at least 0, got -3: were their log"):
        WHOLE[name](rho=-RHO)
