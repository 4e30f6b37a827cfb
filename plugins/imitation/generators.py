"""Which algorithm acts: found by name or class, and made one with what imitates."""

from __future__ import annotations

import functools
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_ext import catalog, registry
from sb3_ext.catalog import find_algorithm


def resolve_generator(
    generator: str | type[BaseAlgorithm],
) -> tuple[str | None, type[BaseAlgorithm]]:
    """The name of a generator, for files, and its class.

    :param generator: ``"PPO"``, ``"TRPO"``, ``"SAC"`` (ours, with ``replay=``), ``"sb3:SAC"``,
        ``"LFIWSAC"``, or a class
    :return: the name is None for a class that nobody can find by one
    :raises ValueError: if it cannot act as a generator
    """
    name: str | None
    if isinstance(generator, str):
        name, found = find_algorithm(generator)
    elif isinstance(generator, BaseAlgorithm):
        kind = type(generator).__name__
        raise ValueError(
            f"generator must be an algorithm's name or class, got a {kind} that is made already: "
            f"give generator={kind!r} or its class, and its arguments as generator_kwargs=; its "
            "weights can be put in then, by model.policy.load_state_dict(...)"
        )
    else:
        name, found = _name_of(generator), generator
    if not (isinstance(found, type) and issubclass(found, BaseAlgorithm)):
        raise ValueError(
            f"generator must be an algorithm's name or class, got {generator!r}: 'PPO', 'TRPO' and "
            "'SAC' are usual"
        )
    if hasattr(found, "data_argument"):
        raise ValueError(
            f"a generator acts in the environment and learns from rewards, and {found.__name__} "
            "does not: take 'PPO', 'TRPO' or 'SAC'"
        )
    if not hasattr(found, "collect_rollouts"):
        raise ValueError(
            f"a generator collects rollouts, between which the discriminator learns, and "
            f"{found.__name__} does not: take 'PPO', 'TRPO' or 'SAC'"
        )
    return name, found


def require_acts_in(generator: Any, action_space: Any, imitator: str) -> None:
    """Refuse a generator of other action spaces, by its own name and not by the imitator's.

    :param generator: its class, of which ours say what they act in
    :param imitator: such as ``"GAIL"``
    :raises ValueError: if it cannot act there
    """
    kinds = getattr(generator, "supported_actions", None)
    if kinds is not None and not isinstance(action_space, kinds):
        raise ValueError(
            f"the generator {generator.__name__} acts in {' and '.join(k.__name__ for k in kinds)} "
            f"spaces, and this environment's is {action_space}: give {imitator} generator='PPO', "
            "which acts in all of SB3's"
        )


def require_policy(generator: Any, policy: Any) -> None:
    """Refuse a policy's name that the generator does not know.

    :raises ValueError: with those that it knows
    """
    known = list(generator.policy_aliases)
    if isinstance(policy, str) and policy not in known:
        raise ValueError(
            f"the generator {generator.__name__} has no policy {policy!r}: it has "
            f"{', '.join(map(repr, known))}"
        )


@functools.cache
def composed(cls: Any, generator: type[BaseAlgorithm]) -> Any:
    """The class that imitates with this generator: ``cls`` in front of the generator's class.

    :param cls: such as ``GAIL``
    :param generator: such as ``PPO``
    """
    held = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "policy_aliases": generator.policy_aliases,
        "generator_class": generator,
    }
    return type(cls.__name__, (cls, generator), held)


def _name_of(cls: Any) -> str | None:
    """The name by which commands find this very class."""
    if not isinstance(cls, type):
        return None
    spec = registry.spec_of(cls)
    if spec is not None:
        return spec.public_name
    for home, (module, names) in catalog.STOCK.items():
        if getattr(cls, "__module__", "").partition(".")[0] == module and cls.__name__ in names:
            return f"{home}:{cls.__name__}"
    return None
