"""A film shows an episode of the policy, in an environment of its own."""

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)

from sb3_ext.tracking import Track
from sb3_ext.tracking.video import EpisodeRecorder
from tests.tracking.runs import history, records, sac


class Counting(gym.Env):
    """The observation is the step; the picture's grey tells the step; ends after ten steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 60}  # noqa: RUF012
    observation_space = gym.spaces.Box(-100, 100, (1,), dtype=np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, render_mode=None, image=False):
        self.render_mode, self.image, self.seeds = render_mode, image, []
        if image:
            self.observation_space = gym.spaces.Box(0, 255, (36, 36, 3), dtype=np.uint8)

    def _observe(self):
        return np.full(self.observation_space.shape, self.now, dtype=self.observation_space.dtype)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.now = 0
        return self._observe(), {}

    def step(self, action):
        self.now += 1
        return self._observe(), 0.5, self.now == 10, False, {}

    def render(self):
        return np.full((8, 8, 3), 20 * self.now, dtype=np.uint8)


def frames(path):
    with Image.open(path) as film:
        for number in range(film.n_frames):
            film.seek(number)
            yield int(np.asarray(film.convert("RGB")).mean().round()), film.info["duration"]


def ppo(env, policy="MlpPolicy"):
    return PPO(policy, env, n_steps=8, batch_size=8, n_epochs=1, seed=3)


def test_the_film_is_the_episode(tmp_path):
    model = ppo(make_vec_env(Counting, 2))
    made = []

    def make_env():
        made.append(Counting(render_mode="rgb_array"))
        return made[-1]

    recorder = EpisodeRecorder(model, tmp_path / "videos", make_env)
    film = recorder.record(7)
    assert (film.path.name, film.reward, film.length) == ("step-0000000007.gif", 5.0, 10)
    shown = list(frames(film.path))
    # Of 60 frames a second every second one is kept; a GIF counts in hundredths of a second.
    assert [grey for grey, _ in shown] == pytest.approx([0, 40, 80, 120, 160], abs=4)
    assert {duration for _, duration in shown} == {30}
    recorder.record(8)
    starts = [seed for seed in made[0].seeds if seed is not None]
    assert starts == [3, 3, 3], "each film starts alike"
    recorder.close()
    short = EpisodeRecorder(model, tmp_path, make_env, max_steps=4).record(1)
    assert (short.reward, short.length) == (2.0, 4)


def test_every_so_many_steps_also_in_wandb(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    model = ppo(make_vec_env(Counting, 2))
    track = Track(
        tmp_path,
        wandb=True,
        video_every=20,
        video_env=lambda: Counting(render_mode="rgb_array"),
    )
    model.learn(60, callback=track)
    names = sorted(path.name for path in (tmp_path / "videos").iterdir())
    assert names == [f"step-{step:010d}.gif" for step in (20, 40, 60)]
    model.learn(20, callback=track, reset_num_timesteps=False)
    assert len(list((tmp_path / "videos").iterdir())) == 4
    rows = [row for run in records(tmp_path) for row in history(run) if "video/reward" in row]
    assert [row["global_step"] for row in rows] == [20, 40, 60, 80]
    assert rows[0]["video/reward"] == 5.0
    assert rows[0]["video/episode._type"] == "video-file"
    stored = min(tmp_path.glob("wandb/offline-run-*")) / "files" / rows[0]["video/episode.path"]
    assert stored.read_bytes() == (tmp_path / "videos" / names[0]).read_bytes()


def test_the_wrappers_of_the_training_are_there_again(tmp_path):
    bare = DummyVecEnv([lambda: gym.make("CartPole-v1")] * 2)
    env = VecMonitor(VecFrameStack(VecNormalize(bare), 3))
    model = ppo(env)
    model.learn(16)
    recorder = EpisodeRecorder(model, tmp_path)
    wrappers = []
    made = recorder.env
    while isinstance(made, VecEnvWrapper):
        wrappers.append(type(made).__name__)
        made = made.venv
    assert wrappers == ["VecFrameStack", "VecNormalize"]
    before = model.get_vec_normalize_env().obs_rms.mean.copy()
    assert recorder.record(1).length > 0
    normalised = recorder.env.venv
    assert (normalised.obs_rms.mean == before).all()
    assert (model.get_vec_normalize_env().obs_rms.mean == before).all(), "filming learns nothing"
    model.learn(16)
    recorder.record(2)
    assert (normalised.obs_rms.mean == model.get_vec_normalize_env().obs_rms.mean).all()
    assert (normalised.obs_rms.mean != before).any()


def test_images_and_a_vec_env_of_the_user(tmp_path):
    def make(**options):
        return DummyVecEnv([lambda: Counting(image=True, **options)])

    model = DQN("CnnPolicy", make(), buffer_size=10, seed=0)
    recorder = EpisodeRecorder(model, tmp_path, lambda: make(render_mode="rgb_array"))
    assert recorder.record(1).length == 10


class Opaque(gym.Wrapper):
    """Keeps no arguments."""


class Strange(VecEnvWrapper):
    """Nobody knows what this does."""

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        return self.venv.step_wait()


def refused(tmp_path, model, make_env=None):
    with pytest.raises(ValueError) as told:  # noqa: PT011
        model.learn(10, callback=Track(tmp_path / "run", video_every=5, video_env=make_env))
    assert not (tmp_path / "run").exists()
    return str(told.value)


def test_what_cannot_be_filmed_is_refused_before_training(tmp_path):
    opaque = make_vec_env("CartPole-v1", 1, wrapper_class=Opaque)
    sentence = refused(tmp_path, ppo(opaque))
    assert "CartPole-v1 with its wrapper Opaque cannot be made again" in sentence
    assert "pass video_env=" in sentence
    assert "make Strange again" in refused(tmp_path, ppo(Strange(make_vec_env("CartPole-v1", 1))))
    assert "that is not registered" in refused(tmp_path, ppo(make_vec_env(Counting, 1)))
    assert "render_mode is None" in refused(
        tmp_path, ppo(make_vec_env("CartPole-v1", 1)), lambda: gym.make("CartPole-v1")
    )
    sentence = refused(
        tmp_path,
        ppo(make_vec_env("CartPole-v1", 1)),
        lambda: gym.make("Acrobot-v1", render_mode="rgb_array"),
    )
    assert "must be a single one that gives Box" in sentence
    assert "VecNormalize" in refused(
        tmp_path,
        ppo(VecNormalize(make_vec_env("CartPole-v1", 1))),
        lambda: make_vec_env("CartPole-v1", 1, env_kwargs={"render_mode": "rgb_array"}),
    )


def test_without_a_display_the_sentence_names_the_variable(tmp_path):
    class Dark(Counting):
        def render(self):
            raise RuntimeError("an OpenGL platform library has not been loaded")

    sentence = refused(
        tmp_path, ppo(make_vec_env(Counting, 1)), lambda: Dark(render_mode="rgb_array")
    )
    assert "OpenGL platform library" in sentence
    assert "MUJOCO_GL" in sentence


def test_a_film_that_fails_later_does_not_end_the_training(tmp_path):
    class Tearing(Counting):
        def render(self):
            if self.now > 3:
                raise RuntimeError("torn")
            return super().render()

    model = ppo(make_vec_env(Counting, 1))
    track = Track(tmp_path, video_every=10, video_env=lambda: Tearing(render_mode="rgb_array"))
    with pytest.warns(UserWarning, match="no video at step 10: torn"):
        model.learn(16, callback=track)
    assert model.num_timesteps == 16


def test_recorded_wrappers_are_made_again(tmp_path):
    env = Monitor(gym.wrappers.RescaleAction(gym.make("Pendulum-v1"), -1, 1))
    recorder = EpisodeRecorder(sac(env=env), tmp_path, max_steps=2)
    assert "RescaleAction" in str(recorder.env.envs[0])
    recorder.close()
