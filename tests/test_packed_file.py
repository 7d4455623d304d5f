"""Packed files: what tools/convert.py writes, who loads it, and what is said of files that cannot be used."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from shipped_files import prepared, write_checkpoint
from tiny_runs import call, train

import models
import training
from quantize.packed import PackedLayer
from quantize.packed.state import decode_header, encode_header
from tools import convert, export_onnx, sensitivity
from training.checkpoint import read_trained, save_checkpoint

pytestmark = pytest.mark.core

SIZE = (1, 8, 8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("binary") / "run", epochs=1)


@pytest.fixture(scope="module")
def packed_file(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "net.pt"
    convert.convert(run.run_dir, path)
    return path


def test_the_file_is_small_and_says_what_became_of_the_layers(run, tmp_path, capsys):
    out = tmp_path / "net.pt"
    assert convert.main([str(run.run_dir), str(out)]) == 0
    shown = capsys.readouterr().out
    weights = sum(t.numel() * t.element_size() for t in run.model.state_dict().values())
    assert f"{out}: {out.stat().st_size:,} bytes, " in shown
    assert f"than the {weights:,} bytes of float weights in {run.run_dir / 'best.pt'}" in shown
    assert [line.split()[:2] for line in shown.splitlines()[2:4]] == [["2", "PackedConv2d"], ["5", "PackedConv2d"]]
    state = torch.load(out, weights_only=True)["packed"]
    assert {k: v.numel() for k, v in state.items() if k.endswith("weight_bits")} == {
        "2.weight_bits": 8 * 16 * 9 / 8,
        "5.weight_bits": 16 * 16 * 9 / 8,
    }


def test_without_a_name_it_lies_beside_the_checkpoint(tmp_path):
    model, plan = prepared("tiny_xnornet", torch.randn(4, *SIZE))
    write_checkpoint(tmp_path / "best.pt", "tiny_xnornet", model, plan, SIZE)
    assert convert.main([str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"best.pt", "packed.pt"}


def test_it_loads_alone_and_answers_like_the_checkpoint(run, packed_file):
    model, info = training.load_model(packed_file)
    images, _ = next(iter(run.data.test))
    expected = run.model.eval()(images).detach()
    torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert isinstance(model[2], PackedLayer)
    assert not model.training
    facts = training.load_model(run.run_dir)[1]
    assert info.packed
    assert not facts.packed
    for field in ("arch", "scheme", "classes", "input_size", "normalization", "epoch", "acc1", "config"):
        assert getattr(info, field) == getattr(facts, field), field
    assert not read_trained(packed_file).keys() & {"model", "trained", "optimizer", "scheduler", "rng"}


@pytest.mark.parametrize("scheme", ["bwn", "dorefa:w_bits=2,a_bits=2", "xnor:input_scale=True", "ternary", "react"])
def test_every_kind_of_layer_comes_back(scheme, tmp_path):
    x = torch.randn(4, *SIZE)
    model, plan = prepared("tiny", x, scheme)
    model.train()(x)  # batch norm statistics of its own
    convert.convert(write_checkpoint(tmp_path / "best.pt", "tiny", model, plan, SIZE), tmp_path / "net.pt")
    torch.testing.assert_close(training.load_model(tmp_path / "net.pt")[0](x), model.eval()(x), rtol=1e-5, atol=1e-5)


@models.register_model("no_norm", input_size=SIZE)
def no_norm(num_classes=10, in_chans=1, layout="float"):
    nn = torch.nn
    layers = nn.Conv2d(in_chans, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, num_classes)
    return nn.Sequential(*layers)


def test_a_threshold_that_the_plan_does_not_know_comes_along(tmp_path):
    """As of weights that a training started from."""
    x = torch.randn(4, *SIZE)
    model, plan = prepared("no_norm_xnornet", x)
    assert plan["1"].threshold == "0"
    model[1].start_threshold(torch.randn(4))
    write_checkpoint(tmp_path / "best.pt", "no_norm_xnornet", model, plan, SIZE)
    convert.convert(tmp_path, tmp_path / "net.pt")
    loaded, _ = training.load_model(tmp_path / "net.pt")
    assert torch.equal(loaded[1].threshold, model[1].threshold)
    torch.testing.assert_close(loaded(x), model.eval()(x), rtol=1e-5, atol=1e-5)


def test_the_trainer_evaluates_it(run, packed_file, capsys):
    assert call("--evaluate", packed_file) == 0
    assert f"best_acc1: {run.best_acc1:.2f}\n" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--resume", "--pretrained"])
def test_the_trainer_does_not_train_it(flag, packed_file, tmp_path, capsys):
    flags = ["--arch", "tiny_xnornet", "--dataset", "digits"] * (flag == "--pretrained")
    assert call(*flags, flag, packed_file, "--log-path", tmp_path / "new") == 2
    error = capsys.readouterr().err
    assert "is packed: it holds bits" in error
    assert "give the checkpoint that it was made from" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("format", ["standard", "qonnx"])
def test_onnx_formats_made_of_weights_name_the_file_to_give(format, run, packed_file, tmp_path, capsys):
    best, beside_best = (shutil.copy(file, tmp_path) for file in (run.run_dir / "best.pt", packed_file))
    example = f", such as {str(best)!r}"
    for file, fix in ((beside_best, example), (packed_file, "")):
        assert export_onnx.main([str(file), str(tmp_path / "net.onnx"), "--format", format]) == 2
        assert capsys.readouterr().err.endswith(f"no longer holds; give the checkpoint that it was made from{fix}\n")
    assert call("--evaluate", beside_best, "--export", tmp_path / "net.onnx", "--export-format", format) == 2
    assert capsys.readouterr().err.endswith(f"made from{example}\n")
    assert not (tmp_path / "net.onnx").exists()


def test_tools_that_change_layers_refuse_it(packed_file, capsys):
    assert sensitivity.main([str(packed_file), "--gpu", ""]) == 2
    assert "is packed: it holds bits, which cannot be trained or changed" in capsys.readouterr().err


def test_what_cannot_be_converted_is_one_line_and_exit_code_2(run, packed_file, tmp_path, capsys):
    floating = write_checkpoint(tmp_path / "float.pt", "tiny", models.create_model("tiny"), None, SIZE)
    (tmp_path / "dir").mkdir()
    cases = {
        (tmp_path / "none.pt",): "there is no checkpoint",
        (packed_file,): "is packed: it holds bits",
        (floating,): "nothing to convert: no layer of the model is binary",
        (run.run_dir, tmp_path / "dir"): "is a directory; name a file in it",
        (run.run_dir, tmp_path / "no" / "net.pt"): "there is no directory",
        (run.run_dir, run.run_dir / "best.pt"): "is the checkpoint itself",
    }
    before = (run.run_dir / "best.pt").read_bytes()
    for arguments, message in cases.items():
        assert convert.main([str(argument) for argument in arguments]) == 2, message
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert (run.run_dir / "best.pt").read_bytes() == before
    assert not (run.run_dir / "packed.pt").exists()


def test_a_write_that_breaks_off_leaves_the_old_file(run, packed_file, monkeypatch, capsys):
    before = packed_file.read_bytes()

    def break_off(contents, file):
        file.write(b"PK")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", break_off)
    assert convert.main([str(run.run_dir), str(packed_file)]) == 2
    assert "no space left" in capsys.readouterr().err
    assert packed_file.read_bytes() == before
    assert [path.name for path in packed_file.parent.iterdir()] == ["net.pt"]


def test_a_damaged_file_is_refused_in_one_sentence(packed_file, tmp_path):
    """Cut anywhere, or with one byte changed: an error, or a change that does not touch what is stored."""
    whole, path = packed_file.read_bytes(), tmp_path / "net.pt"
    expected = training.load_model(packed_file)[0].state_dict()
    generator = torch.Generator().manual_seed(0)
    cuts = [whole[:length] for length in (0, 1, 100, len(whole) // 2, len(whole) - 1)]
    changed = []
    for at in torch.randint(len(whole), (150,), generator=generator).tolist():
        changed.append(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
    errors = []
    for contents in (*cuts, *changed):
        path.write_bytes(contents)
        try:
            found = read_trained(path)["packed"]
        except ValueError as error:
            errors.append(str(error))
            continue
        for key, value in expected.items():
            assert torch.equal(found[key], value) if torch.is_tensor(value) else found[key] == value, key
    assert len(errors) >= len(cuts) + len(changed) // 4
    for error in errors:
        assert "is not a complete checkpoint of plain tensors: it is damaged or cut short" in error
        assert "\n" not in error


def test_bits_of_another_network_are_refused(run, packed_file, tmp_path):
    contents = read_trained(packed_file)
    save_checkpoint(tmp_path / "less.pt", contents | {"packed": dict(list(contents["packed"].items())[:-1])})
    header = encode_header({**decode_header(contents["packed"]["2._extra_state"]), "version": 99})
    save_checkpoint(tmp_path / "newer.pt", contents | {"packed": contents["packed"] | {"2._extra_state": header}})
    for name, reason in (("less.pt", "Missing key(s)"), ("newer.pt", "version 99; this xnorkit reads version 1")):
        with pytest.raises(ValueError, match=r"does not fit the network that it names, 'tiny_xnornet' \(") as caught:
            training.load_model(tmp_path / name)
        assert reason in str(caught.value)
        assert "write it again with tools/convert.py" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_flags_are_read_before_torch_is_imported():
    code = "from tools import convert; convert.main(['--help'])"
    run = [sys.executable, "-X", "importtime", "-c", code]
    found = subprocess.run(run, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    assert "a .pt file, or the directory of a run" in found.stdout
    assert not re.search(r"\| +torch$", found.stderr, re.MULTILINE)
