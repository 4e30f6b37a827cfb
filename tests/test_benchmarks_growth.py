"""benchmarks/growth.py at a tiny size: its fits are right, and its tables and picture whole."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def benchmark(import_benchmark: Any) -> Any:
    return import_benchmark("growth")


@pytest.fixture
def report(import_benchmark: Any) -> Any:
    return import_benchmark("growth_report")


def test_the_exponent_of_a_known_power(report: Any) -> None:
    x = [1, 2, 5, 30]
    assert report.exponent(x, 3 * np.power(x, 1.5)) == pytest.approx(1.5)
    both = np.stack([np.full(4, 7.0), 2 / np.array(x)])
    assert report.exponent(x, both) == pytest.approx([0, -1])
    assert np.isnan(report.exponent(x, [1, 2, 0, 3]))


def test_a_cost_that_is_a_logarithm_has_a_price_a_doubling(report: Any) -> None:
    x = [10, 20, 40, 80, 160]
    rounds = np.tile(5 + 0.25 * np.log2(x), (3, 1))
    row = report.line("buffer", ("draw", "a tree"), "us", x, rounds)
    assert row["per_doubling"] == pytest.approx(0.25)
    assert row["per_doubling_low"] == pytest.approx(row["per_doubling_high"])


def test_the_fit_looks_at_the_upper_half_and_its_interval_at_the_rounds(report: Any) -> None:
    assert report.upper_half([32, 64, 128, 256, 512, 1024, 2048]) == 3
    assert report.upper_half([10_000, 30_000, 100_000, 300_000, 1_000_000]) == 2
    assert report.upper_half([1, 2]) == 0
    x = np.array([1, 2, 4, 8, 16])
    times = np.where(x < 4, 4, x) * np.array([[1.0], [2.0], [1.5]])  # level, and then a line
    row = report.line("batch", ("update", "a"), "ms", x.tolist(), times)
    assert row["fit_from"] == 4
    assert [row["exponent"], row["exponent_low"], row["exponent_high"]] == pytest.approx([1, 1, 1])
    assert row["median"] == pytest.approx((1.5 * np.where(x < 4, 4, x)).tolist())


def test_a_difference_below_nothing_has_no_exponent(report: Any) -> None:
    times = np.array([[1.0, -1.0, 1.0]] * 2)
    row = report.line("buffer", ("draw", "ERE, beyond uniform"), "us", [1, 2, 4], times)
    assert row["exponent"] is None
    assert "none" in list(report.tables([row]))[-1]
    json.dumps(row, allow_nan=False)


def test_all_take_turns_in_reversed_order(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    calls = {name: lambda n=name: seen.append(n) for name in "ab"}
    monkeypatch.setattr(benchmark, "steady", dict)
    found = benchmark.after_updates(calls, lambda: seen.append("."), rounds=2, turn=0.0)
    assert seen == list(".a.b.b.a.a.b")
    assert {name: times.shape for name, times in found.items()} == {"a": (2,), "b": (2,)}
    seen.clear()
    found = benchmark.in_turns(calls, rounds=3, turn=0.0)  # a turn is one call, and none before
    assert seen == list("ab" + "baabba")
    assert found["a"].shape == (3,)


def test_load_that_all_share_is_taken_out(benchmark: Any) -> None:
    load = np.array([1.0, 3.0, 2.0])
    found = benchmark.steady({"a": 4 * load, "b": 9 * load})
    assert found["a"] == pytest.approx([8, 8, 8])
    assert found["b"] == pytest.approx([18, 18, 18])


def test_a_store_tells_the_sampler_and_settles_its_tree(benchmark: Any) -> None:
    model = benchmark.build(benchmark.PER, benchmark.filled(64, 2))
    store = benchmark.storing(model)
    masses = model.sampler.tree.leaves.copy()
    model.sampler._largest_seen = 9.0
    store()
    assert model.replay_buffer.pos == 1
    assert np.flatnonzero(model.sampler.tree.leaves != masses).tolist() == [0, 1]
    assert not model.sampler.tree._unsummed


def test_mass_in_few_transitions_stays_there(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "HOT", 50)
    monkeypatch.setattr(benchmark, "FAST", 50)
    made = []

    class Noted(benchmark.OurSampler):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            made.append(self.sampler)

    monkeypatch.setattr(benchmark, "OurSampler", Noted)
    for call in benchmark.draws(benchmark.build(benchmark.PER, benchmark.filled(400))).values():
        call()
    everywhere, hot = made
    assert (everywhere.tree.leaves > 0).all()
    assert np.flatnonzero(hot.tree.leaves).tolist() == list(range(350, 400))


def test_it_prints_tables_and_writes_json_and_a_picture(
    benchmark: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(benchmark, "BUFFER", 6_000)
    tiny = dict.fromkeys(benchmark.QUICK, (16, 32)) | {"members": (1, 2), "envs": (1, 2)}
    tiny["buffer"] = (6_000, 12_000)
    monkeypatch.setattr(benchmark, "QUICK", tiny)
    assert benchmark.main(["--quick", "--out", str(tmp_path)]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    found = json.loads((tmp_path / "growth.json").read_text())["rows"]
    assert len(told) == len(found) + 2 * len({(row["sweep"], row["what"]) for row in found})
    assert {row["sweep"] for row in found} == set(benchmark.SWEEPS)
    for row in found:
        assert len(row["median"]) == len(row["x"]) == 2
        assert "beyond" in row["variant"] or min(row["low"]) > 0
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_a_spread_needs_two_rounds(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark.main(["--rounds", "1"])
    assert "--rounds must be at least 2, got 1" in capsys.readouterr().err
