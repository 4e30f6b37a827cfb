"""What one check of `sb3-ext doctor` found, and its words."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sb3_ext import registry

LONGEST = 300  # characters of an error


@dataclass(frozen=True)
class Row:
    """What one check found.

    :param part: the heading it stands under
    :param status: ``ok``, ``missing``, ``broken``, or what a plugin says of itself
    :param told: version, device or cause
    :param remedy: what to do about it
    :param needed: whether nothing works without it, so that the exit code is 1 unless it is fine
    """

    part: str
    name: str
    status: str
    told: str = ""
    remedy: str = ""
    needed: bool = False

    @property
    def fine(self) -> bool:
        """Nothing that is needed is wrong."""
        return not self.needed or self.status not in ("missing", "broken", "clash", "misspelt")


def sentence(error: BaseException | None) -> str:
    """An error on one line; its class, too, as many messages are only a name."""
    text = re.sub(r"\s+", " ", str(error)).strip()
    if not isinstance(error, registry.PluginError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def split(sentence: str) -> tuple[str, str]:
    """The fault and the remedy of ``fault; remedy``."""
    fault, _, remedy = sentence.rpartition("; ")
    return (fault, remedy.removeprefix("run: ")) if fault else (remedy, "")
