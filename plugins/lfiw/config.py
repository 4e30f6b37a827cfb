"""The options of LFIW, as users write them and as they are saved."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields, replace
from typing import Any

from sb3_ext.algorithms.composable import Composable
from sb3_ext.options import (
    INTEGER,
    POSITIVE,
    Default,
    Law,
    between,
    check_options,
    is_integer,
    maybe,
    one_of,
)
from sb3_ext.plugins.lfiw.equations import DIVERGENCES, WEIGHT_FORMS
from sb3_ext.plugins.lfiw.weighting import LikelihoodFreeWeighting, ring_size

DEFAULT_FAST_BUFFER_SIZE = Default(10_000)


@dataclass(frozen=True)
class LikelihoodFree:
    """Likelihood-free importance weights (Sinha et al. 2022) for any base.

    :param temperature: T > 0; the larger, the nearer to uniform (paper: 5 everywhere)
    :param fast_buffer_size: newest transitions that count as on-policy (paper: 10_000). The
        default shrinks to a tenth of a small replay buffer; a chosen value must be smaller than it
    :param divergence: ``"js"`` (paper), ``"kl"``, ``"chi2"`` or ``"hellinger"``
    :param weight_form: ``"ratio"`` (paper) or ``"prob"`` (the authors' code, milder)
    :param ratio_net_arch: widths of the ratio network's hidden layers
    :param ratio_learning_rate: its Adam's rate; None follows the value network's,
        schedule included
    :param ratio_updates: steps of the ratio network for each gradient step
    :param logit_clip: bound of the logit: ``"auto"`` is ln(slow / fast), the truth's own bound;
        a number; or None for no bound
    :param normalize_inputs: whether the ratio network standardises features; ``"auto"`` does so
        for learned features, and for plain observations unless VecNormalize has done it
    :param holdout_fraction: share of the fast window that the ratio network never trains on, to
        see whether it memorises; 0 for none
    """

    temperature: float = 5.0
    fast_buffer_size: int = DEFAULT_FAST_BUFFER_SIZE
    divergence: str = "js"
    weight_form: str = "ratio"
    ratio_net_arch: tuple[int, ...] = (256, 256)
    ratio_learning_rate: float | None = None
    ratio_updates: int = 1
    logit_clip: float | str | None = "auto"
    normalize_inputs: bool | str = "auto"
    holdout_fraction: float = 0.1

    def __post_init__(self) -> None:
        check_options(self, _LAWS)
        object.__setattr__(self, "ratio_net_arch", tuple(map(int, self.ratio_net_arch)))

    def fitted_to(self, algorithm: Composable) -> LikelihoodFree:
        """The options for an algorithm's replay buffer.

        :return: the same, but for a default fast buffer that does not fit: it shrinks, with a note
        :raises ValueError: if a chosen fast buffer does not leave room for older transitions
        """
        fast, capacity, n_envs = self.fast_buffer_size, ring_size(algorithm), algorithm.n_envs
        if isinstance(fast, Default) and -(-fast // n_envs) * n_envs >= capacity:
            fast = max(capacity // 10, 1)
            warnings.warn(
                f"the default fast_buffer_size={self.fast_buffer_size} does not fit into a "
                f"replay buffer of {capacity} transitions; using {fast}",
                stacklevel=2,
            )
        if -(-fast // n_envs) * n_envs >= capacity:
            raise ValueError(
                "fast_buffer_size must be smaller than the replay buffer, got "
                f"fast_buffer_size={fast} and room for {capacity} transitions "
                f"(buffer_size={algorithm.buffer_size}, n_envs={n_envs}); the weights compare the "
                "newest transitions with all: lower fast_buffer_size or raise buffer_size"
            )
        return replace(self, fast_buffer_size=int(fast))

    def build(self, algorithm: Composable) -> LikelihoodFreeWeighting:
        """The living part."""
        return LikelihoodFreeWeighting(self.fitted_to(algorithm), algorithm)


def _widths(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and all(map(is_integer, value))


_LAWS: dict[str, Law] = {
    "temperature": POSITIVE,
    "fast_buffer_size": INTEGER,
    "divergence": one_of(*DIVERGENCES),
    "weight_form": one_of(*WEIGHT_FORMS),
    "ratio_net_arch": (_widths, "a tuple of layer widths >= 1"),
    "ratio_learning_rate": maybe(POSITIVE),
    "ratio_updates": INTEGER,
    "logit_clip": (
        lambda value: value in (None, "auto") or POSITIVE[0](value),
        "'auto', None or > 0",
    ),
    "normalize_inputs": one_of("auto", True, False),
    "holdout_fraction": between(0, 0.5),
}
OPTIONS = tuple(field.name for field in fields(LikelihoodFree))
