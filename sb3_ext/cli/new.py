"""`sb3-ext new`: a plugin package to start from."""

import argparse
from pathlib import Path
from typing import Any, get_args

from sb3_ext.cli.parsing import add_command
from sb3_ext.spec import Kind

MORE = """\
The package is installable, and passes its own tests as it is written. A weighting says how much
each transition counts, a sampler which are drawn, and an algorithm what is learned from them."""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "new",
        "write a plugin package to start from",
        examples=("new my_method", "new my_method --kind algorithm --folder ~/research"),
        more=MORE,
    )
    parser.add_argument("name", metavar="NAME", help="lower_snake, such as my_method")
    parser.add_argument(
        "--kind", choices=get_args(Kind), default="weighting", help="of plugin (%(default)s)"
    )
    parser.add_argument("--folder", type=Path, default=Path(), metavar="DIR", help="where (here)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write it, and say what comes next."""
    from sb3_ext.scaffold import new_plugin

    home = new_plugin(arguments.name, arguments.folder, arguments.kind)
    name = arguments.name.replace("-", "_")
    print(f"{home} is a plugin with one {arguments.kind}.\n\nNext:")
    for line in (f"cd {home}", 'pip install -e ".[test]"', "pytest", f"sb3-ext info {name}"):
        print(f"  {line}")
    part = f"sb3_ext_{name}/{arguments.kind}.py"
    print(f"Then change equations.py and {part}; docs/plugin-authors.md explains the parts.")
    return 0
