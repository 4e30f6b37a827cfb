"""Learning curves of run directories: which folders are runs, and which runs are one curve."""

from __future__ import annotations

import json
import os
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sb3_ext.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from sb3_ext.evaluation import Floats

LAST = 3  # evaluations that make a final return
POINTS = 200  # of a curve through training episodes
EVALUATIONS, MONITOR = "evaluations.npz", "monitor.csv"


def _no_curve() -> tuple[Floats, Floats]:
    import numpy as np

    return np.empty(0), np.empty(0)


@dataclass(frozen=True)
class Run:
    """One run directory and its curve, which is read after the folder was recognised.

    :param named: whether the command named it, or a folder above it
    :param window: how many episodes a point is the mean of; 0 for evaluations
    :param name: the algorithm in short
    :param played_by: who played the episodes of training, where not the agent alone
    """

    path: Path
    algorithm: str
    env: str
    seed: int | None
    hyperparameters: Mapping[str, Any]
    named: bool
    window: int = 0
    name: str = ""
    played_by: str | None = None
    curve: tuple[Floats, Floats] = field(default_factory=_no_curve, repr=False)


@dataclass(frozen=True)
class Group:
    """The runs of one curve, at the steps that all of them have: returns are [runs, points]."""

    label: str
    runs: Sequence[Run]
    steps: Floats
    returns: Floats

    @property
    def final(self) -> Floats:
        """One final return a run; a mean over training episodes is one already."""
        last = 1 if self.runs[0].window else LAST
        mean: Floats = self.returns[:, -last:].mean(axis=1)
        return mean

    @property
    def area(self) -> float:
        """The mean return along training, over the runs."""
        import numpy as np

        span = float(self.steps[-1] - self.steps[0])
        if span == 0.0:
            return float(self.returns.mean())
        return float(np.trapezoid(self.returns, self.steps, axis=1).mean() / span)


def note(sentence: str) -> None:
    """Say what a reader of the picture must know, beside the table and not in it."""
    print(f"note: {sentence}", file=sys.stderr)


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs that are meant, each once, in the order of the command; nothing is read of results.

    :raises UsageError: if a folder is no run and holds none
    """
    found: dict[Path, Run] = {}
    for folder in folders:
        if not folder.exists():
            raise UsageError(f"{folder} does not exist; give a run directory, or a folder of runs")
        if not folder.is_dir():
            raise UsageError(f"{folder} is a file; give the run directory that holds it")
        own = _read_run(folder, named=True)
        below = [own] if own else sorted(_runs_below(folder), key=_natural)
        if not below:
            lacks = "no config.json" if _has_results(folder) else "no config.json and no results"
            raise UsageError(
                f"{folder} is no run and holds none: it has {lacks}; runs of `sb3-ext train` and "
                f"of sb3_ext.tracking.Track have both"
            )
        for one in below:
            found.setdefault(one.path.resolve(), one)
    return list(found.values())


def _runs_below(folder: Path) -> Iterator[Run]:
    for parent, names, _ in os.walk(folder):
        one = None if Path(parent) == folder else _read_run(Path(parent), named=False)
        if one:
            yield one
        # A run's own folders hold checkpoints and W&B's files; hidden ones are nobody's runs.
        names[:] = [] if one else [name for name in names if not name.startswith(".")]


def _natural(run: Run) -> list[tuple[int, str]]:
    """Sorts Hopper-v5_2 before Hopper-v5_10."""
    words = re.split(r"(\d+)", str(run.path))
    return [(int(word), "") if word.isdigit() else (-1, word) for word in words]


def _read_run(folder: Path, *, named: bool) -> Run | None:
    """What config.json says; None if there is none, or one of something else."""
    path = folder / "config.json"
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        told = f"{path} cannot be read ({error})"
        if named:
            raise UsageError(f"{told}; restore or remove it") from error
        if _has_results(folder):
            note(f"{told}; it is left out")
        return None
    if not isinstance(config, dict) or not isinstance(config.get("algorithm"), str):
        if not named:
            return None
        raise UsageError(f"{path} is not that of a run: it must be a JSON object with `algorithm`")
    hyperparameters = config.get("hyperparameters")
    return Run(
        path=folder,
        algorithm=config["algorithm"],
        env=str(config.get("env") or "unknown environment"),
        seed=config.get("seed"),
        hyperparameters=hyperparameters if isinstance(hyperparameters, dict) else {},
        named=named,
        played_by=config.get("episodes_played_by"),
    )


def _has_results(folder: Path) -> bool:
    return (folder / EVALUATIONS).is_file() or any(folder.glob(f"*{MONITOR}"))


def with_curves(runs: Sequence[Run]) -> list[Run]:
    """The runs with their curves. One that the command named must have one; of those that were
    found below a folder, what has none is left out, and said so.

    Training episodes and evaluations are different things: an environment gets one of the two.
    """
    evaluations, episodes = {}, {}
    readable = []
    for one in runs:
        try:
            evaluations[one.path] = _evaluations(one.path / EVALUATIONS)
            if evaluations[one.path] is None:
                episodes[one.path] = _episodes(one.path)
            readable.append(one)
        except UsageError as error:  # among many, one that is damaged must not stop the others
            if one.named:
                raise
            note(f"{error}; it is left out")
    runs = readable
    evaluated = {one.env for one in runs if evaluations[one.path] is not None}
    kept = []
    for one in runs:
        curve = evaluations[one.path] or (episodes[one.path] if one.env not in evaluated else None)
        if curve is not None:
            kept.append(replace(one, curve=curve, window=int(one.env not in evaluated)))
            continue
        why = f"{one.path} has nothing evaluated: no {EVALUATIONS} and no finished episode"
        if episodes[one.path] is not None:
            why = (
                f"{one.path} has training episodes only, and other runs on {one.env} have "
                f"evaluations: the two are no measure of each other"
            )
        if one.named:
            raise UsageError(f"{why}; leave it out")
        note(f"{why}; it is left out")
    if not kept:
        raise UsageError("no run has anything to draw; train longer than one evaluation")
    return _smoothed(kept)


def _evaluations(path: Path) -> tuple[Floats, Floats] | None:
    """Steps and mean returns of SB3's EvalCallback; None if there are none."""
    import numpy as np

    if not path.is_file():
        return None
    try:
        # Opened here: of a damaged file, NumPy forgets to close its own.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            steps = np.asarray(stored["timesteps"], dtype=np.float64)
            results = np.asarray(stored["results"], dtype=np.float64)
        if steps.size == 0:
            return None
        if steps.ndim != 1 or results.ndim != 2 or len(results) != len(steps):
            raise ValueError(f"timesteps are {list(steps.shape)}, results {list(results.shape)}")
        returns = results.mean(axis=1)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is no file of SB3's EvalCallback: {error}") from error
    if not np.isfinite(returns).all():
        at = int(steps[~np.isfinite(returns)][0])
        raise UsageError(f"{path} must hold finite returns; at step {at} one is not: leave it out")
    # A run that went on from a checkpoint may have evaluated a step twice; the later one counts.
    points = dict(zip(steps.tolist(), returns.tolist(), strict=True))
    ordered = np.asarray(sorted(points.items()))
    return ordered[:, 0], ordered[:, 1]


def _episodes(folder: Path) -> tuple[Floats, Floats] | None:
    """Steps at the end of every training episode, and its return; None if there is none."""
    import numpy as np

    rows: list[tuple[float, float, float]] = []
    for path in sorted(folder.glob(f"*{MONITOR}")):
        start, before, offset = 0.0, 0.0, 0.0
        for line in path.read_text(errors="replace").splitlines():
            if line.startswith("#"):
                told = re.search(r'"t_start": *([0-9.eE+]+)', line)
                start = float(told[1]) if told else 0.0
                continue
            try:
                reward, length, at = (float(cell) for cell in line.split(",")[:3])
            except ValueError:
                continue  # the names of the columns, or a line that a kill cut short
            if at < before:
                offset += before  # a resumed run's clock begins again
            before = at
            rows.append((start + offset + at, length, reward))
    if not rows:
        return None
    # Environments side by side share the count of steps: their episodes in order of time.
    table = np.asarray(sorted(rows, key=lambda row: row[0]))
    if not np.isfinite(table).all():
        raise UsageError(f"{folder} must hold finite returns in its {MONITOR}; leave it out")
    return np.cumsum(table[:, 1]), table[:, 2]


def _smoothed(runs: Sequence[Run]) -> list[Run]:
    """Runs with training episodes, of an environment, as running means over as many episodes."""
    import numpy as np

    shortest: dict[str, int] = {}
    for one in runs:
        shortest[one.env] = min(shortest.get(one.env, sys.maxsize), len(one.curve[0]))
    smooth = []
    for one in runs:
        if one.window:
            steps, returns = one.curve
            window = int(np.clip(shortest[one.env] // 20, 5, 100))
            sums = np.cumsum(np.concatenate([[0.0], returns]))
            ends = np.arange(1, len(returns) + 1)
            starts = np.maximum(ends - window, 0)
            means = (sums[ends] - sums[starts]) / (ends - starts)
            one = replace(one, curve=(steps, means), window=window)
        smooth.append(one)
    return smooth


def panels_of(runs: Sequence[Run], by: str) -> dict[str, list[Group]]:
    """Picture -> its curves, both in the order of the runs.

    :param by: ``"algorithm"``, ``"env"`` or ``"folder"``: what a curve is
    :raises UsageError: if runs cannot be one curve
    """
    names = _short_names(list(dict.fromkeys(one.algorithm for one in runs)))
    folders = _folder_names(runs)
    members: dict[str, dict[str, list[Run]]] = {}
    for one in runs:
        one = replace(one, name=names[one.algorithm])
        panel = one.name if by == "env" else one.env
        label = {"algorithm": one.name, "env": one.env, "folder": folders[one.path]}[by]
        members.setdefault(panel, {}).setdefault(label, []).append(one)
    panels = {
        panel: [_group(label, seeds, by) for label, seeds in curves.items()]
        for panel, curves in members.items()
    }
    for panel, groups in panels.items():
        ends = sorted({int(group.steps[-1]) for group in groups})
        if len(ends) > 1:
            told = ", ".join(f"{end:,}" for end in ends)
            note(f"the curves on {panel} end at different steps ({told}): so do their finals")
    return panels


def _short_names(paths: Sequence[str]) -> dict[str, str]:
    """``module:Class`` -> ``Class``, with the package where two have one name."""
    bare = [path.rpartition(":")[2] for path in paths]
    names = {}
    for path, name in zip(paths, bare, strict=True):
        package = path.partition(".")[0].partition(":")[0]
        names[path] = f"{name} ({package})" if bare.count(name) > 1 else name
    return names if len(set(names.values())) == len(names) else {path: path for path in paths}


def _folder_names(runs: Sequence[Run]) -> dict[Path, str]:
    """Run -> the folder that holds it, by its name if no other has that."""
    parents = {one.path: one.path.resolve().parent for one in runs}
    names = [parent.name for parent in set(parents.values())]
    return {
        path: parent.name if names.count(parent.name) == 1 else os.path.relpath(parent)
        for path, parent in parents.items()
    }


def _group(label: str, runs: Sequence[Run], by: str) -> Group:
    import numpy as np

    what = f"{label} on {runs[0].env}" if by == "folder" else f"{runs[0].name} on {runs[0].env}"
    if len({one.algorithm for one in runs}) > 1:
        kinds = ", ".join(sorted({one.name for one in runs}))
        raise UsageError(
            f"the runs of one curve must be of one algorithm, but the folder {label} holds "
            f"{kinds}; leave --group-by out, or put each into a folder of its own"
        )
    seeds = [one.seed for one in runs if one.seed is not None]
    if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
        note(f"{what} has several runs of seed {', '.join(map(str, twice))}: all are counted")
    if differing := _differing(runs):
        note(
            f"the runs of {what} differ in {', '.join(differing)}; "
            f"--group-by folder tells settings apart"
        )
    if runs[0].window:
        low = max(one.curve[0][0] for one in runs)
        high = min(one.curve[0][-1] for one in runs)
        if low > high:
            raise UsageError(f"the runs of {what} share no steps: one ends before another begins")
        steps = np.linspace(low, high, POINTS if high > low else 1)
        returns = np.stack([np.interp(steps, *one.curve) for one in runs])
        note(f"{what}: no evaluations; drawn are training episodes, {runs[0].window} to a mean")
        if played_by := runs[0].played_by:
            note(
                f"{what}: those episodes were played by {played_by}, and are not the agent's own: "
                "sb3-ext eval RUN_DIR tells its returns, train --eval-every their curve"
            )
        return Group(label, runs, steps, returns)
    steps = runs[0].curve[0]
    for one in runs[1:]:
        steps = np.intersect1d(steps, one.curve[0])
    if not len(steps):
        raise UsageError(
            f"the runs of {what} must be evaluated at common steps, but have none in common: "
            + "; ".join(f"{one.path} {_told(one.curve[0])}" for one in runs)
            + "; leave out what does not belong, or use --group-by folder"
        )
    returns = np.stack([one.curve[1][np.isin(one.curve[0], steps)] for one in runs])
    if any(len(one.curve[0]) != len(steps) for one in runs):
        note(
            f"the runs of {what} were evaluated at different steps; used are the {len(steps)} in "
            f"common, {_told(steps)}"
        )
    if len(steps) == 1:
        note(f"{what} has one evaluation only: that is a point, and no curve")
    return Group(label, runs, steps, returns)


def _told(steps: ArrayLike) -> str:
    import numpy as np

    values = np.asarray(steps)
    return f"from {values[0]:,.0f} to {values[-1]:,.0f}"


def _differing(runs: Sequence[Run]) -> list[str]:
    """Names of the hyperparameters in which the runs of a curve differ; the device is none."""
    names = {name for one in runs for name in one.hyperparameters} - {"device"}
    first = runs[0].hyperparameters
    return sorted(
        name
        for name in names
        if any(one.hyperparameters.get(name) != first.get(name) for one in runs)
    )
