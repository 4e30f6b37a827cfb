"""`sb3-ext zoo`: RL Zoo's own commands, which know our algorithms; imports nothing heavy."""

import argparse
import contextlib
import difflib
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from sb3_ext.cli.parsing import add_command
from sb3_ext.errors import UsageError

#: Ours -> the module and the function of the Zoo.
ACTIONS = {
    "train": ("rl_zoo3.train", "train"),
    "optimize": ("rl_zoo3.train", "train"),
    "enjoy": ("rl_zoo3.enjoy", "enjoy"),
    "plot": ("rl_zoo3.plots", "all_plots"),
    "plot_train": ("rl_zoo3.plots", "plot_train"),
}
#: What the plots need, by their short and long option.
NEEDED = {
    "plot": (("-a", "--algos"), ("-e", "--env"), ("-f", "--exp-folders")),
    "plot_train": (("-a", "--algo"), ("-e", "--env"), ("-f", "--exp-folder")),
}
#: What the Zoo raises for wrong options, files, and settings that it runs as Python.
MISTAKES = (
    *(AssertionError, ImportError, LookupError, NameError, OSError, SyntaxError, TypeError),
    *(ValueError, yaml.YAMLError),
)
LOGS = "logs"
"""Where the Zoo trains to; its `enjoy` would look elsewhere, and then on the internet."""

MORE = """\
All that stands behind ACTION goes to RL Zoo, whose options they are:

  train       train; presets of ours where --conf-file is not given
  optimize    train --optimize-hyperparameters, over what `sb3-ext info NAME` shows
  enjoy       play with a trained agent, by default from the folder logs
  plot        evaluations: the Zoo's all_plots
  plot_train  training episodes

Our algorithms go by their plugins' names (lfiw_sac); where the Zoo has one of that name, ours
has ext_ in front (ext_sac). `sb3-ext zoo ACTION --help` has the Zoo's options. It needs the extra
`zoo` of sb3-ext."""
EXAMPLES = (
    "zoo train --algo lfiw_sac --env Pendulum-v1 --eval-freq 5000",
    "zoo enjoy --algo lfiw_sac --env Pendulum-v1 --no-render",
    "zoo optimize --algo lfiw_sac --env Pendulum-v1 --n-trials 20 --storage logs/study.log",
    "zoo plot -a lfiw_sac ext_sac -e Pendulum-v1 -f logs",
)


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands, "zoo", "RL Zoo with our algorithms", examples=EXAMPLES, more=MORE
    )
    parser.add_argument("action", metavar="ACTION", nargs="?", help=", ".join(ACTIONS))
    parser.add_argument(
        "words", metavar="...", nargs=argparse.REMAINDER, help="the Zoo's own options"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Enter our algorithms, then let the Zoo do it."""
    action, words = arguments.action, list(arguments.words)
    if action not in ACTIONS:
        near = difflib.get_close_matches(action or "", ACTIONS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(ACTIONS)}"
        told = (
            f"no action {action!r}; {hint}" if action else f"give an action: {', '.join(ACTIONS)}"
        )
        raise UsageError(f"zoo: {told}")
    asked_for_help = bool({"-h", "--help"} & set(words))
    if not asked_for_help:
        for names in NEEDED.get(action, ()):
            if not any(word.partition("=")[0] in names for word in words):
                raise UsageError(f"zoo {action} needs {' or '.join(names)}; see --help")
    from sb3_ext import zoo

    entered = zoo.register()
    if action in ("train", "optimize", "enjoy") and not asked_for_help:
        words = _completed(action, words, entered)
    if action == "optimize":
        with zoo.refusals_prune(entered):
            _call(action, ["--optimize-hyperparameters", *words])
    else:
        _call(action, words)
    return 0


def _completed(action: str, words: list[str], entered: dict[str, str]) -> list[str]:
    """With the presets, or with the folder, that the user may leave out."""
    from rl_zoo3.utils import ALGOS

    from sb3_ext import zoo

    given = _options(words)
    name = given.algo
    if name is not None and name not in ALGOS:
        raise UsageError(_unknown(name, entered, list(ALGOS)))
    if action == "enjoy":
        return words if given.folder else [*words, "--folder", LOGS]
    if name not in entered:
        return words
    if given.conf_file:
        return words
    return [*words, "--conf-file", str(zoo.presets_of(name, entered[name]))]


def _options(words: Sequence[str]) -> argparse.Namespace:
    """The few of the Zoo's options that matter here; it reads, and checks, all of them itself."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--algo")
    parser.add_argument("-conf", "--conf-file")
    parser.add_argument("-f", "--folder", "--log-folder")
    try:
        return parser.parse_known_args(list(words))[0]
    except argparse.ArgumentError as error:
        raise UsageError(f"zoo: {error}") from error


def _unknown(name: str, entered: dict[str, str], known: list[str]) -> str:
    """The sentence for a name that the Zoo does not have, or the plugin's own error."""
    from sb3_ext import registry

    specs = {one.name: public for public, one in registry.public_names().items()}
    spellings = {one.lower(): one for one in known}
    spellings |= {specs[plugin].lower(): ours for ours, plugin in entered.items()}
    if any(name in row.keys for row in registry.plugins()) and name.lower() not in spellings:
        registry.load(name, kind="algorithm")
    near = difflib.get_close_matches(name.lower(), spellings, n=1)
    hint = f"did you mean {spellings[near[0]]}?" if near else f"there are {', '.join(known)}"
    return f"RL Zoo has no algorithm {name!r}; {hint}"


def _call(action: str, words: Sequence[str]) -> None:
    """The Zoo's function, with the command line that it reads."""
    import importlib

    module, function = ACTIONS[action]
    play = getattr(importlib.import_module(module), function)
    with _command_line([f"sb3-ext zoo {action}", *words]):
        try:
            play()
        except MISTAKES as error:
            # Before an agent learns or plays, it is what was asked for; afterwards, a fault whose
            # place must be seen.
            frames = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
            if frames & {"learn", "predict", "step"}:
                raise
            told = " ".join(str(error).split())
            raise UsageError(f"zoo {action}: {type(error).__name__}: {told}") from error


@contextlib.contextmanager
def _command_line(words: list[str]) -> Iterator[None]:
    before, sys.argv = sys.argv, words
    try:
        yield
    finally:
        sys.argv = before
