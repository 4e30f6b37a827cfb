"""benchmarks/vec_env.py at a tiny size: its rows are whole, and its bar can be missed."""

from __future__ import annotations

import json
from typing import Any

import pytest


@pytest.fixture
def benchmark(import_benchmark: Any) -> Any:
    return import_benchmark("vec_env")


def test_the_rows_are_plain_and_the_table_has_them(benchmark: Any, capsys: Any) -> None:
    rows = benchmark.measure("CartPole-v1", n_envs=2, rounds=1, block=3)
    assert json.loads(json.dumps(rows)) == rows
    assert [row["variant"] for row in rows] == list(benchmark.VARIANTS)
    assert [row["processes"] for row in rows[:3]] == [2, 2, 0]
    peer = rows[0]
    assert peer["ratio_min"] == peer["ratio"] == peer["ratio_max"] == 1.0
    assert all(row["cpu_us"] > 0 for row in rows)
    assert peer["steps_per_second"] == pytest.approx(2e6 / peer["wall_us"])
    tiny = ["--tasks", "CartPole-v1", "--n-envs", "2", "--rounds", "1", "--block", "2"]
    assert benchmark.main(tiny) == 0
    told = capsys.readouterr().out
    assert told.count("| CartPole-v1 |") == 4 and "load at start" in told


def test_the_bar_is_for_ours_on_one_task(benchmark: Any, capsys: Any) -> None:
    row = {"task": "HalfCheetah-v5", "variant": "PackedSubprocVecEnv", "ratio": 1.99}
    assert benchmark.failures([row]) == [
        "PackedSubprocVecEnv on HalfCheetah-v5: median ratio 1.99, the bar is 2"
    ]
    assert not benchmark.failures([{**row, "ratio": 2.0}, {**row, "task": "CartPole-v1"}])
    with pytest.raises(SystemExit):
        benchmark.main(["--check", "--tasks", "CartPole-v1"])
    assert "--check needs HalfCheetah-v5" in capsys.readouterr().err
