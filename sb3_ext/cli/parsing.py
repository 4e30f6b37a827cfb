"""What the commands share: a parser that suggests the near miss, and help with examples."""

import argparse
import difflib
import re
from collections.abc import Sequence
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """argparse's, with near misses for options and commands, and epilogs as they were written."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        # An abbreviation that works today is ambiguous after the next option.
        super().__init__(**{"allow_abbrev": False, **options})

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's; what is left over is told by the command that it was given to."""
        found, left = self.parse_known_args(args, namespace)
        if left:
            teller: Parser = getattr(found, "teller", self)
            teller.error(f"unrecognized arguments: {' '.join(left)}")
        return found

    def error(self, message: str) -> NoReturn:
        """Print one sentence and end with exit code 2."""
        self.exit(2, f"{self.prog}: {self._with_near_miss(message)}\n")

    def _with_near_miss(self, message: str) -> str:
        if message.startswith("unrecognized arguments: "):
            word = message.removeprefix("unrecognized arguments: ").split()[0]
            known = [name for name in self._option_string_actions if name.startswith("--")]
            if not word.startswith("-"):
                return f"{word!r} is one argument too many; see {self.prog} --help"
            return f"unknown option {word}{_hint(word.partition('=')[0], known)}; see --help"
        match = re.match(
            r"argument COMMAND: invalid choice: '([^']*)' \(choose from (.*)\)", message
        )
        if match:
            known = re.findall(r"[\w-]+", match[2])
            return f"no command {match[1]!r}{_hint(match[1], known)}; there are {', '.join(known)}"
        if message == "the following arguments are required: COMMAND":
            return "give a command; see sb3-ext --help"
        return message


def add_command(
    commands: Any, name: str, summary: str, *, examples: Sequence[str] = (), more: str = ""
) -> Parser:
    """Add a command with its help.

    :param commands: what ``add_subparsers`` returned
    :param summary: one line, which the list of commands shows, too
    :param examples: command lines without ``sb3-ext``
    :param more: a paragraph
    """
    epilog = "examples:\n" + "\n".join(f"  sb3-ext {one}" for one in examples)
    description = summary[0].upper() + summary[1:] + "." + (f"\n\n{more}" if more else "")
    parser: Parser = commands.add_parser(
        name, help=summary, description=description, epilog=epilog if examples else None
    )
    parser.set_defaults(teller=parser)
    return parser


def int_of_float(text: str) -> int:
    """``1e5`` is a whole number, too."""
    value = float(text)
    if not value.is_integer():
        raise ValueError(text)
    return int(value)


def at_least(low: int) -> Any:
    """The argument type of an integer that is not below ``low``; ``10_000`` may be written so."""

    def integer(text: str) -> int:
        try:
            value = int(text) if text.strip("0123456789_") == "" else int_of_float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be an integer, got {text!r}") from None
        if value < low:
            raise argparse.ArgumentTypeError(f"must be at least {low}, got {text}")
        return value

    return integer


def _hint(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""
