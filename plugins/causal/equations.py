"""The maths of "Causal Confusion in Imitation Learning" (de Haan, Jayaraman, Levine 2019).

``n`` factors of the observation, ``B`` samples, ``N`` graphs. A *graph* is a vector of n zeros and
ones: which factors the policy may look at. Graphs and scores are NumPy arrays, networks' inputs and
outputs torch tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch as th
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
Graphs = NDArray[np.bool_]

#: With more factors than this, graphs are sampled and not listed: there would be 2^n.
MOST_LISTED = 10


def masked_input(factors: Tensor, graphs: Tensor, factor_of: Tensor) -> Tensor:
    """``[X * G, G]``: what the graph-parameterised policy ``f`` sees (section 4.1).

    The graph itself is an input, so that a zero can be told from a factor that is left out.

    :param factors: X ``[B, D]``, whose columns belong to n factors
    :param graphs: ``[B, n]`` or ``[n]``
    :param factor_of: ``[D]``, the factor of each column
    :return: ``[B, D + n]``
    """
    graphs = graphs.to(factors.dtype).expand(len(factors), -1)
    return th.cat([factors * graphs.index_select(1, factor_of), graphs], dim=1)


def draw_graphs(
    size: int, probabilities: Floats | float, n: int, generator: np.random.Generator
) -> Graphs:
    """Independent graphs, each edge a Bernoulli variable.

    :param size: N
    :param probabilities: of the edges, ``[n]`` or one for all; the policy is trained with 1/2
    :param n: number of factors
    :return: ``[N, n]``
    """
    drawn: Graphs = generator.random((size, n)) < probabilities
    return drawn


def all_graphs(n: int) -> Graphs:
    """All ``2^n`` graphs, ``[2^n, n]``; the first factor changes slowest.

    :raises ValueError: for more than 16 factors, whose graphs would not fit
    """
    if not 1 <= n <= 16:
        raise ValueError(f"graphs of 1 to 16 factors can be listed, got {n}: draw some instead")
    bits: Graphs = (np.arange(2**n)[:, None] >> np.arange(n)[::-1] & 1).astype(bool)
    return bits


def edge_probabilities(weights: Floats, temperature: float) -> Floats:
    """``sigma(w / tau)``: the edges of ``p(G)``, which is proportional to ``exp(<w, G> / tau)``.

    Since the energy is linear, edges are independent, and nothing has to be summed over graphs.

    :param weights: w ``[n]``
    :param temperature: tau > 0
    """
    # tanh does not overflow where exp would.
    probabilities: Floats = 0.5 * (1.0 + np.tanh(np.asarray(weights, float) / temperature / 2.0))
    return probabilities


def graph_probabilities(weights: Floats, temperature: float) -> Floats:
    """The same ``p(G)`` of each of the ``2^n`` graphs of :func:`all_graphs`, by enumeration."""
    energies = all_graphs(len(weights)) @ np.asarray(weights, float) / temperature
    unnormalised = np.exp(energies - energies.max())
    probabilities: Floats = unnormalised / unnormalised.sum()
    return probabilities


def default_temperature(scores: Floats) -> float:
    """A tenth of the range of the scores so far; 1 while there is none.

    The authors' code has tau = 10 on MountainCar, whose returns range over 100: a weight of a tenth
    of the range moves an edge from even odds to 73 %.
    """
    spread = float(np.max(scores) - np.min(scores)) if len(scores) else 0.0
    return spread / 10.0 if spread > 0 else 1.0


@dataclass(frozen=True)
class RidgePosterior:
    """What N scored graphs say about the weights of the energy: a multivariate t distribution.

    :param mean: ``[n]``, ridge regression's weights
    :param scale: ``[n]``, of each weight's t distribution
    :param degrees_of_freedom: of it
    :param intercept: the score of no factor at all
    """

    mean: Floats
    scale: Floats
    degrees_of_freedom: int
    intercept: float


def fit_energy(graphs: Graphs, scores: Floats, ridge: float = 1.0) -> RidgePosterior:
    """Linear regression of scores on graphs, and how sure it is (Algorithms 1 and 2).

    ``score = c + <w, G> + noise``, with an intercept that is not shrunk. Under the prior
    ``w ~ N(0, s^2 / ridge)``, a flat one for c and ``1 / s^2`` for the variance s^2 of the noise,
    the posterior of w is a t distribution around ridge regression's solution, with ``N - 1``
    degrees of freedom and the scale matrix ``S / (N - 1) * (X'X + ridge I)^-1`` of the centred
    graphs X, where S is the penalised sum of squares.

    :param graphs: ``[N, n]``
    :param scores: ``[N]``: returns, or log-likelihoods of an expert's actions. Larger is better: a
        loss goes in with its sign turned (the paper's Algorithm 1 leaves that out)
    :param ridge: > 0
    :raises ValueError: for lengths that differ, no graph at all, or scores that are not finite
    """
    graphs, scores = np.asarray(graphs, float), np.asarray(scores, float)
    if graphs.ndim != 2 or scores.shape != (len(graphs),) or not len(graphs):
        raise ValueError(
            f"graphs must be [N, n] and scores [N], with N > 0; got {list(graphs.shape)} and "
            f"{list(scores.shape)}"
        )
    if not np.isfinite(scores).all():
        raise ValueError(
            "scores must be finite: an episode's return, or the expert's action, is not"
        )
    if not ridge > 0:
        raise ValueError(f"ridge must be positive, got {ridge}")
    n = graphs.shape[1]
    center = graphs.mean(axis=0)
    x, y = graphs - center, scores - scores.mean()
    precision = x.T @ x + ridge * np.eye(n)
    mean = np.linalg.solve(precision, x.T @ y)
    squares = max(float(y @ y - mean @ precision @ mean), 0.0)
    freedom = max(len(scores) - 1, 1)
    scale = np.sqrt(squares / freedom * np.diag(np.linalg.inv(precision)))
    return RidgePosterior(mean, scale, freedom, float(scores.mean() - center @ mean))


def best_graph(weights: Floats) -> Graphs:
    """``arg max_G p(G)``, ``[n]``: the factors with a positive weight."""
    chosen: Graphs = np.asarray(weights) > 0
    return chosen


def categorical_disagreement(log_probabilities: Tensor) -> Tensor:
    """``D(X) = E_G KL(pi_G(X) || pi_mix(X))``, with ``pi_mix = E_G pi_G`` (section 4.2).

    :param log_probabilities: ``[N, B, A]`` of A actions under N equally likely graphs
    :return: ``[B]``, from 0 to log N
    """
    mixture = th.logsumexp(log_probabilities, dim=0) - np.log(len(log_probabilities))
    divergence: Tensor = (log_probabilities.exp() * (log_probabilities - mixture)).sum(-1).mean(0)
    return divergence


def gaussian_disagreement(means: Tensor) -> Tensor:
    """The same ranking for deterministic policies: the variance of the action over graphs.

    The paper does not say which variance the KL should have. With one fixed variance for all
    graphs, the mean KL to a Gaussian around the mean action is this up to a factor.

    :param means: ``[N, B, d]``
    :return: ``[B]``
    """
    variance: Tensor = means.var(dim=0, correction=0).sum(-1)
    return variance


def beta_vae_loss(
    reconstruction: Tensor, target: Tensor, mean: Tensor, log_variance: Tensor, beta: float
) -> tuple[Tensor, Tensor, Tensor]:
    """``|x - x'|^2 + beta * KL(N(mean, variance) || N(0, 1))`` (Higgins et al. 2017).

    Both terms are sums over dimensions and means over samples.

    :param reconstruction: x' ``[B, ...]``
    :param target: x ``[B, ...]``
    :param mean: of the latents, ``[B, n]``
    :param log_variance: of the latents, ``[B, n]``: the logarithm of the variance, not of the
        deviation
    :param beta: 1 is the plain VAE; more asks for latents that vary one by one
    :return: the loss, the reconstruction error, the divergence
    """
    error = (reconstruction - target).square().flatten(1).sum(1).mean()
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(1).mean()
    return error + beta * divergence, error, divergence
