"""What tests share: one thread, since they run in parallel, a fixed random stream, and a place for what people call."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def empty_directory(tmp_path, monkeypatch):
    """The current one, on a terminal of 80 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
