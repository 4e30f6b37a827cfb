"""`sb3-ext list` and `sb3-ext info`."""

import argparse
import inspect
import sys
from collections.abc import Sequence
from typing import Any

from sb3_ext import catalog, registry
from sb3_ext.cli.parsing import add_command
from sb3_ext.cli.tables import print_table
from sb3_ext.errors import UsageError
from sb3_ext.registry import Plugin, PluginError, UnknownPluginError
from sb3_ext.signatures import constructor_arguments, own_arguments
from sb3_ext.spec import CRITIC_LOSSES, DOORS, Atom, Choice


def add_parsers(commands: Any) -> None:
    """Add both commands."""
    listing = add_command(commands, "list", "show the installed plugins", examples=("list",))
    listing.set_defaults(run=_list)
    info = add_command(
        commands,
        "info",
        "show one plugin, a loss, or an algorithm of SB3, with its arguments",
        examples=("info LFIWSAC", "info PPO", "info contrib:TQC"),
    )
    info.add_argument("name", metavar="NAME", help="LFIWSAC or lfiw_sac; PPO; contrib:TQC")
    info.set_defaults(run=_info)


def _list(_: argparse.Namespace) -> int:
    if not registry.is_installed():
        print(f"sb3-ext: {registry.NOT_INSTALLED}", file=sys.stderr)
        return 2
    rows = [_cells(row) for row in registry.plugins()]
    header = ("name", "import as", "kind", "status", "from", "summary")
    styles = {"ok": "", "disabled": "dim", "broken": "red", "clash": "red"}
    print_table(
        header, rows, wraps="summary", styles=[styles.get(row[3], "yellow") for row in rows]
    )
    if sys.stdout.isatty():  # else each line is a plugin
        print(f"\nand for critic_loss=: {', '.join(CRITIC_LOSSES)} (sb3-ext info pal)")
    return 0


def _cells(row: Plugin) -> tuple[str, ...]:
    if row.spec is None:
        told = str(row.cause or "").partition("\n")[0]
        return (row.entry, "-", "-", row.status, row.source, told or "-")
    told = row.spec.summary if row.cause is None else str(row.cause)
    return (row.spec.name, row.spec.public_name, row.spec.kind, row.status, row.source, told)


def _info(arguments: argparse.Namespace) -> int:
    if arguments.name.lower() in CRITIC_LOSSES:
        return _info_on_loss(arguments.name.lower())
    try:
        row, spec = registry.find(arguments.name)
    except UnknownPluginError as error:
        try:
            name, cls = catalog.find_algorithm(arguments.name)
        except UsageError as other:
            # The registry knows samplers and weightings, the catalog SB3's algorithms.
            hint = "did you mean"
            raise (other if hint in str(other) and hint not in str(error) else error) from None
        if ":" in name:
            return _info_on_stock(name, cls)
        arguments.name = name  # in its own case
        row, spec = registry.find(name)
    if arguments.name in list(spec.targets)[1:]:
        arguments.name = spec.public_name  # what stands beside it, such as its replay buffer
    target: Any = None
    fault = ""
    if not row.missing:
        try:
            target = registry.load(arguments.name)  # the row trusts the spec; this imports it
        except PluginError as error:
            fault = str(error)
    module, _, name = spec.target.partition(":")
    public = f"from sb3_ext import {name}"
    lines = [
        f"{name} ({spec.name}), {spec.kind}",
        spec.summary,
        "",
        f"import        {public}",
        f"target        {module}.{name}",
        f"distribution  {row.source}",
        f"status        {'broken' if fault else row.status}",
    ]
    door = DOORS.get(spec.kind)
    if door:
        lines.append(f"use           SAC(..., {door}={spec.name!r}), or --set {door}={spec.name}")
    for one in list(spec.targets)[1:]:
        lines.append(f"also          from sb3_ext import {one}")
    if spec.paper:
        lines.append(f"paper         {spec.paper.authors} ({spec.paper.year}). {spec.paper.title}.")
        lines.append(f"              {spec.paper.url}")
    lines.append(f"actions       {', '.join(spec.action_spaces) or 'any'}")
    lines.append(f"observations  {', '.join(spec.observation_spaces) or 'any'}")
    if spec.search_space:
        lines += ["", "search space"]
        lines += [f"  {key}: {_range(atom)}" for key, atom in spec.search_space.items()]
    print("\n".join(lines))
    if row.missing:
        print(f"\nto use it: {spec.install_hint or 'install ' + ', '.join(row.missing)}")
        return 0
    if fault:
        print(f"sb3-ext: {fault}", file=sys.stderr)
        return 2
    parameters = (
        own_arguments(target)
        if inspect.isclass(target)
        else list(inspect.signature(target).parameters.values())
    )
    inherits = spec.kind == "algorithm"
    heading = "arguments beyond those of the base class" if inherits else "arguments"
    print(f"\n{heading if parameters else 'no arguments of its own'}")
    _print_parameters(parameters)
    return 0


def _info_on_stock(name: str, cls: type) -> int:
    module = cls.__module__.partition(".")[0]
    print(f"{cls.__name__} ({name}), algorithm of {module}\n")
    print(f"import        from {module} import {cls.__name__}\n\narguments")
    _print_parameters(list(constructor_arguments(cls).values()))
    return 0


def _info_on_loss(name: str) -> int:
    from sb3_ext.losses import LOSSES

    loss = LOSSES[name]
    told = (inspect.getdoc(loss) or "").partition("\n\n")[0]
    print(f"{loss.__name__} ({name}), loss of the critic\n{' '.join(told.split())}\n")
    print(f"import        from sb3_ext import {loss.__name__}")
    print(f"use           SAC(..., critic_loss={name!r}), or --set critic_loss={name}")
    parameters = list(constructor_arguments(loss).values())
    print(f"\n{'arguments' if parameters else 'no arguments of its own'}")
    _print_parameters(parameters)
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
