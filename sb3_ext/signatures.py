"""Which arguments a class takes, also where its constructors hand them on as ``**kwargs``."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable

HOSTS = ("stable_baselines3", "sb3_contrib")
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


#: Arguments that name what an algorithm learns from.
DATA = ("dataset", "demonstrations")


def constructor_arguments(cls: type) -> dict[str, inspect.Parameter]:
    """The named arguments of a class's constructor, and of its bases' where it hands others on.

    Where several define one, the most derived wins; that is also the order.

    :param cls: any class
    """
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" in vars(base) and base is not object:
            own = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
            for parameter in own:
                if parameter.kind not in _VARIADIC:
                    found.setdefault(parameter.name, parameter)
            if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in own):
                break
    return found


def own_arguments(cls: type) -> list[inspect.Parameter]:
    """Those that a class adds to the Stable-Baselines3 class under it; all, if there is none.

    :param cls: any class
    """
    hosts = [base for base in cls.__mro__[1:] if base.__module__.partition(".")[0] in HOSTS]
    host = constructor_arguments(hosts[0]) if hosts else {}
    found = constructor_arguments(cls).items()
    refused = getattr(cls, "refused_arguments", ())
    return [
        one
        for name, one in found
        if name not in host and name not in refused and not name.startswith("_")
    ]


def require_known(cls: type, names: Iterable[str], *, where: str, also: Iterable[str] = ()) -> None:
    """Refuse misspelt arguments.

    :param cls: whose arguments are meant
    :param names: what was given
    :param where: whom the error names, such as ``"SAC.load"``
    :param also: further names that are right
    :raises TypeError: with the near miss
    """
    known = {*constructor_arguments(cls), *also}
    for name in names:
        if name not in known:
            public = sorted(one for one in known if not one.startswith("_"))
            near = difflib.get_close_matches(name, public, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"{where} got an unknown argument {name!r}{hint}")
