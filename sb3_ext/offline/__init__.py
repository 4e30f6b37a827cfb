"""Offline reinforcement learning: recorded transitions in and out, and learning from them alone.

dataset = from_minari("mujoco/hopper/medium-v0")
print(dataset.report())
model = sb3_ext.BCQ("MlpPolicy", dataset=dataset).learn(100_000)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sb3_ext.offline.dataset import OfflineDataset, episode_starts_after
    from sb3_ext.offline.demonstrated import FromDemonstrations
    from sb3_ext.offline.diagnostics import ValueDiagnostic
    from sb3_ext.offline.fitted_q import fit_q
    from sb3_ext.offline.learning import Offline
    from sb3_ext.offline.off_policy import evaluate_policy_offline
    from sb3_ext.offline.readers import (
        from_d3rlpy,
        from_d4rl,
        from_minari,
        from_policy,
        from_replay_buffer,
        from_trajectories,
        load_dataset,
    )
    from sb3_ext.offline.recording import (
        ConcurrentLearner,
        record_final_buffer,
        record_imitation,
        record_imperfect_demonstrations,
    )
    from sb3_ext.offline.report import DatasetReport
    from sb3_ext.offline.value_plots import plot_value_estimates
    from sb3_ext.offline.writers import to_minari, to_replay_buffer

# On first use: what a plugin says about itself is read without torch.
_HOMES = {
    "dataset": ("OfflineDataset", "episode_starts_after"),
    "demonstrated": ("FromDemonstrations",),
    "diagnostics": ("ValueDiagnostic",),
    "fitted_q": ("fit_q",),
    "learning": ("Offline",),
    "off_policy": ("evaluate_policy_offline",),
    "readers": (
        *("from_d3rlpy", "from_d4rl", "from_minari", "from_policy", "from_replay_buffer"),
        *("from_trajectories", "load_dataset"),
    ),
    "recording": (
        *("ConcurrentLearner", "record_final_buffer", "record_imitation"),
        "record_imperfect_demonstrations",
    ),
    "report": ("DatasetReport",),
    "value_plots": ("plot_value_estimates",),
    "writers": ("to_minari", "to_replay_buffer"),
}
_WHERE = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "ConcurrentLearner",
    "DatasetReport",
    "FromDemonstrations",
    "Offline",
    "OfflineDataset",
    "ValueDiagnostic",
    "episode_starts_after",
    "evaluate_policy_offline",
    "fit_q",
    "from_d3rlpy",
    "from_d4rl",
    "from_minari",
    "from_policy",
    "from_replay_buffer",
    "from_trajectories",
    "load_dataset",
    "plot_value_estimates",
    "record_final_buffer",
    "record_imitation",
    "record_imperfect_demonstrations",
    "to_minari",
    "to_replay_buffer",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return __all__
