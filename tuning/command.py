"""`sb3-ext tune`. Nothing heavy is imported until it runs."""

import argparse
import dataclasses
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sb3_ext.cli.parsing import add_command, at_least
from sb3_ext.errors import UsageError
from sb3_ext.signatures import DATA

if TYPE_CHECKING:
    from sb3_ext.tuning.options import TuneOptions

MORE = """\
A trial is one or several training runs with the hyperparameters that Optuna suggests; the space is
what the plugin declares (sb3-ext info ALGO). Then the best trials and the default configuration are
run again on fresh seeds, one is chosen, and tested on seeds that chose nothing. studies/NAME then
holds best.yaml for sb3-ext train --config, trials.csv, report.md and plots. A study that was
stopped goes on by the same line, or by --resume."""
EXAMPLES = (
    "tune LFIWSAC --env Pendulum-v1 --trials 30 --steps 10000 --space temperature,fast_buffer_size",
    "tune SAC --env Hopper-v5 --set replay=per --space replay.alpha,learning_rate --workers 2",
    "tune --resume studies/lfiw_sac_Pendulum-v1 --trials 60",
    "train --config studies/lfiw_sac_Pendulum-v1/best.yaml --seed 7",
)
#: Options that --resume may change.
CHANGEABLE = ("trials", "top", "final_seeds", "timeout", "trial_timeout", "track", "pruner")


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands, "tune", "search hyperparameters with Optuna", examples=EXAMPLES, more=MORE
    )
    add = parser.add_argument
    add("algorithm", metavar="ALGO", nargs="?", help="LFIWSAC, lfiw_sac, PPO, contrib:TQC, sb3:SAC")
    add(
        "--env",
        metavar="ID",
        help="a registered environment, such as Hopper-v5; of your own "
        "module: my_module:My-v0, with the module on PYTHONPATH",
    )
    add("--trials", type=at_least(1), metavar="N", help="of the study, all workers together (50)")
    add(
        "--steps",
        type=at_least(1),
        metavar="S",
        help="environment steps of a run; offline: gradient (20000)",
    )
    add("--seeds", type=at_least(1), metavar="K", help="runs of a trial; the median counts (1)")
    add("--study", metavar="NAME", help="one that is there goes on (ALGO_ENV)")
    add("--space", metavar="A,B", help="hyperparameters to search (all that are declared)")
    add("--ranges", type=Path, metavar="FILE", help="a YAML of other ranges, or further ones")
    add(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="KEY=VALUE",
        help="an argument of the algorithm that is not searched",
    )
    add("--config", type=Path, metavar="FILE", help="a YAML of options; the command line wins")
    add("--resume", type=Path, metavar="DIR", help="go on with a study")
    add(
        "--enqueue",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="begin with the defaults (on)",
    )
    add("--sampler", choices=("tpe", "random"), help="(tpe)")
    add("--pruner", choices=("median", "halving", "none"), help="(median)")
    add("--evaluations", type=at_least(1), metavar="N", help="of a run, for the pruner (10)")
    add("--eval-episodes", type=at_least(1), metavar="N", help="(10)")
    add("--top", type=at_least(0), metavar="N", help="trials that are run again; 0: none (3)")
    add("--final-seeds", type=at_least(1), metavar="K", help="fresh seeds for each of them (5)")
    add("--seed", type=at_least(0), metavar="S", help="of the sampler and of all runs (0)")
    add("--timeout", type=float, metavar="SECONDS", help="begin no trial after that (no limit)")
    add("--trial-timeout", type=float, metavar="SECONDS", help="a slower trial fails (no limit)")
    add("--workers", type=at_least(1), metavar="W", default=1, help="processes (1)")
    add(
        "--storage",
        metavar="URL",
        help="a database, grpc://host:port, or a journal file (study.log in the study's folder; "
        "the variable OPTUNA_STORAGE)",
    )
    add("--dir", type=Path, metavar="DIR", help="of the study's files (studies/NAME)")
    add("--env-set", action="append", default=[], metavar="KEY=VALUE", help="of the environment")
    add("--policy", metavar="NAME", help="(what fits the observations)")
    add("--n-envs", type=at_least(1), metavar="E", help="environments of a run (1)")
    vec_envs = ("dummy", "subproc", "packed")
    add("--vec-env", choices=vec_envs, help="in turn, a process each, or a few for all (dummy)")
    add(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="VecNormalize (off)",
    )
    add("--track", choices=("none", "tensorboard", "wandb"), help="wandb: a run each (none)")
    add(
        "--keep-models",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="of all trials, not only of the second stage (off)",
    )
    add("--device", metavar="D", help="cpu, cuda, cuda:1, mps (auto)")
    add("--threads", type=at_least(1), metavar="T", help="of torch, in each worker (1)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Search, then show what was found."""
    try:
        from sb3_ext.tuning.results import print_results
        from sb3_ext.tuning.study import open_study, quiet_optuna
        from sb3_ext.tuning.workers import go_on, tune
    except ImportError as error:
        raise UsageError(
            f'tuning needs {error.name}, which is not installed: pip install "sb3-ext[tuning]"'
        ) from error
    quiet_optuna()
    storage = arguments.storage or os.environ.get("OPTUNA_STORAGE") or None
    try:
        if arguments.resume is None:
            options = _options(arguments)
            folder = arguments.dir or Path("studies") / options.study
            _head(options, folder)
            result = tune(options, folder, storage=storage, workers=arguments.workers, tell=_tell)
        else:
            folder = _changed(arguments, storage)
            _head(open_study(folder, storage).options, folder)
            result = go_on(folder, storage=storage, workers=arguments.workers, tell=_tell)
    except KeyboardInterrupt:
        way_on = f"sb3-ext tune --resume {shlex.quote(str(arguments.resume or folder))}"
        print(f"\nsb3-ext: interrupted; to go on: {way_on}", file=sys.stderr)
        return 130
    print()
    print_results(open_study(result.folder, storage), result.finals)
    shown = shlex.quote(str(result.folder))
    print(f"\nNext:\n  sb3-ext train --config {shown}/best.yaml")
    print(f"  {shown}/report.md has the plots, {shown}/trials.csv every trial")
    return 0


def _head(options: "TuneOptions", folder: Path) -> None:
    """What is going to be searched."""
    from sb3_ext.catalog import find_algorithm
    from sb3_ext.tuning.spaces import in_words

    _, cls = find_algorithm(options.algorithm)
    atoms, _ = options.resolved().search_space(cls)
    print(f"{options.algorithm} on {options.env}, in {folder}")
    print(
        f"searched: {'; '.join(in_words(name, atom) for name, atom in atoms.items())}", flush=True
    )


def _tell(line: str) -> None:
    print(line, flush=True)


def _options(arguments: argparse.Namespace) -> "TuneOptions":
    """Defaults, then the config, then the command line."""
    from sb3_ext.catalog import find_algorithm
    from sb3_ext.cli.train import merged
    from sb3_ext.running import read_options
    from sb3_ext.running.hyperparameters import read_settings, with_numbers
    from sb3_ext.tuning.options import TuneOptions, options_of

    where = str(arguments.config or "the command line")
    values = {} if arguments.config is None else with_numbers(read_options(arguments.config))
    values.pop("storage", None)
    given = vars(arguments)
    for one in dataclasses.fields(TuneOptions):
        if given.get(one.name) is not None and one.name not in ("space", "ranges"):
            values[one.name] = given[one.name]
    if arguments.space is not None:
        values["space"] = [one.strip() for one in arguments.space.split(",") if one.strip()]
    if arguments.ranges is not None:
        values["ranges"] = with_numbers(read_options(arguments.ranges))
    for name, settings, option in (
        ("hyperparameters", arguments.settings, "--set"),
        ("env_kwargs", arguments.env_set, "--env-set"),
    ):
        values[name] = merged(values.get(name) or {}, read_settings(settings, option))
    missing = [
        told for told, name in (("ALGO", "algorithm"), ("--env", "env")) if not values.get(name)
    ]
    if missing:
        raise UsageError(f"give {' and '.join(missing)}, or a --config that does; see --help")
    name, cls = find_algorithm(values["algorithm"])
    values["algorithm"] = name
    if values.get("study") is None:
        from sb3_ext import registry

        spec = registry.spec_of(cls)
        short = name.replace(":", "-") if spec is None else spec.name
        env = values["env"].replace("/", "-").replace(":", "-")
        values["study"] = f"{short}_{env}"
    return options_of(values, where)


def _changed(arguments: argparse.Namespace, storage: str | None) -> Path:
    """The study to go on with, with what the command line changes written into it."""
    from sb3_ext.running.hyperparameters import read_settings, with_data_at_home
    from sb3_ext.tuning.checks import require_makeable, require_room
    from sb3_ext.tuning.options import read_study, write_study
    from sb3_ext.tuning.study import name_identity, open_study

    moved = read_settings(arguments.settings, "--set")
    allowed = {"command", "run", "teller", "resume", "workers", "storage", *CHANGEABLE}
    if moved.keys() <= set(DATA):
        allowed.add("settings")  # data that were moved
    given = {name: value for name, value in vars(arguments).items() if value not in (None, [])}
    stray = [name for name in given if name not in allowed]
    if stray:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in stray)
        names = names.replace("--algorithm", "ALGO").replace("--settings", "--set")
        may = ", ".join(f"--{name.replace('_', '-')}" for name in CHANGEABLE)
        raise UsageError(
            f"--resume takes all settings from the study; only {may}, --workers, --storage and "
            "--set dataset= or demonstrations= (data that were moved) may be given with it, not "
            f"{names}"
        )
    folder: Path = arguments.resume
    options, kept = read_study(folder)
    changed = {name: given[name] for name in CHANGEABLE if name in given}
    if moved:
        changed["hyperparameters"] = with_data_at_home({**options.hyperparameters, **moved})
    wanted = dataclasses.replace(options, **changed)
    require_makeable(wanted)  # what the study was begun with may be gone
    if changed:
        opened = open_study(folder, storage)
        require_room(opened.study, wanted)
        write_study(folder, wanted, kept)
        if moved:
            name_identity(opened.study, wanted)
    return folder
