"""RL Zoo with our algorithms: they are entered where the Zoo lets others enter theirs.

    from sb3_ext import zoo
    zoo.register()  # then rl_zoo3.train.train() and the like know lfiw_sac

The command is ``sb3-ext zoo``. Nothing here imports ``rl_zoo3`` before it is asked for.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from sb3_ext import registry
from sb3_ext.errors import UsageError
from sb3_ext.spec import PluginSpec

PREFIX = "ext_"
"""Before the names of ours that the Zoo uses itself: ``sac`` stays SB3's, ours is ``ext_sac``."""


def register() -> dict[str, str]:
    """Enter every algorithm of the registry that can be loaded; the Zoo's own stay as they are.

    It may be called again, after a plugin was registered.

    :return: the Zoo's names for them, and the plugins' names
    :raises UsageError: if ``rl_zoo3`` is missing
    """
    require_zoo()
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
    from rl_zoo3.utils import ALGOS

    entered = {}
    for spec in registry.public_names().values():
        if spec.kind != "algorithm":
            continue
        try:
            cls = registry.load(spec.name, kind="algorithm")
        except registry.PluginError:
            continue  # told to whoever asks for it
        name = spec.name if ALGOS.get(spec.name) in (None, cls) else PREFIX + spec.name
        ALGOS[name] = cls
        HYPERPARAMS_SAMPLER[name] = _sampler(spec)
        HYPERPARAMS_CONVERTER[name] = dict  # a study keeps the arguments as they are
        entered[name] = spec.name
    return entered


def presets_of(name: str, plugin: str) -> Path:
    """The file of presets that ``train`` takes where the user gives none.

    It is the plugin's own; or that of the Zoo for the algorithm whose name it shares.

    :param name: in the Zoo
    :param plugin: its name in the registry
    :raises UsageError: if there is neither
    """
    import rl_zoo3

    from sb3_ext.running.presets import preset_file

    own = preset_file(plugin)
    if own is not None:
        return own
    theirs = Path(rl_zoo3.__file__).parent / "hyperparams" / f"{plugin}.yml"
    if name == PREFIX + plugin and theirs.is_file():
        return theirs
    raise UsageError(
        f"{name} brings no presets: give --conf-file FILE, a YAML with a mapping for each "
        "environment, or for 'default', that has at least n_timesteps and policy"
    )


def require_zoo() -> None:
    """Refuse to go on without ``rl_zoo3``.

    :raises UsageError: with the cause and the remedy
    """
    try:
        importlib.import_module("rl_zoo3.cli")  # which leads to all that the commands need
    except ImportError as error:
        raise UsageError(
            f"RL Zoo cannot be imported ({error}); run: pip install 'sb3-ext[zoo]'"
        ) from error


@contextlib.contextmanager
def refusals_prune(names: Iterable[str]) -> Iterator[None]:
    """While it is open, a trial whose values the constructor refuses is pruned.

    The Zoo prunes a trial that fails in ``learn``; one that fails before would end the study. A
    drawn fast buffer that is larger than the replay buffer is no reason for that.

    :param names: of algorithms, in the Zoo
    """
    from rl_zoo3.utils import ALGOS

    before = {name: ALGOS[name] for name in names}
    ALGOS.update({name: _pruned_where_refused(cls) for name, cls in before.items()})
    try:
        yield
    finally:
        ALGOS.update(before)


def _pruned_where_refused(cls: Any) -> Callable[..., Any]:
    """What the Zoo does with a class: it calls it, and its ``load``."""
    import optuna

    def make(**values: Any) -> Any:
        try:
            return cls(**values)
        except ValueError as error:
            print(f"This trial is pruned: {' '.join(str(error).split())}")
            raise optuna.TrialPruned from error

    make.load = cls.load  # type: ignore[attr-defined]
    return make


def _sampler(spec: PluginSpec) -> Callable[..., dict[str, Any]]:
    """The plugin's search space as the Zoo calls one; the presets have the rest."""
    from sb3_ext.tuning import suggest

    def sample(trial: Any, n_actions: int, n_envs: int, additional_args: Any) -> dict[str, Any]:
        return suggest(trial, spec.name)

    return sample
