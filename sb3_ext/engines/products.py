"""The three matrix products of a linear layer, each by the faster of two BLAS. Torch only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch as th
from torch import Tensor

from sb3_ext.inference import onednn_layer

if TYPE_CHECKING:
    from sb3_ext.engines.actor_critic import FusedStep

#: Products of matrices no wider than this are made of memory traffic: a plain call is faster.
_THIN = 8


@dataclass(frozen=True)
class Products:
    """How matrices are multiplied; nobody differentiates through it.

    :param bf16: whether operands are rounded to bfloat16 first (8 bits of mantissa instead of 24).
        Sums are of float32, then rounded likewise. Not equivalent: see docs/performance.md
    """

    bf16: bool = False

    def outputs(self, rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """``rows @ weight.T + bias``.

        :param rows: ``[n, in]``
        :param weight: ``[out, in]``
        :param bias: ``[out]``
        :return: ``[n, out]``
        """
        if self._rounds(weight):
            return (rows.bfloat16() @ weight.bfloat16().t()).float().add_(bias)
        if min(weight.shape) <= _THIN or not self._by_onednn(rows):
            return th.addmm(bias, rows, weight.t())
        return self._onednn(rows, weight, bias)

    def input_gradient(self, gradient: Tensor, weight: Tensor) -> Tensor:
        """``gradient @ weight``: what the rows of a layer get.

        :param gradient: of the outputs, ``[n, out]``
        :param weight: ``[out, in]``, of any strides
        :return: ``[n, in]``
        """
        return self._times(gradient, weight)

    def weight_gradient(self, gradient: Tensor, rows: Tensor, out: Tensor) -> None:
        """``gradient.T @ rows``: what the weight of a layer gets.

        :param gradient: of the outputs, ``[n, out]``
        :param rows: ``[n, in]``
        :param out: ``[out, in]``, written
        """
        if min(out.shape) <= _THIN or not (self.bf16 or self._by_onednn(rows)):
            th.mm(gradient.t(), rows, out=out)
        elif rows.shape[1] < gradient.shape[1] / 2:  # fewer numbers to turn round in memory
            out.copy_(self._times(rows.t(), gradient).t())
        else:
            out.copy_(self._times(gradient.t(), rows))

    def prepare(self, step: FusedStep) -> None:
        """Do what must be done with a step that is to multiply so, before its first update.

        :raises ValueError: if that cannot be done on this machine
        """

    def _times(self, left: Tensor, right: Tensor) -> Tensor:
        if self._rounds(right):
            return (left.bfloat16() @ right.bfloat16()).float()
        if min(right.shape) <= _THIN or not self._by_onednn(left):
            return left @ right
        return self._onednn(left, right.t(), None)

    def _rounds(self, matrix: Tensor) -> bool:
        return self.bf16 and min(matrix.shape) > _THIN and matrix.dtype == th.float32

    def _by_onednn(self, rows: Tensor) -> bool:
        fits = rows.dtype == th.float32 and rows.device.type == "cpu"
        return fits and self._has_onednn()

    def _has_onednn(self) -> bool:
        return onednn_layer() is not None

    def _onednn(self, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        found: Tensor = onednn_layer()(rows, weight, bias, "none", [], "")
        return found
