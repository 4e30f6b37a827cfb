"""Random numbers of one's own: NumPy's and torch's global ones, others inside a `with`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th


class RandomState:
    """Inside, the global generators go on from where they were at the last exit; outside, too.

    What SB3 draws, it draws from these. So what is done inside does not show outside.

    :param seed: what they begin with inside
    :param device: of the models that draw
    """

    def __init__(self, seed: int, device: th.device | str = "cpu") -> None:
        self.device = th.device(device)
        outer = self._get()
        np.random.seed(seed % 2**32)
        th.manual_seed(seed)
        self.inner = self._get()
        self._set(outer)

    def _get(self) -> tuple[Any, ...]:
        cuda = th.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        return np.random.get_state(), th.get_rng_state(), cuda

    def _set(self, state: tuple[Any, ...]) -> None:
        np.random.set_state(state[0])
        th.set_rng_state(state[1])
        if state[2] is not None:
            th.cuda.set_rng_state(state[2], self.device)

    def __enter__(self) -> None:
        self.outer = self._get()
        self._set(self.inner)

    def __exit__(self, *error: object) -> None:
        self.inner = self._get()
        self._set(self.outer)
