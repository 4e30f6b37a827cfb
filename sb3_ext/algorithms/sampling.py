"""The replay buffer of our bases and the sampler that draws from it: made, told, saved, loaded."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_ext.algorithms.inputs import build_part, plain_config, resolve_config
from sb3_ext.replay.buffers import SamplerReplayBuffer, plain_buffer
from sb3_ext.replay.compact import CompactReplayBuffer
from sb3_ext.replay.sampler import Sampler, SamplerConfig
from sb3_ext.replay.storage import Replay
from sb3_ext.signatures import constructor_arguments

#: Attribute of a saved replay buffer.
SAMPLER_STATE = "sb3_ext_sampler"
HINDSIGHT = (
    "HerReplayBuffer relabels goals while it samples, so which transitions are newest and what "
    "they weigh is not known before; replay= and weighting= do not combine with it. Drop "
    "HerReplayBuffer, or replay= and weighting="
)


class _Told:
    """Up to where the sampler knows the buffer; its writes are not counted anywhere.

    One row of it is remembered, the newest: other bytes there say that the ring has come round.
    """

    # Made at every step of the environment, so without a dataclass's ceremony.
    __slots__ = ("arrays", "buffer", "full", "newest", "pos")
    arrays: list[np.ndarray]

    def __init__(self, buffer: ReplayBuffer, before: _Told | None) -> None:
        self.buffer, self.pos, self.full = buffer, buffer.pos, buffer.full
        known = before is not None and before.buffer is buffer
        self.arrays = before.arrays if known and before is not None else _arrays(buffer)
        self.newest = self._newest() if self.full or self.pos else None

    def rows_since(self) -> int | None:
        """How many rows were written since, from ``pos`` on; None if that may be all of them."""
        buffer = self.buffer
        rows: int = (buffer.pos - self.pos) % buffer.buffer_size
        emptied = not buffer.full and (self.full or buffer.pos < self.pos)
        # One row is what training writes; more, by hand, may have come round several times.
        came_round = buffer.full and not self.full and (rows != 1 or self.newest is None)
        if emptied or came_round or (self.newest is not None and self._newest() != self.newest):
            return None
        return rows

    def _newest(self) -> list[bytes]:
        row = self.pos - 1
        return [array[row].tobytes() for array in self.arrays]


def _arrays(buffer: ReplayBuffer) -> list[np.ndarray]:
    """All that a row holds, but for what the next one shares with it to save memory."""
    parts: Any = (buffer.observations, buffer.actions, buffer.rewards, buffer.dones)
    return [
        array for part in parts for array in (part.values() if isinstance(part, dict) else (part,))
    ]


class Sampling(OffPolicyAlgorithm):
    """An algorithm whose sampler knows what its replay buffer holds, whoever wrote it."""

    replay: Any
    sampler: Sampler | None
    told: _Told | None

    @property
    def replay_view(self) -> Replay:
        """The replay buffer as the loop, the sampler and the weighting see it."""
        if self.replay_buffer is None:
            raise ValueError(f"{type(self).__name__} has no replay buffer yet: set it up first")
        return Replay(self.replay_buffer, self._vec_normalize_env, self.sampler)

    def sampler_config(self) -> SamplerConfig | None:
        """The sampler's config, from the model's plain attributes."""
        config: SamplerConfig | None = resolve_config("sampler", self.replay)
        return config

    def weighting_config(self) -> Any:
        """The weighting's config; a base has one, and LFIW's algorithms make it of arguments."""
        return None

    def prepare_buffer(self) -> None:
        """Before SB3 makes the buffer: open its own door, and heed ``n_steps`` in any class.

        :raises ValueError: for a class of the user's that makes no n-step returns
        """
        chosen = self.replay_buffer_class
        given = self.__dict__.pop("replay_given", False)
        if chosen is not None and not isinstance(chosen, type):
            raise TypeError(
                f"replay_buffer_class= takes a class, got {chosen!r}; a sampler by its name is "
                "replay='per'"
            )
        if chosen is not None and not issubclass(chosen, ReplayBuffer):
            config = callable(getattr(chosen, "build", None))
            hint = f"; give it as replay={chosen.__name__}(...)" if config else ""
            raise TypeError(
                f"replay_buffer_class= takes a subclass of stable_baselines3's ReplayBuffer, got "
                f"{chosen.__name__}{hint}"
            )
        if chosen is not None and issubclass(chosen, SamplerReplayBuffer):
            config, self.replay_buffer_kwargs = chosen.split(self.replay_buffer_kwargs)
            self.replay_buffer_class = None
            if not given:
                self.replay = plain_config(config)
        elif chosen in (ReplayBuffer, DictReplayBuffer):
            self.replay_buffer_class = None  # SB3 knows best which of its own it takes
        elif self.n_steps > 1 and chosen is not None:
            # The compact one makes its variant by itself.
            if chosen is not CompactReplayBuffer and not issubclass(chosen, NStepReplayBuffer):
                raise ValueError(
                    f"n_steps={self.n_steps} needs a replay buffer that sums rewards, and "
                    f"{chosen.__name__} is no subclass of stable_baselines3's NStepReplayBuffer: "
                    "inherit from that, or leave n_steps at 1"
                )
            steps = {"n_steps": self.n_steps, "gamma": self.gamma}
            self.replay_buffer_kwargs = {**self.replay_buffer_kwargs, **steps}
        options: Any = self.sampler_config()
        names = [one.name for one in fields(options)] if is_dataclass(options) else []
        if stray := sorted(set(names) & set(self.replay_buffer_kwargs)):
            raise TypeError(
                f"{', '.join(stray)} in replay_buffer_kwargs is for the sampler: write it into "
                f"replay=, as an option of {type(options).__name__}"
            )
        if self.replay_buffer_class is None and self.n_steps == 1:
            for name in sorted({"n_steps", "gamma"} & set(self.replay_buffer_kwargs)):
                raise TypeError(
                    f"replay_buffer_kwargs got {name!r}, which is an argument of "
                    f"{type(self).__name__} itself: give {name}= beside it"
                )
        known = constructor_arguments(NStepReplayBuffer)
        of_sb3 = self.replay_buffer_class is None or stores_only(self.replay_buffer_class)
        if of_sb3 and (stray := [name for name in self.replay_buffer_kwargs if name not in known]):
            raise TypeError(
                f"replay_buffer_kwargs got {stray[0]!r}, which SB3's replay buffer does not take; "
                "a sampler's options go into replay=, as in replay={'name': 'per', 'alpha': 0.7}"
            )

    def make_sampler(self) -> None:
        """Make the sampler for the buffer that is there."""
        self._refuse_hindsight()
        config = self.sampler_config()
        self.sampler = build_part(config, Sampler, self)
        fitted = None if self.sampler is None else self.sampler.fitted()
        if fitted is not None:
            self.replay = plain_config(fitted)
        self.mark_told()

    def mark_told(self) -> None:
        """The sampler knows all that the buffer holds now."""
        buffer = self.replay_buffer
        self.told = None if buffer is None or self.sampler is None else _Told(buffer, self.told)

    def tell_sampler(self) -> None:
        """Tell it what was written since it was last told: by ``learn``, or by the user.

        A buffer that was filled by hand (demonstrations) is thus drawn from like any other, and
        one that was put in the place of another is looked at anew.
        """
        buffer = self.replay_buffer
        if self.sampler is None or buffer is None:
            return
        told = self.told
        rows = told.rows_since() if told is not None and told.buffer is buffer else None
        if told is None or rows is None:
            self._adopt(None, "the replay buffer of the model")
        elif rows:
            first, n_envs = told.pos, buffer.n_envs
            indices = np.arange(first * n_envs, (first + rows) * n_envs)
            if first + rows > buffer.buffer_size:  # over the end of the ring
                indices %= buffer.buffer_size * n_envs
            self.sampler.added(indices)
            self.mark_told()

    def load_replay_buffer(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        truncate_last_traj: bool = True,
    ) -> None:
        """As in SB3; a buffer of other shapes is refused.

        A sampler goes on with what it knew when the buffer was saved; if that was with another
        sampler or none, it is told what the buffer holds.
        """
        before, replay, sampler = self.replay_buffer, self.replay, self.sampler
        try:
            super().load_replay_buffer(path, truncate_last_traj)
            self._adopt(before, str(getattr(path, "name", path)))
        except BaseException:
            self.replay_buffer, self.replay, self.sampler = before, replay, sampler
            raise

    def save_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """As in SB3; a sampler's state goes with it, and stock SB3 can still load the file."""
        buffer = self.replay_buffer
        if self.sampler is None or buffer is None:
            super().save_replay_buffer(path)
            return
        setattr(buffer, SAMPLER_STATE, self.sampler_state())
        try:
            super().save_replay_buffer(path)
        finally:
            delattr(buffer, SAMPLER_STATE)

    def sampler_state(self) -> dict[str, Any] | None:
        """All that the sampler knows, and of which state of the buffer; None without a sampler."""
        self.tell_sampler()
        buffer = self.replay_buffer
        if self.sampler is None or buffer is None:
            return None
        return {
            "made_by": _names(self.replay),
            "state": self.sampler.state_dict(),
            "at": (buffer.pos, buffer.full),
        }

    def restore_sampler(self, saved: Mapping[str, Any] | None) -> bool:
        """Let a new sampler go on with what ``sampler_state`` gave.

        :return: whether it could; what is of another sampler, or of a buffer that was written on
            since, is left, and the sampler is told what the buffer holds
        """
        buffer = self.replay_buffer
        if self.sampler is None or buffer is None:
            return saved is None
        fits = (
            saved is not None
            and saved["made_by"] == _names(self.replay)
            and tuple(saved["at"]) == (buffer.pos, buffer.full)
        )
        if saved is not None and fits and saved["state"]:
            self.sampler.load_state_dict(saved["state"])
        else:  # also one that keeps no state, and may still ask what there is
            self.sampler.added(self.replay_view.window.indices())
        self.mark_told()
        return fits

    # -- the parts ---------------------------------------------------------------------------

    def _adopt(self, before: ReplayBuffer | None, path: str) -> None:
        """Check a buffer that came from elsewhere, and make a sampler for it."""
        found = self.replay_buffer
        if not isinstance(found, ReplayBuffer):
            raise ValueError(f"{path} holds a {type(found).__name__}, no replay buffer")
        self._require_shape(found, before, path)
        saved = found.__dict__.pop(SAMPLER_STATE, None)
        # A buffer that draws by itself would do so beside our clock, and our weights.
        self.replay_buffer = found = plain_buffer(found)
        self.make_sampler()
        self.restore_sampler(saved)

    def _require_shape(self, found: ReplayBuffer, before: ReplayBuffer | None, path: str) -> None:
        if hasattr(found, "sample_windows"):
            raise ValueError(
                f"{path} holds a {type(found).__name__}, from which windows of consecutive steps "
                f"are drawn, and {type(self).__name__} learns from single transitions: load a "
                "buffer of an algorithm that stores these"
            )
        n_envs = self.n_envs if before is None else before.n_envs
        if found.n_envs != n_envs:
            raise ValueError(
                f"{path} holds transitions of {found.n_envs} environments, "
                f"and this model has {n_envs}: load the model with an env of "
                f"{found.n_envs} environments"
            )
        for name in ("observation_space", "action_space"):
            held, wanted = getattr(found, name), getattr(self, name)
            if held != wanted:
                raise ValueError(
                    f"{path} holds transitions with {name} {held}, and this model has {wanted}"
                )
        held, wanted = getattr(found, "n_steps", 1), getattr(before, "n_steps", 1)
        if before is not None and held != wanted:
            raise ValueError(
                f"{path} sums rewards over n_steps={held}, and this model over n_steps={wanted}: "
                f"make the model with n_steps={held}"
            )

    def _refuse_hindsight(self) -> None:
        if isinstance(self.replay_buffer, HerReplayBuffer) and (
            self.sampler_config() is not None or self.weighting_config() is not None
        ):
            raise ValueError(HINDSIGHT)


def stores_only(buffer_class: Any) -> bool:
    """Whether a replay buffer class leaves it to others which transitions are drawn."""
    return isinstance(buffer_class, type) and issubclass(buffer_class, CompactReplayBuffer)


def _names(replay: Any) -> Any:
    """Which samplers stand within which: ``("ere", ("per", None))``."""
    if not isinstance(replay, Mapping):
        return None if replay is None else type(replay).__name__
    return replay["name"], _names(replay.get("inner"))
