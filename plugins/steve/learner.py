"""The world model beside an agent: trained on its replay buffer, watched on a slice held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from torch import Tensor

from sb3_ext.algorithms.networks import descend, load_network
from sb3_ext.errors import NonFiniteError
from sb3_ext.plugins.steve.world_model import WorldModel
from sb3_ext.replay.split import draw_split, held_out
from sb3_ext.replay.storage import Replay

#: Updates from one look at the held-out slice to the next, and paths that are looked at.
_ERRORS_EVERY, _PATHS = 250, 256
#: Neighbouring rows that are held out together; paths must fit.
_RUN = 50
#: At most so many updates before the first gradient step, unless told otherwise (the paper's).
_PRETRAINING = 10_000


@dataclass(frozen=True)
class ModelOptions:
    """What a callback or ``load`` may change; so it is handed over at every call.

    :param batch_size: transitions of an update
    :param updates: how many
    :param pretraining: before the first; None is one for each transition that is there
    :param horizon: steps for which errors are watched
    :param learning_rate: Adam's
    :param weight_decay: ``weight_decay / 2`` times the squared parameters is added to the loss
    :param holdout: share of the buffer that is not trained on
    """

    batch_size: int
    updates: int
    pretraining: int | None
    horizon: int
    learning_rate: float
    weight_decay: float
    holdout: float


class WorldLearner:
    """Trains a world model on single steps of a replay buffer, drawn uniformly.

    It has generators of its own, so it shifts nobody else's draws.

    :param observation_dim: numbers of an observation
    :param action_dim: numbers of an action
    :param device: of its tensors
    :param seed: of its networks and draws
    :param n_models: of dynamics and ends
    :param n_rewards: of the reward
    :param net_arch: widths of hidden layers
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        device: th.device,
        seed: int,
        n_models: int,
        n_rewards: int,
        net_arch: Sequence[int],
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.generator = th.Generator().manual_seed(seed)
        with th.random.fork_rng(devices=[]):
            th.default_generator.manual_seed(seed)
            network = WorldModel(observation_dim, action_dim, n_models, n_rewards, net_arch)
        self.network = network.to(device)
        self.optimizer = th.optim.Adam(self.network.parameters(), fused=True)
        self.updates = 0
        self._metrics: dict[str, float] = {}

    def learn(self, replay: Replay, options: ModelOptions, step: int) -> None:
        """Updates on single steps of the buffer; before the first, pretraining.

        :param replay: the buffer
        :param step: environment steps so far, for the error
        :raises NonFiniteError: if a loss is not finite; networks and statistics are as before it
        """
        for group in self.optimizer.param_groups:
            group["lr"], group["weight_decay"] = options.learning_rate, options.weight_decay
        updates = options.updates
        if self.updates == 0:
            found = min(replay.window.size, _PRETRAINING)
            updates += found if options.pretraining is None else options.pretraining
        for _ in range(updates):
            self.update(replay, options.batch_size, options.holdout, step)
        if self.updates // _ERRORS_EVERY > (self.updates - updates) // _ERRORS_EVERY:
            self._look(replay, options.horizon, options.holdout)

    def update(self, replay: Replay, batch_size: int, holdout: float, step: int) -> None:
        """One update, on what is not held out; see :meth:`learn`."""
        drawn = draw_split(replay.window, batch_size, self.rng, holdout, False, _RUN)
        batch = replay.single_steps(drawn)
        seen, after = flat(batch.observations), flat(batch.next_observations)
        statistics = [buffer.clone() for buffer in self.network.buffers()]
        self.network.observe(seen, after, batch.rewards)
        losses = self.network.losses(
            seen, batch.actions, after, batch.rewards, batch.dones, self.generator
        )
        told = {f"steve/{name}_loss": loss.item() for name, loss in losses.items()}
        # Statistics first: a standard deviation without bounds would make small losses.
        sound = all(buffer.isfinite().all() for buffer in self.network.buffers())
        if not (sound and np.isfinite(list(told.values())).all()):
            for buffer, before in zip(self.network.buffers(), statistics, strict=True):
                buffer.copy_(before)
            largest = max(one.abs().max().item() for one in (seen, after, batch.rewards))
            raise NonFiniteError(
                f"the world model diverged at step {step}, its update {self.updates + 1}: {told}. "
                f"The largest observation or reward of its batch is {largest:g}. No network was "
                "changed by it, and files saved so far are as they were: go on from one with a "
                "lower model_learning_rate, or scale observations and rewards (VecNormalize)"
            )
        descend(th.stack(list(losses.values())).sum(), self.optimizer)
        self.updates += 1
        self._metrics |= told

    def _look(self, replay: Replay, horizon: int, holdout: float) -> None:
        errors = horizon_errors(self.network, replay, horizon, holdout, _RUN, self.rng)
        if errors is not None:
            for name in [one for one in self._metrics if "model_error" in one]:
                del self._metrics[name]  # of another horizon
            for step, error in enumerate(errors.tolist(), start=1):
                self._metrics[f"steve/model_error_h{step}"] = error

    def metrics(self) -> Mapping[str, float]:
        """The newest losses, and errors on what is held out."""
        return self._metrics

    def state_dict(self) -> dict[str, Any]:
        """Networks and statistics, optimiser, counters and generators, as plain values."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
            "metrics": dict(self._metrics),
            "rng": self.rng.bit_generator.state,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Put back what ``state_dict`` gave.

        :raises CheckpointError: if the saved networks have another shape
        """
        load_network(
            self.network,
            state["network"],
            strict,
            "the saved world model does not fit n_models, n_rewards, model_net_arch or the spaces "
            "of this one; load with those that it was trained with",
        )
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates = state["updates"]
        self._metrics = dict(state["metrics"])
        self.rng.bit_generator.state = state["rng"]
        self.generator.set_state(state["generator"].cpu())


def flat(observations: Any) -> Tensor:
    """Observations as rows of float numbers, ``[n, O]``."""
    rows: Tensor = observations.flatten(1).float()
    return rows


@th.no_grad()
def horizon_errors(
    network: WorldModel,
    replay: Replay,
    horizon: int,
    fraction: float,
    run: int,
    rng: np.random.Generator,
) -> Tensor | None:
    """How far predictions are from what happened, 1 to H steps ahead under the stored actions.

    On paths of the slice that was held out: the root of the mean square over models, paths and
    numbers of an observation, in standard deviations of the observations.

    :param horizon: H
    :param fraction: share held out; 0 looks at all
    :param run: see :func:`~sb3_ext.replay.split.held_out`
    :param rng: draws the paths
    :return: ``[H]``, or None while there is no such path
    """
    window, buffer = replay.window, replay.buffer
    starts = draw_split(window, _PATHS, rng, fraction, fraction > 0, run)
    paths = starts + window.n_envs * np.arange(horizon)[:, None]  # [H, n]
    paths %= window.capacity * window.n_envs
    rows, envs = np.divmod(paths, window.n_envs)
    whole = (window.head - 1 - rows[0]) % window.capacity >= horizon - 1  # not over the newest row
    whole &= ~buffer.dones[rows[:-1], envs[:-1]].astype(bool).any(axis=0)
    if fraction > 0:
        whole &= held_out(paths, window, fraction, run).all(axis=0)
    if not whole.any():
        return None
    steps = [replay.single_steps(one) for one in paths[:, whole]]
    found = network.open_loop(flat(steps[0].observations), th.stack([s.actions for s in steps]))
    truth = th.stack([flat(step.next_observations) for step in steps])[:, None]
    missed = (found - truth) / network.observations_seen.std
    return missed.square().flatten(1).mean(dim=1).sqrt()
