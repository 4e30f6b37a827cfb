"""The pages: links lead somewhere, examples run, and every option and metric is explained."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from stable_baselines3.common.logger import configure

from sb3_ext import LFIWSAC, LikelihoodFree, registry
from tests.compiler import missing
from tests.environments import make_env

ROOT = Path(__file__).parents[1]
LFIW = ROOT / "docs" / "methods" / "lfiw.md"
PERFORMANCE = ROOT / "docs" / "performance.md"
METHODS = sorted((ROOT / "docs" / "methods").glob("*.md"))
GUIDES = sorted((ROOT / "docs" / "guide").glob("*.md"))
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "plugins").glob("*/README.md")),
    ROOT / "examples" / "README.md",
    ROOT / "benchmarks" / "README.md",
]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^()\s]+)\)")

# What the pages show -> what the tests run. 110 and 150: the weights start before the run ends.
BUDGETS = {
    r"\b1_000_000\b": "130",
    r"\b20_000\b": "150",
    r"\b10_000\b": "130",
    r"\b2_000\b": "110",
    r"\b1_000\b": "50",
    r"\bn_trials=20\b": "n_trials=2",
    r"\bn_eval_episodes=10\b": "n_eval_episodes=1",
}
# Each block has its own namespace, as a reader has who copies it; the folder is shared.
DRIVER = """
import sys, torch
torch.set_num_threads(1)
for path in sys.argv[1:]:
    print("block", path, flush=True)
    exec(compile(open(path, encoding="utf-8").read(), path, "exec"), {"__name__": "__main__"})
"""


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {
        re.sub(r"[^\w-]", "", heading.strip().lower().replace(" ", "-")) for heading in headings
    }


def dead_links(page: Path) -> Iterator[str]:
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in LINK.findall(prose):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            yield f"{link}: there is no such file"
        elif anchor and anchor not in anchors(target):
            yield f"{link}: no heading makes this anchor"


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_relative_link_leads_somewhere(page):
    assert list(dead_links(page)) == []


def test_a_dead_link_would_be_seen(tmp_path):
    (tmp_path / "there.md").write_text("# Two words, one `name`\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md) [b](there.md#two-words-one-name) ![c\nd](gone.png) [e](there.md#three)\n"
        "```\n[not a](link.md)\n```\n[f](#here)\n# Here\n"
    )
    assert [told.partition(":")[0] for told in dead_links(page)] == ["gone.png", "there.md#three"]


def test_the_index_links_every_page():
    index = ROOT / "docs" / "index.md"
    links = {(index.parent / link).resolve() for link in LINK.findall(index.read_text())}
    pages = {*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"}
    assert pages - {index} <= links


@pytest.mark.parametrize("page", [ROOT / "README.md", PERFORMANCE, *METHODS, *GUIDES], ids=relative)
def test_every_python_block_runs(page, tmp_path):
    blocks = [code for kind, code in FENCE.findall(page.read_text("utf-8")) if kind == "python"]
    if missing():  # what the page says of this engine; everything else runs
        blocks = [code for code in blocks if 'engine="compiled"' not in code]
    assert blocks
    paths = []
    for number, code in enumerate(blocks, start=1):
        for shown, run in BUDGETS.items():
            code = re.sub(shown, run, code)
        long = re.findall(r"\d[\d_]{3,}", re.sub(r"#.*", "", code))
        assert not long, f"block {number} of {page.name} has {long}: give BUDGETS a short one"
        paths.append(tmp_path / f"{page.stem}_{number}.py")
        paths[-1].write_text(code, encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "-c", DRIVER, *map(str, paths)],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-4000:]
    assert ended.stdout.count("block ") == len(blocks)


@pytest.mark.parametrize("page", sorted((ROOT / "plugins").glob("*/README.md")), ids=relative)
def test_a_plugins_page_begins_with_the_summary_of_its_spec(page):
    home = f"sb3_ext.plugins.{page.parent.name}."
    specs = [row.spec for row in registry.plugins() if row.spec]
    summaries = {spec.name: spec.summary for spec in specs if spec.target.startswith(home)}
    first = page.read_text(encoding="utf-8").partition("\n")[0]
    assert first in summaries.values()
    # Where one of them is the method itself, it is that one's.
    assert first == summaries.get(page.parent.name, first)


def test_every_option_of_lfiw_is_explained_with_its_default():
    page = LFIW.read_text(encoding="utf-8")
    for option in fields(LikelihoodFree):
        assert f"\n| `{option.name}` | `{option.default!r}` |" in page


def test_the_metrics_of_lfiw_are_those_on_its_page():
    model = LFIWSAC(
        "MlpPolicy", make_env(), fast_buffer_size=40, learning_starts=30, batch_size=8, seed=0
    )
    model.set_logger(configure(None, []))
    model.learn(60)
    metrics = set(model.weigher.metrics())
    rows = re.findall(r"^\| `(lfiw/\w+)` \|", LFIW.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(rows) == metrics
    assert len(rows) == len(metrics)
