"""An episode as its beginning and its actions, for environments whose state cannot be read."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np

from sb3_ext.resume.tree import StateMismatchError
from sb3_ext.trees import same

#: Beyond, an episode is not kept: to play it again would take longer than to begin another.
LONGEST = 20_000


class Episode:
    """What an environment was told since before its last reset."""

    def __init__(self) -> None:
        self._began: dict[str, Any] | None = None
        self._actions: list[Any] = []
        self._seen: Any = None

    def begin(
        self, env: gym.Env[Any, Any], seed: int | None, options: dict[str, Any] | None
    ) -> None:
        """Called before a reset."""
        randoms = [
            None if generator is None else copy.deepcopy(generator.bit_generator.state)
            for generator in _generators(env)
        ]
        self._began = {"seed": seed, "options": copy.deepcopy(options), "randoms": randoms}
        self._actions = []

    def saw(self, observation: Any) -> None:
        """Keep what came back; by reference, since it is looked at before the next step."""
        self._seen = observation

    def act(self, action: Any) -> None:
        """Called before a step."""
        if len(self._actions) < LONGEST:
            own = action.copy() if isinstance(action, np.ndarray) else copy.deepcopy(action)
            self._actions.append(own)
        else:
            self._began, self._actions = None, []

    def record(self) -> dict[str, Any] | None:
        """All that plays it again, or None if it is not known."""
        if self._began is None:
            return None
        actions = self._actions
        kinds = {(type(one), getattr(one, "dtype", None), np.shape(one)) for one in actions}
        # One array and not thousands, where they are alike.
        stacked = len(kinds) == 1 and isinstance(actions[0], (np.ndarray, np.generic))
        kept = np.stack(actions) if stacked else list(actions)
        return {**self._began, "actions": kept, "seen": self._seen}

    def replay(self, env: gym.Env[Any, Any], record: dict[str, Any]) -> None:
        """Play it again, in an environment that was made alike.

        :raises StateMismatchError: if it comes to another observation: the environment draws from
            elsewhere than from its generator, or remembers earlier episodes
        """
        for layer, state in zip(layers_of(env), record["randoms"], strict=True):
            if state is not None:
                kinds = {kind.__name__: kind for kind in np.random.BitGenerator.__subclasses__()}
                generator = np.random.Generator(kinds[state["bit_generator"]]())
                generator.bit_generator.state = state
                layer.__dict__["_np_random"] = generator
        self.begin(env, record["seed"], record["options"])
        seen, _ = env.reset(seed=record["seed"], options=record["options"])
        for action in record["actions"]:
            self.act(action)
            seen, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                raise StateMismatchError("the episode, played again, ended before it should")
        self.saw(seen)
        if not same(seen, record["seen"]):
            raise StateMismatchError("the episode, played again, came to another observation")


def layers_of(env: gym.Env[Any, Any]) -> list[gym.Env[Any, Any]]:
    """From the outermost wrapper to the environment itself."""
    found = [env]
    while isinstance(found[-1], gym.Wrapper):
        found.append(found[-1].env)
    return found


def _generators(env: gym.Env[Any, Any]) -> Iterator[np.random.Generator | None]:
    for layer in layers_of(env):
        held = vars(layer).get("_np_random")
        yield held if isinstance(held, np.random.Generator) else None
