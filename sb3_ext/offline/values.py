"""The Q function of an off-policy algorithm, whichever it is.

An algorithm of one's own offers it by a method::

    def estimated_value(self, observations, actions):  # -> [B] or [B, 1]

with tensors as the replay buffer gives them: observations normalised and with channels first,
actions in [-1, 1] for a Box and ``[B, 1]`` integers for a Discrete space. Those of SB3 and
sb3-contrib are understood without.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

QEstimate = Callable[[Any, Tensor], Tensor]


def q_estimate(model: BaseAlgorithm) -> QEstimate:
    """``(observations, actions) -> [B]``: the first critic's value; of quantiles, the mean.

    Networks are looked up now; ask again after they were exchanged.

    :param model: anything with ``estimated_value``; DQN, QRDQN; algorithms with a ``critic``
    :raises TypeError: for an algorithm without a Q function that is known here
    """
    made = _own(model) or _discrete(model) or _critic(model)
    if made is None:
        raise TypeError(
            f"{type(model).__name__} has no Q function that is known: neither a method "
            "estimated_value(observations, actions), nor q_net, quantile_net or critic. Add the "
            "method; algorithms such as PPO, which estimate no Q, cannot be looked at this way"
        )
    return made


def probe(model: BaseAlgorithm) -> None:
    """Ask once, for an observation and action of zeros: what fails then would fail in training.

    :raises TypeError: if there is no Q function, or it does not answer with one number a row
    """
    estimate, policy = q_estimate(model), model.policy
    observation = zeros_of(policy.observation_space)
    space = policy.action_space
    actions = th.zeros((1, int(np.prod(space.shape or (1,)))), device=model.device)
    if isinstance(space, spaces.Discrete):
        actions = actions.long()
    try:
        with th.no_grad():
            found = estimate(policy.obs_to_tensor(observation)[0], actions)
        shape: Any = tuple(found.shape)
    except Exception as error:
        raise TypeError(
            f"the Q function of {type(model).__name__} cannot be called with an observation and "
            f"an action ({type(error).__name__}: {error}); offer it as the method "
            "estimated_value(observations, actions) -> [B]"
        ) from error
    if shape != (1,):
        raise TypeError(
            f"the Q function of {type(model).__name__} must give one number a row, [1] for one "
            f"row, got {list(shape)}"
        )


def entropy_coefficient(model: BaseAlgorithm) -> float:
    """Alpha of SAC, TQC and CrossQ, now; 0 for algorithms without an entropy bonus."""
    learned = getattr(model, "log_ent_coef", None)
    if learned is not None:
        return float(th.exp(learned.detach()))
    fixed = getattr(model, "ent_coef_tensor", None)
    return 0.0 if fixed is None else float(fixed)


def _own(model: Any) -> QEstimate | None:
    own: Any = getattr(model, "estimated_value", None)
    if not callable(own):
        return None

    def asked(observations: Any, actions: Tensor) -> Tensor:
        return _flat(own(observations, actions))

    return asked


def _discrete(model: Any) -> QEstimate | None:
    q_net: Any = getattr(model, "q_net", None)
    if isinstance(q_net, th.nn.Module):

        def of_actions(observations: Any, actions: Tensor) -> Tensor:
            return _flat(q_net(observations).gather(1, actions.long()))

        return of_actions
    quantile_net: Any = getattr(model, "quantile_net", None)
    if isinstance(quantile_net, th.nn.Module):

        def of_quantiles(observations: Any, actions: Tensor) -> Tensor:
            return _flat(quantile_net(observations).mean(dim=1).gather(1, actions.long()))

        return of_quantiles
    return None


def _critic(model: Any) -> QEstimate | None:
    critic = getattr(model, "critic", None)
    if not isinstance(critic, th.nn.Module):
        return None
    first: Any = getattr(critic, "q1_forward", None)
    if callable(first):
        return lambda observations, actions: _flat(first(observations, actions))

    def of_critics(observations: Any, actions: Tensor) -> Tensor:
        found = critic(observations, actions)
        if isinstance(found, (tuple, list)):
            found = found[0]
        if found.ndim == 3:  # TQC: [B, critics, quantiles]
            found = found[:, 0].mean(dim=1)
        return _flat(found)

    return of_critics


def _flat(values: Tensor) -> Tensor:
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def zeros_of(space: spaces.Space[Any]) -> Any:
    """One observation, as near to zero as the space allows, in a batch of one."""
    if isinstance(space, spaces.Dict):
        return {key: zeros_of(part) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Box):
        return np.clip(np.zeros(space.shape), space.low, space.high).astype(space.dtype)[None]
    return np.zeros((1, *(space.shape or ())), np.int64)
