"""What stands between an observation and SB3's policy: a mask over factors, maybe an encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from torch import Tensor, nn

from sb3_ext.plugins.causal.equations import masked_input


class GraphExtractor(BaseFeaturesExtractor):
    """``[X * G, G]`` of flattened observations, for SB3's actor-critic policies.

    G is the buffer ``graph``, which is saved with the policy, unless :meth:`under` says otherwise.
    It does not depend on whether the policy is in training mode: SB3's ``predict`` switches that
    off, and nothing switches it on again.

    :param observation_space: Box or Dict
    :param factor_of: the factor of each column
    """

    graph: Tensor
    factor_of: Tensor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        factor_of: Sequence[int],
        n_columns: int | None = None,
    ) -> None:
        n = int(max(factor_of)) + 1
        columns = get_flattened_obs_dim(observation_space) if n_columns is None else n_columns
        super().__init__(observation_space, columns + n)
        self.register_buffer("factor_of", th.as_tensor(np.asarray(factor_of)).long())
        self.register_buffer("graph", th.ones(n))
        self.given: Tensor | None = None

    @contextmanager
    def under(self, graphs: Tensor) -> Iterator[None]:
        """Within the block, G is this.

        :param graphs: ``[B, n]``, one a sample, or ``[n]``
        """
        before, self.given = self.given, graphs
        try:
            yield
        finally:
            self.given = before

    def columns(self, observations: Any) -> Tensor:
        """X, ``[B, D]``, of preprocessed observations."""
        if isinstance(observations, dict):
            parts = [observations[key].flatten(1) for key in self._observation_space.spaces]  # type: ignore[attr-defined]
            return th.cat(parts, dim=1)
        flat: Tensor = observations.flatten(1)
        return flat

    def forward(self, observations: Any) -> Tensor:
        """The features, ``[B, D + n]``."""
        graphs = self.graph if self.given is None else self.given
        return masked_input(self.columns(observations), graphs, self.factor_of)


class LatentExtractor(GraphExtractor):
    """The same of a beta-VAE's latent means, each of which is a factor.

    The autoencoder learns by a loss of its own, and is frozen for the policy's.

    :param n_latents: n
    :param width: of its hidden layers, and of its convolutions' channels
    """

    def __init__(
        self, observation_space: spaces.Space[Any], n_latents: int = 16, width: int = 64
    ) -> None:
        super().__init__(observation_space, range(n_latents), n_latents)
        self.vae = BetaVAE(observation_space, n_latents, width)

    def columns(self, observations: Any) -> Tensor:
        """The means of the latents, without a gradient."""
        with th.no_grad():
            return self.vae.encode(observations)[0]


class BetaVAE(nn.Module):
    """A variational autoencoder of images or vectors (Higgins et al. 2017).

    :param observation_space: a Box: images with their channels first, or vectors
    :param n_latents: size of the latent
    :param width: of the hidden layers; of the convolutions, the channels
    """

    def __init__(self, observation_space: spaces.Space[Any], n_latents: int, width: int) -> None:
        super().__init__()
        shape = observation_space.shape or ()
        if is_image_space(observation_space):
            self.encoder, size = _image_encoder(shape, width)
            self.decoder: nn.Module = _ImageDecoder(shape, n_latents, width)
        else:
            columns = int(np.prod(shape))
            layers = create_mlp(columns, -1, [width, width], nn.ReLU)
            self.encoder, size = nn.Sequential(nn.Flatten(), *layers), width
            self.decoder = nn.Sequential(
                *create_mlp(n_latents, columns, [width, width], nn.ReLU),
                nn.Unflatten(1, tuple(shape)),
            )
        self.to_mean = nn.Linear(size, n_latents)
        self.to_log_variance = nn.Linear(size, n_latents)

    def encode(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latents, ``[B, n]`` each, of preprocessed observations."""
        hidden = self.encoder(observations)
        return self.to_mean(hidden), self.to_log_variance(hidden).clamp(-10.0, 4.0)

    def decode(self, latents: Tensor) -> Tensor:
        """Observations in the networks' units, ``[B, ...]``."""
        decoded: Tensor = self.decoder(latents)
        return decoded


def _image_encoder(shape: Sequence[int], width: int) -> tuple[nn.Module, int]:
    """Four convolutions of stride 2; any size of 16 pixels on will do."""
    channels = [shape[0], width // 2, width // 2, width, width]
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
    encoder = nn.Sequential(*layers, nn.Flatten())
    with th.no_grad():
        size = encoder(th.zeros(1, *shape)).shape[1]
    return encoder, int(size)


class _ImageDecoder(nn.Module):
    """A linear map to an eighth of the size, and three transposed convolutions of stride 2.

    A convolution after a nearest-neighbour doubling works on four times the pixels.
    """

    def __init__(self, shape: Sequence[int], n_latents: int, width: int) -> None:
        super().__init__()
        self.size = tuple(shape[1:])
        small = [-(-side // 8) for side in self.size]
        layers: list[nn.Module] = [
            nn.Linear(n_latents, width * small[0] * small[1]),
            nn.ReLU(),
            nn.Unflatten(1, (width, *small)),
        ]
        for before, after in pairwise([width, width, width // 2]):
            layers += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
        layers.append(nn.ConvTranspose2d(width // 2, shape[0], 4, stride=2, padding=1))
        self.grow = nn.Sequential(*layers)

    def forward(self, latents: Tensor) -> Tensor:
        grown = self.grow(latents)
        cut: Tensor = grown[:, :, : self.size[0], : self.size[1]]  # of sides that 8 does not divide
        return cut
