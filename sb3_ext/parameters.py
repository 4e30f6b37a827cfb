"""Networks and optimisers out of a saved model, by torch's loader for tensors: no unpickling."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file

from sb3_ext.algorithms import checkpoints
from sb3_ext.algorithms.composable import Composable
from sb3_ext.errors import CheckpointError


def load_parameters(model: BaseAlgorithm, path: Path) -> None:
    """Put in what the same class saved; all of it, or nothing is right.

    :param model: of the same class and settings
    :param path: a zip of ``model.save``
    :raises CheckpointError: if they do not fit
    """
    checkpoints.inspect(path)  # a damaged file is told from one that does not fit
    try:
        _, states, tensors = load_from_zip_file(path, device=model.device, load_data=False)
        model.set_parameters(states, exact_match=True, device=model.device)
        for name, tensor in (tensors or {}).items():  # such as SAC's log_ent_coef
            target: Any = model
            for part in name.split("."):
                target = getattr(target, part)
            if isinstance(target, th.Tensor):
                target.data.copy_(tensor.data)
    except (ValueError, RuntimeError, KeyError, AttributeError, OSError) as error:
        told = textwrap.shorten(str(error), 200, placeholder=" ...")  # torch lists each tensor
        raise CheckpointError(
            f"{path} does not fit this {type(model).__name__}, which must have the networks and "
            f"settings that it was saved with: {told}"
        ) from error


def warm_start(model: BaseAlgorithm, path: Path) -> None:
    """Begin with the parameters of a saved model.

    One of our classes also takes those of its base, stock SB3's included: what the zip does not
    hold, such as a ratio network, starts fresh.

    :raises CheckpointError: if they do not fit, or the file is no saved model
    """
    summary = checkpoints.inspect(path)
    if not isinstance(model, Composable):
        load_parameters(model, path)
        return
    checkpoints.require_compatible(type(model), summary, str(path))
    with checkpoints.adapting(type(model), summary, {}):
        load_parameters(model, path)
