"""The density-ratio network."""

from __future__ import annotations

import torch as th
from stable_baselines3.common.torch_layers import create_mlp
from torch import Tensor, nn

# VecNormalize's bound for a normalised observation: a feature that was constant so far has no
# scale, and may come back a thousand deviations away.
_CLIP = 10.0
# Share of the newest batch in the running statistics, once a hundred batches have been seen.
_MOMENTUM = 0.01


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

    def inputs(self, features: Tensor, actions: Tensor) -> Tensor:
        """What the layers see, ``[B, features_dim + dim]``."""
        if self.normalize:
            features = (features - self.mean) * (self.variance + 1e-8).rsqrt()
            features = features.clamp(-_CLIP, _CLIP)
        return th.cat([features, actions], dim=1)

    def forward(self, features: Tensor, actions: Tensor) -> Tensor:
        """Raw logits ``[B, 1]`` of features ``[B, features_dim]`` and actions ``[B, dim]``."""
        outputs: Tensor = self.layers(self.inputs(features, actions))
        return outputs
