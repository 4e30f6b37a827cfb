"""A table for people on a terminal, and for pipes and files."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def print_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: int = 0,
    wraps: str | None = None,
    styles: Sequence[str] | None = None,
) -> None:
    """Print rows under a header.

    On a terminal, long cells fold. In pipes and files every row is whole on its line, whatever a
    terminal's width would be.

    :param numbers: how many of the last columns hold numbers, which stand right
    :param wraps: the column that folds, so that the others stay whole and can be copied; None
        lets all fold
    :param styles: of the rows on a terminal, in rich's words
    """
    texts = len(header) - numbers
    if not sys.stdout.isatty():
        widths = [max(len(line[i]) for line in (header, *rows)) for i in range(len(header))]
        for line in (header, *rows):
            cells = [
                cell.ljust(width) if i < texts else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            print("  ".join(cells).rstrip())
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold")
    for i, name in enumerate(header):
        whole = wraps is not None and name != wraps
        justify = "left" if i < texts else "right"
        table.add_column(name, justify=justify, no_wrap=whole, overflow="fold")  # type: ignore[arg-type]
    for i, row in enumerate(rows):
        # Text: no markup in others' words.
        table.add_row(*(Text(cell) for cell in row), style=styles[i] if styles else "")
    Console().print(table)
