"""What a STEVE update costs beside TD3's, and where the time goes.

    python benchmarks/steve.py                  # all tables, some minutes
    python benchmarks/steve.py --check          # exit status 1 if H=3 costs more than 6 of TD3's

One process, one torch thread, CPU time, in turns in reversed order every other round. All networks
have two hidden layers of 256 unless the row says otherwise; sizes are those of Hopper-v5, batches
of 256. An update is the critics', the actor's and the world model's together.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import stable_baselines3 as sb3
import torch as th
from learning import machine, versions

from sb3_ext import MVE, STEVE
from sb3_ext.ensembles import EnsembleMLP
from sb3_ext.inference import linear

BATCH, BAR = 256, 6.0
PEER, JUDGED = "TD3 of Stable-Baselines3", "STEVE, H=3, 4 x 4 x 4"


def made(cls: Any, width: int = 256, batch_size: int = BATCH, **given: Any) -> Any:
    """A model with a buffer to learn from, which has made some updates."""
    if cls is not sb3.TD3:
        given = {"model_net_arch": (width, width), "model_pretraining": 10, **given}
    model = cls(
        "MlpPolicy",
        "Hopper-v5",
        learning_starts=1_000,
        batch_size=batch_size,
        policy_kwargs={"net_arch": [width, width]},
        seed=0,
        device="cpu",
        **given,
    )
    return model.learn(1_010)


def clocked(call: Callable[[], Any], count: int) -> float:
    """CPU milliseconds of a call."""
    gc.collect()
    started = time.process_time()
    for _ in range(count):
        call()
    return 1e3 * (time.process_time() - started) / count


def in_turns(
    calls: Mapping[str, Callable[[], Any]], rounds: int, count: int
) -> dict[str, list[float]]:
    """Milliseconds by name, one a round; the first round is thrown away."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        names = list(calls) if turn % 2 else list(calls)[::-1]
        for name in names:
            found[name].append(clocked(calls[name], count))
    return {name: times[1:] for name, times in found.items()}


def ratios(found: Mapping[str, list[float]], base: str) -> dict[str, str]:
    """Against a base of the same round: median and range."""
    told = {}
    for name, times in found.items():
        shares = [a / b for a, b in zip(times, found[base], strict=True)]
        told[name] = f"**{statistics.median(shares):.2f}** [{min(shares):.2f}, {max(shares):.2f}]"
    return told


def timed_updates(rounds: int) -> dict[str, list[float]]:
    """Milliseconds of five updates by name, one a round."""
    models = {PEER: made(sb3.TD3), "MVE, H=3": made(MVE)}
    models |= {f"STEVE, H={h}, 4 x 4 x 4": made(STEVE, horizon=h) for h in (1, 3, 5)}
    models["STEVE, H=3, critic_subsets=False"] = made(STEVE, critic_subsets=False)
    calls = {n: lambda m=model: m.train(5, BATCH) for n, model in models.items()}
    return in_turns(calls, rounds, 1)


def updates(rounds: int) -> float:
    """The table of the bar; returns the median of STEVE with H=3."""
    found = timed_updates(rounds)
    told = ratios(found, PEER)
    print("| an update of | CPU ms, median | over TD3's, median [least, most] |")
    print("| --- | --: | --: |")
    for name, times in found.items():
        print(f"| {name} | {statistics.median(times) / 5:.1f} | {told[name]} |")
    return float(told[JUDGED].split("**")[1])


def parts(rounds: int) -> None:
    """Where STEVE's time goes."""
    model = made(STEVE)
    batch = model.replay_buffer.sample(BATCH)
    weights = th.ones(BATCH, 1)
    model.horizon = 0
    plain = clocked(lambda: model.gradient_step(batch, weights), 5)
    model.horizon = 3
    found = in_turns(
        {
            "the world model learns": lambda: model.world.update(model.replay_view, BATCH, 0.1, 0),
            "the target": lambda: model.bellman_target(batch),
        },
        rounds,
        5,
    )
    print("\n| part of STEVE's update, H=3 | CPU ms, median |\n| --- | --: |")
    for name, times in found.items():
        print(f"| {name} | {statistics.median(times):.1f} |")
    print(f"| critics and actor, with TD's target | {plain:.1f} |")


def growth(rounds: int) -> None:
    """Against members, horizon, width and batch; and the paper's own size, with its memory."""
    print("\n| STEVE, H=3 | CPU ms, median |\n| --- | --: |")
    rows: dict[str, dict[str, Any]] = {
        f"{n} x {n} x {n} members": {"n_models": n, "n_rewards": n, "n_critics": n}
        for n in (1, 2, 4, 8)
    }
    rows |= {f"width {w}": {"width": w} for w in (64, 128, 512)}
    rows |= {f"batch {b}": {"batch_size": b} for b in (64, 128, 512)}
    for name, given in rows.items():
        model = made(STEVE, **given)
        size = given.get("batch_size", BATCH)
        found = in_turns({name: lambda m=model, s=size: m.train(1, s)}, rounds, 2)
        print(f"| {name} | {statistics.median(found[name]):.1f} |", flush=True)
    paper = made(STEVE, width=128, batch_size=512, base="ddpg", model_net_arch=(512,) * 7)
    times = in_turns({"paper": lambda: paper.train(1, 512)}, 3, 1)["paper"]
    numbers = sum(p.numel() for p in paper.world.network.parameters())
    print(
        f"| batch 512, models of 8 x 512, agent of 2 x 128 | {statistics.median(times):.0f}; "
        f"{numbers / 1e6:.1f} million parameters, {16 * numbers / 2**20:.0f} MiB with gradients "
        "and Adam |"
    )


def ensembles(rounds: int) -> None:
    """The batched networks against a loop, forward and backward."""
    print("\n| 4 networks, rows each | width | batched, ms | a loop, ms | loop / batched |")
    print("| --: | --: | --: | --: | --: |")
    for width in (64, 256):
        for rows in (64, 1024):
            ensemble = EnsembleMLP(4, 14, 1, (width, width))
            members, given = ensemble.members(), th.randn(4, rows, 14)

            def loop(members: Any = members, given: Any = given) -> None:
                outputs = [one(own) for one, own in zip(members, given, strict=True)]
                th.stack(outputs).square().mean().backward()

            calls = {
                "loop": loop,
                "batched": lambda e=ensemble, g=given: e(g).square().mean().backward(),
            }
            found = in_turns(calls, rounds, 10)
            one, other = (statistics.median(found[name]) for name in ("batched", "loop"))
            print(f"| {rows} | {width} | {one:.2f} | {other:.2f} | **{other / one:.2f}** |")


def products(rounds: int) -> None:
    """One layer without gradient: torch's own against oneDNN's."""
    print("\n| a layer of 256 x 256 with ReLU, rows | torch, GFLOP/s | ours | ours / torch |")
    print("| --: | --: | --: | --: |")
    weight, bias = th.randn(256, 256), th.randn(256)
    for rows in (64, 256, 3072):
        given = th.randn(rows, 256)

        @th.no_grad()
        def plain(given: Any = given) -> Any:
            return th.nn.functional.linear(given, weight, bias).relu_()

        calls = {"ours": lambda g=given: linear(g, weight, bias, relu=True), "torch": plain}
        found = in_turns(calls, rounds, 20)
        rates = {n: rows * 2 * 256**2 / 1e6 / statistics.median(t) for n, t in found.items()}
        share = rates["ours"] / rates["torch"]
        print(f"| {rows} | {rates['torch']:.0f} | {rates['ours']:.0f} | **{share:.2f}** |")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--check", action="store_true", help=f"exit status 1 above {BAR:g}")
    given = parser.parse_args(arguments)
    th.set_num_threads(1)
    print(f"{machine()}; {versions()}\n")
    median = updates(given.rounds)
    if given.check:
        print(f"H=3 costs {median:.2f} of TD3's updates, {BAR:g} allowed")
        return int(median > BAR)
    for table in (parts, growth, ensembles, products):
        table(given.rounds)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
