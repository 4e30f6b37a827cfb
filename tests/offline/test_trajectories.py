"""Trajectories as `imitation` makes and saves them, without the package."""

import json
import pickle
import sys
import types
from dataclasses import dataclass

import numpy as np
import pytest
from gymnasium import spaces

from sb3_ext.errors import UsageError
from sb3_ext.offline import from_trajectories, load_dataset
from tests.offline.worlds import ACTIONS, EPISODES, SPACES, Episode, assert_is, ends, steps


@dataclass(frozen=True)
class Trajectory:
    obs: object
    acts: np.ndarray
    infos: object
    terminal: bool


@dataclass(frozen=True)
class TrajectoryWithRew(Trajectory):
    rews: np.ndarray


def infos_of(one):
    """SB3's VecEnvs say at each step whether a time limit cut the episode."""
    return np.array([{"TimeLimit.truncated": bool(cut)} for cut in one.flags("truncated")])


def trajectory(one, infos=True, kind=TrajectoryWithRew):
    """As imitation's rollout makes them: `terminal` is true for every finished episode."""
    return kind(
        obs=one.observations,
        acts=one.actions,
        infos=infos_of(one) if infos else None,
        terminal=one.end != "none",
        rews=one.rewards,
    )


def trajectories(episodes=EPISODES, **options):
    return [trajectory(one, **options) for one in episodes]


def assert_all(dataset):
    assert_is(
        dataset, steps(*EPISODES), ends("terminated", *EPISODES), ends("truncated", *EPISODES)
    )


def test_terminal_is_true_for_time_limits_too():
    assert all(one.terminal for one in trajectories())
    assert_all(from_trajectories(trajectories(), SPACES))


def test_an_unfinished_trajectory_is_cut():
    episodes = (EPISODES[0], Episode(1, 5, "none"))
    dataset = from_trajectories(trajectories(episodes), SPACES)
    assert_is(dataset, steps(*episodes), {(0, 2)}, {(1, 4)})


def test_without_infos_nobody_knows():
    with pytest.warns(UserWarning, match=r"3 of 3 trajectories have no infos.*time_limit="):
        dataset = from_trajectories(trajectories(infos=False), SPACES)
    assert_is(dataset, steps(*EPISODES), {(0, 2), (1, 4), (2, 3)})
    assert_all(from_trajectories(trajectories(infos=False), SPACES, time_limit=5))


def test_demonstrations_without_rewards_are_refused():
    one = trajectory(EPISODES[0])
    plain = Trajectory(one.obs, one.acts, one.infos, one.terminal)
    with pytest.raises(ValueError, match=r"Trajectory has no rewards.*takes demonstrations="):
        from_trajectories([one, plain], SPACES)
    with pytest.raises(ValueError, match="a dict is no trajectory: it lacks obs, acts"):
        from_trajectories([{}], SPACES)
    with pytest.raises(ValueError, match="at least one"):
        from_trajectories([], SPACES)
    with pytest.raises(ValueError, match="which actions are allowed"):
        from_trajectories([one])


def test_dict_observations_of_imitation():
    class DictObs:
        def __init__(self, parts):
            self._d = parts

        def __len__(self):
            return len(self._d["a"])

    one = trajectory(EPISODES[0])
    parts = DictObs({"a": one.obs, "b": one.obs[:, :1]})
    given = TrajectoryWithRew(parts, one.acts, one.infos, one.terminal, one.rews)
    dataset = from_trajectories([given], action_space=ACTIONS)
    assert isinstance(dataset.observation_space, spaces.Dict)
    assert dataset.next_observations["a"].tolist() == [[0, 1], [0, 2], [0, 3]]


# -- files ---------------------------------------------------------------------------------------


def write_npz(path, **changes):
    """The .npz of imitation's older versions."""
    all_ = trajectories()
    lengths = [len(one.acts) for one in all_]
    arrays = {
        "obs": np.concatenate([one.obs for one in all_]),
        "acts": np.concatenate([one.acts for one in all_]),
        "infos": np.concatenate([one.infos for one in all_]),
        "terminal": np.array([one.terminal for one in all_]),
        "rews": np.concatenate([one.rews for one in all_]),
        "indices": np.cumsum(lengths[:-1]),
    } | changes
    np.savez(path, **{name: held for name, held in arrays.items() if held is not None})
    return path


def test_npz(tmp_path):
    path = write_npz(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"pickled infos.*allow_pickle=True"):
        from_trajectories(path, SPACES)
    with pytest.warns(UserWarning, match="runs whatever code"):
        assert_all(from_trajectories(path, SPACES, allow_pickle=True))
    assert_all(from_trajectories(path, SPACES, time_limit=5))  # nothing is unpickled
    assert_all(load_dataset(path, env=SPACES, time_limit=5))
    with pytest.raises(ValueError, match="no rewards"):
        from_trajectories(write_npz(tmp_path / "b.npz", rews=None), SPACES, time_limit=5)
    with pytest.raises(ValueError, match="lacks acts"):
        from_trajectories(write_npz(tmp_path / "c.npz", acts=None), SPACES)


@pytest.mark.filterwarnings("ignore:reading the pickle")
def test_a_pickle_needs_no_imitation(tmp_path, monkeypatch):
    """Classes of imitation become plain objects."""
    module = types.ModuleType("imitation.data.types")
    monkeypatch.setitem(sys.modules, "imitation", types.ModuleType("imitation"))
    monkeypatch.setitem(sys.modules, "imitation.data", types.ModuleType("imitation.data"))
    monkeypatch.setitem(sys.modules, "imitation.data.types", module)
    kind = dataclass(frozen=True)(
        type(
            "TrajectoryWithRew",
            (),
            {"__annotations__": TrajectoryWithRew.__annotations__ | Trajectory.__annotations__},
        )
    )
    kind.__module__, kind.__qualname__ = module.__name__, "TrajectoryWithRew"
    module.TrajectoryWithRew = kind
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(trajectories(kind=kind)))
    for name in ("imitation", "imitation.data", "imitation.data.types"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match="is a pickle"):
        from_trajectories(path, SPACES)
    assert_all(from_trajectories(path, SPACES, allow_pickle=True))
    assert_all(load_dataset(path, env=SPACES, allow_pickle=True))


def write_arrow(folder, all_):
    """What the package datasets writes for imitation.data.serialize.save."""
    # In no extra: only folders that the package datasets wrote need it, and it is large.
    arrow = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install pyarrow")
    folder.mkdir()
    table = arrow.table(
        {
            "obs": [one.obs.tolist() for one in all_],
            "acts": [one.acts.tolist() for one in all_],
            "infos": [[json.dumps(info) for info in one.infos] for one in all_],
            "terminal": [one.terminal for one in all_],
            "rews": [one.rews.tolist() for one in all_],
        }
    )
    path = str(folder / "data-00000-of-00001.arrow")
    with arrow.OSFile(path, "wb") as file, arrow.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    return folder


def test_a_folder_of_datasets(tmp_path):
    folder = write_arrow(tmp_path / "rollouts", trajectories())
    assert_all(from_trajectories(folder, SPACES))
    assert_all(load_dataset(folder, env=SPACES))


def test_a_folder_needs_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "data.arrow").write_bytes(b"")
    with pytest.raises(ImportError, match="pip install pyarrow"):
        from_trajectories(tmp_path, SPACES)


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ('{"TimeLimit.truncated": true}', True),
        ('{"TimeLimit.truncated": false, "x": 1}', False),
        ('{"x": 1}', False),  # the old TimeLimit speaks up only where it cut
        ("{}", None),
        # numpy.bool_, as jsonpickle writes it
        ('{"TimeLimit.truncated": {"py/reduce": [{"py/tuple": [{"py/b64": "AQ=="}]}]}}', True),
        ('{"TimeLimit.truncated": {"py/reduce": [{"py/tuple": [{"py/b64": "AA=="}]}]}}', False),
    ],
)
def test_infos_are_read_as_text(text, cut):
    from sb3_ext.offline.readers.trajectories import _info, _was_cut

    one = types.SimpleNamespace(infos=[_info(text)], acts=[0])
    assert _was_cut(one, None) is cut


def test_an_info_that_nobody_can_read():
    from sb3_ext.offline.readers.trajectories import _info

    with pytest.raises(ValueError, match="pass time_limit="):
        _info('{"TimeLimit.truncated": {"py/object": "x"}}')


def test_what_is_no_dataset_is_said(tmp_path):
    with pytest.raises(UsageError, match=r"there is no dataset .*minari:ID"):
        load_dataset(tmp_path / "gone")
    with pytest.raises(UsageError, match="neither a Minari dataset"):
        load_dataset(tmp_path)
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(UsageError, match=r"neither .npz, HDF5 nor a pickle"):
        load_dataset(tmp_path / "a.txt")
