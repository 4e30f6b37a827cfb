"""The replay buffer in a checkpoint: rows in use only, and back into the same arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_ext.errors import CheckpointError
from sb3_ext.replay.next_observations import NextObservations
from sb3_ext.replay.sampler import Sampler
from sb3_ext.resume.decoder import Decoder
from sb3_ext.resume.encoder import Encoder
from sb3_ext.resume.tree import MISSING, Node, class_name, instance_attributes


def data_of(model: Any) -> Any:
    """What a model learns from: its replay buffer, or minibatches of demonstrations; or None."""
    buffer = getattr(model, "replay_buffer", None)
    return getattr(model, "minibatches", None) if buffer is None else buffer


def rows_in_use(buffer: ReplayBuffer) -> int:
    """Rows in use; one more than transitions, as memory-saving buffers keep s' in the next row."""
    return buffer.buffer_size if buffer.full else min(buffer.pos + 1, buffer.buffer_size)


def capture_buffer(encoder: Encoder, buffer: ReplayBuffer) -> Node:
    """All its arrays, rows that were never written to left out.

    A buffer that cannot be written to says by its ``fingerprint()`` what it holds.
    """
    if hasattr(buffer, "fingerprint"):
        return {"class": class_name(buffer), "fingerprint": buffer.fingerprint()}
    rows, nodes = rows_in_use(buffer), {}
    for name, value in instance_attributes(buffer):
        if name in ("device", "env", "observation_space", "action_space", "obs_shape"):
            continue
        if Sampler in type(value).__mro__:  # it leads back to the buffer
            nodes[name] = {"sampler": encoder.encode(value.state_dict(), name)}
            continue
        parts = value if isinstance(value, dict) else {"": value}
        if parts and all(isinstance(one, NextObservations) for one in parts.values()):
            apart = {key: one.state_dict(rows) for key, one in parts.items()}
            nodes[name] = {"apart": {k: encoder.encode(one, name) for k, one in apart.items()}}
        elif parts and all(_is_by_row(one, buffer) for one in parts.values()):
            cut = {key: one[:rows] for key, one in parts.items()}
            nodes[name] = {"rows": {k: encoder.encode(one, name) for k, one in cut.items()}}
        else:
            node = encoder.encode(value, f"{type(buffer).__name__}.{name}")
            if node is not MISSING:
                nodes[name] = {"whole": node}
    return {"class": class_name(buffer), "nodes": nodes}


def _is_by_row(value: object, buffer: ReplayBuffer) -> bool:
    return (
        isinstance(value, np.ndarray)
        and not value.dtype.hasobject
        and value.ndim > 0
        and len(value) == buffer.buffer_size
    )


def restore_buffer(decoder: Decoder, saved: Node, buffer: ReplayBuffer) -> None:
    """Put the rows back into a buffer that was made alike.

    :raises CheckpointError: if it is of another class or size
    """
    if class_name(buffer) != saved["class"]:
        raise CheckpointError(
            f"the checkpoint holds a {saved['class']}, the model has a {class_name(buffer)}"
        )
    if "fingerprint" in saved:
        if saved["fingerprint"] != buffer.fingerprint():  # type: ignore[attr-defined]
            raise CheckpointError(
                "the checkpoint is of a run on other data: give the dataset of that run"
            )
        return
    for name, node in saved["nodes"].items():
        current = getattr(buffer, name)
        if "sampler" in node:
            current.load_state_dict(decoder.restore(node["sampler"], None))
            continue
        if "whole" in node:
            if name == "buffer_size" and node["whole"] != current:
                raise CheckpointError(
                    f"the checkpoint holds a replay buffer of {node['whole']} rows, the model has "
                    f"one of {current}: use the buffer_size of that run"
                )
            decoder.set_attributes({name: node["whole"]}, buffer)
            continue
        parts = current if isinstance(current, dict) else {"": current}
        if "apart" in node:
            for key, part in node["apart"].items():
                parts[key].load_state_dict(decoder.restore(part, None))
            continue
        for key, part in node["rows"].items():
            rows = decoder.arrays[part["array"]]
            np.copyto(parts[key][: len(rows)], rows)


def cut_off_episodes(buffer: ReplayBuffer) -> None:
    """Close the episodes under way: the next transition will be of a new one.

    A buffer that does it in its own way has a method ``cut_off()``.
    """
    if not (buffer.full or buffer.pos):
        return
    newest = (buffer.pos - 1) % buffer.buffer_size
    if hasattr(buffer, "cut_off"):
        buffer.cut_off()
    elif isinstance(buffer, HerReplayBuffer):
        buffer.truncate_last_trajectory()
    elif buffer.optimize_memory_usage:
        # Its s' would be read from the row that the new episode writes to: take it back.
        buffer.pos = newest
    else:
        # Cut off, not terminated: no n-step return reaches over into the new episode.
        buffer.timeouts[newest] = np.logical_not(buffer.dones[newest])
