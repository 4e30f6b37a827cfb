"""Where a study is kept, and the sentence where it cannot be."""

from __future__ import annotations

import socket
import threading
import warnings

import optuna
import pytest

from sb3_ext.errors import UsageError
from sb3_ext.tuning.storage import masked, open_storage


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_a_path_is_a_journal_that_optuna_s_own_tools_read(tmp_path):
    path = tmp_path / "deep" / "study.log"
    optuna.create_study(storage=open_storage(path), study_name="s").enqueue_trial({"x": 1})
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    again = optuna.load_study(storage=optuna.storages.JournalStorage(backend), study_name="s")
    assert len(again.trials) == 1


def test_a_server_in_front_of_a_database_takes_a_study(tmp_path):
    port = free_port()
    behind = open_storage(f"sqlite:///{tmp_path / 'study.db'}")

    def serve() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optuna.storages.run_grpc_proxy_server(behind, host="127.0.0.1", port=port)

    threading.Thread(target=serve, daemon=True).start()
    study = optuna.create_study(storage=open_storage(f"grpc://127.0.0.1:{port}"), study_name="s")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    assert len(optuna.load_study(storage=behind, study_name="s").trials) == 3


@pytest.mark.parametrize(
    ("where", "told"),
    [
        (
            "postgresql+nodriver://me:secret@127.0.0.1/db",
            r"me:\*\*\*@127.0.0.1/db cannot be",
        ),
        ("sqlite:////nowhere/at/all/study.db", "cannot be opened .*unable to open database file"),
        ("grpc://127.0.0.1", "a server is written grpc://host:port"),
        ("/proc/study.log", "cannot be opened"),
    ],
)
def test_what_cannot_be_reached_is_one_sentence(where, told):
    with pytest.raises(UsageError, match=told) as caught:
        open_storage(where)
    assert "secret" not in str(caught.value)


def test_no_server_is_told(monkeypatch):
    wait = optuna.storages.GrpcStorageProxy.wait_server_ready
    monkeypatch.setattr(
        optuna.storages.GrpcStorageProxy,
        "wait_server_ready",
        lambda self, timeout: wait(self, timeout=0.2),
    )
    with pytest.raises(UsageError, match=r"no server answers at grpc://127\.0\.0\.1:"):
        open_storage(f"grpc://127.0.0.1:{free_port()}")


def test_a_password_is_not_shown():
    assert masked("postgresql://me:secret@host:5432/db") == "postgresql://me:***@host:5432/db"
    assert masked("postgresql://me@host/db") == "postgresql://me@host/db"
    assert masked("studies/a/study.log") == "studies/a/study.log"
