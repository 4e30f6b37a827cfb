"""Episodes of environments that hide their state are played again from their beginnings."""

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

import sb3_ext
from sb3_ext.resume import ResumableEnv, episodes
from sb3_ext.resume.decoder import Decoder
from sb3_ext.resume.encoder import Encoder
from sb3_ext.resume.tree import MISSING
from tests.cut_runs import cut_and_resume, require_same
from tests.environments import Drift

PLAYED = "played again from their beginnings, since .*noise holds a list_iterator"


class Hidden(Drift):
    """Its noise of an episode comes from an iterator, whose state nobody can read."""

    def reset(self, **kwargs: Any) -> Any:
        made = super().reset(**kwargs)
        self.noise = iter(self.np_random.normal(size=100).tolist())
        return made

    def step(self, action: np.ndarray) -> Any:
        return super().step(action + np.float32(next(self.noise) / 10))


class Remembering(Hidden):
    """A reset leaves something of earlier episodes."""

    resets = iter(())

    def __init__(self) -> None:
        super().__init__()
        self.resets = iter(np.linspace(-1, 1, 50).tolist())

    def reset(self, **kwargs: Any) -> Any:
        made = super().reset(**kwargs)
        self.noise = iter((np.ones(100) * next(self.resets)).tolist())
        return made


class Failing(Hidden):
    """Counts over all processes' episodes by a generator, and fails when played again."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = iter([])

    def step(self, action: np.ndarray) -> Any:
        if self.t == 3 and self.fails:
            raise RuntimeError("the simulator is gone")
        return super().step(action)

    fails = False


def sac(env: Any) -> Any:
    return sb3_ext.SAC(
        *("MlpPolicy", env),
        policy_kwargs={"net_arch": [8]},
        **{"learning_starts": 20, "buffer_size": 500, "batch_size": 16, "seed": 3},
    )


def dummy(*envs: Any) -> DummyVecEnv:
    return DummyVecEnv([lambda env=env: env for env in envs])


MAKE = {
    "one": lambda: dummy(ResumableEnv(Monitor(Hidden()))),
    "monitor outside": lambda: dummy(Monitor(ResumableEnv(Hidden()))),
    "three": lambda: dummy(*(ResumableEnv(Monitor(Hidden())) for _ in range(3))),
    "workers": lambda: SubprocVecEnv(
        [lambda: ResumableEnv(Monitor(Hidden())) for _ in range(2)], start_method="fork"
    ),
    "one of two": lambda: dummy(Monitor(Drift()), ResumableEnv(Monitor(Hidden()))),
}


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_an_episode_played_again_goes_on_as_if_nothing_had_happened(tmp_path, kind):
    with pytest.warns(UserWarning, match=PLAYED):
        runs = cut_and_resume(lambda: sac(MAKE[kind]()), tmp_path, total=120, cut=107, every=30)
    require_same(*runs)


def test_what_is_played_again_goes_on_after_a_second_stop(tmp_path):
    def make():
        return sac(MAKE["one"]())

    with pytest.warns(UserWarning, match=PLAYED):
        cut_and_resume(make, tmp_path, total=60, cut=50, every=13)
    with pytest.warns(UserWarning, match=PLAYED):
        runs = cut_and_resume(make, tmp_path, total=120, cut=101, every=13)
    require_same(*runs)


@pytest.mark.parametrize("kind", [Remembering, Failing])
@pytest.mark.parametrize("workers", [False, True])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_an_episode_that_comes_out_otherwise_is_told(tmp_path, kind, workers, monkeypatch):
    def make():
        if workers:
            return sac(SubprocVecEnv([lambda: ResumableEnv(kind())], start_method="fork"))
        return sac(dummy(ResumableEnv(Monitor(kind()))))

    real = episodes.Episode.replay

    def replay(self: Any, env: Any, record: Any) -> None:
        monkeypatch.setattr(Failing, "fails", True)
        try:
            real(self, env, record)
        finally:
            monkeypatch.setattr(Failing, "fails", False)

    monkeypatch.setattr(episodes.Episode, "replay", replay)
    told = "another observation" if kind is Remembering else "the simulator is gone"
    with pytest.warns(
        UserWarning, match=f"step 90 with new episodes.*holds a list_iterator .*: .*{told}"
    ):
        _, model, *_ = cut_and_resume(make, tmp_path, total=120, cut=107, every=30)
    assert model.num_timesteps == 120
    model.get_env().close()


def test_a_long_episode_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(episodes, "LONGEST", 5)
    model = sac(MAKE["one"]())
    model.learn(13)
    episode = model.get_env().envs[0]._episode
    assert episode.record() is None
    model.get_env().reset()
    assert len(episode.record()["actions"]) == 0


def test_readable_environments_are_not_played_again(tmp_path):
    def make():
        return sac(dummy(ResumableEnv(Monitor(Drift()))))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        require_same(*cut_and_resume(make, tmp_path, total=100, cut=95, every=30))


def test_an_evaluation_environment_that_hides_its_state_does_no_harm(tmp_path):
    found = []

    def extra():
        env = dummy(Monitor(Hidden()))
        env.seed(5)
        evaluation = EvalCallback(env, eval_freq=25, n_eval_episodes=2, verbose=0)
        found.append(evaluation)
        return [evaluation]

    runs = cut_and_resume(
        lambda: sac(dummy(Monitor(Drift()))), tmp_path, total=120, cut=107, every=30, extra=extra
    )
    require_same(*runs)
    whole, _, resumed = found
    assert (whole.best_mean_reward, whole.n_calls) == (resumed.best_mean_reward, resumed.n_calls)
    assert whole.last_mean_reward == resumed.last_mean_reward


@pytest.mark.parametrize("vec_env", [DummyVecEnv, SubprocVecEnv, sb3_ext.PackedSubprocVecEnv])
@pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning")
def test_lunar_lander_lands_where_it_would_have(tmp_path, vec_env):
    """Box2D is C code, and its world is made anew at each reset."""

    def make():
        env = make_vec_env(
            "LunarLander-v3", 2, seed=3, vec_env_cls=vec_env, wrapper_class=ResumableEnv
        )
        options = {"policy_kwargs": {"net_arch": [16]}, "learning_starts": 50, "seed": 1}
        return sb3.DQN("MlpPolicy", env, **options)

    with pytest.warns(UserWarning, match="played again .* LunarLander.*SwigPyObject"):
        runs = cut_and_resume(make, tmp_path, total=500, cut=457, every=100)
    require_same(*runs)


class Unspeakable:
    """Its attributes cannot even be listed."""

    @property
    def __dict__(self):
        raise RuntimeError("none of your business")


def test_a_strangers_attribute_can_do_no_harm():
    encoder = Encoder()
    assert encoder.encode({"a": Unspeakable(), "b": 2}, "it")["dict"] == [["b", 2]]
    assert encoder.opaque == ["it['a'] holds a Unspeakable"]


def test_what_was_dropped_is_not_referred_to():
    shared = np.arange(3.0)
    encoder = Encoder()
    # The tuple is dropped for its function, and the array in it with it.
    node = encoder.encode({"a": (shared, print), "b": [shared, int], "c": shared}, "it")
    held = {"a": (np.zeros(3), print), "b": [np.zeros(3), int], "c": np.zeros(3)}
    Decoder(encoder.arrays).restore(node, held)
    assert held["c"].tolist() == [0.0, 1.0, 2.0]
    assert encoder.encode((print,), "it") is MISSING


def test_spaces_of_any_kind_of_action_are_kept(tmp_path):
    class Odd(gym.Env):
        observation_space = gym.spaces.Discrete(3)
        action_space = gym.spaces.Dict({"a": gym.spaces.Discrete(2)})

        def reset(self, **_: Any) -> Any:
            return 0, {}

        def step(self, action: Any) -> Any:
            return 0, 0.0, False, False, {}

    env = ResumableEnv(Odd())
    env.reset()
    action = {"a": np.array([1])}
    env.step(action)
    action["a"][0] = 7  # the caller's own, and used again
    assert env._episode.record()["actions"][0]["a"].tolist() == [1]
