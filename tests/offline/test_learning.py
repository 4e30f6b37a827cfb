"""The offline loop: what it counts, what it refuses, and that it is SB3's algorithms unchanged."""

import dataclasses
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext import BCQ, OfflineDDPG, OfflineDQN, OfflineSAC, OfflineTD3, cli
from sb3_ext.errors import CheckpointError
from sb3_ext.offline import (
    OfflineDataset,
    episode_starts_after,
    from_policy,
    record_final_buffer,
)
from sb3_ext.offline.buffer import make_buffer, scaled_actions, seen_by_sb3
from sb3_ext.resume import ResumableCheckpoint
from sb3_ext.testing.environments import kit_env
from sb3_ext.testing.offline import kit_dataset
from sb3_ext.trees import same, snapshot


def small() -> dict[str, Any]:
    """Anew each time: SB3's DDPG writes into the policy_kwargs that it is given."""
    return {"policy_kwargs": {"net_arch": [16]}, "seed": 0, "device": "cpu"}


def by_hand(model: Any, data: OfflineDataset) -> None:
    """Fill a stock model's replay buffer."""
    scaled = scaled_actions(data)
    for row in range(len(data)):
        model.replay_buffer.add(
            data.observations[row][None],  # type: ignore[index]
            data.next_observations[row][None],  # type: ignore[index]
            scaled[row][None],
            data.rewards[row][None],
            (data.terminated | data.truncated)[row][None],
            [{"TimeLimit.truncated": bool(data.truncated[row] and not data.terminated[row])}],
        )


@pytest.mark.parametrize(
    ("ours", "stock", "action", "options"),
    [
        (OfflineTD3, sb3.TD3, "Box", {}),
        (OfflineDDPG, sb3.DDPG, "Box", {"n_steps": 3}),
        (OfflineSAC, sb3.SAC, "Box", {}),
        (OfflineDQN, sb3.DQN, "Discrete", {"target_update_interval": 1_000}),
    ],
)
def test_it_is_stock_sb3_on_a_buffer_of_the_same_data(
    ours: Any, stock: Any, action: str, options: dict[str, Any]
) -> None:
    """To the bit: the same draws, the same batches, the same steps."""
    data = kit_dataset(kit_env(action=action))
    exact = {"engine": "reference"}
    mine = ours("MlpPolicy", dataset=data, **exact, **options, **small())
    theirs = stock("MlpPolicy", kit_env(action=action), buffer_size=len(data), **options, **small())
    by_hand(theirs, data)
    theirs.set_logger(configure(None, []))
    np.random.seed(3)
    th.manual_seed(3)
    theirs._total_timesteps = 1
    theirs.train(30, batch_size=mine.batch_size)
    np.random.seed(3)
    th.manual_seed(3)
    mine.learn(30)
    assert same(snapshot(theirs)["policy"], snapshot(mine)["policy"])


def test_a_fresh_target_network_follows_by_gradient_steps() -> None:
    data = kit_dataset(kit_env(action="Discrete"))
    model = OfflineDQN("MlpPolicy", dataset=data, target_update_interval=10, tau=1.0, **small())
    model.learn(19)
    assert not same(model.q_net.state_dict(), model.q_net_target.state_dict())
    model.learn(1, reset_num_timesteps=False)
    assert same(model.q_net.state_dict(), model.q_net_target.state_dict())


class Seen(BaseCallback):
    def __init__(self) -> None:
        super().__init__()
        self.pairs: list[tuple[int, int]] = []

    def _on_step(self) -> bool:
        self.pairs.append((self.num_timesteps, self.model._n_updates))
        return True


def test_callbacks_see_as_many_updates_as_steps() -> None:
    seen = Seen()
    OfflineTD3("MlpPolicy", dataset=kit_dataset(kit_env()), **small()).learn(7, callback=seen)
    assert seen.pairs == [(k, k) for k in range(1, 8)]


def test_a_schedule_runs_over_the_gradient_steps() -> None:
    rates = []

    class Rates(BaseCallback):
        def _on_step(self) -> bool:
            rates.append(self.model.actor.optimizer.param_groups[0]["lr"])
            return True

    data = kit_dataset(kit_env())
    model = OfflineTD3("MlpPolicy", dataset=data, learning_rate=lambda left: left, **small())
    model.learn(4, callback=Rates())
    assert rates == [1.0, 0.75, 0.5, 0.25]


def test_sb3_callbacks_work(tmp_path: Any) -> None:
    model = OfflineTD3("MlpPolicy", dataset=kit_dataset(kit_env()), **small())
    evaluation = EvalCallback(kit_env(), eval_freq=10, n_eval_episodes=1, log_path=str(tmp_path))
    checkpoints = CheckpointCallback(10, str(tmp_path))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Training and eval env are not of the same type")
        model.learn(20, callback=[evaluation, checkpoints], progress_bar=True)
    assert np.load(tmp_path / "evaluations.npz")["timesteps"].tolist() == [10, 20]
    assert (tmp_path / "rl_model_20_steps.zip").exists()


def test_no_second_copy_of_the_data() -> None:
    data = kit_dataset(kit_env())
    buffer = make_buffer(data, data.observation_space, "cpu")
    assert np.shares_memory(buffer.observations, data.observations)  # type: ignore[arg-type]
    assert np.shares_memory(buffer.next_observations, data.next_observations)  # type: ignore[arg-type]
    assert np.shares_memory(buffer.rewards, data.rewards)
    buffer._on_device()
    assert buffer._tensors is not None
    buffer._tensors["rewards"][0] = 77.0
    assert data.rewards[0] == 77.0  # the tensors are the same memory, too


def test_actions_are_scaled_by_dimension() -> None:
    data = kit_dataset(kit_env())  # bounds [-2, 1] and [0, 3]
    buffer = make_buffer(data, data.observation_space, "cpu")
    expected = (data.actions - [-0.5, 1.5]) / 1.5
    assert np.allclose(buffer.actions[:, 0], expected, atol=1e-6)


def test_images_are_seen_with_their_channels_first() -> None:
    data = kit_dataset(kit_env(observation="Image"), n=5)
    space = seen_by_sb3(data.observation_space)
    buffer = make_buffer(data, space, "cpu")
    assert space.shape == (1, 36, 36)
    batch = buffer._get_samples(np.array([3]))
    picture = np.asarray(data.observations)[3]
    assert np.array_equal(batch.observations[0].numpy(), np.moveaxis(picture, -1, 0))
    assert np.shares_memory(buffer.observations, np.asarray(data.observations))


def test_time_limits_and_cut_off_data_are_bootstrapped_from() -> None:
    data = kit_dataset(kit_env(), n=50)
    terminated, truncated = np.zeros(4, bool), np.zeros(4, bool)
    terminated[0], truncated[1] = True, True
    cut = OfflineDataset(
        data.observations[:4],  # type: ignore[index]
        data.actions[:4],
        data.rewards[:4],
        data.next_observations[:4],  # type: ignore[index]
        terminated,
        truncated,
        np.array([0, 1, 2, 3]),  # the third episode ends neither way
        data.observation_space,
        data.action_space,
    )
    buffer = make_buffer(cut, cut.observation_space, "cpu", n_steps=2)
    assert buffer.dones[:, 0].tolist() == [1, 1, 1, 1]
    assert buffer.timeouts[:, 0].tolist() == [0, 1, 1, 1]
    batch = buffer._get_samples(np.arange(4))
    assert batch.dones.flatten().tolist() == [1, 0, 0, 0]
    assert np.allclose(batch.rewards.flatten(), cut.rewards)  # no sum over an end


def test_a_replay_buffer_is_shared() -> None:
    behavior = sb3.TD3("MlpPolicy", kit_env(), learning_starts=20, buffer_size=100, **small())
    behavior.learn(60)
    model = OfflineTD3("MlpPolicy", dataset=behavior.replay_buffer, **small())
    assert model.replay_buffer is behavior.replay_buffer
    model.learn(5)


def test_a_killed_run_names_its_data_and_does_not_hold_it(tmp_path: Any) -> None:
    data = kit_dataset(kit_env(), n=3000)
    other = dataclasses.replace(data, rewards=data.rewards + 1)
    checkpoint = ResumableCheckpoint(tmp_path, every=5)
    OfflineTD3("MlpPolicy", dataset=data, **small()).learn(10, callback=checkpoint)
    size = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    assert checkpoint.last is not None and size < 2 * data.nbytes  # two checkpoints of networks
    with pytest.raises(CheckpointError, match="other data"):
        OfflineTD3("MlpPolicy", dataset=other, **small()).learn(
            20, callback=ResumableCheckpoint(tmp_path, every=5)
        )


def test_vec_normalize_normalises_what_is_drawn() -> None:
    with pytest.raises(ValueError, match="pass training=False"):
        OfflineTD3("MlpPolicy", VecNormalize(kit_env()), dataset=kit_dataset(kit_env()), **small())
    env = VecNormalize(kit_env(), training=False)
    env.obs_rms.mean = np.full(3, 5.0)  # type: ignore[union-attr]
    data = kit_dataset(kit_env())
    model = OfflineTD3("MlpPolicy", env, dataset=data, **small())
    batch = model.replay_view.buffer.sample(8, env=env)
    assert batch.observations.mean() < -3
    model.learn(3)


@pytest.mark.parametrize("name", ["learning_starts", "train_freq", "buffer_size", "action_noise"])
def test_what_is_about_collecting_is_refused(name: str, tmp_path: Any) -> None:
    data = kit_dataset(kit_env())
    with pytest.raises(TypeError, match=f"takes no {name}=: it collects nothing"):
        OfflineTD3("MlpPolicy", dataset=data, **{name: 1}, **small())
    OfflineTD3("MlpPolicy", dataset=data, **small()).save(tmp_path / "model")
    with pytest.raises(TypeError, match=f"takes no {name}="):
        OfflineTD3.load(tmp_path / "model", **{name: 1})


def test_data_of_another_environment_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit each other"):
        BCQ("MlpPolicy", "Pendulum-v1", dataset=kit_dataset(kit_env()), **small())
    with pytest.raises(ValueError, match="supports Box action spaces"):
        BCQ("MlpPolicy", dataset=kit_dataset(kit_env(action="Discrete")), **small())


def test_neither_data_nor_environment_is_refused() -> None:
    with pytest.raises(ValueError, match="pass dataset=, or an env"):
        BCQ("MlpPolicy", **small())


def test_what_is_no_data_is_refused() -> None:
    with pytest.raises(TypeError, match="takes an OfflineDataset"):
        BCQ("MlpPolicy", dataset={"observations": []}, **small())  # type: ignore[arg-type]


def test_unbounded_actions_are_refused() -> None:
    space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    rows = np.zeros((3, 1), np.float32)
    flags = np.zeros(3, bool)
    data = OfflineDataset(
        rows, rows, flags, rows, flags, flags, episode_starts_after(flags), space, space
    )
    with pytest.raises(ValueError, match="finite bounds"):
        BCQ("MlpPolicy", dataset=data, **small())


def test_acting_without_an_environment_is_refused() -> None:
    model = BCQ("MlpPolicy", dataset=kit_dataset(kit_env()), **small())
    env = model.get_env()
    assert env is not None
    env.reset()
    with pytest.raises(RuntimeError, match="without an environment to act in"):
        env.step(np.zeros((1, 2), np.float32))


def test_a_dataset_cannot_be_written_to() -> None:
    model = BCQ("MlpPolicy", dataset=kit_dataset(kit_env()), **small())
    with pytest.raises(TypeError, match="to_replay_buffer"):
        model.replay_buffer.add()  # type: ignore[union-attr, call-arg]


def test_a_buffer_that_cannot_be_shared_names_the_way() -> None:
    space, actions = kit_env().observation_space, kit_env().action_space
    row = (np.zeros(3), np.zeros(3), np.zeros(2), np.zeros(1), np.zeros(1), [{}])
    saving = ReplayBuffer(
        10, space, actions, "cpu", optimize_memory_usage=True, handle_timeout_termination=False
    )
    summing = NStepReplayBuffer(10, space, actions, "cpu", n_steps=3)
    other = NStepReplayBuffer(10, space, actions, "cpu", n_steps=3, gamma=0.5)
    for buffer, n_steps, told in (
        (saving, 1, "time_limit="),
        (summing, 1, "this one sums 3"),
        (other, 3, "discounts with gamma=0.5"),
    ):
        buffer.add(*row)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=told):
            OfflineTD3("MlpPolicy", dataset=buffer, n_steps=n_steps, **small())


def test_a_pickle_is_not_trusted_by_its_path(tmp_path: Any) -> None:
    (tmp_path / "buffer.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match="allow_pickle=True"):
        BCQ("MlpPolicy", dataset=tmp_path / "buffer.pkl", **small())


def test_an_offline_algorithm_records_nothing() -> None:
    model = BCQ("MlpPolicy", dataset=kit_dataset(kit_env()), **small())
    with pytest.raises(TypeError, match="never acts"):
        record_final_buffer(model, 10)


def test_the_command_line_asks_for_data_and_finds_it_from_anywhere(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", "BCQ", "--env", "Pendulum-v1", "--run-dir", "run", "--eval-every", "0"]
    assert cli.main([*words, "--steps", "4"]) == 2
    assert "--set dataset=FILE" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    stock = sb3.TD3("MlpPolicy", "Pendulum-v1", device="cpu")
    from_policy(stock, n_steps=50, seed=0).save("data.npz")
    more = ["--set", "dataset=data.npz", "--set", "policy_kwargs.net_arch=[8]"]
    assert cli.main([*words, *more, "--steps", "4", "--checkpoint-every", "2"]) == 0
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert cli.main(["train", "--resume", "../run", "--steps", "6"]) == 0
