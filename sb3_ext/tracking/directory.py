"""The folder of a run, whose small files are written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RunDirectory:
    """One folder for one run, whose files :func:`run_logger` and SB3's callbacks name."""

    path: Path

    @classmethod
    def create(cls, path: str | Path, *, exist_ok: bool = False) -> RunDirectory:
        """Make the folder; one that already holds files is refused unless ``exist_ok``."""
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise FileExistsError(f"the run directory {path} is a file; choose another name")
        if not exist_ok and path.exists() and any(path.iterdir()):
            raise FileExistsError(
                f"the run directory {path} already holds a run; choose another name or remove it"
            )
        path.mkdir(parents=True, exist_ok=True)
        return cls(path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def write_config(self, config: Mapping[str, Any], name: str = "config.json") -> Path:
        """Write the config whole or not at all: a killed process leaves no half a file."""
        return write_json(self / name, config)


def write_json(path: Path, values: Mapping[str, Any]) -> Path:
    """Write the values whole or not at all."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(json.dumps(values, indent=2) + "\n")
    os.replace(draft, path)
    return path


def read_json(path: Path) -> dict[str, Any]:
    """The values of a small file, or one sentence that says what is wrong with it."""
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); restore or remove it") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object, got a {type(values).__name__}")
    return values
