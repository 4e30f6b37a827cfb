"""Saving and loading: the generator's own zip, with the discriminator's parameters in it."""

from __future__ import annotations

import io
import json
import pathlib
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

from stable_baselines3.common.base_class import BaseAlgorithm, maybe_make_env
from stable_baselines3.common.type_aliases import GymEnv

from sb3_ext.algorithms import checkpoints
from sb3_ext.errors import CheckpointError
from sb3_ext.offline import OfflineDataset
from sb3_ext.plugins.imitation.demonstrations import read_demonstrations
from sb3_ext.plugins.imitation.generators import composed, resolve_generator
from sb3_ext.signatures import constructor_arguments, require_known

#: Attributes that are built from others, or belong to the environment.
_LIVING = (
    *("demonstrations", "discriminator", "reward_net", "discriminator_optimizer", "generated"),
    *("minibatches", "expert", "learned_rewards", "episode_steps", "episode_rewards"),
    *("seen_space", "_alone", "demonstrated_horizon"),
)
#: Arguments that stand beside ``generator_kwargs``, not in it.
BESIDE = ("policy", "env", "policy_kwargs", "seed", "device", "verbose", "tensorboard_log")


class Saving(BaseAlgorithm):
    """A generator whose zip holds a discriminator, too."""

    generator_class: ClassVar[Any] = None
    #: What training changes and a zip leaves out, for exact resumes.
    resumed_attributes: ClassVar[tuple[str, ...]] = (
        *("generated", "episode_steps", "episode_rewards"),
    )
    saved_by: str
    _alone = False

    def _excluded_save_params(self) -> list[str]:
        ours = list(_LIVING)
        if self._alone:
            ours += [one for one in constructor_arguments(type(self)) if one not in BESIDE]
            ours += ["saved_by", "round_steps", "horizon"]
        return [*super()._excluded_save_params(), *ours]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, tensors = super()._get_torch_save_params()
        ours = [] if self._alone else ["reward_net", "discriminator_optimizer"]
        return [*names, *ours], tensors

    def save_generator(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """Save the policy alone, as a zip that the generator's class loads (``PPO.load``).

        :param path: as for ``save``
        """
        kept, self.saved_by = self.saved_by, self.generator_class.__name__
        self._alone = True
        try:
            self.save(path, include=["saved_by"] if hasattr(self, "replay_view") else None)
        finally:
            self._alone, self.saved_by = False, kept

    def save_for_sb3(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """Save the generator alone, as a zip of stock SB3's or contrib's class, without ours.

        :param path: as for ``save``
        """
        hers: Any = getattr(super(), "save_for_sb3", None)
        if hers is None:  # the generator is one of theirs
            self.save_generator(path)
            return
        self._alone = True
        try:
            hers(path)
        finally:
            self._alone = False

    @classmethod
    def check_arguments(cls, given: Mapping[str, Any], where: str, saved: Iterable[str]) -> None:
        """What is not ours, the generator's class checks."""
        own = constructor_arguments(cls)
        hers = {name: value for name, value in given.items() if name not in own}
        if hasattr(cls.generator_class, "check_arguments"):
            cls.generator_class.check_arguments(hers, where, saved)
        else:
            require_known(cls.generator_class, hers, where=where, also=saved)

    @classmethod
    def explain_unknown(cls, name: str, given: Mapping[str, Any]) -> str | None:
        """Where an argument belongs that is the generator's."""
        hers = resolve_generator(given.get("generator", "PPO"))[1]
        if name not in constructor_arguments(hers):
            return None
        return (
            f"{name} is an argument of its generator {hers.__name__}: set generator_kwargs.{name}"
        )

    @classmethod
    def convert_nested(cls, values: Mapping[str, Any], convert: Any) -> dict[str, Any]:
        """Arguments from plain text, where ``generator_kwargs`` are the generator's.

        :param convert: does so for a class and its arguments
        """
        hers = values.get("generator_kwargs")
        if not hers:
            return dict(values)
        _, generator = resolve_generator(values.get("generator", "PPO"))
        return {**values, "generator_kwargs": convert(generator, hers)}

    @classmethod
    def load(
        cls,
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | str | None = None,
        device: Any = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Load a model; ``demonstrations=`` are needed to learn on, and are not in the file.

        :param kwargs: override what was saved; ``generator=`` is needed where the model was made
            with a class that has no name
        :raises CheckpointError: if the file is damaged, or was saved by another class or with
            another generator
        """
        summary = checkpoints.inspect(path)
        if summary.saved_by != cls.__name__:
            raise CheckpointError(
                f"{path} was saved by {summary.saved_by or summary.family or 'another class'}, not "
                f"by {cls.__name__}: load it with the class that saved it"
            )
        if cls.generator_class is None:
            chosen = _chosen_generator(path, kwargs.pop("generator", None))
            whole: Any = composed(cls, resolve_generator(chosen)[1])
            given = (path, env, device, custom_objects, print_system_info, force_reset)
            return whole.load(*given, **kwargs)  # type: ignore[no-any-return]
        cls.check_arguments(kwargs, f"{cls.__name__}.load", saved=summary.attributes)
        made: Any = None if env is None else maybe_make_env(env, 0)
        kwargs["demonstrations"] = dataset_of(kwargs.get("demonstrations"), made)
        return super().load(
            path, made, device, custom_objects, print_system_info, force_reset, **kwargs
        )


def dataset_of(given: Any, env: Any) -> OfflineDataset | None:
    """The demonstrations that an argument names, or None.

    :param env: a VecEnv, for what does not say its spaces; or None
    """
    if given is None:
        return None
    spaces_ = None if env is None else (env.observation_space, env.action_space)
    return read_demonstrations(given, spaces_)


def _chosen_generator(path: Any, given: Any) -> Any:
    """The generator of a zip, which its user may name again.

    :param given: None, or a name or a class
    :raises CheckpointError: if it has none by name and none is given, or is of another one
    """
    found = _saved_generator(path)
    if given is None and found is None:
        raise CheckpointError(f"{path} was made with a generator of yours: pass generator=")
    if given is None or found is None:
        return found or given
    name, hers = resolve_generator(given)
    if name != found:
        raise CheckpointError(
            f"{path} was made with the generator {found!r}, whose networks are no "
            f"{name or hers.__name__}'s: leave generator= out, or make a new model"
        )
    return given


def _saved_generator(path: Any) -> str | None:
    """The generator's name in a zip, read without unpickling; None of a class without one."""
    from stable_baselines3.common.save_util import open_path

    file = open_path(path, "r", suffix="zip")
    with zipfile.ZipFile(file) as archive:
        found = json.loads(archive.read("data")).get("generator")
    file.close() if isinstance(path, (str, pathlib.Path)) else file.seek(0)
    return found if isinstance(found, str) else None
