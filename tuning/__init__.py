"""Optuna for SB3: search spaces that plugins declare, and studies that can be trusted.

    def objective(trial):
        model = LFIWSAC("MlpPolicy", "Pendulum-v1", **suggest(trial, LFIWSAC))

The import name is ``sb3_ext.tuning``; Optuna itself comes with the extra ``sb3-ext[tuning]``.
"""

import importlib
from typing import TYPE_CHECKING, Any

from sb3_ext.tuning.spaces import suggest

if TYPE_CHECKING:
    from sb3_ext.tuning.callbacks import TrialEvalCallback
    from sb3_ext.tuning.options import TuneOptions
    from sb3_ext.tuning.storage import open_storage
    from sb3_ext.tuning.workers import TuneResult, tune

__all__ = ["TrialEvalCallback", "TuneOptions", "TuneResult", "open_storage", "suggest", "tune"]

_LATER = {
    "TrialEvalCallback": "callbacks",
    "TuneOptions": "options",
    "TuneResult": "workers",
    "open_storage": "storage",
    "tune": "workers",
}


def __getattr__(name: str) -> Any:
    # On first use: `suggest` needs neither torch nor Optuna, and the command's help needs nothing.
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_LATER[name]}")
    return getattr(module, name)
