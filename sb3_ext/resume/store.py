"""Checkpoints on disk: whole or not there.

A checkpoint is a folder ``checkpoints/step-000012000`` of plain files. It is written under another
name, flushed, and renamed; whatever happens on the way, the one before it is still there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sb3_ext.errors import CheckpointError
from sb3_ext.resume.tree import Node

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FORMAT = 1
FOLDER = "checkpoints"
MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d+)")
#: Folders that this process trains in, and the handles that hold them.
_locks: dict[str, int] = {}
#: What was told of damaged checkpoints; whoever asks again need not hear it again.
_told: set[str] = set()
#: Checkpoints that were found damaged: they neither count among those that are kept nor go.
_damaged: set[Path] = set()
#: From this size on, an array is a file of its own, read without a second copy in memory.
LARGE = 1 << 20


def latest_checkpoint(run_dir: str | Path) -> Path | None:
    """The newest whole checkpoint of a run directory, or None."""
    for path in reversed(_checkpoints(Path(run_dir))):
        fault = _fault(path)
        if fault is None:
            return path
        _damaged.add(path)
        told = f"the checkpoint {path} is passed over: {fault}"
        if told not in _told:
            _told.add(told)
            warnings.warn(told, stacklevel=2)
    return None


def checkpoint_to_resume(run_dir: str | Path) -> Path | None:
    """The newest whole checkpoint; None where there has never been one.

    :raises CheckpointError: if all are damaged: beginning again would drop what is left of them
    """
    newest = latest_checkpoint(run_dir)
    if newest is None and (damaged := _checkpoints(Path(run_dir))):
        raise CheckpointError(
            f"none of the {len(damaged)} checkpoints in {run_dir} is whole, so the run cannot go "
            f"on: {damaged[-1].name}: {_fault(damaged[-1])}. Restore one, or give another run_dir"
        )
    return newest


def lock_folder(folder: Path) -> None:
    """Keep other processes from training in the same folder, until ``unlock_folder`` or the end.

    The lock is the system's, on the folder itself: a killed process leaves none behind.

    :raises CheckpointError: if another process holds it
    """
    key = os.path.realpath(folder)
    if fcntl is None or key in _locks:
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise CheckpointError(
            f"another process is training in {folder}, or a Python session that did is still open: "
            "wait for it, stop it, or give another folder"
        ) from error
    except OSError:  # a file system without locks
        os.close(handle)
        return
    _locks[key] = handle


def _leave_locks_to_the_parent() -> None:
    """In a forked child: its copies of the handles would outlive a killed parent."""
    while _locks:
        os.close(_locks.popitem()[1])


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_locks_to_the_parent)


def unlock_folder(folder: Path) -> None:
    """Let others train there; if this process does not, nothing happens."""
    handle = _locks.pop(os.path.realpath(folder), None)
    if handle is not None:
        os.close(handle)


def require_folder(run_dir: Path) -> None:
    """Make the folder of the checkpoints.

    :raises OSError: with a sentence, if it cannot be made or written to
    """
    try:
        (run_dir / FOLDER).mkdir(parents=True, exist_ok=True)
        probe = run_dir / FOLDER / ".draft-probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise type(error)(
            f"no checkpoints can be written to {run_dir}: {error.strerror}; choose another run_dir"
        ) from error


def write_checkpoint(
    run_dir: str | Path, step: int, fill: Callable[[Path], None], *, keep: int
) -> Path:
    """Write one whole or not at all, then drop all but the newest ``keep``.

    :param fill: writes the files into the folder that it is given
    :raises OSError: if it cannot be written; the older ones are left as they were
    """
    parent = Path(run_dir) / FOLDER
    parent.mkdir(parents=True, exist_ok=True)
    for old in parent.glob(".draft-*"):  # of a run that was killed while it wrote
        shutil.rmtree(old, ignore_errors=True)
    draft, target = parent / f".draft-{step:09d}", parent / f"step-{step:09d}"
    draft.mkdir()
    try:
        fill(draft)
        files = {path.name: _fingerprint(path) for path in sorted(draft.iterdir())}
        manifest = {"format": FORMAT, "num_timesteps": step, "files": files}
        (draft / MANIFEST).write_text(json.dumps(manifest, indent=1))
        for path in draft.iterdir():
            _flush(path)
        _flush(draft)
        if target.exists():  # the same step again, after a resume
            shutil.rmtree(target)
        os.rename(draft, target)
        _flush(parent)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    _damaged.discard(target)
    others = [one for one in _checkpoints(Path(run_dir)) if one not in {target, *_damaged}]
    for old in others[: max(0, len(others) - keep + 1)]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def write_state(folder: Path, tree: Node, arrays: list[np.ndarray]) -> None:
    """Write a tree and its arrays as ``state.json``, ``arrays.npz`` and ``array-N.npy``."""
    (folder / "state.json").write_text(json.dumps(tree))
    small = {}
    for number, array in enumerate(arrays):
        if array.nbytes < LARGE:
            small[str(number)] = array
        else:
            np.save(folder / f"array-{number}.npy", array, allow_pickle=False)
    np.savez(folder / "arrays.npz", **small)  # type: ignore[arg-type]


def read_state(folder: Path) -> tuple[Node, Mapping[int, np.ndarray]]:
    """The tree and the arrays of ``write_state``; large arrays stay on disk until they are used."""
    tree = json.loads((folder / "state.json").read_text())
    with np.load(folder / "arrays.npz", allow_pickle=False) as small:
        arrays = {int(name): small[name] for name in small.files}
    for path in folder.glob("array-*.npy"):
        number = int(path.stem.partition("-")[2])
        arrays[number] = np.load(path, mmap_mode="r", allow_pickle=False)
    return tree, arrays


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the checkpoint says about itself."""
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder} is of format {manifest.get('format')}, this sb3-ext reads format {FORMAT}: "
            "resume with the version that wrote it"
        )
    return manifest


def _checkpoints(run_dir: Path) -> list[Path]:
    """All checkpoints, oldest first."""
    found = []
    for path in (run_dir / FOLDER).glob("step-*"):
        match = _NAME.fullmatch(path.name)
        if match and path.is_dir():
            found.append((int(match[1]), path))
    return [path for _, path in sorted(found)]


def _fault(path: Path) -> str | None:
    try:
        files = json.loads((path / MANIFEST).read_text())["files"]
        files = {name: (int(size), int(checksum)) for name, (size, checksum) in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "it has no readable manifest.json"
    for name, (size, checksum) in files.items():
        # Names are the manifest's, and must stay inside the folder.
        if Path(name).name != name or not (path / name).is_file():
            return f"its file {name} is missing"
        found, computed = _fingerprint(path / name)
        if found != size:
            return f"its file {name} has {found} bytes instead of {size}"
        if computed != checksum:
            return f"its file {name} is damaged"
    return None


def _fingerprint(path: Path) -> tuple[int, int]:
    """Size and checksum; against damage, not against malice."""
    checksum = 0
    with path.open("rb") as file:
        while part := file.read(1 << 22):
            checksum = zlib.crc32(part, checksum)
    return path.stat().st_size, checksum


def _flush(path: Path) -> None:
    """Ask the system to have it on the disk: a rename must not overtake what it names."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
