"""`sb3-ext doctor`: whether this installation works, and what to do where it does not."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import importlib.metadata
import io
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sb3_ext import __version__
from sb3_ext.cli.diagnosis import Row, sentence, split
from sb3_ext.cli.parsing import add_command
from sb3_ext.cli.plugin_checks import plugin_rows
from sb3_ext.registry import NOT_INSTALLED, OWN_DISTRIBUTION

MORE = """\
The exit code is 1 if something that is needed is broken: a requirement that is missing, does not
import or has a version that does not fit, MuJoCo, the folder for temporary files, a device that
is there and cannot compute, or a plugin. Optional parts may be missing."""
ENV = "Hopper-v5"
#: Distribution -> the module to import, where the name tells otherwise.
MODULES = {"pyyaml": "yaml", "ale-py": "ale_py"}
#: What is optional: its use and the line that installs it.
OPTIONAL = {
    "wandb": ("W&B tracking", 'pip install "sb3-ext[tracking]"'),
    "tensorboard": ("TensorBoard logs", 'pip install "sb3-ext[tracking]"'),
    "optuna": ("tuning", 'pip install "sb3-ext[tuning]"'),
    "h5py": ("offline data in HDF5", 'pip install "sb3-ext[offline]"'),
    "minari": ("Minari datasets", 'pip install "sb3-ext[offline]"'),
    "ale-py": ("Atari's games", 'pip install "sb3-ext[atari]"'),
    "rl_zoo3": ("RL Zoo", 'pip install "sb3-ext[zoo]"'),
    # With its dependencies it would bring SB3 back to 2.2.
    "imitation": ("GAIL, AIRL, BC and DAgger", "pip install --no-deps imitation==1.0.1"),
    "imageio": ("videos", "pip install imageio"),
}
#: What changes other packages when it is imported (Gymnasium's TimeLimit): not in this process.
PATCHING = frozenset({"rl_zoo3"})
TRIED_IMITATION = "1.0.1"


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "doctor",
        "check this installation",
        examples=("doctor", "doctor --json"),
        more=MORE,
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check everything, and print."""
    rows = examine()
    healthy = all(row.fine for row in rows)
    last = _last_line(rows)
    if arguments.json:
        checks = [dataclasses.asdict(row) for row in rows]
        print(json.dumps({"ok": healthy, "summary": last, "checks": checks}, indent=2))
    else:
        _print(rows)
        print(f"\n{last}")
    return 0 if healthy else 1


def examine() -> list[Row]:
    """Every check's rows; an error inside one is its row, and never ends another."""
    checks: dict[tuple[str, str], Callable[[], Iterator[Row]]] = {
        ("versions", "system"): _system,
        ("versions", "requirements"): _requirements,
        ("devices", "devices"): _devices,
        ("optional parts", "optional parts"): _optional,
        ("checks", ENV): _mujoco,
        ("checks", "temporary folder"): _temporary_folder,
        ("plugins", "plugins"): plugin_rows,
    }
    remedies = {
        ENV: 'pip install --upgrade "gymnasium[mujoco]"',
        "temporary folder": "make room there, or name another folder in TMPDIR",
        "requirements": "pip install packaging",
    }
    rows: list[Row] = []
    # What packages say while they are imported is not our report.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for (part, name), check in checks.items():
            try:
                for row in check():
                    rows.append(row)
            except (Exception, SystemExit) as error:
                told, remedy = sentence(error), remedies.get(name, "")
                rows.append(Row(part, name, "broken", told, remedy, needed=True))
    return rows


def _system() -> Iterator[Row]:
    yield Row("versions", "platform", "ok", f"{platform.platform()}, {platform.machine()}")
    yield Row("versions", "sb3-ext", "ok", __version__)
    metadata = _own_metadata()
    wanted = metadata.get("Requires-Python", "") if metadata else ""
    running = platform.python_version()
    if not wanted or _fits(running, wanted):
        yield Row("versions", "python", "ok", running)
    else:
        told, remedy = f"{running}, but sb3-ext needs {wanted}", f"install Python {wanted}"
        yield Row("versions", "python", "broken", told, remedy, needed=True)


def _requirements() -> Iterator[Row]:
    """All that setup.cfg requires, and MuJoCo, which gymnasium's extra of that name requires."""
    metadata = _own_metadata()
    if metadata is None:
        yield Row("versions", "requirements", "missing", *split(NOT_INSTALLED), needed=True)
        return
    from packaging.requirements import Requirement

    for wanted in map(Requirement, metadata.get_all("Requires-Dist") or ()):
        if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
            yield _requirement(wanted)
    try:
        lines = importlib.metadata.requires("gymnasium") or []
    except importlib.metadata.PackageNotFoundError:
        return  # its own row says so
    for wanted in map(Requirement, lines):
        if (
            wanted.name == "mujoco"
            and wanted.marker
            and wanted.marker.evaluate({"extra": "mujoco"})
        ):
            yield _requirement(wanted, install='pip install "gymnasium[mujoco]"')


def _requirement(wanted: Any, install: str = "") -> Row:
    name = wanted.name.replace("-", "_")
    text = str(wanted).partition(";")[0].strip()
    install = install or f"pip install {shlex.quote(text)}"
    try:
        version = importlib.metadata.version(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        return Row("versions", name, "missing", "", install, needed=True)
    if not _fits(version, str(wanted.specifier)):
        told = f"{version}, but {text} is needed"
        return Row("versions", name, "broken", told, install, needed=True)
    told = _import_fault(MODULES.get(wanted.name.lower(), name))
    if told:
        again = f"pip install --force-reinstall {shlex.quote(text)}"
        return Row("versions", name, "broken", f"{version}; {told}", again, needed=True)
    return Row("versions", name, "ok", version, needed=True)


def _devices() -> Iterator[Row]:
    import torch as th

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    told = f"{os.cpu_count()} cores, {usable} for this process; torch uses {th.get_num_threads()}"
    yield Row("devices", "cpu", "ok", told)
    n_cuda = th.cuda.device_count() if th.cuda.is_available() else 0
    for i in range(n_cuda):
        yield _device(th, f"cuda:{i}", th.cuda.get_device_name(i))
    if not n_cuda:
        built = (
            f"torch is built for CUDA {th.version.cuda}" if th.version.cuda else "CPU-only torch"
        )
        yield Row("devices", "cuda", "none", built)
    if th.backends.mps.is_available():
        yield _device(th, "mps", "Apple's Metal")
    else:
        yield Row("devices", "mps", "none")


def _device(th: Any, name: str, told: str) -> Row:
    """A device that is there must compute, because SB3's device="auto" takes it."""
    try:
        if float(th.ones(2, device=name).sum()) == 2.0:
            return Row("devices", name, "ok", told, needed=True)
        fault = "1 + 1 is not 2 there"
    except Exception as error:
        fault = sentence(error)
    remedy = "train with --device cpu, or install a torch that fits the driver"
    return Row("devices", name, "broken", f"{told}; {fault}", remedy, needed=True)


def _optional() -> Iterator[Row]:
    for name, (use, install) in OPTIONAL.items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Row("optional parts", name, "missing", f"for {use}", install)
            continue
        fault = _import_fault(MODULES.get(name, name), apart=name in PATCHING)
        if fault:
            yield Row("optional parts", name, "broken", f"{version}; {fault}", install)
            continue
        told = version
        if name == "imitation":
            told += f"; {_caveat(version)}"
        yield Row("optional parts", name, "ok", told)


def _caveat(version: str) -> str:
    """Why pip complains about imitation, and what of it works nevertheless."""
    from packaging.requirements import Requirement

    wanted = map(Requirement, importlib.metadata.requires("imitation") or ())
    sb3 = next((str(one.specifier) for one in wanted if "baselines3" in one.name), "any SB3")
    running = importlib.metadata.version("stable-baselines3")
    told = f"its metadata wants SB3 {sb3}, running {running}: "
    if version != TRIED_IMITATION:
        return f"{told}only {TRIED_IMITATION} was tried with it"
    return (
        f"{told}BC, GAIL, AIRL and DAgger are supported, its SQIL and the functions that reload "
        "files not; pip check goes on naming the difference"
    )


def _mujoco() -> Iterator[Row]:
    import gymnasium as gym
    import numpy as np

    env = gym.make(ENV)
    try:
        env.reset(seed=0)
        env.action_space.seed(0)
        for _ in range(3):
            observation, *_ = env.step(env.action_space.sample())
    finally:
        env.close()
    if not np.isfinite(observation).all():
        raise ValueError("observations must be finite, and MuJoCo gave others")
    yield Row("checks", ENV, "ok", "MuJoCo makes and steps it", needed=True)


def _temporary_folder() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "written"
        file.write_bytes(b"0" * 4096)
        if file.stat().st_size != 4096:
            raise OSError(f"a file in {folder} is shorter than what was written")
    yield Row("checks", "temporary folder", "ok", tempfile.gettempdir(), needed=True)


def _own_metadata() -> Any:
    """What setup.cfg said when this was installed; None in a bare checkout."""
    try:
        return importlib.metadata.metadata(OWN_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return None


def _fits(version: str, wanted: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(wanted).contains(version, prereleases=True)


def _import_fault(module: str, *, apart: bool = False) -> str:
    """Why a module does not import; nothing if it does.

    :param apart: try it in a process of its own
    """
    if apart:
        command = [sys.executable, "-c", f"import {module}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return f"it does not import: {last}" if done.returncode else ""
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:
        return f"it does not import: {sentence(error)}"
    return ""


def _last_line(rows: Sequence[Row]) -> str:
    if wrong := [row.name for row in rows if not row.fine]:
        return f"not well: {', '.join(dict.fromkeys(wrong))}; above stands what to do about it"
    absent = [row.name for row in rows if row.status in ("missing", "broken")]
    needs = [row.name for row in rows if row.status.startswith("needs ")]
    if absent or needs:
        return f"all is well; optional, and not usable here: {', '.join([*absent, *needs])}"
    return "all is well"


def _print(rows: Sequence[Row]) -> None:
    """A heading and lines for each part; in pipes and files every row is whole on its line."""
    # rich is a requirement: it may be what is missing.
    if sys.stdout.isatty() and not _import_fault("rich.table"):
        _print_table(rows)
        return
    names, statuses = (max(len(word) for word in words) for words in _words(rows))
    for i, row in enumerate(rows):
        if i == 0 or row.part != rows[i - 1].part:
            print(f"{chr(10) if i else ''}{row.part}")
        line = f"  {row.name:{names}}  {row.status:{statuses}}  {_told(row)}"
        print(line.rstrip())


def _print_table(rows: Sequence[Row]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    names, statuses = (max(len(word) for word in words) for words in _words(rows))
    for part in dict.fromkeys(row.part for row in rows):
        table = Table(
            title=part, box=None, show_header=False, title_style="bold", title_justify="left"
        )
        table.add_column(min_width=names, no_wrap=True)
        table.add_column(min_width=statuses, no_wrap=True)
        table.add_column(overflow="fold")
        for row in rows:
            if row.part == part:
                style = "green" if row.status == "ok" else "dim" if row.fine else "red"
                if row.fine and row.remedy:
                    style = "yellow"
                # Text: no markup in others' words
                table.add_row(Text(row.name), Text(row.status, style=style), Text(_told(row)))
        console.print(table)
        if part != rows[-1].part:
            console.print()


def _words(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    return [row.name for row in rows], [row.status for row in rows]


def _told(row: Row) -> str:
    return f"{row.told}; do: {row.remedy}".removeprefix("; ") if row.remedy else row.told
