"""What ``critic_loss=`` takes: how the errors of the critics become one number."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from torch import Tensor

from sb3_ext.options import POSITIVE, Law, between, check_options
from sb3_ext.signatures import require_known
from sb3_ext.td import weighted_huber_error, weighted_pal_error, weighted_squared_error


class CriticLoss(Protocol):
    """Any function of this shape; those below are saved as plain values."""

    def __call__(self, errors: Tensor, weights: Tensor) -> Tensor:
        """A scalar, from errors ``[n_critics, B, 1]`` and weights ``[B, 1]``."""
        ...


@dataclass(frozen=True)
class MSE:
    """Half the weighted mean square of each critic, summed."""

    def __call__(self, errors: Tensor, weights: Tensor) -> Tensor:
        """See :func:`sb3_ext.td.weighted_squared_error`."""
        return 0.5 * weighted_squared_error(errors, weights)


@dataclass(frozen=True)
class Huber:
    """Quadratic up to the threshold, linear beyond.

    :param threshold: > 0, in units of return
    """

    threshold: float = 1.0

    def __post_init__(self) -> None:
        check_options(self, {"threshold": POSITIVE})

    def __call__(self, errors: Tensor, weights: Tensor) -> Tensor:
        """See :func:`sb3_ext.td.weighted_huber_error`."""
        return weighted_huber_error(errors, weights, self.threshold)


@dataclass(frozen=True)
class PAL:
    """Prioritised approximation loss (Fujimoto et al. 2020): LAP's gradient from uniform draws.

    :param alpha: in [0, 1], how much large errors count (paper: 0.4)
    :param min_priority: > 0, below it the loss is quadratic (paper: 1), in units of return
    """

    alpha: float = 0.4
    min_priority: float = 1.0

    def __post_init__(self) -> None:
        check_options(self, _PAL)

    def __call__(self, errors: Tensor, weights: Tensor) -> Tensor:
        """See :func:`sb3_ext.td.weighted_pal_error`."""
        return weighted_pal_error(errors, weights, self.alpha, self.min_priority)


_PAL: dict[str, Law] = {"alpha": between(0, 1), "min_priority": POSITIVE}
LOSSES: dict[str, Any] = {"mse": MSE, "huber": Huber, "pal": PAL}


def resolve_loss(value: Any) -> CriticLoss | None:
    """Turn what ``critic_loss=`` was given into a function of errors and weights.

    :param value: a name, a mapping with one and options, a function, or None
    :raises ValueError: for an unknown name, with the near miss
    :raises TypeError: if it is none of these
    """
    if isinstance(value, str):
        value = {"name": value}
    if isinstance(value, Mapping):
        options = dict(value)
        name = options.pop("name", None)
        if name not in LOSSES:
            near = difflib.get_close_matches(str(name), LOSSES, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"critic_loss must be one of {', '.join(LOSSES)}, got {name!r}{hint}")
        require_known(LOSSES[name], options, where=f"critic_loss={name!r}")
        value = LOSSES[name](**options)
    if value is not None and (isinstance(value, type) or not callable(value)):
        raise TypeError(
            "critic_loss= takes a name, a mapping with a 'name', or a function of errors "
            f"[n_critics, B, 1] and weights [B, 1], got {value!r}"
        )
    return value


def plain_loss(loss: CriticLoss | None) -> Any:
    """One of ours as ``{"name": ..., **options}``; anything else as it is."""
    for name, kind in LOSSES.items():
        if type(loss) is kind:
            return {"name": name, **asdict(loss)}  # type: ignore[call-overload]
    return loss
