"""Networks of ACER: SB3's actor-critic policies with action values, and their slow average."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN, create_mlp
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from sb3_ext.plugins.acer.equations import stochastic_dueling
from sb3_ext.plugins.acer.statistics import Statistics, statistics_of
from sb3_ext.td import polyak_step


def _may_differ_in_training(module: nn.Module) -> bool:
    """Whether a module has batch statistics, dropout, or is of somebody's own making."""
    home = type(module).__module__
    known = home.startswith(("torch.nn.", "stable_baselines3.", "sb3_ext.plugins.acer."))
    return not known or home.rpartition(".")[2] in ("batchnorm", "dropout", "instancenorm")


class ACERPolicy(ActorCriticPolicy):
    """An actor, a critic of actions, and an average of the actor that follows slowly.

    For Discrete actions the critic's head has a value for each. For others there is a value of the
    state, and a network of the action's advantage beside it (a dueling network).

    Box actions are drawn around a mean and with a standard deviation that stays: in [-1, 1] where
    ACER itself asks (``heads``, ``behave``), and in the environment's units where SB3's methods
    answer (``forward``, ``get_distribution``, ``evaluate_actions``), as SB3's own policies do.

    :param args: as in SB3's ``ActorCriticPolicy``
    :param action_std: standard deviation of Box actions
    :param advantage_net_arch: hidden layers of the advantage
    :param kwargs: as in SB3's ``ActorCriticPolicy``; without gSDE
    """

    statistics: Statistics
    middle: Tensor
    half_range: Tensor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *args: Any,
        action_std: float = 0.3,
        advantage_net_arch: Sequence[int] = (64,),
        **kwargs: Any,
    ) -> None:
        if "use_sde" in kwargs:  # A2C and PPO hand it to any policy; ACER never does
            raise TypeError(
                "ACERPolicy learns by ACER alone, and got use_sde, as SB3's A2C and PPO pass it: "
                "load a zip of ACER's with sb3_ext.ACER.load, and give other algorithms a policy "
                "of their own"
            )
        self.action_std = action_std
        self.advantage_net_arch = list(advantage_net_arch)
        super().__init__(observation_space, action_space, lr_schedule, *args, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        own = {"action_std": self.action_std, "advantage_net_arch": self.advantage_net_arch}
        sde = ("use_sde", "log_std_init", "squash_output", "full_std", "use_expln")
        stock = super()._get_constructor_parameters()
        return {**{name: one for name, one in stock.items() if name not in sde}, **own}

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self.statistics = statistics_of(self.action_space, self.action_std)
        latent = self.mlp_extractor.latent_dim_vf
        self.advantage_net: nn.Module | None = None
        if isinstance(self.action_space, spaces.Discrete):
            self.value_net = nn.Linear(latent, self.statistics.outputs)
        else:
            size = latent + self.statistics.inputs
            layers = create_mlp(size, 1, self.advantage_net_arch, self.activation_fn)
            self.advantage_net = nn.Sequential(*layers)
        if isinstance(self.action_space, spaces.Box):
            del self.log_std  # SB3 learns it; here it stays
            low, high = (
                th.as_tensor(one.reshape(-1), dtype=th.float32)
                for one in (self.action_space.low, self.action_space.high)
            )
            # What [-1, 1] is in the environment's units; a dimension without width keeps sigma.
            self.register_buffer("middle", (low + high) / 2, persistent=False)
            half = th.where(high > low, (high - low) / 2, 1.0)
            self.register_buffer("half_range", half, persistent=False)
        for net in (self.value_net, self.advantage_net):
            if self.ortho_init and net is not None:
                net.apply(self.init_weights)
        self.average = nn.ModuleList(copy.deepcopy(self._actor())).requires_grad_(False)
        # Listed once: each update asks, and walking through modules is slow beside a small one.
        online = [one for part in self._actor() for one in part.parameters()]
        self.followed = (tuple(online), tuple(self.average.parameters()))
        self.modes_differ = any(map(_may_differ_in_training, self.modules()))
        learned = [one for one in self.parameters() if one.requires_grad]
        self.optimizer = self.optimizer_class(  # type: ignore[call-arg]
            learned, lr=lr_schedule(1), **self.optimizer_kwargs
        )

    # -- the actor and its average -----------------------------------------------------------

    def _actor(self) -> list[nn.Module]:
        """What its outputs come from."""
        return [self.pi_features_extractor, self.mlp_extractor.policy_net, self.action_net]

    def follow(self, decay: float) -> None:
        """``average <- decay * average + (1 - decay) * actor``; running statistics are copied."""
        polyak_step(*self.followed, 1 - decay)
        for part, slow in zip(self._actor(), self.average, strict=True):
            for one, other in zip(part.buffers(), slow.buffers(), strict=True):
                other.copy_(one)

    def heads(self, obs: PyTorchObs) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs of the actor, outputs of its average, and the critic's latent code.

        :param obs: ``[N, ...]``
        """
        seen = self._seen(obs)
        features = self.pi_features_extractor(seen)
        outputs = self.action_net(self.mlp_extractor.forward_actor(features))
        with th.no_grad():
            extractor, hidden, last = self.average
            slow = last(hidden(extractor(seen)))
        if not self.share_features_extractor:
            features = self.vf_features_extractor(seen)
        return outputs, slow, self.mlp_extractor.forward_critic(features)

    def _seen(self, obs: PyTorchObs) -> PyTorchObs:
        return preprocess_obs(obs, self.observation_space, normalize_images=self.normalize_images)

    # -- values ------------------------------------------------------------------------------

    def advantages(self, latent: Tensor, actions: Tensor) -> Tensor:
        """``A(x, a)`` for several actions of each state.

        :param latent: ``[N, L]``
        :param actions: ``[n, N, D]``
        :return: ``[n, N]``
        """
        assert self.advantage_net is not None
        n, size = actions.shape[:2]
        encoded = self.statistics.encode(actions.flatten(0, 1)).reshape(n, size, -1)
        pairs = th.cat([latent.expand(n, *latent.shape), encoded], dim=2)
        values: Tensor = self.advantage_net(pairs)
        return values.squeeze(2)

    def predict_values(self, obs: PyTorchObs) -> Tensor:
        """``V(x)``, ``[N, 1]``; of Discrete actions the mean of Q under the policy."""
        seen = self._seen(obs)
        features = self.vf_features_extractor(seen)
        latent = self.mlp_extractor.forward_critic(features)
        if self.advantage_net is not None:
            return self._values(None, latent)
        if not self.share_features_extractor:
            features = self.pi_features_extractor(seen)
        return self._values(self.action_net(self.mlp_extractor.forward_actor(features)), latent)

    def _values(self, outputs: Tensor | None, latent: Tensor) -> Tensor:
        """:param outputs: of the actor, which Discrete actions need"""
        values: Tensor = self.value_net(latent)
        if self.advantage_net is not None or outputs is None:
            return values
        return (outputs.softmax(dim=1) * values).sum(dim=1, keepdim=True)

    def dueling(self, latent: Tensor, actions: Tensor, sampled: Tensor) -> tuple[Tensor, Tensor]:
        """The stochastic dueling network (equation 13 of the paper).

        :param latent: ``[N, L]``
        :param actions: ``[n, N, D]``, whose values are asked for
        :param sampled: ``[m, N, D]`` of the policy; without any, plain ``V + A``
        :return: the values ``[n, N]``, and ``V(x)``, ``[N]``
        """
        value = self.value_net(latent).squeeze(1)
        n = len(actions)
        found = self.advantages(latent, th.cat([actions, sampled]))
        if not len(sampled):
            return value + found, value
        values = [stochastic_dueling(value, one, found[n:]) for one in found[:n]]
        return th.stack(values), value

    # -- acting ------------------------------------------------------------------------------

    def behave(self, obs: PyTorchObs, deterministic: bool = False) -> tuple[Tensor, Tensor]:
        """Actions ``[N, D]`` as they were drawn, and the parameters of what drew them."""
        features = self.pi_features_extractor(self._seen(obs))
        outputs = self.action_net(self.mlp_extractor.forward_actor(features))
        parameters = self.statistics.parameters(outputs)
        if deterministic:
            return self.statistics.mode(parameters), parameters
        return self.statistics.sample(parameters)[0], parameters

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        actions, _ = self.behave(observation, deterministic)
        return self._in_units(actions).reshape(-1, *(self.action_space.shape or ()))

    def _in_units(self, actions: Tensor) -> Tensor:
        """From [-1, 1] to the environment's units; SB3's ``predict`` clips them to the bounds."""
        if not isinstance(self.action_space, spaces.Box):
            return actions
        return self.middle + self.half_range * actions

    # -- as SB3's users ask --------------------------------------------------------------------

    def forward(
        self, obs: PyTorchObs, deterministic: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As in SB3: actions as they were drawn, ``V(x)`` ``[N, 1]``, and log probabilities."""
        distribution, values = self._asked(obs)
        actions = distribution.get_actions(deterministic=deterministic)
        log_prob = distribution.log_prob(actions)
        return actions.reshape(-1, *(self.action_space.shape or ())), values, log_prob

    def evaluate_actions(
        self, obs: PyTorchObs, actions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """As in SB3: ``V(x)`` ``[N, 1]``, log probabilities, and entropies.

        :param actions: ``[N, ...]``, of a Box in the environment's units
        """
        distribution, values = self._asked(obs)
        flat = actions.reshape(len(actions), -1)
        if isinstance(self.action_space, spaces.Discrete):
            flat = flat.squeeze(1)
        return values, distribution.log_prob(flat), distribution.entropy()

    def _asked(self, obs: PyTorchObs) -> tuple[Distribution, Tensor]:
        seen = self._seen(obs)
        features = self.pi_features_extractor(seen)
        outputs = self.action_net(self.mlp_extractor.forward_actor(features))
        if not self.share_features_extractor:
            features = self.vf_features_extractor(seen)
        values = self._values(outputs, self.mlp_extractor.forward_critic(features))
        return self._distribution(outputs), values

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> Distribution:
        return self._distribution(self.action_net(latent_pi))

    def _distribution(self, outputs: Tensor) -> Distribution:
        made: Any = self.action_dist
        if isinstance(self.action_space, spaces.Box):
            log_std = (self.action_std * self.half_range).log()
            made = made.proba_distribution(self._in_units(outputs), log_std)
        else:
            made = made.proba_distribution(action_logits=outputs)
        return made  # type: ignore[no-any-return]


class CnnPolicy(ACERPolicy):
    """For images."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("features_extractor_class", NatureCNN)
        super().__init__(*args, **kwargs)


class MultiInputPolicy(ACERPolicy):
    """For Dict observations."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("features_extractor_class", CombinedExtractor)
        super().__init__(*args, **kwargs)
