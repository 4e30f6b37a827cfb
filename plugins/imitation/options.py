"""Laws for the options of GAIL and AIRL."""

from __future__ import annotations

from typing import Any

#: Whole numbers of at least 1; those that may also be None for a default.
_COUNTS = ("n_disc_updates_per_round",)
_COUNTS_OR_NONE = ("demo_batch_size", "gen_train_timesteps", "gen_replay_buffer_capacity")
_SWITCHES = (
    "disc_normalize_inputs",
    "normalize_rewards",
    "relabel_rewards",
    "allow_variable_horizon",
)


def require_options(model: Any) -> None:
    """Refuse what cannot work.

    :raises TypeError: for another kind of value
    :raises ValueError: for one out of range
    """
    for name in (*_COUNTS, *_COUNTS_OR_NONE):
        value = getattr(model, name)
        if value is None and name in _COUNTS_OR_NONE:
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be a whole number, got {value!r}")
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    for name in _SWITCHES:
        if not isinstance(getattr(model, name), bool):
            raise TypeError(f"{name} must be True or False, got {getattr(model, name)!r}")
    rate = model.disc_learning_rate
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not rate > 0:
        raise ValueError(f"disc_learning_rate must be a number above 0, got {rate!r}")
    arch = model.disc_net_arch
    if not all(isinstance(width, int) and width > 0 for width in arch):
        raise ValueError(f"disc_net_arch must be a list of widths, such as [32, 32], got {arch!r}")
