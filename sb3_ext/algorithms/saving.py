"""Saving and loading of our bases, beside what SB3 does."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_ext.algorithms import checkpoints
from sb3_ext.algorithms.inputs import check_env, plain_config, resolve_config
from sb3_ext.algorithms.sampling import HINDSIGHT, Sampling, stores_only
from sb3_ext.engines.choice import require_engine
from sb3_ext.losses import plain_loss, resolve_loss
from sb3_ext.replay.buffers import SamplerReplayBuffer
from sb3_ext.signatures import own_arguments, require_known
from sb3_ext.weighting import Weighting

#: Attributes that are built from others.
_LIVING = ("weigher", "sampler", "clock", "loss_function", "told", "chosen_engine")


class Saving(Sampling):
    """An algorithm whose zip and parameters know its sampler, its weighting and its loss."""

    #: Name of the SB3 algorithm whose checkpoints warm-start this base.
    family: ClassVar[str]
    #: Kinds of action spaces that the base can act in.
    supported_actions: ClassVar[tuple[type[spaces.Space[Any]], ...]] = (spaces.Box,)
    #: Whether the critic has one error a sample, from which any loss can be made.
    takes_critic_loss: ClassVar[bool] = True

    weigher: Weighting | None

    @classmethod
    def check_arguments(cls, given: Mapping[str, Any], where: str, saved: Iterable[str]) -> None:
        """Refuse what is misspelt or contradicts itself, in the constructor and in ``load``.

        :param given: arguments by name
        :param where: who got them, for the error
        :param saved: names that a saved model knows beside the constructor's
        """
        require_known(cls, given, where=where, also=saved)
        require_engine(given.get("engine", "auto"))
        if given.get("critic_loss") is not None and not cls.takes_critic_loss:
            raise ValueError(
                f"{where} takes no critic_loss=: {cls.__name__} learns quantiles, whose loss is a "
                "Huber loss of its own; for another loss take SAC, TD3 or DQN"
            )
        buffer = given.get("replay_buffer_class")
        hindsight = isinstance(buffer, type) and issubclass(buffer, HerReplayBuffer)
        if hindsight and (given.get("replay") or given.get("weighting")):
            raise ValueError(HINDSIGHT)
        stores = buffer is None or stores_only(buffer)
        if given.get("replay") is not None and not stores:
            raise ValueError(
                f"{where} got both replay= and replay_buffer_class=, which say in two ways how "
                "transitions are drawn; give one of them"
            )

    @classmethod
    def require_observations(cls, space: spaces.Space[Any]) -> None:
        """Refuse observations that a variant cannot learn from; a base takes what SB3 takes.

        :raises ValueError: with what to do instead
        """

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *_LIVING]

    def living_parts(self) -> dict[str, Any]:
        """What is saved by its ``state_dict`` beside SB3's networks, by attribute."""
        return {} if self.weigher is None else {"weigher": self.weigher}

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, tensors = super()._get_torch_save_params()
        return [*names, *self.living_parts()], tensors

    def set_parameters(
        self,
        load_path_or_dict: Any,
        exact_match: bool = True,
        device: th.device | str = "auto",
    ) -> None:
        """As in SB3; a weighting's networks and optimiser are under the name ``weigher``."""
        if isinstance(load_path_or_dict, dict):
            load_path_or_dict = checkpoints.adapt_parameters(self, load_path_or_dict)
        super().set_parameters(load_path_or_dict, exact_match, device)

    @classmethod
    def load(
        cls,
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | str | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Load a model; keyword arguments override what was saved (``temperature=9``).

        A zip of stock SB3's class of the same family warm-starts this one: what the zip does not
        hold, such as a ratio network, starts fresh.

        :raises CheckpointError: if the file is damaged or was saved by another class
        :raises TypeError: if a keyword is no argument of the class
        """
        summary = checkpoints.inspect(path)
        checkpoints.require_compatible(cls, summary, str(path))
        cls.check_arguments(kwargs, f"{cls.__name__}.load", saved=summary.attributes)
        made: Any = check_env(env, cls)
        kwargs = cls.inherit_weighting(summary.weighting, kwargs)
        chosen = kwargs.get("replay_buffer_class")
        # It says how to draw, whatever the zip says.
        if isinstance(chosen, type) and not stores_only(chosen):
            if not issubclass(chosen, SamplerReplayBuffer):
                kwargs.setdefault("replay", None)
            elif kwargs.get("replay") is None:
                kwargs.pop("replay", None)
        if "replay" in kwargs:
            kwargs["replay_given"] = True  # it wins over a sampler's buffer class in the zip
            kwargs["replay"] = plain_config(resolve_config("sampler", kwargs["replay"]))
        if "critic_loss" in kwargs:
            kwargs["critic_loss"] = plain_loss(resolve_loss(kwargs["critic_loss"]))
        if "weighting" in kwargs:
            kwargs["weighting"] = plain_config(resolve_config("weighting", kwargs["weighting"]))
        with checkpoints.adapting(cls, summary, kwargs):
            return super().load(
                path, made, device, custom_objects, print_system_info, force_reset, **kwargs
            )

    @classmethod
    def inherit_weighting(
        cls, saved: Mapping[str, Any] | None, overrides: dict[str, Any]
    ) -> dict[str, Any]:
        """What ``load`` overrides, seeing the registered weighting that a zip was saved with."""
        return overrides

    def save_for_sb3(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """Save a zip that stock SB3 loads, without anything of ours.

        ``stable_baselines3.SAC.load(path)`` then needs no sb3-ext. A ratio network and the like
        are not in the file; use ``save`` to keep them.

        :param path: as for ``save``
        """
        parts = self.living_parts()
        for name in parts:
            setattr(self, name, None)  # no longer among the torch parameters
        try:
            self.save(path, exclude=sorted(self.own_attributes() | set(parts)))
        finally:
            for name, part in parts.items():
                setattr(self, name, part)

    def own_attributes(self) -> set[str]:
        """Names of the plain attributes that stock SB3 does not know."""
        return {one.name for one in own_arguments(type(self))} | {"saved_by", "weigher_class"}
