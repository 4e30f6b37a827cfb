"""Batched ensembles against the separate networks that they stand for."""

import numpy as np
import pytest
import torch as th
from torch import nn

from sb3_ext import ensembles
from sb3_ext.ensembles import EnsembleMLP, member_batches

SHAPES = pytest.mark.parametrize(
    ("members", "net_arch", "n"), [(4, (32, 16), 7), (3, (), 5), (1, (8,), 300), (2, (24, 24), 300)]
)


def loop(networks: list[nn.Sequential], inputs: th.Tensor) -> th.Tensor:
    own = inputs if inputs.ndim == 3 else [inputs] * len(networks)
    return th.stack([network(rows) for network, rows in zip(networks, own, strict=True)])


@SHAPES
@pytest.mark.parametrize("shared", [True, False])
def test_outputs_and_gradients_are_those_of_separate_networks(members, net_arch, n, shared):
    th.manual_seed(0)
    ensemble = EnsembleMLP(members, 6, 3, net_arch)
    networks = ensemble.members()
    given = th.randn(*(() if shared else (members,)), n, 6)
    one, other = given.clone().requires_grad_(), given.clone().requires_grad_()
    found, expected = ensemble(one), loop(networks, other)
    th.testing.assert_close(found, expected)
    toward = th.randn_like(found)
    (found * toward).sum().backward()
    (expected * toward).sum().backward()
    th.testing.assert_close(one.grad, other.grad)
    for number, network in enumerate(networks):
        linears = [layer for layer in network if isinstance(layer, nn.Linear)]
        for layer, weight, bias in zip(linears, ensemble.weights, ensemble.biases, strict=True):
            th.testing.assert_close(weight.grad[number], layer.weight.grad.T)
            th.testing.assert_close(bias.grad[number, 0], layer.bias.grad)


def test_one_by_one_and_all_at_once_agree(monkeypatch):
    ensemble, rows = EnsembleMLP(3, 5, 2, (16, 16)), th.randn(40, 5)
    at_once = ensemble(rows)
    monkeypatch.setattr(ensembles, "ONE_BY_ONE_FROM", 1)
    th.testing.assert_close(ensemble(rows), at_once)


def test_inputs_are_not_written_over():
    ensemble, rows = EnsembleMLP(2, 3, 1, (8,)), -th.ones(4, 3)
    ensemble(rows)
    assert (rows == -1).all()


def test_members_begin_as_separate_networks_would():
    """With the same seed the same numbers; so with the bounds of one member's fan-in."""
    th.manual_seed(3)
    ensemble = EnsembleMLP(2, 100, 50, ())
    th.manual_seed(3)
    layers = [nn.Linear(100, 50) for _ in range(2)]
    for number, layer in enumerate(layers):
        assert th.equal(ensemble.weights[0][number].T, layer.weight)
        assert th.equal(ensemble.biases[0][number, 0], layer.bias)
    assert ensemble.weights[0].abs().max() <= 1 / np.sqrt(100)
    assert not th.equal(ensemble.weights[0][0], ensemble.weights[0][1])


def test_an_ensemble_of_given_networks():
    networks = [nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)) for _ in range(3)]
    rows = th.randn(5, 3)
    th.testing.assert_close(EnsembleMLP.of(networks)(rows), loop(networks, rows))
    with pytest.raises(ValueError, match=r"got \['Tanh'\]"):
        EnsembleMLP.of([nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))])
    with pytest.raises(ValueError, match="must have one shape"):
        EnsembleMLP.of([networks[0], nn.Sequential(nn.Linear(3, 2))])


@pytest.mark.parametrize(("n", "members"), [(12, 4), (10, 4), (3, 5), (1, 1), (256, 3)])
def test_each_sample_goes_to_one_member(n, members):
    indices, weights = member_batches(n, members)
    assert indices.shape == weights.shape == (members, -(-n // members))
    counted = indices[weights.bool()]
    assert sorted(counted.tolist()) == list(range(n))
    each = weights.sum(1)
    assert each.max() - each.min() <= 1


def test_who_gets_a_sample_is_uniform():
    """Sample 0 of five among two members, who get three and two: shares 3/5 and 2/5."""
    generator = th.Generator().manual_seed(0)
    first = 0
    for _ in range(2000):
        indices, weights = member_batches(5, 2, generator)
        first += int((indices[0][weights[0].bool()] == 0).any())
    assert abs(first / 2000 - 0.6) < 4 * np.sqrt(0.24 / 2000)


def test_a_generator_makes_the_split():
    one, other = (member_batches(9, 2, th.Generator().manual_seed(5))[0] for _ in range(2))
    assert th.equal(one, other)


def test_an_optimiser_moves_members_apart_on_their_own_data():
    """Two linear members see data of slope 1 and of slope -1, and learn them."""
    th.manual_seed(0)
    ensemble = EnsembleMLP(2, 1, 1, ())
    optimizer = th.optim.Adam(ensemble.parameters(), lr=0.05)
    rows = th.randn(2, 64, 1)
    for _ in range(300):
        loss = (ensemble(rows) - rows * th.tensor([1.0, -1.0]).view(2, 1, 1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert ensemble.weights[0].flatten().tolist() == pytest.approx([1.0, -1.0], abs=0.01)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: EnsembleMLP(0, 3, 1, (8,)), "at least one member"),
        (lambda: EnsembleMLP(2, 3, 1, (0,)), "no empty layer"),
        (lambda: EnsembleMLP(2, 3, 1, (8,))(th.zeros(4, 2)), r"shape \[n, 3\]"),
        (lambda: EnsembleMLP(2, 3, 1, (8,))(th.zeros(3, 4, 3)), r"got \[3, 4, 3\]"),
        (lambda: member_batches(0, 2), "at least 1"),
    ],
)
def test_bad_input(make, told):
    with pytest.raises(ValueError, match=told):
        make()
