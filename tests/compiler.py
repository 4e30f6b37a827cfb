"""Whether this machine has what torch.compile asks for beside Python."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path


def missing() -> str:
    """What is not there, in words; empty if torch.compile must work."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    headers = Path(sysconfig.get_path("include"), "Python.h")
    if shutil.which(compiler) is None:
        return f"there is no {compiler}"
    return "" if headers.exists() else f"there is no {headers}"
