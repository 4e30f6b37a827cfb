"""SIGKILL in mid-episode, after LFIW has become active: benchmarks/kill.py as a test."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill.py"
FAST = ("Pendulum-v1", 1, "dummy")
MATRIX = [
    pytest.param(env, n, kind, marks=[] if (env, n, kind) == FAST else pytest.mark.slow)
    for env in ("Pendulum-v1", "Hopper-v5", "Ant-v5")
    for n, kind in ((1, "dummy"), (3, "dummy"), (1, "subproc"), (3, "subproc"), (3, "packed"))
]


def kill(*options: str) -> str:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("env", "n_envs", "vec_env"), MATRIX)
def test_a_killed_run_ends_as_if_it_had_not_been_killed(env, n_envs, vec_env):
    # Checkpoints every 50 steps, the fast buffer holds 200: at 300 the weights are active. At
    # least 1,000 steps of each environment remain.
    steps = 300 + 1_100 * n_envs
    told = kill(
        *(f"--env={env}", f"--n-envs={n_envs}", f"--vec-env={vec_env}", f"--steps={steps}"),
        *("--kills=1", "--after=300", "--longest-life=0.3"),
    )
    assert "weights active: True, killed 1 times: equal to the last bit" in told
    assert "1 kills, 1 runs, 0 lost" in told
