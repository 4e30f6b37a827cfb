"""The toy of Buckman et al. (2018): how fast values reach the truth on a chain, with a model.

    python benchmarks/steve_toy.py              # the figure and the table, a minute

States 0 to 100 in a row and an end behind them; every step goes one on and costs 1, entering the
end gives 100, nothing is discounted: V(s) = s. Values are tables. An update draws a state for each
of eight tables, forms a target, and writes it into the table. The model either knows the step, or
jumps anywhere with probability 0.1.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch as th
from learning import machine, versions

from sb3_ext.plugins.steve.equations import (
    alive,
    expanded_values,
    inverse_variance_target,
    moments,
)
from sb3_ext.td import td_target

LAST, END = 100, 101
TRUTH = th.arange(LAST + 1, dtype=th.float64)


@dataclass(frozen=True)
class Variant:
    """One curve.

    :param tables: how many
    :param horizon: imagined steps
    :param noise: probability that the model jumps
    :param weighed: whether horizons are weighed by their variance (STEVE); else the last counts
    """

    tables: int = 8
    horizon: int = 0
    noise: float = 0.0
    weighed: bool = False


VARIANTS = {
    "TD, one table": Variant(tables=1),
    "TD, eight tables": Variant(),
    "MVE, oracle": Variant(horizon=5),
    "STEVE, oracle": Variant(horizon=5, weighed=True),
    "MVE, noisy model": Variant(horizon=5, noise=0.1),
    "STEVE, noisy model": Variant(horizon=5, noise=0.1, weighed=True),
}


def reward_of(states: th.Tensor) -> th.Tensor:
    """What entering these states gives."""
    return th.where(states == END, 100.0, -1.0).double()


def run(variant: Variant, trials: int, updates: int, seed: int = 0) -> th.Tensor:
    """Mean squared error of the tables' mean against the truth, ``[updates, trials]``.

    All trials at once; within an update all tables form their targets first.
    """
    generator = th.Generator().manual_seed(seed)
    tables, models = variant.tables, 8 if variant.noise else 1
    shape = (trials, tables)
    values = th.randint(0, 101, (trials, tables, END + 1), generator=generator).double()
    values[..., END] = 0
    which = th.arange(trials)[:, None].expand(shape)
    errors = []
    for _ in range(updates):
        states = th.randint(0, END, shape, generator=generator)
        following = states + 1
        rewards, ends = reward_of(following), (following == END).double()
        path, imagined, done = [following.expand(models, *shape)], [], []
        for _ in range(variant.horizon):
            moved = (path[-1] + 1).clamp(max=END)
            if variant.noise:
                jumps = th.rand(moved.shape, generator=generator) < variant.noise
                anywhere = th.randint(0, END, moved.shape, generator=generator)
                moved = th.where(jumps, anywhere, moved)
            path.append(moved)
            imagined.append(reward_of(moved))
            done.append((moved == END).double())
        batch = trials * tables
        visited = th.stack(path)  # [H + 1, M, trials, tables]
        # Every table says what each of the visited states is worth.
        asked = values[which[..., None], th.arange(tables), visited[..., None]]
        q_values = asked.permute(0, 4, 1, 2, 3).flatten(3)  # [H + 1, L, M, B]
        nothing = th.zeros(0, models, batch, dtype=th.float64)
        continues = alive(th.stack(done).flatten(2) if done else nothing)
        candidates = expanded_values(
            th.stack(imagined).flatten(2)[:, None] if imagined else nothing[:, None],
            continues,
            q_values,
            1.0,
            th.zeros_like(continues),
        )
        targets = td_target(rewards.flatten(), ends.flatten(), 1.0, candidates)
        means, variances = moments(targets)
        found = inverse_variance_target(means, variances) if variant.weighed else means[-1]
        values[which, th.arange(tables).expand(shape), states] = found.view(shape)
        errors.append((values[..., : LAST + 1].mean(dim=1) - TRUTH).square().mean(dim=1))
    return th.stack(errors)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, draw the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--updates", type=int, default=14_000)
    parser.add_argument("--pictures", type=Path, default=Path("docs/img"))
    given = parser.parse_args(arguments)
    th.set_num_threads(1)
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    print(f"{machine()}; {versions()}\n")
    print(
        f"| chain, {given.trials} trials | first update with error < 1, median | error at the end |"
    )
    print("| --- | --: | --: |")
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True)
    panels = {"oracle": axes[0], "noisy model": axes[1]}
    colours = {"TD, one": "#999999", "TD, eight": "#5B5B5B", "MVE": "#D55E00", "STEVE": "#0072B2"}
    for name, variant in VARIANTS.items():
        curves = run(variant, given.trials, given.updates).numpy()
        middle = np.median(curves, axis=1)
        firsts = [np.flatnonzero(one < 1) for one in curves.T]
        reached = [one[0] for one in firsts if len(one)]
        told = f"{np.median(reached):,.0f}" if len(reached) > given.trials / 2 else "never"
        print(f"| {name} | {told} | {middle[-1]:.3g} |", flush=True)
        colour = next(one for start, one in colours.items() if name.startswith(start))
        for panel, axis in panels.items():
            if panel in name or name.startswith("TD"):
                axis.plot(
                    np.maximum(middle, 1e-7), color=colour, label=name.removesuffix(f", {panel}")
                )
    for panel, axis in panels.items():
        axis.set_yscale("log")
        axis.set_title(panel)
        axis.set_xlabel("updates")
        axis.spines[["top", "right"]].set_visible(False)
        axis.axhline(1, color="#cccccc", linewidth=0.8)
        axis.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel("mean squared error of the values")
    figure.suptitle(f"Chain of 101 states, horizon 5, median of {given.trials} trials")
    figure.set_layout_engine("constrained")
    path = given.pictures / "steve-toy.png"
    figure.savefig(path, dpi=130)
    print(f"\npicture: {path}")


if __name__ == "__main__":
    main()
