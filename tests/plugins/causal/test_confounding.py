"""The previous action in observations: what stands in the slot, and where."""

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env as gymnasium_check
from scipy import stats
from stable_baselines3.common.env_checker import check_env as sb3_check
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack

from sb3_ext import CausalBC, PreviousAction, RichStart, with_previous_action
from sb3_ext.offline import from_policy
from sb3_ext.plugins.causal.confounding import PREVIOUS_ACTION, Slot
from sb3_ext.plugins.causal.digits import draw_number
from sb3_ext.testing.environments import KitEnv, kit_env
from sb3_ext.testing.offline import kit_dataset


def made(mode: Any = "confounded", **options: Any) -> PreviousAction:
    one_hot = options.pop("one_hot", False)
    return PreviousAction(KitEnv(**options), mode, one_hot)


def pairs(env: PreviousAction, steps: int, seed: int = 0) -> tuple[list[Any], list[Any]]:
    """What was executed, and what the slot showed then."""
    executed, shown = [], []
    env.reset(seed=seed)
    env.action_space.seed(seed)
    for _ in range(steps):
        action = env.action_space.sample()
        observation, _, terminated, truncated, _ = env.step(action)
        executed.append(action)
        shown.append(observation[3:])
        if terminated or truncated:
            env.reset()
    return executed, shown


def test_confounded_shows_what_was_done() -> None:
    executed, shown = pairs(made(action="Discrete"), 50)
    assert [int(one[0]) for one in shown] == [int(one) for one in executed]
    executed, shown = pairs(made(action="Box"), 50)
    assert np.allclose(shown, executed)
    executed, shown = pairs(made(action="Discrete", one_hot=True), 50)
    assert [one.tolist() for one in shown] == [np.eye(3)[one].tolist() for one in executed]


def test_original_shows_noise_that_knows_nothing_of_it() -> None:
    """A chi-square test of independence, and that the noise is uniform."""
    executed, shown = pairs(made("original", action="Discrete"), 3_000)
    table = np.zeros((3, 3))
    np.add.at(table, (np.array(executed, int), np.array(shown, int)[:, 0]), 1)
    assert stats.chi2_contingency(table).pvalue > 1e-3
    assert stats.chisquare(table.sum(axis=0)).pvalue > 1e-3
    executed, shown = pairs(made("original", action="Box"), 1_000)
    assert abs(np.corrcoef(np.array(executed)[:, 0], np.array(shown)[:, 0])[0, 1]) < 0.1


@pytest.mark.parametrize("mode", ["confounded", "original"])
def test_the_first_slot_of_an_episode_is_random_and_seeded(mode: Any) -> None:
    env = made(mode, action="Discrete")
    firsts = [env.reset(seed=seed)[0] for seed in range(60)]
    again = [env.reset(seed=seed)[0] for seed in range(60)]
    assert np.array_equal(firsts, again)
    assert {int(one[3]) for one in firsts} == {0, 1, 2}


@pytest.mark.parametrize("mode", ["confounded", "original"])
@pytest.mark.parametrize("action", ["Box", "Discrete"])
@pytest.mark.parametrize("observation", ["Box", "Dict", "Image"])
def test_it_is_an_environment(mode: Any, action: str, observation: str) -> None:
    if (action, observation) == ("Box", "Image"):
        with pytest.raises(TypeError, match="the number of an action is drawn"):
            made(mode, action=action, observation=observation)
        return
    env = made(mode, action=action, observation=observation)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*(normalize|Box action space|render|not specif)"
        )
        warnings.filterwarnings("ignore", category=UserWarning)
        sb3_check(env)
        gymnasium_check(env, skip_render_check=True)
    env.reset(seed=0)
    seen = env.step(env.action_space.sample())[0]
    assert env.observation_space.contains(seen)


def test_dtype_and_bounds_are_extended() -> None:
    env = made(action="Box")
    space: Any = env.observation_space
    assert space.dtype == np.float32
    assert space.low.tolist() == [-5, -5, -5, -2, 0] and space.high.tolist() == [5, 5, 5, 1, 3]
    space = made(action="Discrete").observation_space
    assert (space.low[3], space.high[3]) == (0, 2)


def test_the_layout_is_declared_and_found() -> None:
    env = made(action="Discrete", one_hot=True)
    wanted = {"x0": [0], "x1": [1], "x2": [2], PREVIOUS_ACTION: [3, 4, 5]}
    assert env.factors == wanted
    model = CausalBC("MlpPolicy", DummyVecEnv([lambda: env]), seed=0, device="cpu")
    assert list(model.graph) == list(wanted)
    data = with_previous_action(kit_dataset(kit_env(action="Discrete")), one_hot=True)
    model = CausalBC("MlpPolicy", demonstrations=data, seed=0, device="cpu")
    assert model.factors == wanted
    of_dict = with_previous_action(kit_dataset(kit_env(observation="Dict")))
    model = CausalBC("MultiInputPolicy", demonstrations=of_dict, seed=0, device="cpu")
    assert list(model.graph) == ["a", "b", PREVIOUS_ACTION]


@pytest.mark.parametrize("vec", [DummyVecEnv, SubprocVecEnv])
def test_in_vectors_of_environments_each_has_a_slot_of_its_own(vec: Any) -> None:
    envs = vec([lambda: made(action="Discrete") for _ in range(2)])
    envs.seed(3)
    envs.reset()
    for actions in ([0, 2], [1, 0], [2, 2]):
        seen, *_ = envs.step(np.array(actions))
        assert seen[:, 3].tolist() == actions
    assert envs.get_attr("factors")[0][PREVIOUS_ACTION] == [3]
    envs.close()


# -- images ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(84, 84, 1), (3, 36, 40)])
def test_numbers_in_images_differ_and_leave_the_rest_alone(shape: Any) -> None:
    pictures = []
    for number in range(18):
        picture = np.full(shape, 77, np.uint8)
        draw_number(picture, number)
        assert set(np.unique(picture)) == {0, 77, 255}
        pictures.append(picture)
    assert len({one.tobytes() for one in pictures}) == 18
    touched = np.any([one != 77 for one in pictures], axis=0)
    assert touched.mean() < 0.1
    again = pictures[17].copy()
    draw_number(again, 3)  # nothing is left of the two digits
    assert np.array_equal(again, pictures[3])


def test_an_eight_is_an_eight() -> None:
    picture = np.zeros((40, 40, 1), np.uint8)
    draw_number(picture, 8)
    white = np.argwhere(picture[:, :, 0] == 255)
    (top, left), (bottom, right) = white.min(axis=0), white.max(axis=0)
    bits = picture[top : bottom + 1, left : right + 1, 0] > 0
    assert ["".join(".#"[int(bit)] for bit in row) for row in bits] == [
        "###",
        "#.#",
        "###",
        "#.#",
        "###",
    ]


def test_the_previous_action_is_drawn_before_frames_are_stacked() -> None:
    env = made(action="Discrete", observation="Image")
    env.reset(seed=0)
    seen, *_ = env.step(2)
    expected = np.array(env.env.unwrapped._picture())
    draw_number(expected, 2)
    assert np.array_equal(seen, expected)
    stacked = VecFrameStack(DummyVecEnv([lambda: made(action="Discrete", observation="Image")]), 2)
    stacked.seed(0)
    stacked.reset()
    stacked.step(np.array([1]))
    frames, *_ = stacked.step(np.array([2]))
    assert not np.array_equal(frames[0, ..., 0], frames[0, ..., 1])
    small = spaces.Box(0, 255, (12, 12, 1), np.uint8)
    shrunk = gym.wrappers.TransformObservation(KitEnv("Discrete", "Image"), lambda x: x, small)
    with pytest.raises(ValueError, match="at least 20 pixels a side"):
        PreviousAction(shrunk)


# -- datasets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["Box", "Discrete"])
def test_a_dataset_is_that_of_the_wrapped_environment(action: str) -> None:
    """The slot holds the action before, within an episode; and the space is the wrapper's."""
    inner = kit_dataset(kit_env(action=action))
    data = with_previous_action(inner, "confounded", first_step="random")
    slots = np.asarray(data.observations)[:, 3:]
    done = inner.actions.reshape(len(inner), -1)
    starts = np.zeros(len(inner), bool)
    starts[inner.episode_starts] = True
    assert np.allclose(slots[1:][~starts[1:]], done[:-1][~starts[1:]])
    assert np.allclose(np.asarray(data.next_observations)[:, 3:], done)
    assert data.observation_space == made(action=action).observation_space


def test_what_an_expert_does_in_the_wrapper_is_what_the_function_makes_of_it() -> None:
    """MountainCar's rule, which does not look at the slot: the same rows but for first slots."""

    def rule(seen: Any) -> Any:
        return np.where(seen[:, 1] < 0, 0, 2)

    inner = from_policy(rule, gym.make("MountainCar-v0"), n_episodes=2, seed=0)
    wrapped = from_policy(rule, PreviousAction(gym.make("MountainCar-v0")), n_episodes=2, seed=0)
    data = with_previous_action(inner, first_step="random")
    later = np.ones(len(data), bool)
    later[data.episode_starts] = False
    first = int(data.lengths()[0])  # a slot more is drawn in each reset: later episodes differ
    rows = np.arange(len(data))[later][: first - 1]
    one, other = (np.asarray(each.observations)[rows] for each in (data, wrapped))
    assert np.allclose(one, other)


def test_the_noise_of_a_dataset_is_consistent_and_independent() -> None:
    data = with_previous_action(
        kit_dataset(kit_env(action="Discrete"), n=3_000), "original", seed=5
    )
    slots, following = (
        np.asarray(part)[:, 3] for part in (data.observations, data.next_observations)
    )
    inside = np.ones(len(data), bool)
    inside[data.episode_starts] = False
    assert np.array_equal(slots[1:][inside[1:]], following[:-1][inside[1:]])
    table = np.zeros((3, 3))
    np.add.at(table, (data.actions, following.astype(int)), 1)
    assert stats.chi2_contingency(table).pvalue > 1e-3
    same = with_previous_action(
        kit_dataset(kit_env(action="Discrete"), n=3_000), "original", seed=5
    )
    assert np.array_equal(slots, np.asarray(same.observations)[:, 3])


def test_first_steps_are_left_out_unless_asked_for() -> None:
    inner = kit_dataset(kit_env(action="Discrete"))
    whole, cut = (with_previous_action(inner, first_step=how) for how in ("random", "drop"))
    later = np.ones(len(inner), bool)
    later[inner.episode_starts] = False
    assert len(cut) == len(inner) - inner.n_episodes
    for name in ("observations", "next_observations", "actions", "rewards", "terminated"):
        assert np.array_equal(getattr(cut, name), getattr(whole, name)[later])
    assert cut.lengths().tolist() == [one - 1 for one in inner.lengths().tolist() if one > 1]
    with pytest.raises(ValueError, match="no episode has a second step"):
        with_previous_action(kit_dataset(kit_env(), n=1))
    with pytest.raises(ValueError, match="'drop' or 'random'"):
        with_previous_action(inner, first_step="keep")  # type: ignore[arg-type]


def test_images_of_a_dataset_show_numbers() -> None:
    inner = kit_dataset(kit_env(action="Discrete", observation="Image"), n=6)
    data = with_previous_action(inner, first_step="random")
    expected = np.array(np.asarray(inner.observations)[1])
    draw_number(expected, int(inner.actions[0]))
    assert np.array_equal(np.asarray(data.observations)[1], expected)


def test_rich_starts_are_those_of_the_paper() -> None:
    env = RichStart(gym.make("MountainCar-v0"))
    states = np.array([env.reset(seed=seed)[0] for seed in range(300)])
    assert states[:, 0].min() < -0.95 and states[:, 0].max() > 0.45
    assert (np.abs(states[:, 1]) <= 0.0701).all() and states[:, 1].std() > 0.03
    assert np.allclose(env.step(1)[0][0], states[-1, 0] + env.unwrapped.state[1])  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="for MountainCar"):
        RichStart(KitEnv()).reset()


def test_commands_name_it_with_the_environment_inside() -> None:
    name = "sb3_ext.plugins.causal.confounding:PreviousAction-v0"
    env = gym.make(name, env_id="MountainCar-v0", mode="original", one_hot=True)
    assert env.observation_space.shape == (5,)
    assert env.get_wrapper_attr("mode") == "original"


def test_what_has_no_slot_is_refused() -> None:
    with pytest.raises(ValueError, match="one of 'confounded', 'original', got 'noise'"):
        made("noise")
    with pytest.raises(ValueError, match="got 'noise'"):
        with_previous_action(kit_dataset(kit_env()), "noise")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="if Discrete or Box"):
        made(action="MultiDiscrete")
    with pytest.raises(TypeError, match="flatten it"):
        Slot(spaces.Box(-1, 1, (2, 2), np.float32), spaces.Discrete(2))
