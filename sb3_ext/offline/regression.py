"""Small networks over a dataset: SB3's features of an observation, an MLP, a behaviour policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.preprocessing import (
    is_image_space,
    is_image_space_channels_first,
)
from stable_baselines3.common.torch_layers import (
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
    create_mlp,
)
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecTransposeImage
from torch import Tensor, nn

from sb3_ext.offline.dataset import OfflineDataset
from sb3_ext.offline.isolation import random_state_kept
from sb3_ext.offline.policies import (
    Array,
    EvaluatedPolicy,
    Floats,
    Observations,
    batches,
    clipped_log_prob,
    count,
    rows_of,
)

#: A Gaussian that fits better with less noise than this share of the data's spread is a spike.
LEAST_LOG_STD, LARGEST_LOG_STD = -5.0, 2.0


class DatasetNetwork(BaseModel):
    """SB3's features of an observation, maybe an action beside them, and an MLP.

    Inputs are standardised by the dataset's means, unless a CNN reads them.

    :param dataset: for spaces and means
    :param n_outputs: of the MLP
    :param net_arch: its hidden layers
    :param with_actions: whether actions go in, too
    """

    means: Tensor
    stds: Tensor

    def __init__(
        self,
        dataset: OfflineDataset,
        n_outputs: int,
        net_arch: Sequence[int] = (64, 64),
        *,
        with_actions: bool = False,
    ) -> None:
        space = _channels_first(dataset.observation_space)
        super().__init__(space, dataset.action_space, _extractor(space))
        self.features_extractor = self.make_features_extractor()
        rows = np.linspace(0, len(dataset) - 1, min(len(dataset), 10_000)).astype(int)
        with th.no_grad():
            inputs = self._features(self.tensors(rows_of(dataset.observations, rows)))
        learned = any(True for _ in self.features_extractor.parameters())
        means, stds = inputs.mean(0), inputs.std(0, correction=0)
        if learned:
            means, stds = th.zeros_like(means), th.ones_like(stds)
        if with_actions:
            actions = th.as_tensor(dataset.actions.reshape(len(dataset), -1))
            means = th.cat([means, actions.mean(0)])
            stds = th.cat([stds, actions.std(0, correction=0)])
        self.register_buffer("means", means)
        self.register_buffer("stds", th.where(stds > 1e-6, stds, th.ones_like(stds)))
        self.mlp = nn.Sequential(*create_mlp(len(means), n_outputs, list(net_arch)))

    def tensors(self, observations: Observations) -> Any:
        """What goes in, on the network's device."""
        return self.obs_to_tensor(observations)[0]

    def forward(self, observations: Any, actions: Tensor | None = None) -> Tensor:
        """``[B, n_outputs]`` of what :meth:`tensors` made, and of actions ``[B, d]``."""
        inputs = self._features(observations)
        if actions is not None:
            inputs = th.cat([inputs, actions.reshape(len(inputs), -1)], dim=1)
        outputs: Tensor = self.mlp((inputs - self.means) / self.stds)
        return outputs

    def _features(self, observations: Any) -> Tensor:
        assert self.features_extractor is not None
        return self.extract_features(observations, self.features_extractor)


class TabularBehavior(EvaluatedPolicy):
    """``n(s, a) / n(s)``, which maximises the likelihood; uniform in states that never occur."""

    def __init__(self, dataset: OfflineDataset) -> None:
        super().__init__(dataset.action_space)
        states, actions = table_shape(dataset)
        counts = np.zeros((states, actions))
        np.add.at(counts, table_indices(dataset, dataset.observations, dataset.actions), 1.0)
        sums = counts.sum(axis=1, keepdims=True)
        self.table = np.where(sums > 0, counts / np.maximum(sums, 1), 1 / actions)
        self.start = int(dataset.observation_space.start)  # type: ignore[attr-defined]

    def probabilities(self, observations: Observations) -> Floats:
        found: Floats = self.table[np.asarray(observations) - self.start]
        return found

    def log_prob(self, observations: Observations, actions: Array) -> Floats:
        assert isinstance(self.action_space, spaces.Discrete)
        chosen = np.asarray(actions)[:, None] - int(self.action_space.start)
        with np.errstate(divide="ignore"):
            logs: Floats = np.log(self.probabilities(observations))
        return np.take_along_axis(logs, chosen, 1)[:, 0]


class NetworkBehavior(EvaluatedPolicy):
    """A softmax over actions, or a diagonal Gaussian that is clipped to the bounds.

    :param network: logits ``[B, n]``, or means and log standard deviations ``[B, 2 d]`` in units
        of the data's spread
    :param center: of the actions, ``[d]``; for a Box
    :param spread: of the actions, ``[d]``
    """

    def __init__(self, network: DatasetNetwork, center: Tensor, spread: Tensor) -> None:
        super().__init__(network.action_space)
        self.network, self.center, self.spread = network, center, spread

    def log_likelihood(self, observations: Any, actions: Tensor) -> Tensor:
        """``[B]``, with a gradient."""
        outputs, space = self.network(observations), self.action_space
        if isinstance(space, spaces.Discrete):
            chosen = actions[:, None].long() - int(space.start)
            return th.log_softmax(outputs, dim=1).gather(1, chosen)[:, 0]
        assert isinstance(space, spaces.Box)
        mean, std = self._gaussian(outputs)
        return clipped_log_prob(mean, std, actions, space)

    def log_prob(self, observations: Observations, actions: Array) -> Floats:
        taken, parts, start = th.as_tensor(actions), [], 0
        with th.no_grad():
            for part in batches(observations):
                seen = self.network.tensors(part)
                end = start + count(part)
                found = self.log_likelihood(seen, taken[start:end].to(self.network.device))
                parts.append(found.cpu().numpy().astype(np.float64))
                start = end
        return np.concatenate(parts)

    def sample(self, observations: Observations) -> Array:
        if not isinstance(self.action_space, spaces.Box):
            return super().sample(observations)
        space = self.action_space
        with th.no_grad():
            parts = [
                th.normal(*self._gaussian(self.network(self.network.tensors(part)))).cpu().numpy()
                for part in batches(observations)
            ]
        drawn = np.concatenate(parts).reshape(-1, *space.shape)
        clipped: Array = np.clip(drawn, space.low, space.high)
        return clipped

    def _gaussian(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = outputs.chunk(2, dim=1)
        std = log_std.clamp(LEAST_LOG_STD, LARGEST_LOG_STD).exp()
        return self.center + self.spread * mean, self.spread * std


def estimate_behavior(
    dataset: OfflineDataset,
    *,
    net_arch: Sequence[int] = (64, 64),
    n_steps: int = 2_000,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    holdout: float = 0.1,
    device: str = "auto",
    seed: int = 0,
) -> EvaluatedPolicy:
    """The policy that the data are most likely of, by maximum likelihood.

    Discrete states and actions: their counts. Otherwise a network, with the weights that were best
    on the episodes (or, if there are few, the transitions) that were held out.

    :param dataset: of Discrete or Box actions
    :param holdout: share that only chooses among the weights, in (0, 1)
    :param n_steps: of the optimiser (Adam)
    :raises TypeError: for other action spaces
    """
    if is_tabular(dataset):
        return TabularBehavior(dataset)
    space = dataset.action_space
    if not isinstance(space, (spaces.Discrete, spaces.Box)):
        raise TypeError(f"a behaviour can be estimated for Discrete and Box actions, got {space}")
    if not 0.0 < holdout < 1.0:
        raise ValueError(f"holdout must lie in (0, 1), got {holdout}")
    generator = np.random.default_rng(seed)
    width = int(space.n) if isinstance(space, spaces.Discrete) else 2 * int(np.prod(space.shape))
    with random_state_kept(seed):  # for the first weights; batches have a generator of their own
        network = DatasetNetwork(dataset, width, net_arch).to(get_device(device))
    actions = dataset.actions.reshape(len(dataset), -1).astype(np.float32)
    stds = actions.std(axis=0)
    center, spread = (
        th.as_tensor(one, device=network.device)
        for one in (actions.mean(axis=0), np.where(stds > 1e-6, stds, np.float32(1.0)))
    )
    policy = NetworkBehavior(network, center, spread)
    train, held = _split(dataset, holdout, generator)
    optimizer = th.optim.Adam(network.parameters(), lr=learning_rate)
    best, kept = -np.inf, {}
    for step in range(1, n_steps + 1):
        rows = generator.choice(train, size=min(batch_size, len(train)))
        seen = network.tensors(rows_of(dataset.observations, rows))
        taken = th.as_tensor(dataset.actions[rows], device=network.device)
        loss = -policy.log_likelihood(seen, taken).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0 or step == n_steps:
            likelihood = policy.log_prob(
                rows_of(dataset.observations, held), dataset.actions[held]
            ).mean()
            if likelihood > best:
                best = likelihood
                kept = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(kept)
    return policy


def is_tabular(dataset: OfflineDataset) -> bool:
    """Whether states and actions can be listed."""
    return all(
        isinstance(space, spaces.Discrete)
        for space in (dataset.observation_space, dataset.action_space)
    )


def table_shape(dataset: OfflineDataset) -> tuple[int, int]:
    """Numbers of states and actions."""
    states, actions = dataset.observation_space, dataset.action_space
    assert isinstance(states, spaces.Discrete) and isinstance(actions, spaces.Discrete)
    return int(states.n), int(actions.n)


def table_indices(dataset: OfflineDataset, states: Any, actions: Any) -> tuple[Array, Array]:
    """Rows and columns of a table of states and actions, which may not begin at 0."""
    first_state, first_action = (
        int(space.start)  # type: ignore[attr-defined]
        for space in (dataset.observation_space, dataset.action_space)
    )
    return np.asarray(states) - first_state, np.asarray(actions) - first_action


def _split(
    dataset: OfflineDataset, holdout: float, generator: np.random.Generator
) -> tuple[Array, Array]:
    """Rows to learn from, and rows to choose by: whole episodes where there are enough."""
    lengths = dataset.lengths()
    if dataset.n_episodes < 10:
        held = generator.random(len(dataset)) < holdout
    else:
        chosen = generator.permutation(dataset.n_episodes) < holdout * dataset.n_episodes
        held = np.repeat(chosen, lengths)
    if held.all() or not held.any():  # very few rows: then they do both
        return np.arange(len(dataset)), np.arange(len(dataset))
    return np.flatnonzero(~held), np.flatnonzero(held)


def _extractor(space: spaces.Space[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return CombinedExtractor
    return NatureCNN if is_image_space(space) else FlattenExtractor


def _channels_first(space: spaces.Space[Any]) -> spaces.Space[Any]:
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: _channels_first(part) for key, part in space.spaces.items()})
    if not isinstance(space, spaces.Box) or not is_image_space(space):
        return space
    if not is_image_space_channels_first(space):
        return VecTransposeImage.transpose_space(space)
    return space
