import pytest


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    for variable in ("WANDB_MODE", "WANDB_NAME", "WANDB_PROJECT"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"
