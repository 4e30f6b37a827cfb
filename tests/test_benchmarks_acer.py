"""benchmarks/acer.py at a tiny size: it goes on with its own runs, and shows no others' as them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def benchmark(import_benchmark: Any) -> Any:
    return import_benchmark("acer")


def test_runs_of_other_steps_are_refused(benchmark: Any, tmp_path: Path) -> None:
    study = benchmark.Study(
        "CartPole-v1", 64, 2, 1, {"free": {"trust_region": False}}, {}, {"replay_start": 40}
    )
    benchmark.one_run(study, "free", 0, tmp_path)
    run = benchmark.folder(tmp_path, "free", 0)
    newest = (run / "model.zip").stat().st_mtime_ns
    benchmark.require_same_steps(study, [run, tmp_path / "nothing"])
    benchmark.one_run(study, "free", 0, tmp_path)
    assert (run / "model.zip").stat().st_mtime_ns == newest, "it was there already"
    told = r"seed_0 is a run of 64 steps, and this study's are 128: give another --out"
    with pytest.raises(SystemExit, match=told):
        benchmark.require_same_steps(benchmark.replace(study, steps=128), [run])
    arguments = ["study", "cartpole", "--seeds", "1", "--steps", "32", "--out", str(tmp_path)]
    run.rename(tmp_path / "moved")
    (tmp_path / "ratio_0").mkdir()
    (tmp_path / "moved").rename(tmp_path / "ratio_0" / "seed_0")
    with pytest.raises(SystemExit, match="is a run of 64 steps"):
        benchmark.main(arguments)
