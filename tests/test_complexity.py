"""summary(): the published totals, counts by hand, and a model that is left as it was."""

import math
import pickle

import pytest
import torch
from torch import nn

import models
import quantize

pytestmark = pytest.mark.core

# (in, out, kernel, side of the output) of the nine convolutions; the groups; whether layer 4 is 3x3.
SIDES = (32, 32, 32, 16, 16, 16, 8, 8, 8)
NIN = (192, 160, 96, 192, 192, 192, 192, 192), (1,) * 9
NIN_GC = (256, 256, 256, 512, 512, 512, 1024, 1024), (1, 2, 2, 16, 4, 4, 32, 8, 1)

PUBLISHED = {
    # name: (parameters, MACs in millions, the two lines of ptflops)
    "nin": (969_822, 225.16, "225.16 MMac", "969.82 k"),
    "nin_gc": (722_462, 196.87, "196.87 MMac", "722.46 k"),
    "nin_xnornet": (674_910, 17.26, "17.26 MMac", "674.91 k"),
    "nin_gc_xnornet": (589_854, 24.71, "24.71 MMac", "589.85 k"),
}


def network(name: str) -> nn.Module:
    """The network under its name: with its scheme where the name ends in one."""
    spec = models.resolve(name)
    model = models.create_model(name)
    return model if spec.scheme is None else quantize.prepare(model, spec.scheme, image(spec))


def image(spec, samples: int = 2) -> torch.Tensor:
    return torch.randn(samples, *spec.input_size, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_totals(name):
    parameters, millions, complexity, count = PUBLISHED[name]
    total = quantize.summary(network(name), torch.randn(1, 3, 32, 32))
    assert total.parameters == parameters
    assert round(total.macs / 1e6, 2) == millions
    assert total.ptflops_lines() == [
        f"==> Computational complexity:  {complexity}",
        f"==> Number of parameters:    {count}",
    ]


@pytest.mark.parametrize(
    ("name", "config", "weights", "millions"),
    [("nin_xnornet", NIN, 654_336, 132.1), ("nin_gc_xnornet", NIN_GC, 548_864, 137.4)],
)
def test_binary_layers_of_the_networks_in_network(name, config, weights, millions):
    widths, groups = config
    model = network(name)
    total = quantize.summary(model, torch.randn(1, 3, 32, 32))
    binary = [m for m in model.modules() if isinstance(m, quantize.BinaryLayer)]
    sizes = [widths[i - 1] // groups[i] * (9 if i in (3, 6) else 1) * widths[i] for i in range(1, 8)]
    macs = [size * side**2 for size, side in zip(sizes, SIDES[1:8], strict=True)]
    assert [m.weight.numel() for m in binary] == sizes
    assert sum(sizes) == weights
    assert [row.binary_macs for row in total.layers if row.binary_macs] == macs
    assert total.binary_macs == sum(macs)
    assert round(total.binary_macs / 1e6, 1) == millions
    assert total.binary_lines()[0] == f"==> Binary operations:  {round(sum(macs) / 1e6, 2)} MMac"


def test_lenet5():
    model = models.create_model("lenet5")
    total = quantize.summary(model, torch.randn(1, 1, 28, 28))
    assert total.parameters == 431_220
    biases = 20 * 24 * 24 + 50 * 8 * 8 + 500 + 10
    assert sum(row.macs for row in total.layers if row.type in ("Conv2d", "Linear")) - biases == 2_293_000
    binary = quantize.summary(network("lenet5_xnornet"), torch.randn(1, 1, 28, 28))
    assert binary.binary_macs == 50 * 20 * 25 * 8 * 8 + 800 * 500


def prepared_by_hand() -> tuple[nn.Module, torch.Tensor]:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 6, 3, stride=2, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 9, 10),
        nn.Linear(10, 2),
    )
    x = torch.randn(4, 3, 8, 8)
    return quantize.prepare(model, "xnor", x, overrides={"5": "binaryconnect"}), x


def test_every_number_by_hand():
    model, x = prepared_by_hand()
    total = quantize.summary(model, x)
    rows = {row.name: row for row in total.layers}
    assert list(rows) == ["0", "1", "2", "3", "5", "6"]
    numbers = {n: (r.macs, r.binary_macs, r.parameters, r.float_bytes, r.packed_bytes) for n, r in rows.items()}
    assert numbers == {
        "0": (4 * 27 * 64, 0, 108, 432, 432),
        "1": (2 * 4 * 64, 0, 8, 4 * (4 * 4) + 8, 4 * (4 * 4) + 8),  # the batch counter has 8 bytes
        # a filter of 18 bits takes 3 bytes, its scale 4; 6 biases
        "2": (0, 6 * 18 * 9, 114, 4 * 114, 6 * (3 + 4) + 24),
        "3": (54, 0, 0, 0, 0),
        # 54 bits: 7 bytes, no scale; 10 biases
        "5": (0, 540, 550, 2200, 10 * 7 + 40),
        "6": (22, 0, 22, 88, 88),
    }
    assert total.macs == sum(row.macs for row in total.layers)
    assert total.parameters == sum(p.numel() for p in model.parameters()) == 802
    assert total.float_bytes == sum(t.numel() * t.element_size() for t in model.state_dict().values())
    assert total.packed_bytes == sum(row.packed_bytes for row in total.layers)
    ratio = total.float_bytes / total.packed_bytes
    assert total.binary_lines()[1] == (
        f"==> Size:  {total.float_bytes:,} bytes in float, {total.packed_bytes:,} packed ({ratio:.1f}x smaller)"
    )


def test_the_table():
    model, x = prepared_by_hand()
    lines = str(quantize.summary(model, x)).splitlines()
    assert lines[0].split() == [
        *("layer", "type", "MACs", "binary", "MACs", "parameters", "float", "bytes", "packed", "bytes"),
    ]
    assert lines[4].split() == ["2", "BinaryConv2d", "0", "972", "114", "456", "66"]
    assert lines[-1].split()[:2] == ["total", "Sequential"]
    assert len({len(line) for line in lines}) == 1  # numbers end in the same column


@pytest.mark.parametrize(
    ("scheme", "bits", "scale"),
    [("xnor", 1, 4), ("bnn", 1, 0), ("ternary", 2, 4), ("dorefa:w_bits=3", 3, 0), ("dorefa:w_bits=32", 32, 0)],
)
def test_packed_bytes_of_a_scheme(scheme, bits, scale):
    model = quantize.prepare(nn.Sequential(nn.ConvTranspose2d(6, 4, 3, groups=2, bias=False)), scheme, keep_float=())
    row = quantize.summary(model, torch.randn(1, 6, 5, 5)).layers[0]
    added = row.float_bytes - 4 * model[0].weight.numel()
    assert row.packed_bytes - added == 4 * (math.ceil(27 * bits / 8) + scale)
    assert (row.binary_macs > 0) == (bits == 1)
    assert (row.macs > 0) == (bits != 1)


@pytest.mark.parametrize("scheme", quantize.list_schemes())
def test_every_scheme_has_a_cost(scheme):
    x = torch.randn(2, 8, 6, 6)
    model = quantize.prepare(nn.Sequential(nn.Conv2d(8, 8, 3)), scheme, x, keep_float=())
    total = quantize.summary(model, x)
    assert total.macs + total.binary_macs >= 8 * 72 * 16
    bits = quantize.get_scheme(scheme).weight_bits
    assert total.packed_bytes < total.float_bytes * max(1 / 4, 1.2 * bits / 32)  # with scales, thresholds, biases


@pytest.mark.parametrize("name", ["nin_gc", "lenet5_xnornet"])
def test_the_batch_does_not_matter(name):
    model, spec = network(name), models.resolve(name)
    costs = [quantize.summary(model, image(spec, samples)) for samples in (1, 3)]
    assert costs[0] == costs[1]


class StandardizedConv(nn.Conv2d):
    """A subclass with a forward of its own, which ptflops alone does not count."""

    def forward(self, x):
        return super().forward(x)


def test_subclasses_are_counted():
    class Plain(nn.Conv2d):
        pass

    x = torch.randn(1, 3, 6, 6)
    expected = quantize.summary(nn.Sequential(nn.Conv2d(3, 4, 3)), x).macs
    assert expected == 4 * 16 * 28
    assert quantize.summary(nn.Sequential(Plain(3, 4, 3)), x).macs == expected
    assert quantize.summary(nn.Sequential(StandardizedConv(3, 4, 3)), x).macs == expected
    assert quantize.summary(nn.Conv2d(3, 4, 3), x).macs == expected


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(3, 4), nn.Linear(5, 4)

    def forward(self, a, b):
        return self.left(a) + self.right(b)


@pytest.mark.parametrize("as_dict", [False, True])
def test_several_inputs(as_dict):
    a, b = torch.randn(6, 3), torch.randn(6, 5)
    total = quantize.summary(TwoInputs(), {"b": b, "a": a} if as_dict else (a, b))
    assert total.macs == 4 * 4 + 6 * 4


def test_a_reused_layer_costs_every_call_and_is_stored_once():
    layer = nn.Linear(4, 4, bias=False)
    total = quantize.summary(nn.Sequential(layer, layer, layer), torch.randn(2, 4))
    assert total.macs == 3 * 16
    assert total.parameters == 16
    assert total.float_bytes == 64


def test_frozen_parameters_are_no_parameters_and_take_their_bytes():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    total = quantize.summary(model, torch.randn(2, 4))
    assert total.parameters == 10
    assert total.float_bytes == 120


def test_a_pending_threshold_is_no_parameter_yet():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    prepared = quantize.prepare(model, "xnor")
    assert quantize.summary(prepared, torch.randn(2, 4)).parameters == 20 + 20 + 10
    prepared(torch.rand(8, 4))
    assert quantize.summary(prepared, torch.randn(2, 4)).parameters == 20 + 20 + 4 + 10


@pytest.mark.parametrize("scheme", [*quantize.list_schemes(), "binaryconnect:stochastic=true"])
def test_the_model_and_the_random_stream_are_left_as_they_were(scheme, capfd):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    x = torch.randn(2, 3, 8, 8)
    model = quantize.prepare(model, scheme, x)
    before = pickle.dumps(model)
    attributes = [set(vars(m)) for m in model.modules()]
    stream = torch.get_rng_state()
    quantize.summary(model, x)
    assert torch.equal(torch.get_rng_state(), stream)
    assert [set(vars(m)) for m in model.modules()] == attributes
    assert pickle.dumps(model) == before
    assert model.training
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("example_input", "message"),
    [
        (torch.randn(2, 5, 32, 32), r"the model does not run on example_input, of shape \(2, 5, 32, 32\)"),
        (torch.tensor(3.0), "example_input holds no tensor with a batch: of shape "),
        (torch.randn(0, 3, 32, 32), r"example_input holds no tensor with a batch: of shape \(0, 3, 32, 32\)"),
    ],
)
def test_a_bad_example(example_input, message, capfd):
    with pytest.raises(ValueError, match=message):
        quantize.summary(nn.Sequential(nn.Conv2d(3, 4, 3)), example_input)
    assert capfd.readouterr() == ("", "")


class ByKeyword(nn.Module):
    """Calls its layers by keywords where ``keywords``, else by position; its attention gets a mask too."""

    def __init__(self, keywords: bool):
        super().__init__()
        self.keywords = keywords
        self.conv, self.norm, self.linear = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        if self.keywords:
            x = self.linear(input=self.norm(input=self.conv(input=x)).flatten(2).mT)
            return self.attention(query=x, key=x, value=x, key_padding_mask=None, need_weights=False)[0]
        x = self.linear(self.norm(self.conv(x)).flatten(2).mT)
        return self.attention(x, x, x, None, False)[0]


def test_layers_that_are_called_by_keywords_count_the_same(capsys):
    x = torch.randn(2, 3, 7, 7)
    costs = [quantize.summary(ByKeyword(keywords), x) for keywords in (True, False)]
    assert costs[0] == costs[1]
    macs = {row.name: row.macs for row in costs[0].layers}
    assert macs["conv"] == 25 * 8 * 27 + 25 * 8
    assert macs["linear"] == 25 * 8 * 8 + 25 * 8
    assert macs["attention"] > 4 * 25 * 8 * 8
    assert "Traceback" not in capsys.readouterr().err


def test_a_compiled_model_costs_what_the_model_does():
    x = torch.randn(2, 3, 7, 7)
    model = quantize.prepare(ByKeyword(False), "xnor", x, keep_float=())
    assert quantize.summary(torch.compile(model, backend="eager"), x) == quantize.summary(model, x)


CHAINS = {
    "images": (lambda: [nn.Conv2d(5, 72, 3), nn.BatchNorm2d(72), nn.Conv2d(72, 9, 3, 2)], (2, 5, 9, 12)),
    "sequences": (lambda: [nn.Conv1d(5, 72, 3), nn.BatchNorm1d(72), nn.Conv1d(72, 9, 3)], (2, 5, 21)),
    "tokens": (lambda: [nn.Linear(5, 72), nn.Hardtanh(), nn.Linear(72, 9)], (2, 7, 5)),
    "rows": (lambda: [nn.Linear(5, 72), nn.Hardtanh(), nn.Linear(72, 9)], (2, 5)),
}


@pytest.mark.parametrize("kind", CHAINS)
def test_a_converted_layer_costs_what_the_prepared_one_does(kind):
    """From floats to bits, and from bits to floats."""
    build, shape = CHAINS[kind]
    x = torch.randn(shape)
    prepared = quantize.prepare(nn.Sequential(*build()), "xnor", x, keep_float=())
    packed = quantize.convert(prepared, x)
    assert packed[0].folding.output_bits
    costs = [
        {row.name: row.binary_macs for row in quantize.summary(model, x).layers if row.binary_macs}
        for model in (prepared, packed)
    ]
    assert costs[0] == costs[1]
    assert costs[0].keys() == {"0", "2"}


def test_a_model_without_parameters():
    lines = quantize.summary(nn.Sequential(nn.ReLU()), torch.randn(1, 3)).binary_lines()
    assert lines[1] == "==> Size:  0 bytes in float, 0 packed (1.0x smaller)"
