"""A plugin package to start from: what `sb3-ext new NAME` writes."""

from __future__ import annotations

import keyword
import re
import shutil
from pathlib import Path
from string import Template

from sb3_ext import __version__, registry
from sb3_ext.errors import UsageError

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


def new_plugin(name: str, folder: str | Path = ".") -> Path:
    """Write the package of a new weighting; it is installable and passes its own tests.

    :param name: lower_snake, such as ``my_method``; dashes become underscores
    :param folder: where the package's folder is made
    :return: the package's folder
    :raises UsageError: for a name that cannot be one or is taken, or a folder that is there already
    """
    name = name.replace("-", "_")
    if not _NAME.fullmatch(name):
        raise UsageError(f"a plugin's name is lower_snake, as in my_method; got {name!r}")
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise UsageError(f"{name!r} is a word of Python; choose another name")
    public = "".join(part.capitalize() for part in name.split("_"))
    for row in registry.plugins():
        if {name, public} & set(row.keys):
            raise UsageError(f"{name!r} is taken by a plugin from {row.source}; choose another")
    words = {"name": name, "public": public, "package": f"sb3_ext_{name}", "version": __version__}
    words["distribution"] = words["package"].replace("_", "-")
    home = Path(folder) / words["distribution"]
    if home.exists():
        raise UsageError(f"{home} is there already; choose another name or --folder")
    try:
        for path, text in FILES.items():
            target = home / Template(path).substitute(words)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(Template(text).substitute(words), encoding="utf-8")
    except OSError as error:
        shutil.rmtree(home, ignore_errors=True)
        raise UsageError(f"{home} cannot be written: {error.strerror}") from error
    return home


FILES = {
    "pyproject.toml": """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "$distribution"
version = "0.1.0"
description = "$public for sb3-ext"
requires-python = ">=3.11"
dependencies = ["sb3-ext>=$version"]

# This line is all that sb3-ext needs to find the plugin.
[project.entry-points."sb3_ext.plugins"]
$name = "$package.plugin:SPEC"

[tool.setuptools]
packages = ["$package"]

[tool.pytest.ini_options]
testpaths = ["tests"]
""",
    "README.md": """\
# $distribution

A weighting for sb3-ext: transitions with large rewards count more. It is an example to change, no
method from a paper.

```
pip install -e .
pytest
sb3-ext info $public
sb3-ext train SAC --env Pendulum-v1 --steps 2000 --set weighting.name=$name
```

```python
from sb3_ext import SAC, $public

model = SAC("MlpPolicy", "Pendulum-v1", weighting=$public(temperature=2.0))
```

| file | what it is |
| --- | --- |
| `$package/plugin.py` | what the plugin says about itself; data only |
| `$package/equations.py` | the maths, pure functions |
| `$package/weighting.py` | the config that users write, and the part that works |
| `tests/` | a known answer, and sb3-ext's conformance kit |
""",
    "$package/__init__.py": '''\
"""$public for sb3-ext."""
''',
    "$package/plugin.py": '''\
"""What the plugin says about itself; it is read to list plugins, so it imports nothing heavy."""

from sb3_ext.spec import Float, PluginSpec

SPEC = PluginSpec(
    kind="weighting",
    name="$name",
    summary="Transitions with large rewards count more.",
    target="$package.weighting:$public",
    search_space={"temperature": Float(0.5, 10.0, log=True)},
    action_spaces=("Box",),
    observation_spaces=("Box", "Dict"),
)
''',
    "$package/equations.py": '''\
"""The maths: tensors in, tensors out."""

import torch
from torch import Tensor


def softmax_weights(rewards: Tensor, temperature: float) -> Tensor:
    """Weights proportional to exp(reward / temperature), with mean 1 over the batch.

    :param rewards: [B, 1]
    :param temperature: in the unit of the rewards; a high one makes all weights alike
    :return: [B, 1]
    """
    return torch.softmax(rewards / temperature, dim=0) * len(rewards)
''',
    "$package/weighting.py": '''\
"""The config that users write, and the part that works."""

from dataclasses import dataclass

from sb3_ext import SAC, Draw, Weighting
from torch import Tensor

from $package.equations import softmax_weights


@dataclass(frozen=True)
class $public:
    """Transitions with large rewards count more in the critic's loss.

    :param temperature: in the unit of the rewards; a high one makes all weights alike
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")

    def build(self, algorithm: SAC) -> "${public}Weighting":
        """Make the part that works, for an algorithm whose policy and buffer exist already."""
        return ${public}Weighting(self)


class ${public}Weighting(Weighting):
    """One that learns would hold its network here, and give it in ``state_dict``."""

    def __init__(self, config: $public) -> None:
        self.config = config
        self.largest = 1.0

    def weigh(self, draw: Draw, replay: object) -> Tensor:
        """The weights of a batch, [B, 1]."""
        weights = softmax_weights(draw.samples.rewards, self.config.temperature)
        self.largest = weights.max().item()
        return weights

    def metrics(self) -> dict[str, float]:
        """What is logged after each round of updates."""
        return {"$name/weight_max": self.largest}
''',
    "tests/test_$name.py": '''\
"""A known answer, and the laws that every weighting keeps."""

import math

import pytest
import torch
from $package.equations import softmax_weights
from $package.weighting import $public
from sb3_ext.testing import WeightingConformance


def test_a_reward_that_is_larger_by_the_temperature_counts_e_times_as_much():
    weights = softmax_weights(torch.tensor([[0.0], [2.0]]), temperature=2.0)
    assert weights.mean().item() == pytest.approx(1.0)
    assert (weights[1] / weights[0]).item() == pytest.approx(math.e)


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match="above 0"):
        $public(temperature=0.0)


class TestConformance(WeightingConformance):
    config = $public(temperature=2.0)
''',
}
