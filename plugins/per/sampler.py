"""The living part of PER and LAP: a sum tree over the replay ring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch as th
from torch import Tensor

from sb3_ext.algorithms.composable import Composable
from sb3_ext.errors import CheckpointError, NonFiniteError
from sb3_ext.plugins.per.equations import (
    Column,
    absolute_errors,
    annealed_beta,
    importance_weights,
    stratified,
)
from sb3_ext.replay.backends import make_sum_tree
from sb3_ext.replay.sampler import Drawn, Sampler
from sb3_ext.replay.sum_tree import Extreme, SumTree
from sb3_ext.replay.window import Indices, Window
from sb3_ext.updates import Clock

if TYPE_CHECKING:
    from sb3_ext.plugins.per.config import LAP, Prioritized

# Updates from one look at the last batch's quantiles to the next: these are no cheap figures.
_LOOK_EVERY = 50


class PrioritizedSampler(Sampler):
    """Draws transitions in proportion to what the critics got wrong about them.

    One leaf of the tree for each transition of the ring, ``row * n_envs + env``; what is not in
    the ring has no mass. Under a narrower window (ERE's) it draws from that alone.

    :param config: the options
    :param capacity: number of transitions that the ring has room for
    :param seed: of the draws
    :param algorithm: whose updates are counted in error messages
    """

    def __init__(
        self,
        config: Prioritized | LAP,
        capacity: int,
        seed: int,
        algorithm: Composable | None = None,
    ) -> None:
        self.config = config
        self.algorithm = algorithm
        self.tree: SumTree = make_sum_tree(capacity, config.backend)
        self.rng = np.random.Generator(np.random.PCG64(seed))
        # Masses, as the tree holds them: a new transition must not be raised to alpha twice.
        self._largest_seen = float(config.masses(np.ones(1))[0])
        used = {"max": config.max_priority == "buffer", "min": config.normalize == "buffer"}
        self._extremes = {name: Extreme(self.tree, name) for name in used if used[name]}
        self._errors: Column = np.zeros(0)
        self._figures: dict[str, float] = {}
        self._updates_since_look = 0
        self._beta = float("nan")
        self._weights: Tensor | None = None

    @classmethod
    def of(cls, config: Prioritized | LAP, algorithm: Composable) -> Self:
        """The sampler of an algorithm's buffer, seeded as the algorithm is."""
        buffer = algorithm.replay_view.buffer
        seed = th.initial_seed() if algorithm.seed is None else algorithm.seed
        return cls(config, buffer.buffer_size * buffer.n_envs, seed, algorithm)

    # -- what the loop calls -----------------------------------------------------------------

    def draw(self, n: int, window: Window, clock: Clock) -> Drawn:
        """Choose ``n`` transitions of the window, one from each n-th of its mass."""
        low, high = self._bounds(window)
        if not high > low:  # only with eps=0, where all errors are 0
            return Drawn(window.draw(n, self.rng), self._column(np.ones(n)))
        masses = stratified(n, self.rng)
        masses *= high - low
        if low != 0:
            masses += low
        if low < 0:
            masses[masses < 0] += self.tree.total
        indices = self.tree.find(masses)
        if window.length < window.capacity and not (inside := window.contains(indices)).all():
            # Rounding at the window's edges; its middle is safe.
            middle = (low + high) / 2
            middle += self.tree.total if middle < 0 else 0.0
            indices[~inside] = self.tree.find(np.full((~inside).sum(), middle))
        return Drawn(indices, self._correction(indices, window, high - low, clock))

    def added(self, indices: Indices) -> None:
        """New transitions get the largest priority, so that each is drawn soon."""
        largest = self._extremes["max"].value if "max" in self._extremes else self._largest_seen
        self._set(indices, largest if largest > 0 else self._largest_seen)

    def observe(self, indices: Indices, td_error: Tensor) -> None:
        """Refresh the priorities of a batch.

        :raises NonFiniteError: for a TD error that is NaN or infinite; the tree stays as it was
        """
        errors = absolute_errors(td_error.detach(), self.config.reduce).cpu().numpy()
        errors = errors.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # told in words below
            masses = self.config.masses(errors)
        largest = float(masses.max(initial=0.0))
        # To the power of alpha=0, even NaN is 1.
        if not (largest < np.inf and errors.max(initial=0.0) < np.inf):
            wrong = ~np.isfinite(errors)
            if not wrong.any():
                raise NonFiniteError(
                    f"the TD error {errors.max():g} to the power of alpha={self.config.alpha} is "
                    "beyond what a number can hold; lower alpha. All priorities are as they were"
                )
            worst = indices[wrong][0]
            when, of = "", self.algorithm
            if of is not None:
                when = f" at update {of._n_updates}, step {of.num_timesteps}"
            raise NonFiniteError(
                f"the critic's TD error of transition {worst} is not finite{when}: the networks "
                "hold NaN or have diverged. All priorities are as they were before this update; go "
                "on from a model saved earlier, with a smaller learning_rate"
            )
        self._errors = errors
        self._updates_since_look += 1
        self._largest_seen = max(self._largest_seen, largest)
        self._set(indices, masses)

    def metrics(self) -> Mapping[str, float]:
        """Health figures of a batch; docs/methods/per.md says how to read them.

        A call of ``train`` looks at its last batch if the last look is 50 updates ago.
        """
        if len(self._errors) and (not self._figures or self._updates_since_look >= _LOOK_EVERY):
            self._look()
        if self._figures:
            self._figures["per/largest_mass"] = self._largest_seen
            if self._weights is not None:
                self._figures["per/beta"] = self._beta
        return self._figures

    def state_dict(self) -> dict[str, Any]:
        """Leaves, largest mass, random generator."""
        return {
            "masses": np.array(self.tree.leaves),
            "alpha": self.config.alpha,
            "largest_seen": self._largest_seen,
            "rng": self.rng.bit_generator.state,
            "figures": dict(self._figures),
            "updates_since_look": self._updates_since_look,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what ``state_dict`` gave.

        :raises CheckpointError: if it is of a ring of another size
        """
        masses = np.asarray(state["masses"], dtype=np.float64)
        if masses.shape != (self.tree.capacity,):
            raise CheckpointError(
                f"the saved priorities are of {len(masses)} transitions, and this replay buffer "
                f"has room for {self.tree.capacity}: use the buffer_size and the number of "
                "environments that they were saved with"
            )
        before, now = float(state["alpha"]), self.config.alpha
        largest = float(state["largest_seen"])
        if before != now and before > 0:  # loaded with another alpha
            masses, largest = masses ** (now / before) * (masses > 0), largest ** (now / before)
        self.tree.fill(masses)
        for extreme in self._extremes.values():
            extreme.refill()
        self._largest_seen = largest
        self.rng.bit_generator.state = state["rng"]
        self._figures = dict(state["figures"])
        self._updates_since_look = int(state["updates_since_look"])

    # -- the parts ---------------------------------------------------------------------------

    def _look(self) -> None:
        low, middle, high = np.quantile(self._errors, (0.1, 0.5, 0.9))
        self._figures = {
            "per/td_error_p10": float(low),
            "per/td_error_median": float(middle),
            "per/td_error_p90": float(high),
        }
        if self._weights is not None:
            weights = self._weights
            self._figures["per/weight_min"] = weights.min().item()
            self._figures["per/effective_sample_size"] = (
                weights.sum().square() / (len(weights) * weights.square().sum())
            ).item()
        self._updates_since_look = 0

    def _set(self, indices: Indices, masses: Column | float) -> None:
        self.tree.set(indices, masses)
        for extreme in self._extremes.values():
            extreme.touch(indices)

    def _bounds(self, window: Window) -> tuple[float, float]:
        """Where the window's mass lies, from low, which is negative if it wraps, to high."""
        if window.length == window.capacity:
            return 0.0, self.tree.total
        start = (window.head - window.length) * window.n_envs
        high = self.tree.mass_before(window.head * window.n_envs)
        if start >= 0:
            return self.tree.mass_before(start), high
        return self.tree.mass_before(start + self.tree.capacity) - self.tree.total, high

    def _correction(
        self, indices: Indices, window: Window, total: float, clock: Clock
    ) -> Tensor | None:
        """The importance weights ``[n, 1]``; None for LAP, whose correction is in the loss."""
        if self.config.betas is None:
            return None
        self._beta = annealed_beta(1 - clock.progress_remaining, *self.config.betas)
        probabilities = self.tree.leaves.take(indices) / total
        weights = importance_weights(probabilities, window.size, self._beta)
        if "min" in self._extremes:
            least = np.array([self._extremes["min"].value / total])
            weights /= importance_weights(least, window.size, self._beta)
        else:
            weights /= weights.max()
        self._weights = self._column(weights)
        return self._weights

    def _column(self, weights: Column) -> Tensor:
        return th.from_numpy(weights.astype(np.float32)[:, None])
