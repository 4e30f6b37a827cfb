"""One thread, no window, no network: set before anything imports torch, matplotlib or wandb."""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Workers of pytest-xdist share few cores: a second thread each would only slow all of them down.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"

import pytest  # noqa: E402
import torch  # noqa: E402

from tests.compiler import missing  # noqa: E402

torch.set_num_threads(1)

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def compiler() -> None:
    """For tests that have torch.compile work."""
    # The tests ask for Python and make only. Where a compiler and Python's headers are there,
    # nothing is skipped: if torch.compile then fails, so does the test.
    if why := missing():
        pytest.skip(f"torch.compile needs a C++ compiler and Python's headers: {why}")


@pytest.fixture
def import_benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Imports a script of benchmarks/ by its name; afterwards it and its kin are forgotten."""
    # Last, for benchmarks/coverage.py must not stand for the package, which numba imports.
    monkeypatch.setattr(sys, "path", [*sys.path, str(BENCHMARKS)])
    importlib.invalidate_caches()
    yield importlib.import_module
    for name, module in list(sys.modules.items()):  # their names are common ones
        if str(getattr(module, "__file__", "")).startswith(str(BENCHMARKS)):
            del sys.modules[name]
