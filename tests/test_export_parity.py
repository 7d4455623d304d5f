"""The comparison of the file with PyTorch: it sees what is wrong, and takes rounding for what it is."""

import copy

import pytest
import torch
from onnx_runs import export_standard as export_onnx
from torch import nn

import quantize
from quantize import ExportMismatch
from quantize.export import exporter, parity
from quantize.export.formats import FORMATS, Format
from quantize.export.onnx_session import create_session

pytestmark = pytest.mark.core


@pytest.fixture
def broken_format(monkeypatch):
    """A format that stores one weight of layer "3" with the wrong sign."""

    class Broken(Format):
        def lower(self, model: nn.Module, batch) -> tuple[nn.Module, nn.Module]:
            model, lowered = super().lower(model, batch)
            lowered.get_submodule("3").weight_bits.view(-1)[5].neg_()
            return model, lowered

    monkeypatch.setitem(exporter.FORMATS, "broken", Broken(**vars(FORMATS["standard"])))


def network(threshold: bool = False) -> nn.Module:
    return nn.Sequential(
        nn.Linear(20, 32), quantize.BinaryLinear(32, 32, threshold=threshold), nn.Hardtanh(),
        quantize.BinaryLinear(32, 32), quantize.BinaryLinear(32, 10),
    ).eval()  # fmt: skip


def test_one_wrong_weight_is_an_error_that_names_where_it_shows(broken_format, tmp_path):
    path = tmp_path / "net.onnx"
    path.write_text("the last export")
    with pytest.raises(ExportMismatch, match=r"largest difference is \S+ of .* first is at the input of '4'"):
        export_onnx(network(), path, torch.randn(4, 20), format="broken")
    assert path.read_text() == "the last export"
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]


def test_unchecked_means_unchecked(broken_format, tmp_path):
    report = export_onnx(network(), tmp_path / "net.onnx", torch.randn(4, 20), format="broken", check=False)
    assert report.parity is None
    assert "not compared" in str(report)


def sessions(net: nn.Module, tmp_path, monkeypatch, example) -> dict:
    """The arguments of the last comparison that an export of ``net`` made."""
    seen = {}

    def record(model, session, tapped, batch):
        seen.update(session=session, tapped=tapped)
        return parity.Parity(0.0, 0.0)

    monkeypatch.setattr(exporter, "compare", record)
    export_onnx(net, tmp_path / "net.onnx", example)
    return seen


def test_a_sign_moved_by_rounding_is_no_error(tmp_path, monkeypatch):
    """Thresholds that equal the input of one sample: every sign of it hangs on the last bit."""
    net, x = network(threshold=True), torch.randn(4, 20)
    with torch.no_grad():
        net[1].threshold.copy_(net[0](x)[2])
    runs = sessions(net, tmp_path, monkeypatch, x)
    with torch.no_grad():
        net[0].bias.sub_(2e-7)  # as another order of summation might
    result = parity.compare(net, **runs, batch=x)
    assert 0 < result.difference < 1e-6
    assert result.end_to_end > 0.01
    assert "rounding moved a sign" in str(result)
    with torch.no_grad():
        net[4].weight.neg_()  # and with something wrong behind it
    with pytest.raises(ExportMismatch, match="first is at output 0"):
        parity.compare(net, **runs, batch=x)


def test_the_file_itself_is_compared_not_only_its_graph_with_taps(tmp_path, monkeypatch):
    net, x = network(threshold=True), torch.randn(4, 20)
    runs = sessions(net, tmp_path, monkeypatch, x)
    other = copy.deepcopy(net)
    with torch.no_grad():
        other[4].weight.neg_()
    export_onnx(other, tmp_path / "other.onnx", x)
    with pytest.raises(ExportMismatch, match="output 0"):
        parity.compare(net, create_session(str(tmp_path / "other.onnx")), runs["tapped"], x)


def test_a_badly_conditioned_float_network_is_measured_by_its_own_rounding(tmp_path, monkeypatch):
    """Sums of 1,000 terms of 10^4 that cancel: float32 is off by far more than the tolerance."""
    net = nn.Sequential(nn.Linear(1000, 64, bias=False), nn.BatchNorm1d(64)).eval()
    with torch.no_grad():
        net[0].weight.normal_(0, 1e4)
        x = torch.ones(3, 1000) + 1e-6 * torch.randn(3, 1000)
        net[1].running_mean.copy_(net[0](x).mean(0))
    runs = sessions(net, tmp_path, monkeypatch, x)
    shuffled = torch.randperm(1000)
    reordered = nn.Sequential(Columns(shuffled), nn.Linear(1000, 64, bias=False), net[1]).eval()
    reordered[1].weight.data = net[0].weight.data[:, shuffled]
    result = parity.compare(reordered, **runs, batch=x)
    assert result.difference > parity.TOLERANCE
    reordered[1].weight.data *= 1.01
    with pytest.raises(ExportMismatch):
        parity.compare(reordered, **runs, batch=x)


class Columns(nn.Module):
    def __init__(self, order: torch.Tensor):
        super().__init__()
        self.order = order

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, self.order]


@pytest.mark.parametrize(
    ("found", "expected", "difference"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.5], [1.0, 2.0], 0.25),
        ([0.5], [0.0], 0.5),
        ([float("inf"), 1.0], [float("inf"), 1.0], 0.0),
        ([float("nan"), 1.0], [0.0, 1.0], float("inf")),
        ([1.0, 2.0], [[1.0, 2.0]], float("inf")),
    ],
)
def test_difference(found, expected, difference):
    assert parity._difference(torch.tensor(found).numpy(), torch.tensor(expected)) == difference


class ChangesWhatALayerGot(nn.Module):
    """In place, after the layer ran: the whole of it, or that of which it was a part."""

    def __init__(self, part: bool):
        super().__init__()
        self.part = part
        self.stem, self.a, self.b = nn.Linear(20, 32), nn.Linear(16, 16), nn.Linear(16, 16)
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        x = self.stem(x).clone()
        left, right = x[:, :16], x[:, 16:]
        if not self.part:
            left = left.clone()
        first = self.a(left)
        if self.part:
            x[:, :16] -= first
        else:
            left.mul_(-2)
        return self.head(torch.cat([self.b(right) + left, first], 1))


@pytest.mark.parametrize("part", [False, True])
@pytest.mark.parametrize("format", ["packed", "standard"])
def test_a_model_may_change_what_a_layer_got(part, format, tmp_path):
    x = torch.randn(4, 20)
    prepared = quantize.prepare(ChangesWhatALayerGot(part), "xnor", x)
    assert {name for name, m in prepared.named_modules() if isinstance(m, quantize.BinaryLayer)} == {"a", "b"}
    report = quantize.export_onnx(prepared, tmp_path / "net.onnx", x, format=format)
    assert report.parity.difference < 1e-5
