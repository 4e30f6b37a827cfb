"""Who is asked: a model, a function, or a human on the terminal; and whether the answer will do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from torch import nn

from sb3_ext.offline.arrays import map_observations
from sb3_ext.offline.behaviour import acting
from sb3_ext.plugins.causal.store import fingerprint_of

if TYPE_CHECKING:
    from sb3_ext.plugins.causal.algorithm import CausalBC

Ask = Callable[[str], str]
FUNCTION = "function"


class Expert:
    """Gives actions for observations; others than the space has are refused.

    :param answer: observations ``[B, ...]`` -> actions ``[B, ...]``
    :param at_once: how many states it likes to be shown; None is all of them
    :param name: what tells it from others: a model's fingerprint, ``"human"``, or ``"function"``,
        of which nothing is known but what it answers
    """

    def __init__(
        self,
        answer: Callable[[Any], Any],
        space: spaces.Space[Any],
        at_once: int | None = None,
        name: str = FUNCTION,
    ) -> None:
        self.answer, self.space, self.at_once, self.name = answer, space, at_once, name

    def __call__(self, observations: Any, first: int = 0) -> NDArray[Any]:
        """Its actions, ``[B, ...]``.

        :param first: the number of the first state, for errors
        """
        count = len(
            next(iter(observations.values())) if isinstance(observations, dict) else observations
        )
        actions = np.asarray(self.answer(map_observations(np.copy, observations)))
        shape = (count, *(self.space.shape or ()))
        if actions.shape == (count, 1) and shape == (count,):
            actions = actions[:, 0]
        if actions.shape != shape:
            raise ValueError(
                f"the expert must give an action of {self.space} for each of {count} states, "
                f"shape {list(shape)}; got {list(actions.shape)}"
            )
        whole = actions.dtype.kind in "iub" or np.array_equal(actions, np.round(actions))
        if not (whole or isinstance(self.space, spaces.Box)):
            raise ValueError(
                f"the expert must give whole numbers for {self.space}, got {actions.dtype}"
            )
        actions = actions.astype(self.space.dtype)
        bad = [i for i, one in enumerate(actions) if not self.space.contains(one)]
        if bad:
            raise ValueError(
                f"the expert gave {actions[bad[0]]} in state {first + bad[0]}, which is not in "
                f"{self.space} ({len(bad)} of {count} answers are not): actions are in the "
                "environment's units"
            )
        return actions


def resolve_expert(expert: Any, model: CausalBC) -> Expert:
    """What ``expert=`` names.

    :raises TypeError: if it is no model, function or ``"human"``
    :raises ValueError: if a model sees or does something else than the imitator
    """
    space = model.action_space
    if isinstance(expert, Expert):
        return expert
    if isinstance(expert, str):
        if expert != "human":
            raise TypeError(f"expert must be a model, a function or 'human', got {expert!r}")
        return human_expert(space, model.layout.names)
    seen = getattr(expert, "observation_space", None)
    if seen is not None and seen.shape != model.observation_space.shape:
        raise ValueError(
            f"the expert sees {seen}, and the imitator {model.observation_space}: give a function "
            "that leaves out what the expert does not see, such as "
            "lambda seen: expert.predict(seen[:, :2], deterministic=True)[0]"
        )
    if not hasattr(expert, "predict") and not callable(expert):
        raise TypeError(
            f"expert must be an SB3 model, a function of observations or 'human', got {expert!r}"
        )
    act = acting(expert, space, True, 0)

    def answer(observations: Any) -> Any:
        one = next(iter(observations.values())) if isinstance(observations, dict) else observations
        return act(observations, np.ones(len(one), bool))[0]

    policy = getattr(expert, "policy", expert)
    name = fingerprint_of(policy) if isinstance(policy, nn.Module) else FUNCTION
    return Expert(answer, space, name=name)


def human_expert(
    space: spaces.Space[Any],
    names: tuple[str, ...] = (),
    ask: Ask = input,
    show: Callable[[str], None] = print,
) -> Expert:
    """Someone who is shown a state at a time, and types the action.

    :param names: of the observation's columns, if there are as many
    :param ask: ``input``, or what stands for it
    :param show: ``print``, or what stands for it
    """

    def answer(observations: Any) -> Any:
        show(_described(observations, names))
        hint = f"action in {space}" + ("" if space.shape == () else ", numbers with spaces between")
        while True:
            text = ask(f"{hint}: ")
            try:
                values = np.array([float(one) for one in text.replace(",", " ").split()])
                action = values.reshape(space.shape or ()).astype(space.dtype)
            except ValueError:
                action = None
            whole = action is not None and np.allclose(action, values.reshape(action.shape))
            if whole and space.contains(action):
                return action[None]  # type: ignore[index]
            show(f"{text!r} is no action of {space}; once more")

    return Expert(answer, space, at_once=1, name="human")


def _described(observations: Any, names: tuple[str, ...]) -> str:
    if isinstance(observations, dict):
        return "\n".join(f"{key}: {part[0]}" for key, part in observations.items())
    one = observations[0]
    if one.ndim == 1 and len(names) == len(one):
        return "\n".join(f"{name}: {value:.5g}" for name, value in zip(names, one, strict=True))
    return f"observation: {one}" if one.ndim == 1 else f"an image of shape {one.shape}"
