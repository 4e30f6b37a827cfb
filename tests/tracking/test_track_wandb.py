"""`Track` and W&B: best models, runs of the user, options, a killed process."""

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from stable_baselines3.common.callbacks import CallbackList

from sb3_ext.tracking import Track
from tests.tracking.runs import (
    config,
    evaluation,
    exit_code,
    history,
    keep_memory,
    records,
    sac,
)

KILLED = """
import os, signal, sys, time
from stable_baselines3.common.callbacks import BaseCallback
from sb3_ext.tracking import Track
from tests.tracking.runs import sac

class Kill(BaseCallback):
    def _on_step(self):
        if self.num_timesteps == 450:
            time.sleep(2.5)  # W&B's file is flushed every second
            os.kill(os.getpid(), signal.SIGKILL)
        return True

sac().learn(600, callback=[Track(sys.argv[1], wandb=True), Kill()], log_interval=1)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_what_was_logged(folder):
    ended = subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert len(pd.read_csv(folder / "progress.csv")) == 2
    deadline = time.monotonic() + 10
    while exit_code((records(folder) or [[]])[0]) is None and time.monotonic() < deadline:
        if len(history(records(folder)[0])) == 2:
            break
        time.sleep(0.5)
    (run,) = records(folder)
    assert [row["global_step"] for row in history(run)] == [200, 400]
    assert (folder / "wandb_run.json").exists()


def test_evaluations_and_the_best_model(folder):
    model = sac()
    memory = keep_memory(model)
    best = evaluation(folder)
    track = Track(folder, wandb=True, save_best=True)
    model.learn(610, callback=CallbackList([track, best]), log_interval=1)
    (run,) = records(folder)
    assert history(run) == memory.rows
    assert sum("eval/mean_reward" in row for row in memory.rows) == 3
    artifacts = [record["artifact"] for record in run if record["type"] == "artifact"]
    rewards = [row["eval/mean_reward"] for row in memory.rows if "eval/mean_reward" in row]
    improvements = sum(new > max(rewards[:n], default=-1e9) for n, new in enumerate(rewards))
    assert len(artifacts) == improvements > 0
    for artifact in artifacts:
        assert artifact["type"] == "model"
        assert "best" in artifact["aliases"]
        (content,) = artifact["manifest"]["contents"]
        assert content["path"] == "best_model.zip"
        assert content["local_path"].startswith(str(folder)), "nothing lies outside the folder"
        assert os.path.getsize(content["local_path"]) == int(content["size"])
        step = json.loads(artifact["metadata"])["global_step"]
        assert step in (200, 400, 600)
        assert content["local_path"].endswith(f"step-{step:010d}.zip")
    last = artifacts[-1]["manifest"]["contents"][0]["local_path"]
    with open(last, "rb") as kept, open(folder / "best_model.zip", "rb") as saved:
        assert kept.read() == saved.read()


def test_the_best_model_needs_someone_who_saves_it(tmp_path, folder):
    two = [evaluation(str(tmp_path / "a")), evaluation(str(tmp_path / "b"))]
    for beside in ([], [evaluation(None)], two):
        with pytest.raises(ValueError, match="needs one EvalCallback with best_model_save_path"):
            sac().learn(10, callback=[Track(folder, save_best=True), *beside])
    assert not folder.exists()


def test_a_run_that_the_user_started_is_used_and_left_open(tmp_path, folder):
    import wandb

    settings = wandb.Settings(console="off", silent=True)
    mine = wandb.init(dir=tmp_path, mode="offline", settings=settings, config={"mine": 1})
    try:
        model = sac()
        memory = keep_memory(model)
        model.learn(210, callback=Track(folder, wandb=True), log_interval=1)
        assert wandb.run is mine
        mine.log({"after": 1.0, "global_step": 999})
        model.learn(210, callback=Track(tmp_path / "other", wandb=mine), log_interval=1)
        assert mine.config["env"] == "Pendulum-v1"
    finally:
        mine.finish()
    (run,) = records(tmp_path)
    rows = history(run)
    assert rows == [memory.rows[0], {"after": 1.0, "global_step": 999}, memory.rows[1]]
    assert not (folder / "wandb").exists()


def test_options_make_a_run_beside_the_one_of_the_user(tmp_path, folder):
    import wandb

    settings = wandb.Settings(console="off", silent=True)
    mine = wandb.init(dir=tmp_path, mode="offline", settings=settings)
    try:
        sac().learn(210, callback=Track(folder, wandb={"name": "own"}), log_interval=1)
        assert wandb.run is mine
        mine.log({"after": 1.0})
    finally:
        mine.finish()
    assert [history(run) for run in records(tmp_path)] == [[{"after": 1.0}]]
    (run,) = records(folder)
    assert len(history(run)) == 1


def test_options_of_wandb_init(folder):
    options = {"project": "p", "name": "n", "group": "g", "tags": ["t"], "job_type": "j"}
    options |= {"id": "chosen", "config": {"more": 2}, "notes": "words"}
    sac().learn(30, callback=Track(folder, wandb=options))
    (run,) = records(folder)
    start = next(record["run"] for record in run if record["type"] == "run")
    assert start["project"] == "p"
    assert (start["run_id"], start["display_name"]) == ("chosen", "n")
    assert (start["run_group"], start["tags"], start["job_type"]) == ("g", ["t"], "j")
    assert config(run)["more"] == 2
