"""Weights & Biases: runs that start offline, continue under their id, and take SB3's values."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import netrc
import os
import shlex
import shutil
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import torch as th
from stable_baselines3.common.logger import Figure, HParam, Image, KVWriter, filter_excluded_keys

from sb3_ext.tracking.directory import read_json, write_json

if TYPE_CHECKING:
    import wandb

RUN_FILE = "wandb_run.json"
KEPT = ("id", "project", "entity")
# How much a killed process may lose; W&B's own default is 15 seconds.
FLUSH_SECONDS = 1.0


def require_wandb() -> Any:
    """The module ``wandb``, or an error that names the extra."""
    try:
        import wandb
    except ImportError as error:
        raise ImportError(
            'W&B tracking needs wandb, which is not installed: pip install "sb3-ext[tracking]"'
        ) from error
    return wandb


class WandbOutputFormat(KVWriter):
    """One ``run.log`` per dump of SB3's logger, with the values as they are, not as float32.

    The x axis is ``global_step``, a metric of its own. W&B's ``step=`` is never used: it drops rows
    that go back, as after a resume. The run belongs to its maker, who finishes it.
    """

    def __init__(self, run: wandb.Run) -> None:
        self.run = run
        run.define_metric("global_step")
        run.define_metric("*", step_metric="global_step")

    def write(
        self,
        key_values: dict[str, Any],
        key_excluded: dict[str, tuple[str, ...]],
        step: int = 0,
    ) -> None:
        row = {}
        for key, value in filter_excluded_keys(key_values, key_excluded, "wandb").items():
            if isinstance(value, HParam):
                self.run.config.update(  # type: ignore[no-untyped-call]
                    dict(value.hparam_dict), allow_val_change=True
                )
                continue
            try:
                logged = _loggable(value)
            except Exception as error:  # a picture W&B cannot take must not end a training run
                warnings.warn(f"W&B did not get {key!r}: {error}", stacklevel=2)
                continue
            if logged is not None:
                row[key] = logged
        if row:
            self.run.log({**row, "global_step": step})

    def close(self) -> None:
        """Nothing to do: a second ``learn`` may log to the same run."""


def _loggable(value: Any) -> Any:
    """The value as ``run.log`` takes it; ``None`` for a kind that is not sent (video)."""
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (np.generic, np.ndarray, th.Tensor)):
        if value.ndim == 0:
            return value.item()
        return require_wandb().Histogram(np.asarray(value.tolist(), dtype=float).ravel())
    if isinstance(value, Figure):
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(value.figure)  # W&B's own way needs pyplot to be loaded
        canvas.draw()
        picture = require_wandb().Image(np.asarray(canvas.buffer_rgba()))
        if value.close and "matplotlib.pyplot" in sys.modules:
            sys.modules["matplotlib.pyplot"].close(value.figure)
        return picture
    if isinstance(value, Image) and sorted(value.dataformats) in (["C", "H", "W"], ["H", "W"]):
        pixels = np.asarray(value.image)
        order = [value.dataformats.index(axis) for axis in "HWC" if axis in value.dataformats]
        if np.issubdtype(pixels.dtype, np.floating):  # TensorBoard's rule: floats lie in [0, 1]
            pixels = (pixels * 255).clip(0, 255).astype(np.uint8)
        return require_wandb().Image(pixels.transpose(order))
    return None


def start_wandb(
    run_dir: str | Path,
    *,
    name: str | None,
    config: Mapping[str, Any],
    project: str | None = None,
    mode: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
    **options: Any,
) -> wandb.Run:
    """Start a W&B run whose files lie under ``run_dir/wandb``; the caller calls ``finish()``.

    W&B notes the host name, the command line and the machine's load of its own accord; in an
    offline run they stay in these files until ``wandb sync``.

    :param project: by default what ``WANDB_PROJECT`` says, else ``sb3-ext``
    :param mode: ``"offline"``, ``"online"``, ``"shared"`` or ``"disabled"``. By default what
        ``WANDB_MODE`` says, else offline, also where an API key is stored. Where the mode needs an
        API key and none is found, or the server cannot be used, the run is offline, and a line
        says so.
    :param options: further ones of ``wandb.init``, such as ``id`` and ``resume``
    """
    check_options(options)
    mode, why = resolve_mode(mode)
    if why:
        print(why)
    settings: dict[str, Any] = {"console": "off", "silent": True}
    fields = getattr(require_wandb().Settings, "model_fields", {})
    if "x_transaction_log_flush_interval" in fields:  # W&B may rename what begins with "x_"
        settings["x_transaction_log_flush_interval"] = FLUSH_SECONDS
    given = options.pop("settings", None) or {}
    if isinstance(given, Mapping):
        given = require_wandb().Settings(**{**settings, **given})
    Path(run_dir).mkdir(parents=True, exist_ok=True)
    arguments = {
        # Absolute: W&B's service writes it, and stays in the folder where the first run began.
        "dir": str(Path(run_dir).absolute()),
        **options,
        "name": name,
        "config": dict(config),
        "project": project or os.environ.get("WANDB_PROJECT") or "sb3-ext",
        "group": group,
        "tags": list(tags) or None,
    }
    try:
        run: wandb.Run = require_wandb().init(**arguments, mode=mode, settings=given)
    except require_wandb().errors.CommError as error:
        if mode == "offline":
            raise
        # The server is away, or refuses the key: the training goes on, and nothing is lost.
        print(f"W&B: the server could not be used ({str(error).splitlines()[0]}), so: offline.")
        run = require_wandb().init(**arguments, mode="offline", settings=given)
    return run


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse what is no option of ``wandb.init``, with the near miss."""
    known = set(inspect.signature(require_wandb().init).parameters)
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"wandb.init has no option {name!r}{hint}")


def resolve_mode(asked: str | None = None) -> tuple[str, str]:
    """The mode of a new run, and a sentence if it is not what was asked for.

    Asked for is what the caller says, then what ``WANDB_MODE`` says, then offline.
    """
    mode = asked or os.environ.get("WANDB_MODE") or "offline"
    if mode in ("online", "shared", "run") and not has_api_key():
        return "offline", f"W&B: mode {mode!r} needs an API key and none was found, so: offline."
    return mode, ""


def has_api_key() -> bool:
    """Whether credentials for W&B's server lie where ``wandb login`` and its manual put them."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    server = os.environ.get("WANDB_BASE_URL") or require_wandb().Settings().base_url
    host = urlsplit(server).hostname
    candidates = (os.environ.get("NETRC") or "~/.netrc", "~/_netrc")
    for path in (Path(candidate).expanduser() for candidate in candidates):
        try:
            if host in netrc.netrc(path).hosts:
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def sync_command(run: wandb.Run) -> str:
    """The command that uploads all that offline processes left of this run, in their order."""
    folder = Path(run.settings.sync_dir).parent
    with contextlib.suppress(ValueError):
        folder = folder.relative_to(Path.cwd())
    return f"wandb sync {shlex.quote(str(folder))}/offline-run-*-{run.id}*"


def remember_run(run: wandb.Run, folder: Path) -> None:
    """Keep the run's id in the folder, for the process that resumes it."""
    kept = {key: getattr(run, key) for key in KEPT if getattr(run, key)}
    write_json(folder / RUN_FILE, kept)


def remembered_run(folder: Path) -> dict[str, Any]:
    """The options of ``wandb.init`` that continue the run of a folder; empty for a new one."""
    if not (folder / RUN_FILE).exists():
        return {}
    kept = read_json(folder / RUN_FILE)
    return {**{key: kept[key] for key in KEPT if key in kept}, "resume": "allow"}


class BestModel:
    """Sends a file as a model artifact whenever it has changed.

    An offline run uploads its artifacts at ``wandb sync``, which may be weeks later, so a copy of
    each version stays in the folder. W&B's own copies would lie outside the run directory.
    """

    def __init__(self, run: wandb.Run, path: Path, folder: Path) -> None:
        self.run, self.path, self.folder = run, path, folder
        self._seen = self._stamp()

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_size

    def send_if_changed(self, step: int) -> None:
        """Log the artifact if the file is another one than before."""
        stamp = self._stamp()
        if stamp is None or stamp == self._seen:
            return
        self._seen = stamp
        self.folder.mkdir(exist_ok=True)
        kept = self.folder / f"step-{step:010d}{self.path.suffix}"
        shutil.copy2(self.path, kept)
        artifact = require_wandb().Artifact(
            f"best-model-{self.run.id}", type="model", metadata={"global_step": step}
        )
        artifact.add_file(str(kept), name=self.path.name, policy="immutable", skip_cache=True)
        self.run.log_artifact(artifact, aliases=["best"])
