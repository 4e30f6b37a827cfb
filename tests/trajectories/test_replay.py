"""The trajectory buffer, against episodes that are kept as plain lists."""

import copy
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.save_util import load_from_pkl, save_to_pkl
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext import DQN
from sb3_ext.resume.buffers import capture_buffer, restore_buffer
from sb3_ext.resume.decoder import Decoder
from sb3_ext.resume.encoder import Encoder
from sb3_ext.resume.environments import decode_special, encode_special
from sb3_ext.testing.environments import kit_env
from sb3_ext.trajectories.replay import TrajectoryReplayBuffer, Windows

BOX = spaces.Box(-1e9, 1e9, (2,), np.float64)
DICT = spaces.Dict({"number": BOX, "image": spaces.Box(0, 255, (1, 2, 2), np.uint8)})
ACTIONS = spaces.Box(-1, 1, (3,), np.float32)


class Script:
    """Random episodes: what each environment saw and did, as lists, and in a buffer."""

    def __init__(self, buffer: TrajectoryReplayBuffer, seed: int = 0) -> None:
        self.buffer, self.rng, self.count = buffer, np.random.default_rng(seed), 0
        self.steps: list[list[dict[str, Any]]] = [[] for _ in range(buffer.n_envs)]
        self.obs = [self.fresh() for _ in range(buffer.n_envs)]

    def fresh(self) -> float:
        self.count += 1
        return float(self.count)

    def observation(self, numbers: list[float]) -> Any:
        box = np.array([[n, -n] for n in numbers])
        if isinstance(self.buffer.observation_space, spaces.Dict):
            image = np.array(numbers, int)[:, None, None, None] % 256
            return {"number": box, "image": np.broadcast_to(image, (len(numbers), 1, 2, 2))}
        return box

    def play(self, n: int, p_end: float = 0.2) -> None:
        for _ in range(n):
            count = self.buffer.n_envs
            action, reward = self.rng.normal(size=(count, 3)), self.rng.normal(size=count)
            behavior = self.rng.normal(size=(count, 2))
            kinds = self.rng.choice(3, size=count, p=[1 - p_end, p_end / 2, p_end / 2])
            following = [self.fresh() for _ in range(count)]
            infos = [{"TimeLimit.truncated": bool(kind == 2)} for kind in kinds]
            self.buffer.add(
                self.observation(self.obs),
                self.observation(following),
                np.concatenate([action, behavior], axis=1),
                reward,
                kinds > 0,
                infos,
            )
            for env in range(count):
                step = {"obs": self.obs[env], "next": following[env], "reward": reward[env]}
                step |= {"action": action[env], "behavior": behavior[env]}
                step |= {"terminated": kinds[env] == 1, "truncated": kinds[env] == 2}
                self.steps[env].append(step)
            self.obs = [self.fresh() if k else f for k, f in zip(kinds, following, strict=True)]

    def reset(self, envs: list[int]) -> None:
        for env in envs:
            self.obs[env] = self.fresh()
            if not (self.steps[env][-1]["terminated"] or self.steps[env][-1]["truncated"]):
                self.steps[env][-1]["truncated"] = True


def number(observations: Any) -> th.Tensor:
    """The first of an observation's two numbers, which says which one it is."""
    held = observations["number"] if isinstance(observations, dict) else observations
    return held[:, 0]


def require_equal(windows: Windows, expected: list[list[dict[str, Any]]]) -> None:
    """Each column against a list of steps."""
    length, columns = windows.rewards.shape
    assert columns == len(expected)
    finals = dict(
        zip(windows.finals.tolist(), number(windows.final_observations).tolist(), strict=True)
    )
    for b, steps in enumerate(expected):
        assert len(steps) == length
        for t, step in enumerate(steps):
            row = t * columns + b
            assert number(windows.observations)[row] == step["obs"]
            assert windows.actions[row].numpy() == pytest.approx(step["action"], rel=1e-6)
            assert windows.behavior[row].numpy() == pytest.approx(step["behavior"], rel=1e-6)
            assert windows.rewards[t, b].item() == pytest.approx(step["reward"], rel=1e-6)
            assert bool(windows.terminated[t, b]) == step["terminated"]
            assert bool(windows.truncated[t, b]) == step["truncated"]
            assert finals.pop(row, None) == (step["next"] if step["truncated"] else None)
        if not (steps[-1]["terminated"] or steps[-1]["truncated"]):
            assert number(windows.last_observations)[b] == steps[-1]["next"]
    assert not finals


def all_windows(buffer: TrajectoryReplayBuffer, length: int, starts: int) -> Windows:
    """Every start in every environment."""
    grid = [(start, env) for start in range(starts) for env in range(buffer.n_envs)]
    columns = np.array(grid).T
    return buffer._windows(columns[0], columns[1], length, None)


@pytest.mark.parametrize("space", [BOX, DICT], ids=["Box", "Dict"])
@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("steps", [4, 11, 12, 13, 40])
def test_every_window_is_what_was_played(space: Any, n_envs: int, steps: int) -> None:
    """Rings of 12 rows, of which a full one has 11 steps to give."""
    buffer = TrajectoryReplayBuffer(12 * n_envs, space, ACTIONS, n_envs=n_envs, behavior_dim=2)
    script = Script(buffer)
    script.play(steps)
    held = [steps[-11:] if buffer.full else steps for steps in script.steps]
    assert buffer.full == (steps >= 12)
    for length in (1, 3, len(held[0])):
        starts = len(held[0]) - length + 1
        assert buffer.n_windows(length) == starts
        expected = [held[env][i : i + length] for i in range(starts) for env in range(n_envs)]
        require_equal(all_windows(buffer, length, starts), expected)
    assert buffer.n_windows(len(held[0]) + 1) == 0


def test_the_newest_window_ends_with_the_newest_step() -> None:
    buffer = TrajectoryReplayBuffer(24, BOX, ACTIONS, n_envs=2, behavior_dim=2)
    script = Script(buffer)
    for _ in range(9):
        script.play(4)
        require_equal(buffer.newest(4), [steps[-4:] for steps in script.steps])


def test_windows_are_drawn_uniformly_and_never_reach_over_the_newest_step() -> None:
    """Chi-square of the 2 x 8 windows of four steps in a full ring of 12 rows."""
    from scipy.stats import chisquare

    buffer = TrajectoryReplayBuffer(24, BOX, ACTIONS, n_envs=2, behavior_dim=2)
    script = Script(buffer)
    script.play(30)
    drawn = buffer.sample_windows(4_000, 4, np.random.default_rng(0))
    first = number(drawn.observations)[:4_000].numpy()
    starts = [steps[-11:][i]["obs"] for steps in script.steps for i in range(8)]
    found, counts = np.unique(first, return_counts=True)
    assert sorted(found) == sorted(starts)
    assert chisquare(counts).pvalue > 1e-3
    again = buffer.sample_windows(4_000, 4, np.random.default_rng(0))
    assert th.equal(drawn.observations, again.observations)


def test_a_reset_in_between_cuts_the_episode_off() -> None:
    """As ``learn`` does it, and a resumed run; the last observation is valued, not forgotten."""
    buffer = TrajectoryReplayBuffer(24, BOX, ACTIONS, n_envs=2, behavior_dim=2)
    script = Script(buffer)
    for envs in ([0], [0, 1], [1]):
        script.play(5, p_end=0.0)
        script.reset(envs)
    script.play(3)
    held = [steps[-11:] for steps in script.steps]
    assert sum(step["truncated"] for steps in held for step in steps) >= 3
    require_equal(all_windows(buffer, 4, 8), [h[i : i + 4] for i in range(8) for h in held])
    script.play(1, p_end=0.0)
    script.reset([0, 1])
    buffer.cut_off()
    require_equal(buffer.newest(2), [steps[-2:] for steps in script.steps])


def test_an_observation_is_stored_once() -> None:
    space = spaces.Box(0, 255, (3, 8, 8), np.uint8)
    buffer = TrajectoryReplayBuffer(100, space, ACTIONS, n_envs=1, behavior_dim=2)
    assert buffer.observations.nbytes == 100 * 3 * 8 * 8
    assert buffer.next_observations is None


def test_final_observations_are_freed_with_their_rows() -> None:
    buffer = TrajectoryReplayBuffer(12, BOX, ACTIONS, n_envs=1, behavior_dim=2)
    script = Script(buffer)
    script.play(500, p_end=0.9)
    assert len(buffer.final_observations) <= 12
    require_equal(buffer.newest(11), [script.steps[0][-11:]])


def test_values_are_asked_for_where_they_count() -> None:
    buffer = TrajectoryReplayBuffer(24, BOX, ACTIONS, n_envs=2, behavior_dim=2)
    script = Script(buffer)
    script.play(10, p_end=0.6)
    windows = buffer.newest(6)
    last, truncation = windows.bootstrap(number)
    for b, steps in enumerate(held[-6:] for held in script.steps):
        assert last[b] == script.steps[b][-1]["next"] or steps[-1]["terminated"]
        for t, step in enumerate(steps):
            assert truncation[t, b] == (step["next"] if step["truncated"] else 0)


def test_statistics_of_the_environment_are_applied_when_it_is_sampled() -> None:
    env = VecNormalize(kit_env(2), training=False)
    env.obs_rms.mean[:], env.obs_rms.var[:] = 3.0, 4.0
    env.ret_rms.var = np.array(25.0)
    space = env.observation_space
    buffer = TrajectoryReplayBuffer(20, space, ACTIONS, n_envs=2, behavior_dim=1)
    obs = np.ones((2, *space.shape), np.float32)
    for _ in range(3):
        done = np.array([False, True])
        infos: list[dict[str, Any]] = [{}, {"TimeLimit.truncated": True}]
        buffer.add(obs, obs, np.zeros((2, 4)), np.array([5.0, 10.0]), done, infos)
    windows = buffer.newest(2, env)
    for seen in (windows.observations, windows.last_observations, windows.final_observations):
        assert seen.flatten().tolist() == pytest.approx([-1.0] * seen.numel(), abs=1e-4)
    assert windows.rewards.flatten().tolist() == pytest.approx([1, 2, 1, 2], abs=1e-4)


def test_it_goes_through_a_file_and_a_checkpoint(tmp_path: Any) -> None:
    buffer = TrajectoryReplayBuffer(24, DICT, ACTIONS, n_envs=2, behavior_dim=2)
    script = Script(buffer)
    script.play(30)
    save_to_pkl(tmp_path / "buffer.pkl", buffer)
    encoder = Encoder(encode_special)
    saved = capture_buffer(encoder, buffer)
    other = TrajectoryReplayBuffer(24, DICT, ACTIONS, n_envs=2, behavior_dim=2)
    restore_buffer(Decoder(encoder.arrays, decode_special), saved, other)
    for one in (load_from_pkl(tmp_path / "buffer.pkl"), other):
        goes_on = copy.deepcopy(script)
        goes_on.buffer = one
        goes_on.play(3)
        require_equal(one.newest(11), [held[-11:] for held in goes_on.steps])


def test_discrete_spaces_are_stored_as_they_are() -> None:
    buffer = TrajectoryReplayBuffer(
        8, spaces.Discrete(300), spaces.MultiDiscrete([300, 2]), n_envs=1, behavior_dim=302
    )
    seen, given = np.array([299]), np.concatenate([[[299, 1]], np.zeros((1, 302))], axis=1)
    for _ in range(3):
        buffer.add(seen, seen, given, np.zeros(1), np.zeros(1, bool), [{}])
    windows = buffer.newest(2)
    assert windows.actions.tolist() == [[299, 1], [299, 1]]
    assert windows.observations.tolist() == [[299], [299]]


def test_errors() -> None:
    buffer = TrajectoryReplayBuffer(8, BOX, ACTIONS, n_envs=1, behavior_dim=2)
    with pytest.raises(ValueError, match=r"no window of 3 steps yet.* has 0 steps"):
        buffer.sample_windows(1, 3, np.random.default_rng(0))
    with pytest.raises(TypeError, match="call sample_windows"):
        buffer.sample(1)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"action": np.zeros((2, 4))}, r"shape \[n_envs, 3 \+ 2\] = \[2, 5\], got \[2, 4\]"),
        ({"action": np.zeros((1, 5))}, r"= \[2, 5\], got \[1, 5\]"),
        ({"action": np.zeros(2)}, r"got \[2\].*such as DQN, cannot fill"),
        ({"reward": 1.0}, r"reward must have shape \[n_envs\] = \[2\], got \[\]"),
        ({"done": np.zeros((2, 1), bool)}, r"done must have shape .* got \[2, 1\]"),
        ({"infos": [{}]}, r"infos must be one of each of 2 environments, got 1"),
    ],
)
def test_nothing_is_broadcast_to_all_environments(changes: Any, told: str) -> None:
    buffer = TrajectoryReplayBuffer(8, BOX, ACTIONS, n_envs=2, behavior_dim=2)
    seen = np.zeros((2, 2))
    step = {"action": np.zeros((2, 5)), "reward": np.zeros(2), "done": np.zeros(2, bool)}
    step |= {"infos": [{}, {}]}  # type: ignore[dict-item]
    buffer.add(seen, seen, **step)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=told):
        buffer.add(seen, seen, **(step | changes))
    assert buffer.pos == 1


def test_sizes_that_cannot_work() -> None:
    for size in (0, -5, 1, 2.5):
        with pytest.raises(ValueError, match=r"buffer_size must be .* each of the 2 environ"):
            TrajectoryReplayBuffer(size, BOX, ACTIONS, n_envs=2, behavior_dim=2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="behavior_dim must be a whole number, 0 or more, got -1"):
        TrajectoryReplayBuffer(8, BOX, ACTIONS, n_envs=2, behavior_dim=-1)
    buffer = TrajectoryReplayBuffer(24, BOX, ACTIONS, n_envs=2, behavior_dim=2)
    Script(buffer).play(8)
    rng = np.random.default_rng(0)
    for length in (0, -2, 4.0):
        with pytest.raises(ValueError, match="length, of a window, must be a whole number"):
            buffer.sample_windows(3, length, rng)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="length, of a window, must be a whole number"):
            buffer.newest(length)  # type: ignore[arg-type]
    for n in (0, -1):
        with pytest.raises(ValueError, match="n, of windows, must be a whole number"):
            buffer.sample_windows(n, 3, rng)
    with pytest.raises(TypeError, match=r"rng must be a generator, np.random.default_rng\(seed\)"):
        buffer.sample_windows(3, 4, 0)  # type: ignore[arg-type]


def test_values_may_have_the_shape_of_sb3s() -> None:
    buffer = TrajectoryReplayBuffer(24, BOX, ACTIONS, n_envs=2, behavior_dim=2)
    Script(buffer).play(10, p_end=0.6)
    windows = buffer.newest(6)
    assert len(windows.finals)
    flat = windows.bootstrap(number)
    for found, expected in zip(windows.bootstrap(lambda o: o[:, :1]), flat, strict=True):
        assert th.equal(found, expected)
    for wrong in (lambda o: o, lambda o: o.sum(), lambda o: o[:1, 0]):
        with pytest.raises(ValueError, match=r"one number an observation, \[N\] or \[N, 1\]"):
            windows.bootstrap(wrong)


def test_a_box_of_integers_keeps_what_was_drawn() -> None:
    space = spaces.Box(-2, 3, (1,), np.int64)
    buffer = TrajectoryReplayBuffer(8, BOX, space, n_envs=1, behavior_dim=1)
    seen, given = np.zeros((1, 2)), np.array([[0.25, 0.5]])
    buffer.add(seen, seen, given, np.zeros(1), np.zeros(1, bool), [{}])
    assert buffer.newest(1).actions.tolist() == [[0.25]]


def test_algorithms_of_transitions_refuse_the_file(tmp_path: Any) -> None:
    buffer = TrajectoryReplayBuffer(
        20, spaces.Box(-5.0, 5.0, (3,), np.float32), spaces.Discrete(3), n_envs=2, behavior_dim=3
    )
    save_to_pkl(tmp_path / "buffer.pkl", buffer)
    model = DQN("MlpPolicy", kit_env(2, action="Discrete"), buffer_size=20)
    held = model.replay_buffer
    with pytest.raises(ValueError, match=r"windows of consecutive steps .* DQN learns from single"):
        model.load_replay_buffer(tmp_path / "buffer.pkl")
    assert model.replay_buffer is held
