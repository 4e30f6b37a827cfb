"""Constants of ACER by name: those of OpenAI's baselines, and the paper's."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces

_CHOICES: dict[str, Any] = {
    "learning_rate": 7e-4,
    "n_steps": 20,
    "replay_ratio": 4.0,
    "buffer_size": 50_000,
    "replay_start": 10_000,
    "on_policy_updates": True,
    "correction_term": 10.0,
    "delta": 1.0,
    "average_decay": 0.99,
    "ent_coef": 0.01,
    "vf_coef": 0.5,
    "max_grad_norm": 10.0,
}
#: The baselines have no continuous ACER; what the paper says of it, on-policy updates beside it.
_BOX = {"n_steps": 50, "correction_term": 5.0, "average_decay": 0.995, "ent_coef": 0.0}

#: By name, then by whether actions are a Box.
PRESETS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "baselines": (_CHOICES, {**_CHOICES, **_BOX, "replay_start": 1_000}),
    "paper": (
        {**_CHOICES, "ent_coef": 0.001, "vf_coef": 1.0},
        {
            **_CHOICES,
            **_BOX,
            "learning_rate": 3e-4,
            "buffer_size": 5_000,
            "replay_start": 1_000,
            "on_policy_updates": False,
            "vf_coef": 1.0,
        },
    ),
}


def constants(preset: str, action_space: spaces.Space[Any] | None) -> dict[str, Any]:
    """What a preset says for an action space.

    :param preset: its name
    :param action_space: None counts as Discrete
    :raises ValueError: for an unknown name
    """
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(map(repr, PRESETS))}, got {preset!r}")
    return dict(PRESETS[preset][isinstance(action_space, spaces.Box)])
