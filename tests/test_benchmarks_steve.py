"""benchmarks/steve.py at a tiny size: its tables are whole."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def benchmark(import_benchmark: Any) -> Any:
    return import_benchmark("steve")


def test_ratios_are_of_neighbours(benchmark: Any) -> None:
    told = benchmark.ratios({"base": [1.0, 2.0, 4.0], "ours": [3.0, 2.0, 8.0]}, "base")
    assert told["ours"] == "**2.00** [1.00, 3.00]"


def test_all_take_turns_and_the_first_round_is_thrown_away(benchmark: Any) -> None:
    seen: list[str] = []
    calls = {name: lambda n=name: seen.append(n) for name in "ab"}
    found = benchmark.in_turns(calls, rounds=2, count=1)
    assert seen == list("baabba")
    assert {name: len(times) for name, times in found.items()} == {"a": 2, "b": 2}


def test_the_tables_of_parts(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.products(1)
    benchmark.ensembles(1)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 * 2 + 3 + 4
