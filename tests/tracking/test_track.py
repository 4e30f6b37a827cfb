"""`Track` records what SB3's logger was given, and leaves everything else as it was."""

import json

import pandas as pd
import pytest
from sb3_contrib import TQC
from stable_baselines3 import PPO
from stable_baselines3.common.logger import TensorBoardOutputFormat, configure
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext import LFIWSAC
from sb3_ext.tracking import Track, model_config
from tests.tracking.runs import (
    Raises,
    config,
    exit_code,
    history,
    keep_memory,
    order_of_start,
    records,
    sac,
)


def test_all_outputs_hold_what_the_logger_was_given(folder, capsys):
    model = sac()
    memory = keep_memory(model)
    model.learn(410, callback=Track(folder, wandb=True, config={"note": "x"}), log_interval=1)

    assert model.logger.output_formats == [memory]
    assert not memory.closed
    (run,) = records(folder)
    assert len(memory.rows) == 2
    assert history(run) == memory.rows, "to the last digit"
    assert exit_code(run) == 0
    written = json.loads((folder / "config.json").read_text())
    assert config(run) == written
    assert written == {
        **json.loads(json.dumps(model_config(model))),
        "total_timesteps": 410,
        "note": "x",
    }
    table = pd.read_csv(folder / "progress.csv")
    for key in ("train/critic_loss", "rollout/ep_rew_mean"):
        stored = table[key].dropna().tolist()
        assert stored == [row[key] for row in memory.rows if key in row]
    assert list(folder.glob("tensorboard/events*"))
    (line,) = capsys.readouterr().out.splitlines()
    run_id = json.loads((folder / "wandb_run.json").read_text())["id"]
    assert line.startswith("W&B: offline. Upload with: wandb sync ")
    assert line.endswith(f"/wandb/offline-run-*-{run_id}*")


@pytest.mark.parametrize("kind", ["ppo", "tqc", "lfiw"])
def test_it_works_for_every_algorithm(folder, kind):
    small = {"buffer_size": 500, "learning_starts": 20, "policy_kwargs": {"net_arch": [4]}}
    model = {
        "ppo": lambda: PPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, n_epochs=1),
        "tqc": lambda: TQC("MlpPolicy", "Pendulum-v1", **small),
        "lfiw": lambda: LFIWSAC("MlpPolicy", "Pendulum-v1", fast_buffer_size=50, **small),
    }[kind]()
    memory = keep_memory(model)
    model.learn(210, callback=Track(folder, tensorboard=False), log_interval=1)
    table = pd.read_csv(folder / "progress.csv")
    assert len(table) == len(memory.rows) > 0
    assert table["time/total_timesteps"].tolist() == [
        row["time/total_timesteps"] for row in memory.rows
    ]
    (spec,) = model.env.get_attr("spec")
    assert json.loads((folder / "config.json").read_text())["env"] == spec.id


def test_the_users_own_outputs_stay(tmp_path, folder, capsys):
    logs = tmp_path / "mine"
    model = sac(tensorboard_log=str(logs), verbose=1)
    model.learn(210, callback=Track(folder, verbose=0), log_interval=1)
    assert "ep_rew_mean" in capsys.readouterr().out
    assert list(logs.glob("*/events*"))
    assert not (folder / "tensorboard").exists(), "one TensorBoard is enough unless asked for"
    kinds = [type(one).__name__ for one in model.logger.output_formats]
    assert kinds == ["HumanOutputFormat", "TensorBoardOutputFormat"]

    model = sac(tensorboard_log=str(logs))
    model.learn(30, callback=Track(tmp_path / "second", tensorboard=True))
    assert list((tmp_path / "second").glob("tensorboard/events*"))
    assert any(isinstance(one, TensorBoardOutputFormat) for one in model.logger.output_formats)


def test_a_csv_of_the_user_in_the_same_folder_is_not_written_twice(folder):
    model = sac()
    model.set_logger(configure(str(folder), ["csv"]))
    model.learn(210, callback=Track(folder, tensorboard=False), log_interval=1)
    model.logger.close()
    assert len(pd.read_csv(folder / "progress.csv")) == 1


def test_training_is_not_changed(folder):
    plain = sac().learn(150)
    tracked = sac().learn(150, callback=Track(folder, video_every=70, tensorboard=False))
    assert len(list((folder / "videos").iterdir())) == 2
    for name, value in plain.policy.state_dict().items():
        assert (tracked.policy.state_dict()[name] == value).all(), name


def test_runs_are_read_in_the_order_of_their_start():
    first, second = "offline-run-20261122_072805-k2b6", "offline-run-20261122_072805-k2b6-1"
    third = "offline-run-20261122_072806-k2b6"
    assert sorted([third, second, first], key=order_of_start) == [first, second, third]


def test_a_second_learn_goes_on(folder):
    model = sac()
    memory = keep_memory(model)
    track = Track(folder, wandb=True)
    model.learn(210, callback=track, log_interval=1)
    model.learn(200, callback=track, log_interval=1, reset_num_timesteps=False)
    model.learn(  # as another process does, with the model loaded
        200, callback=Track(folder, wandb=True), log_interval=1, reset_num_timesteps=False
    )
    steps = [200, 400, 600]
    assert [row["global_step"] for row in memory.rows] == steps
    assert pd.read_csv(folder / "progress.csv")["time/total_timesteps"].tolist() == steps
    runs = records(folder)
    assert [row for run in runs for row in history(run)] == memory.rows
    ids = [next(r["run"]["run_id"] for r in run if r["type"] == "run") for run in runs]
    assert ids == [json.loads((folder / "wandb_run.json").read_text())["id"]] * 3
    assert [exit_code(run) for run in runs] == [0, 0, 0]
    resumed = json.loads((folder / "config.json").read_text())["resumed"]
    assert [(one["at"], one["total_timesteps"]) for one in resumed] == [(410, 610)]


def test_a_folder_that_holds_a_run_is_refused_for_a_new_one(folder):
    sac().learn(210, callback=Track(folder), log_interval=1)
    kept = (folder / "progress.csv").read_text()
    model = sac()
    with pytest.raises(FileExistsError, match="already holds a run, and this training starts at"):
        model.learn(10, callback=Track(folder))
    assert (folder / "progress.csv").read_text() == kept
    assert model.logger.output_formats == []
    model.learn(210, callback=Track(folder, resume=True), log_interval=1)
    assert len(pd.read_csv(folder / "progress.csv")) == 2
    with pytest.raises(FileExistsError, match="already holds a run"):
        model.learn(10, callback=Track(folder, resume=False), reset_num_timesteps=False)
    other = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8)
    with pytest.raises(ValueError, match=r"holds a run with algorithm '.*SAC', and this one has"):
        other.learn(8, callback=Track(folder, resume=True))


def test_a_broken_training_leaves_what_was_logged(folder):
    model = sac()
    memory = keep_memory(model)
    with pytest.raises(RuntimeError, match="broken"), Track(folder, wandb=True) as track:
        model.learn(600, callback=[track, Raises(450)], log_interval=1)
    assert model.logger.output_formats == [memory]
    assert len(memory.rows) == 2
    (run,) = records(folder)
    assert history(run) == memory.rows
    assert exit_code(run) == 1
    assert len(pd.read_csv(folder / "progress.csv")) == 2


def test_a_broken_training_goes_on_or_is_closed_by_hand(folder):
    model = sac()
    memory = keep_memory(model)
    track = Track(folder, wandb=True)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken"):
            model.learn(600, callback=[track, Raises(220)], log_interval=1)
    assert len(pd.read_csv(folder / "progress.csv")) == 2
    track.close(exit_code=1)
    track.close()
    assert model.logger.output_formats == [memory]
    (run,) = records(folder)
    assert history(run) == memory.rows
    assert exit_code(run) == 1


def test_one_track_records_one_model(folder):
    with Track(folder) as track:
        sac().learn(10, callback=track)
        with pytest.raises(ValueError, match="one Track records one model"):
            sac().learn(10, callback=track)
    with pytest.raises(FileExistsError, match="already holds a run"):
        sac().learn(10, callback=track)


def test_with_holds_the_run_over_several_learns(folder):
    model = sac()
    with Track(folder, wandb=True) as track:
        model.learn(210, callback=track, log_interval=1)
        model.learn(200, callback=track, log_interval=1, reset_num_timesteps=False)
        model.logger.record("mine", 7)  # SB3 made a new logger for the second learn
        model.logger.dump(410)
    (run,) = records(folder)
    assert [row["global_step"] for row in history(run)] == [200, 400, 410]
    assert pd.read_csv(folder / "progress.csv")["mine"].tolist()[-1] == 7


def test_a_track_that_was_left_open_is_closed_by_the_next_one(folder):
    model = sac()
    left = Track(folder, wandb=True)
    with pytest.raises(RuntimeError, match="broken"):
        model.learn(600, callback=[left, Raises(220)], log_interval=1)
    model.learn(200, callback=Track(folder, wandb=True), log_interval=1, reset_num_timesteps=False)
    assert [exit_code(run) for run in records(folder)] == [1, 0]
    assert pd.read_csv(folder / "progress.csv")["time/total_timesteps"].tolist() == [200, 400]


def test_a_start_that_fails_can_be_tried_again(folder, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("W&B is broken")

    with monkeypatch.context() as patch:
        patch.setattr("sb3_ext.tracking.wandb_runs.start_wandb", broken)
        with pytest.raises(RuntimeError, match="W&B is broken"):
            sac().learn(10, callback=Track(folder, wandb=True))
    sac().learn(10, callback=Track(folder))


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"wandb": {"projct": "x"}}, TypeError, "no option 'projct'; did you mean 'project'"),
        ({"wandb": "offline"}, TypeError, "wandb is True, False, a dict .* or a run"),
        ({"save_best": 1}, TypeError, "save_best is True, False or a path, got 1"),
        ({"video_every": -1}, ValueError, "video_every must be at least 0"),
        ({"video_every": 1.5}, TypeError, "video_every is a number of steps, got 1.5"),
        ({"config": {"model": object()}}, TypeError, "'model' is a object"),
    ],
)
def test_wrong_options_are_told_at_once(folder, options, error, sentence):
    with pytest.raises(error, match=sentence):
        Track(folder, **options)
    assert not folder.exists()


def test_config_may_add_but_not_contradict(folder):
    Track(folder, config={"seed": 1})
    sac().learn(10, callback=Track(folder, config={"seed": 1, "lesson": [1, (2,)]}))
    assert json.loads((folder / "config.json").read_text())["lesson"] == [1, [2]]
    with pytest.raises(ValueError, match="'seed' is 1, got 2; choose another name"):
        sac().learn(10, callback=Track(folder.with_name("other"), config={"seed": 2}))


def test_a_file_is_no_folder(folder):
    folder.write_text("")
    with pytest.raises(FileExistsError, match="is a file; choose another name"):
        Track(folder)


def test_a_broken_config_is_a_sentence(folder):
    sac().learn(10, callback=Track(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is no JSON .*; restore or remove it"):
        sac().learn(10, callback=Track(folder, resume=True))


def test_normalised_environments_are_recorded(folder):
    from stable_baselines3.common.env_util import make_vec_env

    env = VecNormalize(make_vec_env("Pendulum-v1", 2))
    sac(env=env).learn(30, callback=Track(folder, video_every=20))
    assert json.loads((folder / "config.json").read_text())["vec_env"][0] == "VecNormalize"
    assert [one.name for one in (folder / "videos").iterdir()] == ["step-0000000020.gif"]
