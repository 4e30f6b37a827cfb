"""What bases with a paid entropy share: SAC, TQC and CrossQ."""

from __future__ import annotations

from typing import Any

import torch as th
from torch import Tensor

from sb3_ext.algorithms.composable import Composable
from sb3_ext.algorithms.networks import descend


class MaximumEntropy(Composable):
    """The entropy coefficient alpha, fixed or learned (Haarnoja et al. 2018b, section 5)."""

    actor: Any
    log_ent_coef: Tensor | None
    ent_coef_tensor: Tensor
    ent_coef_optimizer: th.optim.Adam | None
    target_entropy: float | str

    def optimizers(self) -> list[th.optim.Optimizer]:
        """Actor's, critic's and, if the entropy coefficient is learned, its own."""
        learned = [] if self.ent_coef_optimizer is None else [self.ent_coef_optimizer]
        return [self.actor.optimizer, self.critic.optimizer, *learned]

    def entropy_coefficient(self) -> Tensor:
        """alpha, the reward's price of one nat of entropy; without gradient."""
        if self.log_ent_coef is None:
            return self.ent_coef_tensor
        return self.log_ent_coef.detach().exp()

    def learn_entropy_coefficient(self, log_prob: Tensor) -> dict[str, Tensor]:
        """Step alpha towards the one that gives the target entropy, unless it is fixed.

        :param log_prob: ``[B, 1]``, of the policy's own actions
        :return: what there is to log
        """
        if self.ent_coef_optimizer is None or self.log_ent_coef is None:
            return {}
        surplus = (log_prob + float(self.target_entropy)).detach()
        loss = -(self.log_ent_coef * surplus).mean()
        descend(loss, self.ent_coef_optimizer)
        return {"ent_coef_loss": loss}
