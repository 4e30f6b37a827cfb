"""Offline unless asked; without a key, without a server and without any network."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from sb3_ext.tracking import start_wandb
from sb3_ext.tracking.wandb_runs import has_api_key, resolve_mode
from tests.tracking.runs import exit_code, history, records


@pytest.fixture(autouse=True)
def _bare(tmp_path, monkeypatch):
    for variable in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)


def test_a_key_is_found_where_wandb_login_puts_it(tmp_path, monkeypatch):
    import wandb

    host = wandb.Settings().base_url.removeprefix("https://")
    assert not has_api_key()
    (tmp_path / ".netrc").write_text("machine other.example\n  login user\n  password x\n")
    assert not has_api_key()
    (tmp_path / ".netrc").write_text("not a netrc\n")
    assert not has_api_key()
    (tmp_path / ".netrc").write_text(f"machine {host}\n  login user\n  password {'0' * 40}\n")
    assert has_api_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://other.example")
    assert not has_api_key()
    (tmp_path / ".netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert has_api_key()


def test_without_a_key_the_run_is_offline_and_a_line_says_so(tmp_path, monkeypatch, capsys):
    assert resolve_mode() == ("offline", "")
    assert resolve_mode("disabled") == ("disabled", "")
    for mode in ("online", "shared"):
        found, why = resolve_mode(mode)
        assert found == "offline"
        assert why == f"W&B: mode {mode!r} needs an API key and none was found, so: offline."
    monkeypatch.setenv("WANDB_MODE", "online")
    assert resolve_mode()[0] == "offline"
    assert resolve_mode("offline") == ("offline", "")
    run = start_wandb(tmp_path, name="n", config={})
    run.finish()
    assert run.offline
    assert "needs an API key" in capsys.readouterr().out


def test_a_server_that_is_away_does_not_stop_the_training(tmp_path, monkeypatch, capsys):
    import wandb

    real = wandb.init

    def init(**options):
        if options["mode"] == "online":
            raise wandb.errors.CommError("timed out\nsecond line")
        return real(**options)

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    run = start_wandb(tmp_path, name="n", config={}, mode="online")
    run.finish()
    assert run.offline
    told = capsys.readouterr().out
    assert told == "W&B: the server could not be used (timed out), so: offline.\n"


def test_the_project_of_the_environment(tmp_path, monkeypatch):
    import wandb

    seen = []
    monkeypatch.setattr(wandb, "init", lambda **options: seen.append(options["project"]))
    start_wandb(tmp_path, name="n", config={})
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    start_wandb(tmp_path, name="n", config={})
    start_wandb(tmp_path, name="n", config={}, project="given")
    assert seen == ["sb3-ext", "mine", "given"]


# wandb-core is another program, so Python's sockets alone prove little: where the kernel allows
# it, the process gets a network namespace without any interface.
NO_NETWORK = """
import ipaddress, json, socket, sys

def local(address):
    try:
        return isinstance(address, (str, bytes)) or ipaddress.ip_address(address[0]).is_loopback
    except ValueError:
        return address[0] == "localhost"

def guarded(connect):
    def only_local(self, address):
        if not local(address):
            tried.append(repr(address))
            raise OSError(f"no network in this test: {address}")
        return connect(self, address)
    return only_local

tried = []
real = socket.socket.connect, socket.socket.connect_ex
socket.socket.connect, socket.socket.connect_ex = map(guarded, real)
try:
    socket.create_connection(("192.0.2.1", 80), timeout=1)
    raise SystemExit("the guard is not there")
except OSError:
    tried.clear()

from stable_baselines3.common.logger import Logger
from sb3_ext.tracking import Track
from tests.tracking.runs import Memory, sac

memory = Memory()
model = sac()
model.set_logger(Logger(None, [memory]))
model.learn(210, callback=Track(sys.argv[1], wandb=True, verbose=0), log_interval=1)
print(json.dumps({"rows": memory.rows, "tried": tried}, default=float))
"""


@pytest.mark.slow
def test_it_runs_with_no_network_at_all(tmp_path):
    wall = ["unshare", "--map-root-user", "--net"]
    if not shutil.which("unshare") or subprocess.run([*wall, "true"], check=False).returncode:
        wall = []
    ended = subprocess.run(
        [*wall, sys.executable, "-c", NO_NETWORK, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    told = json.loads(ended.stdout.splitlines()[-1])
    assert told["tried"] == []
    (run,) = records(tmp_path / "run")
    assert history(run) == told["rows"]
    assert len(told["rows"]) == 1
    assert exit_code(run) == 0
