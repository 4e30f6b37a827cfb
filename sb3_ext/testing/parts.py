"""What the suites of weightings and samplers, the two parts of a base, share."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ext import registry
from sb3_ext.algorithms.composable import Composable
from sb3_ext.signatures import constructor_arguments
from sb3_ext.testing.environments import OBSERVATIONS, kit_env
from sb3_ext.trees import same

PLAIN = (type(None), bool, int, float, str, th.Tensor)


def small_model(base: type[Composable], observation: str, **changes: Any) -> Any:
    """A model with a small budget, in two environments with actions that the base takes."""
    given = {"policy_kwargs": {"net_arch": [16, 16]}, "seed": 1, "device": "cpu"}
    given |= {"learning_starts": 20, "batch_size": 16, "buffer_size": 500}
    policy = "MultiInputPolicy" if observation == "Dict" else "MlpPolicy"
    return base(policy, small_env(base, observation=observation), **{**given, **changes})


def small_env(base: type[Composable], **options: Any) -> DummyVecEnv:
    """Two environments with the first kind of actions that the base takes."""
    return kit_env(2, action=base.supported_actions[0].__name__, **options)


def declared_observations(config: object) -> tuple[str, ...]:
    """The kinds of observations that a config's spec declares; vectors, if it has none."""
    spec = registry.spec_of(type(config))
    if spec is None:
        return ("Box",)
    return tuple(kind for kind in spec.observation_spaces or OBSERVATIONS if kind in OBSERVATIONS)


def require_search_space(config: object) -> None:
    """Whether the keys of the spec's search space are arguments of the config."""
    spec = registry.spec_of(type(config))
    known = constructor_arguments(type(config))
    for key in spec.search_space if spec else ():
        assert key in known, (
            f"the search space of {type(config).__name__} has {key!r}, which is no argument of it"
        )


def require_quiet_build(config: Any, model: Any, name: str) -> None:
    """Whether building the living part moves no global generator."""
    before = _generators()
    config.build(model)
    assert same(before, _generators()), (
        f"building {name} moves a global random generator, so that runs with and without it differ "
        "from the first action on: make its networks under torch.random.fork_rng, and draw "
        "from a generator of its own that is seeded from algorithm.seed"
    )


def require_plain_state(state: Any, name: str, where: str = "state_dict()") -> None:
    """Whether a state is tensors and plain values, which torch loads without unpickling."""
    if isinstance(state, dict):
        for key, value in state.items():
            require_plain_state(value, name, f"{where}[{key!r}]")
    elif isinstance(state, (list, tuple)):
        for i, value in enumerate(state):
            require_plain_state(value, name, f"{where}[{i}]")
    else:
        assert isinstance(state, PLAIN), (
            f"{where} of {name} is a {type(state).__name__}; give tensors, numbers, strings, and "
            "lists and dicts of them, which can be loaded without unpickling"
        )


def _generators() -> list[Any]:
    states = np.random.get_state(legacy=False)
    return [th.get_rng_state(), states["state"], random.getstate()]
