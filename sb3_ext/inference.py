"""Forward passes that nobody differentiates, by oneDNN where that beats the BLAS of torch.

Torch only. On CPUs that are not Intel's, torch's float32 products run MKL's kernels for AVX2. Those
of oneDNN, which torch ships as well, use AVX-512 where it is there, and add the bias as they go;
``benchmarks/steve.py`` prints what that brings on a machine. The op is the one that
torch.compile calls; where it is missing or does not answer, torch's own layers run.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch as th
import torch.nn.functional as F
from torch import Tensor, nn

#: Below this, what a call costs outweighs what it saves.
_ROWS = 128


@cache
def onednn_layer() -> Any:
    """oneDNN's linear layer, or None where this torch has none that works.

    It is the one that torch.compile calls: it takes rows, weight, bias or None, then
    ``"none", [], ""``. Nobody can differentiate through it.
    """
    try:
        layer = th.ops.mkldnn._linear_pointwise
        found = layer(th.ones(2, 3), th.ones(4, 3), -th.ones(4), "none", [], "")
        works = bool((found == 2).all())
    except (AttributeError, RuntimeError):  # no such op, or none for this CPU
        return None
    return layer if works else None


def linear(rows: Tensor, weight: Tensor, bias: Tensor, relu: bool = False) -> Tensor:
    """``rows @ weight.T + bias``, and what a ReLU leaves of it; without gradient.

    :param rows: ``[n, in]``
    :param weight: ``[out, in]``, of any strides
    :param bias: ``[out]``
    :param relu: whether negative outputs become 0
    :return: ``[n, out]``; up to rounding as ``nn.functional.linear``
    """
    fits = rows.dtype == th.float32 and rows.device.type == "cpu" and len(rows) >= _ROWS
    if fits and onednn_layer() is not None:
        with th.no_grad():
            found: Tensor = onednn_layer()(rows, weight, bias, "none", [], "")
            # Not by the op itself: its ReLU makes 0 of a NaN, and nobody would hear of it.
            return found.relu_() if relu else found
    with th.no_grad():
        plain = F.linear(rows, weight, bias)
        return plain.relu_() if relu else plain


def run(network: nn.Module, rows: Tensor) -> Tensor:
    """``network(rows)``, layer by layer where it is a Sequential; without gradient.

    :param network: any; of an ``nn.Sequential`` the plain ``nn.Linear`` layers are run by
        :func:`linear`, with the ReLU that follows
    :param rows: ``[n, in]``
    """
    if type(network) is not nn.Sequential or _is_watched(network):
        with th.no_grad():
            found: Tensor = network(rows)
            return found
    layers = list(network)
    skip = False
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        if skip:
            skip = False
        elif type(layer) is nn.Linear and layer.bias is not None and not _is_watched(layer):
            skip = type(following) is nn.ReLU and not _is_watched(following)
            rows = linear(rows, layer.weight, layer.bias, relu=skip)
        else:
            rows = run(layer, rows)
    return rows


def _is_watched(layer: nn.Module) -> bool:
    """Whether torch would call somebody before or after it: spectral_norm computes weights so."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks)
