"""The networks of continuous BCQ: generative model, perturbation, and the policy around them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel, BasePolicy, ContinuousCritic
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
    create_mlp,
)
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from sb3_ext.options import is_integer
from sb3_ext.plugins.bcq.equations import perturbed

#: Widths of the hidden layers by name. "paper" is the authors' code; "small" is ours, for a CPU.
NET_ARCHS: dict[str, dict[str, list[int]]] = {
    "paper": {"pi": [400, 300], "qf": [400, 300], "vae": [750, 750]},
    "small": {"pi": [256, 256], "qf": [256, 256], "vae": [256, 256]},
}
#: Candidates that are evaluated at once: 512 of 750 numbers are 1.5 MB.
ROWS_AT_ONCE = 512
#: Where latents are clipped when actions are sampled.
LATENT_BOUND = 0.5
#: Bounds of the encoder's log standard deviation.
LOG_STD_BOUNDS = (-4.0, 15.0)


def write_over(network: nn.Module) -> None:
    """Let ReLUs write over what the layer before them made; nobody else needs that.

    With a thousand candidates a batch this takes some per cent off the update, and changes no bit.
    """
    for layer in network.modules():
        if type(layer) is nn.ReLU:
            layer.inplace = True


def features_of(network: BaseModel, observations: PyTorchObs) -> Tensor:
    """What a network's own extractor makes of observations, ``[B, F]``."""
    extractor: Any = network.features_extractor
    return network.extract_features(observations, extractor)


class GenerativeModel(BaseModel):
    """The conditional variational autoencoder ``G_omega`` of the data's actions.

    :param net_arch: widths of encoder and decoder each
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            features_extractor=features_extractor,
            normalize_images=normalize_images,
        )
        self.action_dim = get_action_dim(action_space)
        self.latent_dim = 2 * self.action_dim
        encoder = create_mlp(features_dim + self.action_dim, 0, net_arch, activation_fn)
        self.encoder = nn.Sequential(*encoder)
        width = net_arch[-1] if net_arch else features_dim + self.action_dim
        self.mean = nn.Linear(width, self.latent_dim)
        self.log_std = nn.Linear(width, self.latent_dim)
        decoder = create_mlp(
            features_dim + self.latent_dim,
            self.action_dim,
            net_arch,
            activation_fn,
            squash_output=True,
        )
        self.decoder = nn.Sequential(*decoder)

    def encode(self, features: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of the latent, ``[B, J]`` each."""
        hidden = self.encoder(th.cat([features, actions], dim=1))
        return self.mean(hidden), self.log_std(hidden).clamp(*LOG_STD_BOUNDS)

    def decode(self, features: Tensor, latents: Tensor) -> Tensor:
        """Actions in [-1, 1], ``[B, A]``."""
        actions: Tensor = self.decoder(th.cat([features, latents], dim=1))
        return actions

    def sample_latents(self, count: int, generator: th.Generator | None = None) -> Tensor:
        """Clipped standard normal latents ``[count, J]``.

        Clipped, not drawn anew: six of ten lie on the bound.
        """
        shape = (count, self.latent_dim)
        device = self.device if generator is None else generator.device
        latents = th.randn(shape, generator=generator, device=device)
        return latents.clamp_(-LATENT_BOUND, LATENT_BOUND).to(self.device)


class Perturbation(BaseModel):
    """``xi_phi``: moves an action by at most ``phi`` in each dimension."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        phi: float,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            features_extractor=features_extractor,
            normalize_images=normalize_images,
        )
        self.phi = phi
        action_dim = get_action_dim(action_space)
        layers = create_mlp(
            features_dim + action_dim, action_dim, net_arch, activation_fn, squash_output=True
        )
        self.direction = nn.Sequential(*layers)

    def forward(self, features: Tensor, actions: Tensor) -> Tensor:
        """The perturbed actions ``[B, A]``."""
        direction = self.direction(th.cat([features, actions], dim=1))
        return perturbed(actions, direction, self.phi)


class BCQPolicy(BasePolicy):
    """Generative model, perturbation (``actor``) and two critics, each with its own features.

    :param net_arch: ``"paper"`` (None), ``"small"``, one list of widths for all networks, or a
        mapping with ``pi``, ``qf`` and ``vae``
    :param phi: see :class:`~sb3_ext.BCQ`
    :param n_eval_actions: see :class:`~sb3_ext.BCQ`
    """

    default_extractor: ClassVar[type[BaseFeaturesExtractor]] = FlattenExtractor
    actor: Perturbation
    actor_target: Perturbation
    critic: ContinuousCritic
    critic_target: ContinuousCritic
    vae: GenerativeModel

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: str | list[int] | Mapping[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        phi: float = 0.05,
        n_eval_actions: int = 100,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class or self.default_extractor,
            features_extractor_kwargs,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            normalize_images=normalize_images,
            squash_output=True,
        )
        self.net_arch = net_arch
        self.widths = resolve_net_arch(net_arch)
        self.activation_fn = activation_fn
        self.phi, self.n_eval_actions = phi, n_eval_actions
        self._latents: Tensor | None = None
        self._build(lr_schedule)

    def _build(self, lr_schedule: Schedule) -> None:
        self.vae = self._made(GenerativeModel, "vae")
        self.actor = self._made(Perturbation, "pi", phi=self.phi)
        self.actor_target = self._made(Perturbation, "pi", phi=self.phi)
        self.critic = self._made(ContinuousCritic, "qf", share_features_extractor=False)
        self.critic_target = self._made(ContinuousCritic, "qf", share_features_extractor=False)
        self.actor_target.load_state_dict(self.actor.state_dict())
        self.critic_target.load_state_dict(self.critic.state_dict())
        options = with_one_pass(self.optimizer_class, self.optimizer_kwargs)
        for network in (self.vae, self.actor, self.critic):
            network.optimizer = self.optimizer_class(
                network.parameters(), **{"lr": lr_schedule(1), **options}
            )
        targets = (self.actor_target, self.critic_target)
        for network in (self.vae, self.actor, self.critic, *targets):
            for name, part in network.named_children():
                if name != "features_extractor":  # which may be a user's
                    write_over(part)
        self.actor_target.set_training_mode(False)
        self.critic_target.set_training_mode(False)

    def _made(self, cls: Any, part: str, **options: Any) -> Any:
        shared = {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "activation_fn": self.activation_fn,
            "normalize_images": self.normalize_images,
            "net_arch": self.widths[part],
            **options,
        }
        return cls(**self._update_features_extractor(shared, None)).to(self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(
            net_arch=self.net_arch,
            activation_fn=self.activation_fn,
            lr_schedule=self._dummy_schedule,
            optimizer_class=self.optimizer_class,
            optimizer_kwargs=self.optimizer_kwargs,
            features_extractor_class=self.features_extractor_class,
            features_extractor_kwargs=self.features_extractor_kwargs,
            phi=self.phi,
            n_eval_actions=self.n_eval_actions,
        )
        return data

    def candidates(
        self,
        observations: PyTorchObs,
        n: int,
        latents: Tensor,
        perturbation: Perturbation,
        critic: ContinuousCritic | None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """``n`` perturbed samples of the generative model for each state, in parts.

        The features of a state are computed once. On a CPU, parts are so small that they stay in a
        core's cache.

        :param latents: ``[B * n, J]``
        :param critic: what will judge them; None for nothing
        :return: for some of the states after the other, actions ``[b * n, A]``, those of one state
            together, and what the critic's networks take, ``[b * n, F + A]``
        """
        features = features_of(self.vae, observations)
        at_once = max(1, ROWS_AT_ONCE // n) if features.device.type == "cpu" else len(features)
        proposed = features.split(at_once)
        judged = proposed if critic is None else features_of(critic, observations).split(at_once)
        moved = features_of(perturbation, observations).split(at_once) if self.phi else proposed
        for proposing, moving, judging, drawn in zip(
            proposed, moved, judged, latents.split(at_once * n), strict=True
        ):
            actions = self.vae.decode(proposing.repeat_interleave(n, dim=0), drawn)
            if self.phi:
                actions = perturbation(moving.repeat_interleave(n, dim=0), actions)
            yield actions, th.cat([judging.repeat_interleave(n, dim=0), actions], dim=1)

    def forward(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        """The action of each state, in [-1, 1]."""
        return self._predict(observation, deterministic=deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        """The best of ``n_eval_actions`` candidates by Q1.

        ``deterministic`` uses the same latents at all times and for all states.
        """
        n = self.n_eval_actions
        first = next(iter(observation.values())) if isinstance(observation, dict) else observation
        batch = len(first)
        if deterministic:
            latents = self._fixed_latents().repeat(batch, 1)
        else:
            latents = self.vae.sample_latents(batch * n)
        chosen = []
        critic = self.critic if n > 1 else None
        for actions, pairs in self.candidates(observation, n, latents, self.actor, critic):
            if n > 1:
                best = self.critic.q_networks[0](pairs).reshape(-1, n).argmax(dim=1)
                rows = th.arange(len(best), device=best.device)
                actions = actions.reshape(len(best), n, -1)[rows, best]
            chosen.append(actions)
        return th.cat(chosen)

    def _fixed_latents(self) -> Tensor:
        """``[n_eval_actions, J]``, from a seed of their own: in every process the same."""
        held = self._latents
        if held is None or len(held) != self.n_eval_actions or held.device != self.device:
            generator = th.Generator().manual_seed(0)
            held = self._latents = self.vae.sample_latents(self.n_eval_actions, generator)
        return held

    def set_training_mode(self, mode: bool) -> None:
        """As in SB3; the targets stay in evaluation mode."""
        for network in (self.vae, self.actor, self.critic):
            network.set_training_mode(mode)
        self.training = mode


class CnnPolicy(BCQPolicy):
    """The same for images."""

    default_extractor = NatureCNN


class MultiInputPolicy(BCQPolicy):
    """The same for Dict observations."""

    default_extractor = CombinedExtractor


def with_one_pass(
    optimizer_class: type[th.optim.Optimizer], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Options with which Adam goes over its tensors once, where a user left the choice to it.

    With the paper's million weights this takes half the time. The last bits differ from those of
    Adam's other ways; no stock class has to be matched here.
    """
    chosen = {"foreach", "fused", "differentiable"} & options.keys()
    if optimizer_class is not th.optim.Adam or chosen:
        return dict(options)
    return {"fused": True, **options}


def require_widths(net_arch: Any) -> None:
    """Refuse what is no list of widths; None is a default.

    :raises ValueError: with what was given
    """
    if net_arch is None:
        return
    whole = isinstance(net_arch, (list, tuple)) and all(map(is_integer, net_arch))
    if not whole:
        raise ValueError(f"net_arch must be a list of widths, as in [64, 64], got {net_arch!r}")


def resolve_net_arch(
    net_arch: str | list[int] | Mapping[str, list[int]] | None,
) -> dict[str, list[int]]:
    """Widths for ``pi``, ``qf`` and ``vae``.

    :raises ValueError: for an unknown name, or a mapping without one of the three
    """
    if net_arch is None:
        return NET_ARCHS["paper"]
    if isinstance(net_arch, str):
        if net_arch not in NET_ARCHS:
            raise ValueError(
                f"net_arch by name is one of {', '.join(map(repr, NET_ARCHS))}, got {net_arch!r}"
            )
        return NET_ARCHS[net_arch]
    if isinstance(net_arch, Mapping):
        missing = [part for part in ("pi", "qf", "vae") if part not in net_arch]
        if missing or len(net_arch) > 3:
            raise ValueError(
                "net_arch as a mapping has widths for pi (perturbation), qf (critics) and vae "
                f"(encoder and decoder), got {sorted(net_arch)}"
            )
        for widths in net_arch.values():
            require_widths(widths)
        return {part: list(net_arch[part]) for part in ("pi", "qf", "vae")}
    require_widths(net_arch)
    return {part: list(net_arch) for part in ("pi", "qf", "vae")}
