"""Forward passes by oneDNN against torch's own layers."""

import pytest
import torch as th
from torch import nn

from sb3_ext import inference


@pytest.mark.parametrize("rows", [1, 127, 128, 700])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_a_layer(rows: int, relu: bool, dtype: th.dtype) -> None:
    layer, given = nn.Linear(20, 30).to(dtype), th.randn(rows, 20, dtype=dtype)
    expected = layer(given).detach()
    found = inference.linear(given, layer.weight, layer.bias, relu)
    th.testing.assert_close(found, expected.relu() if relu else expected)
    strided = layer.weight.detach().T.contiguous().T
    th.testing.assert_close(inference.linear(given, strided, layer.bias, relu), found)
    assert not found.requires_grad


class Odd(nn.Linear):
    """A layer of somebody's own, which is not to be replaced."""

    def forward(self, given: th.Tensor) -> th.Tensor:
        return super().forward(given) + 1


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)),
        nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3), nn.Tanh()),
        nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 3)),
        nn.Sequential(nn.Linear(6, 16, bias=False), nn.ReLU(), Odd(16, 3), nn.ReLU()),
        nn.Sequential(nn.Sequential(nn.Linear(6, 16), nn.ReLU()), nn.Linear(16, 3), nn.ELU()),
        nn.Linear(6, 3),
    ],
    ids=str,
)
def test_networks(network: nn.Module) -> None:
    given = th.randn(300, 6)
    kept = given.clone()
    th.testing.assert_close(inference.run(network, given), network(given).detach())
    assert th.equal(given, kept)


@pytest.mark.parametrize("whose", [0, 1, None])
@pytest.mark.parametrize("when", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_are_heard(whose: int | None, when: str) -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    heard: list[int] = []
    part = network if whose is None else network[whose]
    getattr(part, when)(lambda *_: heard.append(1))
    inference.run(network, th.ones(200, 2))
    assert heard == [1]


@pytest.mark.parametrize("rows", [5, 200])
def test_a_nan_stays_one(rows: int) -> None:
    """The op's own ReLU would make 0 of it, and a diverged network would go unnoticed."""
    network = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    given = th.ones(rows, 2)
    given[3] = th.nan
    found = inference.run(network, given)
    assert found[3].isnan().all() and found[:3].isfinite().all()
    network[0].weight.data.fill_(th.nan)
    assert inference.run(network, th.ones(rows, 2)).isnan().all()


def test_without_onednn_torch_s_own_layers_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "onednn_layer", lambda: None)
    layer = nn.Linear(5, 4)
    given = th.randn(200, 5)
    assert th.equal(
        inference.linear(given, layer.weight, layer.bias, relu=True), layer(given).relu()
    )


def test_no_answer_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mute:
        @property
        def _linear_pointwise(self) -> None:
            raise AttributeError

    monkeypatch.setattr(inference.th.ops, "mkldnn", Mute())
    assert inference.onednn_layer.__wrapped__() is None
