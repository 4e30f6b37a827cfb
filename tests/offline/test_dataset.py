"""The dataset itself: what it refuses, what it derives, and its file."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from sb3_ext.offline import OfflineDataset, episode_starts_after
from tests.offline.worlds import ACTIONS, EPISODES, OBSERVATIONS, SPACES, assert_is, ends, steps


def arrays(**changes):
    """The three episodes as flat arrays, with changes."""
    joined = {
        "observations": np.concatenate([one.observations[:-1] for one in EPISODES]),
        "next_observations": np.concatenate([one.observations[1:] for one in EPISODES]),
        "actions": np.concatenate([one.actions for one in EPISODES]),
        "rewards": np.concatenate([one.rewards for one in EPISODES]),
        "terminated": np.concatenate([one.flags("terminated") for one in EPISODES]),
        "truncated": np.concatenate([one.flags("truncated") for one in EPISODES]),
        "episode_starts": np.array([0, 3, 8]),
        "observation_space": OBSERVATIONS,
        "action_space": ACTIONS,
        "source": {"format": "test"},
    }
    return joined | changes


def make(**changes):
    return OfflineDataset(**arrays(**changes))


def of_discrete(**changes):
    given = {
        "observations": np.array([0, 1, 2, 0]),
        "next_observations": np.array([1, 2, 2, 1]),
        "actions": np.array([5, 6, 7, 5]),
        "rewards": np.ones(4),
        "terminated": np.array([False, False, True, False]),
        "truncated": np.array([False, False, False, True]),
        "episode_starts": [0, 3],
        "observation_space": spaces.Discrete(3),
        "action_space": spaces.Discrete(3, start=5),
    }
    return OfflineDataset(**given | changes)


def test_a_dataset_knows_its_episodes():
    dataset = make()
    assert len(dataset) == 12
    assert dataset.n_episodes == 3
    assert list(dataset.episodes()) == [slice(0, 3), slice(3, 8), slice(8, 12)]
    assert dataset.lengths().tolist() == [3, 5, 4]
    # 0+1+2; 5*10 + 0+1+2+3+4; 4*20 + 0+1+2+3
    assert dataset.returns().tolist() == [3, 60, 86]
    assert_is(
        dataset, steps(*EPISODES), ends("terminated", *EPISODES), ends("truncated", *EPISODES)
    )
    assert episode_starts_after(dataset.terminated | dataset.truncated).tolist() == [0, 3, 8]


def test_floats_are_float32_and_taken_without_a_copy():
    given = arrays()
    dataset = OfflineDataset(**given)
    assert dataset.rewards.dtype == np.float32
    assert dataset.observations is given["observations"]
    assert make(observations=given["observations"].astype(float)).observations.dtype == np.float32


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rewards": None}, "rewards are missing"),
        ({"rewards": np.zeros(0)}, "empty"),
        ({"rewards": np.ones((12, 1))}, r"rewards must have shape \[12\].*reshape"),
        ({"rewards": np.r_[np.ones(11), np.nan]}, "1 of 12 .*first transition 11"),
        ({"observations": np.full((12, 2), np.inf)}, "observations must be finite: 12 of 12"),
        ({"observations": np.ones((12, 3))}, r"shape \[N, 2\].*got \[12, 3\]"),
        ({"observations": np.ones((13, 2))}, r"12 rewards, but 13 observations.*\[:-1\]"),
        ({"observations": {"a": np.ones((12, 2))}}, "are a dict"),
        ({"next_observations": np.ones((11, 2))}, "11 next_observations"),
        ({"actions": np.ones((12, 1))}, r"actions must have shape \[N, 2\]"),
        (
            {"actions": np.full((12, 2), 1.5)},
            r"12 of 12 .*transition 0, dimension \[1\]: 1.5 in \[0",
        ),
        ({"actions": np.full((12, 2), "x")}, "array of numbers"),
        ({"terminated": np.full(12, 2)}, "terminated must be booleans"),
        ({"truncated": np.zeros((12, 1), bool)}, r"truncated must have shape \[12\]"),
        ({"episode_starts": [1, 3, 8]}, "first episode starts at transition 0, got 1"),
        ({"episode_starts": [0, 8, 3]}, "must ascend"),
        ({"episode_starts": [0, 3, 3, 8]}, "must ascend"),
        ({"episode_starts": [0, 3, 8, 12]}, "up to 12, but there are 12"),
        ({"episode_starts": [0, 8]}, "transition 2 ends an episode.*start at 3"),
        ({"episode_starts": []}, "whole numbers"),
        ({"source": {"x": np.zeros(1)}}, "plain JSON"),
        ({"behavior_log_prob": np.full(12, -np.inf)}, "behavior_log_prob must be finite"),
        ({"action_space": spaces.Text(3)}, "action_space must be"),
        ({"observation_space": spaces.Tuple([OBSERVATIONS])}, "no Tuple"),
        (
            {"observation_space": spaces.Dict({"a": spaces.Dict({"b": OBSERVATIONS})})},
            "Dict within",
        ),
        ({"observation_space": spaces.Box(0, 255, (2,), np.uint8)}, "must be integers"),
    ],
)
def test_what_cannot_be_is_refused_in_words(change, told):
    with pytest.raises((ValueError, TypeError), match=told):
        make(**change)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"actions": np.array([0, 1, 2, 0])}, "5 to 7; found 0 to 2"),
        ({"actions": np.array([5.0, 6, 7, 5])}, "must be integers"),
        ({"actions": np.array([[5], [6], [7], [5]])}, r"actions.reshape\(-1\)"),
        ({"observations": np.array([0, 1, 3, 0])}, "found 0 to 3"),
    ],
)
def test_discrete_values_lie_in_their_space(change, told):
    assert of_discrete().actions.dtype == np.int64
    with pytest.raises((ValueError, TypeError), match=told):
        of_discrete(**change)


def test_an_action_over_the_bound_by_rounding_is_set_on_it():
    given = arrays()
    over = given["actions"].copy()
    over[4] = [2.000001, 1.0000001]
    dataset = make(actions=over)
    assert dataset.actions[4].tolist() == [2, 1]
    assert over[4, 0] > 2  # the caller's array is left alone
    over[4, 0] = 2.001
    with pytest.raises(ValueError, match=r"1 of 12 .*transition 4"):
        make(actions=over)


def test_more_kinds_of_actions():
    spaces_ = [
        (spaces.MultiDiscrete([3, 2]), np.array([[2, 1]] * 4), np.array([[2, 2]] * 4)),
        (spaces.MultiBinary(3), np.array([[0, 1, 1]] * 4), np.array([[0, 1, 2]] * 4)),
    ]
    for space, good, bad in spaces_:
        assert (of_discrete(action_space=space, actions=good).actions == good).all()
        with pytest.raises(ValueError, match="found"):
            of_discrete(action_space=space, actions=bad)


def of_dicts():
    images = np.arange(4 * 3 * 36 * 36).reshape(4, 3, 36, 36).astype(np.uint8)
    space = spaces.Dict(
        {"x": spaces.Box(-1, 1, (2,)), "image": spaces.Box(0, 255, (3, 36, 36), np.uint8)}
    )
    seen = {"image": images, "x": np.linspace(-1, 1, 8).reshape(4, 2)}
    follow = {key: np.roll(values, -1, axis=0) for key, values in seen.items()}
    return of_discrete(observation_space=space, observations=seen, next_observations=follow)


def test_dict_and_image_observations():
    dataset = of_dicts()
    assert list(dataset.observations) == ["image", "x"]  # Gymnasium sorts the keys
    assert dataset.observations["image"].dtype == np.uint8
    with pytest.raises(ValueError, match=r"keys of the Dict space, \['image', 'x'\], got \['x'\]"):
        of_discrete(
            observation_space=dataset.observation_space,
            observations={"x": np.zeros((4, 2))},
            next_observations=dataset.observations,
        )


def test_subset_takes_whole_episodes_in_order():
    dataset = make(behavior_log_prob=np.arange(12.0))
    chosen = dataset.subset(episodes=[2, 0])
    assert_is(chosen, steps(EPISODES[2], EPISODES[0]), {(2, 3), (0, 2)})
    assert chosen.episode_starts.tolist() == [0, 4]
    assert chosen.behavior_log_prob.tolist() == [8, 9, 10, 11, 0, 1, 2]
    tail = dataset.subset(episodes=slice(1, None))
    assert_is(tail, steps(*EPISODES[1:]), {(2, 3)}, {(1, 4)})
    assert np.shares_memory(tail.observations, dataset.observations)
    assert dataset.subset(episodes=np.array([1])).lengths().tolist() == [5]


@pytest.mark.parametrize(
    ("episodes", "error"), [([], ValueError), ([3], IndexError), ([0, 0], ValueError)]
)
def test_subset_refuses_what_is_not_there(episodes, error):
    with pytest.raises(error, match="episode"):
        make().subset(episodes=episodes)


def test_concatenate_keeps_episodes_apart():
    dataset = make(behavior_log_prob=np.zeros(12))
    both = OfflineDataset.concatenate([dataset.subset(episodes=[1]), dataset])
    assert both.episode_starts.tolist() == [0, 5, 8, 13]
    assert both.returns().tolist() == [60, 3, 60, 86]
    assert both.behavior_log_prob is not None
    assert OfflineDataset.concatenate([dataset, make()]).behavior_log_prob is None
    with pytest.raises(ValueError, match="another dataset do not fit"):
        OfflineDataset.concatenate([make(), of_discrete()])


def test_what_fits_an_environment():
    dataset = make()
    dataset.require_fits(SPACES)
    wide = spaces.Box(-np.inf, np.inf, (2,), np.float64)  # a float is a float
    dataset.require_fits(
        (wide, spaces.Box(ACTIONS.low.astype(float), ACTIONS.high.astype(float), dtype=np.float64))
    )
    dataset.require_fits((spaces.Box(-100, 100, (2,)), ACTIONS))  # infinite: unknown


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ((spaces.Box(-1, 1, (3,)), ACTIONS), r"observations: shape \[2\] in .*\[3\] in the env"),
        ((spaces.Box(0, 255, (2,), np.uint8), ACTIONS), "float32 in the dataset, uint8 in"),
        ((OBSERVATIONS, spaces.Discrete(3)), "actions: the dataset has Box, the environment Discr"),
        ((OBSERVATIONS, spaces.Box(-2, 2, (2,))), r"low differs in 1 of 2 .*\[1\]: 0 in .*-2 in"),
        ((OBSERVATIONS, spaces.Box(-np.inf, np.inf, (2,))), "low differs in 2 of 2"),
    ],
)
def test_what_does_not_fit_is_said(space, told):
    with pytest.raises(ValueError, match=told):
        make().require_fits(space)


def test_transposed_images_and_other_keys_are_said():
    image, other = (spaces.Box(0, 255, shape, np.uint8) for shape in [(3, 36, 36), (36, 36, 3)])
    seen, actions = np.zeros((4, 3, 36, 36), np.uint8), spaces.Discrete(3, start=5)
    images = of_discrete(observation_space=image, observations=seen, next_observations=seen)
    with pytest.raises(ValueError, match="VecTransposeImage"):
        images.require_fits((other, actions))
    fewer = spaces.Dict({"x": spaces.Box(-1, 1, (2,))})
    with pytest.raises(ValueError, match=r"keys \['image', 'x'\], the environment \['x'\]"):
        of_dicts().require_fits((fewer, actions))


def test_an_environment_a_vec_env_or_a_model_will_do():
    env = gym.make("Pendulum-v1")
    with pytest.raises(ValueError, match=r"shape \[2\] in the dataset, \[3\] in the environment"):
        make().require_fits(env)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dataset", [make(behavior_log_prob=-np.ones(12)), of_dicts()])
def test_what_is_saved_comes_back(tmp_path, dataset, compressed):
    path = dataset.save(tmp_path / "new" / "data", compressed=compressed)
    assert path.endswith("data.npz")
    assert [one.name for one in (tmp_path / "new").iterdir()] == ["data.npz"]
    again = OfflineDataset.load(tmp_path / "new" / "data")
    assert again.observation_space == dataset.observation_space
    assert again.action_space == dataset.action_space
    assert again.source == dataset.source
    for name, held in vars(dataset).items():
        found = getattr(again, name)
        if isinstance(held, np.ndarray):
            assert found.dtype == held.dtype
            assert (found == held).all()
        if isinstance(held, dict) and "observations" in name:
            assert all((found[key] == held[key]).all() for key in held)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(np.array([-np.inf, -1.25]), np.array([np.inf, 0.1]), dtype=np.float64),
        spaces.Box(0, 255, (3, 4), np.uint8),
        spaces.Box(-(2**62), 2**62, (1,), np.int64),
        spaces.Discrete(4, start=-2),
        spaces.MultiDiscrete([[2, 3], [4, 5]]),
        spaces.MultiBinary(4),
        spaces.MultiBinary([2, 3]),
        spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Box(-1, 1, (2,))}),
    ],
)
def test_a_space_survives_json(space):
    import json

    from sb3_ext.offline.spaces import space_from_json, space_to_json

    assert space_from_json(json.loads(json.dumps(space_to_json(space)))) == space


def test_other_files_are_refused(tmp_path):
    other = tmp_path / "other.npz"
    np.savez(other, a=np.zeros(2))
    with pytest.raises(ValueError, match="not a dataset that"):
        OfflineDataset.load(other)
    other.write_text("no zip at all")
    with pytest.raises(ValueError, match=r"not a dataset|pickle"):
        OfflineDataset.load(other)
    whole = (tmp_path / "whole.npz", make().save(tmp_path / "whole"))[0].read_bytes()
    other.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a dataset"):
        OfflineDataset.load(other)
    with pytest.raises(FileNotFoundError):
        OfflineDataset.load(tmp_path / "gone")


def test_the_report_counts():
    given = arrays()
    actions = given["actions"].copy()
    actions[:3] = [[2.0, 0.5], [-2.0, 0.9995], [1.99, 0.5]]  # 1.99 is 0.0025 of the range off
    truncated = given["truncated"].copy()
    truncated[7] = False  # the second episode ends neither way
    dataset = make(actions=actions, truncated=truncated)
    report = dataset.report()
    assert (report.transitions, report.episodes) == (12, 3)
    assert (report.returns.min, report.returns.max) == (3, 86)
    assert report.returns.mean == pytest.approx(149 / 3)
    assert (report.lengths.min, report.lengths.mean, report.lengths.max) == (3, 4, 5)
    assert report.terminated == pytest.approx(2 / 12)
    assert report.truncated == 0
    assert report.unfinished == pytest.approx(1 / 3)
    # The three above, and (e, t) = (2, 2), whose eighth is (3 * 2 + 2) % 8 = 0.
    assert report.saturation == pytest.approx((3 / 12, 2 / 12))
    assert report.duplicates == 0
    assert report.megabytes == pytest.approx(dataset.nbytes / 1e6)
    text = str(report)
    assert "12 transitions in 3 episodes" in text
    assert "33.3 % of episodes end neither way" in text


def test_the_report_sees_duplicates_and_shares():
    dataset = of_discrete()
    assert dataset.report().action_shares == (0.5, 0.25, 0.25)
    twice = OfflineDataset.concatenate([dataset, dataset])
    # Of the four the last is the first again; of the eight, three differ.
    assert dataset.report().duplicates == 1 / 4
    assert twice.report().duplicates == 5 / 8
    assert make().report().duplicates == 0
    # The same up to one bit is no duplicate.
    rewards = np.r_[dataset.rewards, np.nextafter(dataset.rewards, 2)]
    ends_ = {"terminated": twice.terminated, "truncated": twice.truncated}
    near = of_discrete(
        observations=twice.observations,
        next_observations=twice.next_observations,
        actions=twice.actions,
        rewards=rewards,
        episode_starts=twice.episode_starts,
        **ends_,
    )
    assert near.report().duplicates == 2 / 8
