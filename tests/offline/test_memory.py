"""Reading takes at most twice the memory of what is read: tracemalloc, at a small scale."""

from __future__ import annotations

import importlib
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from sb3_ext.offline import load_dataset

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FORMATS = ["ours", "minari", "d4rl", "d3rlpy", "replay buffer", "trajectories"]
pytestmark = pytest.mark.filterwarnings("ignore:reading the pickle")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("offline_memory")
    del sys.modules["offline_memory"]


@pytest.mark.parametrize("label", FORMATS)
def test_no_reader_needs_twice_the_arrays(benchmark, monkeypatch, tmp_path, label):
    # The data is a fiftieth, so the pieces in which it is read are, too.
    monkeypatch.setattr("sb3_ext.offline.arrays._SLICE", (1 << 20) // 50)
    monkeypatch.setattr("sb3_ext.offline.readers.flat._PIECE", (1 << 22) // 50)
    # D4RL's and d3rlpy's formats drop the last row of each episode: of long ones, a thousandth.
    assert sorted(benchmark.FORMATS) == sorted(FORMATS)
    write, options = benchmark.FORMATS[label]
    path = write(benchmark.make(20_000), tmp_path)
    load_dataset(path, **options)  # imports are no part of it
    tracemalloc.start()
    try:
        dataset = load_dataset(path, **options)
        used = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(dataset) >= 19_980
    # A pickle's arrays go one by one; all of them and the dataset would be two.
    assert 1 <= used / dataset.nbytes < (1.7 if label == "replay buffer" else 2)


def test_the_benchmark_prints_its_table(benchmark, monkeypatch, capsys):
    read_here = lambda label, path, traced: benchmark.read_here(label, path, traced)  # noqa: E731
    monkeypatch.setattr(benchmark, "read", read_here)
    try:
        assert benchmark.main(["--transitions", "3000", "--formats", "ours", "d4rl"]) == 0
        monkeypatch.setattr(benchmark, "BAR", 0.5)
        assert benchmark.main(["--transitions", "3000", "--formats", "ours", "--check"]) == 1
    finally:
        tracemalloc.stop()
    printed = capsys.readouterr().out
    assert "| ours | 3000 |" in printed
    assert "| d4rl | 2997 |" in printed  # three episodes of a thousand
    assert "above the bar: ours:" in printed
