"""What the offline baselines say about themselves."""

from dataclasses import replace

from sb3_ext.algorithms.specs import DDPG, DQN, SAC, TD3
from sb3_ext.spec import PluginSpec

#: Searched online, and about collecting.
_COLLECTING = ("buffer_size", "learning_starts", "train_freq", "gradient_steps")


def _offline(base: PluginSpec) -> PluginSpec:
    space = {
        name: atom
        for name, atom in base.search_space.items()
        if name not in _COLLECTING and not name.startswith("exploration_")
    }
    return replace(
        base,
        name=f"offline_{base.name}",
        summary=f"Offline: {base.public_name} on a dataset alone, as a baseline.",
        target=f"sb3_ext.offline.baselines:Offline{base.public_name}",
        search_space=space,
        also=(),
    )


SPECS = tuple(_offline(base) for base in (SAC, TD3, DDPG, DQN))
