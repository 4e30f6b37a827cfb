"""Networks and optimisers that a model holds beside those that it saves in its zip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_ext.resume.decoder import Decoder
from sb3_ext.resume.encoder import Encoder
from sb3_ext.resume.tree import Node, instance_attributes


def capture_networks(encoder: Encoder, model: BaseAlgorithm) -> dict[str, Node]:
    """State dicts of those that ``model.save`` leaves out, by attribute: a fixed random feature
    map, say, which a new process would draw anew."""
    names, tensors = model._get_torch_save_params()
    parts = [_part(model, name) for name in (*names, *tensors)]
    # SB3's actor is a part of the policy that is saved, and an optimiser is saved as such or not.
    saved = {id(tensor) for part in parts for tensor in _tensors(part)}
    return {
        name: encoder.encode(dict(held.state_dict()), f"{type(model).__name__}.{name}")
        for name, held in instance_attributes(model)
        if isinstance(held, (th.nn.Module, th.optim.Optimizer))
        and not {id(part) for part in _tensors(held)} <= saved
    }


def restore_networks(decoder: Decoder, saved: Mapping[str, Node], model: BaseAlgorithm) -> None:
    """Put them back into those that the same script made again."""
    for name, node in saved.items():
        held: Any = getattr(model, name, None)
        if isinstance(held, (th.nn.Module, th.optim.Optimizer)):
            held.load_state_dict(decoder.restore(node, None))


def _part(model: BaseAlgorithm, name: str) -> Any:
    part: Any = model
    for step in name.split("."):
        part = getattr(part, step, None)
    return part


def _tensors(part: Any) -> list[Any]:
    """The tensors of a network; an optimiser stands for itself."""
    if isinstance(part, th.nn.Module):
        return [*part.parameters(), *part.buffers()]
    return [part]
