"""ACER as SB3's users rely on it."""

from typing import Any, ClassVar

from sb3_ext import ACER
from sb3_ext.testing import AlgorithmConformance


class TestACER(AlgorithmConformance):
    algorithm = ACER
    kwargs: ClassVar[dict[str, Any]] = {
        "n_steps": 8,
        "replay_start": 16,
        "buffer_size": 200,
        "batch_size": 4,
    }
