"""The scripts behind docs/performance.md at tiny sizes: they run, and their rows are whole."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest


def test_every_variant_takes_its_turn(import_benchmark: Any) -> None:
    throughput = import_benchmark("throughput")
    for base in ("sac", "td3"):
        variants = throughput.VARIANTS[base]
        found = throughput.compete(base, "hopper", rounds=2, block=2)
        assert [row["variant"] for row in found] == [one.label for one in variants]
        assert found[0]["ratio"] == 1
        assert all(0 < r["ratio_min"] <= r["ratio"] <= r["ratio_max"] for r in found)


@pytest.mark.usefixtures("compiler")
def test_the_compiled_one_is_told_with_its_warm_up(import_benchmark: Any, capsys: Any) -> None:
    given = ["--stock-only", "--compiled", "--sizes", "hopper", "--rounds", "1", "--block", "2"]
    assert import_benchmark("throughput").main([*given, "--buffer-size", "10001"]) == 0
    told = capsys.readouterr().out
    assert "| hopper | sb3_ext SAC, compiled | " in told
    assert re.search(r"^sb3_ext SAC, compiled at hopper size: \d+\.\d s of wall time", told, re.M)


def test_what_is_below_its_bar_is_told(import_benchmark: Any) -> None:
    throughput = import_benchmark("throughput")
    row = {"size": "hopper", "variant": "v", "ms": 2.0, "ratio": 0.9, "bar": 1.0}
    row |= {"ratio_min": 0.8, "ratio_max": 1.1}
    (sentence,) = throughput.failures([row, {**row, "ratio": 1.0}, {**row, "bar": None}])
    assert sentence == "v at hopper size: median ratio 0.900, the bar is 1"
    assert throughput.line(row) == "| hopper | v | 2.00 | 500 | 0.80 | **0.90** | 1.10 | 1 |"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--gradient-steps", "3"], "must be at least 1 and divide --block"),
        (["--block", "3"], "--block even"),
        (["--buffer-size", "10000"], "above the fast buffer's"),
    ],
)
def test_settings_that_say_nothing_are_refused(
    import_benchmark: Any, capsys: Any, given: list[str], sentence: str
) -> None:
    with pytest.raises(SystemExit):
        import_benchmark("throughput").main(given)
    assert sentence in capsys.readouterr().err


def test_the_yardstick_begins_one_unit_away(import_benchmark: Any) -> None:
    engine_errors = import_benchmark("engine_errors")
    found = engine_errors.rows("TD3", "hopper", 1, buffer_size=11_000)
    assert [row["engine"] for row in found] == list(engine_errors.ENGINES)
    ulp, fused, rough = (row["parameter"] for row in found)
    assert 0 < ulp < 1e-4
    assert fused < 1e-4
    assert rough > 10 * fused
    assert all(row["critic"] < 0.1 for row in found)


def test_whole_training_with_weights_at_work(import_benchmark: Any) -> None:
    end_to_end = import_benchmark("end_to_end")
    chosen = [end_to_end.VARIANTS[0], end_to_end.VARIANTS[-1]]
    chosen[1].arguments["fast_buffer_size"] = 100
    found = end_to_end.compete("Pendulum-v1", 1, 10, warm_up=120, variants=chosen)
    assert [row["variant"] for row in found] == ["stock SAC", "sb3_ext LFIWSAC"]
    assert all(row["steps_per_second"] > 0 for row in found)
    assert "Pendulum-v1 | stock SAC" in end_to_end.line(found[0])


def test_all_in_one_table(import_benchmark: Any, tmp_path: Path, capsys: Any) -> None:
    bench = import_benchmark("bench")
    parts = ["several", "buffers", "errors"]
    assert bench.main(["--quick", "--parts", *parts, "--out", str(tmp_path), "--check"]) == 0
    told = json.loads((tmp_path / "bench.json").read_text())
    assert {row["part"] for row in told["rows"]} == {
        "8 updates a call",
        "buffer",
        "distance after 1",
    }
    assert told["torch_threads"] == 1
    assert (tmp_path / "bench.png").stat().st_size > 5_000
    printed = [one for one in capsys.readouterr().out.splitlines() if one.startswith("| ")]
    assert len(printed) == len(told["rows"]) + 2


def test_a_missed_bar_is_an_exit_status(
    import_benchmark: Any, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    bench = import_benchmark("bench")
    slow = {"ratio": 0.5, "ratio_min": 0.4, "ratio_max": 0.6}
    row = bench.row("update", "sac", "ours", 12.0, "CPU ms", **bench.ratio_of(slow, 1.6))
    monkeypatch.setitem(bench.PARTS, "updates", lambda quick: [row])
    given = ["--parts", "updates", "--out", str(tmp_path)]
    assert bench.main([*given, "--check"]) == 1
    assert "ratio >= 1.6: MISSED" in capsys.readouterr().out
    assert bench.main(given) == 0
