"""ACER as SB3's users rely on it."""

from typing import Any, ClassVar

from sb3_ext import ACER
from sb3_ext.testing import AlgorithmConformance

SMALL = {"n_steps": 8, "replay_start": 16, "buffer_size": 200, "batch_size": 4}


class TestACER(AlgorithmConformance):
    algorithm = ACER
    kwargs: ClassVar[dict[str, Any]] = SMALL


class TestContinuousACERAsInThePaper(AlgorithmConformance):
    algorithm = ACER
    kwargs: ClassVar[dict[str, Any]] = {**SMALL, "preset": "paper"}
    action_spaces = ("Box",)
