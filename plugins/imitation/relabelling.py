"""The newest rewards for transitions that an off-policy generator keeps."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces

from sb3_ext.offline.scaling import unscaled

#: Transitions whose rewards are computed together.
_CHUNK = 8192


def require_relabelling(model: Any) -> None:
    """Refuse a buffer whose rewards cannot be exchanged.

    :raises ValueError: saying what to leave out
    """
    if getattr(model.replay_buffer, "next_observations", None) is None:
        raise ValueError(
            "relabel_rewards=True needs transitions, and the replay buffer of "
            f"{model.generator_class.__name__} holds trajectories: pass relabel_rewards=False"
        )
    if model.optimize_memory_usage:
        raise ValueError(
            "relabel_rewards=True needs what followed each transition, which a replay buffer with "
            "optimize_memory_usage has overwritten at the ends of episodes: leave that out, or "
            "pass relabel_rewards=False"
        )


def relabel(model: Any) -> None:
    """Give all transitions of the replay buffer the rewards of today's discriminator.

    Their own are those of the discriminators of their days, which a generator of today need not
    fool any more.

    :param model: with ``reward_net`` and ``replay_buffer``
    """
    buffer = model.replay_buffer
    at_once = max(_CHUNK // buffer.n_envs, 1)
    for start in range(0, buffer.size(), at_once):
        rows = slice(start, min(start + at_once, buffer.size()))
        buffer.rewards[rows] = _rewards(model, rows).reshape(-1, buffer.n_envs)


def _rewards(model: Any, rows: slice) -> Any:
    """Today's rewards of these rows of the buffer, ``[n]``."""
    buffer, shape = model.replay_buffer, model.seen_space.shape or ()
    actions = buffer.actions[rows].reshape(-1, buffer.action_dim)
    if isinstance(model.action_space, spaces.Box):
        actions = unscaled(actions, model.action_space)
    return model.reward_net.predict_processed(
        buffer.observations[rows].reshape(-1, *shape),
        actions.reshape(-1, *(model.action_space.shape or ())),
        buffer.next_observations[rows].reshape(-1, *shape),
        buffer.dones[rows].reshape(-1),
        update_stats=False,
    )
