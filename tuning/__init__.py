"""Optuna for SB3: search spaces that plugins declare, and studies that can be trusted.

    def objective(trial):
        model = LFIWSAC("MlpPolicy", "Pendulum-v1", **suggest(trial, LFIWSAC))

The import name is ``sb3_ext.tuning``; Optuna itself comes with the extra ``sb3-ext[tuning]``.
"""

from sb3_ext.tuning.spaces import suggest

__all__ = ["suggest"]
