"""Packed and expanded layers: what they compute, hold, save, refuse."""

import copy
import dataclasses
import io
import pickle
import threading
import warnings
from pathlib import Path

import pytest
import torch
from converted_models import converted, network
from torch import nn

import models
import quantize
from quantize.packed import PackedLayer, ops
from quantize.packed.codes.expanded import ExpandedLayer
from quantize.packed.state import decode_header, encode_header

pytestmark = pytest.mark.core

LAYERS = {
    "conv": (lambda: nn.Conv2d(70, 33, 3, padding=1, bias=False), (2, 70, 9, 7)),
    "bias": (lambda: nn.Conv2d(64, 32, 3, padding=1), (2, 64, 9, 7)),
    "groups": (lambda: nn.Conv2d(48, 36, 3, groups=4, padding=2, dilation=2), (2, 48, 9, 7)),
    "stride": (lambda: nn.Conv2d(65, 16, (5, 3), stride=(2, 3), padding=(2, 0)), (1, 65, 12, 9)),
    "same": (lambda: nn.Conv2d(64, 16, (2, 4), padding="same"), (2, 64, 6, 7)),
    "reflect": (lambda: nn.Conv2d(64, 16, 3, padding=1, padding_mode="reflect"), (2, 64, 6, 7)),
    "circular": (lambda: nn.Conv2d(64, 16, 3, padding=(1, 2), padding_mode="circular"), (2, 64, 6, 7)),
    "replicate": (lambda: nn.Conv2d(64, 16, 3, padding=1, padding_mode="replicate"), (2, 64, 6, 7)),
    "unbatched": (lambda: nn.Conv2d(64, 16, 3), (64, 6, 7)),
    "conv1d": (lambda: nn.Conv1d(40, 24, 5, stride=2, padding=2, groups=2), (3, 40, 21)),
    "conv1d same": (lambda: nn.Conv1d(40, 24, 4, padding="same"), (3, 40, 21)),
    "conv1d reflect": (lambda: nn.Conv1d(40, 24, 3, padding=2, padding_mode="reflect"), (3, 40, 21)),
    "conv1d circular": (lambda: nn.Conv1d(40, 24, 4, padding="same", padding_mode="circular"), (40, 21)),
    "linear": (lambda: nn.Linear(100, 33), (5, 100)),
    "linear of tokens": (lambda: nn.Linear(100, 33, bias=False), (2, 3, 5, 100)),
    "linear of one": (lambda: nn.Linear(100, 33), (100,)),
}
SIGNED = ["xnor", "xnor:input_scale=True", "bnn", "bireal", "react", "xnorpp", "irnet", "recu"]


@pytest.mark.parametrize("scheme", SIGNED)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_computes_what_the_prepared_one_does(name, scheme):
    build, shape = LAYERS[name]
    torch.manual_seed(0)
    layer = quantize.prepare(nn.Sequential(build()), scheme, keep_float=()).eval()
    if layer[0].threshold is not None:
        nn.init.normal_(layer[0].threshold, std=0.3)
    x = torch.randn(shape)
    packed = quantize.convert(layer, x)
    assert isinstance(packed[0], PackedLayer)
    expected = layer(x)
    assert packed(x).shape == expected.shape
    torch.testing.assert_close(packed(x), expected, rtol=1e-6, atol=1e-6)
    if "input_scale" not in scheme:
        assert torch.equal(packed(x), expected)


EXPANDED = {
    "bwn": (lambda: nn.Conv2d(6, 9, 3, padding=1), "bwn", (2, 6, 7, 7)),
    "binaryconnect": (lambda: nn.Linear(50, 7), "binaryconnect:stochastic=True", (2, 50)),
    "ternary": (lambda: nn.Conv1d(6, 9, 3), "ternary", (2, 6, 7)),
    "dorefa": (lambda: nn.Conv2d(6, 9, 3, groups=3), "dorefa:w_bits=3,a_bits=2", (2, 6, 7, 7)),
    "dorefa 1": (lambda: nn.Conv2d(6, 9, 3), "dorefa", (2, 6, 7, 7)),
    "conv3d": (lambda: nn.Conv3d(6, 9, 3, padding=1), "xnor", (1, 6, 5, 5, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(6, 8, 3, stride=2, groups=2), "xnor", (2, 6, 5, 5)),
    "rows and columns": (lambda: nn.Conv2d(6, 8, 3), "xnorpp:spatial=True", (2, 6, 5, 5)),
}


@pytest.mark.parametrize("name", EXPANDED)
def test_a_layer_without_a_kernel_stores_bits_and_computes_the_same(name):
    build, scheme, shape = EXPANDED[name]
    torch.manual_seed(0)
    x = torch.randn(shape)
    layer = quantize.prepare(nn.Sequential(build()), scheme, x, keep_float=()).eval()
    packed = quantize.convert(layer, x)
    assert isinstance(packed[0], ExpandedLayer)
    torch.testing.assert_close(packed(x), layer(x), rtol=1e-6, atol=1e-6)  # what it adds up on bits is exact
    bits = quantize.get_scheme(scheme).weight_bits
    weight = layer[0].weight
    out = weight.numel() // layer[0].to_filters(weight)[0].numel()
    assert packed[0].weight_codes.numel() == out * -(-(weight.numel() // out * bits) // 8)
    assert not any(p.numel() == weight.numel() for p in packed.state_dict().values())


def test_state_dict_goes_into_a_model_converted_elsewhere():
    prepared, packed, x = network()
    buffer = io.BytesIO()
    torch.save(packed.state_dict(), buffer)
    buffer.seek(0)
    torch.manual_seed(1)
    fresh = quantize.convert(quantize.prepare(models.create_model("nin_gc_xnornet"), example_input=x), x)
    assert not torch.equal(fresh(x), packed(x))
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(fresh(x), packed(x))
    for key, value in packed.state_dict().items():
        same = torch.equal if isinstance(value, torch.Tensor) else dict.__eq__
        assert same(fresh.state_dict()[key], value), key


def test_a_file_is_as_small_as_the_summary_says():
    prepared, packed, x = network()
    tensors = [t for name, t in packed.state_dict().items() if not name.endswith("_extra_state")]
    stored = sum(t.numel() * t.element_size() for t in tensors)
    total = quantize.summary(packed, x)
    assert total.packed_bytes == total.float_bytes == stored
    buffer = io.BytesIO()
    torch.save(packed.state_dict(), buffer)
    assert stored < buffer.tell() < stored + 1000 * len(packed.state_dict())  # names and headers
    weights = {name: m.weight.numel() for name, m in prepared.named_modules() if isinstance(m, quantize.BinaryLayer)}
    for name, count in weights.items():
        dense = packed.state_dict()[f"{name}.weight_bits"]
        assert dense.dtype == torch.uint8
        assert dense.numel() == count / 8
    assert total.binary_macs == quantize.summary(prepared, x).binary_macs


@pytest.mark.parametrize("way", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net)), lambda net: net.to("cpu")])
def test_copies_compute_the_same(way):
    _, packed, x = network()
    assert torch.equal(way(packed)(x), packed(x))


def doubled(packed, way: str) -> torch.Tensor | None:
    """The layer's scale is doubled in one of the ways in which buffers change; its output, where that is for a call."""
    x, scale = torch.ones(1, 64, 6, 6), packed.scale * 2
    if way == "lent for a call":
        return torch.func.functional_call(packed, {"scale": scale}, (x,))
    if way == "set":
        packed.scale = scale
    elif way == "registered":
        packed.register_buffer("scale", scale)
    elif way == "written over":
        packed.scale.mul_(2)
    elif way == "applied":
        packed._apply(lambda t: t * 2 if t.shape == scale.shape and t.dtype == scale.dtype else t)
    else:
        packed.load_state_dict({**packed.state_dict(), "scale": scale}, assign=way == "assigned")
    return packed(x)


WAYS = ["lent for a call", "set", "registered", "written over", "applied", "loaded", "assigned"]


@pytest.mark.parametrize("way", WAYS)
def test_a_layer_computes_with_the_buffers_that_it_has_now(way):
    prepared = quantize.prepare(nn.Conv2d(64, 32, 3, bias=False), keep_float=())
    packed = quantize.convert(prepared, torch.randn(1, 64, 6, 6))
    expected = packed(torch.ones(1, 64, 6, 6)) * 2
    assert expected.abs().sum() > 0
    packed = copy.deepcopy(packed)
    packed(torch.ones(1, 64, 6, 6))
    assert torch.equal(doubled(packed, way), expected)
    if way == "lent for a call":
        assert torch.equal(packed(torch.ones(1, 64, 6, 6)) * 2, expected)


def test_a_changed_folding_counts_at_once():
    x = torch.randn(1, 64, 6, 6)
    packed = quantize.convert(quantize.prepare(nn.Conv2d(64, 32, 3, bias=False), keep_float=()), x)
    before = packed(x)
    assert (before < 0).any()
    packed.folding = dataclasses.replace(packed.folding, relu=True)
    assert torch.equal(packed(x), before.relu())


def test_what_was_loaded_and_has_not_run_is_not_traced():
    x = torch.randn(1, 64, 6, 6)
    packed = quantize.convert(quantize.prepare(nn.Conv2d(64, 32, 3), keep_float=()), x)
    packed.load_state_dict(packed.state_dict())
    with pytest.raises(RuntimeError, match=r"cannot be exported or compiled before it ran: .* call the model once"):
        torch.export.export(packed, (x,))
    expected = packed(x)
    assert torch.equal(torch.export.export(packed, (x,)).module()(x), expected)


def test_another_device_gets_dense_bits():
    x = torch.randn(1, 64, 6, 6)
    packed = quantize.convert(quantize.prepare(nn.Conv2d(64, 32, 3), keep_float=()), x)
    assert packed.weights.dim() == 1
    assert packed.to("meta").weights.shape == (32, 72)


def test_one_copy_of_the_bits_is_in_memory():
    x = torch.randn(1, 256, 14, 14)
    packed = quantize.convert(quantize.prepare(nn.Conv2d(256, 256, 3, padding=1), keep_float=()), x)
    held = sum(t.untyped_storage().nbytes() for t in packed.buffers() if t.dtype == torch.uint8)
    assert held <= 256 * 256 * 9 / 8 + 256  # and the header


HEADER = {"groups": 2, "channels": 65, "kernel": (3, 5), "relu": True, "shuffle": 4, "input_bits": True, "version": 2}


@pytest.mark.parametrize("field", HEADER)
def test_a_changed_header_is_refused_and_nothing_is_loaded(field):
    x = torch.randn(1, 64, 6, 6)
    packed = quantize.convert(quantize.prepare(nn.Conv2d(64, 32, 3), keep_float=()), x)
    state, before = copy.deepcopy(packed.state_dict()), packed(x)
    state["_extra_state"] = encode_header({**decode_header(state["_extra_state"]), field: HEADER[field]})
    state["weight_bits"] ^= 255
    message = "version 2; this xnorkit reads version 1" if field == "version" else f"{field} is "
    with pytest.raises(RuntimeError, match=message):
        packed.load_state_dict(state)
    assert torch.equal(packed(x), before)


def test_damaged_bits_are_refused():
    x = torch.randn(1, 65, 6, 6)
    packed = quantize.convert(quantize.prepare(nn.Conv2d(65, 32, 3), keep_float=()), x)
    good = packed.state_dict()
    damage = {
        "truncated": good["weight_bits"][:, :-1],
        "of another type": good["weight_bits"].float(),
        "fewer filters": good["weight_bits"][1:],
        "past a filter's end": good["weight_bits"] | 128,
    }
    for name, bits in damage.items():
        with pytest.raises(RuntimeError, match="packed weights of filters|weights is float32|damaged"):
            packed.load_state_dict({**good, "weight_bits": bits})
        assert torch.equal(packed.state_dict()["weight_bits"], good["weight_bits"]), name
    with pytest.raises(RuntimeError, match="weight_bits"):
        packed.load_state_dict({key: value for key, value in good.items() if key != "weight_bits"})
    with pytest.raises(RuntimeError, match="size mismatch for scale"):
        packed.load_state_dict({**good, "scale": good["scale"][:5]})


def test_wrong_inputs_have_clear_errors():
    x = torch.randn(1, 64, 6, 6)
    packed = quantize.convert(quantize.prepare(nn.Conv2d(64, 32, 3), keep_float=()), x)
    with pytest.raises(TypeError, match="PackedConv2d takes float32, got float64"):
        packed(x.double())
    with pytest.raises(ValueError, match="x has 63 channels; the convolution takes 64"):
        packed(x[:, 1:])
    with pytest.raises(ValueError, match="width is 0"):
        packed(x[..., :0])
    with pytest.raises(RuntimeError, match=r"packed layers have no gradient.*quantize.prepare"):
        packed(x.requires_grad_())
    with torch.no_grad():
        packed(x)
    with torch.inference_mode():
        packed(x)
    expanded = quantize.convert(quantize.prepare(nn.Linear(6, 3), "bwn", keep_float=()), torch.randn(2, 6))
    with pytest.raises(RuntimeError, match="have no gradient"):
        expanded(torch.randn(2, 6, requires_grad=True))


@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format])
def test_memory_orders(order):
    x = torch.randn(2, 64, 6, 7)
    prepared, packed = converted(nn.Conv2d(64, 32, 3), x, keep_float=())
    y = packed(x.contiguous(memory_format=order))
    assert y.is_contiguous(memory_format=order)
    assert torch.equal(y, prepared(x))
    assert torch.equal(packed(x.transpose(2, 3)), prepared(x.transpose(2, 3)))
    assert torch.equal(packed(x.expand(3, 2, 64, 6, 7)[1]), prepared(x))


@pytest.mark.parametrize("scheme", ["xnor", "xnor:input_scale=True"])
@pytest.mark.parametrize("name", ["conv", "conv1d", "linear", "linear of tokens"])
def test_no_samples(name, scheme):
    build, shape = LAYERS[name]
    prepared, packed = converted(nn.Sequential(build(), nn.ReLU()), torch.randn(shape), scheme, keep_float=())
    x = torch.randn(0, *shape[1:])
    assert packed(x).shape == prepared(x).shape
    prepared, packed = converted(nn.Sequential(build()), torch.randn(shape), scheme, keep_float=())
    fresh = copy.deepcopy(packed)
    assert fresh(x).shape == prepared(x).shape
    x = torch.randn(shape)
    assert torch.equal(fresh(x), packed(x))  # what no sample passed through is ready for one


def test_no_samples_through_bits_and_their_pooling():
    net = nn.Sequential(nn.Conv2d(6, 9, 3), nn.MaxPool2d(2), nn.Conv2d(9, 4, 2))
    prepared, packed = converted(net, torch.randn(2, 6, 9, 8), keep_float=())
    assert packed(torch.randn(0, 6, 9, 8)).shape == prepared(torch.randn(0, 6, 9, 8)).shape


@pytest.mark.parametrize("kind", ["prepared", "packed"])
def test_a_trace_of_torchscript_computes_with_its_input(kind):
    net = nn.Sequential(nn.Conv2d(6, 9, 3), nn.MaxPool2d(2), nn.Conv2d(9, 4, 2), nn.Flatten(), nn.Linear(16, 5))
    model = dict(zip(("prepared", "packed"), converted(net, torch.randn(2, 6, 9, 8), keep_float=()), strict=True))[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; sizes become constants
        traced = torch.jit.trace(model, torch.randn(2, 6, 9, 8))
    for _ in range(3):
        x = torch.randn(2, 6, 9, 8)
        assert torch.equal(traced(x), model(x))


def test_export_and_compile():
    prepared, packed, x = network()
    expected = packed(x)
    program = torch.export.export(packed, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert "xnorkit.conv2d" in str(program.graph)
    assert torch.equal(program.module()(x[:3]), expected[:3])
    compiled = torch.compile(packed, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), expected)
    torch.compiler.reset()


def test_operators_have_fakes_that_agree():
    x, words = torch.randn(2, 64, 6, 7), torch.randint(0, 9, (2, 6, 7, 1))
    packed = quantize.convert(quantize.prepare(nn.Conv2d(64, 32, 3), keep_float=()), x)
    geometry = ops.flatten_geometry(packed.geometry)
    pool = ops.flatten_pool(quantize.kernels.PoolGeometry((2, 2), (2, 2), (0,) * 4, (1, 1), (3, 3)))
    for images in (x, x.contiguous(memory_format=torch.channels_last), words):
        for bits in (False, True):
            torch.library.opcheck(
                ops.conv2d, (images, packed.weights, geometry), {"bits": bits, "scale": packed.scale},
                test_utils=("test_schema", "test_faketensor"),
            )  # fmt: skip
    torch.library.opcheck(ops.max_pool2d, (words, 64, pool), test_utils=("test_schema", "test_faketensor"))


def test_threads_of_the_caller_get_the_same_answers():
    _, packed, x = network()
    inputs = [torch.randn(2, 3, 32, 32) for _ in range(4)]
    expected = [packed(x) for x in inputs]
    found: dict[int, list[torch.Tensor]] = {}

    def work(i: int) -> None:
        found[i] = [packed(inputs[i]) for _ in range(10)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        assert len(found[i]) == 10
        assert all(torch.equal(y, expected[i]) for y in found[i])


@pytest.mark.parametrize("name", ["dorefa", "ternary", "transposed", "rows and columns"])
def test_a_state_that_an_older_version_wrote_is_loaded(name):
    """tests/data/expanded_1.pt: written when expanded layers were binary layers of seven classes."""
    old = torch.load(Path(__file__).parent / "data" / "expanded_1.pt", weights_only=True)[name]
    build, scheme, _ = EXPANDED[name]
    prepared = quantize.prepare(nn.Sequential(build()), scheme, old["input"], keep_float=())
    converted = quantize.convert(prepared, old["input"])
    converted.load_state_dict(old["state"])
    torch.testing.assert_close(converted(old["input"]), old["output"])  # floats, of another machine
    assert converted.state_dict().keys() == old["state"].keys()
