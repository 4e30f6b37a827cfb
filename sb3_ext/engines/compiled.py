"""``engine="compiled"``: the arithmetic of a fast step by torch.compile. Torch only.

Draws, decisions that look at values and Adam, which is one call as it is, stay outside. oneDNN's
product is an operation of our own inside: inductor takes torch's for frozen weights only.

Imported when it is asked for, since it makes an operation known to torch.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import torch as th
from torch import Tensor

from sb3_ext.engines.products import Products
from sb3_ext.inference import onednn_layer

if TYPE_CHECKING:
    from sb3_ext.engines.actor_critic import FusedStep

# torch.library.custom_op would do the same, with more checks in every call.
_LIBRARY = th.library.Library("sb3_ext", "FRAGMENT")  # torch forgets what it defines along with it
_LIBRARY.define("onednn_linear(Tensor rows, Tensor weight, Tensor? bias) -> Tensor")


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``rows [n, in] @ weight.T [in, out] + bias [out]``, as ``[n, out]``."""
    found: Tensor = onednn_layer()(rows, weight, bias, "none", [], "")
    return found


def _shape(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return rows.new_empty(rows.shape[0], weight.shape[0])


_LIBRARY.impl("onednn_linear", _product, "CPU")
_LIBRARY.impl("onednn_linear", _shape, "Meta")


@dataclass(frozen=True)
class CompiledProducts(Products):
    """The same products, in calls that torch.compile takes."""

    onednn: bool = field(default_factory=lambda: onednn_layer() is not None)

    def _has_onednn(self) -> bool:
        return self.onednn

    def _onednn(self, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        found: Tensor = th.ops.sb3_ext.onednn_linear(rows, weight, bias)
        return found

    def prepare(self, step: FusedStep) -> None:
        """Have torch.compile make the step's arithmetic; it does so at the first updates.

        :raises ValueError: if torch.compile cannot work here, saying why
        """
        if why := obstacle():
            raise ValueError(
                "engine='compiled' needs torch.compile, and that a C++ compiler and Python's "
                "headers; it fails here: "
                f"{why}. engine='fused' is the same step without it, for a saved model, too: "
                "load(path, engine='fused')"
            )
        for name in step.arithmetic:
            setattr(step, name, th.compile(getattr(step, name)))


@cache
def obstacle() -> str:
    """Why the smallest program cannot be compiled; empty if it can.

    Asked when the model is made: of a missing compiler one would hear at the first update only.
    """
    # The first graph of a process turns off for good what finds the NaN of a policy.
    distribution = th.distributions.Distribution
    validates: bool = distribution._validate_args
    try:
        with warnings.catch_warnings():  # of torch about itself, while it imports the compiler
            warnings.simplefilter("ignore")
            th.compile(lambda x: x + 1)(th.zeros(2))
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
    finally:
        distribution.set_default_validate_args(validates)
    return ""
