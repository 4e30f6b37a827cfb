"""SB3's replay buffers: filled by SB3 as it fills them, and read in the order of time."""

import pickle

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import DQN, TD3, HerReplayBuffer
from stable_baselines3 import SAC as SB3SAC
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.save_util import save_to_pkl
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ext import SAC, PrioritizedReplayBuffer
from sb3_ext.offline import from_replay_buffer, load_dataset, to_replay_buffer
from sb3_ext.trajectories.replay import TrajectoryReplayBuffer
from tests.offline.test_dataset import make, of_dicts, of_discrete
from tests.offline.worlds import (
    ACTIONS,
    EPISODES,
    HIGH,
    LOW,
    OBSERVATIONS,
    SPACES,
    Counting,
    Episode,
    action,
    assert_is,
    behaviour,
    observation,
    reward,
    steps,
)


def scaled(actions):
    """By the definition: -1 at the low bound, 1 at the high one."""
    return (actions - LOW) / (HIGH - LOW) * 2 - 1


def ring(count, size, n_envs=1, kind=ReplayBuffer, episodes=EPISODES, **options):
    """A buffer filled as SB3's collect_rollouts does: real last observations, scaled actions."""
    envs = [lambda i=i: Counting(episodes, first=i, stride=n_envs) for i in range(n_envs)]
    venv = DummyVecEnv(envs)
    buffer = kind(size, OBSERVATIONS, ACTIONS, device="cpu", n_envs=n_envs, **options)
    seen = venv.reset()
    for _ in range(count):
        acts = behaviour(seen)
        follow, rewards, dones, infos = venv.step(acts)
        real = follow.copy()
        for i in np.flatnonzero(dones):
            real[i] = infos[i]["terminal_observation"]
        buffer.add(seen, real, scaled(acts), rewards, dones, infos)
        seen = follow
    return buffer


def played(n_steps, n_envs=1, env=0, episodes=EPISODES):
    """What one environment went through: (e, t) and ends."""
    rows, terminated, truncated, e = [], set(), set(), env
    while len(rows) < n_steps:
        one = episodes[e % len(episodes)]
        rows += [(e, t) for t in range(one.length)]
        (terminated if one.end == "terminated" else truncated).add((e, one.length - 1))
        e += n_envs
    return rows[:n_steps], terminated & set(rows[:n_steps]), truncated & set(rows[:n_steps])


def test_actions_are_brought_back_once():
    """In the buffer they are in [-1, 1]; scaled again, or left so, all would be wrong."""
    buffer = ring(12, size=20)
    assert np.abs(buffer.actions[:12]).max() <= 1
    rows, terminated, truncated = played(12)
    assert_is(from_replay_buffer(buffer), rows, terminated, truncated)


def test_time_limits_are_no_terminations():
    dataset = from_replay_buffer(ring(12, size=20))
    assert {tuple(map(int, seen)) for seen in dataset.observations[dataset.truncated]} == {(1, 4)}
    assert dataset.next_observations[7].tolist() == [1, 5]  # the real one, not the reset's


@pytest.mark.parametrize("n_envs", [1, 2, 3])
@pytest.mark.parametrize("n_steps", [4, 9, 10, 13, 20, 27])
def test_a_ring_is_read_from_its_oldest_row(n_steps, n_envs):
    size = 10
    dataset = from_replay_buffer(ring(n_steps, size * n_envs, n_envs))
    rows, terminated, truncated = [], set(), set()
    for env in range(n_envs):
        all_rows, ends, cuts = played(n_steps, n_envs, env)
        kept = all_rows[-size:]
        rows += kept
        terminated |= ends & set(kept)
        truncated |= cuts & set(kept)
        if kept[-1] not in ends:
            truncated.add(kept[-1])  # the buffer stops here
    assert_is(dataset, rows, terminated, truncated)
    assert ("wrapped" in " ".join(dataset.source["notes"])) == (n_steps >= size)


@pytest.mark.parametrize("n_steps", [7, 9, 10, 11, 13, 20, 25])
@pytest.mark.parametrize("n_envs", [1, 2])
def test_the_memory_saving_ring(n_steps, n_envs):
    """Its next observations are the next row's; the oldest row is half overwritten."""
    size = 10
    # Terminations only: so nothing has to be dropped, and only ends have no next observation.
    episodes = (Episode(0, 3, "terminated"), Episode(1, 4, "terminated"))
    options = {"optimize_memory_usage": True, "handle_timeout_termination": False}
    buffer = ring(n_steps, size * n_envs, n_envs, episodes=episodes, **options)
    dataset = from_replay_buffer(buffer)
    rows, terminated, truncated = [], set(), set()
    for env in range(n_envs):
        all_rows, ends, _ = played(n_steps, n_envs, env, episodes)
        kept = all_rows[-(size - 1) :] if n_steps >= size else all_rows
        rows += kept
        terminated |= ends & set(kept)
        if kept[-1] not in ends:
            truncated.add(kept[-1])
    assert_is(dataset, rows, terminated, truncated, without_next=terminated)
    assert "optimize_memory_usage does not tell them apart" in dataset.source["notes"][0]


def test_time_limits_of_the_memory_saving_ring():
    options = {"optimize_memory_usage": True, "handle_timeout_termination": False}
    buffer = ring(14, size=20, **options)
    # Episodes of 3 (terminated), 5 (the limit), 4 (terminated), and two steps of the next.
    dataset = from_replay_buffer(buffer, time_limit=5)
    rows = [row for row in [*steps(*EPISODES), (3, 0), (3, 1)] if row != (1, 4)]
    ends = {(0, 2), (2, 3)}
    assert_is(dataset, rows, ends, {(1, 3), (3, 1)}, without_next=ends)
    with pytest.raises(ValueError, match=r"time_limit=4, but .* an episode of 5 steps"):
        from_replay_buffer(buffer, time_limit=4)


class Trajectories(TrajectoryReplayBuffer):
    """Filled by `ring`, with parameters of no known family."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, behavior_dim=3, **kwargs)

    def add(self, obs, next_obs, action, *rest):
        super().add(obs, next_obs, np.hstack([action, np.full((self.n_envs, 3), 0.5)]), *rest)


@pytest.mark.parametrize("n_steps", [7, 9, 10, 11, 13, 20, 25])
@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("by_path", [False, True])
def test_a_ring_of_trajectories(tmp_path, n_steps, n_envs, by_path):
    """Time limits are no terminations, and what came last at them is there; all is in order."""
    size = 10
    buffer = ring(n_steps, size * n_envs, n_envs, Trajectories)
    if by_path:
        save_to_pkl(tmp_path / "buffer.pkl", buffer)
        with pytest.warns(UserWarning, match="runs whatever code"):
            dataset = from_replay_buffer(tmp_path / "buffer.pkl", allow_pickle=True)
    else:
        dataset = from_replay_buffer(buffer)
    rows, terminated, truncated, newest = [], set(), set(), set()
    for env in range(n_envs):
        all_rows, ends, cuts = played(n_steps, n_envs, env)
        kept = all_rows[-(size - 1) :] if n_steps >= size else all_rows
        rows += kept
        terminated |= ends & set(kept)
        truncated |= cuts & set(kept)
        newest.add(kept[-1])
        if kept[-1] not in ends:
            truncated.add(kept[-1])
    lost = terminated - newest  # the only observations that such a buffer does not keep
    assert_is(dataset, rows, terminated, truncated, without_next=lost)
    told = " ".join(dataset.source["notes"])
    assert "time limits count as terminations" not in told and dataset.behavior_log_prob is None
    assert (f"{len(lost)} terminated episodes: a trajectory buffer" in told) == bool(lost)


def test_actions_of_a_trajectory_buffer_are_clipped_as_they_were():
    buffer = TrajectoryReplayBuffer(10, OBSERVATIONS, ACTIONS, "cpu", behavior_dim=1)
    drawn = np.array([[1.5, -0.5, 0.1]])
    buffer.add(np.zeros((1, 2)), np.ones((1, 2)), drawn, np.zeros(1), np.zeros(1, bool), [{}])
    dataset = from_replay_buffer(buffer)
    assert dataset.actions.tolist() == [[2.0, 0.25]]
    assert "1 actions were drawn beyond [-1, 1]" in " ".join(dataset.source["notes"])


@pytest.mark.parametrize("normal", [True, False])
def test_log_probabilities_of_a_trajectory_buffer(normal):
    """Where they are such; other numbers are not taken for them."""
    space = spaces.Discrete(3)
    buffer = TrajectoryReplayBuffer(20, OBSERVATIONS, space, "cpu", n_envs=2, behavior_dim=3)
    rng = np.random.default_rng(0)
    logs = np.log(rng.dirichlet(np.ones(3), size=(5, 2))) + (0.0 if normal else 0.5)
    taken = rng.integers(3, size=(5, 2))
    for t in range(5):
        given = np.hstack([taken[t][:, None], logs[t]])
        seen = np.full((2, 2), float(t))
        buffer.add(seen, seen + 1, given, np.zeros(2), np.zeros(2, bool), [{}, {}])
    found = from_replay_buffer(buffer).behavior_log_prob
    if not normal:
        assert found is None
        return
    expected = [logs[t, env, taken[t, env]] for env in range(2) for t in range(5)]
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_pickle_from_before_timeouts(tmp_path):
    buffer = ring(12, size=20)
    for name in ("timeouts", "handle_timeout_termination", "observation_space", "action_space"):
        delattr(buffer, name)
    with pytest.raises(ValueError, match="lacks its spaces"):
        from_replay_buffer(buffer)
    given = {"observation_space": OBSERVATIONS, "action_space": ACTIONS}
    dataset = from_replay_buffer(buffer, **given)
    assert_is(dataset, steps(*EPISODES), {(0, 2), (1, 4), (2, 3)})
    assert "time limits count as terminations" in dataset.source["notes"][0]
    dataset = from_replay_buffer(buffer, time_limit=5, **given)
    assert_is(dataset, steps(*EPISODES), {(0, 2), (2, 3)}, {(1, 4)})


def test_where_a_ring_begins_within_an_episode_its_end_is_not_known():
    """Episodes of 5, all cut: the first is there with its last two steps only."""
    buffer = ring(12, size=7, episodes=(Episode(0, 5, "truncated"),))
    del buffer.timeouts
    dataset = from_replay_buffer(buffer, time_limit=5)
    rows = [(1, t) for t in range(5)] + [(2, 0), (2, 1)]
    assert_is(dataset, rows, set(), {(1, 4), (2, 1)})
    buffer = ring(15, size=7, episodes=(Episode(0, 5, "truncated"),))
    del buffer.timeouts
    dataset = from_replay_buffer(buffer, time_limit=5)
    assert_is(dataset, [(1, 3), (1, 4), *((2, t) for t in range(5))], set(), {(1, 4), (2, 4)})


def test_a_pickle_is_refused_unless_trusted(tmp_path):
    path = tmp_path / "buffer.pkl"
    save_to_pkl(path, ring(12, size=20))
    with pytest.raises(ValueError, match=r"is a pickle.*runs whatever code.*allow_pickle=True"):
        from_replay_buffer(path)
    with pytest.raises(ValueError, match="is a pickle"):
        load_dataset(path)
    with pytest.raises(ValueError, match="is a pickle"):
        from_replay_buffer(path, allow_pickle=1)  # True, and nothing like it
    with pytest.warns(UserWarning, match="runs whatever code"):
        dataset = from_replay_buffer(path, allow_pickle=True)
    assert_is(dataset, steps(*EPISODES), {(0, 2), (2, 3)}, {(1, 4)})
    with pytest.warns(UserWarning, match="runs whatever code"):
        assert len(load_dataset(str(path), allow_pickle=True, env=SPACES)) == 12


@pytest.mark.filterwarnings("ignore:reading the pickle")
def test_data_that_knows_its_spaces_is_checked_against_the_environment(tmp_path):
    save_to_pkl(tmp_path / "buffer.pkl", ring(12, size=20))
    with pytest.raises(ValueError, match=r"shape \[2\] in the dataset, \[3\] in the environment"):
        load_dataset(tmp_path / "buffer.pkl", allow_pickle=True, env="Pendulum-v1")


class Evil:
    ran = False

    def __reduce__(self):
        return (setattr, (Evil, "ran", True))


def test_a_refused_pickle_has_not_run(tmp_path):
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="is a pickle"):
        load_dataset(path)
    assert not Evil.ran


@pytest.mark.filterwarnings("ignore:reading the pickle")
def test_other_pickles_are_refused_in_words(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="holds a dict, which is no replay buffer"):
        from_replay_buffer(path, allow_pickle=True)
    path.write_bytes(pickle.dumps(list(range(1000)))[:50])
    with pytest.raises(ValueError, match="could not be unpickled"):
        from_replay_buffer(path, allow_pickle=True)
    path.write_bytes(b"\x80\x04cgone.module\nBuffer\n.")
    with pytest.raises(ValueError, match=r"could not be unpickled \(ModuleNotFoundError"):
        from_replay_buffer(path, allow_pickle=True)


def test_a_reset_between_two_calls_of_learn_ends_an_episode():
    buffer = ring(5, size=40)  # stops in episode 1, after two steps, without an end
    other = ring(6, size=40, episodes=(Episode(7, 4, "terminated"),))
    for row in range(6):
        info = {"TimeLimit.truncated": False}
        buffer.add(
            other.observations[row] + [[7, 0]],
            other.next_observations[row] + [[7, 0]],
            scaled(behaviour(other.observations[row] + [[7, 0]])),
            np.array([reward(7 + int(other.observations[row, 0, 0]), row % 4)]),
            other.dones[row],
            [info],
        )
    dataset = from_replay_buffer(buffer)
    rows = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), *((7, t) for t in range(4)), (8, 0), (8, 1)]
    assert_is(dataset, rows, {(0, 2), (7, 3)}, {(1, 1), (8, 1)})
    assert "1 episodes cut where the next" in dataset.source["notes"][0]


def test_a_buffer_filled_by_hand_in_the_environments_units():
    buffer = ReplayBuffer(3, OBSERVATIONS, ACTIONS, device="cpu")
    for t in range(3):
        args = observation(0, t), observation(0, t + 1), action(0, t)
        buffer.add(*(a[None] for a in args), np.array([reward(0, t)]), np.array([t == 2]), [{}])
    with pytest.raises(ValueError, match="scaled_actions=False"):
        from_replay_buffer(buffer)
    assert_is(from_replay_buffer(buffer, scaled_actions=False), steps(EPISODES[0]), {(0, 2)})


def test_an_empty_buffer_and_no_buffer():
    with pytest.raises(ValueError, match="is empty"):
        from_replay_buffer(ring(0, size=4))
    with pytest.raises(ValueError, match=r"a Counting, which is no replay buffer.*lacks observ"):
        from_replay_buffer(Counting())


def test_other_buffers_of_sb3():
    buffer = ring(12, size=20, kind=NStepReplayBuffer, n_steps=3)
    assert_is(from_replay_buffer(buffer), *played(12))  # it stores single steps
    dicts = DummyVecEnv([lambda: Counting(dict_observations=True)])
    model = TD3("MultiInputPolicy", dicts, buffer_size=50, learning_starts=30, seed=0)
    assert isinstance(model.replay_buffer, DictReplayBuffer)
    model.learn(12)
    dataset = from_replay_buffer(model.replay_buffer)
    assert dataset.observations["b"].tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert dataset.next_observations["b"].tolist() == [1, 2, 3, 1, 2, 3, 4, 5, 1, 2, 3, 4]
    assert np.allclose(dataset.actions, dicts.envs[0].unwrapped.acts, atol=1e-6)


def test_hindsight_buffers_hold_what_happened():
    env = BitFlippingEnv(n_bits=4, continuous=True, max_steps=8)
    model = SB3SAC(
        "MultiInputPolicy",
        Monitor(env),
        replay_buffer_class=HerReplayBuffer,
        learning_starts=60,
        buffer_size=80,
        seed=0,
    )
    model.learn(50)
    dataset = from_replay_buffer(model.replay_buffer)
    goals = dataset.observations["desired_goal"]
    reached = (dataset.next_observations["achieved_goal"] == goals).all(axis=1)
    # It pays 0 at the goal, where it ends, and -1 elsewhere; cut after 8 steps.
    assert (dataset.rewards == np.where(reached, 0, -1)).all()
    assert (dataset.terminated == reached).all()
    assert dataset.lengths().max() == 8


@pytest.mark.parametrize("n_envs", [1, 2])
def test_what_sb3_records_is_what_the_environment_saw(n_envs):
    """Training by SB3 itself, random and noisy actions: the environment's record is the truth."""
    venv = DummyVecEnv([lambda i=i: Counting(first=i, stride=n_envs) for i in range(n_envs)])
    model = TD3("MlpPolicy", venv, buffer_size=40, learning_starts=6, batch_size=4, seed=0)
    model.learn(24)
    dataset = from_replay_buffer(model.replay_buffer)
    acts = np.concatenate([env.unwrapped.acts for env in venv.envs])
    assert np.allclose(dataset.actions, acts, atol=1e-6)
    assert (np.abs(dataset.actions[:, 0]) > 1).any()  # else scaling would not show
    rows = [row for env in range(n_envs) for row in played(24 // n_envs, n_envs, env)[0]]
    assert dataset.observations.astype(int).tolist() == [list(row) for row in rows]


@pytest.mark.filterwarnings("ignore:reading the pickle")
def test_pickles_of_our_samplers(tmp_path):
    model = SAC(
        "MlpPolicy",
        Counting(),
        replay_buffer_class=PrioritizedReplayBuffer,
        buffer_size=30,
        learning_starts=5,
        batch_size=4,
        seed=0,
    )
    model.learn(12)
    model.save_replay_buffer(tmp_path / "per.pkl")
    dataset = load_dataset(tmp_path / "per.pkl", allow_pickle=True)
    assert dataset.observations.astype(int).tolist() == [list(row) for row in steps(*EPISODES)]


def test_discrete_actions_and_images():
    class Images(Counting):
        observation_space = spaces.Box(0, 255, (3, 36, 36), np.uint8)
        action_space = spaces.Discrete(4)

        def seen(self):
            return np.full((3, 36, 36), self.t, np.uint8)

    model = DQN("CnnPolicy", Images(), buffer_size=30, learning_starts=30, seed=0)
    model.learn(12)
    dataset = from_replay_buffer(model.replay_buffer)
    assert dataset.actions.dtype == np.int64
    assert dataset.actions.tolist() == [int(a) for a in model.env.envs[0].unwrapped.acts]
    assert dataset.observations.dtype == np.uint8
    assert dataset.next_observations[:, 0, 0, 0].tolist() == [1, 2, 3, 1, 2, 3, 4, 5, 1, 2, 3, 4]


# -- and back ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dataset", [make(), of_dicts(), of_discrete()], ids=["box", "dict", "discrete"]
)
@pytest.mark.parametrize("room", [0, 3])
def test_what_is_written_comes_back(dataset, room):
    buffer = to_replay_buffer(dataset, buffer_size=len(dataset) + room)
    assert (buffer.full, buffer.pos) == (room == 0, 0 if room == 0 else len(dataset))
    read = from_replay_buffer(buffer)
    for name in ("rewards", "terminated", "truncated", "episode_starts"):
        assert (getattr(read, name) == getattr(dataset, name)).all()
    assert np.allclose(read.actions, dataset.actions, atol=1e-6)
    for name in ("observations", "next_observations"):
        found, held = getattr(read, name), getattr(dataset, name)
        if isinstance(held, dict):
            assert all((found[key] == held[key]).all() for key in held)
        else:
            assert (found == held).all()


def test_a_buffer_written_is_the_one_that_sb3_would_have_filled():
    ours, theirs = to_replay_buffer(make(), buffer_size=20), ring(12, size=20)
    for name in ("observations", "next_observations", "rewards", "dones", "timeouts"):
        assert (getattr(ours, name) == getattr(theirs, name)).all(), name
        assert getattr(ours, name).dtype == getattr(theirs, name).dtype
    assert np.allclose(ours.actions, theirs.actions, atol=1e-6)
    assert (ours.pos, ours.full) == (theirs.pos, theirs.full)
    batch = ours.sample(5)
    assert batch.actions.shape == (5, 2)


def test_what_ends_both_ways_is_terminated_for_sb3():
    dataset = make(truncated=make().terminated | make().truncated)
    buffer = to_replay_buffer(dataset)
    assert np.flatnonzero(buffer.timeouts).tolist() == [7]
    assert np.flatnonzero(buffer.dones).tolist() == [2, 7, 11]


def test_a_dimension_with_one_action_is_scaled_to_its_middle():
    space = spaces.Box(np.array([-2, 0.5], np.float32), np.array([2, 0.5], np.float32))
    actions = make().actions * [1, 0] + [0, 0.5]
    dataset = make(actions=actions, action_space=space)
    buffer = to_replay_buffer(dataset)
    assert (buffer.actions[:, 0, 1] == 0).all()
    assert np.allclose(from_replay_buffer(buffer).actions, actions)


def test_a_buffer_that_is_too_small_or_unbounded_actions():
    with pytest.raises(ValueError, match="buffer_size=3 is too small for 12"):
        to_replay_buffer(make(), buffer_size=3)
    endless = spaces.Box(-np.inf, np.inf, (2,))
    with pytest.raises(ValueError, match="without bounds cannot be scaled"):
        to_replay_buffer(make(action_space=endless))
