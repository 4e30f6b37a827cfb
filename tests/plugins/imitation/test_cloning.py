"""BC and DAgger: imitation's own bits, the laws, experts that they refuse, and what they learn."""

import builtins
import sys
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext import BC, DAgger, cli
from sb3_ext.offline import OfflineDataset, from_policy
from sb3_ext.plugins.imitation import compat
from sb3_ext.plugins.imitation.equations import mean_squared_error
from sb3_ext.plugins.imitation.experts import checked, resolve_expert
from sb3_ext.testing import AlgorithmConformance, OfflineConformance
from sb3_ext.testing.environments import kit_env
from sb3_ext.testing.offline import kit_dataset
from sb3_ext.trees import finite, same, snapshot


def small(**more: Any) -> dict[str, Any]:
    return {"policy_kwargs": {"net_arch": [16]}, "seed": 0, "device": "cpu", **more}


def rule(observations: Any) -> Any:
    """A CartPole expert: where the pole falls, there goes the cart."""
    return (observations @ np.array([0.05, 0.1, 1.0, 0.3]) > 0).astype(int)


def push(space: spaces.Space[Any]) -> Any:
    """A rule for the kit's environment, of any kind of actions."""

    def act(observations: Any) -> Any:
        rows = observations.reshape(len(observations), -1).astype(np.float32)
        side = rows[:, 0] > rows.mean()
        if isinstance(space, spaces.Box):
            return np.where(side[:, None], space.low, space.high).astype(np.float32)
        return side.astype(int) if space.shape == () else np.repeat(side[:, None], 2, 1).astype(int)

    return act


# -- the laws ------------------------------------------------------------------------------------


class TestBC(OfflineConformance):
    algorithm = BC


class TestBCBySquares(OfflineConformance):
    algorithm = BC
    action_spaces = ("Box",)
    observation_spaces = ("Box",)
    kwargs: ClassVar[dict[str, Any]] = {"batch_size": 16, "loss": "mse"}

    def test_refuses_undeclared_action_spaces(self) -> None:
        for kind in ("Discrete", "MultiBinary"):
            with pytest.raises(ValueError, match="loss='mse' compares Box actions"):
                self.make(kit_env(action=kind))


class TestDAgger(AlgorithmConformance):
    algorithm = DAgger
    kwargs: ClassVar[dict[str, Any]] = {
        "batch_size": 16,
        "round_min_episodes": 1,
        "round_min_timesteps": 20,
        "beta_rampdown_rounds": 2,
    }

    def make(self, env: Any = None, **changes: Any) -> Any:
        env = kit_env(**next(self.spaces())) if env is None else env
        changes.setdefault("expert", push(env.action_space))
        return super().make(env, **changes)

    def test_learns_on_after_load(self, tmp_path: Any) -> None:
        model = self.learned()
        model.save(tmp_path / "model")
        env = kit_env(**next(self.spaces()))
        loaded = DAgger.load(tmp_path / "model", env=env)
        with pytest.raises(ValueError, match="no expert to ask"):
            loaded.learn(1)
        loaded = DAgger.load(
            tmp_path / "model",
            env=env,
            expert=model.expert,
            demonstrations=model.labelled(),
        )
        assert (loaded.rounds, loaded.expert_queries) == (model.rounds, model.expert_queries)
        before, steps = snapshot(loaded), loaded.num_timesteps
        loaded.learn(self.steps, reset_num_timesteps=False)
        assert loaded.num_timesteps >= steps + self.steps
        assert len(loaded.labelled()) > len(model.labelled())
        assert not same(before, snapshot(loaded))

    def test_nan_is_not_hidden(self) -> None:
        """Rewards are not looked at."""
        spaces_ = next(self.spaces())
        model = self.make(kit_env(nan_at=self.steps // 2, **spaces_)).learn(self.steps)
        assert finite(snapshot(model))


# -- imitation's own -----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Converting a tensor")  # in what imitation logs
@pytest.mark.parametrize("action", ["Box", "Discrete"])
def test_bc_ends_with_the_bits_of_imitations(action: str, tmp_path: Any) -> None:
    from imitation.algorithms import bc
    from imitation.util import logger

    data = kit_dataset(kit_env(action=action))
    ours = BC("MlpPolicy", demonstrations=data, seed=3, device="cpu", l2_weight=1e-3)
    batches = []
    for k in range(50):
        rows = ours.minibatches.rows(ours.stream_seed, 32 * k, 32)  # type: ignore[union-attr, arg-type]
        batches.append({"obs": data.observations[rows], "acts": data.actions[rows]})  # type: ignore[index]
    ours.learn(50)

    set_random_seed(3)
    theirs = bc.BC(
        observation_space=data.observation_space,
        action_space=data.action_space,
        rng=np.random.default_rng(0),
        demonstrations=batches,
        l2_weight=1e-3,
        device="cpu",
        custom_logger=logger.configure(str(tmp_path), []),
    )
    theirs.train(n_batches=50, progress_bar=False)
    assert same(theirs.policy.state_dict(), ours.policy.state_dict())
    assert same(theirs.optimizer.state_dict()["state"], ours.policy.optimizer.state_dict()["state"])


def test_squared_error_by_hand() -> None:
    found = mean_squared_error(th.tensor([[1.0, 2.0], [0.0, 0.0]]), th.tensor([[0.0, 0.0], [2, 1]]))
    assert found.item() == (1 + 4 + 4 + 1) / 4


def test_the_copy_of_imitations_dagger_is_ours_alone() -> None:
    module = compat.dagger()
    assert isinstance(module.serialize, compat.Store)
    assert module.LinearBetaSchedule(4)(1) == 0.75
    assert sys.modules.get("imitation.algorithms.dagger") is not module
    assert not isinstance(sys.modules.get("imitation.data.serialize"), compat.Store)
    import imitation.data

    assert not isinstance(getattr(imitation.data, "serialize", None), compat.Store)


def test_the_store_keeps_what_its_folder_got() -> None:
    store = compat.Store()
    from pathlib import PurePosixPath as Path

    store.save(Path("/a/1.npz"), ["x"])
    store.save(Path("/b/1.npz"), ["y"])
    store.save(Path("/a/2.npz"), ["z"])
    assert (store.pop(Path("/a")), store.pop(Path("/a")), store.pop("/b")) == (
        ["x", "z"],
        [],
        ["y"],
    )


# -- learning ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cartpole() -> OfflineDataset:
    data = from_policy(rule, "CartPole-v1", n_episodes=2, seed=0)
    assert (data.returns() == 500).all()
    return data


def worth(model: Any) -> float:
    found, _ = evaluate_policy(model, make_vec_env("CartPole-v1", 5, seed=1), 5, warn=False)
    return float(found)  # type: ignore[arg-type]


def test_a_clone_reaches_the_experts_return(cartpole: OfflineDataset) -> None:
    model = BC("MlpPolicy", demonstrations=cartpole, learning_rate=3e-3, **small())
    assert worth(model) < 100
    assert worth(model.learn(500)) > 400


def test_the_wrong_sign_does_not(cartpole: OfflineDataset, monkeypatch: Any) -> None:
    from sb3_ext.plugins.imitation import bc

    monkeypatch.setattr(bc, "descend", lambda loss, optimizer: _climb(loss, optimizer))
    model = BC("MlpPolicy", demonstrations=cartpole, learning_rate=3e-3, **small()).learn(500)
    assert worth(model) < 100


def _climb(loss: th.Tensor, optimizer: th.optim.Optimizer) -> None:
    optimizer.zero_grad()
    (-loss).backward()
    optimizer.step()


def test_dagger_reaches_the_experts_return_and_counts_its_queries() -> None:
    env = make_vec_env("CartPole-v1", 2, seed=0)
    model = DAgger("MlpPolicy", env, expert=rule, beta_decay=0, learning_rate=3e-3, **small())
    model.learn(2500)
    assert worth(model) > 400
    assert model.expert_queries == model.num_timesteps
    assert model.rounds >= 2


def test_beta_decides_who_acts_and_the_expert_who_is_right() -> None:
    """With beta 1 the expert acts; with 0 the clone does, and the labels are the expert's."""
    for decay, expected in ((1.0, True), (0.0, False)):
        env = kit_env(action="Discrete")
        expert = push(env.action_space)
        model = DAgger(
            "MlpPolicy",
            env,
            expert=expert,
            beta_decay=decay,
            round_min_timesteps=40,
            round_min_episodes=1,
            **small(),
        )
        if not expected:
            model.rounds = 1
        model.learn(40)
        labelled: Any = model.labelled()
        played = [int(given) for given, _ in env.envs[0].unwrapped.given]  # type: ignore[attr-defined]
        labels = model.aggregated.actions
        assert np.array_equal(labelled.actions, np.concatenate(labels))
        for seen, said in zip(model.aggregated.observations, labels, strict=True):
            assert all(expert(one[None])[0] == a for one, a in zip(seen[:-1], said, strict=True))
        together = played[: len(labelled)] == labelled.actions.tolist()
        assert together is expected


@pytest.mark.parametrize(
    ("options", "betas"),
    [
        ({"beta_rampdown_rounds": 4}, [1, 0.75, 0.5, 0.25, 0, 0]),
        ({"beta_decay": 0.5}, [1, 0.5, 0.25]),
        ({"beta_decay": 0}, [1, 0, 0]),
    ],
)
def test_schedules_by_hand(options: Any, betas: list[float]) -> None:
    model = DAgger("MlpPolicy", kit_env(), expert=lambda _: None, **options, **small())
    for model.rounds, beta in enumerate(betas):
        assert model.beta() == beta


def test_under_vec_normalize_the_expert_sees_what_the_environment_says() -> None:
    env = VecNormalize(make_vec_env("CartPole-v1", 1, seed=0), training=False, norm_reward=False)
    env.obs_rms.update(np.random.default_rng(0).normal(3, 2, (100, 4)))  # type: ignore[union-attr]
    asked: list[Any] = []

    def expert(observations: Any) -> Any:
        asked.append(observations.copy())
        return rule(observations)

    model = DAgger("MlpPolicy", env, expert=expert, beta_decay=1.0, **small()).learn(500)
    assert np.allclose(np.concatenate(asked)[0], model.aggregated.observations[0][0])
    assert abs(np.concatenate(asked)).max() < 5  # the pole is upright, as the expert's rule wants
    assert all(len(one) == 500 for one in model.aggregated.actions)


# -- experts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (np.zeros((2, 3)), r"shape \[2, 2\], got \[2, 3\]"),
        (np.full((2, 2), np.nan), "finite numbers"),
        (np.array([[0, 1], [5, 1]]), r"must be in Box.*got \[5, 1\]"),
        (None, "shape"),
    ],
)
def test_bad_actions_are_told_at_the_first_question(answer: Any, told: str) -> None:
    model = DAgger("MlpPolicy", kit_env(2), expert=lambda _: answer, **small())
    with pytest.raises(ValueError, match=told):
        model.learn(10)


def test_discrete_answers() -> None:
    space = spaces.Discrete(3)
    assert checked([0, 2.0], 2, space).tolist() == [0, 2]
    for bad in ([0, 3], [0.5, 1], [-1, 0]):
        with pytest.raises(ValueError, match=r"must be in Discrete\(3\)"):
            checked(bad, 2, space)


def test_experts_of_other_spaces_are_refused_before_anything_is_played() -> None:
    expert = PPO("MlpPolicy", kit_env(action="Discrete"), device="cpu")
    with pytest.raises(ValueError, match="expert and the environment do not fit"):
        DAgger("MlpPolicy", kit_env(), expert=expert, **small())
    with pytest.raises(TypeError, match="got int"):
        DAgger("MlpPolicy", kit_env(), expert=5, **small())
    with pytest.raises(ValueError, match="no expert to ask"):
        DAgger("MlpPolicy", kit_env(), **small()).learn(10)


def test_a_zip_is_asked_when_it_is_trusted(tmp_path: Any) -> None:
    expert = PPO("MlpPolicy", kit_env(), **small())
    expert.save(tmp_path / "ppo.zip")
    with pytest.raises(ValueError, match="allow_pickle=True"):
        DAgger("MlpPolicy", kit_env(), expert=tmp_path / "ppo.zip", **small())
    model = DAgger(
        "MlpPolicy", kit_env(), expert=str(tmp_path / "ppo.zip"), allow_pickle=True, **small()
    )
    observations = np.ones((2, 3), np.float32)
    told = model.ask(observations, np.ones(2, bool))  # type: ignore[misc]
    assert np.allclose(told, expert.predict(observations, deterministic=True)[0])


def test_a_human_is_asked_again_until_it_fits(monkeypatch: Any, capsys: Any) -> None:
    answers = iter(["up", "7", "1", "0"])
    monkeypatch.setattr(builtins, "input", lambda _: next(answers))
    space = spaces.Discrete(3)
    ask = resolve_expert("human", spaces.Box(-1, 1, (2,)), space)
    assert ask(np.zeros((2, 2)), np.ones(2, bool)).tolist() == [1, 0]
    assert "must be in Discrete(3)" in capsys.readouterr().out
    box = spaces.Box(-1, 1, (2,))
    monkeypatch.setattr(builtins, "input", lambda _: "0.5, -1")
    assert np.allclose(resolve_expert("human", box, box)(np.zeros((1, 2)), [True]), [[0.5, -1]])  # type: ignore[arg-type]


# -- options and the command line ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value"),
    [("ent_weight", -1), ("l2_weight", "much"), ("loss", "hinge"), ("batch_size", 0)],
)
def test_options_out_of_range(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=option):
        BC("MlpPolicy", demonstrations=kit_dataset(kit_env()), **{option: value}, **small())
    with pytest.raises(ValueError, match="n_epochs"):
        DAgger("MlpPolicy", kit_env(), expert=rule, n_epochs=0, **small())


def test_dict_observations_are_cloned_and_not_aggregated() -> None:
    env = kit_env(observation="Dict")
    BC("MultiInputPolicy", demonstrations=kit_dataset(env), **small()).learn(3)
    with pytest.raises(ValueError, match="FlattenObservation"):
        DAgger("MultiInputPolicy", env, expert=SimpleNamespace(predict=None), **small())


def test_from_expert_to_clones_by_the_command_line(tmp_path: Any, capsys: Any) -> None:
    """train, collect, train BC and GAIL and DAgger, eval: all without unpickling."""
    run, demos = str(tmp_path / "ppo"), str(tmp_path / "demos.npz")
    arch = ["--set", "policy_kwargs.net_arch=[8]", "--no-progress"]
    small_ppo = ["--set", "n_steps=64", "--set", "batch_size=64"]
    env = ["--env", "CartPole-v1"]
    rest = ["--eval-every", "0", "--checkpoint-every", "0"]

    def main(*words: str) -> None:
        assert cli.main(list(words)) == 0, capsys.readouterr().err

    main("train", "PPO", *env, "--steps", "64", "--run-dir", run, *small_ppo, *arch, *rest)
    main("collect", "--expert", run, "--episodes", "4", "--out", demos)
    given = ["--set", f"demonstrations={demos}"]
    main(
        "train",
        "BC",
        *env,
        "--steps",
        "20",
        "--run-dir",
        str(tmp_path / "bc"),
        *given,
        *arch,
        *rest,
    )
    options = ["--set", "allow_variable_horizon=true", "--set", "generator_kwargs.n_steps=64"]
    options += ["--set", "generator_kwargs.batch_size=64", "--set", "demo_batch_size=16"]
    gail = str(tmp_path / "gail")
    main("train", "GAIL", *env, "--steps", "128", "--run-dir", gail, *given, *options, *arch, *rest)
    logged = (tmp_path / "gail" / "progress.csv").read_text()
    assert "discriminator/acc_expert" in logged and "train/value_loss" in logged
    dagger = str(tmp_path / "dagger")
    asks = ["--set", f"expert={run}", "--set", "round_min_timesteps=50"]
    main("train", "DAgger", *env, "--steps", "60", "--run-dir", dagger, *asks, *arch, *rest)
    for name in ("bc", "gail", "dagger"):
        main("eval", str(tmp_path / name), "--episodes", "2")
    assert cli.main(["train", "GAIL", *env, "--steps", "9", "--run-dir", str(tmp_path / "no")]) == 2
    assert "--set demonstrations=FILE" in capsys.readouterr().err


def test_labels_outlive_an_interrupted_round() -> None:
    asked = 0

    def tired(seen: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked > 40:
            raise KeyboardInterrupt
        return rule(seen)

    model = DAgger("MlpPolicy", "CartPole-v1", expert=tired, **small())
    with pytest.raises(KeyboardInterrupt):
        model.learn(500)
    assert len(model.labelled()) == 40 == model.expert_queries


def test_a_loaded_dagger_says_that_labels_are_missing(tmp_path: Any) -> None:
    brief = {"round_min_timesteps": 60, "round_min_episodes": 1, "n_epochs": 1}
    model = DAgger("MlpPolicy", "CartPole-v1", expert=rule, **brief, **small())
    model.learn(60).save(tmp_path / "model")
    kept = model.labelled().save(tmp_path / "labels")
    env = make_vec_env("CartPole-v1")
    bare = DAgger.load(tmp_path / "model", env=env, expert=rule)
    with pytest.warns(UserWarning, match="does not hold what the expert said, here in 1 rounds"):
        bare.learn(60, reset_num_timesteps=False)
    whole = DAgger.load(tmp_path / "model", env=env, expert=rule, demonstrations=kept)
    whole.learn(60, reset_num_timesteps=False)
    assert len(whole.labelled()) > len(model.labelled())
