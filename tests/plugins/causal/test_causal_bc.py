"""CausalBC: one network under every graph, and what surrounds it."""

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy, MultiInputActorCriticPolicy
from torch import nn

from sb3_ext import CausalBC, cli
from sb3_ext.offline import OfflineDataset, from_policy
from sb3_ext.plugins.causal.equations import all_graphs
from sb3_ext.plugins.causal.networks import GraphExtractor
from sb3_ext.plugins.causal.outputs import disagreement, imitation_loss
from sb3_ext.testing import OfflineConformance
from sb3_ext.testing.environments import kit_env
from sb3_ext.testing.offline import kit_dataset
from sb3_ext.trees import same, snapshot


class TestCausalBC(OfflineConformance):
    algorithm = CausalBC
    kwargs: ClassVar = {"batch_size": 16, "vae_kwargs": {"steps": 20, "width": 8, "n_latents": 4}}

    def make(self, env: Any = None, **changes: Any) -> Any:
        """The mask is the extractor: there are no options of another one."""
        plain = {"features_extractor_kwargs": {}, "net_arch": [16, 16]}
        return super().make(env, **{"policy_kwargs": plain, **changes})


SMALL: dict[str, Any] = {"seed": 0, "device": "cpu"}


def rows(observations: Any, actions: Any, action_space: Any) -> OfflineDataset:
    """Single steps, each an episode."""
    observations = np.asarray(observations, np.float32)
    n, ends = len(observations), np.ones(len(observations), bool)
    space = spaces.Box(-np.inf, np.inf, observations.shape[1:], np.float32)
    return OfflineDataset(
        observations,
        np.asarray(actions),
        np.zeros(n),
        observations,
        ends,
        ~ends,
        np.arange(n),
        space,
        action_space,
    )


def linear_expert(n: int, parents: int, seed: int = 0, size: int = 400) -> OfflineDataset:
    """``a = sum of the first factors``, and the others are nothing to it."""
    seen = np.random.default_rng(seed).normal(size=(size, n)).astype(np.float32)
    actions = seen[:, :parents].sum(1, keepdims=True).clip(-5, 5)
    return rows(seen, actions, spaces.Box(-5, 5, (1,), np.float32))


def test_the_policy_does_not_see_what_the_graph_leaves_out() -> None:
    """f([X * G, G]) is the same to the bit for other X where G = 0."""
    model = CausalBC("MlpPolicy", demonstrations=linear_expert(4, 2), **SMALL).learn(20)
    rng = np.random.default_rng(0)
    one, other = (rng.normal(size=(6, 4)).astype(np.float32) for _ in range(2))
    for graph in all_graphs(4):
        model.fix(graph.astype(int).tolist())
        mixed = np.where(graph, one, other)
        first, second = (model.predict(x, deterministic=True)[0] for x in (one, mixed))
        assert np.array_equal(first, second)
        if not graph.all():
            seen = model.predict(np.where(graph, other, one), deterministic=True)[0]
            assert not graph.any() or not np.array_equal(first, seen)


def test_a_zero_is_not_a_factor_that_is_left_out() -> None:
    model = CausalBC("MlpPolicy", demonstrations=linear_expert(2, 1), **SMALL).learn(20)
    zero = np.zeros((1, 2), np.float32)
    kept = model.predict(zero, deterministic=True)[0]
    assert not np.array_equal(kept, model.fix([0, 0]).predict(zero, deterministic=True)[0])


def test_each_sample_has_a_graph_of_its_own_and_all_are_seen() -> None:
    seen = []

    class Look(GraphExtractor):
        def forward(self, observations: Any) -> th.Tensor:
            assert self.given is not None
            seen.append(self.given.clone())
            return super().forward(observations)

    model = CausalBC("MlpPolicy", demonstrations=linear_expert(3, 1), **SMALL)
    model.policy.features_extractor.__class__ = Look
    model.learn(6)
    assert all(len({tuple(row) for row in one.tolist()}) == 8 for one in seen)  # 64 samples each
    assert not same(seen[0], seen[1])


def test_predict_in_between_does_not_switch_the_masks_off() -> None:
    """SB3's predict leaves the policy in eval mode; the same parameters come out."""
    data = linear_expert(3, 1)
    one, other = (CausalBC("MlpPolicy", demonstrations=data, **SMALL) for _ in range(2))
    one.learn(10)
    for _ in range(10):
        other.predict(np.zeros(3, np.float32), deterministic=True)
        other.policy.set_training_mode(False)
        other.learn(1, reset_num_timesteps=False)
    assert same(snapshot(one)["policy"], snapshot(other)["policy"])


@pytest.mark.parametrize("kind", ["Box", "Discrete"])
def test_masks_of_ones_are_plain_cloning_on_x_and_one(kind: str) -> None:
    """To the bit: a network of torch's own, on [X, 1], with the same samples and first weights."""
    space: Any = spaces.Box(-2, 2, (1,), np.float32) if kind == "Box" else spaces.Discrete(3)
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(50, 3)).astype(np.float32)
    actions = seen[:, :1].clip(-2, 2) if kind == "Box" else rng.integers(3, size=50)
    model = CausalBC(
        "MlpPolicy",
        demonstrations=rows(seen, actions, space),
        keep_probability=1.0,
        policy_kwargs={"net_arch": [8]},
        batch_size=16,
        **SMALL,
    )
    policy = model.policy
    twin = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1 if kind == "Box" else 3))
    for layer, source in (
        (twin[0], policy.mlp_extractor.policy_net[0]),
        (twin[2], policy.action_net),
    ):
        layer.load_state_dict(source.state_dict())
    optimizer = th.optim.Adam(twin.parameters(), lr=1e-3, eps=1e-5, foreach=True)
    assert model.minibatches is not None and model.stream_seed is not None
    for step in range(30):
        chosen = model.minibatches.rows(model.stream_seed, 16 * step, 16)
        said = twin(th.as_tensor(np.hstack([seen[chosen], np.ones((16, 3), np.float32)])))
        taken = th.as_tensor(actions[chosen])
        if kind == "Box":
            loss = ((said - taken) / 2).square().mean()
        else:
            loss = nn.functional.cross_entropy(said, taken)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.learn(30)
    assert same(twin[0].weight, policy.mlp_extractor.policy_net[0].weight)
    assert same(twin[2].weight, policy.action_net.weight)


def test_with_one_factor_it_is_plain_cloning() -> None:
    """The half of the samples that see it learn the expert; the others its mean action."""
    data = linear_expert(2, 2)
    model = CausalBC("MlpPolicy", demonstrations=data, factors={"all": [0, 1]}, **SMALL)
    model.learn(3_000)
    seen = np.asarray(data.observations)
    acted = model.predict(seen, deterministic=True)[0]
    assert np.abs(acted - data.actions).mean() < 0.1
    blind = model.fix([0]).predict(seen, deterministic=True)[0]
    assert np.ptp(blind) == 0
    assert blind[0, 0] == pytest.approx(data.actions.mean(), abs=0.15)


@pytest.mark.parametrize("n", [3, 32])
def test_it_learns_the_regression_of_every_graph(n: int) -> None:
    """What the graph leaves out is averaged over: the expert's other parent has mean 0."""
    data = linear_expert(n, 2, size=2_000)
    model = CausalBC("MlpPolicy", demonstrations=data, learning_rate=3e-3, **SMALL).learn(2_000)
    seen = np.asarray(data.observations)[:500]
    for graph, expected in (((1, 1), seen[:, 0] + seen[:, 1]), ((1, 0), seen[:, 0])):
        model.fix([*graph, *[0] * (n - 2)])
        acted = model.predict(seen, deterministic=True)[0][:, 0]
        assert np.corrcoef(acted, expected)[0, 1] > 0.9


def test_the_spread_is_that_of_what_is_left_over() -> None:
    """The log_std of a Gaussian follows the residuals; the mean does not know of it."""
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(1_000, 2)).astype(np.float32)
    actions = (0.3 * rng.normal(size=(1_000, 1))).clip(-5, 5)
    data = rows(seen, actions, spaces.Box(-5, 5, (1,), np.float32))
    model = CausalBC("MlpPolicy", demonstrations=data, learning_rate=3e-3, **SMALL).learn(1_500)
    assert model.policy.log_std.exp().item() == pytest.approx(0.3, abs=0.04)


def test_losses_by_hand() -> None:
    box = spaces.Box(np.array([-1, 0], np.float32), np.array([1, 4], np.float32))
    found = imitation_loss(th.tensor([[0.5, 3.0]]), th.tensor([[0.0, 1.0]]), box)
    assert found.tolist() == [pytest.approx((0.25 + 1.0) / 2)]  # in halves of the ranges: 0.5, 1
    both = spaces.MultiDiscrete([2, 3])
    found = imitation_loss(th.zeros(1, 5), th.tensor([[1.0, 2.0]]), both)
    assert found.item() == pytest.approx(np.log(2) + np.log(3))
    found = imitation_loss(th.zeros(1, 2), th.tensor([[1.0, 0.0]]), spaces.MultiBinary(2))
    assert found.item() == pytest.approx(2 * np.log(2))


def test_disagreement_of_parts_is_their_sum() -> None:
    sure = 100.0
    two = th.tensor([[[sure, 0.0, sure, 0.0, 0.0]], [[0.0, sure, sure, 0.0, 0.0]]])
    assert disagreement(two, spaces.MultiDiscrete([2, 3])).item() == pytest.approx(np.log(2))
    opposed = th.tensor([[[sure, sure]], [[-sure, -sure]]])
    assert disagreement(opposed, spaces.MultiBinary(2)).item() == pytest.approx(2 * np.log(2))
    box = spaces.Box(-2, 2, (1,), np.float32)
    assert disagreement(th.tensor([[[2.0]], [[-2.0]]]), box).item() == 1.0  # in halves of the range


def test_outputs_under_many_graphs_are_those_of_predict() -> None:
    model = CausalBC("MlpPolicy", demonstrations=linear_expert(3, 2), **SMALL).learn(20)
    seen = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    found = th.cat(list(model.outputs(seen, all_graphs(3), most=12)))
    assert found.shape == (8, 5, 1)
    for graph, outputs in zip(all_graphs(3), found, strict=True):
        acted = model.fix(graph.astype(int).tolist()).predict(seen, deterministic=True)[0]
        assert np.allclose(outputs.numpy().clip(-5, 5), acted, atol=1e-6)


# -- factors ---------------------------------------------------------------------------------------


def test_groups_and_names() -> None:
    groups = {"pose": [0, 2], "speed": 1}
    model = CausalBC("MlpPolicy", demonstrations=linear_expert(3, 1), factors=groups, **SMALL)
    assert model.graph == {"pose": True, "speed": True}
    assert model.fix(["speed"]).graph == {"pose": False, "speed": True}
    assert model.fix({"pose": True, "speed": False}).graph == {"pose": True, "speed": False}
    one, other = np.zeros((1, 3), np.float32), np.array([[0, 5, 0]], np.float32)
    acted = [model.predict(x, deterministic=True)[0] for x in (one, other)]
    assert np.array_equal(*acted)


@pytest.mark.parametrize(
    ("factors", "told"),
    [
        ({"a": [0], "b": [1]}, r"missing \[2\]"),
        ({"a": [0, 1], "b": [1, 2]}, r"twice \[1\]"),
        ({"a": [0, 1, 2, 3]}, r"unknown \[3\]"),
        ({"a": [0, 1, 2], "b": []}, "nothing belongs to 'b'"),
        ({"a": ["x"], "b": [0, 1, 2]}, "lists of indices"),
        ({}, "takes a mapping of names"),
        ("pca", "must be 'beta_vae', a mapping"),
    ],
)
def test_a_layout_that_does_not_cover_the_observation_is_refused(factors: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        CausalBC("MlpPolicy", demonstrations=linear_expert(3, 1), factors=factors, **SMALL)


def test_factors_of_a_dict_are_keys_or_groups_of_them() -> None:
    data = kit_dataset(kit_env(observation="Dict"))
    model = CausalBC("MultiInputPolicy", demonstrations=data, **SMALL).learn(5)
    assert model.graph == {"a": True, "b": True}
    seen = {"a": np.ones((1, 3), np.float32), "b": np.zeros((1, 2), np.float32)}
    model.fix(["b"])
    one = model.predict(seen, deterministic=True)[0]
    two = model.predict({**seen, "a": seen["a"] * 3}, deterministic=True)[0]
    assert np.array_equal(one, two)
    together = {"all": ["a", "b"]}
    model = CausalBC("MultiInputPolicy", demonstrations=data, factors=together, **SMALL)
    assert model.graph == {"all": True}
    with pytest.raises(ValueError, match=r"must cover the keys.*missing \['b'\]"):
        CausalBC("MultiInputPolicy", demonstrations=data, factors={"a": "a"}, **SMALL)


def test_graphs_that_make_no_sense_are_refused() -> None:
    model = CausalBC("MlpPolicy", demonstrations=linear_expert(3, 1), **SMALL)
    for graph, told in (
        ([1, 0], "a 0 or 1 for each of the 3 factors"),
        ([1, 0, 2], "consists of 0 and 1"),
        (["y"], r"no factors 'y'; they are 'x0'"),
        ({"x0": True}, "lacks"),
    ):
        with pytest.raises(ValueError, match=told):
            model.fix(graph)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"keep_probability": 0.0}, ValueError, "0 < keep_probability <= 1"),
        ({"keep_probability": "half"}, TypeError, "must be a number"),
        ({"vae_kwargs": {"latents": 3}}, TypeError, "it takes n_latents, beta"),
        ({"vae_kwargs": {"n_latents": 2.5}}, TypeError, "a whole number"),
        ({"policy_kwargs": {"features_extractor_class": object}}, TypeError, "the mask over"),
    ],
)
def test_options_out_of_range_are_refused(options: Any, error: Any, told: str) -> None:
    with pytest.raises(error, match=told):
        CausalBC("MlpPolicy", demonstrations=linear_expert(3, 1), **options, **SMALL)


# -- files -----------------------------------------------------------------------------------------


def test_the_graph_is_saved_with_the_model(tmp_path: Any) -> None:
    data = linear_expert(3, 1)
    made = CausalBC("MlpPolicy", demonstrations=data, graph=["x1"], **SMALL)
    made.save(tmp_path / "model")
    loaded = CausalBC.load(tmp_path / "model", device="cpu")
    assert loaded.graph == {"x0": False, "x1": True, "x2": False}
    other = CausalBC.load(tmp_path / "model", graph=[1, 1, 0], device="cpu")
    assert other.graph["x0"] and not other.graph["x2"]


@pytest.mark.parametrize("net_arch", [[], [8], {"pi": [8, 4], "vf": []}])
def test_stock_sb3_loads_the_policy_under_its_graph(tmp_path: Any, net_arch: Any) -> None:
    model = CausalBC(
        "MlpPolicy",
        demonstrations=linear_expert(3, 2),
        policy_kwargs={"net_arch": net_arch},
        graph=[1, 0, 1],
        **SMALL,
    ).learn(20)
    model.save_for_sb3(tmp_path / "policy.pth")
    stock = ActorCriticPolicy.load(tmp_path / "policy.pth", device="cpu")
    assert type(stock.features_extractor).__module__.startswith("stable_baselines3")
    seen = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    one, other = (p.predict(seen, deterministic=True)[0] for p in (model, stock))
    assert np.allclose(one, other, atol=1e-6)
    tensor = th.as_tensor(seen)
    with th.no_grad():
        values = [p.predict_values(tensor) for p in (model.policy, stock)]
    assert th.allclose(*values, atol=1e-5)


def test_so_it_does_for_dicts(tmp_path: Any) -> None:
    data = kit_dataset(kit_env(observation="Dict", action="Discrete"))
    model = CausalBC("MultiInputPolicy", demonstrations=data, graph=["b"], **SMALL).learn(20)
    model.save_for_sb3(tmp_path / "policy.pth")
    stock = MultiInputActorCriticPolicy.load(tmp_path / "policy.pth", device="cpu")
    one, other = (p.predict(data.observations, deterministic=True)[0] for p in (model, stock))
    assert np.array_equal(one, other)


def test_the_command_line_asks_for_demonstrations_and_names_a_graph(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", "CausalBC", "--env", "Pendulum-v1", "--run-dir", "run", "--eval-every", "0"]
    assert cli.main([*words, "--steps", "4"]) == 2
    assert "--set demonstrations=FILE" in capsys.readouterr().err
    act = lambda seen: np.zeros((len(seen), 1), np.float32)  # noqa: E731
    from_policy(act, gym.make("Pendulum-v1"), n_steps=50, seed=0).save("expert.npz")
    more = ["--set", "demonstrations=expert.npz", "--set", "graph=[speed]"]
    more += ["--set", "factors.angle=[0,1]", "--set", "factors.speed=[2]"]
    assert cli.main([*words, *more, "--steps", "4", "--checkpoint-every", "2"]) == 0
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert cli.main(["train", "--resume", "../run", "--steps", "6"]) == 0
    loaded = CausalBC.load("../run/model", device="cpu")
    assert loaded.num_timesteps == 6 and loaded.graph == {"angle": False, "speed": True}


# -- latents as factors ----------------------------------------------------------------------------


def test_an_autoencoder_is_trained_first_and_then_frozen(tmp_path: Any) -> None:
    data = kit_dataset(kit_env(observation="Image", action="Discrete"))
    options: dict[str, Any] = {"steps": 15, "n_latents": 3, "width": 8}
    model = CausalBC("CnnPolicy", demonstrations=data, vae_kwargs=options, **SMALL)
    assert model.factors == "beta_vae" and list(model.graph) == [f"latent {i}" for i in range(3)]
    vae = model.extractor.vae  # type: ignore[attr-defined]

    def state(part: Any) -> Any:
        return {name: value.clone() for name, value in part.state_dict().items()}

    fresh, head = state(vae), state(model.policy.action_net)
    model.learn(15)
    trained = state(vae)
    assert not same(fresh, trained) and same(head, state(model.policy.action_net))
    model.learn(10, reset_num_timesteps=False)
    assert same(trained, state(vae)) and not same(head, state(model.policy.action_net))
    model.save(tmp_path / "model")
    loaded = CausalBC.load(tmp_path / "model", demonstrations=data, device="cpu")
    for one in (model, loaded):
        one.learn(5, reset_num_timesteps=False)
    assert same(snapshot(model), snapshot(loaded))
    with pytest.raises(TypeError, match="no beta-VAE"):
        model.save_for_sb3(tmp_path / "policy")


def test_latents_find_what_varies() -> None:
    """Two numbers behind ten entangled columns: two latents say nearly all of it."""
    rng = np.random.default_rng(0)
    sources = rng.uniform(-1, 1, size=(1_000, 2))
    seen = np.tanh(sources @ rng.normal(size=(2, 10)))
    data = rows(seen, sources[:, :1], spaces.Box(-1, 1, (1,), np.float32))
    model = CausalBC(
        "MlpPolicy",
        demonstrations=data,
        factors="beta_vae",
        vae_kwargs={"n_latents": 5, "steps": 1_500, "learning_rate": 3e-3, "beta": 0.05},
        **SMALL,
    ).learn(1_500)
    vae = model.extractor.vae  # type: ignore[attr-defined]
    with th.no_grad():
        mean, log_variance = vae.encode(th.as_tensor(seen, dtype=th.float32))
        error = (vae.decode(mean) - th.as_tensor(seen)).square().mean().item()
    assert error < 0.1 * seen.var()
    informative = (log_variance.exp().mean(0) < 0.5).sum()
    assert informative == 2


def test_an_image_of_a_dict_is_refused() -> None:
    space = spaces.Dict({"picture": spaces.Box(0, 255, (1, 36, 36), np.uint8)})

    class Pictures(gym.Env[Any, Any]):
        observation_space, action_space = space, spaces.Discrete(2)

    with pytest.raises(ValueError, match="'picture' is an image"):
        CausalBC("MultiInputPolicy", Pictures(), **SMALL)
    with pytest.raises(TypeError, match="reads Box observations"):
        CausalBC("MultiInputPolicy", Pictures(), factors="beta_vae", **SMALL)
