"""``progress.csv``, which a resumed run continues."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common import logger as sb3

# What SB3's own format refuses with an error in the middle of a row.
NOT_FOR_TABLES = (sb3.Figure, sb3.HParam, sb3.Image, sb3.Video)


class CSVOutputFormat(sb3.CSVOutputFormat):
    """SB3's CSV, which can go on where a file ends and go back to an earlier row.

    Columns stand in the order in which their keys were first logged. Pictures, videos and
    hyperparameter tables are left out, where SB3 would end the training. A new column rewrites
    the file whole or not at all: a killed process leaves no half a table.

    :param filename: the file
    :param append: keep the rows that the file holds and write after them
    """

    def __init__(self, filename: str, append: bool = False) -> None:
        self.path = Path(filename)
        super().__init__(os.devnull)  # SB3 opens with "w+", which would empty the file
        self.file.close()
        records: list[str] = []
        if append and self.path.exists():
            records = _records(self.path.read_text(encoding="utf-8"))
            self.keys = next(csv.reader(records[:1]), [])
        self._rows = max(0, len(records) - 1)
        self._replace(records)

    def write(
        self,
        key_values: dict[str, Any],
        key_excluded: dict[str, tuple[str, ...]],
        step: int = 0,
    ) -> None:
        kept = {
            key: _cell(value)
            for key, value in sb3.filter_excluded_keys(key_values, key_excluded, "csv").items()
            if not isinstance(value, NOT_FOR_TABLES)
        }
        if not kept:
            return
        if new := [key for key in kept if key not in self.keys]:
            self._add_columns(new)
        super().write(kept, {}, step)
        self._rows += 1

    def position(self) -> int:
        """How many rows were written, the header not counted; they are on the disk then."""
        self.file.flush()
        os.fsync(self.file.fileno())
        return self._rows

    def rewind(self, position: int) -> None:
        """Drop all rows after the first ``position``; the columns stay."""
        if not 0 <= position <= self._rows:
            raise ValueError(
                f"{self.path} has {self._rows} rows, so it cannot go back to row {position}"
            )
        self.file.flush()
        records = _records(self.path.read_text(encoding="utf-8"))
        self._replace(records[: position + 1])
        self._rows = position

    def _add_columns(self, new: list[str]) -> None:
        self.file.flush()
        records = _records(self.path.read_text(encoding="utf-8"))
        header = io.StringIO()
        csv.writer(header, lineterminator="\n").writerow([*self.keys, *new])
        empty = self.separator * len(new) + "\n"
        self._replace([header.getvalue(), *(record[:-1] + empty for record in records[1:])])
        self.keys = [*self.keys, *new]

    def _replace(self, records: Iterable[str]) -> None:
        """Give the file this content at once, and write after it from now on."""
        draft = self.path.with_name(f".{self.path.name}.draft")
        draft.write_text("".join(records), encoding="utf-8")
        self.file.close()
        os.replace(draft, self.path)
        self.file = self.path.open("a", encoding="utf-8")


def _cell(value: Any) -> Any:
    """What SB3 writes as it is, or a string, which it quotes."""
    if isinstance(value, th.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    return value if isinstance(value, (str, bool, int, float, np.generic)) else str(value)


def _records(text: str) -> list[str]:
    """The rows with their line ends; quoted cells may hold line ends, too.

    What a killed process did not finish, a last row without its line end, is dropped.
    """
    records: list[str] = []
    open_quote = False
    for line in io.StringIO(text, newline="\n"):
        if open_quote:
            records[-1] += line
        else:
            records.append(line)
        open_quote ^= line.count('"') % 2 == 1
    if records and (open_quote or not records[-1].endswith("\n")):
        records.pop()
    return records
