"""Networks that nobody here thought of: prepared, converted and exported, they answer alike.

The suite tries a sample; `make fuzz-graphs` 2,000, which XNORKIT_GRAPHS says, and of them XNORKIT_GRAPHS_EXPORTED
exported.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from converted_models import rows, spread_norms
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_graphs import DTYPES, KEPT_BY_HOOKS, Graph, graphs
from torch import nn

import quantize
from quantize.calling import evaluation_copy
from quantize.packed.check import disagreement

COUNT = int(os.environ.get("XNORKIT_GRAPHS", "40"))
EXPORTED = int(os.environ.get("XNORKIT_GRAPHS_EXPORTED", max(COUNT // 20, 3)))
SETTINGS = settings(
    max_examples=COUNT, deadline=None, derandomize=COUNT == 40, suppress_health_check=list(HealthCheck), database=None
)
SCHEMES = st.sampled_from(["xnor"] * 8 + ["bireal", "bnn", *quantize.list_schemes(), "xnor:input_scale=true"])


def images(graph: Graph, seed: int, batch: int = 3) -> torch.Tensor:
    return graph.kind.images(batch, graph.channels, seed)


def prepared(graph: Graph, scheme: str = "xnor", dtype: str = "float32") -> nn.Module:
    """As after training: with a step of it, statistics of data, and a few weights that are exactly zero."""
    model = quantize.prepare(graph, scheme, images(graph, 0), keep_float=())
    spread_norms(model, images(graph, 0))
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, quantize.BinaryLayer):
                layer.weight[:, 0] = 0
    return model.to(getattr(torch, dtype))


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """In whatever object."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)
    elif hasattr(value, "__dict__"):
        yield from tensors_in(vars(value))


def answers(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """What it returns, in any form, and what it keeps."""
    KEPT_BY_HOOKS.clear()
    with torch.no_grad():
        output = model(x.clone())
    return list(tensors_in([output, model.remembered()]))


def assert_alike(model: nn.Module, packed: nn.Module, x: torch.Tensor) -> None:
    """To rounding; or, where rounding moved a sign, layer by layer."""
    for expected, found in zip(answers(model, x), answers(packed, x), strict=True):
        assert found.dtype == expected.dtype
        if not torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())):
            assert disagreement(evaluation_copy(model), packed, x) == ""


@settings(SETTINGS, max_examples=max(COUNT // 4, 10))
@given(graphs(), SCHEMES)
def test_a_captured_graph_answers_as_the_converted_one(graph, scheme):
    """To the last bit; a few return objects of their own, which is said."""
    x = images(graph, 1)
    packed = quantize.convert(prepared(graph, scheme), x, check=False)
    refusals = ("the model returns a ", "the run calls nothing of the native library")
    try:
        run = quantize.capture(packed, x)
    except quantize.CannotCapture as refused:
        # In training mode a batch norm counts its calls, and computes with the number.
        if not str(refused).startswith(refusals) and "in training" not in repr(graph):
            raise
        return
    for seed in (1, 2):
        y = images(graph, seed)
        for expected, found in zip(tensors_in(packed(y.clone())), tensors_in(run(y)), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@SETTINGS
@given(graphs(), SCHEMES, st.sampled_from(DTYPES))
def test_a_converted_graph_answers_as_the_prepared_one(graph, scheme, dtype):
    """Without the comparison in convert: what is fused is right by itself. In batches of other sizes too."""
    model = prepared(graph, scheme, dtype)
    packed = quantize.convert(model, images(graph, 0), check=False)
    model = evaluation_copy(model)
    for seed, batch in ((0, 3), (1, 3), (2, 1), (3, 4)):
        assert_alike(model, packed, images(graph, seed, batch))


@settings(SETTINGS, max_examples=max(COUNT // 10, 8))
@given(graphs(), SCHEMES)
def test_the_comparison_takes_nothing_back(graph, scheme):
    packed = quantize.convert(prepared(graph, scheme), images(graph, 0))
    assert not [row for row in rows(packed).values() if "answers would differ" in row.note]


@settings(SETTINGS, max_examples=EXPORTED)
@given(graphs(traced=True), SCHEMES)
def test_an_exported_graph_answers_as_the_prepared_one(graph, scheme):
    """The exporter compares the file with PyTorch before it writes it, and raises where they differ."""
    with tempfile.TemporaryDirectory() as folder:
        report = quantize.export_onnx(prepared(graph, scheme), Path(folder) / "graph.onnx", images(graph, 0))
    assert report.parity is not None
