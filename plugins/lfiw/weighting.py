"""LFIW's living part: trains the ratio network and weighs batches by it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch as th
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, preprocess_obs
from torch import Tensor

from sb3_ext.algorithms.composable import Composable
from sb3_ext.algorithms.networks import descend, load_network
from sb3_ext.engines.learner import FusedMLP
from sb3_ext.plugins.lfiw.equations import (
    balanced_accuracy,
    bounded_logits,
    density_ratio_loss,
    effective_sample_size,
    normalized_weights,
)
from sb3_ext.plugins.lfiw.ratio import RatioNetwork
from sb3_ext.replay.split import draw_split, held_out
from sb3_ext.replay.storage import Observations, Replay
from sb3_ext.replay.window import Indices, Window
from sb3_ext.updates import Draw
from sb3_ext.weighting import Weighting

if TYPE_CHECKING:
    from sb3_ext.plugins.lfiw.config import LikelihoodFree

# Updates from one look at the held-out slice to the next; and how long, and how far down, the
# effective sample size must be before it is called a collapse.
_HOLDOUT_EVERY = 50
_COLLAPSE_PATIENCE = 100
_COLLAPSE_SHARE = 0.1


class LikelihoodFreeWeighting(Weighting):
    """Trains the ratio network on fast against slow, and weighs slow batches by it.

    The fast buffer is the newest rows of the replay ring, read in place. Until the slow buffer
    outgrows it the two are one: every weight is 1, nothing is trained, and the run is, to the
    bit, one without weighting.

    :param config: the options; ``fast_buffer_size`` fits the replay buffer
    :param algorithm: whose batches are weighed; its value network's encoder gives the features
    """

    def __init__(self, config: LikelihoodFree, algorithm: Composable) -> None:
        self.config = config
        self.algorithm = algorithm
        encoder = algorithm.value_network.features_extractor
        self._learned_features = next(encoder.parameters(), None) is not None
        # Randomness of its own: the ratio network must not shift anybody else's draws.
        seed = th.initial_seed() if algorithm.seed is None else algorithm.seed
        self.rng = np.random.Generator(np.random.PCG64(seed))
        with th.random.fork_rng(devices=[]):
            th.default_generator.manual_seed(seed)
            self.network = RatioNetwork(
                encoder.features_dim,
                get_flattened_obs_dim(algorithm.action_space),
                config.ratio_net_arch,
                self._normalizes(algorithm.replay_view),
            ).to(algorithm.device)
        self.optimizer = th.optim.Adam(
            self.network.parameters(), lr=self._learning_rate(), fused=True
        )
        self._engine: FusedMLP | None = None
        self.updates = 0
        self._collapsed_for = 0
        self._metrics = {"lfiw/active": 0.0}

    def reconfigure(self, config: LikelihoodFree) -> None:
        """Go on with other options, such as a temperature that a callback anneals.

        :raises ValueError: for options that the ratio network is built from
        """
        if config == self.config:
            return
        for name in ("ratio_net_arch", "normalize_inputs"):
            if getattr(config, name) != getattr(self.config, name):
                raise ValueError(
                    f"{name} is built into the ratio network and cannot change during training, "
                    f"from {getattr(self.config, name)!r} to {getattr(config, name)!r}; make a new "
                    "model"
                )
        self.config = config.fitted_to(self.algorithm)

    # -- what the loop calls -----------------------------------------------------------------

    def training_starts(self, replay: Replay, timesteps: int) -> None:
        """Warn if this call of ``learn`` ends before the weighting begins."""
        window = replay.window
        reached = min(window.size + timesteps, ring_size(self.algorithm))
        fast_size = -(-self.config.fast_buffer_size // window.n_envs) * window.n_envs
        if reached <= fast_size:
            warnings.warn(
                "the importance weights will stay at 1 in this call of learn: they begin when the "
                f"replay buffer holds more than fast_buffer_size={self.config.fast_buffer_size} "
                f"transitions, and with total_timesteps={timesteps} it ends with {reached}; train "
                "longer, lower fast_buffer_size, or load_replay_buffer if this goes on from a file",
                stacklevel=2,
            )

    def weigh(self, draw: Draw, replay: Replay) -> Tensor:
        """The weights ``[B, 1]`` of a batch, from the ratio network as it was before its step."""
        slow = replay.window
        fast = slow.newest(self.config.fast_buffer_size)
        n = len(draw.samples.rewards)
        if slow.size <= fast.size:
            self._metrics = {"lfiw/active": 0.0}
            return th.ones(n, 1, device=self.algorithm.device)

        limit = self._limit(slow, fast)
        features = self._features(draw.samples.observations)
        actions = self._actions(draw.samples.actions)
        if draw.uniform:
            # The batch is itself a uniform draw of the slow buffer: one forward pass serves the
            # ratio loss and the weights.
            logits = self._train(features, actions, draw.rows, fast, replay, limit)
        else:
            with th.no_grad():
                logits = bounded_logits(self.network(features, actions), limit)
        for _ in range(self.config.ratio_updates - draw.uniform):
            drawn = slow.draw(n, self.rng)
            rows = drawn // slow.n_envs
            self._train(*self._inputs(drawn, replay), rows, fast, replay, limit)

        weights = normalized_weights(
            logits,
            self.config.temperature,
            self.config.weight_form,
            None if draw.uniform else draw.weights,
        )
        self._report(weights)
        return weights

    def fitted(self) -> LikelihoodFree:
        """The config with the fast buffer that fits."""
        return self.config

    def metrics(self) -> Mapping[str, float]:
        """The newest health figures; docs/methods/lfiw.md says how to read them."""
        return self._metrics

    def state_dict(self) -> dict[str, Any]:
        """Network with its normaliser, optimiser, counters and random generator."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "normalize": self.network.normalize,
            "updates": self.updates,
            "collapsed_for": self._collapsed_for,
            "metrics": dict(self._metrics),
            "rng": self.rng.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Put back what ``state_dict`` gave.

        :raises CheckpointError: if the saved ratio network has another shape
        """
        load_network(
            self.network,
            state["network"],
            strict,
            f"the saved ratio network does not fit ratio_net_arch={self.config.ratio_net_arch} on "
            "these observations and actions; load with the ratio_net_arch that it was trained with",
        )
        if self.config.normalize_inputs == "auto":
            # As it was trained, also where the VecNormalize of then is not there (yet).
            self.network.normalize = state["normalize"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates = state["updates"]
        self._collapsed_for = state["collapsed_for"]
        self._metrics = dict(state["metrics"])
        self.rng.bit_generator.state = state["rng"]

    # -- the parts ---------------------------------------------------------------------------

    def _limit(self, slow: Window, fast: Window) -> float:
        """The bound of the logit; the truth's own is ln(slow / fast)."""
        if self.config.logit_clip == "auto":
            return math.log(slow.size / fast.size)
        return math.inf if self.config.logit_clip is None else float(self.config.logit_clip)

    def _normalizes(self, replay: Replay) -> bool:
        if self.config.normalize_inputs == "auto":
            return self._learned_features or not replay.normalizes_observations
        return bool(self.config.normalize_inputs)

    def _learning_rate(self) -> float:
        if self.config.ratio_learning_rate is not None:
            return self.config.ratio_learning_rate
        rate: float = self.algorithm.value_optimizer.param_groups[0]["lr"]
        return rate

    def _features(self, observations: Observations) -> Tensor:
        """The value network's features ``[B, features_dim]``, detached; plain inputs for an MLP."""
        network = self.algorithm.value_network
        encoder, mode = network.features_extractor, network.features_extractor.training
        if self._learned_features:
            encoder.train(False)  # batch norm's statistics and dropout's draws are its own
        with th.no_grad():
            features: Tensor = network.extract_features(observations, encoder)
        if self._learned_features:
            encoder.train(mode)
        return features

    def _actions(self, actions: Tensor) -> Tensor:
        """Stored actions as numbers ``[B, action_dim]``; discrete ones have no order: one-hot."""
        encoded = preprocess_obs(actions, self.algorithm.action_space)
        return cast(Tensor, encoded).flatten(1)

    def _inputs(self, indices: Indices, replay: Replay) -> tuple[Tensor, Tensor]:
        """Features and actions of stored transitions."""
        observations, actions = replay.observations_and_actions(indices)
        return self._features(observations), self._actions(actions)

    def _train(
        self,
        features: Tensor,
        actions: Tensor,
        rows: Indices | None,
        fast: Window,
        replay: Replay,
        limit: float,
    ) -> Tensor:
        """One step on the density-ratio loss, for a uniform batch of the slow buffer.

        :param rows: the rows that the batch is from, if known
        :return: the batch's logits ``[B, 1]`` from before the step, detached
        """
        n, fraction = len(features), self.config.holdout_fraction
        # Half as many as slow ones: the loss takes each mean apart, and these rows are pure cost.
        chosen = draw_split(fast, -(-n // 2), self.rng, fraction, out=False)
        fast_features, fast_actions = self._inputs(chosen, replay)
        self.network.observe(features)
        inputs = self.network.inputs(
            th.cat([features, fast_features]), th.cat([actions, fast_actions])
        )
        fused = self._fused()
        outputs = self.network.layers(inputs) if fused is None else fused.outputs(inputs)
        logits = bounded_logits(outputs, limit)
        slow_logits, fast_logits = logits[:n], logits[n:]
        negatives = slow_logits
        if rows is not None and fraction > 0:
            # Held out from both sides: seen as slow only, these rows would be learned as stale.
            indices = rows * fast.n_envs
            unseen = fast.contains(indices) & held_out(indices, fast, fraction)
            kept = np.flatnonzero(~unseen)
            if 0 < len(kept) < n:
                chosen_rows = th.as_tensor(kept, device=slow_logits.device)
                negatives = slow_logits.index_select(0, chosen_rows)
        loss = density_ratio_loss(negatives, fast_logits, self.config.divergence)
        slow_logits, fast_logits = slow_logits.detach(), fast_logits.detach()

        if self.updates % _HOLDOUT_EVERY == 0:
            self._metrics["lfiw/train_accuracy"] = balanced_accuracy(
                slow_logits, fast_logits
            ).item()
            if fraction > 0:
                chosen = draw_split(fast, n, self.rng, fraction, out=True)
                with th.no_grad():
                    new_logits = bounded_logits(self.network(*self._inputs(chosen, replay)), limit)
                self._metrics["lfiw/holdout_accuracy"] = balanced_accuracy(
                    slow_logits, new_logits
                ).item()

        self.optimizer.param_groups[0]["lr"] = self._learning_rate()
        if fused is None:
            descend(loss, self.optimizer)
        else:
            fused.descend(loss)
        self.updates += 1
        self._metrics["lfiw/ratio_loss"] = loss.item()
        self._metrics["lfiw/ratio_mean"] = slow_logits.exp().mean().item()
        return slow_logits

    def _fused(self) -> FusedMLP | None:
        """The ratio network on the algorithm's engine; None where that is the reference."""
        engine = self.algorithm.chosen_engine
        products = None if engine is None else engine.products
        if products is None:
            return None
        if self._engine is None or self._engine.products != products:
            self._engine = FusedMLP(self.network.layers, self.optimizer, products)
        return self._engine if self._engine.ready() else None

    def _report(self, weights: Tensor) -> None:
        """Take the weights' health into the metrics, and say so in words when they collapse."""
        share = effective_sample_size(weights).item()
        self._metrics["lfiw/active"] = 1.0
        self._metrics["lfiw/effective_sample_size"] = share
        self._metrics["lfiw/weight_max"] = weights.max().item()
        # One transition alone is a share of 1 / B, which for a tiny batch is not below the line.
        line = max(_COLLAPSE_SHARE, 1.5 / len(weights))
        self._collapsed_for = self._collapsed_for + 1 if share < line else 0
        if self._collapsed_for == _COLLAPSE_PATIENCE:
            warnings.warn(
                f"the importance weights have collapsed: for {_COLLAPSE_PATIENCE} updates in a row "
                f"fewer than {line:.0%} of a batch counted (now {share:.1%}, see "
                "lfiw/effective_sample_size). The ratio network has probably memorised the fast "
                "buffer: raise temperature or fast_buffer_size, set weight_form='prob', or lower "
                "ratio_learning_rate or ratio_updates",
                stacklevel=2,
            )


def ring_size(algorithm: Composable) -> int:
    """How many transitions can be drawn from the algorithm's replay buffer when it is full."""
    buffer = algorithm.replay_view.buffer
    return (buffer.buffer_size - int(buffer.optimize_memory_usage)) * buffer.n_envs
