"""CausalBC: behaviour cloning under every graph at once, and interventions that choose one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space, preprocess_obs
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from torch import Tensor, nn

from sb3_ext.algorithms.networks import descend
from sb3_ext.offline.demonstrated import FromDemonstrations
from sb3_ext.offline.demonstrations import Demonstrations, resolve_demonstrations
from sb3_ext.plugins.causal.equations import beta_vae_loss, draw_graphs, masked_input
from sb3_ext.plugins.causal.export import fold_graph
from sb3_ext.plugins.causal.factors import Factors, Graph, Layout, declared_layout, make_factors
from sb3_ext.plugins.causal.networks import GraphExtractor, LatentExtractor
from sb3_ext.plugins.causal.outputs import accuracy, imitation_loss
from sb3_ext.plugins.causal.posterior import Posterior
from sb3_ext.signatures import require_known

BETA_VAE = "beta_vae"
#: What ``vae_kwargs`` may say; widths and steps are ours, the rest alinlab/oreo's.
VAE_DEFAULTS: Mapping[str, float] = {
    "n_latents": 16,
    "beta": 4.0,
    "width": 64,
    "learning_rate": 3e-4,
    "steps": 5_000,
}
#: The authors' network for MountainCar, and PyTorch's own initial weights.
POLICY_DEFAULTS: Mapping[str, Any] = {
    "net_arch": [50, 50, 50],
    "activation_fn": nn.ReLU,
    "ortho_init": False,
}


class CausalBC(FromDemonstrations):
    """Graph-parameterised behaviour cloning (de Haan, Jayaraman, Levine 2019).

    One network imitates the expert under every choice of the factors that it may look at: in
    training, each sample has a random *graph*, and what that leaves out is hidden. Then an
    intervention finds the graph of which the policy acts best: by its returns
    (:meth:`intervene`), or by asking the expert in states where graphs disagree (:meth:`query`)::

        model = CausalBC("MlpPolicy", demonstrations=dataset).learn(20_000)
        found = model.intervene(env, episodes=40)
        print(found.table())        # which factors drive the expert, which are nuisances
        model.predict(observation)  # under found.graph

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"`` or ``"MultiInputPolicy"``
    :param env: only its spaces are used, and maybe its factors; see ``FromDemonstrations``
    :param demonstrations: see :class:`~sb3_ext.offline.FromDemonstrations`
    :param factors: name -> indices of the observation (of a Dict: keys), each exactly once;
        ``"beta_vae"``: the latents of an autoencoder that is trained first; None: what the
        environment or the dataset declares, else each dimension (of a Dict: each key), and for
        images ``"beta_vae"``
    :param keep_probability: of a factor in training. 1 is plain behaviour cloning
    :param graph: under which the policy acts before any intervention: names, or zeros and ones;
        None is all factors
    :param vae_kwargs: ``n_latents`` (16), ``beta`` (4), ``width`` (64), ``learning_rate`` (3e-4)
        and ``steps`` (5,000): the first gradient steps of ``learn`` are the autoencoder's
    :param policy_kwargs: as in SB3; ``net_arch`` is [50, 50, 50] with ReLU by default. There is no
        ``features_extractor_class``: the mask is one
    :param kwargs: ``learning_rate``, ``batch_size``, ``seed``, ``device``, ``verbose``,
        ``tensorboard_log``, ``stats_window_size`` as in SB3
    """

    family: ClassVar[str] = "CausalBC"

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str | None = None,
        *,
        demonstrations: Demonstrations | None = None,
        factors: Layout | str | None = None,
        keep_probability: float = 0.5,
        graph: Graph | None = None,
        vae_kwargs: Mapping[str, float] | None = None,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        require_known(type(self), kwargs, where=type(self).__name__)
        self.factors = factors
        self.keep_probability = keep_probability
        self.vae_kwargs = dict(vae_kwargs or {})
        #: The last intervention, as plain values; :attr:`posterior` reads it.
        self.intervention: dict[str, Any] | None = None
        self._require_options()
        super().__init__(
            policy, env, demonstrations=demonstrations, _init_setup_model=False, **kwargs
        )
        if _init_setup_model:
            self._setup_model()
            if graph is not None:
                self.fix(graph)

    def _require_options(self) -> None:
        keep = self.keep_probability
        if isinstance(keep, bool) or not isinstance(keep, (int, float)):
            raise TypeError(f"keep_probability must be a number, got {keep!r}")
        if not 0 < keep <= 1:
            raise ValueError(f"0 < keep_probability <= 1 must hold, got {keep}")
        if isinstance(self.factors, str) and self.factors != BETA_VAE:
            raise ValueError(
                f"factors must be {BETA_VAE!r}, a mapping of names to indices, or None; "
                f"got {self.factors!r}"
            )
        if unknown := sorted(set(self.vae_kwargs) - set(VAE_DEFAULTS)):
            raise TypeError(
                f"vae_kwargs got {', '.join(unknown)}; it takes {', '.join(VAE_DEFAULTS)}"
            )
        for name, value in self.vae_kwargs.items():
            whole = isinstance(VAE_DEFAULTS[name], int)
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                kind = "a whole number" if whole else "a number"
                raise TypeError(f"vae_kwargs[{name!r}] must be {kind}, got {value!r}")
            if value <= 0:
                raise ValueError(f"vae_kwargs[{name!r}] must be positive, got {value}")

    # -- set-up ------------------------------------------------------------------------------

    def _setup_model(self) -> None:
        self._require_options()  # load(path, keep_probability=...) may have changed them
        self.require_spaces()
        if self.demonstrations is not None:  # load(path, demonstrations=...) may name a file
            made = (self.observation_space, self.action_space)
            self.demonstrations = resolve_demonstrations(self.demonstrations, made)
        self._resolve_factors()
        super()._setup_model()
        self.vae_optimizer: th.optim.Optimizer | None = None
        if isinstance(self.extractor, LatentExtractor):
            learned = self.extractor.vae.parameters()
            self.vae_optimizer = th.optim.Adam(learned, lr=self._vae("learning_rate"))

    def _resolve_factors(self) -> None:
        space = self.observation_space
        if self.factors is None:
            declared = declared_layout(self.env, self.demonstrations)
            self.factors = BETA_VAE if is_image_space(space) and declared is None else declared
        if self.factors == BETA_VAE:
            if not isinstance(space, spaces.Box):
                raise TypeError(f"a beta-VAE reads Box observations, got {space}")
            names = tuple(f"latent {i}" for i in range(int(self._vae("n_latents"))))
            self.layout = Factors(names, np.arange(len(names)))
        else:
            assert not isinstance(self.factors, str)
            self.layout = make_factors(space, self.factors)

    def make_policy(self) -> ActorCriticPolicy:
        """SB3's policy on the masked input."""
        own = {"features_extractor_class", "features_extractor_kwargs", "share_features_extractor"}
        if given := sorted(name for name in own if self.policy_kwargs.get(name)):
            raise TypeError(
                f"{type(self).__name__} takes no {', '.join(given)} in policy_kwargs: what reads "
                "the observation is the mask over factors; for images see vae_kwargs"
            )
        options: dict[str, Any] = {**POLICY_DEFAULTS, **self.policy_kwargs}
        if self.factors == BETA_VAE:
            options["features_extractor_class"] = LatentExtractor
            options["features_extractor_kwargs"] = {
                "n_latents": len(self.layout),
                "width": int(self._vae("width")),
            }
        else:
            options["features_extractor_class"] = GraphExtractor
            options["features_extractor_kwargs"] = {"factor_of": self.layout.factor_of.tolist()}
        made: ActorCriticPolicy = self.policy_class(  # type: ignore[assignment]
            self.observation_space, self.action_space, self.lr_schedule, **options
        )
        return made

    def _vae(self, name: str) -> float:
        return self.vae_kwargs.get(name, VAE_DEFAULTS[name])

    @property
    def extractor(self) -> GraphExtractor:
        """What masks the policy's input."""
        found: Any = self.policy.pi_features_extractor
        return found  # type: ignore[no-any-return]

    # -- the graph under which it acts ---------------------------------------------------------

    @property
    def graph(self) -> dict[str, bool]:
        """The factors that the policy looks at when it acts."""
        return self.layout.described(self.extractor.graph.cpu().numpy() > 0)

    def fix(self, graph: Graph) -> Self:
        """Act under this graph from now on; saved with the model.

        :param graph: zeros and ones, names of factors, or a mapping like :attr:`graph`
        :raises ValueError: for unknown names, or a wrong number
        """
        chosen = self.layout.graph(graph)
        self.extractor.graph.copy_(th.as_tensor(chosen))
        return self

    # -- learning ----------------------------------------------------------------------------

    def update(self, observations: Any, actions: Tensor) -> dict[str, float]:
        """``E_G[l(f([X * G, G]), A)]`` with one graph a sample; before that, the autoencoder's."""
        if self.vae_optimizer is not None and self._n_updates < self._vae("steps"):
            return self._update_vae(observations)
        keep = float(self.keep_probability)
        drawn = draw_graphs(len(actions), keep, len(self.layout), self.generator())
        graphs = th.as_tensor(drawn, device=self.device)
        outputs = self._outputs_under(observations, graphs)
        loss = imitation_loss(outputs, actions, self.action_space).mean()
        metrics = {"loss": loss.item()}
        total = loss
        if isinstance(self.action_space, spaces.Box):
            # The spread around the mean, which alone has a part in it: the loss of the paper has
            # none, and predict(deterministic=False) needs one.
            distribution = self.policy.action_dist.proba_distribution(
                outputs.detach(), self.policy.log_std
            )
            total = loss - distribution.log_prob(actions).mean()
            metrics["std"] = self.policy.log_std.detach().exp().mean().item()
        else:
            metrics["accuracy"] = accuracy(outputs, actions, self.action_space)
        descend(total, self.policy.optimizer)
        return metrics

    def _outputs_under(self, observations: Any, graphs: Tensor) -> Tensor:
        policy = self.policy
        with self.extractor.under(graphs):
            features: Any = policy.extract_features(observations, policy.pi_features_extractor)
        outputs: Tensor = policy.action_net(policy.mlp_extractor.forward_actor(features))
        return outputs

    def _update_vae(self, observations: Any) -> dict[str, float]:
        extractor = self.extractor
        assert isinstance(extractor, LatentExtractor) and self.vae_optimizer is not None
        seen: Any = preprocess_obs(
            observations, self.observation_space, normalize_images=self.policy.normalize_images
        )
        mean, log_variance = extractor.vae.encode(seen)
        noise = th.as_tensor(
            self.generator().standard_normal(tuple(mean.shape), dtype=np.float32),
            device=self.device,
        )
        latents = mean + (log_variance / 2).exp() * noise
        loss, error, divergence = beta_vae_loss(
            extractor.vae.decode(latents), seen, mean, log_variance, self._vae("beta")
        )
        descend(loss, self.vae_optimizer)
        return {
            "vae_loss": loss.item(),
            "reconstruction_error": error.item(),
            "latent_kl": divergence.item(),
        }

    def outputs(
        self, observations: Any, graphs: NDArray[np.bool_], most: int = 50_000
    ) -> Iterator[Tensor]:
        """What the policy's last layer says in B states under each of N graphs, some at a time.

        :param observations: ``[B, ...]``, as ``predict`` takes them
        :param graphs: ``[N, n]``
        :param most: rows of one pass
        :return: ``[k, B, ...]`` each, N in all
        """
        self.policy.set_training_mode(False)
        tensor, _ = self.policy.obs_to_tensor(observations)
        with th.no_grad():
            seen = preprocess_obs(
                tensor,
                self.observation_space,
                normalize_images=self.policy.normalize_images,
            )
            columns = self.extractor.columns(seen)
            size = len(columns)
            for start in range(0, len(graphs), max(1, most // size)):
                part = graphs[start : start + max(1, most // size)]
                each = th.as_tensor(part, device=self.device).repeat_interleave(size, dim=0)
                rows = masked_input(columns.repeat(len(part), 1), each, self.extractor.factor_of)
                latent = self.policy.mlp_extractor.forward_actor(rows)
                outputs: Tensor = self.policy.action_net(latent)
                yield outputs.reshape(len(part), size, -1)

    # -- interventions -----------------------------------------------------------------------

    @property
    def posterior(self) -> Posterior | None:
        """What the last intervention found; None before the first."""
        return None if self.intervention is None else Posterior.from_dict(self.intervention)

    def intervene(
        self,
        env: GymEnv | str,
        episodes: int = 20,
        *,
        temperature: float | None = None,
        ridge: float = 1.0,
        seed: int | None = None,
        callback: MaybeCallback = None,
        progress_bar: bool = False,
        path: str | None = None,
    ) -> Posterior:
        """Find the graph by policy execution (Algorithm 2): act under graphs, look at returns.

        See :func:`~sb3_ext.plugins.causal.interventions.execute_policies`; the model acts under
        what was found, from now on.
        """
        from sb3_ext.plugins.causal.interventions import execute_policies

        return execute_policies(
            self,
            env,
            episodes,
            temperature=temperature,
            ridge=ridge,
            seed=seed,
            callback=callback,
            progress_bar=progress_bar,
            path=path,
        )

    def query(
        self,
        expert: Any,
        states: Any,
        queries: int = 100,
        *,
        n_states: int | None = None,
        n_graphs: int = 300,
        temperature: float | None = None,
        ridge: float = 1.0,
        seed: int | None = None,
        callback: MaybeCallback = None,
        progress_bar: bool = False,
        path: str | None = None,
    ) -> Posterior:
        """Find the graph by expert queries (Algorithm 1): ask where graphs disagree most.

        See :func:`~sb3_ext.plugins.causal.queries.query_expert`; the model acts under what was
        found, from now on.
        """
        from sb3_ext.plugins.causal.queries import query_expert

        return query_expert(
            self,
            expert,
            states,
            queries,
            n_states=n_states,
            n_graphs=n_graphs,
            temperature=temperature,
            ridge=ridge,
            seed=seed,
            callback=callback,
            progress_bar=progress_bar,
            path=path,
        )

    # -- files -------------------------------------------------------------------------------

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "layout", "vae_optimizer"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, tensors = super()._get_torch_save_params()
        return ([*names, "vae_optimizer"] if self.vae_optimizer is not None else names), tensors

    @classmethod
    def load(cls, path: Any, *args: Any, graph: Graph | None = None, **kwargs: Any) -> Self:
        """As in SB3; keyword arguments override what was saved, ``graph`` among them."""
        model = super().load(path, *args, **kwargs)
        return model if graph is None else model.fix(graph)

    def save_for_sb3(self, path: Any) -> None:
        """Save the policy under its graph for stock SB3: ``ActorCriticPolicy.load(path)``.

        Mask and graph are folded into the first layer, so nothing of ours is in the file.

        :raises TypeError: where an autoencoder reads the observation, which SB3 has not
        """
        if isinstance(self.extractor, LatentExtractor):
            raise TypeError(
                "Stable-Baselines3 has no beta-VAE to read these observations with: use save, or "
                "policy.save, whose file needs sb3-ext"
            )
        fold_graph(self.policy, self.policy_class, self.lr_schedule).save(str(path))
