"""What all tests share: one thread, since they run in parallel, and a fixed random stream."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
