"""Minari: from the package and from its files, and back."""

import json
import sys

import h5py
import numpy as np
import pytest
from gymnasium import spaces

from sb3_ext.offline import OfflineDataset, from_minari, load_dataset, to_minari
from tests.offline.test_dataset import arrays as flat_arrays
from tests.offline.test_dataset import make
from tests.offline.worlds import ACTIONS, EPISODES, OBSERVATIONS, Episode, assert_is, ends, steps

# An extra; `make install`, and so CI, brings it.
minari = pytest.importorskip("minari", reason='needs minari: pip install "sb3-ext[offline]"')
# Minari asks for an author, a link to the code, an environment and the versions of packages.
pytestmark = pytest.mark.filterwarnings("ignore:.*is set to None", "ignore:env_spec is None")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def create(episodes=EPISODES, name="test/counting-v0", final=True, **options):
    """By Minari itself; without `final` only T observations an episode, as of old."""
    from minari.data_collector import EpisodeBuffer

    buffers = [
        EpisodeBuffer(
            observations=one.observations if final else one.observations[:-1],
            actions=one.actions,
            rewards=one.rewards,
            terminations=one.flags("terminated"),
            truncations=one.flags("truncated"),
        )
        for one in episodes
    ]
    given = {"observation_space": OBSERVATIONS, "action_space": ACTIONS}
    return minari.create_dataset_from_buffers(name, buffers, **given | options)


def both(name):
    """The dataset read by the package, and from the files without it."""
    yield from_minari(minari.load_dataset(name))
    yield from_minari(name)


def test_the_observations_of_an_episode_stay_in_it():
    """T + 1 observations: joined as they are, episode j would be shifted by j rows."""
    create()
    for dataset in both("test/counting-v0"):
        assert_is(
            dataset, steps(*EPISODES), ends("terminated", *EPISODES), ends("truncated", *EPISODES)
        )
        assert dataset.source["id"] == "test/counting-v0"


def test_old_datasets_without_final_observations():
    create(final=False)
    rows = [row for row in steps(*EPISODES) if row != (1, 4)]
    for dataset in both("test/counting-v0"):
        assert_is(dataset, rows, {(0, 2), (2, 3)}, {(1, 3)}, without_next={(0, 2), (2, 3)})
        assert "1 transitions dropped" in dataset.source["notes"][0]


def test_files_need_no_minari(home, monkeypatch):
    create()
    monkeypatch.setitem(sys.modules, "minari", None)
    for where in ("test/counting-v0", home / "test" / "counting-v0"):
        assert len(from_minari(where)) == 12
    folder = home / "test" / "counting-v0" / "data"
    assert len(from_minari(folder)) == len(from_minari(folder / "main_data.hdf5")) == 12
    assert load_dataset("minari:test/counting-v0").source["format"] == "minari"
    assert load_dataset(folder.parent).source["format"] == "minari"
    assert load_dataset(folder / "main_data.hdf5").source["format"] == "minari"
    metadata = json.loads((folder / "metadata.json").read_text())
    (folder / "metadata.json").write_text(json.dumps(metadata | {"data_format": "arrow"}))
    with pytest.raises(ImportError, match=r'pip install "sb3-ext\[offline\]"'):
        from_minari("test/counting-v0")
    with pytest.raises(ImportError, match="minari"):
        to_minari(make(), "test/other-v0")


def test_more_than_ten_episodes_keep_their_order():
    episodes = [Episode(e, 2, "terminated") for e in range(12)]
    create(episodes)
    for dataset in both("test/counting-v0"):
        assert_is(dataset, steps(*episodes), {(e, 1) for e in range(12)})


def test_an_episode_that_ends_neither_way_is_cut_and_noted():
    create((Episode(0, 3, "none"), EPISODES[1]))
    for dataset in both("test/counting-v0"):
        assert_is(dataset, steps(Episode(0, 3, ""), EPISODES[1]), set(), {(0, 2), (1, 4)})
        assert dataset.source["notes"] == [
            "1 episodes ended neither way, and count as cut where they stop"
        ]


def test_a_flag_within_an_episode_begins_another(home):
    """Continuing tasks set it at the goal and go on."""
    create((Episode(0, 4, "truncated"),))
    with h5py.File(home / "test" / "counting-v0" / "data" / "main_data.hdf5", "a") as file:
        file["episode_0"]["terminations"][1] = True
    for dataset in both("test/counting-v0"):
        assert_is(dataset, steps(Episode(0, 4, "")), {(0, 1)}, {(0, 3)})
        assert dataset.episode_starts.tolist() == [0, 2]


def test_dict_spaces_and_discrete_actions():
    space = spaces.Dict({"seen": OBSERVATIONS, "count": spaces.Discrete(9)})
    observations = {"seen": EPISODES[0].observations, "count": np.arange(4)}
    from minari.data_collector import EpisodeBuffer

    minari.create_dataset_from_buffers(
        "test/dict-v0",
        [
            EpisodeBuffer(
                observations=observations,
                actions=np.array([3, 4, 3]),
                rewards=np.ones(3),
                terminations=np.array([False, False, True]),
                truncations=np.zeros(3, bool),
            )
        ],
        observation_space=space,
        action_space=spaces.Discrete(2, start=3),
    )
    for dataset in both("test/dict-v0"):
        assert dataset.actions.tolist() == [3, 4, 3]
        assert dataset.next_observations["count"].tolist() == [1, 2, 3]
        assert dataset.observations["seen"].tolist() == [[0, 0], [0, 1], [0, 2]]
        assert dataset.action_space.start == 3


def image_dataset(**changes):
    rng = np.random.default_rng(0)
    # Smooth, so that JPEG's loss is small; of three episodes' lengths.
    ramp = np.linspace(0, 200, 40).astype(np.uint8)
    frames = np.stack(
        [np.full((40, 40, 3), 3 * i, np.uint8) + ramp[:, None, None] for i in range(13)]
    )
    del rng
    given = flat_arrays(
        observations=frames[:12],
        next_observations=frames[1:],
        observation_space=spaces.Box(0, 255, (40, 40, 3), np.uint8),
    )
    return OfflineDataset(**given | changes)


def test_images_are_read_also_from_jpeg():
    dataset = image_dataset()
    to_minari(dataset, "test/exact-v0")
    to_minari(dataset, "test/jpeg-v0", jpeg_encoding=True)
    for read in both("test/exact-v0"):
        assert (read.observations == dataset.observations).all()
        assert (read.next_observations == dataset.next_observations).all()
    lossy = list(both("test/jpeg-v0"))
    for read in lossy:
        difference = np.abs(read.observations.astype(int) - dataset.observations)
        assert 0 < difference.max() <= 8
    assert (lossy[0].observations == lossy[1].observations).all()


@pytest.mark.parametrize("log_prob", [None, -np.arange(12.0)])
def test_what_is_written_comes_back(log_prob):
    dataset = make(behavior_log_prob=log_prob)
    to_minari(dataset, "test/back-v0", author="somebody")
    for read in both("test/back-v0"):
        for name in ("observations", "next_observations", "actions", "rewards", "terminated"):
            found, held = getattr(read, name), getattr(dataset, name)
            assert found.dtype == held.dtype
            assert (found == held).all()
        assert (read.truncated == dataset.truncated).all()
        assert (read.episode_starts == dataset.episode_starts).all()
        assert read.action_space == dataset.action_space
        assert (read.behavior_log_prob is None) == (log_prob is None)
        if log_prob is not None:
            assert (read.behavior_log_prob == log_prob).all()
    assert minari.load_dataset("test/back-v0").total_steps == 12


def test_what_minari_cannot_hold_is_refused():
    follow = flat_arrays()["next_observations"].copy()
    follow[4] += 1
    with pytest.raises(ValueError, match=r"transition 4 is followed by another .*must end there"):
        to_minari(make(next_observations=follow), "test/broken-v0")
    create()
    with pytest.raises(ValueError, match="already exists"):
        to_minari(make(), "test/counting-v0")


def test_an_environment_of_an_old_dataset_gives_the_spaces(home):
    dataset = OfflineDataset(
        observations=np.zeros((2, 3)),
        next_observations=np.zeros((2, 3)),
        actions=np.zeros((2, 1)),
        rewards=np.zeros(2),
        terminated=np.zeros(2, bool),
        truncated=np.array([False, True]),
        episode_starts=[0],
        observation_space=spaces.Box(-1, 1, (3,)),
        action_space=spaces.Box(-1, 1, (1,)),
    )
    to_minari(dataset, "test/pendulum-v0", env="Pendulum-v1")
    file = home / "test" / "pendulum-v0" / "data" / "metadata.json"
    metadata = json.loads(file.read_text())
    del metadata["observation_space"], metadata["action_space"]
    file.write_text(json.dumps(metadata))
    read = from_minari("test/pendulum-v0")
    assert read.source["env_id"] == "Pendulum-v1"
    assert read.action_space.high.tolist() == [2]


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no Minari dataset 'no/such-v0'.*download=True"):
        from_minari("no/such-v0")
    with pytest.raises(FileNotFoundError, match="no Minari dataset"):
        from_minari(tmp_path)
