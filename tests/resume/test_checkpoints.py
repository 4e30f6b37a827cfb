"""What may go wrong around a checkpoint, and what is said then."""

import contextlib
import errno
import json
import shutil
import subprocess
import sys
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import sb3_contrib
import stable_baselines3 as sb3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

import sb3_ext
from sb3_ext.errors import CheckpointError
from sb3_ext.resume import ResumableCheckpoint, latest_checkpoint, register_env_state
from sb3_ext.resume import callback as callback_module
from sb3_ext.resume.environments import _adapters
from sb3_ext.resume.store import FOLDER, _locks, write_checkpoint
from sb3_ext.statistics import load_statistics
from sb3_ext.trees import same
from tests.cut_runs import CutError, Recorder, cut_and_resume, require_same
from tests.environments import Drift


def sac(env: Any = None, cls: Any = sb3_ext.SAC, **kwargs: Any) -> Any:
    options = {"learning_starts": 20, "buffer_size": 500, "batch_size": 16, "seed": 3} | kwargs
    made = DummyVecEnv([lambda: Monitor(Drift())]) if env is None else env
    return cls("MlpPolicy", made, policy_kwargs={"net_arch": [8]}, **options)


def run(tmp_path: Any, total: int = 100, cut: int | None = None, **kwargs: Any) -> Any:
    checkpoint = ResumableCheckpoint(tmp_path, every=30)
    model = sac(**kwargs)
    with contextlib.suppress(CutError):
        model.learn(total, callback=[Recorder(cut), checkpoint])
    return model, checkpoint


# -- the folder --------------------------------------------------------------------------------


def test_the_newest_are_kept(tmp_path):
    _, checkpoint = run(tmp_path, total=200)
    names = sorted(path.name for path in (tmp_path / FOLDER).iterdir())
    assert names == ["step-000000180", "step-000000200"]
    assert checkpoint.last == latest_checkpoint(tmp_path)
    assert checkpoint.last.name == "step-000000200"


def test_a_draft_of_a_killed_writer_is_no_checkpoint(tmp_path):
    run(tmp_path, total=60)
    draft = tmp_path / FOLDER / ".draft-000000090"
    shutil.copytree(latest_checkpoint(tmp_path), draft)
    assert latest_checkpoint(tmp_path).name == "step-000000060"
    write_checkpoint(tmp_path, 70, lambda folder: None, keep=2)
    assert not draft.exists()


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "manifest"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, damage):
    run(tmp_path, total=95)
    newest = latest_checkpoint(tmp_path)
    if damage == "cut":
        (newest / "model.zip").write_bytes((newest / "model.zip").read_bytes()[:-10])
    elif damage == "changed":  # of the same length
        whole = bytearray((newest / "model.zip").read_bytes())
        whole[500:530] = bytes(30)
        (newest / "model.zip").write_bytes(whole)
    elif damage == "gone":
        (newest / "state.json").unlink()
    else:
        (newest / "manifest.json").write_text("{")
    with pytest.warns(UserWarning, match=f"{newest.name} is passed over: it"):
        assert latest_checkpoint(tmp_path).name == "step-000000090"


def test_a_manifest_cannot_point_outside(tmp_path):
    run(tmp_path, total=60)
    newest = latest_checkpoint(tmp_path)
    (tmp_path / "secret").write_text("x")
    (newest / "manifest.json").write_text(
        json.dumps({"format": 1, "files": {"../../secret": [1, 0]}})
    )
    with pytest.warns(UserWarning, match="its file ../../secret is missing"):
        assert latest_checkpoint(tmp_path).name != newest.name


def test_a_failed_write_leaves_the_one_before(tmp_path):
    def fail(folder):
        (folder / "model.zip").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    first = write_checkpoint(tmp_path, 10, lambda folder: None, keep=1)
    with pytest.raises(OSError, match="No space"):
        write_checkpoint(tmp_path, 20, fail, keep=1)
    assert list((tmp_path / FOLDER).iterdir()) == [first]


def test_a_full_disk_is_a_warning_and_training_goes_on(tmp_path, monkeypatch):
    def full(*_args: Any, **_kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run(tmp_path, total=60)
    monkeypatch.setattr(callback_module, "capture", full)
    with pytest.warns(UserWarning, match="No space left on device in .*the last one is .*00060"):
        model, checkpoint = run(tmp_path, total=95)
    assert model.num_timesteps == 95
    assert latest_checkpoint(tmp_path).name == "step-000000060"
    assert checkpoint.resumed_from == 60


def test_the_state_holds_no_pickle(tmp_path, monkeypatch):
    """Resuming works while everything that could unpickle is switched off."""
    whole, _ = run(tmp_path / "whole", total=100)
    run(tmp_path / "run", total=100, cut=95)

    def forbidden(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("something was unpickled")

    resumed = sac()
    for target in ("pickle.load", "pickle.loads", "cloudpickle.loads"):
        monkeypatch.setattr(target, forbidden)
    resumed.learn(100, callback=[Recorder(), ResumableCheckpoint(tmp_path / "run", every=30)])
    assert same(whole.get_parameters(), resumed.get_parameters())


# -- going on ----------------------------------------------------------------------------------


def test_a_finished_run_is_not_trained_further(tmp_path):
    first, _ = run(tmp_path, total=100)
    again, checkpoint = run(tmp_path, total=100)
    assert checkpoint.resumed_from == again.num_timesteps == 100
    assert same(first.get_parameters(), again.get_parameters())


def test_a_longer_run_goes_on_where_the_short_one_ended(tmp_path):
    whole, _ = run(tmp_path / "whole", total=150)
    run(tmp_path / "run", total=100)
    longer, _ = run(tmp_path / "run", total=150)
    assert same(whole.get_parameters(), longer.get_parameters())


def test_a_stop_on_request_loses_nothing(tmp_path):
    class Ask(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 47:
                checkpoint.request_stop()
            return True

    whole, _ = run(tmp_path / "whole", total=100)
    checkpoint = ResumableCheckpoint(tmp_path / "run", every=1_000)
    stopped = sac()
    stopped.learn(100, callback=[Recorder(), Ask(), checkpoint])
    assert checkpoint.stopped
    assert checkpoint.last.name == "step-000000047"
    with pytest.warns(UserWarning, match="goes on without its callbacks .*Ask"):
        resumed, _ = run(tmp_path / "run", total=100)
    assert same(whole.get_parameters(), resumed.get_parameters())


def test_a_run_that_is_killed_before_it_got_anywhere_starts_again(tmp_path):
    whole, _ = run(tmp_path / "whole", total=60)
    run(tmp_path / "run", total=60, cut=7)
    assert latest_checkpoint(tmp_path / "run").name == "step-000000000"
    resumed, checkpoint = run(tmp_path / "run", total=60)
    assert checkpoint.resumed_from == 0
    assert same(whole.get_parameters(), resumed.get_parameters())


def test_a_run_that_is_cut_off_twice(tmp_path):
    whole, _ = run(tmp_path / "whole", total=150)
    run(tmp_path / "run", total=150, cut=70)
    run(tmp_path / "run", total=150, cut=130)
    resumed, checkpoint = run(tmp_path / "run", total=150)
    assert checkpoint.resumed_from == 120
    assert same(whole.get_parameters(), resumed.get_parameters())


def test_odd_callbacks_and_a_progress_bar_do_no_harm(tmp_path):
    class Odd(BaseCallback):
        def __init__(self) -> None:
            super().__init__()
            self.seen, self.held = 0, {"f": print, "steps": [], "odd": iter([1])}
            self.rule = lambda step: step

        def _on_step(self) -> bool:
            self.seen += 1
            self.held["steps"].append(self.rule(self.num_timesteps))
            return True

    def learn(cut=None):
        odd, model = Odd(), sac()
        listed = [odd, Recorder(cut), ResumableCheckpoint(tmp_path, every=30)]
        with contextlib.suppress(CutError):
            model.learn(100, callback=listed, progress_bar=True)
        return odd, model

    learn(cut=80)
    odd, model = learn()
    assert model.num_timesteps == odd.seen == 100
    assert odd.held["steps"] == list(range(1, 101))


def test_the_monitor_file_is_as_if_nothing_had_happened(tmp_path):
    def make(name):
        return sac(DummyVecEnv([lambda: Monitor(Drift(), str(tmp_path / name))]))

    names = iter(["whole", "cut", "cut"])
    runs = cut_and_resume(lambda: make(next(names)), tmp_path, total=200, cut=170, every=60)
    assert runs[-1].resumed_from == 120
    require_same(*runs)
    one, other = (
        pd.read_csv(tmp_path / f"{name}.monitor.csv", skiprows=1) for name in ("whole", "cut")
    )
    assert len(one) > 5
    assert one[["r", "l"]].equals(other[["r", "l"]])
    assert other["t"].is_monotonic_increasing


def test_settings_that_a_callback_changed_are_kept(tmp_path):
    class Cool(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 40:
                self.model.temperature = 9.0
            return True

    def make():
        return sac(cls=sb3_ext.LFIWSAC, fast_buffer_size=30, ratio_net_arch=(8,))

    require_same(
        *cut_and_resume(make, tmp_path, total=120, cut=100, every=30, extra=lambda: [Cool()])
    )


def test_new_settings_of_the_script_are_taken_and_told(tmp_path):
    run(tmp_path, total=100, cut=95)
    with pytest.warns(UserWarning, match="gamma was 0.99 and is 0.9"):
        model, _ = run(tmp_path, gamma=0.9)
    assert model.gamma == 0.9


# -- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"cls": sb3.SAC}, "algorithm 'sb3_ext.algorithms.sac:SAC', this one has 'stable_baselin"),
        ({"env": DummyVecEnv([lambda: Monitor(Drift())] * 2)}, "n_envs 1, this one has 2"),
        ({"buffer_size": 400}, "replay buffer of 500 rows, the model has one of 400"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, options, told):
    run(tmp_path, total=60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(CheckpointError, match=told):
            run(tmp_path, total=100, **options)


def test_what_cannot_be_resumed_is_refused_before_training(tmp_path):
    model = sb3_contrib.ARS("LinearPolicy", "Pendulum-v1")
    with pytest.raises(TypeError, match="ARS does not: use SB3's CheckpointCallback"):
        model.learn(100, callback=ResumableCheckpoint(tmp_path))


def test_a_folder_that_cannot_be_made_is_told_before_training(tmp_path):
    (tmp_path / "taken").write_text("a file")
    model = sac()
    with pytest.raises(OSError, match=r"to .*taken: Not a directory; choose another run_dir"):
        model.learn(100, callback=ResumableCheckpoint(tmp_path / "taken"))
    assert model.num_timesteps == 0


@pytest.mark.parametrize("options", [{"every": 0}, {"keep": 0}])
def test_wrong_options_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match="must be at least 1"):
        ResumableCheckpoint(tmp_path, **options)


# -- environments that hide their state --------------------------------------------------------


class Hidden(Drift):
    """Its noise comes from an iterator, whose state nobody can read."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = iter(np.random.default_rng(0).normal(size=10_000))

    def step(self, action: np.ndarray) -> Any:
        return super().step(action + np.float32(next(self.noise) / 10))


def hidden(kind: type = Hidden, **kwargs: Any) -> Any:
    return sac(DummyVecEnv([lambda: Monitor(kind())]), **kwargs)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n_steps": 3},
        {
            "optimize_memory_usage": True,
            "replay_buffer_kwargs": {"handle_timeout_termination": False},
        },
    ],
)
def test_a_hidden_state_starts_new_episodes_and_two_resumes_agree(tmp_path, options):
    def make():
        return hidden(**options)

    try:
        make().learn(100, callback=[Recorder(80), ResumableCheckpoint(tmp_path / "a", every=30)])
    except CutError:
        shutil.copytree(tmp_path / "a", tmp_path / "b")
    ends = []
    for name in ("a", "b"):
        model = make()
        with pytest.warns(UserWarning, match=r"step 60 with new episodes.*Hidden.noise holds a"):
            model.learn(100, callback=[Recorder(), ResumableCheckpoint(tmp_path / name, every=30)])
        assert model.num_timesteps == 100
        ends.append(model.get_parameters())
    assert same(*ends)


def test_the_monitor_file_outlives_a_resume_with_new_episodes(tmp_path):
    def make():
        return sac(DummyVecEnv([lambda: Monitor(Hidden(), str(tmp_path / "m"))]))

    first = make()
    with pytest.raises(CutError):
        first.learn(150, callback=[Recorder(140), ResumableCheckpoint(tmp_path, every=60)])
    first.get_env().close()
    model = make()
    with pytest.warns(UserWarning, match="new episodes"):
        model.learn(200, callback=[Recorder(), ResumableCheckpoint(tmp_path, every=60)])
    episodes = pd.read_csv(tmp_path / "m.monitor.csv", skiprows=1)
    model.get_env().close()
    # 60 to 120 of the first life, all 80 steps of the second, less what was under way at each end.
    assert 200 - 25 - 25 < episodes["l"].sum() <= 200


def test_an_author_can_say_what_the_state_is(tmp_path):
    class Told(Hidden):
        drawn = 0

        def step(self, action: np.ndarray) -> Any:
            self.drawn += 1
            return super().step(action)

    def get(env: Told) -> Any:
        return [env.drawn, env.state, env.t, env.np_random.bit_generator.state]

    def put(env: Told, state: Any) -> None:
        while env.drawn < state[0]:
            next(env.noise)
            env.drawn += 1
        _, env.state, env.t, env.np_random.bit_generator.state = state

    register_env_state(Told, get=get, set=put)
    try:
        runs = cut_and_resume(lambda: hidden(Told), tmp_path, total=100, cut=95, every=30)
    finally:
        del _adapters[Told]
    require_same(*runs)


def test_an_n_step_return_does_not_reach_into_the_new_episode(tmp_path):
    model = hidden(n_steps=3)
    with pytest.raises(CutError):
        model.learn(100, callback=[Recorder(80), ResumableCheckpoint(tmp_path, every=30)])
    again = hidden(n_steps=3)
    with pytest.warns(UserWarning, match="new episodes"):
        again.learn(70, callback=[Recorder(), ResumableCheckpoint(tmp_path, every=30)])
    assert again.replay_buffer.timeouts[59] != again.replay_buffer.dones[59]


def test_workers_without_the_wrapper_are_told(tmp_path):
    def make():
        return sac(make_vec_env("Pendulum-v1", 2, seed=3, vec_env_cls=SubprocVecEnv))

    with pytest.warns(UserWarning, match="wrap each in sb3_ext.resume.ResumableEnv"):
        _, model, *_ = cut_and_resume(make, tmp_path, total=100, cut=90, every=30)
    assert model.num_timesteps == 100


def test_a_changed_mujoco_model_is_noticed(tmp_path):
    class Heavy(gym.Wrapper):
        def reset(self, **kwargs: Any) -> Any:
            self.unwrapped.model.body_mass[1] *= 1.5
            return super().reset(**kwargs)

    def make():
        return sac(DummyVecEnv([lambda: Heavy(gym.make("InvertedPendulum-v5"))]))

    with pytest.warns(UserWarning, match="MuJoCo model was changed"):
        cut_and_resume(make, tmp_path, total=100, cut=90, every=30)


# -- one folder, one training --------------------------------------------------------------------


def test_a_loop_over_seeds_in_one_folder_is_refused(tmp_path):
    sac(seed=0).learn(60, callback=ResumableCheckpoint(tmp_path, every=30))
    with pytest.raises(CheckpointError, match="with seed 0, this one has 1: use the settings"):
        sac(seed=1).learn(60, callback=ResumableCheckpoint(tmp_path, every=30))


def test_a_finished_run_says_that_there_is_nothing_to_do(tmp_path, capsys):
    for _ in range(2):
        sac().learn(60, callback=ResumableCheckpoint(tmp_path, every=30))
    assert f"{tmp_path} has reached its 60 steps" in capsys.readouterr().out


@pytest.mark.parametrize("algorithm", ["sac", "ppo"])
def test_a_changed_learning_rate_is_used(tmp_path, algorithm):
    def make(rate: float) -> Any:
        if algorithm == "sac":
            return sac(learning_rate=rate)
        env = DummyVecEnv([lambda: Monitor(Drift())])
        return sb3.PPO("MlpPolicy", env, learning_rate=rate, n_steps=20, batch_size=20, seed=3)

    make(1e-3).learn(60, callback=ResumableCheckpoint(tmp_path, every=20))
    model = make(2e-4)
    with pytest.warns(UserWarning, match="learning_rate was 0.001 and is 0.0002"):
        model.learn(120, callback=ResumableCheckpoint(tmp_path, every=20))
    optimizer = model.policy.optimizer if algorithm == "ppo" else model.critic.optimizer
    assert optimizer.param_groups[0]["lr"] == 2e-4
    assert model.lr_schedule(1.0) == 2e-4


def test_one_callback_for_two_models_keeps_each_in_its_place(tmp_path):
    checkpoints = ResumableCheckpoint(tmp_path, every=30)
    sac().learn(120, callback=checkpoints)
    other = sac()
    other.learn(60, callback=checkpoints)  # the same script in one process: it is done already
    assert other.num_timesteps == 120
    assert checkpoints.last.exists()
    late = sac()
    late.learn(30)
    late.callback = None
    fresh = ResumableCheckpoint(tmp_path / "b", every=30)
    late.learn(30, callback=fresh, reset_num_timesteps=False)
    assert fresh.last.exists()
    shutil.copytree(tmp_path / "checkpoints", tmp_path / "b/checkpoints", dirs_exist_ok=True)
    with pytest.raises(CheckpointError, match="of another training, up to step 120"):
        late.learn(30, callback=fresh, reset_num_timesteps=False)


def test_after_an_exception_the_same_cell_goes_on(tmp_path):
    model, checkpoints = sac(), ResumableCheckpoint(tmp_path, every=30)
    with pytest.raises(CutError):
        model.learn(120, callback=[Recorder(80), checkpoints])
    model.learn(120, callback=[Recorder(), checkpoints])
    whole = sac()
    whole.learn(120)
    assert checkpoints.resumed_from == 60
    assert same(whole.get_parameters(), model.get_parameters())


def test_a_second_process_in_the_same_folder_is_refused(tmp_path):
    code = (
        "import sys; from pathlib import Path; from sb3_ext.resume.store import lock_folder\n"
        "lock_folder(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(CheckpointError, match="another process is training in"):
            sac().learn(40, callback=ResumableCheckpoint(tmp_path, every=30))
        other.kill()
        other.wait()
        sac().learn(40, callback=ResumableCheckpoint(tmp_path, every=30))
    assert str(tmp_path.resolve()) not in _locks


@pytest.mark.parametrize("options", [{"every": "5"}, {"every": None}, {"keep": 1.5}])
def test_options_of_the_wrong_type_are_refused(tmp_path, options):
    with pytest.raises(TypeError, match="must be an integer, got"):
        ResumableCheckpoint(tmp_path, **options)


@pytest.mark.filterwarnings("ignore:the run goes on with other hyperparameters")
def test_other_networks_are_refused_in_one_sentence(tmp_path):
    sac().learn(40, callback=ResumableCheckpoint(tmp_path, every=30))
    other = sb3_ext.SAC(
        *("MlpPolicy", DummyVecEnv([lambda: Monitor(Drift())])),
        policy_kwargs={"net_arch": [4]},
        **{"learning_starts": 20, "buffer_size": 500, "batch_size": 16, "seed": 3},
    )
    with pytest.raises(CheckpointError, match="does not fit this SAC") as caught:
        other.learn(60, callback=ResumableCheckpoint(tmp_path, every=30))
    assert len(str(caught.value)) < 600


def test_the_statistics_of_vec_normalize_are_beside_the_model(tmp_path):
    env = VecNormalize(DummyVecEnv([lambda: Monitor(Drift())]))
    model = sac(env)
    model.learn(60, callback=ResumableCheckpoint(tmp_path, every=30))
    other = VecNormalize(DummyVecEnv([lambda: Monitor(Drift())]))
    load_statistics(latest_checkpoint(tmp_path) / "model", other)
    assert np.array_equal(other.obs_rms.mean, env.obs_rms.mean)
