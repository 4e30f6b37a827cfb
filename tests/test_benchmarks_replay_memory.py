"""benchmarks/replay_memory.py at a tiny size: it runs, and says what it found and left out."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TINY = ["--transitions", "600", "--rounds", "2"]


@pytest.fixture
def benchmark(import_benchmark: Any) -> Any:
    return import_benchmark("replay_memory")


def test_it_prints_its_tables(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "VARIANTS", dict([*benchmark.VARIANTS.items()][:1]))
    monkeypatch.setattr(benchmark, "time_rows", lambda *_: [])
    assert benchmark.main([*TINY, "--lengths", "50", "--check"]) == 0
    assert re.search(r"^\| 50 \| stock SAC \| \d\.\d\d \|$", capsys.readouterr().out, re.MULTILINE)


def test_its_rows_are_plain_values(benchmark):
    rows = benchmark.time_rows(600, rounds=2, calls=5)
    assert [(row["what"], row["variant"]) for row in rows] == [
        (what, variant)
        for what in ("add", "sample")
        for variant in ("stock SAC", "SAC, CompactReplayBuffer", "again")
    ]
    assert all(row["microseconds"] > 0 and row["ratio"] > 0 for row in rows)
    assert rows[0]["ratio"] == 1


def test_its_episodes_are_of_the_length_that_was_asked_for(benchmark):
    buffer = benchmark.build("SAC, CompactReplayBuffer", 400).replay_buffer
    benchmark.Episodes(50).add(buffer, 400)
    assert buffer.dones[:, 0].nonzero()[0].tolist() == [49, 99, 149, 199, 249, 299, 349, 399]
    assert buffer.timeouts.sum() == 4
    # One an episode; the newest row is an end of one.
    assert buffer.next_observations.kept_apart == 8


def test_what_does_not_fit_is_left_out_and_a_missed_bar_is_an_exit_status(
    benchmark, monkeypatch, capsys
):
    def rows(transitions: int, lengths: Any) -> Any:
        one = {"variant": "SAC, CompactReplayBuffer", "episode_length": 1000, "left_out": None}
        other = {"variant": "stock SAC", "left_out": "it needs 5.8 GiB, and 4.0 are free"}
        return [{**one, "peak_gib": benchmark.BAR_GIB + excess}, other]

    monkeypatch.setattr(benchmark, "memory_rows", rows)
    monkeypatch.setattr(benchmark, "lacking", lambda *_: "there is none")
    excess = 0.0
    assert benchmark.main([*TINY, "--check"]) == 0
    excess = 0.1
    assert benchmark.main(TINY) == 0
    assert benchmark.main([*TINY, "--check"]) == 1
    told = capsys.readouterr().out
    assert "left out: stock SAC: it needs 5.8 GiB, and 4.0 are free" in told
    assert "left out: add, sample: there is none" in told
    assert f"{benchmark.BAR_GIB + 0.1:.2f} GiB, the bar is {benchmark.BAR_GIB:g}" in told


def test_memory_that_is_not_there_is_seen(benchmark, monkeypatch):
    class Psutil:
        available = 4 * 2**30

        @classmethod
        def virtual_memory(cls) -> Any:
            return cls

    monkeypatch.setattr(benchmark.buffers, "psutil", Psutil)
    assert "it needs 5.8 GiB, and 4.0 are free" in benchmark.lacking("stock SAC", 10**6)
    assert benchmark.lacking("SAC, CompactReplayBuffer", 10**6) is None
    monkeypatch.setattr(benchmark.buffers, "psutil", None)
    assert benchmark.lacking("stock SAC", 10**9) is None


def test_numbers_that_would_say_nothing_are_refused(benchmark, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--transitions", "100"])
    assert "--transitions must be at least 256" in capsys.readouterr().err


def test_a_peak_is_not_inherited_from_the_process_that_began_it(import_benchmark):
    """As getrusage's is: a child of a large process would seem to need nothing."""
    memory = import_benchmark("memory")
    large = np.ones(2**28, np.uint8)  # 256 MiB
    code = "import sys; sys.path.append(sys.argv[1]); import memory; print(memory.peak_bytes())"
    folder = str(Path(memory.__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", code, folder], capture_output=True, text=True, check=True
    )
    assert 0 < int(done.stdout) < memory.peak_bytes() - large.nbytes / 2
