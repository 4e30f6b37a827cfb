"""Both interventions, where the answer is known; and what surrounds them."""

import dataclasses
import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ext import CausalBC, PreviousAction, RichStart, with_previous_action
from sb3_ext.errors import CheckpointError
from sb3_ext.offline import OfflineDataset, episode_starts_after, from_policy
from sb3_ext.plugins.causal.experts import human_expert
from sb3_ext.plugins.causal.interventions import play
from sb3_ext.plugins.causal.posterior import Posterior
from sb3_ext.plugins.causal.queries import most_disputed, score_graphs

SMALL: dict[str, Any] = {"seed": 0, "device": "cpu"}


class Tracking(gym.Env[Any, Any]):
    """The expert drives ``x`` to zero by looking at its first ``parents`` factors.

    ``x' = x + 0.3 a + 0.1 noise`` in each parent, action ``a = -x``, a dimension a parent. A
    nuisance repeats the last action: who copies it goes on as he began.

    :param parents: true causes
    :param nuisances: slots of the previous action, with a little noise, in turn
    """

    def __init__(self, parents: int = 1, nuisances: int = 1, length: int = 20) -> None:
        n = parents + nuisances
        self.parents, self.nuisances, self.length = parents, nuisances, length
        self.observation_space = spaces.Box(-np.inf, np.inf, (n,), np.float32)
        self.action_space = spaces.Box(-3, 3, (parents,), np.float32)

    def _seen(self) -> Any:
        slots = np.resize(self.before, self.nuisances) + 0.02 * self.np_random.normal(
            size=self.nuisances
        )
        return np.concatenate([self.x, slots]).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.x = self.np_random.normal(size=self.parents) * 2
        self.before, self.t = np.zeros(self.parents), 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self.x = self.x + 0.3 * np.asarray(action) + 0.1 * self.np_random.normal(size=self.parents)
        self.before, self.t = np.asarray(action), self.t + 1
        return self._seen(), float(-np.abs(self.x).sum()), False, self.t >= self.length, {}


def expert_of(parents: int) -> Any:
    return lambda seen: -seen[:, :parents].clip(-3, 3)


def clone(parents: int, nuisances: int, seed: int = 0, steps: int = 1_500, **options: Any) -> Any:
    env = Tracking(parents, nuisances)
    data = from_policy(expert_of(parents), env, n_episodes=25, seed=seed)
    options = {"learning_rate": 3e-3, "policy_kwargs": {"net_arch": [32, 32]}, **options}
    model = CausalBC("MlpPolicy", demonstrations=data, seed=seed, device="cpu", **options)
    return model.learn(steps), env


@pytest.mark.parametrize(
    ("parents", "nuisances", "seed"), [(1, 1, 0), (1, 3, 1), (2, 2, 2), (3, 5, 3)]
)
def test_policy_execution_keeps_every_true_parent(parents: int, nuisances: int, seed: int) -> None:
    model, env = clone(parents, nuisances, seed)
    found = model.intervene(DummyVecEnv([lambda: env]), episodes=20 + 10 * parents, seed=seed)
    kept = list(found.graph.values())
    assert all(kept[:parents])
    assert model.graph == found.graph


@pytest.mark.parametrize(
    ("parents", "nuisances", "seed"), [(1, 1, 0), (1, 3, 1), (2, 2, 2), (3, 5, 3)]
)
def test_expert_queries_keep_every_true_parent(parents: int, nuisances: int, seed: int) -> None:
    model, env = clone(parents, nuisances, seed)
    found = model.query(expert_of(parents), env, queries=30, n_states=300, seed=seed)
    kept = list(found.graph.values())
    assert all(kept[:parents])
    assert model.posterior.cost == 30 and len(found.scores) == 2 ** (parents + nuisances)


def test_more_factors_than_can_be_listed_are_drawn() -> None:
    """32 factors, two of which the expert looks at: found by both, without 2^32 graphs."""
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(3_000, 32)).astype(np.float32)
    rewarding = gym.spaces.Box(-4, 4, (2,), np.float32)
    ends = np.ones(len(seen), bool)
    data = OfflineDataset(
        seen,
        seen[:, :2].clip(-4, 4),
        np.zeros(len(seen)),
        seen,
        ends,
        ~ends,
        np.arange(len(seen)),
        spaces.Box(-np.inf, np.inf, (32,), np.float32),
        rewarding,
    )

    class Noise(gym.Env[Any, Any]):
        observation_space, action_space = data.observation_space, rewarding

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            self.seen, self.t = self.np_random.normal(size=32).astype(np.float32), 0
            return self.seen, {}

        def step(self, action: Any) -> Any:
            reward = -float(np.square(np.asarray(action) - self.seen[:2]).sum())
            self.seen, self.t = self.np_random.normal(size=32).astype(np.float32), self.t + 1
            return self.seen, reward, False, self.t >= 10, {}

    model = CausalBC("MlpPolicy", demonstrations=data, learning_rate=3e-3, **SMALL).learn(1_500)
    found = model.query(lambda x: x[:, :2].clip(-4, 4), Noise(), queries=50, n_states=200)
    assert len(found.scores) == 300
    assert all(list(found.graph.values())[:2])
    top = sorted(found.weights, key=lambda name: -found.weights[name])[:2]
    assert set(top) == {"x0", "x1"}
    assert {name for name, one in found.verdicts().items() if one == 1} == {"x0", "x1"}
    envs = DummyVecEnv([lambda: Noise() for _ in range(10)])
    found = model.intervene(envs, episodes=150)
    assert all(list(found.graph.values())[:2]) and found.cost == 150


@pytest.mark.parametrize("graph", [(1, 0, 1), (0, 1, 0), (0, 0, 1)])
def test_a_policy_that_is_right_under_one_graph_is_found_under_it(graph: Any) -> None:
    """The sign of Algorithm 1: regressing on losses would return the opposite (fact sheet, 17)."""
    data = with_three_factors()
    model = CausalBC("MlpPolicy", demonstrations=data, policy_kwargs={"net_arch": []}, **SMALL)
    # f = 4 - 4 * (how many edges differ from the graph): the expert always does 3, the upper bound.
    signs = th.tensor([2.0 * one - 1.0 for one in graph])
    with th.no_grad():
        model.policy.action_net.weight.zero_()
        model.policy.action_net.weight[0, 3:] = signs
        model.policy.action_net.bias.fill_(3.0 - float(sum(graph)))
    found = model.query(lambda x: np.full((len(x), 1), 3.0), np.zeros((20, 3)), queries=20)
    assert tuple(found.graph.values()) == tuple(map(bool, graph))
    assert found.scores.max() == 0.0 == found.scores[int("".join(map(str, graph)), 2)]


def with_three_factors() -> OfflineDataset:
    rows, ends = np.zeros((8, 3), np.float32), np.ones(8, bool)
    return OfflineDataset(
        rows,
        rows[:, :1],
        np.zeros(8),
        rows,
        ends,
        ~ends,
        episode_starts_after(ends),
        spaces.Box(-np.inf, np.inf, (3,), np.float32),
        spaces.Box(-3, 3, (1,), np.float32),
    )


def test_scores_are_likelihoods_graph_by_graph() -> None:
    """Against the model's own actions under each graph."""
    model, _ = clone(1, 1, steps=200)
    seen = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    taken = expert_of(1)(seen)
    found = score_graphs(model, seen, taken, np.array([[0, 1], [1, 1]], bool))
    for graph, score in zip(([0, 1], [1, 1]), found, strict=True):
        model.fix(graph)
        with th.no_grad():
            mean = model.policy.get_distribution(th.as_tensor(seen)).distribution.mean.numpy()
        assert score == pytest.approx(-np.square((mean - taken) / 3).mean(), rel=1e-4)


def test_the_most_disputed_states_are_those_with_the_largest_variance_over_graphs() -> None:
    model, _ = clone(1, 2, steps=300)
    seen = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    acted = []
    for bits in np.ndindex(2, 2, 2):
        model.fix(list(bits))
        with th.no_grad():
            distribution: Any = model.policy.get_distribution(th.as_tensor(seen)).distribution
            acted.append(distribution.mean.numpy())
    order = np.argsort(-np.var(acted, axis=0)[:, 0])
    assert most_disputed(model, seen, 5).tolist() == order[:5].tolist()


def test_episodes_are_played_under_a_graph_of_their_own() -> None:
    """In a vector of environments as one by one, also where they end at other times."""
    model, _ = clone(1, 1, steps=300)
    graphs = np.array([[1, 0], [0, 0], [1, 1]], bool)

    def env(i: int) -> Any:
        return lambda: Tracking(1, 1, length=5 + 3 * i)

    together = DummyVecEnv([env(i) for i in range(3)])
    together.seed(7)
    found = play(model, together, graphs)
    for i, graph in enumerate(graphs):
        alone = DummyVecEnv([env(i)])
        alone.seed(7 + i)
        model.fix(graph.astype(int).tolist())
        mean, _ = evaluate_policy(model, alone, 1, warn=False)
        assert found[i] == pytest.approx(float(mean), rel=1e-5)  # type: ignore[arg-type]


def test_rewards_are_the_environments_own_under_vec_normalize() -> None:
    model, _ = clone(1, 1, steps=10)
    plain, inner = (DummyVecEnv([lambda: Tracking(1, 1)]) for _ in range(2))
    normalised = VecNormalize(inner, training=False, norm_obs=False)
    graphs = np.ones((1, 2), bool)
    plain.seed(0)
    normalised.seed(0)
    assert play(model, plain, graphs) == pytest.approx(play(model, normalised, graphs))
    normalised.training = True
    with pytest.raises(ValueError, match=r"set env\.training = False"):
        model.intervene(normalised, episodes=1)


# -- budgets, callbacks, files ---------------------------------------------------------------------


class Count(BaseCallback):
    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit, self.seen = limit, []  # type: ignore[var-annotated]

    def _on_step(self) -> bool:
        self.seen.append(self.locals["posterior"].cost)
        return self.n_calls < self.limit


def test_callbacks_see_each_episode_and_can_stop(capsys: pytest.CaptureFixture[str]) -> None:
    model, env = clone(1, 1, steps=10)
    watch = Count(3)
    found = model.intervene(env, episodes=10, callback=watch, progress_bar=True)
    assert watch.seen == [1, 2, 3] and found.cost == 3 == model.posterior.cost
    assert "policy execution" in capsys.readouterr().out
    assert model.intervene(env, episodes=2, callback=lambda _locals, _globals: False).cost == 1


def test_a_vector_of_environments_keeps_the_budget() -> None:
    model, _ = clone(1, 1, steps=10)
    envs = DummyVecEnv([lambda: Tracking(1, 1) for _ in range(4)])
    found = model.intervene(envs, episodes=6)
    assert found.cost == len(found.scores) == 6


def test_a_file_saves_playing_again(tmp_path: Any) -> None:
    """Ten episodes at once, or three and then seven in another process: the same to the bit."""
    model, env = clone(1, 1, steps=50)
    whole = model.intervene(env, episodes=10, seed=3)
    path = tmp_path / "deep" / "found.json"
    model.intervene(env, episodes=3, seed=3, path=path)
    resumed = model.intervene(env, episodes=10, seed=3, path=path)
    assert resumed.to_dict() == whole.to_dict()
    assert model.intervene(Refusing(), episodes=10, seed=3, path=path).cost == 10  # plays nothing
    assert Posterior.load(path).to_dict() == whole.to_dict()
    with pytest.raises(CheckpointError, match="another seed"):
        model.intervene(env, episodes=10, seed=4, path=path)
    model.learn(1, reset_num_timesteps=False)
    with pytest.raises(CheckpointError, match="another policy"):
        model.intervene(env, episodes=10, seed=3, path=path)


class Refusing(Tracking):
    def step(self, action: Any) -> Any:
        raise AssertionError("nothing shall be played")


def test_answers_are_kept_and_not_asked_for_again(tmp_path: Any) -> None:
    model, env = clone(1, 1, steps=50)
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return "0.5"

    human = human_expert(model.action_space, model.layout.names, ask, lambda _: None)
    path = tmp_path / "answers.json"
    first = model.query(human, env, 10, n_states=30, path=path, callback=Count(4))
    assert len(asked) == 4 and first.cost == 4
    assert list(json.loads(path.read_text())["answers"].values()) == [[0.5]] * 4
    found = model.query(human, env, 10, n_states=30, path=path)
    assert len(asked) == 10 and found.cost == 10


def test_the_posterior_is_saved_with_the_model(tmp_path: Any) -> None:
    model, env = clone(1, 1, steps=10)
    assert model.posterior is None
    found = model.intervene(env, episodes=5)
    model.save(tmp_path / "model")
    loaded = CausalBC.load(tmp_path / "model", device="cpu")
    assert loaded.posterior is not None and loaded.posterior.to_dict() == found.to_dict()
    assert loaded.graph == found.graph
    loaded.intervene(env, episodes=2)  # needs neither demonstrations nor learn


def test_where_all_graphs_were_scored_the_best_of_them_is_the_answer() -> None:
    """The second factor is right alone and ruinous together: its weight in a sum is negative."""
    graphs = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], bool)
    scores = np.array([-1.0, 0.0, -30.0, -40.0])
    exact = Posterior("expert query", ("a", "b"), graphs, scores, 20)
    assert exact.weights["b"] < 0 and exact.graph == {"a": False, "b": True}
    assert exact.effects == {"a": -30.0, "b": 1.0}  # -30 - 0, and 0 - -1
    assert "best with - without" in exact.table()
    drawn = Posterior("policy execution", ("a", "b"), graphs, scores, 4)
    assert "best with" not in drawn.table() and np.isnan(
        Posterior("policy execution", ("a", "b"), graphs[:1], scores[:1], 1).effects["a"]
    )
    assert drawn.graph == {"a": False, "b": False}


# -- what is told ----------------------------------------------------------------------------------


def test_table_and_picture_say_what_drives_the_expert(tmp_path: Any) -> None:
    rng = np.random.default_rng(0)
    graphs = rng.random((60, 3)) < 0.5
    scores = -100 + 40 * graphs[:, 0] - 30 * graphs[:, 1] + rng.normal(size=60)
    names = ("velocity", "previous action", "brightness")
    found = Posterior("policy execution", names, graphs, scores, 60)
    assert list(found.verdicts().values())[:2] == [1, -1]
    rows = found.table().splitlines()
    assert rows[0] == "policy execution, 60 episodes, 60 graphs; weights in return"
    assert rows[3].startswith("velocity") and rows[3].endswith("drives the expert")
    assert "no        nuisance: it harms" in rows[4]
    low, high = found.intervals()[0]
    assert low < 40 < high
    assert found.plot(tmp_path / "new" / "weights.png").stat().st_size > 5_000
    empty = Posterior("expert query", names, graphs[:0], scores[:0], 0)
    assert not any(empty.graph.values()) and set(empty.verdicts().values()) == {0}
    empty.plot(tmp_path / "empty.png")
    with pytest.raises(ValueError, match="0 < level < 1"):
        found.intervals(95)


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expert", "error", "told"),
    [
        (
            lambda x: np.full((len(x), 1), 9.0),
            ValueError,
            r"gave \[9\.\] in state 0, which is not in",
        ),
        (lambda x: np.full((len(x), 1), np.nan), ValueError, "which is not in Box"),
        (lambda x: np.zeros((len(x), 2)), ValueError, "an action of Box.*for each of 20 states"),
        (lambda x: np.zeros(3), ValueError, "for each of 20 states"),
        ("oracle", TypeError, "a model, a function or 'human'"),
        (3, TypeError, "expert must be an SB3 model"),
    ],
)
def test_an_expert_that_gives_bad_actions_is_refused(expert: Any, error: Any, told: str) -> None:
    model, env = clone(1, 1, steps=2)
    with pytest.raises(error, match=told):
        model.query(expert, env, queries=20, n_states=30)


def test_an_expert_who_gives_halves_of_actions_is_refused() -> None:
    data = from_policy(lambda x: np.zeros(len(x), int), gym.make("CartPole-v1"), n_episodes=1)
    model = CausalBC("MlpPolicy", demonstrations=data, **SMALL)
    with pytest.raises(ValueError, match="whole numbers"):
        model.query(lambda x: np.full(len(x), 0.5), np.zeros((5, 4)), queries=5)
    with pytest.raises(ValueError, match="which is not in Discrete"):
        model.query(lambda x: np.full(len(x), 2), np.zeros((5, 4)), queries=5)


def test_an_expert_of_another_world_is_refused() -> None:
    model, env = clone(1, 1, steps=2)
    other = CausalBC("MlpPolicy", "Pendulum-v1", **SMALL)
    with pytest.raises(ValueError, match="leaves out what the expert does not see"):
        model.query(other, env)


def test_what_does_not_fit_is_refused_before_anything_is_played() -> None:
    model, env = clone(1, 1, steps=2)
    for call, error, told in (
        (lambda: model.intervene("Pendulum-v1"), ValueError, "cannot act in this environment"),
        (lambda: model.intervene(env, episodes=0), ValueError, "episodes must be at least 1"),
        (lambda: model.intervene(env, episodes=2.5), TypeError, "a whole number"),
        (lambda: model.intervene(env, temperature=0.0), ValueError, "temperature must be positive"),
        (
            lambda: model.query(expert_of(1), np.zeros((5, 2)), 6),
            ValueError,
            "at least as many states",
        ),
        (
            lambda: model.query(expert_of(1), np.zeros((5, 3)), 5),
            ValueError,
            "one a row; got shapes",
        ),
        (lambda: model.query(expert_of(1), with_three_factors(), 5), ValueError, "do not fit"),
    ):
        with pytest.raises(error, match=told):
            call()


def test_a_return_that_is_no_number_is_told() -> None:
    class Broken(Tracking):
        def step(self, action: Any) -> Any:
            seen, _, *rest = super().step(action)
            return seen, float("nan"), *rest

    model, _ = clone(1, 1, steps=2)
    with pytest.raises(ValueError, match="must be finite"):
        model.intervene(Broken(1, 1), episodes=3)


def test_a_human_is_asked_until_the_answer_will_do() -> None:
    answers, shown = iter(["left", "7", "0.5", "1"]), []  # type: ignore[var-annotated]
    ask = human_expert(
        spaces.Discrete(3), ("position", "speed"), lambda _: next(answers), shown.append
    )
    assert ask(np.array([[0.5, -1.0]])).tolist() == [1]
    assert shown[0] == "position: 0.5\nspeed: -1" and "'7' is no action" in shown[2]
    box = spaces.Box(-1, 1, (2,), np.float32)
    pairs = iter(["0.1", "0.1, -0.25"])
    ask = human_expert(box, (), lambda _: next(pairs), shown.append)
    assert np.allclose(ask(np.zeros((1, 3))), [[0.1, -0.25]])


# -- the paper's effect ----------------------------------------------------------------------------


def rule(seen: Any) -> Any:
    """MountainCar's expert: push along the velocity."""
    return np.where(seen[:, 1] < 0, 0, 2)


@pytest.mark.slow
@pytest.mark.timeout(900)  # half a minute where nobody else wants the processor
def test_mountain_car_end_to_end() -> None:
    """Fact sheet 8.2 (16): cloning fails with the previous action in sight; both cures work.

    The seed's 300 samples hold few steps at which the expert changes its action; with more of
    them, plain cloning is confounded less.
    """
    raw = from_policy(rule, RichStart(gym.make("MountainCar-v0")), n_steps=5_000, seed=2)
    recorded = with_previous_action(raw, "confounded", seed=2)
    rows = np.random.default_rng(2).choice(len(recorded), 300, replace=False)
    columns = ("observations", "actions", "rewards", "next_observations", "terminated")
    data = dataclasses.replace(
        recorded,
        **{name: getattr(recorded, name)[rows] for name in columns},
        truncated=~recorded.terminated[rows],
        episode_starts=np.arange(300),
        behavior_log_prob=None,
    )
    env = make_vec_env(lambda: PreviousAction(gym.make("MountainCar-v0")), 1, seed=0)
    made: dict[str, Any] = {"demonstrations": data, "seed": 2, "device": "cpu"}
    plain = CausalBC(
        "MlpPolicy", keep_probability=1.0, policy_kwargs={"net_arch": [50, 50]}, **made
    ).learn(5_000)
    assert evaluate_policy(plain, env, 20)[0] <= -180
    model = CausalBC("MlpPolicy", **made).learn(10_000)
    for graph in ([0, 1, 0], [1, 1, 0]):
        assert evaluate_policy(model.fix(graph), env, 5)[0] >= -160
    chosen = [model.intervene(env, 20, seed=seed).graph for seed in range(5)]
    assert sum(not one["previous action"] for one in chosen) == 5
    assert sum(one["x1"] for one in chosen) == 5
    found = model.query(rule, env, 20)
    assert found.graph["x1"] and not found.graph["previous action"]
    assert evaluate_policy(model, env, 5)[0] >= -160


def test_more_queries_ask_only_for_what_was_not_asked(tmp_path: Any) -> None:
    (model, _), path = clone(1, 1, steps=20), str(tmp_path / "answers.json")
    states = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    asked: list[Any] = []

    def expert(seen: Any) -> Any:
        asked.extend(seen.tolist())
        return expert_of(1)(seen)

    model.query(expert, states, 5, path=path)
    found = model.query(expert, states, 12, path=path)
    # Twelve, and three of the first once more: a function might be another one by now.
    assert len(asked) == 15 and len({tuple(one) for one in asked}) == 12
    fresh = model.query(expert, states, 12)
    np.testing.assert_array_equal(found.scores, fresh.scores)


def test_a_round_that_is_no_number_leaves_the_file_as_it_was(tmp_path: Any) -> None:
    class Poisoned(Tracking):
        episodes = 0

        def step(self, action: Any) -> Any:
            seen, reward, *rest = super().step(action)
            Poisoned.episodes += self.t == 1
            return seen, np.nan if Poisoned.episodes > 3 else reward, *rest

    (model, _), path = clone(1, 1, steps=20), str(tmp_path / "found.json")
    with pytest.raises(ValueError, match="rewards must be finite"):
        model.intervene(Poisoned(1, 1), episodes=6, path=path)
    assert Posterior.load(path).cost == 3
    assert model.intervene(Tracking(1, 1), episodes=6, path=path).cost == 6


def test_going_on_in_another_environment_is_refused_and_options_are_heard(tmp_path: Any) -> None:
    data = from_policy(lambda s: (s[:, 1] > 0) * 2, gym.make("MountainCar-v0"), n_steps=50, seed=0)
    model = CausalBC("MlpPolicy", demonstrations=with_previous_action(data), **SMALL).learn(1)
    path = str(tmp_path / "found.json")
    env = PreviousAction(gym.make("MountainCar-v0"))
    model.intervene(env, episodes=1, path=path)
    assert model.intervene(env, episodes=2, path=path, temperature=5.0, ridge=3.0).ridge == 3.0
    other = PreviousAction(gym.make("MountainCar-v0"), mode="original")
    with pytest.raises(CheckpointError, match="another env"):
        model.intervene(other, episodes=3, path=path)


def test_a_factor_s_name_alone_is_a_graph_and_a_slip_is_told() -> None:
    model, _ = clone(1, 1, steps=1)
    assert model.fix("x1").graph == {"x0": False, "x1": True}
    with pytest.raises(TypeError, match="did you mean 'keep_probability'"):
        CausalBC("MlpPolicy", Tracking(), keep_prob=0.3)
