"""The options of ERE, as users write them and as they are saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sb3_ext.algorithms.composable import Composable
from sb3_ext.algorithms.inputs import build_part, plain_config, resolve_config
from sb3_ext.options import INTEGER, Law, between, check_options, is_integer, maybe, one_of
from sb3_ext.plugins.ere.sampler import RecentSampler
from sb3_ext.replay.sampler import Sampler, SamplerConfig

C_MIN = 5000
"""The smallest window, of the paper."""


@dataclass(frozen=True)
class EmphasizeRecent:
    """Draws the more from the newest transitions the later in a round (Wang and Ross 2019).

    :param eta: in (0, 1]; the smaller, the more recent; 1 is uniform (paper: 0.996)
    :param eta_end: what ``eta`` moves to over the training, linearly (paper: 1); None leaves it
    :param c_min: the smallest window, in transitions; None for the paper's 5000, or a twentieth of
        a replay buffer that is smaller than 100,000
    :param cycle: what a round of updates is. ``"auto"``: one call of ``train`` where that does 16
        updates or more (the paper's, as with ``train_freq=(1, "episode")``), and else a virtual
        round as long as the mean of the last episodes; ``"round"``: always one call of ``train``;
        an integer >= 2: so many updates; ``"age"``: no rounds, each draw has a window of its own,
        which gives the same law
    :param size: N of the paper: ``"capacity"`` of the buffer (as the authors' code has it: early in
        training most windows hold all there is), or its ``"current"`` size
    :param inner: who draws within the window: another sampler's config, name (``"per"``) or
        mapping; None draws uniformly
    """

    eta: float = 0.996
    eta_end: float | None = None
    c_min: int | None = None
    cycle: str | int = "auto"
    size: str = "capacity"
    inner: SamplerConfig | Mapping[str, Any] | str | None = None

    def __post_init__(self) -> None:
        check_options(self, _LAWS)
        # Kept as plain values, so that the whole can be saved and written to a YAML.
        object.__setattr__(
            self, "inner", plain_config(resolve_config("sampler", self.inner, "inner"))
        )
        if isinstance(self.inner, Mapping) and self.inner.get("name") == "ere":
            raise ValueError("EmphasizeRecent: inner must be another sampler than ERE itself")

    @property
    def critic_loss(self) -> Any:
        """The loss that the inner sampler is defined with, if any."""
        return getattr(resolve_config("sampler", self.inner, "inner"), "critic_loss", None)

    def fitted_to(self, capacity: int) -> EmphasizeRecent:
        """The options for a replay buffer.

        :param capacity: how many transitions it has room for
        :return: the same, with a number for ``c_min``
        :raises ValueError: if a chosen ``c_min`` is more than there is room for
        """
        c_min = max(min(C_MIN, capacity // 20), 1) if self.c_min is None else self.c_min
        if c_min > capacity:
            raise ValueError(
                f"c_min must not be more than the replay buffer holds, got c_min={c_min} and room "
                f"for {capacity} transitions: lower c_min or raise buffer_size"
            )
        return replace(self, c_min=c_min)

    def build(self, algorithm: Composable) -> RecentSampler:
        """The living part."""
        window = algorithm.replay_view.buffer
        config = self.fitted_to(window.buffer_size * window.n_envs)
        inner = build_part(resolve_config("sampler", self.inner, "inner"), Sampler, algorithm)
        sampler = RecentSampler(config, inner, seed=algorithm.seed, buffer=window)
        fitted = None if inner is None else inner.fitted()
        if fitted is not None:
            sampler.own_fitted = replace(self, inner=fitted)
        return sampler


_LAWS: dict[str, Law] = {
    "eta": between(0, 1, low_open=True),
    "eta_end": maybe(between(0, 1, low_open=True)),
    "c_min": maybe(INTEGER),
    "cycle": (
        lambda value: value in ("auto", "round", "age") or (is_integer(value) and value > 1),
        "'auto', 'round', 'age' or an integer >= 2 (a round of one update sees all, always)",
    ),
    "size": one_of("capacity", "current"),
}
