"""Causal confusion from pixels: clones of a rule that plays Pong, with the last action drawn in.

The Atari part of de Haan, Jayaraman and Levine (2019), as far as two cores get. What they mask are
the latents of a beta-VAE, which CausalBC trains before it clones:

* **ORIGINAL**: each frame shows a random number, and plain cloning learns from the ball;
* **CONFOUNDED**: each frame shows the action before it, and plain cloning copies that;
* **policy execution** and **expert queries**: CausalBC on CONFOUNDED, and the graph of each;
* **dropout**: the same network with all latents.

The expert is a rule that follows the ball, and not the paper's trained agent. A call that was
killed goes on where it stopped: with the same --out, call it again.

    pip install "sb3-ext[atari]"
    python examples/causal_pong.py                         # seeds 0 1 2
    python examples/causal_pong.py --score-expert 10       # how well the rule plays, whole games
"""

import argparse
import dataclasses
import json
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import matplotlib
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

from sb3_ext import CausalBC, PreviousAction
from sb3_ext.evaluation import bootstrap_interval
from sb3_ext.offline import OfflineDataset, from_policy, load_dataset
from sb3_ext.plugins.causal.queries import collect_states

STAY, UP, DOWN = 0, 1, 2
ALE_ACTIONS = (0, 2, 3)  # NOOP, RIGHT, LEFT: the paddle stays, goes up, goes down
BACKGROUND = 87
SIDE, CELL = 32, 5  # the field's 160 pixels a side, in squares of 5
THICKER = 5  # pixels that are drawn around everything
#: In pixels of the screen; the last action's number stands in what lies left of BALL_FROM,
#: and the ball comes to where the paddle is looked for last of all.
BALL_FROM, BALL_TO, PADDLE_FROM, PADDLE_TO = 60, 135, 145, 150
BALL, PADDLE = (4 + 2 * THICKER, 2 + 2 * THICKER), (16 + 2 * THICKER, 4 + 2 * THICKER)  # as drawn
PADDLE_FRONT, WALLS = 140.0, (2.0, 158.0)
LINES = ("expert", "ORIGINAL", "CONFOUNDED", "dropout")
CURVES = ("policy execution", "expert queries")


def size(default: Any, told: str) -> Any:
    """A field that is an option of the command, too."""
    return dataclasses.field(default=default, metadata={"help": told})


@dataclasses.dataclass(frozen=True)
class Task:
    """Sizes of everything."""

    samples: int = size(64_000, "steps of the expert")
    vae_steps: int = size(10_000, "gradient steps of the autoencoder")
    steps: int = size(30_000, "gradient steps of a clone")
    latents: int = size(16, "of the autoencoder: the factors")
    width: int = size(32, "of the autoencoder")
    beta: float = size(0.02, "of the autoencoder")
    points: int = size(5, "after which an episode ends")
    limit: int = size(2_000, "steps of an episode, at most")
    evaluations: int = size(24, "episodes")
    episodes: int = size(80, "of policy execution, at most")
    queries: int = size(400, "of the expert, at most")
    sticky: float = size(0.05, "how often the game repeats an action, a frame")
    out: Path = size("runs/causal_pong", "what is there is not done again")  # noqa: RUF009


# -- the game ------------------------------------------------------------------------------------


def field_of(screen: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pong's field, white on black, in 32 by 32.

    The ball has 2 by 4 of the screen's pixels, which no autoencoder would miss: all is drawn five
    pixels thicker. Means over squares keep where its middle is to less than a pixel.

    :param screen: ``[210, 160]`` in gray
    :return: ``[32, 32, 1]``
    """
    thick = maximum_filter(screen[34:194] != BACKGROUND, size=2 * THICKER + 1)
    squares = thick.reshape(SIDE, CELL, SIDE, CELL).mean(axis=(1, 3))
    return np.round(255 * squares).astype(np.uint8)[..., None]


class Field(gym.Wrapper[Any, Any, Any, Any]):
    """Pong with three actions and a small picture, from 0 to 30 frames in, for some points.

    :param points: after which the episode ends
    """

    def __init__(self, env: gym.Env[Any, Any], points: int) -> None:
        super().__init__(env)
        self.points, self.played = points, 0
        self.action_space = spaces.Discrete(len(ALE_ACTIONS))
        self.observation_space = spaces.Box(0, 255, (SIDE, SIDE, 1), np.uint8)
        self.generator = np.random.default_rng()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """A new game. Waits are drawn here, so that they are the same whatever a slot shows."""
        if seed is not None:
            self.generator = np.random.default_rng(seed)
        screen, info = self.env.reset(seed=seed, options=options)
        self.played = 0
        for _ in range(self.generator.integers(31)):
            screen, *_, info = self.env.step(ALE_ACTIONS[STAY])
        return field_of(screen), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the game's."""
        screen, reward, terminated, truncated, info = self.env.step(ALE_ACTIONS[int(action)])
        self.played += reward != 0
        return field_of(screen), reward, terminated or self.played >= self.points, truncated, info


def pong(task: Task, mode: str, n_envs: int, seed: int) -> VecEnv:
    """As imitators see it, two frames; the number is drawn before they are stacked."""
    import ale_py

    gym.register_envs(ale_py)

    def make() -> gym.Env[Any, Any]:
        frames = {"obs_type": "grayscale", "frameskip": 2, "repeat_action_probability": task.sticky}
        game = gym.make("ALE/Pong-v5", max_episode_steps=task.limit, **frames)
        return PreviousAction(Field(game, task.points), mode)  # type: ignore[arg-type]

    return VecFrameStack(make_vec_env(make, n_envs, seed=seed), 2, channels_order="last")


# -- the expert ----------------------------------------------------------------------------------


def middles(
    frames: NDArray[Any], start: int, stop: int, size: tuple[int, int]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Where the middle of the thing between two columns is; NaN where nothing is.

    How bright its outermost squares are tells where in them it ends.

    :param frames: ``[B, 32, 32]``
    :param start: in pixels of the screen, as all that is returned
    :param size: of the thing as it is drawn; one end is enough where a border cuts the other
    :return: rows and columns, ``[B]`` each
    """
    part = frames[:, :, start // CELL : stop // CELL].astype(float)

    def edge(filled: NDArray[Any]) -> NDArray[Any]:
        one = (filled > 0).argmax(1)
        inside: NDArray[Any] = CELL * (one + 1 - np.take_along_axis(filled, one[:, None], 1)[:, 0])
        return inside

    found = []
    for axis, first, length in ((2, 0, size[0]), (1, start, size[1])):
        bright = part.sum(axis)
        filled = bright / np.maximum(bright.max(1, keepdims=True), 1e-9)
        low, high = edge(filled), CELL * filled.shape[1] - edge(filled[:, ::-1])
        middle = first + np.where(low > 0, low + length / 2, high - length / 2)
        found.append(np.where(bright.any(1), middle, np.nan))
    return found[0], found[1]


def follow_the_ball(
    seen: NDArray[Any], off: float = 5.0, slack: float = 5.6, ahead: float = 0.7
) -> NDArray[np.int64]:
    """The expert: where will the ball arrive, and is the paddle there?

    It looks at two frames and not at the number. A ball that flies away, or is not seen, lets it
    rest; the script prints how often it repeats its action.

    :param seen: ``[B, 32, 32, 2]``, or with its channels first
    :param off: how far from its middle the paddle is to meet the ball, which sends it off steeply
    :param slack: how far the paddle may be from where it is to be
    :param ahead: steps that the paddle goes on for, after it was told to stop
    :return: actions ``[B]``
    """
    seen = np.asarray(seen)
    frames = np.moveaxis(seen, 1, -1) if seen.shape[1] == 2 else seen
    before, now = frames[..., 0], frames[..., 1]
    (y0, x0), (y, x) = (middles(one, BALL_FROM, BALL_TO, BALL) for one in (before, now))
    paddle0, paddle = (middles(one, PADDLE_FROM, PADDLE_TO, PADDLE)[0] for one in (before, now))
    with np.errstate(invalid="ignore", divide="ignore"):
        top, bottom = WALLS
        straight = y + (y - y0) * (PADDLE_FRONT - x) / (x - x0)
        folded = np.abs((straight - top + bottom - top) % (2 * (bottom - top)) - (bottom - top))
        target = top + folded + off * np.sign(y - y0)
        there = paddle + ahead * np.nan_to_num(paddle - paddle0)
        comes = x > x0  # False of NaN
        up, down = comes & (target < there - slack), comes & (target > there + slack)
    return np.where(up, UP, np.where(down, DOWN, STAY))


#: For SB3's ``evaluate_policy``.
RULE: Any = SimpleNamespace(predict=lambda seen, **_: (follow_the_ball(seen), None))


# -- the imitators -------------------------------------------------------------------------------


def demonstrations(task: Task, mode: str, seed: int) -> OfflineDataset:
    """The expert's steps; the same ones whatever the frames show."""
    path = task.out / f"seed_{seed}" / f"{mode}.npz"
    if not path.exists():
        env = pong(task, mode, 4, 1_000 * seed)
        data = from_policy(follow_the_ball, env, n_steps=task.samples, seed=1_000 * seed)
        env.close()
        data.save(path, compressed=True)
    return load_dataset(path)


def trained(
    path: Path, steps: int, begin: Callable[[], CausalBC], data: OfflineDataset
) -> CausalBC:
    """A model after so many gradient steps; saved every 500, and gone on with from there."""
    go_on = partial(CausalBC.load, path, demonstrations=data, device="cpu")
    model = go_on() if path.exists() else begin()
    while model.num_timesteps < steps:
        model.learn(min(500, steps - model.num_timesteps), reset_num_timesteps=False)
        model.save(part := path.with_name("part.zip"))
        part.replace(path)
        print(f"{path}: {model.num_timesteps} of {steps} gradient steps", flush=True)
    return model


def clone(task: Task, mode: str, seed: int, keep: float) -> CausalBC:
    """A clone on the latents of an autoencoder that all clones of a condition share.

    :param keep: of a latent in training; 1 is plain cloning
    """
    folder, data = task.out / f"seed_{seed}", demonstrations(task, mode, seed)
    sizes = {"n_latents": task.latents, "beta": task.beta, "width": task.width}
    sizes |= {"learning_rate": 1e-3, "steps": task.vae_steps}
    options: dict[str, Any] = {"demonstrations": data, "device": "cpu"}
    make = partial(CausalBC, "CnnPolicy", vae_kwargs=sizes, seed=seed, **options)
    encoder = folder / f"autoencoder_{mode}.zip"
    begin = partial(make, policy_kwargs={"net_arch": [256, 256]})
    model = trained(encoder, task.vae_steps, begin, data)
    if not encoder.with_suffix(".png").exists():
        show_reconstructions(model, data, encoder.with_suffix(".png"))
    go_on = partial(CausalBC.load, encoder, keep_probability=keep, **options)
    path = folder / f"{'graphs' if keep < 1 else 'plain'}_{mode}.zip"
    return trained(path, task.vae_steps + task.steps, go_on, data)


def show_reconstructions(model: CausalBC, data: OfflineDataset, path: Path) -> None:
    """Frames of the demonstrations over what the latents keep of them."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = np.linspace(0, len(data) - 1, 12).astype(int)
    seen, _ = model.policy.obs_to_tensor(data.observations[rows])
    vae: Any = model.extractor.vae  # type: ignore[attr-defined]
    with torch.no_grad():
        frames = preprocess_obs(seen, model.observation_space)
        kept = vae.decode(vae.encode(frames)[0]).clamp(0, 1)
    pictures = torch.cat([frames[:, 1], kept[:, 1]]).numpy()
    joined = np.pad(pictures, ((0, 0), (1, 1), (1, 1)), constant_values=0.5)
    joined = joined.reshape(2, len(rows), SIDE + 2, SIDE + 2).swapaxes(1, 2)
    plt.imsave(path, joined.reshape(2 * (SIDE + 2), -1).repeat(3, 0).repeat(3, 1), cmap="gray")


def evaluated(task: Task, model: Any, mode: str, seed: int) -> float:
    """Points won less points lost, a mean over episodes; the same starts for all."""
    env = pong(task, mode, 4, 10_000 + 100 * seed)
    returns, _ = evaluate_policy(model, env, task.evaluations, deterministic=True)
    env.close()
    return float(returns)


def one_seed(task: Task, seed: int) -> None:
    """All returns of one seed, in one file; parts of it that are there are left."""
    folder = task.out / f"seed_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.json"
    done: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def keep(name: str, value: Any) -> None:
        done[name] = value
        part = path.with_suffix(".part")
        part.write_text(json.dumps(done))
        part.replace(path)
        print(f"seed {seed}: {name} {value}", flush=True)

    if "expert" not in done:
        data = demonstrations(task, "confounded", seed)
        ends = data.terminated | data.truncated
        keep("repeats", float((data.actions[1:] == data.actions[:-1])[~ends[:-1]].mean()))
        keep("expert", evaluated(task, RULE, "confounded", seed))
    for name, mode in (("ORIGINAL", "original"), ("CONFOUNDED", "confounded")):
        if name not in done:
            keep(name, evaluated(task, clone(task, mode, seed, keep=1.0), mode, seed))
    model = clone(task, "confounded", seed, keep=0.5)

    def worth(graph: dict[str, bool]) -> float:
        """The return under a graph, which many budgets find alike."""
        known = done.setdefault("graphs", {})
        key = "".join(str(int(one)) for one in graph.values())
        if key not in known:
            model.fix(graph)
            known[key] = evaluated(task, model, "confounded", seed)
            keep("graphs", known)
        return float(known[key])

    if "dropout" not in done:
        keep("dropout", worth(dict.fromkeys(model.graph, True)))
    env = pong(task, "confounded", 4, seed)
    for name, most in zip(CURVES, (task.episodes, task.queries), strict=True):
        found, left = done.get(name, []), budgets(most)[len(done.get(name, [])) :]
        states = None
        for budget in left:
            if name == "policy execution":
                log = str(folder / "execution.json")
                posterior = model.intervene(env, budget, seed=seed, path=log)
            else:
                if states is None:
                    states = collect_states(model, env, 10 * most, seed)
                posterior = model.query(follow_the_ball, states, budget, seed=seed)
            found = [*found, [budget, worth(posterior.graph)]]
            keep(name, found)
            if budget == most:
                print(posterior.table(), flush=True)
                posterior.plot(folder / f"{name.replace(' ', '_')}.png")


def budgets(most: int) -> list[int]:
    """An eighth, a quarter, a half, all."""
    return sorted({max(1, most // part) for part in (8, 4, 2, 1)})


# -- the command ---------------------------------------------------------------------------------


def table(task: Task) -> None:
    """Means over seeds with 95 % bootstrap intervals; of a curve, its end."""
    seeds = [json.loads(one.read_text()) for one in sorted(task.out.glob("seed_*/results.json"))]
    seeds = [one for one in seeds if len(one.get(CURVES[1], [])) == len(budgets(task.queries))]
    print(f"\n| imitator | points won less lost, of {task.points} |\n| --- | --: |")
    for name in (*LINES, *CURVES):
        values = [one[name] for one in seeds]
        if name in CURVES:
            unit = "episodes" if name == "policy execution" else "queries"
            name, values = f"{name}, {values[0][-1][0]} {unit}", [one[-1][1] for one in values]
        print(f"| {name} | {bootstrap_interval(np.array(values), np.mean)} |")


def main() -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for one in dataclasses.fields(Task):
        told = f"{one.metadata['help']} (%(default)s)"
        name = f"--{one.name.replace('_', '-')}"
        parser.add_argument(name, type=one.type, default=one.default, help=told)  # type: ignore[arg-type]
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--score-expert", type=int, metavar="GAMES", help="only this")
    given = vars(parser.parse_args())
    seeds, games = given.pop("seeds"), given.pop("score_expert")
    task = Task(**given)
    try:
        import ale_py  # noqa: F401
    except ModuleNotFoundError:
        sys.exit('Pong needs ale-py, which holds the game: pip install "sb3-ext[atari]"')
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*(rich is experimental|Monitor)")
    if games is not None:
        whole = dataclasses.replace(task, points=2 * 21, limit=40_000, evaluations=games)
        return print(f"mean score of {games} games: {evaluated(whole, RULE, 'confounded', 0)}")
    task.out.mkdir(parents=True, exist_ok=True)
    sizes = json.dumps({**dataclasses.asdict(task), "out": None}, indent=2)
    settings = task.out / "settings.json"
    if settings.exists() and settings.read_text() != sizes:
        sys.exit(f"{settings} says that other sizes were begun there: give another --out")
    settings.write_text(sizes)
    for seed in seeds:
        one_seed(task, seed)
    table(task)


if __name__ == "__main__":
    main()
