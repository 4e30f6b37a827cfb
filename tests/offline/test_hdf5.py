"""D4RL's and d3rlpy's files, made here as those packages write them."""

import h5py
import numpy as np
import pytest
from gymnasium import spaces

from sb3_ext.errors import UsageError
from sb3_ext.offline import from_d3rlpy, from_d4rl, load_dataset
from tests.offline.worlds import ACTIONS, EPISODES, SPACES, Episode, assert_is, ends, steps


def flat(episodes=EPISODES):
    """As D4RL has it: one row a step, and no final observations."""
    return {
        "observations": np.concatenate([one.observations[:-1] for one in episodes]),
        "actions": np.concatenate([one.actions for one in episodes]),
        "rewards": np.concatenate([one.rewards for one in episodes]).astype(np.float32),
        "terminals": np.concatenate([one.flags("terminated") for one in episodes]),
        "timeouts": np.concatenate([one.flags("truncated") for one in episodes]),
    }


def write(path, arrays):
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
    return path


def follow(episodes=EPISODES):
    return np.concatenate([one.observations[1:] for one in episodes])


# -- D4RL ----------------------------------------------------------------------------------------


def test_d4rl_drops_the_row_before_a_time_limit(tmp_path):
    dataset = from_d4rl(write(tmp_path / "a.hdf5", flat()), SPACES)
    rows = [row for row in steps(*EPISODES) if row != (1, 4)]
    assert_is(dataset, rows, {(0, 2), (2, 3)}, {(1, 3)}, without_next={(0, 2), (2, 3)})
    assert dataset.n_episodes == 3
    assert "1 transitions dropped" in dataset.source["notes"][0]


def test_d4rl_with_next_observations_keeps_every_row(tmp_path):
    path = write(tmp_path / "a.hdf5", flat() | {"next_observations": follow()})
    dataset = from_d4rl(path, SPACES)
    assert_is(dataset, steps(*EPISODES), {(0, 2), (2, 3)}, {(1, 4)})


def test_d4rl_data_that_ends_within_an_episode(tmp_path):
    episodes = (*EPISODES[:2], Episode(2, 4, "none"))
    dataset = from_d4rl(write(tmp_path / "a.hdf5", flat(episodes)), SPACES)
    rows = [row for row in steps(*episodes) if row not in {(1, 4), (2, 3)}]
    assert_is(dataset, rows, {(0, 2)}, {(1, 3), (2, 2)}, without_next={(0, 2)})
    path = write(tmp_path / "b.hdf5", flat(episodes) | {"next_observations": follow(episodes)})
    assert_is(from_d4rl(path, SPACES), steps(*episodes), {(0, 2)}, {(1, 4), (2, 3)})


def test_d4rl_episodes_of_one_step_leave_no_trace_before_them(tmp_path):
    episodes = (Episode(0, 2, "terminated"), Episode(1, 1, "truncated"), Episode(2, 2, "truncated"))
    dataset = from_d4rl(write(tmp_path / "a.hdf5", flat(episodes)), SPACES)
    assert_is(dataset, [(0, 0), (0, 1), (2, 0)], {(0, 1)}, {(2, 0)}, without_next={(0, 1)})


def test_d4rl_a_termination_at_the_limit_is_a_termination(tmp_path):
    arrays = flat()
    arrays["timeouts"][2] = True  # where episode 0 terminates, too
    dataset = from_d4rl(write(tmp_path / "a.hdf5", arrays), SPACES)
    rows = [row for row in steps(*EPISODES) if row != (1, 4)]
    assert_is(dataset, rows, {(0, 2), (2, 3)}, {(1, 3)}, without_next={(0, 2), (2, 3)})


def test_d4rl_in_pieces_is_the_same_as_at_once(tmp_path, monkeypatch):
    path = write(tmp_path / "a.hdf5", flat())
    whole = from_d4rl(path, SPACES)
    monkeypatch.setattr("sb3_ext.offline.readers.flat._PIECE", 16)  # two rows
    pieces = from_d4rl(path, SPACES)
    for name in ("observations", "next_observations", "actions", "rewards", "truncated"):
        assert (getattr(pieces, name) == getattr(whole, name)).all()


def test_d4rl_without_timeouts_needs_the_limit(tmp_path):
    arrays = flat()
    del arrays["timeouts"]
    path = write(tmp_path / "a.hdf5", arrays)
    with pytest.raises(ValueError, match="pass time_limit="):
        from_d4rl(path, SPACES)
    # Episode 1 is cut after five steps; the others terminate before.
    dataset = from_d4rl(path, SPACES, time_limit=5)
    rows = [row for row in steps(*EPISODES) if row != (1, 4)]
    assert_is(dataset, rows, {(0, 2), (2, 3)}, {(1, 3)}, without_next={(0, 2), (2, 3)})
    path = write(tmp_path / "b.hdf5", arrays | {"next_observations": follow()})
    assert_is(from_d4rl(path, SPACES), steps(*EPISODES), {(0, 2), (2, 3)}, {(1, 4)})


def test_d4rl_log_probabilities_are_kept_in_their_rows(tmp_path):
    path = write(tmp_path / "a.hdf5", flat() | {"infos/action_log_probs": np.arange(12.0)})
    log_prob = from_d4rl(path, SPACES).behavior_log_prob
    assert log_prob.tolist() == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11]


def test_d4rl_says_what_is_missing(tmp_path):
    path = write(tmp_path / "a.hdf5", flat())
    with pytest.raises(ValueError, match=r"which actions are allowed.*env="):
        from_d4rl(path)
    assert from_d4rl(path, action_space=ACTIONS).observation_space.shape == (2,)
    arrays = flat()
    del arrays["rewards"]
    with pytest.raises(ValueError, match="no rewards"):
        from_d4rl(write(tmp_path / "b.hdf5", arrays), SPACES)
    with pytest.raises(ValueError, match="lacks terminals; it has actions"):
        from_d4rl(write(tmp_path / "c.hdf5", {"observations": [1], "actions": [1]}), SPACES)
    with pytest.raises(ValueError, match=r"rows of shape \[3\].*belong to this environment"):
        from_d4rl(path, (spaces.Box(-1, 1, (3,)), ACTIONS))
    (tmp_path / "d.hdf5").write_text("no")
    with pytest.raises(ValueError, match="no HDF5 file"):
        from_d4rl(tmp_path / "d.hdf5", SPACES)
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        from_d4rl(tmp_path / "gone.hdf5", SPACES)


def test_out_of_bounds_and_nan(tmp_path):
    arrays = flat()
    arrays["actions"][[0, 5]] = [9, 0]
    path = write(tmp_path / "a.hdf5", arrays)
    with pytest.raises(ValueError, match=r'2 of 11 .*out_of_bounds="clip"'):
        from_d4rl(path, SPACES)
    dataset = from_d4rl(path, SPACES, out_of_bounds="clip")
    assert dataset.actions[0].tolist() == [2, 0]
    assert dataset.report().out_of_bounds == 2
    with pytest.raises(ValueError, match="out_of_bounds must be one of 'raise', 'clip'"):
        from_d4rl(path, SPACES, out_of_bounds="ignore")
    arrays = flat()
    arrays["observations"][4, 1] = np.nan  # (1, 1), which is also what follows (1, 0)
    path = write(tmp_path / "b.hdf5", arrays)
    with pytest.raises(ValueError, match="finite"):
        from_d4rl(path, SPACES)
    dataset = from_d4rl(path, SPACES, non_finite="drop")
    assert_is(
        dataset,
        steps(EPISODES[0], EPISODES[2]),
        {(0, 2), (2, 3)},
        without_next={(0, 2), (2, 3)},
    )
    assert dataset.report().non_finite_dropped == 4


# -- d3rlpy --------------------------------------------------------------------------------------


def version_2(episodes=EPISODES, **changes):
    """As d3rlpy 2.1 writes it: rewards as a column, T observations."""
    arrays = {
        "columns": ["observations", "actions", "rewards", "terminated"],
        "num_episodes": len(episodes),
        "version": "2.1",
    }
    for i, one in enumerate(episodes):
        arrays |= {
            f"observations_{i}": one.observations[:-1],
            f"actions_{i}": one.actions,
            f"rewards_{i}": one.rewards[:, None],
            f"terminated_{i}": one.end == "terminated",
        }
    return arrays | changes


def test_d3rlpy_lacks_the_last_observation(tmp_path):
    dataset = from_d3rlpy(write(tmp_path / "a.h5", version_2()), SPACES)
    rows = [row for row in steps(*EPISODES) if row != (1, 4)]
    assert_is(dataset, rows, {(0, 2), (2, 3)}, {(1, 3)}, without_next={(0, 2), (2, 3)})
    assert dataset.source["format"] == "d3rlpy 2.1"
    assert "1 transitions dropped" in dataset.source["notes"][0]


def test_d3rlpy_1_marks_time_limits_by_the_end_of_the_episode(tmp_path):
    arrays = flat()
    arrays["episode_terminals"] = (arrays["terminals"] | arrays.pop("timeouts")).astype(np.float32)
    arrays["terminals"] = arrays["terminals"].astype(np.float32)
    dataset = from_d3rlpy(write(tmp_path / "a.h5", arrays), SPACES)
    rows = [row for row in steps(*EPISODES) if row != (1, 4)]
    assert_is(dataset, rows, {(0, 2), (2, 3)}, {(1, 3)}, without_next={(0, 2), (2, 3)})


def test_d3rlpy_discrete_actions_lose_their_column(tmp_path):
    arrays = version_2()
    for i, one in enumerate(EPISODES):
        arrays[f"actions_{i}"] = np.arange(one.length)[:, None]
    space = spaces.Discrete(5)
    dataset = from_d3rlpy(write(tmp_path / "a.h5", arrays), action_space=space)
    assert dataset.actions.tolist() == [0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 3]
    with pytest.raises(ValueError, match="found 0 to 3"):
        from_d3rlpy(tmp_path / "a.h5", action_space=spaces.Discrete(3))


def test_d3rlpy_tuples_become_a_dict(tmp_path):
    arrays = version_2()
    for i in range(3):
        seen = arrays.pop(f"observations_{i}")
        arrays |= {f"observations_{i}_0": seen[:, :1], f"observations_{i}_1": seen}
    path = write(tmp_path / "a.h5", arrays)
    with pytest.raises(ValueError, match="2 arrays of observations"):
        from_d3rlpy(path, SPACES)
    space = spaces.Dict(
        {"e": spaces.Box(-np.inf, np.inf, (1,)), "seen": spaces.Box(-np.inf, np.inf, (2,))}
    )
    dataset = from_d3rlpy(path, (space, ACTIONS))
    assert dataset.observations["e"].ravel().tolist() == [0] * 3 + [1] * 4 + [2] * 4
    assert dataset.next_observations["seen"][3].tolist() == [1, 1]


def test_d3rlpy_says_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match=r"2\.0, which d3rlpy itself"):
        from_d3rlpy(write(tmp_path / "a.h5", version_2(version="2.0")), SPACES)
    with pytest.raises(ValueError, match="is empty"):
        from_d3rlpy(write(tmp_path / "b.h5", version_2(episodes=())), SPACES)
    with pytest.raises(ValueError, match="no file of d3rlpy's"):
        from_d3rlpy(write(tmp_path / "c.h5", {"x": [1]}), SPACES)
    short = (Episode(0, 1, "truncated"),)
    with pytest.raises(ValueError, match="nothing to read"):
        from_d3rlpy(write(tmp_path / "d.h5", version_2(short)), SPACES)


# -- which is which ------------------------------------------------------------------------------


def test_hdf5_is_told_apart_by_its_keys(tmp_path):
    old = flat()
    old["episode_terminals"] = old["terminals"] | old.pop("timeouts")
    for arrays, format_ in [(flat(), "d4rl"), (version_2(), "d3rlpy 2.1"), (old, "d3rlpy 1")]:
        path = write(tmp_path / "a.h5", arrays)
        assert load_dataset(str(path), env=SPACES).source["format"] == format_
    with pytest.raises(UsageError, match="neither Minari's, D4RL's nor d3rlpy's: it has x"):
        load_dataset(write(tmp_path / "b.h5", {"x": [1]}))
    with pytest.raises(UsageError, match=r"from_d4rl, which reads .*, has no option limit"):
        load_dataset(write(tmp_path / "c.h5", flat()), limit=3)


def test_an_environments_id_gives_the_spaces(tmp_path):
    n = 5
    path = write(
        tmp_path / "a.h5",
        {
            "observations": np.zeros((n, 3)),
            "actions": np.full((n, 1), 2.0),
            "rewards": np.zeros(n),
            "terminals": np.zeros(n, bool),
            "timeouts": np.zeros(n, bool),
        },
    )
    dataset = load_dataset(path, env="Pendulum-v1")
    assert dataset.source["env_id"] == "Pendulum-v1"
    assert dataset.action_space.high.tolist() == [2]
    assert len(dataset) == 4


def test_h5py_missing_is_said(tmp_path, monkeypatch):
    import sys

    path = write(tmp_path / "a.h5", flat())
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r'h5py.*pip install "sb3-ext\[offline\]"'):
        from_d4rl(path, SPACES)


def test_the_ends_of_the_test_data():
    """The data has both ends, or half of the tests above would say nothing."""
    assert ends("terminated", *EPISODES) == {(0, 2), (2, 3)}
    assert ends("truncated", *EPISODES) == {(1, 4)}
