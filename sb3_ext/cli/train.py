"""`sb3-ext train`: a run directory from one line, and back into it after a kill."""

import argparse
import contextlib
import dataclasses
import itertools
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sb3_ext.cli.parsing import add_command, at_least
from sb3_ext.errors import UsageError
from sb3_ext.signatures import DATA

if TYPE_CHECKING:
    from sb3_ext.running import TrainOptions, TrainResult

MORE = """\
The run directory holds all that reproduces the run (options.yaml), the agent (model.zip,
best_model.zip), evaluations, logs, checkpoints and a picture of the learning curve. A run that was
killed, or stopped by Ctrl-C, goes on with --resume as if nothing had happened."""
EXAMPLES = (
    "train LFIWSAC --env Hopper-v5 --steps 100000 --set temperature=5",
    "train PPO --env CartPole-v1 --n-envs 4 --set n_steps=256 --set policy_kwargs.net_arch=[64,64]",
    "train TD3 --env Pendulum-v1 --set action_noise.type=normal --set action_noise.std=0.1",
    "train LFIWSAC --env Hopper-v5 --preset",
    "train BCQ --env Pendulum-v1 --set dataset=pendulum.npz --steps 20000",
    "train --config runs/lfiw_sac/Hopper-v5_1/options.yaml --seed 1",
    "train --resume runs/lfiw_sac/Hopper-v5_1",
)
WHAT = {
    "model.zip": "the trained agent",
    "best_model.zip": "the agent of the best evaluation",
    "learning_curve.png": "the picture of the run: open this first",
    "evaluations.npz": "returns of all evaluation episodes",
    "progress.csv": "all logged metrics",
    "options.yaml": "what the run was made from; --config reads it",
    "config.json": "every argument, versions, git commit",
    "replay_buffer.pkl": "every transition it saw",
    "videos": "films of evaluation episodes",
    "checkpoints": "from where --resume goes on",
    "tensorboard": "the metrics for TensorBoard",
    "wandb": "the metrics as a W&B run",
}


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "train", "train an algorithm", examples=EXAMPLES, more=MORE)
    add = parser.add_argument
    add("algorithm", metavar="ALGO", nargs="?", help="LFIWSAC, lfiw_sac, PPO, contrib:TQC, sb3:SAC")
    add("--env", metavar="ID", help="a registered environment, such as Hopper-v5")
    add(
        "--steps",
        type=at_least(1),
        metavar="N",
        help="environment steps; offline: gradient (100000)",
    )
    add(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="KEY=VALUE",
        help="an argument of the algorithm; dots reach inside: policy_kwargs.net_arch=[64,64]",
    )
    add(
        "--config",
        type=Path,
        metavar="FILE",
        help="a YAML of options, or RL Zoo's presets; the command line wins",
    )
    add(
        "--preset",
        action="store_true",
        default=None,
        help="what the algorithm's plugin recommends for the environment; the command line wins",
    )
    add("--resume", type=Path, metavar="RUN_DIR", help="go on with a run; --steps may extend it")
    add("--seed", type=at_least(0), metavar="S", help="(0)")
    add("--policy", metavar="NAME", help="(what fits the observations)")
    add("--n-envs", type=at_least(1), metavar="E", help="environments at once (1)")
    vec_envs = ("dummy", "subproc", "packed")
    add("--vec-env", choices=vec_envs, help="in turn, a process each, or a few for all (dummy)")
    add(
        "--env-set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an argument of the environment",
    )
    add(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="VecNormalize: running means of observations and returns (off)",
    )
    add(
        "--track",
        choices=("none", "tensorboard", "wandb"),
        help="beside the CSV; wandb is both, and offline unless WANDB_MODE says otherwise (none)",
    )
    add("--run-dir", type=Path, metavar="DIR", help="a new folder (runs/ALGO/ENV_1, _2, ...)")
    add("--checkpoint-every", type=at_least(0), metavar="N", help="steps; 0 for none (10000)")
    add("--keep", type=at_least(1), metavar="K", help="checkpoints that stay (2)")
    add("--eval-every", type=at_least(0), metavar="N", help="steps; 0 for none (10000)")
    add("--eval-episodes", type=at_least(1), metavar="N", help="(10)")
    add(
        "--save-best",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="with --track wandb: each best model as an artifact (off)",
    )
    add("--video-every", type=at_least(0), metavar="N", help="steps; film an episode (0: none)")
    add(
        "--trained-agent",
        metavar="PATH",
        help="begin with the parameters of a zip or of a run's best agent",
    )
    add("--replay-buffer", metavar="FILE", help="begin with the transitions of an SB3 buffer")
    add(
        "--allow-pickle",
        action="store_true",
        help="load a pickle (--replay-buffer, or data), which may run its writer's code",
    )
    add(
        "--save-replay-buffer",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="at the end, in SB3's form, a pickle (off)",
    )
    add("--device", metavar="D", help="cpu, cuda, cuda:1, mps (auto)")
    add("--threads", type=at_least(1), metavar="T", help="of torch (1)")
    add(
        "--progress",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="a progress bar (on a terminal)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train or resume, then show what there is."""
    from sb3_ext.running import run_options
    from sb3_ext.running.hyperparameters import read_settings

    made: list[Path] = []
    if arguments.resume is None:
        options, folder = _options(arguments), arguments.run_dir
        if folder is None:
            folder, made = _free_folder(options)
    else:
        _require_alone(arguments)
        folder = arguments.resume
        moved = read_settings(arguments.settings, "--set")  # at most data
        options = run_options(folder)
        options = dataclasses.replace(
            options,
            hyperparameters={**options.hyperparameters, **moved},
            steps=options.steps if arguments.steps is None else arguments.steps,
            track=options.track if arguments.track is None else arguments.track,
        )
    progress = sys.stdout.isatty() if arguments.progress is None else arguments.progress
    try:
        result = _train(
            options,
            folder,
            resume=arguments.resume is not None,
            progress=progress,
            allow_pickle=arguments.allow_pickle,
        )
    finally:
        for empty in made:  # where the run came to nothing; others are kept by what is in them
            with contextlib.suppress(OSError):
                empty.rmdir()
    if result.stopped:
        print(f"\nStopped at step {result.steps:,}. To go on:\n  {_way_on(folder)}")
        return 130
    _draw(folder, options)
    _show(result, options)
    return 0


def _train(
    options: "TrainOptions", folder: Path, *, resume: bool, progress: bool, allow_pickle: bool
) -> "TrainResult":
    """``running.train`` under signal handlers: the first asks to stop, the second interrupts."""
    from sb3_ext.running import train

    handlers: dict[int, Any] = {}

    def on_start(model: Any, keeping: Any) -> None:
        def asked(number: int, _frame: Any) -> None:
            if keeping is None or keeping.stop_requested:
                raise KeyboardInterrupt
            keeping.request_stop()
            print("\nStopping at the next safe point; once more to stop at once.", file=sys.stderr)

        for number in (signal.SIGINT, signal.SIGTERM):
            handlers[number] = signal.signal(number, asked)
        print(f"{options.algorithm} on {options.env}: {options.steps:,} steps, in {folder}")

    try:
        return train(
            options,
            folder,
            resume=resume,
            progress=progress,
            allow_pickle=allow_pickle,
            on_start=on_start,
        )
    except KeyboardInterrupt:
        from sb3_ext.resume import latest_checkpoint

        last = latest_checkpoint(folder) if folder.is_dir() else None
        told = f"the last checkpoint is {last}; to go on: {_way_on(folder)}"
        print(f"\nsb3-ext: interrupted; {told if last else 'nothing to resume'}", file=sys.stderr)
        raise SystemExit(130) from None
    except OSError as error:
        told = f"{error.strerror}: {error.filename or folder}" if error.strerror else str(error)
        print(
            f"\nsb3-ext: {told}. What there is lies in {folder}; "
            f"to go on, once there is room: {_way_on(folder)}",
            file=sys.stderr,
        )
        raise SystemExit(1) from error
    finally:
        for number, before in handlers.items():
            signal.signal(number, before)


def _way_on(folder: Path) -> str:
    return f"sb3-ext train --resume {shlex.quote(str(folder))}"


def _options(arguments: argparse.Namespace) -> "TrainOptions":
    """Defaults, then the config or preset, then the command line."""
    from sb3_ext.catalog import find_algorithm
    from sb3_ext.running import TrainOptions
    from sb3_ext.running.hyperparameters import read_settings, require_arguments, with_numbers

    values, where = _written(arguments)
    values = with_numbers(values)
    names = [field.name for field in dataclasses.fields(TrainOptions)]
    values |= {
        name: getattr(arguments, name)
        for name in names
        if getattr(arguments, name, None) is not None
    }
    for name, settings, option in (
        ("hyperparameters", arguments.settings, "--set"),
        ("env_kwargs", arguments.env_set, "--env-set"),
    ):
        given = values.get(name) or {}
        if not isinstance(given, dict):
            raise UsageError(f"{where}: {name} must be a mapping, got {given!r}")
        values[name] = merged(given, read_settings(settings, option))
    TrainOptions.require_known(values, where)
    missing = [
        told for told, name in (("ALGO", "algorithm"), ("--env", "env")) if not values.get(name)
    ]
    if missing:
        raise UsageError(f"give {' and '.join(missing)}, or a --config that does; see --help")
    options = TrainOptions.from_mapping(values, where)
    name, cls = find_algorithm(options.algorithm)
    require_arguments(cls, options.hyperparameters)
    return dataclasses.replace(options, algorithm=name)


def _written(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Options from a file, our own or RL Zoo's; and what to call it in errors."""
    from sb3_ext.running import read_options
    from sb3_ext.running.presets import is_presets, options_of_preset, read_preset

    if arguments.preset:
        if arguments.config is not None:
            raise UsageError("--preset and --config are two sources of options: give one of them")
        path = _preset(arguments)
        return read_preset(path, arguments.env), str(path)
    if arguments.config is None:
        return {}, "the command line"
    where = str(arguments.config)
    values = read_options(arguments.config)
    if is_presets(values):
        values = options_of_preset(values, arguments.env, where)
    return values, where


def _preset(arguments: argparse.Namespace) -> Path:
    from sb3_ext import registry
    from sb3_ext.catalog import find_algorithm
    from sb3_ext.running.presets import preset_file

    if arguments.algorithm is None or arguments.env is None:
        raise UsageError("--preset needs ALGO and --env; see --help")
    name, _ = find_algorithm(arguments.algorithm)
    found = preset_file(name) if ":" not in name else None
    if found is None:
        specs = [one for one in registry.public_names().values() if one.kind == "algorithm"]
        known = ", ".join(sorted(one.public_name for one in specs if preset_file(one.name)))
        raise UsageError(
            f"{arguments.algorithm} brings no presets ({known} do); --config reads a "
            "file of them, in RL Zoo's format"
        )
    return found


def merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Both, the second where they differ, level by level."""
    result = dict(first)
    for name, value in second.items():
        both = isinstance(value, dict) and isinstance(result.get(name), dict)
        result[name] = merged(result[name], value) if both else value
    return result


def _require_alone(arguments: argparse.Namespace) -> None:
    allowed = {"command", "run", "teller", "resume", "steps", "track", "progress", "allow_pickle"}
    if all(setting.partition("=")[0] in DATA for setting in arguments.settings):
        allowed.add("settings")  # the checkpoint knows the data by a fingerprint
    given = [
        f"--{name.replace('_', '-')}"
        for name, value in vars(arguments).items()
        if name not in allowed and value not in (None, [])
    ]
    if given:
        names = ", ".join(one if one != "--algorithm" else "ALGO" for one in given)
        raise UsageError(
            "--resume takes all settings from the run; only --steps, --track, --progress and --set "
            "dataset= or demonstrations= (data that were moved) may be given with it, not "
            + names.replace("--settings", "--set")
        )


def _free_folder(options: "TrainOptions") -> tuple[Path, list[Path]]:
    """``runs/lfiw_sac/Hopper-v5_1``, or the first number that is free: RL Zoo's layout.

    It is made at once, so that another start at this moment gets the next number.

    :return: the folder, and all that was made for it, innermost first
    """
    from sb3_ext import registry

    bare = options.algorithm.rpartition(":")[2]
    known = {spec.public_name: spec.name for spec in registry.public_names().values()}
    parent = Path("runs") / known.get(bare, bare).lower()
    stem = options.env.replace("/", "-").replace(":", "-")
    for number in itertools.count(1):
        folder = parent / f"{stem}_{number}"
        try:
            above = [one for one in (parent, *parent.parents) if not one.exists()]
            parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise UsageError(f"no run can be written to {parent}: {error.strerror}") from error
        return folder, [folder, *above]
    raise AssertionError("there is always another number")


def _draw(folder: Path, options: "TrainOptions") -> None:
    from sb3_ext.catalog import find_algorithm
    from sb3_ext.plots import plot_training_run

    try:
        algorithm = find_algorithm(options.algorithm)[1]
        plot_training_run(
            folder,
            title=f"{options.algorithm} on {options.env}",
            xlabel=getattr(algorithm, "learn_counts", "environment steps"),
        )
    except FileNotFoundError:
        print("No episode ended and nothing was evaluated, so there is no picture.")
    except OSError as error:
        print(f"sb3-ext: no picture could be written: {error.strerror}", file=sys.stderr)


def _show(result: "TrainResult", options: "TrainOptions") -> None:
    """A table of what was written, and what to try next."""
    import rich
    from rich.table import Table

    if result.resumed_from is not None:
        print(f"Went on from step {result.resumed_from:,}.")
    table = Table("file", "what it is", title=f"in {result.run_dir}", title_justify="left")
    for name, what in WHAT.items():
        if (result.run_dir / name).exists():
            table.add_row(name, what)
    rich.print(table)
    print("\nNext:")
    print(f"  sb3-ext eval {shlex.quote(str(result.run_dir))}")
    print(f"  sb3-ext plot {shlex.quote(str(result.run_dir.parent))}")
    if options.track != "none":
        print(f"  tensorboard --logdir {shlex.quote(str(result.run_dir / 'tensorboard'))}")
