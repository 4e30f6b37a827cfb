"""The file that an intervention goes on from, and whether it is of the same one."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from sb3_ext.errors import CheckpointError
from sb3_ext.plugins.causal.posterior import Kind, Posterior

if TYPE_CHECKING:
    from sb3_ext.plugins.causal.algorithm import CausalBC


class Store:
    """A file that an intervention goes on from.

    :param path: None for no file
    :param kind: of the intervention
    :param settings: which must be the same to go on
    :raises ValueError: if ``path`` is a folder
    """

    def __init__(
        self,
        model: CausalBC,
        path: str | os.PathLike[str] | None,
        kind: Kind,
        settings: dict[str, Any],
    ) -> None:
        self.path = None if path is None else Path(path)
        if self.path is not None and self.path.is_dir():
            raise ValueError(
                f"path must name a file, and {self.path} is a folder: give path="
                f"{str(self.path / 'found.json')!r}, say"
            )
        self.kind = kind
        self.settings = {**settings, "policy": fingerprint_of(model.policy)}

    def read(self) -> Posterior | None:
        """What was found so far; None where nothing is.

        :raises CheckpointError: if it is of another model, other settings or another kind of
            intervention, or cannot be read
        """
        saved = self._contents()
        if saved is None:
            return None
        if saved["kind"] != self.kind:
            raise CheckpointError(
                f"{self.path} holds what another kind of intervention found, by {saved['kind']}, "
                f"and this one goes by {self.kind}: give another path, or remove it"
            )
        told = saved.get("settings", {})
        if other := sorted(name for name, one in self.settings.items() if told.get(name) != one):
            raise CheckpointError(
                f"{self.path} is of an intervention with another {' and '.join(other)}: give "
                "another path, or remove it"
            )
        assert self.path is not None
        return Posterior.load(self.path)

    def answers(self) -> dict[str, Any]:
        """What the expert said so far, by state."""
        return dict((self._contents() or {}).get("answers", {}))

    def _contents(self) -> dict[str, Any] | None:
        if self.path is None or not self.path.exists():
            return None
        try:
            saved = json.loads(self.path.read_text(encoding="utf-8"))
            whole = isinstance(saved, dict) and {"kind", "graphs", "scores"} <= set(saved)
            fault = "" if whole else "it holds something else"
        except ValueError as error:  # no JSON, or no text at all
            fault = str(error)
        if fault:
            raise CheckpointError(
                f"{self.path} is no file that an intervention wrote ({fault}): give another path, "
                "or remove it"
            )
        found: dict[str, Any] = saved
        return found

    def write(self, posterior: Posterior, **more: Any) -> None:
        """Keep it."""
        if self.path is not None:
            posterior.save(self.path, settings=self.settings, **more)


def fingerprint_of(policy: nn.Module) -> str:
    """What tells a policy from another one, whatever its graph."""
    digest = hashlib.sha256()
    for name, tensor in policy.named_parameters():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
