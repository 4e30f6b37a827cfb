"""The density-ratio network and the split of the fast window that watches it."""

from __future__ import annotations

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.torch_layers import create_mlp
from torch import Tensor, nn

from sb3_ext.replay.window import Indices, Window

# VecNormalize's bound for a normalised observation: a feature that was constant so far has no
# scale, and may come back a thousand deviations away.
_CLIP = 10.0
# Share of the newest batch in the running statistics, once a hundred batches have been seen.
_MOMENTUM = 0.01
_GOLDEN = 0.6180339887498949


class RatioNetwork(nn.Module):
    """An MLP from features and actions to one raw logit, ``ln d_fast/d_slow`` before its bound.

    :param features_dim: length of a state's features
    :param action_dim: length of an action as the replay buffer stores it, or of its one-hot code
    :param net_arch: widths of the hidden layers, ReLU between
    :param normalize: whether features are standardised by running statistics of the slow buffer
        (actions lie in [-1, 1] already)
    """

    mean: Tensor
    variance: Tensor
    batches: Tensor

    def __init__(
        self, features_dim: int, action_dim: int, net_arch: tuple[int, ...], normalize: bool
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.layers = nn.Sequential(*create_mlp(features_dim + action_dim, 1, list(net_arch)))
        # Starts near w = 1 everywhere, as the authors' code does.
        for parameter in self.layers[-1].parameters():
            nn.init.uniform_(parameter, -3e-3, 3e-3)
        self.register_buffer("mean", th.zeros(features_dim))
        self.register_buffer("variance", th.ones(features_dim))
        self.register_buffer("batches", th.zeros((), dtype=th.int64))

    def observe(self, features: Tensor) -> None:
        """Take a batch ``[B, features_dim]`` of the slow buffer into the running statistics."""
        if not self.normalize:
            return
        self.batches += 1
        # The mean over all batches at first, then over roughly the last hundred: learned
        # features move.
        share = max(1.0 / self.batches.item(), _MOMENTUM)
        mean = features.mean(dim=0)
        # Not th.var_mean, which takes ten times as long along this dimension.
        variance = (features - mean).square_().mean(dim=0)
        self.mean.lerp_(mean, share)
        self.variance.lerp_(variance, share)

    def forward(self, features: Tensor, actions: Tensor) -> Tensor:
        """Raw logits ``[B, 1]`` of features ``[B, features_dim]`` and actions ``[B, dim]``."""
        if self.normalize:
            features = (features - self.mean) * (self.variance + 1e-8).rsqrt()
            features = features.clamp(-_CLIP, _CLIP)
        outputs: Tensor = self.layers(th.cat([features, actions], dim=1))
        return outputs


def held_out(indices: Indices, window: Window, fraction: float) -> NDArray[np.bool_]:
    """Which transitions belong to the held-out slice: whole runs of neighbouring rows.

    Neighbours in time are nearly equal, so a single row held out would be known through the rows
    beside it. A run is a hundredth of the window, and which runs are out depends on their place
    in the ring alone: a transition keeps its side for as long as it lives.

    :param indices: transition indices ``[n]``
    :param window: the fast window, for the length of a run
    :param fraction: share held out, in [0, 1)
    :return: ``[n]``
    """
    runs = indices // window.n_envs // max(window.length // 100, 1)
    # Multiples of the golden ratio fill [0, 1) evenly, for any fraction and any stretch of runs.
    return (runs * _GOLDEN) % 1.0 < fraction


def draw_split(
    window: Window, n: int, rng: np.random.Generator, fraction: float, out: bool
) -> Indices:
    """``n`` transition indices from one side of the split, uniform and with replacement.

    :param window: the fast window
    :param n: how many
    :param rng: source of randomness
    :param fraction: share held out, in [0, 1)
    :param out: True for the held-out side, False for the one that is trained on
    :return: ``[n]``; from the whole window where the wanted side is empty (tiny windows)
    """
    if fraction == 0:
        return window.draw(n, rng)
    found: Indices = np.empty(0, dtype=np.int64)
    # By rejection: the sides are fixed, and neither is rare.
    for _ in range(8):
        # A little more than is needed on average, so that one round nearly always does.
        drawn = window.draw(int(n / (fraction if out else 1 - fraction) * 1.2) + 16, rng)
        found = np.concatenate([found, drawn[held_out(drawn, window, fraction) == out]])
        if len(found) >= n:
            return found[:n]
    return np.resize(found, n) if len(found) else window.draw(n, rng)
