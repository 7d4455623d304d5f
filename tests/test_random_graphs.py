"""Networks that nobody here thought of: prepared, converted and exported, they answer alike.

The suite tries a sample; `make fuzz-graphs` 2,000, which XNORKIT_GRAPHS says.
"""

import os
import tempfile
from pathlib import Path

import torch
from converted_models import rows, spread_norms
from hypothesis import HealthCheck, given, settings
from random_graphs import CHANNELS, SIZE, Graph, graphs
from torch import nn

import quantize
from quantize.calling import evaluation_copy, tensors_in
from quantize.packed.check import disagreement

COUNT = int(os.environ.get("XNORKIT_GRAPHS", "40"))
SETTINGS = settings(
    max_examples=COUNT, deadline=None, derandomize=COUNT == 40, suppress_health_check=list(HealthCheck), database=None
)


def images(seed: int) -> torch.Tensor:
    return torch.randn(3, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def prepared(graph: Graph, scheme: str = "xnor") -> nn.Module:
    model = quantize.prepare(graph, scheme, images(0), keep_float=())
    spread_norms(model, images(0))
    return model


def answers(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """What it returns, in any form, and what it keeps."""
    with torch.no_grad():
        output = model(x.clone())
    returned = vars(output) if hasattr(output, "__dict__") and not isinstance(output, torch.Tensor) else output
    kept = [getattr(model, name) for name in ("feature", "detached") if hasattr(model, name)]
    return list(tensors_in((returned, kept, model.kept)))


def assert_alike(model: nn.Module, packed: nn.Module, x: torch.Tensor) -> None:
    """To rounding; or, where rounding moved a sign, layer by layer."""
    for expected, found in zip(answers(model, x), answers(packed, x), strict=True):
        assert found.dtype == expected.dtype
        if not torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())):
            assert disagreement(evaluation_copy(model), packed, x) == ""


@SETTINGS
@given(graphs())
def test_a_converted_graph_answers_as_the_prepared_one(graph):
    """Without the comparison in convert: what is fused is right by itself."""
    model = prepared(graph)
    packed = quantize.convert(model, images(0), check=False)
    for seed in (0, 1):
        assert_alike(model, packed, images(seed))


@settings(SETTINGS, max_examples=max(COUNT // 10, 8))
@given(graphs())
def test_the_comparison_takes_nothing_back(graph):
    packed = quantize.convert(prepared(graph), images(0))
    assert not [row for row in rows(packed).values() if "answers would differ" in row.note]


@settings(SETTINGS, max_examples=max(COUNT // 20, 3))
@given(graphs())
def test_an_exported_graph_answers_as_the_prepared_one(graph):
    """The exporter compares the file with PyTorch before it writes it, and raises where they differ."""
    graph.returns = "tensor"  # a file has tensors
    with tempfile.TemporaryDirectory() as folder:
        report = quantize.export_onnx(prepared(graph), Path(folder) / "graph.onnx", images(0))
    assert report.parity is not None
