"""Peak memory while a dataset of a million transitions is read, for every kind of file.

    python benchmarks/offline_memory.py                          # about 1 GiB of memory
    python benchmarks/offline_memory.py --transitions 100000 --check

The files are made here, in a temporary folder, in the layout of each format. Each reader then runs
in two fresh processes: one counts what Python and NumPy allocate (tracemalloc, from just before the
call to just after), the other reports how far its resident memory rose at its peak (Linux only).
What HDF5 and the C library keep shows in the second only. Both are divided by the bytes of the
arrays that come back, so 1 is no byte more than the result. A pickle is there as a whole before the
first array can be taken from it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_ext.offline import OfflineDataset, load_dataset, to_minari, to_replay_buffer

BAR = 2.0
#: HalfCheetah's sizes.
OBSERVATIONS = spaces.Box(-np.inf, np.inf, (17,), np.float32)
ACTIONS = spaces.Box(-1.0, 1.0, (6,), np.float32)
EPISODE = 1000


def make(n: int) -> OfflineDataset:
    """A dataset whose episodes are cut after a thousand steps."""
    rng = np.random.default_rng(0)
    seen = rng.standard_normal((n + 1, 17), dtype=np.float32)
    truncated = np.zeros(n, dtype=np.bool_)
    truncated[EPISODE - 1 :: EPISODE] = truncated[-1] = True
    return OfflineDataset(
        observations=seen[:-1],
        next_observations=seen[1:],
        actions=rng.uniform(-1, 1, (n, 6)).astype(np.float32),
        rewards=rng.standard_normal(n, dtype=np.float32),
        terminated=np.zeros(n, dtype=np.bool_),
        truncated=truncated,
        episode_starts=np.arange(0, n, EPISODE),
        observation_space=OBSERVATIONS,
        action_space=ACTIONS,
    )


def write_ours(dataset: OfflineDataset, folder: Path) -> Path:
    """OfflineDataset.save."""
    return Path(dataset.save(folder / "ours.npz"))


def write_minari(dataset: OfflineDataset, folder: Path) -> Path:
    """Minari's HDF5."""
    import os

    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Minari asks for an author
        to_minari(dataset, "memory-v0")
    return folder / "memory-v0"


def write_d4rl(dataset: OfflineDataset, folder: Path) -> Path:
    """D4RL's flat HDF5, without next observations."""
    import h5py

    with h5py.File(folder / "d4rl.hdf5", "w") as file:
        file["observations"], file["actions"] = dataset.observations, dataset.actions
        file["rewards"], file["timeouts"] = dataset.rewards, dataset.truncated
        file["terminals"] = dataset.terminated
    return folder / "d4rl.hdf5"


def write_d3rlpy(dataset: OfflineDataset, folder: Path) -> Path:
    """d3rlpy's HDF5 of version 2.1."""
    import h5py

    with h5py.File(folder / "d3rlpy.h5", "w") as file:
        file["columns"] = ["observations", "actions", "rewards", "terminated"]
        file["num_episodes"], file["version"] = dataset.n_episodes, "2.1"
        for i, rows in enumerate(dataset.episodes()):
            file[f"observations_{i}"] = dataset.observations[rows]  # type: ignore[index]
            file[f"actions_{i}"] = dataset.actions[rows]
            file[f"rewards_{i}"] = dataset.rewards[rows, None]
            file[f"terminated_{i}"] = False
    return folder / "d3rlpy.h5"


def write_pickle(dataset: OfflineDataset, folder: Path) -> Path:
    """SB3's replay buffer, as save_replay_buffer writes it."""
    from stable_baselines3.common.save_util import save_to_pkl

    save_to_pkl(folder / "buffer.pkl", to_replay_buffer(dataset))
    return folder / "buffer.pkl"


def write_trajectories(dataset: OfflineDataset, folder: Path) -> Path:
    """imitation's .npz, without infos."""
    whole = [
        np.concatenate([dataset.observations[rows], dataset.next_observations[rows.stop - 1][None]])  # type: ignore[index]
        for rows in dataset.episodes()
    ]
    np.savez(
        folder / "trajectories.npz",
        obs=np.concatenate(whole),
        acts=dataset.actions,
        rews=dataset.rewards,
        terminal=np.ones(dataset.n_episodes, dtype=np.bool_),
        indices=dataset.episode_starts[1:],
    )
    return folder / "trajectories.npz"


#: Format -> what writes it, and what the reader has to be told.
FORMATS: dict[str, tuple[Callable[[OfflineDataset, Path], Path], dict[str, Any]]] = {
    "ours": (write_ours, {}),
    "minari": (write_minari, {}),
    "d4rl": (write_d4rl, {"env": (OBSERVATIONS, ACTIONS)}),
    "d3rlpy": (write_d3rlpy, {"env": (OBSERVATIONS, ACTIONS)}),
    "replay buffer": (write_pickle, {"allow_pickle": True}),
    "trajectories": (
        write_trajectories,
        {"env": (OBSERVATIONS, ACTIONS), "time_limit": EPISODE},
    ),
}


def resident(peak: bool) -> float:
    """Resident memory of this process, now or at its peak, in bytes; nan where nobody tells.

    Not getrusage's: its peak begins with that of the process that started this one.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return float(lines["VmHWM" if peak else "VmRSS"].split()[0]) * 1024


def forget_peak() -> None:
    """Let the peak begin anew, at what is resident now."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def warm_up(label: str) -> None:
    """Read a tiny file of the format: so the imports are no part of what is measured."""
    with tempfile.TemporaryDirectory() as folder:
        write, options = FORMATS[label]
        load_dataset(write(make(2 * EPISODE), Path(folder)), **options)


def read_here(label: str, path: str, traced: bool) -> dict[str, float]:
    """Read in this process."""
    warnings.simplefilter("ignore")  # of the pickle
    warm_up(label)
    forget_peak()
    before = resident(peak=False)
    if traced:
        tracemalloc.start()
    started = time.perf_counter()
    dataset = load_dataset(path, **FORMATS[label][1])
    seconds = time.perf_counter() - started
    used = tracemalloc.get_traced_memory()[1] if traced else resident(peak=True) - before
    return {"used": used, "arrays": dataset.nbytes, "rows": len(dataset), "seconds": seconds}


def read(label: str, path: Path, traced: bool) -> dict[str, float]:
    """The same in a fresh process."""
    command = [sys.executable, __file__, "--inside", label, "--path", str(path)]
    command += ["--traced"] if traced else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{label} failed ({done.returncode}):\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 when asked to check and above the bar."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--transitions", type=int, default=1_000_000)
    parser.add_argument("--formats", nargs="+", choices=list(FORMATS), default=list(FORMATS))
    parser.add_argument("--check", action="store_true", help="exit 1 above the bar")
    parser.add_argument("--inside", choices=list(FORMATS), help=argparse.SUPPRESS)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    parser.add_argument("--traced", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.inside:
        print(json.dumps(read_here(arguments.inside, arguments.path, arguments.traced)))
        return 0
    if arguments.transitions < 2:
        parser.error(f"--transitions must be at least 2, got {arguments.transitions}")
    print(
        f"setting: {arguments.transitions} transitions of 17 + 6 numbers, episodes of {EPISODE}; "
        f"numpy {np.__version__}, python {sys.version.split()[0]}\n"
    )
    print(
        "| format | transitions | arrays, MB | allocated at peak / arrays | resident / arrays | s |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    above = []
    dataset = make(arguments.transitions)
    for label in arguments.formats:
        with tempfile.TemporaryDirectory() as folder:
            path = FORMATS[label][0](dataset, Path(folder))
            traced, plain = read(label, path, True), read(label, path, False)
        ratios = [found["used"] / found["arrays"] for found in (traced, plain)]
        print(
            f"| {label} | {traced['rows']} | {traced['arrays'] / 1e6:.0f} | {ratios[0]:.2f} | "
            f"{ratios[1]:.2f} | {plain['seconds']:.1f} |",
            flush=True,
        )
        if np.nanmax(ratios) > BAR:
            above.append(f"{label}: {np.nanmax(ratios):.2f} times the arrays, the bar is {BAR:g}")
    for sentence in above:
        print(f"above the bar: {sentence}")
    return 1 if above and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
