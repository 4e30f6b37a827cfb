"""The view of SB3's buffers: exact transitions, whatever the layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer

from sb3_ext.replay.sampler import Drawn, Sampler
from sb3_ext.replay.storage import Replay
from sb3_ext.updates import Clock

BOX = spaces.Box(-1e6, 1e6, (2,), np.float32)
ACTION = spaces.Box(-1, 1, (1,), np.float32)


def filled(cls: Any, n_envs: int, steps: int = 17, **kwargs: Any) -> ReplayBuffer:
    """Ten rows; transition ``k`` of env ``e`` carries the number 100 k + e everywhere."""
    space = spaces.Dict({"x": BOX, "y": BOX}) if cls is DictReplayBuffer else BOX
    buffer = cls(10 * n_envs, space, ACTION, device="cpu", n_envs=n_envs, **kwargs)
    for k in range(steps):
        stamp = 100.0 * k + np.arange(n_envs)
        obs: Any = np.stack([stamp, -stamp], axis=1)
        after: Any = np.stack([stamp + 100, -stamp - 100], axis=1)
        if cls is DictReplayBuffer:
            obs, after = {"x": obs, "y": 2 * obs}, {"x": after, "y": 2 * after}
        done = np.array([(k + e) % 6 == 5 for e in range(n_envs)])
        infos = [{"TimeLimit.truncated": bool(d) and k % 2 == 0} for d in done]
        buffer.add(obs, after, stamp[:, None] / 1e5, stamp, done, infos)
    return buffer


@pytest.mark.parametrize("n_envs", [1, 4])
@pytest.mark.parametrize(
    ("cls", "memory"),  # SB3 refuses a Dict buffer that saves memory
    [(ReplayBuffer, False), (ReplayBuffer, True), (DictReplayBuffer, False)],
)
def test_gather_gives_exactly_the_named_transitions(cls: Any, memory: bool, n_envs: int) -> None:
    extra = {"optimize_memory_usage": True, "handle_timeout_termination": False} if memory else {}
    replay = Replay(filled(cls, n_envs, **extra))
    indices = np.random.default_rng(0).permutation(replay.window.indices())
    batch = replay.gather(indices)
    rows, envs = np.divmod(indices, n_envs)
    k = np.where(rows < 7, rows + 10, rows)  # 17 steps into 10 rows: rows 0 to 6 were overwritten
    stamp = th.tensor(100.0 * k + envs, dtype=th.float32)
    x: Any = batch.observations
    after: Any = batch.next_observations
    if cls is DictReplayBuffer:
        assert th.equal(x["y"], 2 * x["x"])
        x, after = x["x"], after["x"]
    assert th.equal(x[:, 0], stamp)
    assert th.equal(after[:, 0], stamp + 100)
    assert th.equal(batch.rewards.flatten(), stamp)
    th.testing.assert_close(batch.actions.flatten(), stamp / 1e5)
    ended = (k + envs) % 6 == 5
    expected = ended if memory else ended & (k % 2 == 1)
    assert (batch.dones.flatten().numpy() == expected).all()
    seen, actions = replay.observations_and_actions(indices)
    assert th.equal(seen["x"] if isinstance(seen, dict) else seen, x)
    assert th.equal(actions, batch.actions)


@pytest.mark.parametrize("n_envs", [1, 3])
def test_gather_keeps_n_step_returns(n_envs: int) -> None:
    buffer = filled(NStepReplayBuffer, n_envs, n_steps=3, gamma=0.5)
    replay = Replay(buffer)
    timeouts = buffer.timeouts.copy()
    indices = replay.window.indices()
    batch = replay.gather(indices)
    rows, envs = np.divmod(indices, n_envs)
    for i, (row, env) in enumerate(zip(rows, envs, strict=True)):
        k = row + 10 if row < 7 else row
        total, discount, steps = 0.0, 1.0, 0
        for j in range(k, min(k + 3, 17)):  # the newest stored transition is the 16th
            total += discount * (100.0 * j + env)
            discount *= 0.5
            steps += 1
            if (j + env) % 6 == 5:
                break
        assert batch.rewards[i].item() == pytest.approx(total)
        assert batch.discounts[i].item() == pytest.approx(0.5**steps)
        assert batch.next_observations[i, 0].item() == 100.0 * (k + steps) + env
    assert (buffer.timeouts == timeouts).all()


def test_a_buffer_of_the_users_is_asked_for_one_environment_at_a_time() -> None:
    class Mine(ReplayBuffer):
        def _get_samples(self, batch_inds: Any, env: Any = None) -> Any:
            assert self.observations.shape[1] == 1  # whatever it does with them
            return super()._get_samples(batch_inds, env=env)

    indices = np.random.default_rng(0).permutation(Replay(filled(ReplayBuffer, 4)).window.indices())
    mine, plain = (Replay(filled(cls, 4)).gather(indices) for cls in (Mine, ReplayBuffer))
    assert all(th.equal(a, b) for a, b in zip(mine[:5], plain[:5], strict=True))


def test_choosing_environments_draws_no_random_number() -> None:
    replay = Replay(filled(ReplayBuffer, 4))
    np.random.seed(0)
    before = np.random.get_state()[1].tolist(), np.random.get_state()[2]
    replay.gather(replay.window.indices())
    assert (np.random.get_state()[1].tolist(), np.random.get_state()[2]) == before


def test_the_row_under_the_head_is_left_out_when_memory_is_saved() -> None:
    extra = {"optimize_memory_usage": True, "handle_timeout_termination": False}
    young = Replay(filled(ReplayBuffer, 1, steps=4, **extra)).window
    assert young.rows().tolist() == [0, 1, 2, 3]
    full = Replay(filled(ReplayBuffer, 1, **extra)).window
    assert full.rows().tolist() == [8, 9, 0, 1, 2, 3, 4, 5, 6]
    plain = Replay(filled(ReplayBuffer, 1)).window
    assert plain.rows().tolist() == [7, 8, 9, 0, 1, 2, 3, 4, 5, 6]


def test_uniform_replay_is_the_buffers_own_sample() -> None:
    buffer = filled(ReplayBuffer, 3)
    np.random.seed(4)
    expected = buffer.sample(32)
    np.random.seed(4)
    draw = Replay(buffer).draw(32, Clock(0, 1, 1.0))
    assert draw.uniform
    assert th.equal(draw.weights, th.ones(32, 1))
    for mine, theirs in zip(draw.samples[:5], expected[:5], strict=True):
        assert th.equal(mine, theirs)


class Newest(Sampler):
    """Takes the newest transitions, and remembers what it was told."""

    def __init__(self) -> None:
        self.errors: list[Any] = []

    def draw(self, n: int, window: Any, clock: Clock) -> Drawn:
        return Drawn(window.indices()[-n:], th.full((n, 1), 0.5))

    def observe(self, indices: Any, td_error: th.Tensor) -> None:
        self.errors.append((indices, td_error))


def test_a_sampler_decides_and_is_told() -> None:
    sampler = Newest()
    replay = Replay(filled(ReplayBuffer, 2), sampler=sampler)
    draw = replay.draw(4, Clock(0, 1, 1.0))
    assert not draw.uniform
    assert draw.samples.rewards.flatten().tolist() == [1500, 1501, 1600, 1601]
    assert th.equal(draw.weights, th.full((4, 1), 0.5))
    replay.observe(draw, th.arange(8.0).reshape(4, 2))
    ((indices, errors),) = sampler.errors
    assert indices.tolist() == draw.indices.tolist()
    assert errors.shape == (4, 2)
