"""benchmarks/bcq.py at a tiny size: it runs, with a peer, without one, and with a wrong one."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SPEED = ["speed", "--nets", "small", "--rounds", "2", "--block", "2"]


@pytest.fixture
def benchmark(import_benchmark: Any) -> Any:
    return import_benchmark("bcq")


class Answers:
    """In the place of a process: d3rlpy takes 3 s for what we do in ``ours`` s, and stays below."""

    ours = 1.0
    gain = 10.0

    def __init__(self, python: str, side: str) -> None:
        self.side, self.asked = side, []

    def ask(self, name: str, **arguments: Any) -> Any:
        self.asked.append(name)
        if name == "act":
            effort = 0.0 if self.side == "d3rlpy" else 2.0
            return np.full((len(arguments["observations"]), 1), effort).tolist()
        seconds = {"cpu": 3.0 if self.side == "d3rlpy" else self.ours, "faults": 7}
        known = {"versions": "none", "gflop": 2.0, "best_gflops": 100.0}
        return known.get(name, seconds)

    def close(self) -> None: ...


@pytest.mark.slow
def test_without_a_peer_it_measures_ours_and_judges_nothing(benchmark, monkeypatch, capsys):
    monkeypatch.setitem(benchmark.NETS, "small", {"qf": [8], "vae": [8]})
    assert benchmark.main([*SPEED, "--check"]) == 0
    printed = capsys.readouterr().out
    assert "left out: d3rlpy" in printed
    for row in ("| small | update | ours |", "| small | training | ours again |"):
        assert row in printed


@pytest.mark.slow
def test_a_peer_without_d3rlpy_is_a_sentence(benchmark):
    with pytest.raises(SystemExit, match="d3rlpy failed in versions: PackageNotFoundError"):
        benchmark.main([*SPEED, "--peer", sys.executable])


def test_a_peer_that_does_not_start_is_a_sentence(benchmark, monkeypatch, capfd):
    monkeypatch.setattr(benchmark, "WORKERS", BENCHMARKS / "nowhere.py")
    with pytest.raises(SystemExit, match=r"the process of d3rlpy ended .*nowhere.py d3rlpy` tells"):
        benchmark.main([*SPEED, "--peer", sys.executable])
    with pytest.raises(SystemExit, match="--peer must be a Python, got nowhere"):
        benchmark.main([*SPEED, "--peer", "nowhere"])


def test_our_worker_does_what_it_is_told(benchmark, tmp_path):
    worker = importlib.import_module("bcq_workers").Worker("ours")
    data = benchmark.random_dataset(2000).save(tmp_path / "data.npz")
    worker.make(data=data, nets={"qf": [8], "vae": [16]}, block=3, seed=0)
    model = worker.model.model
    assert (model.batch_size, model.n_sampled_actions) == (100, 10)
    widths = [model.actor.direction, model.critic.q_networks[1], model.vae.encoder]
    assert [network[0].out_features for network in widths] == [8, 8, 16]
    assert worker.updates(2)["cpu"] > 0 and model._n_updates == 2
    worker.train()
    assert model._n_updates == 5
    observations = np.zeros((4, 11)).tolist()
    first, second = (worker.act(observations, 7, True) for _ in range(2))
    assert first == second and np.shape(first) == (4, 3) and model.policy.n_eval_actions == 7
    # 1000 candidates through decoder, perturbation and two critics, and the rest for 100 rows.
    assert 0.002 < worker.gflop() < 0.004
    del sys.modules["bcq_workers"]


@pytest.mark.parametrize(("seconds", "status"), [(1.0, 0), (2.5, 1)])
def test_the_bar_is_on_the_ratio_to_the_peer(benchmark, monkeypatch, capsys, seconds, status):
    monkeypatch.setattr(benchmark, "Worker", Answers)
    monkeypatch.setattr(Answers, "ours", seconds)
    assert benchmark.main([*SPEED, "--peer", "python", "--check"]) == status
    printed = capsys.readouterr().out
    ratio = f"{3 / seconds:.2f}"
    price = f"{1000 * seconds / 2:.1f} | {2 / seconds:.1f}"
    assert f"| ours | {price} | {ratio} | **{ratio}** | {ratio} | 4 | 2.00 | 20.0 |" in printed
    assert "| d3rlpy again | 1500.0 | 0.7 | 1.00 | **1.00** | 1.00 |" in printed
    assert ("below the bar: update, small nets: 1.20" in printed) == bool(status)


def test_scores_are_compared_by_the_way_of_acting(benchmark, capsys):
    finals = {
        ("d3rlpy", "best of 10"): [-10.0, -12.0, -14.0],
        ("d3rlpy", "best of 100"): [-5.0, -6.0, -7.0],
        ("ours", "best of 10"): [-9.0, -11.0, -13.0],
        ("ours", "best of 100, deterministic"): [-7.0, -8.0, -9.0],
    }
    worse = benchmark.score_table(finals, {"d3rlpy": [4.0], "ours": [2.0, 3.0]})
    printed = capsys.readouterr().out
    assert "| ours | best of 10 | -9, -11, -13 | -11" in printed
    assert "| 1 [1, 1] |" in printed and "| -2 [-2, -2] |" in printed
    assert [one.split(":")[0] for one in worse] == ["ours, best of 100, deterministic"]


def test_the_score_runs_as_many_trainings_as_it_says(benchmark, monkeypatch, capsys):
    made: list[Answers] = []

    class Kept(Answers):
        def __init__(self, python: str, side: str) -> None:
            super().__init__(python, side)
            made.append(self)

    monkeypatch.setattr(benchmark, "Worker", Kept)
    monkeypatch.setattr(benchmark, "EPISODES", 2)
    options = ["--seeds", "2", "--updates", "10", "--transitions", "400"]
    assert benchmark.main(["score", "--peer", "python", *options]) == 0
    printed = capsys.readouterr().out
    assert "400 transitions of imperfect demonstrations" in printed
    assert [one.side for one in made] == ["d3rlpy", "ours"]
    for one, ways in zip(made, (2, 3), strict=True):
        assert one.asked.count("make") == 2 and one.asked.count("train") == 2 * 5
        assert one.asked.count("act") == 2 * 3 * ways * 200


def test_the_controller_holds_the_pendulum_up(benchmark):
    from sb3_ext.offline import from_policy

    returns = from_policy(benchmark.controller, "Pendulum-v1", n_episodes=5, seed=1).returns()
    assert returns.mean() > -250  # a random policy has about -1200
