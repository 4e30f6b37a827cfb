"""What a run was and what it logged: the run directory, SB3's logger, Weights & Biases.

Nothing is sent anywhere unasked: W&B runs are offline unless the caller or ``WANDB_MODE`` says
otherwise, and ``wandb sync`` uploads them later.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import inspect
import json
import math
import os
import platform
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import (
    Figure,
    HParam,
    Image,
    KVWriter,
    Logger,
    filter_excluded_keys,
    make_output_format,
)

from sb3_ext.signatures import constructor_arguments

if TYPE_CHECKING:
    import wandb

DISTRIBUTIONS = ("sb3-ext", "stable_baselines3", "torch", "gymnasium", "mujoco", "numpy")


def _wandb() -> Any:
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
        return _wandb().Histogram(np.asarray(value.tolist(), dtype=float).ravel())
    if isinstance(value, Figure):
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(value.figure)  # W&B's own way needs pyplot to be loaded
        canvas.draw()
        picture = _wandb().Image(np.asarray(canvas.buffer_rgba()))
        if value.close and "matplotlib.pyplot" in sys.modules:
            sys.modules["matplotlib.pyplot"].close(value.figure)
        return picture
    if isinstance(value, Image) and sorted(value.dataformats) in (["C", "H", "W"], ["H", "W"]):
        pixels = np.asarray(value.image)
        order = [value.dataformats.index(axis) for axis in "HWC" if axis in value.dataformats]
        if np.issubdtype(pixels.dtype, np.floating):  # TensorBoard's rule: floats lie in [0, 1]
            pixels = (pixels * 255).clip(0, 255).astype(np.uint8)
        return _wandb().Image(pixels.transpose(order))
    return None


def start_wandb(
    run_dir: str | Path,
    *,
    name: str,
    config: Mapping[str, Any],
    project: str = "sb3-ext",
    mode: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
) -> wandb.Run:
    """Start a W&B run whose files lie under ``run_dir/wandb``; the caller calls ``finish()``.

    W&B notes the host name, the command line and the machine's load of its own accord; in an
    offline run they stay in these files until ``wandb sync``.

    :param mode: ``"offline"``, ``"online"``, ``"shared"`` or ``"disabled"``. By default what
        ``WANDB_MODE`` says, else offline, also where an API key is stored.
    """
    init, settings = _wandb().init, _wandb().Settings(console="off", silent=True)
    mode = mode or os.environ.get("WANDB_MODE") or "offline"
    Path(run_dir).mkdir(parents=True, exist_ok=True)
    run: wandb.Run = init(
        dir=str(run_dir),
        name=name,
        config=dict(config),
        project=project,
        mode=mode,
        group=group,
        tags=list(tags),
        settings=settings,
    )
    return run


def run_logger(
    run_dir: str | Path,
    *,
    wandb_run: wandb.Run | None = None,
    tensorboard: bool | None = None,
    verbose: int = 0,
) -> Logger:
    """SB3's logger for a run: ``progress.csv``, ``tensorboard/`` and, if given, a W&B run.

    :param tensorboard: by default, where it is installed
    :param verbose: from 1 on, SB3's table is printed too
    """
    folder = Path(run_dir)
    installed = importlib.util.find_spec("tensorboard") is not None
    if tensorboard and not installed:
        raise ImportError(
            "TensorBoard logs need tensorboard, which is not installed: "
            'pip install "sb3-ext[tracking]"'
        )
    writers = [make_output_format("csv", str(folder))]
    if installed if tensorboard is None else tensorboard:
        writers.append(make_output_format("tensorboard", str(folder / "tensorboard")))
    if wandb_run is not None:
        writers.append(WandbOutputFormat(wandb_run))
    if verbose > 0:
        writers.append(make_output_format("stdout", str(folder)))
    return Logger(str(folder), writers)


def model_config(model: BaseAlgorithm) -> dict[str, Any]:
    """What identifies a run, ready for JSON: algorithm, environment, hyperparameters, versions.

    Hyperparameters are the constructor's arguments, over all classes of the model, as the model
    holds them. A class or function is given as ``module:name``, a dataclass by its fields; what
    has no plain form is left out.
    """
    env = model.get_env()
    specs = env.get_attr("spec") if env is not None else []
    hyperparameters = {}
    elsewhere = {"env", "seed", "verbose", "tensorboard_log", "_init_setup_model"}
    for name in constructor_arguments(type(model)):
        if name not in elsewhere and hasattr(model, name):
            value = _plain(getattr(model, name))
            if value is not _NOT_PLAIN:
                hyperparameters[name] = value
    hyperparameters["policy"] = _name(type(model.policy))
    return {
        "algorithm": _name(type(model)),
        "env": next((spec.id for spec in specs if spec is not None), None),
        "n_envs": model.n_envs,
        "seed": model.seed,
        "hyperparameters": hyperparameters,
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for distribution in DISTRIBUTIONS:
        try:
            versions[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


_NOT_PLAIN = object()


def _name(value: Any) -> str:
    return f"{value.__module__}:{value.__qualname__}"


def _plain(value: Any) -> Any:
    """The value in JSON's types, or ``_NOT_PLAIN``."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no infinity
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, th.device):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {"name": type(value).__name__, **_plain(fields)}
    if isinstance(value, Mapping):
        items = {str(key): _plain(item) for key, item in value.items()}
        return {key: item for key, item in items.items() if item is not _NOT_PLAIN}
    if isinstance(value, (tuple, list)):
        plain = [_plain(getattr(item, "value", item)) for item in value]
        return _NOT_PLAIN if any(item is _NOT_PLAIN for item in plain) else plain
    if isinstance(value, type) or inspect.isfunction(value):
        return _name(value)
    return _NOT_PLAIN


@dataclass(frozen=True)
class RunDirectory:
    """One folder for one run, whose files :func:`run_logger` and SB3's callbacks name."""

    path: Path

    @classmethod
    def create(cls, path: str | Path, *, exist_ok: bool = False) -> RunDirectory:
        """Make the folder; one that already holds files is refused unless ``exist_ok``."""
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise FileExistsError(f"the run directory {path} is a file; choose another name")
        if not exist_ok and path.exists() and any(path.iterdir()):
            raise FileExistsError(
                f"the run directory {path} already holds a run; choose another name or remove it"
            )
        path.mkdir(parents=True, exist_ok=True)
        return cls(path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def write_config(self, config: Mapping[str, Any], name: str = "config.json") -> Path:
        """Write the config whole or not at all: a killed process leaves no half a file."""
        target, draft = self / name, self / f".{name}.draft"
        draft.write_text(json.dumps(config, indent=2) + "\n")
        os.replace(draft, target)
        return target
