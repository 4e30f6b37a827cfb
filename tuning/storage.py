"""Where a study is kept: a file, a database, or a server in front of one."""

from __future__ import annotations

import json
import re
import time
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import optuna
import sqlalchemy
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from sb3_ext.errors import UsageError

_SCHEME = re.compile(r"[a-z][a-z0-9+]*://", re.IGNORECASE)


def open_storage(where: str | Path) -> BaseStorage:
    """A storage of Optuna's.

    :param where: the path of a journal file, which several processes of one machine may share; the
        URL of a database (``sqlite:///study.db``, ``postgresql+psycopg://user@host/db``); or
        ``grpc://host:port`` of a server that ``optuna.storages.run_grpc_proxy_server`` runs
    :raises UsageError: if it cannot be reached, with the reason
    """
    text = str(where)
    try:
        if not _SCHEME.match(text):
            _require_journal(Path(text))
            Path(text).parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(text))
        if text.lower().startswith("grpc://"):
            return _behind_server(text)
        return _database(text)
    except UsageError:
        raise
    except ModuleNotFoundError as error:  # a driver of SQLAlchemy's, or grpcio
        raise UsageError(
            f"the storage {masked(text)} needs the package {error.name}: pip install {error.name}"
        ) from error
    except ImportError as error:  # Optuna's own word for a driver, without its name
        raise UsageError(
            f"the storage {masked(text)} needs a driver that is not installed; for PostgreSQL: pip "
            'install "psycopg[binary]", and postgresql+psycopg:// in the URL'
        ) from error
    except Exception as error:  # each driver has errors of its own
        told = " ".join(str(error).split())[:300]
        raise UsageError(
            f"the storage {masked(text)} cannot be opened ({type(error).__name__}: {told})"
        ) from error


def at_home(where: str | Path) -> str:
    """The address with its path made absolute: a study goes on from any working directory."""
    text = str(where)
    if text.startswith("sqlite:///") and not text.startswith("sqlite:////"):
        path = text.removeprefix("sqlite:///")
        return text if path in ("", ":memory:") else f"sqlite:///{Path(path).absolute()}"
    return text if _SCHEME.match(text) else str(Path(text).absolute())


def is_there(where: str | Path) -> bool:
    """Whether a file is there, which opening would make; of a server, True."""
    text = str(where)
    if text.startswith("sqlite:///"):
        return Path(text.removeprefix("sqlite:///")).is_file()
    return bool(_SCHEME.match(text)) or Path(text).is_file()


def masked(where: str | Path) -> str:
    """The address without its password, to be shown or written."""
    return re.sub(r"(://[^/:@]*):[^@/]*@", r"\1:***@", str(where))


def _require_journal(path: Path) -> None:
    """Refuse a file that is something else: Optuna would write into it, and then fail."""
    if not path.is_file() or not path.stat().st_size:
        return
    with path.open("rb") as file:
        first = file.readline(100_000)
    if first.startswith(b"SQLite format 3"):
        raise UsageError(f"{path} is a database of SQLite: write sqlite:///{path}")
    try:
        journal = "op_code" in json.loads(first)
    except (ValueError, TypeError):
        journal = False
    if not journal:
        raise UsageError(f"{path} is no journal of Optuna's: give a new file, or a URL")


def _database(url: str) -> BaseStorage:
    """A database; where several processes find it empty at one moment, one makes the tables."""
    for attempt in range(5):
        try:
            storage = RDBStorage(url, engine_kwargs=_patience(url))
            if url.startswith("sqlite"):
                _one_at_a_time(storage)
            return storage
        except Exception as error:
            made_meanwhile = type(error).__name__ == "IntegrityError" or "exists" in str(error)
            if attempt == 4 or not made_meanwhile:
                raise
            time.sleep(0.3 * (attempt + 1))
    raise AssertionError("the last attempt returns or raises")


def _one_at_a_time(storage: RDBStorage) -> None:
    """Let a transaction of SQLite begin as a writer: else two may both read a trial as waiting.

    The recipe is SQLAlchemy's, from its page on SQLite.
    """

    def connected(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # pysqlite's own BEGIN comes too late

    def begun(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    sqlalchemy.event.listen(storage.engine, "connect", connected)
    sqlalchemy.event.listen(storage.engine, "begin", begun)
    storage.engine.dispose()  # the connections that were made before


def _patience(url: str) -> dict[str, object]:
    # Several processes on one SQLite file wait for each other instead of failing.
    return {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}


def _behind_server(url: str) -> BaseStorage:
    found = urlsplit(url)
    if not found.hostname or not found.port:
        raise UsageError(f"a server is written grpc://host:port, got {url!r}")
    with warnings.catch_warnings():  # what is experimental about it is in our documents
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = optuna.storages.GrpcStorageProxy(host=found.hostname, port=found.port)
    try:
        storage.wait_server_ready(timeout=10)
    except Exception as error:
        raise UsageError(
            f"no server answers at {url}: start one with optuna.storages.run_grpc_proxy_server"
        ) from error
    return storage
