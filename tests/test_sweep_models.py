"""tools/sweep_models.py: what counts as gone through, what a failure says, and the table."""

import json
import os
import re

import pytest
import torchvision
from torch import nn

from tools import sweep_models, sweep_networks

FIGURES = {
    "status": "ok", "parameters": 1_234_567, "image": 64, "binary": 5, "layers": 7, "macs": 100, "binary_macs": 300,
    "float_bytes": 8000, "packed_bytes": 1000, "difference": 1e-7, "run": "2026-01-02", "versions": "torch 2",
}  # fmt: skip


@pytest.fixture
def network(monkeypatch):
    """Let the sweep find a model that a test gives."""

    def use(model):
        monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights: model)

    return use


class NoGradient(nn.Sequential):
    """Its second layer is cut off from the loss."""

    def forward(self, x):
        first, second, third = self
        return third(second(first(x)).detach())


def convolutions(kind=nn.Sequential):
    return kind(nn.Conv2d(3, 8, 3, stride=4), nn.Conv2d(8, 8, 3, stride=4), nn.Conv2d(8, 8, 3))


def test_a_model_that_goes_through_has_its_figures(network):
    network(convolutions())
    result = sweep_models.check("torchvision/any")
    assert result.keys() >= FIGURES.keys() - {"run", "versions"}
    assert (result["status"], result["binary"], result["layers"], result["image"]) == ("ok", 1, 3, 64)
    assert result["binary_macs"] == 8 * 8 * 9 * 4 * 4
    assert 0 <= result["difference"] < 1e-4


@pytest.mark.parametrize(
    ("model", "status"),
    [
        (nn.Sequential(nn.Conv2d(3, 8, 3)), r"prepare: nothing to binarize: .*0: first layer"),
        (convolutions(NoGradient), r"training: layer '1' gets no gradient"),
        (
            nn.Linear(3, 3),
            r"building it: .* no image of \(64, 128, 224, 299\): .*cannot be multiplied",
        ),
    ],
    ids=["nothing to do", "no gradient", "no image"],
)
def test_a_failure_says_where_and_why(network, model, status):
    network(model)
    found = sweep_models.check("torchvision/any")["status"]
    assert re.match(status, found), found


class TooLarge(nn.Module):
    def forward(self, x):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


class Crashes(nn.Module):
    def forward(self, x):
        os._exit(3)


@pytest.mark.parametrize(
    ("model", "status"),
    [(TooLarge(), "building it: 20 GiB of memory are not enough"), (Crashes(), "the process ended with 3")],
    ids=["memory", "crash"],
)
def test_what_ends_a_process_is_said(network, model, status):
    network(model)
    assert sweep_models.run("torchvision/any", seconds=60, memory=20)["status"] == status


def test_the_table_counts_what_went_through_and_shows_what_did_not():
    names = ["torchvision/a", "torchvision/b", "timm/c"]
    results = {"torchvision/a": FIGURES, "torchvision/b": {"status": "prepare: no | layer"}}
    page = sweep_models.report(names, results)
    assert "**1 of 2 go through**, 1 were not run." in page
    assert "| a | 64 | 1,234,567 | 5 of 7 | 75.0% | 1,000 | 1/8.0 | 2026-01-02 | ok |" in page
    assert "| b |  |  |  |  |  |  |  | prepare: no \\| layer |" in page
    assert page.count("- 2026-01-02: torch 2") == 1
    assert page.index("## timm") < page.index("| c |") < page.index("not run |")


def test_rows_without_results_stay_as_they_are():
    models = ["torchvision/a", "torchvision/b", "torchvision/c"]
    first = sweep_models.report(models, dict.fromkeys(models[:2], FIGURES))
    later = {**FIGURES, "parameters": 7, "run": "2026-03-04", "versions": "torch 3"}
    page = sweep_models.report(models, {"torchvision/b": later, "torchvision/c": {"status": "no | way"}}, first)
    assert "**2 of 3 go through**, 0 were not run." in page
    assert "- 2026-01-02: torch 2\n- 2026-03-04: torch 3\n\n| model |" in page
    assert "| a | 64 | 1,234,567 | 5 of 7 | 75.0% | 1,000 | 1/8.0 | 2026-01-02 | ok |" in page
    assert "| b | 64 | 7 | 5 of 7 | 75.0% | 1,000 | 1/8.0 | 2026-03-04 | ok |" in page
    assert sweep_models.report(models, {}, page) == page
    assert "2026-01-02" not in sweep_models.report(models, {"torchvision/a": later}, page)


def test_a_section_without_results_stays_as_it_is():
    first = sweep_models.report(["torchvision/a", "timm/c"], {"torchvision/a": FIGURES, "timm/c": {"status": "no"}})
    names = ["torchvision/a", "timm/c", "transformers/bert"]
    page = sweep_models.report(names, {"timm/c": FIGURES}, first.replace("1,234,567", "7,654,321"))
    assert "**2 of 2 go through**, 1 were not run." in page
    assert "| a | 64 | 7,654,321 |" in page
    assert "| c | 64 | 1,234,567 |" in page
    assert page.index("## timm") < page.index("## transformers") < page.index("| bert |")


@pytest.mark.parametrize("flags", [["--report"], ["--models", "torchvision/no_such_model"]], ids=" ".join)
def test_a_table_is_written_without_building_the_models_of_timm(flags, tmp_path, monkeypatch):
    page, results = tmp_path / "models.md", tmp_path / "results.jsonl"
    page.write_text(sweep_models.report(["timm/b", "timm/a"], {"timm/b": FIGURES, "timm/a": {"status": "no"}}))
    results.write_text("".join(json.dumps({"model": name, **FIGURES}) + "\n" for name in ("timm/a", "timm/c")))
    monkeypatch.setattr(sweep_models, "REPORT", page)
    monkeypatch.setattr("sys.argv", ["sweep_models.py", *flags, "--results", str(results)])
    monkeypatch.setattr("timm.create_model", None)
    monkeypatch.setattr(sweep_models, "warm_up", lambda: None)
    sweep_models.main()
    timm = page.read_text().split("## timm")[1].split("\n## ")[0]
    assert re.findall(r"^\| (\w) \|.* (\w+) \|$", timm, re.MULTILINE) == [("b", "ok"), ("a", "ok"), ("c", "ok")]


def test_a_detector_is_converted_instead_of_exported():
    result = sweep_models.check("torchvision-detection/ssdlite320_mobilenet_v3_large")
    assert result["status"] == "ok"
    assert result["unexported"] == "takes a list of images: export its parts"
    assert result["binary_macs"] > result["macs"]


def test_each_transformer_has_a_class_and_a_configuration():
    transformers = pytest.importorskip("transformers")
    for model, configuration, _ in sweep_networks.TRANSFORMERS.values():
        assert hasattr(transformers, model), model
        assert hasattr(transformers, configuration), configuration
    result = sweep_models.check("transformers/gpt2")
    assert (result["status"], result["image"]) == ("ok", "12 tokens")


def test_the_help_names_the_default_within_the_repository(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["sweep_models.py", "--help"])
    with pytest.raises(SystemExit):
        sweep_models.parse_arguments()
    shown = " ".join(capsys.readouterr().out.split())
    assert "default: runs/sweep_models.jsonl" in shown
    assert str(sweep_models.ROOT) not in shown
