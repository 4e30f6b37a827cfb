"""benchmarks/replay.py at a tiny size: it runs, and says what it found and what it could not."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest


@pytest.fixture
def benchmark(import_benchmark: Any) -> Any:
    return import_benchmark("replay")


def test_it_prints_its_tables_and_its_bars(benchmark, monkeypatch, capsys):
    for peer in ("tianshou", "cpprb"):
        monkeypatch.setitem(sys.modules, peer, None)  # cannot be imported
    monkeypatch.setattr(benchmark.throughput, "NET_ARCH", [8])
    sizes = ["--capacity", "2000", "--rounds", "2", "--steps", "3", "--updates", "2"]
    assert benchmark.main(sizes) == 0
    printed = capsys.readouterr().out
    for row in ("tree, ours numpy", "tree, plain binary numpy", "PER numpy", "LAP numpy"):
        assert f"| {row}" in printed
    assert "| ERE, virtual rounds |" in printed
    assert "| LFIW, draw from the fast buffer |" in printed
    assert "left out: tree, Tianshou numba, which needs a package" in printed
    assert "left out: cpprb" in printed
    assert "* not judged, a package is not installed: PER in NumPy / cpprb" in printed
    assert "* holds: the sum tree" in printed


def test_the_sketch_and_our_tree_find_the_same_leaves(benchmark):
    variants = importlib.import_module("replay_variants")
    rng = variants.np.random.default_rng
    ours, sketch = variants.OurTree(3000, rng(0), "numpy"), variants.Sketch(3000, rng(0))
    masses = ours.tree.leaves.copy()
    sketch.write(variants.np.arange(3000), masses)
    ours.rng, sketch.rng = rng(1), rng(1)
    assert (ours.draw() == sketch.draw()).mean() > 0.99, "but for rounding"


def test_a_missed_bar_is_an_exit_status(benchmark, monkeypatch, capsys):
    bars = [benchmark.Bar("a ratio", 2.0, 1.0), benchmark.Bar("another", None, 1.0)]
    monkeypatch.setattr(benchmark, "first_table", lambda arguments: bars)
    monkeypatch.setattr(benchmark, "second_table", lambda arguments: [])
    assert benchmark.main([]) == 0
    assert benchmark.main(["--check"]) == 1
    assert "* MISSED: a ratio 2, the bar is 1" in capsys.readouterr().out
    bars.pop(0)
    assert benchmark.main(["--check"]) == 0


def test_numbers_that_would_say_nothing_are_refused(benchmark, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--capacity", "10"])
    assert "--capacity must be at least 2000" in capsys.readouterr().err
