"""``engine="compiled"``: the fast step's arithmetic by torch.compile is the reference's, too.

A minute, most of it torch.compile's; so few settings, and those that compile something else.
"""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch as th
from torch._dynamo.utils import counters

from sb3_ext.algorithms.dqn import DQN
from sb3_ext.algorithms.sac import SAC
from sb3_ext.algorithms.td3 import TD3
from sb3_ext.engines import compiled
from sb3_ext.plugins.lfiw.algorithms import LFIWSAC
from tests.engines.test_steps import begin_alike, made, moments, require_the_references_updates


@pytest.fixture(autouse=True)
def nothing_compiled_yet() -> Iterator[None]:
    """All models of a process share torch.compile's limit of variants of one function."""
    compiled.obstacle()  # which compiles something once
    th._dynamo.reset()
    counters.clear()
    yield
    th._dynamo.reset()


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    ("cls", "setting"),
    [
        pytest.param(SAC, {"updates": 8}, id="SAC"),
        pytest.param(TD3, {"updates": 8}, id="TD3"),
        pytest.param(LFIWSAC, {"updates": 8, "fast_buffer_size": 20, "replay": "per"}, id="LFIW"),
        pytest.param(SAC, {"updates": 4, "critic_loss": "huber", "n_steps": 3}, id="huber"),
    ],
)
def test_an_update_is_the_references(cls: Any, setting: dict[str, Any]) -> None:
    require_the_references_updates("compiled", cls, setting)
    # Targets, critics, actor, each once; a loss of the user's is any function.
    assert counters["stats"]["unique_graphs"] == 3 - ("critic_loss" in setting)
    assert not counters["graph_break"]


@pytest.mark.usefixtures("compiler")
def test_it_leaves_the_rest_of_torch_as_it_was() -> None:
    """Dynamo turns off the checks of distributions, by which SB3's policies tell of NaN."""
    code = (
        "import torch as th\n"
        "from sb3_ext import SAC\n"
        "model = SAC('MlpPolicy', 'Pendulum-v1', engine='compiled', learning_starts=20)\n"
        "model.learn(22)\n"
        "th.distributions.Normal(th.tensor(th.nan), 1.0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ValueError: Expected parameter loc" in done.stderr


@pytest.mark.usefixtures("compiler")
def test_it_follows_what_changes() -> None:
    """Other batches, other tensors and another discount between two updates."""
    reference, other = (made(TD3, engine) for engine in ("reference", "compiled"))
    reference.learn(60)
    other._setup_learn(60)
    other.replay_buffer = reference.replay_buffer
    for batch_size, gamma in ((20, 0.99), (12, 0.99), (12, 0.5)):
        begin_alike(reference, other)
        for model in (reference, other):
            np.random.seed(batch_size)
            th.manual_seed(batch_size)
            model.gamma = gamma
            model.train(2, batch_size)
        theirs = moments(reference)
        for name, value in moments(other).items():
            th.testing.assert_close(value, theirs[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.usefixtures("compiler")
def test_it_says_what_it_does_and_where_it_does_not_fit(capsys: Any) -> None:
    made(SAC, "compiled", verbose=1)
    told = capsys.readouterr().out
    assert told.count("the first updates wait some seconds for torch.compile") == 1
    with pytest.raises(ValueError, match=r"engine='compiled' does not fit .* has no fast step"):
        made(DQN, "compiled")


@pytest.mark.usefixtures("compiler")
def test_copies_learn_on_their_own() -> None:
    """Functions that were compiled for the original work on its tensors."""
    model = made(TD3, "compiled").learn(40)
    copied = copy.deepcopy(model)
    assert copied.chosen_engine is None
    before = moments(model)
    copied.train(2, 20)
    assert all(th.equal(value, before[name]) for name, value in moments(model).items())
    assert not th.equal(copied.actor.mu[0].weight, model.actor.mu[0].weight)
    again = cloudpickle.loads(cloudpickle.dumps(model))
    assert all(th.equal(value, before[name]) for name, value in moments(again).items())


def test_without_a_compiler_it_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("No working C++ compiler found\nand much more")

    monkeypatch.setattr(th, "compile", fails)
    compiled.obstacle.cache_clear()
    try:
        with pytest.raises(ValueError, match=r"that a C\+\+ compiler.*No working.*engine='fused'"):
            made(SAC, "compiled")
    finally:
        compiled.obstacle.cache_clear()
