"""The gradients that are written out are autograd's, in float64."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch as th
from torch import nn
from torch.distributions import Normal

from sb3_ext.engines import gaussian, mlp
from sb3_ext.engines.flat import FlatAdam, FlatParameters
from sb3_ext.engines.products import Products
from sb3_ext.errors import EngineError

ROWS = 37


def network(*widths: int, end: nn.Module | None = None) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1], *([] if end is None else [end])).double()


def bound(net: nn.Module, **options: Any) -> tuple[list[mlp.Dense], FlatAdam]:
    """The network's layers on flat memory."""
    layers = mlp.layers_of(net, **options)
    adam = FlatAdam(th.optim.Adam(net.parameters(), lr=0.01), mlp.groups_of([layers]))
    adam.bind()
    for layer in layers:
        layer.bind(adam)
    return layers, adam


def rows(width: int) -> th.Tensor:
    return th.randn(ROWS, width, dtype=th.float64)


@pytest.mark.parametrize("widths", [(3, 1), (4, 5, 1), (4, 5, 6, 2), (20, 9, 30, 17, 11)])
def test_a_network_goes_backwards_as_under_autograd(widths: tuple[int, ...]) -> None:
    th.manual_seed(0)
    net, seen, down = network(*widths), rows(widths[0]), rows(widths[-1])
    leaf = seen.clone().requires_grad_()
    outputs = net(leaf)
    wanted = th.autograd.grad(outputs, [leaf, *net.parameters()], down)
    layers, _ = bound(net)
    with th.no_grad():
        found = mlp.forward(layers, seen)
        mlp.backward(layers, found, down)
        by_input = mlp.input_gradient(layers, found, down)
        columns = mlp.input_gradient(layers, found, down, first_column=1)
    th.testing.assert_close(found[-1], outputs.detach())
    th.testing.assert_close(by_input, wanted[0])
    th.testing.assert_close(columns, wanted[0][:, 1:])
    for parameter, gradient in zip(net.parameters(), wanted[1:], strict=True):
        th.testing.assert_close(parameter.grad, gradient)


def test_layers_that_see_the_same_rows_are_one() -> None:
    th.manual_seed(1)
    mean, spread = (nn.Linear(5, 3).double() for _ in range(2))
    both = mlp.dense(mean, spread)
    every = [*mean.parameters(), *spread.parameters()]
    adam = FlatAdam(th.optim.Adam(every), both.groups())
    adam.bind()
    both.bind(adam)
    seen, down = rows(5), rows(6)
    outputs = th.cat([mean(seen), spread(seen)], dim=1)
    wanted = th.autograd.grad(outputs, every, down)
    with th.no_grad():
        th.testing.assert_close(th.addmm(both.bias, seen, both.weight.t()), outputs.detach())
        both.learn(seen, down)
    for parameter, gradient in zip(every, wanted, strict=True):
        th.testing.assert_close(parameter.grad, gradient)


def test_a_relu_at_zero_lets_nothing_through() -> None:
    found = mlp.through_relu(th.ones(1, 3), th.tensor([[-0.0, 0.0, 1e-30]]))
    assert found.tolist() == [[0, 0, 1]]


def squashed(mean: th.Tensor, log_std: th.Tensor, noise: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """As SB3's SquashedDiagGaussianDistribution does it, for autograd."""
    std = log_std.clamp(-20, 2).exp()
    value = mean + std * noise
    actions = value.tanh()
    log_prob = Normal(mean, std).log_prob(value).sum(1)
    return actions, (log_prob - th.log(1 - actions**2 + 1e-6).sum(1))[:, None]


@pytest.mark.parametrize("centre", [0.0, -19.5, 2.0, 30.0])
def test_the_squashed_gaussian_is_autograds(centre: float) -> None:
    """Also where log std is cut off for some, or all, of the rows."""
    th.manual_seed(2)
    mean, log_std, noise, by_action = rows(4), rows(4) + centre, rows(4), rows(4)
    mean.requires_grad_(), log_std.requires_grad_()
    actions, log_prob = squashed(mean, log_std, noise)
    price = 0.37
    loss = (actions * by_action).sum() + price * log_prob.sum()
    wanted = th.cat(th.autograd.grad(loss, [mean, log_std]), dim=1)
    with th.no_grad():
        drawn, found = gaussian.draw(mean, log_std, noise)
        gradient = gaussian.parameter_gradient(drawn, by_action, price)
        part = gaussian.parameter_gradient(drawn.first(5), by_action[:5], price)
    th.testing.assert_close(drawn.actions, actions.detach())
    th.testing.assert_close(found, log_prob.detach())
    th.testing.assert_close(gradient, wanted)
    th.testing.assert_close(part, wanted[:5])


def test_the_log_density_by_hand() -> None:
    """Mean 0, std 1, noise 0: a = 0, and the density of a standard normal at 0."""
    drawn, log_prob = gaussian.draw(th.zeros(1, 2), th.zeros(1, 2), th.zeros(1, 2))
    assert drawn.actions.tolist() == [[0, 0]]
    assert log_prob.item() == pytest.approx(2 * -0.9189385, abs=1e-5)


@pytest.mark.parametrize("shape", [(256, 14, 256), (256, 365, 40), (130, 40, 17), (200, 256, 1)])
def test_float32_products_are_the_plain_ones(shape: tuple[int, int, int]) -> None:
    """Whichever BLAS made them, and however the weight lies in memory."""
    th.manual_seed(3)
    n, n_in, n_out = shape
    seen, weight, bias, down = (
        th.randn(*s) for s in ((n, n_in), (n_out, n_in), (n_out,), (n, n_out))
    )
    made, out = Products(), th.empty(n_out, n_in)
    made.weight_gradient(down, seen, out=out)
    double = [one.double() for one in (seen, weight, bias, down)]
    for found, wanted in (
        (made.outputs(seen, weight, bias), double[0] @ double[1].t() + double[2]),
        (made.input_gradient(down, weight), double[3] @ double[1]),
        (made.input_gradient(down, weight[:, 1:]), double[3] @ double[1][:, 1:]),
        (out, double[3].t() @ double[0]),
    ):
        th.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-4)


def test_bf16_products_have_eight_bits() -> None:
    """Off by its rounding, 2^-8 of the size of what is summed, and not by more."""
    th.manual_seed(4)
    seen, weight, bias = th.randn(256, 256), th.randn(64, 256), th.zeros(64)
    error = (Products(bf16=True).outputs(seen, weight, bias) - seen @ weight.t()).abs()
    size = (seen @ weight.t()).abs().mean()
    assert 1e-4 < error.mean() / size < 2**-7


def test_bf16_does_not_depend_on_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that is missing, or on a GPU, what was asked for is still what is done."""
    th.manual_seed(4)
    made, out = Products(bf16=True), th.empty(2, 64, 48)
    seen, weight, bias, down = (th.randn(*s) for s in ((256, 48), (64, 48), (64,), (256, 64)))
    found = []
    for plain in out:
        made.weight_gradient(down, seen, out=plain)
        found.append((made.outputs(seen, weight, bias), made.input_gradient(down, weight), plain))
        monkeypatch.setattr(Products, "_by_onednn", lambda self, rows: False)
    for one, other in zip(*found, strict=True):
        th.testing.assert_close(one, other)


def adam_pair(steps: int, **options: Any) -> tuple[nn.Module, nn.Module, FlatAdam]:
    """A network under torch's Adam and its twin on flat memory, given the same gradients."""
    th.manual_seed(5)
    nets = [network(4, 8, 2) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    plain = th.optim.Adam(nets[0].parameters(), **options)
    layers = mlp.layers_of(nets[1])
    flat = FlatAdam(th.optim.Adam(nets[1].parameters(), **options), mlp.groups_of([layers]))
    flat.bind()
    for step in range(steps):
        plain.param_groups[0]["lr"] = flat.optimizer.param_groups[0]["lr"] = 0.01 / (1 + step)
        for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
            one.grad = th.randn_like(one)
            other.grad.copy_(one.grad)
        plain.step()
        flat.step()
    return nets[0], nets[1], flat


@pytest.mark.parametrize("options", [{}, {"betas": (0.5, 0.9), "eps": 1e-3}, {"lr": 1.0}])
def test_adam_is_torchs(options: dict[str, Any]) -> None:
    plain, flat, adam = adam_pair(7, **options)
    for one, other in zip(plain.parameters(), flat.parameters(), strict=True):
        th.testing.assert_close(other, one)
        assert adam.optimizer.state[other]["step"] == 7


def test_an_optimisers_state_goes_both_ways() -> None:
    """What torch's Adam left is gone on from, and what the flat one leaves is torch's own."""
    plain, flat, adam = adam_pair(3)
    fresh = th.optim.Adam(plain.parameters())
    fresh.load_state_dict(adam.optimizer.state_dict())
    held = [fresh.state[one]["exp_avg"] for one in plain.parameters()]
    adam.optimizer.load_state_dict(adam.optimizer.state_dict())  # other tensors, same values
    assert not adam.holds()
    adam.bind()
    assert adam.holds()
    for one, moment in zip(flat.parameters(), held, strict=True):
        th.testing.assert_close(adam.optimizer.state[one]["exp_avg"], moment)
        assert adam.optimizer.state[one]["step"] == 3


def test_a_target_follows_by_its_share() -> None:
    online, target = network(2, 3, 1), network(2, 3, 1)
    before = [one.detach().clone() for one in target.parameters()]
    flats = [FlatParameters([[one] for one in net.parameters()]) for net in (online, target)]
    for flat in flats:
        flat.bind()
    flats[1].follow(flats[0], 0.25)
    for old, new, wanted in zip(before, target.parameters(), online.parameters(), strict=True):
        th.testing.assert_close(new, 0.75 * old + 0.25 * wanted)


def test_a_tensor_takes_only_its_own_numbers_along() -> None:
    """As a view of all of the memory it would be pickled with all of it."""
    net = network(30, 40, 2)
    alone = len(pickle.dumps(net[0]))
    bound(net)
    kept = net[0].weight.detach().clone()
    assert len(pickle.dumps(net[0])) < 2.1 * alone + 500  # with its gradient
    th.testing.assert_close(pickle.loads(pickle.dumps(net[0])).weight, kept)


def test_numbers_that_no_product_is_made_of_are_refused() -> None:
    with pytest.raises(EngineError, match=r"parameters are of torch\.bfloat16"):
        FlatParameters([list(network(2, 3).bfloat16().parameters())])


def frozen(net: nn.Module) -> None:
    next(net.parameters()).requires_grad_(False)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda net: net[0].register_forward_hook(lambda *_: None), "hooked into Linear"),
        (lambda net: net[0].register_forward_pre_hook(lambda *_: None), "hooked into Linear"),
        (lambda net: net.register_full_backward_hook(lambda *_: None), "hooked into Sequential"),
        (lambda net: net[0].weight.register_hook(lambda _: None), "hooked into a parameter"),
        (frozen, "frozen"),
    ],
)
def test_somebody_elses_hand_is_seen(change: Callable[[Any], Any], sentence: str) -> None:
    net = network(2, 3, 1)
    watch = mlp.Watch([net], learns=True)
    watch.require_alone()
    change(net)
    with pytest.raises(EngineError, match=sentence):
        watch.require_alone()


@pytest.mark.parametrize(
    ("net", "sentence"),
    [
        (nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)), "Tanh where ReLU is expected"),
        (nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), "Linear where ReLU is expected"),
        (nn.Sequential(nn.Linear(2, 3), nn.ReLU()), "does not end in a linear layer"),
        (nn.Sequential(), "does not end in a linear layer"),
        (nn.Sequential(nn.Linear(2, 3, bias=False)), "no bias"),
        (nn.Linear(2, 3), "is Linear, no plain Sequential"),
        (nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 3))), "Parametrized"),
    ],
)
def test_other_networks_are_named(net: nn.Module, sentence: str) -> None:
    with pytest.raises(EngineError, match=sentence):
        mlp.layers_of(net)


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (lambda p: th.optim.SGD(p, lr=1.0), "is SGD, not torch's Adam"),
        (lambda p: th.optim.AdamW(p), "is AdamW"),
        (lambda p: th.optim.Adam(p, weight_decay=0.1), "weight_decay=0.1"),
        (lambda p: th.optim.Adam(p, amsgrad=True), "amsgrad=True"),
        (lambda p: th.optim.Adam([{"params": [one]} for one in p]), "several groups"),
        (lambda p: th.optim.Adam(list(p)[:1]), "other parameters"),
    ],
)
def test_other_optimisers_are_named(made: Callable[[Any], Any], sentence: str) -> None:
    net = network(2, 3, 1)
    with pytest.raises(EngineError, match=sentence):
        FlatAdam(made(net.parameters()), [list(net.parameters())])
