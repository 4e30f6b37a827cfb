"""`sb3-ext list` and `sb3-ext info`."""

import argparse
import inspect
import sys
from collections.abc import Sequence
from typing import Any

from sb3_ext import catalog, registry
from sb3_ext.cli.parsing import add_command
from sb3_ext.errors import UsageError
from sb3_ext.registry import Plugin, UnknownPluginError
from sb3_ext.signatures import constructor_arguments
from sb3_ext.spec import Atom, Choice

HOSTS = ("stable_baselines3", "sb3_contrib")


def add_parsers(commands: Any) -> None:
    """Add both commands."""
    listing = add_command(commands, "list", "show the installed plugins", examples=("list",))
    listing.set_defaults(run=_list)
    info = add_command(
        commands,
        "info",
        "show one plugin, or an algorithm of SB3, with its arguments",
        examples=("info LFIWSAC", "info PPO", "info contrib:TQC"),
    )
    info.add_argument("name", metavar="NAME", help="LFIWSAC or lfiw_sac; PPO; contrib:TQC")
    info.set_defaults(run=_info)


def _list(_: argparse.Namespace) -> int:
    if not registry.is_installed():
        print(f"sb3-ext: {registry.NOT_INSTALLED}", file=sys.stderr)
        return 2
    header = ("name", "import as", "kind", "status", "from", "summary")
    rows = [_cells(row) for row in registry.plugins()]
    if sys.stdout.isatty():
        _print_table(header, rows)
        return 0
    # Pipes and files get every word on one line a plugin, whatever a terminal's width would be.
    widths = [max(len(line[i]) for line in (header, *rows)) for i in range(len(header))]
    for line in (header, *rows):
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )
    return 0


def _cells(row: Plugin) -> tuple[str, ...]:
    if row.spec is None:
        told = str(row.cause or "").partition("\n")[0]
        return (row.entry, "-", "-", row.status, row.source, told or "-")
    told = row.spec.summary if row.cause is None else str(row.cause)
    return (row.spec.name, row.spec.public_name, row.spec.kind, row.status, row.source, told)


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold")
    for name in header:
        # Names are for copying: let the summary give way instead.
        table.add_column(name, no_wrap=name != "summary", overflow="fold")
    for row in rows:
        style = {"ok": "", "disabled": "dim"}.get(row[3], "yellow")
        if row[3] in ("broken", "clash"):
            style = "red"
        table.add_row(
            *(Text(cell) for cell in row), style=style
        )  # Text: no markup in others' words
    Console().print(table)


def _info(arguments: argparse.Namespace) -> int:
    try:
        row, spec = registry.find(arguments.name)
    except UnknownPluginError as error:
        try:
            name, cls = catalog.find_algorithm(arguments.name)
        except UsageError:
            raise error from None  # it knows samplers and weightings, too
        return _info_on_stock(name, cls)
    module, _, name = spec.target.partition(":")
    public = f"from sb3_ext import {name}"
    lines = [
        f"{name} ({spec.name}), {spec.kind}",
        spec.summary,
        "",
        f"import        {public}",
        f"target        {module}.{name}",
        f"distribution  {row.source}",
        f"status        {row.status}",
    ]
    if spec.paper:
        lines.append(f"paper         {spec.paper.authors} ({spec.paper.year}). {spec.paper.title}.")
        lines.append(f"              {spec.paper.url}")
    lines.append(f"actions       {', '.join(spec.action_spaces) or 'any'}")
    lines.append(f"observations  {', '.join(spec.observation_spaces) or 'any'}")
    if spec.search_space:
        lines += ["", "search space"]
        lines += [f"  {key}: {_range(atom)}" for key, atom in spec.search_space.items()]
    print("\n".join(lines))
    if row.missing and spec.install_hint:
        print(f"\nto use it: {spec.install_hint}")
        return 0
    parameters = own_parameters(registry.load(arguments.name))
    print(
        "\narguments beyond those of the base class" if parameters else "\nno arguments of its own"
    )
    _print_parameters(parameters)
    return 0


def _info_on_stock(name: str, cls: type) -> int:
    module = cls.__module__.partition(".")[0]
    print(f"{cls.__name__} ({name}), algorithm of {module}\n")
    print(f"import        from {module} import {cls.__name__}\n\narguments")
    _print_parameters(list(constructor_arguments(cls).values()))
    return 0


def _print_parameters(parameters: Sequence[inspect.Parameter]) -> None:
    for parameter in parameters:
        default = "required" if parameter.default is parameter.empty else repr(parameter.default)
        print(f"  {parameter.name} = {default}")


def _range(atom: Atom) -> str:
    if isinstance(atom, Choice):
        return "one of " + ", ".join(map(repr, atom.options))
    scale = ", log scale" if atom.log else ""
    step = f", step {atom.step}" if atom.step not in (None, 1) else ""
    return f"{atom.low} to {atom.high}{scale}{step}"


def own_parameters(target: Any) -> list[inspect.Parameter]:
    """The named parameters that `target` adds to those of the Stable-Baselines3 class under it."""
    if not inspect.isclass(target):
        return list(inspect.signature(target).parameters.values())
    hosts = [base for base in target.__mro__[1:] if base.__module__.partition(".")[0] in HOSTS]
    host = constructor_arguments(hosts[0]) if hosts else {}
    return [one for name, one in constructor_arguments(target).items() if name not in host]
