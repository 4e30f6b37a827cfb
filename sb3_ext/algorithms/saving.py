"""Saving and loading of our bases, beside what SB3 does."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv

from sb3_ext.algorithms import checkpoints
from sb3_ext.algorithms.inputs import build_part, check_env, plain_config, resolve_config
from sb3_ext.losses import plain_loss, resolve_loss
from sb3_ext.replay.sampler import Sampler, SamplerConfig
from sb3_ext.replay.storage import Replay
from sb3_ext.signatures import own_arguments, require_known
from sb3_ext.weighting import Weighting

#: Attribute of a saved replay buffer.
SAMPLER_STATE = "sb3_ext_sampler"
#: Attributes that are built from others.
_LIVING = ("weigher", "sampler", "clock", "loss_function")


class Saving(OffPolicyAlgorithm):
    """An algorithm whose zip, replay buffer and parameters know its sampler and its weighting."""

    #: Name of the SB3 algorithm whose checkpoints warm-start this base.
    family: ClassVar[str]
    #: Kinds of action spaces that the base can act in.
    supported_actions: ClassVar[tuple[type[spaces.Space[Any]], ...]] = (spaces.Box,)
    #: Whether the critic has one error a sample, from which any loss can be made.
    takes_critic_loss: ClassVar[bool] = True

    replay: Any
    weigher: Weighting | None
    sampler: Sampler | None

    @property
    def replay_view(self) -> Replay:
        """The replay buffer as the loop, the sampler and the weighting see it."""
        if self.replay_buffer is None:
            raise ValueError(f"{type(self).__name__} has no replay buffer yet: set it up first")
        return Replay(self.replay_buffer, self._vec_normalize_env, self.sampler)

    @classmethod
    def check_arguments(cls, given: Mapping[str, Any], where: str, saved: Iterable[str]) -> None:
        """Refuse what is misspelt or contradicts itself, in the constructor and in ``load``.

        :param given: arguments by name
        :param where: who got them, for the error
        :param saved: names that a saved model knows beside the constructor's
        """
        require_known(cls, given, where=where, also=saved)
        if given.get("engine", "reference") != "reference":
            raise ValueError(
                f"engine must be 'reference', the only one so far, got {given['engine']!r}"
            )
        if given.get("critic_loss") is not None and not cls.takes_critic_loss:
            raise ValueError(
                f"{where} takes no critic_loss=: {cls.__name__} learns quantiles, whose loss is a "
                "Huber loss of its own; for another loss take SAC, TD3 or DQN"
            )
        if given.get("replay") is not None and given.get("replay_buffer_class") is not None:
            raise ValueError(
                f"{where} got both replay= and replay_buffer_class=, which say in two ways how "
                "transitions are drawn; give one of them"
            )

    def sampler_config(self) -> SamplerConfig | None:
        """The sampler's config, from the model's plain attributes."""
        config: SamplerConfig | None = resolve_config("sampler", self.replay)
        return config

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *_LIVING]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, tensors = super()._get_torch_save_params()
        return ([*names, "weigher"] if self.weigher is not None else names), tensors

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
        if "replay" in kwargs:
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

    def load_replay_buffer(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        truncate_last_traj: bool = True,
    ) -> None:
        """As in SB3; a buffer of other shapes is refused.

        A sampler goes on with what it knew when the buffer was saved; if that was with another
        sampler or none, it is told what the buffer holds.
        """
        before = self.replay_buffer
        super().load_replay_buffer(path, truncate_last_traj)
        assert self.replay_buffer is not None
        try:
            self._take_over(before, str(getattr(path, "name", path)))
        except BaseException:
            self.replay_buffer = before
            raise

    def _take_over(self, before: ReplayBuffer | None, path: str) -> None:
        """Check a buffer that was loaded, and make a sampler for it."""
        loaded = self.replay_buffer
        assert loaded is not None
        if before is not None and loaded.n_envs != before.n_envs:
            raise ValueError(
                f"{path} holds transitions of {loaded.n_envs} environments, "
                f"and this model has {before.n_envs}: load the model with an env of "
                f"{loaded.n_envs} environments"
            )
        for name in ("observation_space", "action_space"):
            held, wanted = getattr(loaded, name), getattr(self, name)
            if held != wanted:
                raise ValueError(
                    f"{path} holds transitions with {name} {held}, and this model has {wanted}"
                )
        saved = loaded.__dict__.pop(SAMPLER_STATE, None)
        config = self.sampler_config()
        if config is None:
            return
        sampler = build_part(config, Sampler, self)  # for a buffer of this size
        if saved is not None and saved["made_by"] == _names(self.replay):
            sampler.load_state_dict(saved["state"])
        else:
            sampler.added(self.replay_view.window.indices())
        self.sampler = sampler

    def save_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """As in SB3; a sampler's state goes with it, and stock SB3 can still load the file."""
        if self.sampler is None or self.replay_buffer is None:
            super().save_replay_buffer(path)
            return
        state = {"made_by": _names(self.replay), "state": self.sampler.state_dict()}
        setattr(self.replay_buffer, SAMPLER_STATE, state)
        try:
            super().save_replay_buffer(path)
        finally:
            delattr(self.replay_buffer, SAMPLER_STATE)

    def save_for_sb3(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """Save a zip that stock SB3 loads, without anything of ours.

        ``stable_baselines3.SAC.load(path)`` then needs no sb3-ext. A ratio network and the like
        are not in the file; use ``save`` to keep them.

        :param path: as for ``save``
        """
        weigher, self.weigher = self.weigher, None  # no longer among the torch parameters
        try:
            self.save(path, exclude=sorted(self.own_attributes()))
        finally:
            self.weigher = weigher

    def own_attributes(self) -> set[str]:
        """Names of the plain attributes that stock SB3 does not know."""
        return {one.name for one in own_arguments(type(self))} | {"saved_by", "weigher_class"}


def _names(replay: Any) -> Any:
    """Which samplers stand within which: ``("ere", ("per", None))``."""
    if not isinstance(replay, Mapping):
        return None if replay is None else type(replay).__name__
    return replay["name"], _names(replay.get("inner"))
