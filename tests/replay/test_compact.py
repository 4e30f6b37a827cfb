"""The compact buffer beside SB3's plain one: the same calls, the same samples."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common import buffers
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer

from sb3_ext import CompactReplayBuffer
from sb3_ext.replay.next_observations import NextObservations
from sb3_ext.replay.storage import Replay
from tests.environments import make_env

ACTIONS = spaces.Box(-1, 1, (2,), np.float32)
VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
SPACES = {
    "float32": VECTOR,
    "float64": spaces.Box(-np.inf, np.inf, (3,), np.float64),
    "image": spaces.Box(0, 255, (4, 5, 1), np.uint8),
    "discrete": spaces.Discrete(7),
    "bits": spaces.MultiBinary(4),
    "dict": spaces.Dict({"a": spaces.Box(-9, 9, (2,), np.float64), "b": spaces.Discrete(5)}),
}


def pair(space: Any, rows: int, n_envs: int, **steps: Any) -> tuple[ReplayBuffer, Any]:
    """SB3's buffer and ours."""
    kind: Any = DictReplayBuffer if isinstance(space, spaces.Dict) else ReplayBuffer
    kind = NStepReplayBuffer if steps else kind
    arguments = (rows * n_envs, space, ACTIONS, "cpu", n_envs)
    return kind(*arguments, **steps), CompactReplayBuffer(*arguments, **steps)


def observed(space: Any, n_envs: int, rng: Any, few: bool = False) -> Any:
    """Observations of all environments; of few kinds, so that some are equal by accident."""
    if isinstance(space, spaces.Dict):
        return {key: observed(one, n_envs, rng) for key, one in space.items()}
    if isinstance(space, spaces.Discrete):
        return rng.integers(space.n, size=n_envs)
    shape = (n_envs, *space.shape)
    if few:
        return rng.choice([0.0, -0.0, 1.0, np.nan], size=shape).astype(space.dtype)
    if np.issubdtype(space.dtype, np.floating):
        return rng.normal(size=shape).astype(space.dtype)
    return rng.integers(2 if space.dtype == np.int8 else 256, size=shape).astype(space.dtype)


def chosen(mask: Any, ones: Any, others: Any) -> Any:
    """Of each environment, one or the other."""
    if isinstance(ones, dict):
        return {key: chosen(mask, one, others[key]) for key, one in ones.items()}
    return np.where(mask.reshape(-1, *[1] * (ones.ndim - 1)), ones, others)


class Player:
    """Plays random episodes into several buffers at once."""

    def __init__(self, space: Any, n_envs: int, seed: int = 0, few: bool = False) -> None:
        self.space, self.n_envs, self.few = space, n_envs, few
        self.rng = np.random.default_rng(seed)
        self.seen = self.look()

    def look(self) -> Any:
        return observed(self.space, self.n_envs, self.rng, self.few)

    def step(self, *held: Any) -> None:
        n, rng = self.n_envs, self.rng
        after = self.look()
        kinds = rng.choice(["on", "end", "limit", "reset"], p=[0.8, 0.08, 0.08, 0.04], size=n)
        done = np.isin(kinds, ["end", "limit"])
        infos = [{"TimeLimit.truncated": True} if k == "limit" else {} for k in kinds]
        row = rng.normal(size=(n, 2)).astype(np.float32), rng.normal(size=n).astype(np.float32)
        for buffer in held:
            buffer.add(copy.copy(self.seen), copy.copy(after), *row, done, infos)
        self.seen = chosen(kinds == "on", after, self.look())


def require_equal(plain: Any, compact: Any) -> None:
    """Every next observation that was ever written, to the bit, and what is drawn."""
    held, ours = plain.next_observations, compact.next_observations
    pairs = [(held[k], ours[k]) for k in held] if isinstance(held, dict) else [(held, ours)]
    for stored, found in pairs:
        rounded = stored.astype(np.float32) if stored.dtype == np.float64 else stored
        assert np.asarray(found).dtype == found.dtype == rounded.dtype
        assert np.asarray(found).tobytes() == rounded.tobytes()
    assert (plain.pos, plain.full, plain.size()) == (compact.pos, compact.full, compact.size())
    if plain.size():
        require_same_samples(plain, compact, np.random.default_rng(plain.pos).integers(2**31))


def require_same_samples(plain: Any, compact: Any, seed: int, env: Any = None) -> None:
    batches = []
    for buffer in (plain, compact):
        np.random.seed(seed)
        batches.append(buffer.sample(8, env=env))
    assert type(batches[0]) is type(batches[1])
    for expected, found in zip(*batches, strict=True):
        pairs = expected.items() if isinstance(expected, dict) else [("", expected)]
        for key, values in pairs:
            ours = found[key] if key else found
            if values is None:
                assert ours is None
            elif env is None:
                assert th.equal(values.to(ours.dtype).nan_to_num(7), ours.nan_to_num(7))
            else:  # float64 is normalised before it is rounded, float32 after
                th.testing.assert_close(ours, values.to(ours.dtype), rtol=1e-5, atol=1e-6)


# -- the same as SB3's -----------------------------------------------------------------------------


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("kind", SPACES)
def test_a_ring_that_wraps_holds_what_the_plain_one_holds(kind: str, n_envs: int) -> None:
    plain, compact = pair(SPACES[kind], 11, n_envs)
    player = Player(SPACES[kind], n_envs)
    for _ in range(60):
        player.step(plain, compact)
        require_equal(plain, compact)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_tiny_rings(rows: int) -> None:
    plain, compact = pair(VECTOR, rows, 2)
    player = Player(VECTOR, 2)
    for _ in range(30):
        player.step(plain, compact)
        require_equal(plain, compact)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_done_to_it_it_holds_what_the_plain_one_holds(seed: int) -> None:
    """Brute force: rows in any order, resets, values that are equal by accident, copies between."""
    rng = np.random.default_rng(seed)
    n_envs, rows = int(rng.integers(1, 4)), int(rng.integers(1, 9))
    kind = rng.choice(["float32", "float64", "discrete", "dict"])
    plain, compact = pair(SPACES[kind], rows, n_envs)
    player = Player(SPACES[kind], n_envs, seed, few=kind == "float32")
    for _ in range(250):
        what = rng.choice(["add", "jump", "reset", "copy"], p=[0.7, 0.24, 0.03, 0.03])
        if what == "jump":  # as if somebody wrote at a place of their own
            place = int(rng.integers(rows))
            plain.pos = compact.pos = place
        elif what == "reset":
            plain.reset()
            compact.reset()
        elif what == "copy":
            compact = pickle.loads(pickle.dumps(compact)) if rng.random() < 0.5 else compact
            compact = copy.deepcopy(compact)
        player.step(plain, compact)
        require_equal(plain, compact)
        for one in compact._next_observations():
            assert one._used - 1 - n_envs - len(one._free) == (one.slots > n_envs).sum()


def test_rows_in_random_order_share_nothing_and_are_right() -> None:
    plain, compact = pair(VECTOR, 40, 1)
    player = Player(VECTOR, 1)
    for place in np.random.default_rng(0).permutation(40):
        plain.pos = compact.pos = int(place)
        player.step(plain, compact)
        player.seen = player.look()
    require_equal(plain, compact)
    assert compact.next_observations.kept_apart == 40


@pytest.mark.parametrize("n_envs", [1, 3])
def test_n_step_returns_are_those_of_sb3(n_envs: int) -> None:
    plain, compact = pair(VECTOR, 13, n_envs, n_steps=3, gamma=0.9)
    assert isinstance(compact, NStepReplayBuffer)
    player = Player(VECTOR, n_envs)
    for _ in range(50):
        player.step(plain, compact)
        require_equal(plain, compact)


@pytest.mark.parametrize("kind", ["box", "dict"])
def test_vec_normalize_sees_the_same(kind: str) -> None:
    env = make_env(kind, 2, normalize=True)
    env.reset()
    for _ in range(5):
        env.step(np.zeros((2, 2)))
    plain, compact = pair(env.observation_space, 9, 2)
    player = Player(env.observation_space, 2)
    for seed in range(30):
        player.step(plain, compact)
        require_same_samples(plain, compact, seed, env)


@pytest.mark.parametrize(
    ("kind", "steps"), [("float32", {}), ("dict", {}), ("float32", {"n_steps": 3, "gamma": 0.5})]
)
def test_transitions_that_a_sampler_chooses(kind: str, steps: Any) -> None:
    plain, compact = pair(SPACES[kind], 10, 3, **steps)
    player = Player(SPACES[kind], 3)
    for _ in range(34):
        player.step(plain, compact)
    views = [Replay(plain), Replay(compact)]
    indices = np.random.default_rng(0).permutation(views[0].window.indices())
    assert views[1].window == views[0].window
    for ask in (Replay.gather, Replay.single_steps, Replay.observations_and_actions):
        expected, found = (ask(view, indices) for view in views)
        for one, other in zip(expected, found, strict=True):
            pairs = one.items() if isinstance(one, dict) else [("", one)]
            for key, values in pairs:
                ours = other[key] if key else other
                assert (values is None and ours is None) or th.equal(values.to(ours.dtype), ours)


def test_equal_is_equal_to_the_bit() -> None:
    _, compact = pair(VECTOR, 4, 1)
    rest = np.zeros((1, 2)), np.zeros(1), np.zeros(1), [{}]
    zeros, nan = np.zeros((1, 3), np.float32), np.full((1, 3), np.nan, np.float32)
    for seen, after in [(zeros, zeros), (-zeros, nan), (nan, zeros), (zeros, zeros)]:
        compact.add(seen, after, *rest)
    found = compact.next_observations
    # 0.0 is not -0.0; NaN goes on as NaN; 0.0 goes on; the newest has its own.
    assert (found.slots[:, 0] == -1).tolist() == [False, True, True, False]
    assert not np.signbit(found[0]).any()


def test_a_step_that_fails_leaves_the_others_whole() -> None:
    plain, compact = pair(VECTOR, 6, 1)
    player = Player(VECTOR, 1)
    for _ in range(20):
        player.step(plain, compact)
        for buffer in (plain, compact):
            with pytest.raises(ValueError, match="reshape"):
                buffer.add(player.look() * 0, player.seen, np.zeros(5), [0.0], [False], [{}])
        require_equal(plain, compact)


# -- the array of next observations ----------------------------------------------------------------

KEYS = [
    3,
    -1,
    (4, 1),
    np.int64(2),
    slice(2, 7),
    slice(None, None, 3),
    np.array([0, 9, 9, -1]),
    [1, 2],
    np.arange(10) % 2 == 0,
    (np.array([0, 9, 4]), np.array([1, 0, 2])),
    (np.array([[0, 9], [4, 3]]), np.array([[1], [0]])),
    (np.array([0, 9, 4]), np.array([1, 0, 2]), slice(None)),
    (np.array([0, 9, 4]), 1, slice(0, 2)),
    (slice(None), slice(1, 2)),
    (slice(0, 4), 2),
    (slice(0, 4), np.array([2, 0])),
    (np.array([5, 6, 7]), slice(None)),
    (3, slice(None), 1),
    (7, np.array([2, 2])),
]


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_it_is_indexed_as_an_array_is(key: Any) -> None:
    plain, compact = pair(VECTOR, 10, 3)
    player = Player(VECTOR, 3)
    for _ in range(27):
        player.step(plain, compact)
    ours = compact.next_observations
    expected, before = plain.next_observations[key], np.asarray(ours).copy()
    found = ours[key]
    assert np.array_equal(found, expected)
    found[...] = 7  # a copy, always
    assert np.array_equal(np.asarray(ours), before)
    assert (len(ours), ours.shape, ours.ndim, ours.dtype) == (10, (10, 3, 3), 3, np.float32)


def test_what_it_cannot_do_is_refused_in_words() -> None:
    _, compact = pair(VECTOR, 5, 2)
    with pytest.raises(
        TypeError, match=r"written one row at a time, got slice.*use the buffer's a"
    ):
        compact.next_observations[:2] = 0
    with pytest.raises(ValueError, match="always a copy, got copy=False"):
        np.asarray(compact.next_observations, copy=False)
    with pytest.raises(ValueError, match="read-only"):
        compact.next_observations.column(1)[0] = 0
    assert np.asarray(compact.next_observations, np.float64).dtype == np.float64


# -- memory ----------------------------------------------------------------------------------------


def test_bytes_by_hand() -> None:
    compact = CompactReplayBuffer(100, SPACES["float64"], ACTIONS, "cpu", 2)
    rows = 2 * 50
    arrays = rows * 4 * (3 + 2 + 3)  # observation, action; reward, done and timeout
    side = 4 * rows + 4 * 3 * (rows + 3)  # the table, and one chunk as large as it can get
    assert compact.nbytes == arrays + side == 4836


def test_a_million_transitions_of_humanoid_are_1_38_gib(monkeypatch: Any) -> None:
    monkeypatch.setattr(buffers, "psutil", None)
    space, actions = spaces.Box(-np.inf, np.inf, (348,)), spaces.Box(-1, 1, (17,), np.float32)
    compact = CompactReplayBuffer(10**6, space, actions, "cpu")  # zeros: no page is touched
    assert compact.nbytes == 10**6 * 4 * (348 + 17 + 3 + 1) + 753 * 4 * 348
    assert round(compact.nbytes / 2**30, 2) == 1.38


def test_only_what_differs_is_kept_and_its_room_is_used_again() -> None:
    compact = CompactReplayBuffer(20, VECTOR, ACTIONS, "cpu", 1)
    nothing = np.zeros((1, 2)), np.zeros(1)
    for step in range(200):  # a time limit of 5, and a reset to 1000
        seen, after = 1000.0 + step % 5, 1001.0 + step % 5
        done = step % 5 == 4
        obs, next_obs = np.full((1, 3), seen), np.full((1, 3), after)
        compact.add(obs, next_obs, *nothing, np.array([done]), [{"TimeLimit.truncated": done}])
    found = compact.next_observations
    assert found.kept_apart == 4, "one an episode; the newest row is an end"
    assert found._used <= 2 + 5
    assert set(compact.next_observations[:, 0, 0]) == {1001, 1002, 1003, 1004, 1005}


def test_a_side_store_of_several_chunks() -> None:
    observations = np.zeros((30, 1, 100_000), np.float32)  # two rows a chunk
    found = NextObservations(observations)
    for row in range(30):
        found.make_way(row)
        observations[row] = row
        found[row] = np.full((1, 100_000), -row)
    assert (found[:, 0, 99_999] == -np.arange(30)).all()
    assert found.nbytes == 30 * 4 + 16 * 2 * 400_000


def test_sb3_s_warning_of_memory_is_about_what_is_needed(monkeypatch: Any) -> None:
    class Psutil:
        available = 4836

        @classmethod
        def virtual_memory(cls) -> Any:
            return cls

    monkeypatch.setattr(buffers, "psutil", Psutil)
    CompactReplayBuffer(100, SPACES["float64"], ACTIONS, "cpu", 2)
    Psutil.available = 4835
    with pytest.warns(UserWarning, match=r"will need 0.00GB when it is full.*smaller buffer_size"):
        CompactReplayBuffer(100, SPACES["float64"], ACTIONS, "cpu", 2)


# -- copies and refusals ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float64", "dict", "steps"])
def test_copies_share_their_observations_and_nothing_with_the_original(kind: str) -> None:
    steps = {"n_steps": 2, "gamma": 0.5} if kind == "steps" else {}
    plain, compact = pair(SPACES.get(kind, VECTOR), 7, 2, **steps)
    player = Player(SPACES.get(kind, VECTOR), 2)
    for _ in range(16):
        player.step(plain, compact)
    for twin in (copy.deepcopy(compact), pickle.loads(pickle.dumps(compact))):
        assert type(twin) is type(compact)
        assert twin.nbytes == compact.nbytes
        for ours, own in zip(twin._next_observations(), twin._arrays(), strict=False):
            assert ours.observations is own
        require_equal(plain, twin)
        lonely = copy.deepcopy(plain)
        player.step(lonely, twin)
        require_equal(lonely, twin)
        require_equal(plain, compact)


def test_what_does_not_go_with_it_is_told() -> None:
    make: Any = CompactReplayBuffer
    with pytest.raises(ValueError, match="once by itself, so optimize_memory_usage must be False"):
        make(10, VECTOR, ACTIONS, optimize_memory_usage=True)
    with pytest.raises(ValueError, match=r"sums no rewards with Dict.*got gamma, n_steps"):
        make(10, SPACES["dict"], ACTIONS, n_steps=3, gamma=0.9)
    with pytest.raises(TypeError, match="CompactReplayBuffer got an unknown argument 'alpha'"):
        make(10, VECTOR, ACTIONS, alpha=0.6)

    class Mine(CompactReplayBuffer):
        pass

    with pytest.raises(TypeError, match=r"Mine stores no Dict.*inherit from CompactDictReplayBuf"):
        Mine(10, SPACES["dict"], ACTIONS)
    assert type(Mine(10, VECTOR, ACTIONS)) is Mine
