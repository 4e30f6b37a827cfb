"""Looking without touching: random generators and networks are afterwards as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch as th
from torch import nn


@contextmanager
def random_state_kept(seed: int | None = None) -> Iterator[None]:
    """Within the block Python's, NumPy's and torch's generators may be used; then they go back.

    :param seed: what they begin with inside; None leaves them where they are
    """
    python, numpy = random.getstate(), np.random.get_state()
    # All CUDA devices that are in use, and none where CUDA was never started.
    devices = range(th.cuda.device_count()) if th.cuda.is_initialized() else ()
    with th.random.fork_rng(devices=devices):
        try:
            if seed is not None:
                random.seed(seed)
                np.random.seed(seed % 2**32)
                th.manual_seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Within the block networks are in evaluation mode; then each layer is as it was.

    Layer by layer, because SB3 keeps target networks in another mode than the rest.
    """
    modes = {layer: layer.training for network in networks for layer in network.modules()}
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for layer, mode in modes.items():
            layer.training = mode


@contextmanager
def attributes_kept(*objects: object) -> Iterator[None]:
    """Within the block attributes may be set anew; then the old objects are back in their places.

    What SB3's action distributions hold, noise of gSDE among it, are such attributes.
    """
    with ExitStack() as stack:
        for one in objects:
            stack.callback(_put_back, one, dict(vars(one)))
        yield


def _put_back(one: object, attributes: dict[str, object]) -> None:
    vars(one).clear()
    vars(one).update(attributes)
