"""Which engine a model gets: what ``engine=`` takes, and what is said when it does not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sb3_ext.engines.products import Products
from sb3_ext.errors import EngineError

if TYPE_CHECKING:
    from sb3_ext.algorithms.composable import Composable
    from sb3_ext.engines.actor_critic import FusedStep

ENGINES = ("auto", "reference", "fused", "fused_bf16", "compiled")


def require_engine(engine: Any) -> None:
    """Refuse what is no engine's name.

    :raises ValueError: with those that there are
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(map(repr, ENGINES))}, got {engine!r}")


class Engine:
    """The engine of one model: the fast step while it fits, or the base's own.

    :param algorithm: its policy is made
    :raises ValueError: if a fast engine was asked for by name and does not fit
    """

    def __init__(self, algorithm: Composable) -> None:
        require_engine(algorithm.engine)
        self.algorithm = algorithm
        self.asked = algorithm.engine
        self._told: set[str] = set()
        #: How whoever stands beside the step, such as a weighting, may multiply; None: plainly.
        self.products: Products | None = None
        if self.asked == "auto" and algorithm.device.type != "cpu":
            self._decline(f"on {algorithm.device.type} the fast one has not been measured")
        elif self.asked == "compiled":
            # Here, since importing it makes an operation known to torch.
            from sb3_ext.engines.compiled import CompiledProducts

            self.products = CompiledProducts()
        elif self.asked != "reference":
            self.products = Products(bf16=self.asked == "fused_bf16")
        self.fused = self._made()
        if self.asked == "compiled" and algorithm.verbose >= 1:
            print("engine='compiled': the first updates wait some seconds for torch.compile")

    def ready(self) -> FusedStep | None:
        """The fast step, its memory in order; None where the base's own step is to be taken.

        :raises ValueError: if a fast engine was asked for by name and does not fit any more
        """
        if self.fused is None:
            return None
        try:
            if not self.fused.ready():  # a network was replaced
                self.fused = self._made()
                if self.fused is not None and not self.fused.ready():
                    raise EngineError("its networks are not those that it learns")
        except EngineError as why:
            # Asked again at the next update: a hook may be gone by then.
            self._decline(str(why))
            return None
        return self.fused

    def _made(self) -> FusedStep | None:
        of = self.algorithm
        if self.products is None:
            return None
        try:
            made = of.fused_step(self.products)
            if made is not None:
                self.products.prepare(made)
        except EngineError as why:
            self._decline(str(why))
            return None
        if made is None and self.asked != "auto":
            self._decline(f"{type(of).__name__} has no fast step")
        return made

    def _decline(self, why: str) -> None:
        if self.asked != "auto":
            raise ValueError(
                f"engine={self.asked!r} does not fit this {type(self.algorithm).__name__}: {why}. "
                "With engine='auto' it would take the reference engine instead"
            )
        if self.algorithm.verbose >= 1 and why not in self._told:
            print(f"engine='auto' takes the reference engine: {why}")
        self._told.add(why)
