"""The command `sb3-ext`, also `python -m sb3_ext`."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points

from sb3_ext import __version__
from sb3_ext.cli import collect, doctor, evaluate, listing, new, plot, train
from sb3_ext.cli.parsing import Parser
from sb3_ext.errors import CheckpointError, UsageError
from sb3_ext.registry import OWN_DISTRIBUTION, PluginError

EPILOG = """\
begin with:
  sb3-ext doctor
  sb3-ext list
  sb3-ext train LFIWSAC --env Pendulum-v1 --steps 5000 --set fast_buffer_size=1000
  sb3-ext COMMAND --help
"""


COMMANDS = "sb3_ext.commands"
"""The entry points of commands that stand above the framework, such as ``tune``: each is a function
that adds its parser, in a module that imports nothing heavy."""


def further_commands() -> list[EntryPoint]:
    """Those of sb3-ext itself, by name; ``sb3_ext`` imports none of their modules."""
    found = entry_points(group=COMMANDS)
    own = [one for one in found if one.dist is not None and one.dist.name == OWN_DISTRIBUTION]
    return sorted(own, key=lambda one: one.name)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, or 2 for a mistake in what was asked."""
    parser = Parser(prog="sb3-ext", description="Plugins for Stable-Baselines3.", epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"sb3-ext {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    listing.add_parsers(commands)
    train.add_parser(commands)
    evaluate.add_parser(commands)
    collect.add_parser(commands)
    plot.add_parser(commands)
    doctor.add_parser(commands)
    new.add_parser(commands)
    for command in further_commands():
        command.load()(commands)
    arguments = parser.parse_args(argv)
    run: Callable[..., int] = arguments.run
    try:
        return run(arguments)
    except (PluginError, UsageError, CheckpointError) as error:
        print(f"sb3-ext: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nsb3-ext: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
