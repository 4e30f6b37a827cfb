"""The base of what imitates: what it takes, counts, saves, and refuses."""

import warnings
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext.algorithms.networks import descend
from sb3_ext.errors import CheckpointError
from sb3_ext.offline import FromDemonstrations, from_policy, to_replay_buffer
from sb3_ext.offline.demonstrations import Minibatches
from sb3_ext.resume import ResumableCheckpoint
from sb3_ext.running.hyperparameters import with_data_at_home
from sb3_ext.testing import OfflineConformance
from sb3_ext.testing.environments import kit_env
from sb3_ext.testing.offline import kit_dataset
from sb3_ext.trees import same, snapshot


class Clone(FromDemonstrations):
    """The likelihood of the expert's actions."""

    def update(self, observations: Any, actions: th.Tensor) -> dict[str, float]:
        _, log_prob, _ = self.policy.evaluate_actions(observations, actions)
        loss = -log_prob.mean()
        descend(loss, self.policy.optimizer)
        return {"loss": loss.item(), "draw": self.generator().random()}


class TestClone(OfflineConformance):
    algorithm = Clone
    action_spaces: ClassVar = ("Box", "Discrete", "MultiDiscrete", "MultiBinary")
    observation_spaces: ClassVar = ("Box", "Dict")


def small() -> dict[str, Any]:
    return {"policy_kwargs": {"net_arch": [8]}, "seed": 0, "device": "cpu"}


def trajectories(env: Any, lengths: tuple[int, ...] = (7, 5), **more: Any) -> list[Any]:
    """imitation's, without the package and without rewards."""
    rng = np.random.default_rng(0)
    return [
        SimpleNamespace(
            obs=rng.normal(size=(length + 1, 3)).astype(np.float32).clip(-5, 5),
            acts=np.stack([env.action_space.sample() for _ in range(length)]),
            **more,
        )
        for length in lengths
    ]


def test_the_stream_gives_every_sample_once_an_epoch_and_needs_two_numbers_only() -> None:
    data = kit_dataset(kit_env(), n=10)
    stream = Minibatches(data, data.observation_space, th.device("cpu"))
    drawn = [row for k in range(5) for row in stream.rows(3, 4 * k, 4)]
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10] != drawn[10:]
    again = Minibatches(data, data.observation_space, th.device("cpu"))
    assert again.rows(3, 8, 12).tolist() == drawn[8:]  # at once, from the middle
    assert again.rows(4, 0, 10).tolist() != drawn[:10]


def test_a_batch_is_what_the_expert_saw_and_did() -> None:
    data = kit_dataset(kit_env(action="Discrete"), n=10)
    stream = Minibatches(data, data.observation_space, th.device("cpu"))
    rows = np.array([7, 2])
    observations, actions = stream.batch(rows)
    assert np.array_equal(observations.numpy(), np.asarray(data.observations)[rows])
    assert actions.dtype == th.int64 and actions.tolist() == data.actions[rows].tolist()


@pytest.mark.parametrize("action", ["Box", "Discrete", "MultiDiscrete", "MultiBinary"])
def test_it_maximises_the_likelihood(action: str) -> None:
    """One sample again and again: its likelihood grows, whatever the kind of action."""
    data = kit_dataset(kit_env(action=action), n=1)
    model = Clone("MlpPolicy", demonstrations=data, learning_rate=1e-2, batch_size=4, **small())
    assert model.minibatches is not None
    found = []
    for _ in range(2):
        observations, actions = model.minibatches.batch(np.array([0]))
        found.append(model.policy.evaluate_actions(observations, actions)[1].item())
        model.learn(50)
    assert found[1] > found[0] + 0.3


def test_callbacks_and_schedules_count_gradient_steps(tmp_path: Any) -> None:
    model = Clone(
        "MlpPolicy",
        demonstrations=kit_dataset(kit_env()),
        learning_rate=lambda left: left,
        **small(),
    )
    evaluation = EvalCallback(kit_env(), eval_freq=10, n_eval_episodes=1, log_path=str(tmp_path))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Training and eval env are not of the same type")
        callbacks = [evaluation, CheckpointCallback(10, str(tmp_path))]
        model.learn(20, callback=callbacks, progress_bar=True)
    assert np.load(tmp_path / "evaluations.npz")["timesteps"].tolist() == [10, 20]
    assert (tmp_path / "rl_model_20_steps.zip").exists()
    assert model.policy.optimizer.param_groups[0]["lr"] == pytest.approx(1 / 20)


def test_after_save_and_load_it_goes_on_to_the_bit(tmp_path: Any) -> None:
    data = kit_dataset(kit_env())
    whole = Clone("MlpPolicy", demonstrations=data, **small()).learn(30)
    Clone("MlpPolicy", demonstrations=data, **small()).learn(13).save(tmp_path / "model")
    th.manual_seed(99)
    np.random.seed(99)
    loaded = Clone.load(tmp_path / "model", demonstrations=data, device="cpu")
    loaded.learn(17, reset_num_timesteps=False)
    assert same(snapshot(whole), snapshot(loaded))
    assert whole.generator().random() == loaded.generator().random()


def test_a_zip_holds_no_demonstrations_and_can_act(tmp_path: Any) -> None:
    data = kit_dataset(kit_env(), n=5000)
    Clone("MlpPolicy", demonstrations=data, **small()).save(tmp_path / "model.zip")
    assert (tmp_path / "model.zip").stat().st_size < data.nbytes
    loaded = Clone.load(tmp_path / "model", device="cpu")
    loaded.predict(np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="no data to learn from: pass demonstrations="):
        loaded.learn(1)
    loaded.set_demonstrations(data)
    loaded.learn(1)


def test_a_run_on_other_data_is_not_resumed(tmp_path: Any) -> None:
    for n in (60, 61):
        model = Clone("MlpPolicy", demonstrations=kit_dataset(kit_env(), n=n), **small())
        if n == 60:
            model.learn(10, callback=ResumableCheckpoint(tmp_path, every=5))
            continue
        with pytest.raises(CheckpointError, match="other data"):
            model.learn(20, callback=ResumableCheckpoint(tmp_path, every=5))


def test_stock_sb3_loads_the_policy(tmp_path: Any) -> None:
    model = Clone("MlpPolicy", demonstrations=kit_dataset(kit_env()), **small()).learn(5)
    model.save_for_sb3(tmp_path / "policy.pth")
    stock = ActorCriticPolicy.load(tmp_path / "policy.pth")
    seen = np.ones((4, 3), np.float32)
    one, other = (p.predict(seen, deterministic=True)[0] for p in (model, stock))
    assert np.array_equal(one, other)


def test_trajectories_without_rewards_and_without_the_package() -> None:
    env = kit_env()
    given = trajectories(env)
    model = Clone("MlpPolicy", env, demonstrations=given, **small())
    assert model.demonstrations is not None
    assert model.demonstrations.lengths().tolist() == [7, 5]
    assert np.array_equal(np.asarray(model.demonstrations.observations)[7:12], given[1].obs[:5])
    assert "have no rewards" in str(model.demonstrations.source)
    model.learn(2)
    one = Clone("MlpPolicy", env, demonstrations=given[0], **small())
    assert len(one.demonstrations or ()) == 7


def test_other_sources(tmp_path: Any) -> None:
    data = kit_dataset(kit_env())
    buffer = to_replay_buffer(data)
    assert len(Clone("MlpPolicy", demonstrations=buffer, **small()).demonstrations or ()) == 60
    data.save(tmp_path / "data.npz")
    model = Clone("MlpPolicy", demonstrations=str(tmp_path / "data.npz"), **small())
    assert same(model.demonstrations.actions, data.actions)  # type: ignore[union-attr]
    env = kit_env()
    rows = trajectories(env)
    arrays = {"obs": np.concatenate([one.obs for one in rows]), "terminal": np.ones(2, bool)}
    arrays |= {"acts": np.concatenate([one.acts for one in rows]), "indices": np.array([7])}
    np.savez(tmp_path / "their.npz", **arrays)
    model = Clone("MlpPolicy", env, demonstrations=tmp_path / "their.npz", **small())
    assert len(model.demonstrations or ()) == 12


def test_images_and_vec_normalize() -> None:
    picture = {"features_extractor_kwargs": {"features_dim": 8}, "net_arch": [8]}
    data = kit_dataset(kit_env(observation="Image"), n=20)
    made = {**small(), "policy_kwargs": picture}
    Clone("CnnPolicy", demonstrations=data, batch_size=4, **made).learn(2)
    data = kit_dataset(kit_env())
    with pytest.raises(ValueError, match=r"demonstrations\.observations"):
        Clone("MlpPolicy", VecNormalize(kit_env()), demonstrations=data, **small())
    env = VecNormalize(kit_env(), training=False)
    env.obs_rms.mean = np.full(3, 5.0)  # type: ignore[union-attr]
    seen = []

    class Look(Clone):
        def update(self, observations: Any, actions: th.Tensor) -> dict[str, float]:
            seen.append(observations.mean().item())
            return super().update(observations, actions)

    Look("MlpPolicy", env, demonstrations=data, **small()).learn(3)
    assert max(seen) < -3


def test_demonstrations_of_an_expert() -> None:
    data = from_policy(lambda seen: np.tanh(seen[:, :2]) / 2 + 0.5, kit_env(), n_episodes=2, seed=0)
    Clone("MlpPolicy", "Pendulum-v1", **small())  # spaces alone will do to act
    assert Clone("MlpPolicy", demonstrations=data, **small()).learn(1).num_timesteps == 1


def test_bad_input_is_refused_before_training(tmp_path: Any) -> None:
    data = kit_dataset(kit_env())
    with pytest.raises(ValueError, match="do not fit each other"):
        Clone("MlpPolicy", "Pendulum-v1", demonstrations=data, **small())
    with pytest.raises(ValueError, match="pass demonstrations=, or an env"):
        Clone("MlpPolicy", **small())
    with pytest.raises(TypeError, match="list of trajectories with obs and acts"):
        Clone("MlpPolicy", demonstrations=3, **small())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no trajectory at all"):
        Clone("MlpPolicy", kit_env(), demonstrations=[], **small())
    with pytest.raises(ValueError, match="which actions are allowed"):
        Clone("MlpPolicy", demonstrations=trajectories(kit_env()), **small())
    with pytest.raises(ValueError, match="it lacks acts"):
        Clone("MlpPolicy", kit_env(), demonstrations=[SimpleNamespace(obs=[])], **small())
    (tmp_path / "expert.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match="allow_pickle=True"):
        Clone("MlpPolicy", demonstrations=tmp_path / "expert.pkl", **small())
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        Clone("MlpPolicy", demonstrations=data, batch_size=0, **small())
    Clone("MlpPolicy", demonstrations=data, **small()).save(tmp_path / "model")
    with pytest.raises(TypeError, match="did you mean 'batch_size'"):
        Clone.load(tmp_path / "model", batchsize=3)

    class Other(FromDemonstrations):
        supported_actions: ClassVar = (spaces.Discrete,)

        def update(self, observations: Any, actions: th.Tensor) -> dict[str, float]:
            return {}

    with pytest.raises(ValueError, match="Other supports Discrete action spaces"):
        Other("MlpPolicy", demonstrations=data, **small())
    with pytest.raises(CheckpointError, match="saved by Clone"):
        Other.load(tmp_path / "model")


def test_a_run_finds_its_demonstrations_from_anywhere(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.npz").touch()
    found = with_data_at_home({"demonstrations": "data.npz", "dataset": "minari:a/b"})
    assert found == {"demonstrations": str(tmp_path / "data.npz"), "dataset": "minari:a/b"}
