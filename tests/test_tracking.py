"""What W&B and the run directory hold equals what SB3's logger was given."""

import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.logger import Figure, HParam, Image, KVWriter, Video

from sb3_ext.tracking import (
    RunDirectory,
    WandbOutputFormat,
    model_config,
    run_logger,
    start_wandb,
)


class Memory(KVWriter):
    """Keeps what SB3's logger dumps."""

    def __init__(self):
        self.rows = []

    def write(self, key_values, key_excluded, step=0):
        kept = {
            key: value
            for key, value in key_values.items()
            if "wandb" not in (key_excluded.get(key) or ())
        }
        self.rows.append({**kept, "global_step": step})

    def close(self):
        pass


class FakeRun:
    """Stands in for a W&B run where only the calls matter."""

    def __init__(self):
        self.rows, self.metrics, self.finished = [], [], False
        self.config = self

    def define_metric(self, name, step_metric=None):
        self.metrics.append((name, step_metric))

    def log(self, row, **options):
        assert not options, "step= makes W&B drop rows that go back"
        self.rows.append(row)

    def update(self, values, allow_val_change=False):
        assert allow_val_change
        self.hyperparameters = values

    def finish(self):
        self.finished = True


def sac(**options):
    return SAC(
        "MlpPolicy",
        "Pendulum-v1",
        learning_starts=20,
        batch_size=8,
        buffer_size=500,
        seed=1,
        policy_kwargs={"net_arch": [8]},
        **options,
    )


def test_an_offline_run_holds_what_was_logged(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    model, memory = sac(), Memory()
    config = model_config(model)
    run = start_wandb(tmp_path, name="tiny", config=config, tags=("test",))
    logger = run_logger(tmp_path, wandb_run=run, tensorboard=False)
    logger.output_formats.append(memory)
    model.set_logger(logger)
    model.learn(410, log_interval=1)
    logger.record("test/for_others", 1.0, exclude="wandb")
    logger.record("test/third", np.float64(1 / 3))
    logger.dump(100)  # a step that goes back must not be dropped
    logger.close()
    run.finish()

    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    wandb_cli = shutil.which("wandb", path=str(Path(sys.executable).parent))
    printed = subprocess.run(
        [wandb_cli, "leet", "inspect", "--json", file], check=True, capture_output=True, text=True
    ).stdout
    records = [json.loads(line) for line in printed.splitlines()]
    history = [record["history"]["item"] for record in records if record["type"] == "history"]
    stored = [
        {key: value for key, value in row.items() if not key.startswith("_")} for row in history
    ]
    assert len(memory.rows) == 3
    assert stored == memory.rows  # to the last digit
    assert (stored[-1]["test/third"], stored[-1]["global_step"]) == (1 / 3, 100)
    assert "test/for_others" not in stored[-1]
    start = next(record["run"] for record in records if record["type"] == "run")
    stored_config = {k: v for k, v in start["config"]["update"].items() if not k.startswith("_")}
    assert stored_config == json.loads(json.dumps(config))
    assert start["display_name"] == "tiny"
    assert next(r["exit"]["exit_code"] for r in records if r["type"] == "exit") == 0


@pytest.mark.parametrize(
    ("asked", "variable", "expected"),
    [
        (None, None, "offline"),
        (None, "disabled", "disabled"),
        (None, "online", "online"),
        ("offline", "online", "offline"),
    ],
)
def test_nothing_is_sent_unasked(asked, variable, expected, tmp_path, monkeypatch):
    import wandb

    seen = {}
    monkeypatch.setattr(wandb, "init", lambda **options: seen.update(options))
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)  # a stored key alone is no consent
    monkeypatch.delenv("WANDB_MODE")
    if variable:
        monkeypatch.setenv("WANDB_MODE", variable)
    start_wandb(tmp_path / "run", name="n", config={}, mode=asked)
    assert seen["mode"] == expected
    assert seen["dir"] == str(tmp_path / "run")


def test_missing_wandb_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r'pip install "sb3-ext\[tracking\]"'):
        start_wandb(tmp_path, name="n", config={})


def test_missing_tensorboard_is_an_error_only_where_it_was_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    logger = run_logger(tmp_path)
    assert [type(writer).__name__ for writer in logger.output_formats] == ["CSVOutputFormat"]
    logger.close()
    with pytest.raises(ImportError, match=r'pip install "sb3-ext\[tracking\]"'):
        run_logger(tmp_path, tensorboard=True)


def test_the_writer_takes_every_value_of_sb3s_logger():
    import wandb
    from matplotlib.figure import Figure as Drawing

    run = FakeRun()
    writer = WandbOutputFormat(run)
    assert run.metrics == [("global_step", None), ("*", "global_step")]
    drawing = Drawing(figsize=(1, 1))
    drawing.subplots().plot([0, 1])
    values = {
        "float": 1 / 3,
        "float32": np.float32(0.1),
        "tensor": th.tensor(2.0),
        "flag": True,
        "text": "words",
        "many": th.arange(6.0),
        "figure": Figure(drawing, close=True),
        "image": Image(th.rand(3, 4, 5), "CHW"),
        "grey": Image(np.zeros((4, 5), dtype=np.uint8), "HW"),
        "video": Video(th.zeros(1, 2, 3, 4, 4), fps=5),
        "hidden": 1.0,
    }
    writer.write(values, {"hidden": ("stdout", "wandb"), "text": ("stdout",)}, step=7)
    (row,) = run.rows
    plain = {"float": 1 / 3, "float32": float(np.float32(0.1)), "tensor": 2.0}
    assert {key: row[key] for key in plain} == plain
    assert row["flag"] is True
    assert row["text"] == "words"
    assert row["global_step"] == 7
    assert isinstance(row["many"], wandb.Histogram)
    assert row.keys().isdisjoint({"video", "hidden"})
    assert row["image"].image.size == (5, 4)
    assert isinstance(row["figure"], wandb.Image)
    assert isinstance(row["grey"], wandb.Image)

    writer.write({"hparams": HParam({"gamma": 0.9}, {"eval/mean_reward": 0.0})}, {}, step=8)
    assert run.hyperparameters == {"gamma": 0.9}
    assert len(run.rows) == 1, "a row without metrics is not sent"
    writer.close()
    assert not run.finished


def test_a_value_wandb_refuses_does_not_end_training():
    run = FakeRun()
    with pytest.warns(UserWarning, match="did not get 'bad'"):
        WandbOutputFormat(run).write({"bad": Image(np.array(["x"]), "HW"), "good": 1.0}, {}, step=1)
    assert run.rows == [{"good": 1.0, "global_step": 1}]


def test_model_config_says_what_the_run_was():
    model = sac(gamma=0.9, train_freq=(2, "step"), learning_rate=lambda _: 1e-3)
    config = model_config(model)
    assert json.loads(json.dumps(config)) == config
    assert config["algorithm"] == "stable_baselines3.sac.sac:SAC"
    assert (config["env"], config["seed"], config["n_envs"]) == ("Pendulum-v1", 1, 1)
    hyperparameters = config["hyperparameters"]
    assert hyperparameters["gamma"] == 0.9
    assert hyperparameters["train_freq"] == [2, "step"]
    assert hyperparameters["ent_coef"] == "auto"
    assert hyperparameters["policy_kwargs"]["net_arch"] == [8]
    assert hyperparameters["learning_rate"].endswith("<lambda>")
    assert hyperparameters["replay_buffer_class"] == "stable_baselines3.common.buffers:ReplayBuffer"
    assert {"python", "stable_baselines3", "torch", "gymnasium"} <= config["versions"].keys()
    assert " at 0x" not in json.dumps(config)


def test_model_config_finds_arguments_of_subclasses():
    @dataclass(frozen=True)
    class Setting:
        alpha: float = 0.6
        window: float = float("inf")

    class Extended(SAC):
        def __init__(self, *args, temperature=5.0, setting=None, **kwargs):
            self.temperature, self.setting = temperature, setting
            super().__init__(*args, **kwargs)

    model = Extended("MlpPolicy", "Pendulum-v1", setting=Setting(), buffer_size=10)
    hyperparameters = model_config(model)["hyperparameters"]
    assert hyperparameters["temperature"] == 5.0
    assert hyperparameters["setting"] == {"name": "Setting", "alpha": 0.6, "window": "inf"}
    assert hyperparameters["buffer_size"] == 10


def test_the_run_directory_refuses_one_that_holds_a_run(tmp_path):
    run = RunDirectory.create(tmp_path / "runs" / "first")
    path = run.write_config({"seed": 1})
    assert json.loads(path.read_text()) == {"seed": 1}
    assert [file.name for file in run.path.iterdir()] == ["config.json"], "no draft is left"
    with pytest.raises(FileExistsError, match="already holds a run; choose another"):
        RunDirectory.create(run.path)
    with pytest.raises(FileExistsError, match="is a file"):
        RunDirectory.create(path)
    assert RunDirectory.create(run.path, exist_ok=True) == run
    assert RunDirectory.create(tmp_path / "runs" / "empty") == RunDirectory.create(
        tmp_path / "runs" / "empty"
    )


def test_the_logger_prints_only_when_asked(tmp_path, capsys):
    for verbose in (0, 1):
        logger = run_logger(tmp_path, verbose=verbose, tensorboard=False)
        logger.record("a/b", 1.0)
        logger.dump(1)
        logger.close()
        assert ("a/" in capsys.readouterr().out) == bool(verbose)
    assert (tmp_path / "progress.csv").read_text().splitlines() == ["a/b", "1.0"]
