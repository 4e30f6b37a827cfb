"""What proves a method right: conformance suites for authors of plugins, and an oracle.

    from sb3_ext.testing import WeightingConformance

    class TestMine(WeightingConformance):
        config = MyWeighting(strength=2.0)

Run the file with pytest. Each law is one test; a broken one says what is wrong in a sentence.
"""

import importlib
from typing import Any

_SUITES = {
    "AlgorithmConformance": "sb3_ext.testing.algorithms",
    "OfflineConformance": "sb3_ext.testing.offline",
    "SamplerConformance": "sb3_ext.testing.samplers",
    "WeightingConformance": "sb3_ext.testing.weightings",
}
__all__ = list(_SUITES)


def __getattr__(name: str) -> Any:
    # On first use: the oracle needs no pytest, and the suites no torch before they run.
    if name in _SUITES:
        return getattr(importlib.import_module(_SUITES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
