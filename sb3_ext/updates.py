"""The one training loop, and the records that travel through it.

Three questions are asked of every gradient step. The *base* (``SAC``, ``TD3``, ...) says what is
learned from a batch, the *sampler* where to look for one, the *weighting* how much to believe
what was seen. ``run_updates`` asks them in this order and is the only place that does.

This module, ``algorithms/``, ``replay/storage.py`` and ``replay/compact.py`` are the only ones that
lean on the inside of Stable-Baselines3. When SB3 moves, this is the list to check:

* ``_setup_model``, ``_create_aliases``, ``_setup_learn``, ``_store_transition``, ``train``:
  overridden
* ``_update_learning_rate``, ``_current_progress_remaining``, ``_n_updates``, ``_last_obs``,
  ``_vec_normalize_env``: read or called
* ``_get_torch_save_params``, ``_excluded_save_params``: extended
* ``ReplayBuffer._get_samples``, ``._normalize_obs``, ``.pos``, ``.full`` and the arrays of the
  plain, Dict and n-step buffers: read
* ``ReplayBuffer.add``, which writes ``observations[pos]`` before ``next_observations[pos]``, and
  the arrays that a buffer is made with: ``replay/compact.py`` puts others in their place
* the bodies of ``train`` of ``SAC``, ``TD3`` and ``DQN``, and of sb3-contrib's ``TQC``, ``QRDQN``
  and ``CrossQ``: rewritten as one gradient step each; the parity tests hold the two side by side
* the networks that they name (``actor``, ``critic``, ``q_net``, ``quantile_net``, their targets),
  the optimisers on these, and CrossQ's ``set_bn_training_mode``
* for trajectories (``trajectories/replay.py``, ``plugins/acer``): ``_sample_action``, whose second
  result SB3 hands to ``ReplayBuffer.add`` unseen, ``_store_transition``, which puts terminal
  observations in their places, and ``OffPolicyAlgorithm.n_steps``, which means something else there
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch as th
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from torch import Tensor

from sb3_ext.replay.window import Indices
from sb3_ext.td import require_column

if TYPE_CHECKING:
    from sb3_ext.algorithms.composable import Composable

Batch = ReplayBufferSamples | DictReplayBufferSamples


@dataclass(frozen=True)
class Clock:
    """When a gradient step happens.

    :param update: index k of the step within this call of ``train``, from 0
    :param n_updates: number K of steps in this call
    :param progress_remaining: share of the training that is still to come, from 1 to 0
    """

    update: int
    n_updates: int
    progress_remaining: float


@dataclass(frozen=True)
class Draw:
    """A batch and how it was drawn.

    The batch is SB3's own tuple and is never rebuilt field by field: new fields of later SB3
    versions (as ``discounts`` once was) pass through.

    :param samples: SB3's batch of B transitions
    :param weights: the sampler's correction ``[B, 1]``; ones under uniform replay
    :param indices: transition indices ``[B]``, or None when SB3's own ``sample()`` drew the batch
        uniformly: it chooses the environments where nobody sees it
    :param rows: the ring's rows ``[B]`` that the transitions are from, or None where a buffer does
        not say
    """

    samples: Batch
    weights: Tensor
    indices: Indices | None = None
    rows: Indices | None = None

    @property
    def uniform(self) -> bool:
        """Whether the batch is distributed as the replay buffer is."""
        return self.indices is None


@dataclass(frozen=True)
class Step:
    """What one gradient step leaves behind.

    :param td_error: ``[B, n_critics]``, estimate minus target before the update, detached
    :param metrics: scalars for the logger, by their key under ``train/``
    """

    td_error: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


def critic_weights(algorithm: Composable, draw: Draw) -> Tensor:
    """The weight of each sample in the critic's loss: the sampler's times the weighting's.

    The one place where weights are checked.

    :return: ``[B, 1]``, no gradient
    :raises ValueError: if an answer of theirs is not a column, or not finite and >= 0
    :raises TypeError: if it is no tensor
    """
    batch_size = len(draw.samples.rewards)
    if algorithm.sampler is not None:
        _require_weights(draw.weights, batch_size, algorithm.sampler)
    if algorithm.weigher is None:
        return draw.weights
    weights = algorithm.weigher.weigh(draw, algorithm.replay_view)
    _require_weights(weights, batch_size, algorithm.weigher)
    return draw.weights * weights.detach()


def _require_weights(weights: object, batch_size: int, source: object) -> None:
    if not isinstance(weights, Tensor):
        raise TypeError(
            f"{type(source).__name__} must give its weights as a tensor of shape "
            f"[{batch_size}, 1], got {type(weights).__name__}"
        )
    require_column(weights, batch_size, f"weights of {type(source).__name__}")
    least, most = (bound.item() for bound in weights.detach().aminmax())
    # A NaN makes both bounds NaN, which compares false.
    if not (least >= 0 and most < th.inf):
        raise ValueError(
            f"weights must be finite and >= 0, got values between {least} and {most} from "
            f"{type(source).__name__}"
        )


def step_all_tensors_at_once(optimizers: Iterable[th.optim.Optimizer]) -> None:
    """Let an optimiser take its step in one call for all tensors, where nobody chose otherwise.

    On a CPU, torch steps tensor by tensor unless asked; asked, it rounds alike and saves time.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if group.get("foreach", False) is None and not group.get("fused"):
                group["foreach"] = True


def run_updates(algorithm: Composable, gradient_steps: int, batch_size: int) -> None:
    """Do ``gradient_steps`` gradient steps and log their mean metrics: SB3's ``train``.

    :param algorithm: one of our bases
    :param gradient_steps: number K of steps
    :param batch_size: number B of transitions in each
    """
    if not algorithm.policy.training:
        algorithm.policy.set_training_mode(True)
    optimizers = algorithm.optimizers()
    step_all_tensors_at_once(optimizers)
    algorithm._update_learning_rate(optimizers)
    replay, stepper = algorithm.replay_view, algorithm.stepper()
    history: defaultdict[str, list[Tensor]] = defaultdict(list)

    for update in range(gradient_steps):
        algorithm._n_updates += 1
        algorithm.clock = Clock(update, gradient_steps, algorithm._current_progress_remaining)
        draw = replay.draw(batch_size, algorithm.clock)
        step = stepper.gradient_step(draw.samples, critic_weights(algorithm, draw))
        replay.observe(draw, step.td_error)
        for name, value in step.metrics.items():
            history[name].append(value.detach().squeeze())

    logger = algorithm.logger
    logger.record("train/n_updates", algorithm._n_updates, exclude="tensorboard")
    for name, values in history.items():
        mean = values[0] if len(values) == 1 else th.stack(values).mean()
        logger.record(f"train/{name}", mean.item())
    for part in (algorithm.sampler, algorithm.weigher):
        if part is not None:
            for name, figure in part.metrics().items():
                logger.record(name, figure)
