"""Who may import whom: docs/architecture.md as a test, on the syntax trees of the files."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINES = 400
STANDARD = frozenset(sys.stdlib_module_names)
SPEC, REGISTRY = {"sb3_ext.spec"}, {"sb3_ext.discovery", "sb3_ext.registry"}
PURE = {
    "sb3_ext.td",
    "sb3_ext.replay.window",
    "sb3_ext.replay.sum_tree",
    "sb3_ext.replay.split",
    "sb3_ext.replay.next_observations",
    "sb3_ext.ensembles",
    "sb3_ext.inference",
    "sb3_ext.trajectories.returns",
    "sb3_ext.offline.importance",
}
#: They stand above the framework: they import it, and it finds them by entry points.
ABOVE = ("sb3_ext.tuning", "sb3_ext.zoo")


@dataclass(frozen=True)
class Import:
    """One imported module or member, by its absolute name."""

    name: str
    line: int

    def under(self, *packages: str) -> bool:
        return any(self.name == one or self.name.startswith(f"{one}.") for one in packages)


def module_name(path: Path, root: Path) -> str:
    """The import name of a file; plugins/ and tuning/ live under sb3_ext."""
    parts = path.relative_to(root).with_suffix("").parts
    if parts[0] in ("plugins", "tuning"):
        parts = ("sb3_ext", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, root: Path) -> list[Import]:
    """Everything that a file imports, also inside functions and for types only."""
    package = module_name(path, root).split(".")
    if path.stem != "__init__":
        package = package[:-1]
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            parent = ".".join([*base, *([node.module] if node.module else [])])
            # `from a import b` may mean the module a.b: both names count.
            found += [Import(f"{parent}.{alias.name}", node.lineno) for alias in node.names]
    return found


def files(root: Path) -> Iterator[Path]:
    # rglob does not follow the two symlinks, so every file is seen once.
    for folder in ("sb3_ext", "plugins", "tuning"):
        yield from sorted((root / folder).rglob("*.py"))


def refusal(module: str, found: Import) -> str | None:
    """Why `module` must not import `found`; None if it may."""
    inside = module.split(".")
    plugin = inside[2] if inside[:2] == ["sb3_ext", "plugins"] and len(inside) > 2 else None
    standard = found.name.partition(".")[0] in STANDARD
    if module in SPEC and not standard:
        return "the vocabulary of plugins is standard library only"
    if module in REGISTRY and not (standard or found.under(*SPEC, *REGISTRY)):
        return "listing plugins must import the standard library only"
    data = inside[-1] in ("plugin", "specs") or (plugin and len(inside) == 3)
    if data and not (standard or found.under(*SPEC)):
        return "a spec is data: it is read to list plugins, so it imports sb3_ext.spec only"
    pure = module in PURE or inside[-1] == "equations"
    if pure and not (standard or found.under("torch", "numpy", *PURE)):
        return "equations are pure: torch or numpy only"
    if plugin:
        if found.under("plugins", "sb3_ext.plugins") and not found.under(
            f"sb3_ext.plugins.{plugin}"
        ):
            return "a plugin never imports another plugin"
        if found.under("optuna", "tuning", "sb3_ext.tuning"):
            return "tuning knows plugins by their specs, never the reverse"
        if found.name.startswith("sb3_ext._"):
            return "a plugin uses public names of sb3_ext only"
    elif found.under("plugins", "sb3_ext.plugins"):
        return "the framework knows no method"
    above = next((one for one in ABOVE if module == one or module.startswith(f"{one}.")), None)
    if found.under("rl_zoo3") and above != "sb3_ext.zoo":
        return "only the adapter knows RL Zoo"
    if above is None and found.under("sb3_ext.zoo"):
        return "the adapter of RL Zoo imports the framework, never the reverse"
    if above is None and found.under("optuna", "tuning", "sb3_ext.tuning"):
        return "tuning imports the framework, never the reverse"
    if above == "sb3_ext.tuning" and found.under("sb3_ext.zoo"):
        return "tuning does not need RL Zoo"
    return None


def violations(root: Path) -> list[str]:
    """All broken rules, as `path:line: sentence`."""
    told = []
    for path in files(root):
        where = path.relative_to(root).as_posix()
        length = len(path.read_text(encoding="utf-8").splitlines())
        if length > LINES:
            told.append(f"{where}:{length}: a file has at most {LINES} lines; split it")
        module = module_name(path, root)
        for found in imports(path, root):
            if why := refusal(module, found):
                told.append(f"{where}:{found.line}: imports {found.name}, but {why}")
    return told


def test_everyone_imports_only_whom_they_may():
    assert violations(ROOT) == []


def test_the_check_sees_every_file_once_under_its_import_name():
    seen = [module_name(path, ROOT) for path in files(ROOT)]
    assert {"sb3_ext", "sb3_ext.spec", "sb3_ext.plugins.lfiw.plugin", "sb3_ext.tuning"} <= set(seen)
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize(
    ("path", "code", "why"),
    [
        ("sb3_ext/spec.py", "import torch", "standard library only"),
        ("sb3_ext/registry.py", "from . import td", "standard library only"),
        ("sb3_ext/algorithms/specs.py", "import numpy as np", "a spec is data"),
        ("plugins/lfiw/plugin.py", "from .equations import f", "a spec is data"),
        ("plugins/lfiw/__init__.py", "import torch", "a spec is data"),
        ("sb3_ext/td.py", "def f():\n    import stable_baselines3", "equations are pure"),
        ("sb3_ext/replay/window.py", "from gymnasium import spaces", "equations are pure"),
        ("sb3_ext/td.py", "from sb3_ext.updates import Clock", "equations are pure"),
        ("plugins/lfiw/equations.py", "from stable_baselines3.common import x", "equations are pu"),
        ("sb3_ext/trajectories/returns.py", "import gymnasium", "equations are pure"),
        ("sb3_ext/trajectories/returns.py", "import stable_baselines3", "equations are pure"),
        ("sb3_ext/updates.py", "from sb3_ext.plugins.lfiw import weighting", "knows no method"),
        ("sb3_ext/updates.py", "from sb3_ext import plugins", "knows no method"),
        ("sb3_ext/replay/storage.py", "from .. import plugins", "knows no method"),
        ("sb3_ext/cli.py", "import optuna", "never the reverse"),
        ("sb3_ext/cli.py", "from sb3_ext import tuning", "never the reverse"),
        ("plugins/ere/sampler.py", "from sb3_ext.plugins.per import tree", "another plugin"),
        ("plugins/ere/sampler.py", "from ..per.tree import Tree", "another plugin"),
        ("plugins/ere/deep/sampler.py", "from ... import per", "another plugin"),
        ("plugins/ere/sampler.py", "import plugins.ere.tree", "another plugin"),
        ("plugins/ere/sampler.py", "if TYPE_CHECKING:\n    import optuna", "never the reverse"),
        ("plugins/ere/sampler.py", "from sb3_ext._private import x", "public names"),
        ("tuning/__init__.py", "import sb3_ext.plugins.lfiw", "knows no method"),
        ("tuning/__init__.py", "import rl_zoo3", "only the adapter"),
        ("tuning/__init__.py", "from sb3_ext import zoo", "does not need RL Zoo"),
        ("sb3_ext/cli/zoo.py", "from rl_zoo3.train import train", "only the adapter"),
        ("sb3_ext/cli/zoo.py", "from sb3_ext import zoo", "adapter of RL Zoo imports"),
        ("plugins/ere/sampler.py", "import rl_zoo3", "only the adapter"),
        ("sb3_ext/zoo/command.py", "from sb3_ext.plugins import lfiw", "knows no method"),
        ("plugins/ere/sampler.py", "x = 1\n" * (LINES + 1), "at most 400 lines"),
    ],
)
def test_a_violation_is_caught(tmp_path, path, code, why):
    broken = tmp_path / path
    broken.parent.mkdir(parents=True)
    broken.write_text(code)
    (told,) = violations(tmp_path)
    assert told.startswith(f"{path}:")
    assert why in told


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("sb3_ext/registry.py", "import sys\nfrom sb3_ext.spec import Kind"),
        ("sb3_ext/td.py", "import math\nimport torch\nfrom torch.nn import functional as F"),
        ("plugins/per/equations.py", "import numpy as np\nfrom sb3_ext.td import target"),
        (
            "plugins/lfiw/algorithms.py",
            "from .weighting import W\nfrom sb3_ext.algorithms.sac import S",
        ),
        (
            "plugins/lfiw/weighting.py",
            "from sb3_ext.plugins.lfiw import equations\nimport gymnasium",
        ),
        ("sb3_ext/zoo/command.py", "import rl_zoo3, optuna\nfrom sb3_ext.tuning import suggest"),
        ("tuning/study.py", "import optuna\nfrom sb3_ext import registry\nfrom . import suggest"),
    ],
)
def test_what_is_allowed_passes(tmp_path, path, code):
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(code)
    assert violations(tmp_path) == []
