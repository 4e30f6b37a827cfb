"""A plugin package to start from: what `sb3-ext new NAME` writes.

The files lie in ``templates/``: those in ``any/`` are in every package, the others in one of their
kind. ``PACKAGE`` and ``NAME`` in a path, and ``$name`` and the like in a text, are filled in.
"""

from __future__ import annotations

import keyword
import re
import shutil
from pathlib import Path
from string import Template
from typing import get_args

import sb3_ext
from sb3_ext import __version__, registry
from sb3_ext.errors import UsageError
from sb3_ext.spec import Kind

TEMPLATES = Path(__file__).parent / "templates"
SUFFIX = ".tmpl"  # keeps tools from reading them as Python
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


def new_plugin(name: str, folder: str | Path = ".", kind: Kind = "weighting") -> Path:
    """Write the package of a new plugin; it is installable and passes its own tests.

    :param name: lower_snake, such as ``my_method``; dashes become underscores
    :param folder: where the package's folder is made
    :param kind: ``"weighting"``, ``"sampler"`` or ``"algorithm"``
    :return: the package's folder
    :raises UsageError: for a name that cannot be one or is taken, or a folder that is there already
    """
    name = name.replace("-", "_")
    public = "".join(part.capitalize() for part in name.split("_"))
    _require_free(name, public)
    if kind not in get_args(Kind):
        raise UsageError(f"kind must be one of {', '.join(get_args(Kind))}, got {kind!r}")
    words = {"name": name, "public": public, "package": f"sb3_ext_{name}", "version": __version__}
    words["distribution"] = words["package"].replace("_", "-")
    home = Path(folder) / words["distribution"]
    if home.exists():
        raise UsageError(f"{home} is there already; choose another name or --folder")
    try:
        for source in (TEMPLATES / "any", TEMPLATES / kind):
            for template in sorted(source.rglob(f"*{SUFFIX}")):
                path = template.relative_to(source).as_posix().removesuffix(SUFFIX)
                path = path.replace("PACKAGE", words["package"]).replace("NAME", name)
                path = path.replace("DOT", ".")  # globs, as of package data, pass over .gitignore
                target = home / path
                target.parent.mkdir(parents=True, exist_ok=True)
                text = template.read_text(encoding="utf-8")
                target.write_text(Template(text).substitute(words), encoding="utf-8")
    except OSError as error:
        shutil.rmtree(home, ignore_errors=True)
        raise UsageError(f"{home} cannot be written: {error.strerror}") from error
    return home


def _require_free(name: str, public: str) -> None:
    if not _NAME.fullmatch(name):
        tame = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())
        near = tame.strip("_0123456789")
        hint = f"; did you mean {near!r}?" if _NAME.fullmatch(near) else ""
        raise UsageError(f"a plugin's name is lower_snake, as in my_method; got {name!r}{hint}")
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise UsageError(f"{name!r} is a word of Python; choose another name")
    if public in sb3_ext.FRAMEWORK:
        raise UsageError(f"{public} is a name of sb3_ext itself; choose another than {name!r}")
    for row in registry.plugins():
        if {name, public} & set(row.keys):
            raise UsageError(f"{name!r} is taken by a plugin from {row.source}; choose another")
