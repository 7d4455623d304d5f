"""Attention in an exported network: of any rank, as PyTorch computes it."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import quantize
from quantize.export.tracing import attention

MASK = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(), (3,), (3, 2), (3, 2, 4)], ids=len)
@pytest.mark.parametrize(
    "options",
    [{}, {"attn_mask": MASK}, {"attn_mask": MASK > -1}, {"is_causal": True}, {"scale": 0.3}],
    ids=["plain", "bias", "mask", "causal", "scale"],
)
def test_attention_equals_pytorchs(shape, options):
    query, key, value = torch.randn(*shape, 5, 8), torch.randn(*shape, 7, 8), torch.randn(*shape, 7, 6)
    expected = F.scaled_dot_product_attention(query, key, value, **options)
    torch.testing.assert_close(attention(query, key, value, **options), expected)


class Windows(nn.Module):
    """Attention within windows: (N, 8, 32) -> (N, 8, 32), the heads' inputs of 3 or 5 dimensions."""

    def __init__(self, rank):
        super().__init__()
        self.rank, self.qkv = rank, nn.Linear(32, 96)

    def forward(self, x):
        parts = self.qkv(x).chunk(3, -1)
        if self.rank == 5:
            parts = [part.unflatten(1, (2, 4)).unflatten(-1, (4, 8)).transpose(2, 3) for part in parts]
        y = F.scaled_dot_product_attention(*parts)
        return y if self.rank == 3 else y.transpose(2, 3).flatten(-2).flatten(1, 2)


@pytest.mark.parametrize("rank", [3, 5])
def test_attention_of_any_rank_is_exported(rank, tmp_path):
    x = torch.randn(2, 8, 16)
    model = nn.Sequential(nn.Linear(16, 32), Windows(rank), nn.Linear(32, 32), nn.Linear(32, 4))
    binary = quantize.prepare(model, "xnor", x).eval()
    quantize.export_onnx(binary, tmp_path / "net.onnx", x)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    for images in (x, torch.randn(5, 8, 16)):
        (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        np.testing.assert_allclose(found, binary(images).detach().numpy(), atol=1e-5)
