"""What trainer_exp.py refuses: a sentence with the value, the valid ones and the fix, exit code 2, no file written."""

import re
import urllib.error

import pytest
from picture_files import write_pictures
from tiny_runs import call, train
from torch import nn

import models
import quantize
from training.data import AUGMENTATIONS, DATASETS, PRESETS
from training.optimizer import OPTIMIZERS
from training.schedule import LR_SCHEDULES

TINY = ("--arch", "tiny_xnornet", "--dataset", "digits")
FOLDER = ("--arch", "tiny", "--dataset", "imagefolder", "--data-dir")
pytestmark = pytest.mark.usefixtures("empty_directory")


@models.register_model("one_layer", input_size=(1, 8, 8))
def one_layer(num_classes=10, in_chans=1, layout="float"):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A finished run of the tiny network."""
    return train(tmp_path_factory.mktemp("module") / "run", epochs=1).run_dir


@pytest.fixture
def refused(tmp_path, capsys):
    """``refused(argv, *fragments)``: it is, in a sentence with these parts, and no file is new or changed."""

    def files():
        return {path: path.read_bytes() if path.is_file() else None for path in tmp_path.rglob("*")}

    def check(argv, *fragments):
        before = files()
        assert call(*argv) == 2
        out, error = capsys.readouterr()
        assert out == ""
        assert re.fullmatch(r"trainer_exp\.py: error: [^\n]+\n", error), error
        for fragment in fragments:
            assert fragment in error
        assert files() == before

    return check


def valid(names):
    return f"valid: {', '.join(sorted(names)[:12])}"


def test_formats_of_the_export(refused):
    refused((*TINY, "--export", "--export-format", "int7"), "unknown --export-format 'int7'", "did you mean 'int8'")
    refused((*TINY, "--export-format", "int8"), "--export-format int8 has no meaning without --export")


# What is refused, then the value, the valid ones and the fix in its sentence.
FLAGS = {
    "scheme": ([*TINY, "--scheme", "xnr"], "unknown scheme 'xnr'", valid(quantize.list_schemes()), "mean 'xnor'"),
    "scheme's option": ([*TINY, "--scheme", "dorefa:w_bit=1"], "option 'w_bit'", "valid: a_bits, w_bits", "'w_bits'"),
    "arch": (["--arch", "nin_gv", "--dataset", "digits"], "network 'nin_gv'", ", nin_gc, ", "mean 'nin_gc'"),
    "timm arch": (["--arch", "timm/resnet81"], "network 'timm/resnet81'", "see timm.list_models()", "'timm/resnet18'"),
    "dataset": (["--dataset", "digit"], "unknown dataset 'digit'", valid(DATASETS), "did you mean 'digits'"),
    "override": ([*TINY, "--override", "55=bwn"], "overrides: no layer matches '55'", "valid: 0, 2, 5, 9"),
    "override's form": ([*TINY, "--override", "5"], "'5' is not PATTERN=SCHEME, PATTERN=none or a .json", "see --help"),
    "override's scheme": ([*TINY, "--override", "5=xnr"], "'xnr'", valid(quantize.list_schemes()), "mean 'xnor'"),
    "override's pattern": ([*TINY, "--override", "(=bwn"], "'(' is neither a layer name nor a regular expression"),
    "keep-float": ([*TINY, "--keep-float", "fist"], "no layer matches 'fist'", "valid: 0, 2, 5, 9", "mean 'first'"),
    "nothing to binarize": (
        ["--arch", "one_layer_xnornet", "--dataset", "digits"],
        "nothing to binarize: all 1 convolution and linear layers stay float (1: first layer)",
        "change keep_float= or overrides=",
    ),
    "shape": (
        ["--arch", "lenet5_xnornet", "--dataset", "digits", "--img-size", "32"],
        "'lenet5_xnornet' does not take images of shape (1, 32, 32)",
        "change --img-size, or leave it out for the network's own (1, 28, 28)",
    ),
    "shape deep within": ([*TINY, "--img-size", "4"], "images of shape (1, 4, 4)", "network's own (1, 8, 8)"),
    "shape for timm": (
        ["--arch", "timm/test_vit", "--dataset", "digits", "--scheme", "bwn", "--img-size", "33"],
        "'timm/test_vit' does not take images of shape (3, 33, 33)",
        "change --img-size",
    ),
    "optimizer": ([*TINY, "--optimizer", "adm"], "--optimizer 'adm'", valid(OPTIMIZERS), "mean 'adam'"),
    "lr-schedule": ([*TINY, "--lr-schedule", "cos"], "--lr-schedule 'cos'", valid(LR_SCHEDULES), "mean 'cosine'"),
    "augment": ([*TINY, "--augment", "crop"], "augmentation 'crop'", valid(AUGMENTATIONS), "mean 'crop_flip'"),
    "normalize": ([*TINY, "--normalize", "cifar"], "normalization 'cifar'", valid(PRESETS), "mean 'cifar10'"),
    "normalize twice": ([*TINY, "--normalize", "mnist", "--mean", "0"], "--normalize 'mnist'", "give one"),
    "mean": ([*TINY, "--mean", "inf", "--std", "1"], "--mean is inf; it must be finite"),
    "std": ([*TINY, "--mean", "0", "--std", "nan"], "--std is nan; it must be finite"),
    "not a number": ([*TINY, "--epochs", "some"], "--epochs: invalid int value: 'some'; see --help"),
    "lr": ([*TINY, "--lr", "nan"], "--lr is nan; it must be positive, and finite"),
    "weight-decay": ([*TINY, "--weight-decay", "inf"], "--weight-decay is inf; it must be at least 0, and finite"),
    "gamma": ([*TINY, "--gamma", "-1"], "--gamma is -1.0; it must be at least 0"),
    "milestones": ([*TINY, "--milestones", "9", "3"], "--milestones 9 3 must rise"),
    "gpu": ([*TINY, "--gpu", "99"], "there is no GPU '99'; valid: ", "--gpu cpu for the CPU"),
    "unknown flag": ([*TINY, "--epoch", "3"], "unrecognized arguments: --epoch 3; see --help"),
    "export's directory": (
        [*TINY, "--export", "no/net.onnx"],
        "--export 'no/net.onnx'",
        "no directory",
        "make it first",
    ),
    "export is a directory": ([*TINY, "--export", "empty"], "--export 'empty' is a directory; name a file, such as"),
    "log-path": ([*TINY, "--log-path", "note.txt"], "'note.txt' cannot be made a run directory", "another --log-path"),
    "resume": (
        ["--resume", "no.pt"],
        "there is no checkpoint 'no.pt'; give a .pt file or a run directory with last.pt",
    ),
    "resume's directory": (["--resume", "empty"], "no checkpoint 'empty/last.pt'; give a .pt file or a run directory"),
    "pretrained": ([*TINY, "--pretrained", "no.pt"], "no checkpoint 'no.pt'; give a .pt file or a run directory"),
    "pretrained alone": ([*TINY, "--pretrained"], "no published weights for 'tiny_xnornet'", "--pretrained CHECKPOINT"),
    "evaluate": (["--evaluate"], "--evaluate names no checkpoint; write --evaluate CHECKPOINT"),
    "data-dir": ([*FOLDER, "nowhere"], "there is no data directory 'nowhere'; name one with --data-dir"),
    "empty data-dir": (
        [*FOLDER, "empty"],
        "'empty' must hold train/<class>/ and val/ or test/<class>/; it has nothing",
    ),
    "empty class": ([*FOLDER, "hollow"], "no pictures to train on in 'hollow/train'", "cow", "Supported extensions"),
    "classes": (
        [*FOLDER, "differ"],
        "classes differ between 'differ/train' and 'differ/test'",
        "only in the first: dog; only in the second: frog",
    ),
}


@pytest.mark.parametrize("case", FLAGS)
def test_bad_input_is_one_sentence(case, refused, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.txt").write_text("kept")
    write_pictures(tmp_path / "differ", ("cat", "dog"), count=1, splits=("train",))
    write_pictures(tmp_path / "differ", ("cat", "frog"), count=1, splits=("test",))
    write_pictures(tmp_path / "hollow", ("cat",), count=1)
    (tmp_path / "hollow" / "train" / "cow").mkdir()
    argv, *fragments = FLAGS[case]
    refused(argv, *fragments)


def test_a_set_that_cannot_be_downloaded(refused, monkeypatch):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    refused(
        ["--arch", "nin", "--dataset", "cifar10", "--data-dir", "pictures"],
        "CIFAR10 is not in 'pictures' and could not be downloaded",
        "put cifar-10-python.tar.gz unpacked (cifar-10-batches-py/) there",
        "--data-dir",
    )


@pytest.mark.parametrize(
    ("flag", "fragments"),
    [
        ("--resume", ["--arch lenet5_xnornet contradicts", "was trained with tiny_xnornet; leave it out"]),
        ("--evaluate", ["--arch lenet5_xnornet contradicts", "was trained with tiny_xnornet; leave it out"]),
        ("--pretrained", ["holds another architecture: it has no 'conv1.weight'; give its own --arch"]),
    ],
)
def test_a_checkpoint_of_another_architecture(flag, fragments, run_dir, refused):
    refused(["--arch", "lenet5_xnornet", "--dataset", "digits", flag, run_dir], str(run_dir), *fragments)


@pytest.mark.parametrize("flag", ["--resume", "--evaluate"])
@pytest.mark.parametrize("other", [["--normalize", "half"], ["--mean", "0.2", "--std", "0.3"]])
def test_a_checkpoint_of_another_normalization(flag, other, run_dir, refused):
    refused([flag, run_dir, *other], f"{other[0]} ", "contradicts", str(run_dir), "leave it out")


@pytest.mark.parametrize("flag", ["--resume", "--evaluate", "--pretrained"])
def test_a_truncated_checkpoint(flag, run_dir, tmp_path, refused):
    whole = (run_dir / "last.pt").read_bytes()
    for length in (0, 100, len(whole) // 2, len(whole) - 30):
        (tmp_path / "cut.pt").write_bytes(whole[:length])
        fix = "use another one, such as best.pt of the same run"
        refused([*TINY, flag, "cut.pt"], "'cut.pt' is not a complete checkpoint", fix)


def test_a_run_without_epochs_left(run_dir, refused):
    refused(["--resume", run_dir], "has all 1 epochs, and nothing is left to train")


def test_a_directory_that_holds_a_run_is_not_overwritten(run_dir, refused):
    before = (run_dir / "log.jsonl").read_bytes()
    refused(
        [*TINY, "--log-path", run_dir], "holds a run already; continue it with --resume, or choose another --log-path"
    )
    assert (run_dir / "log.jsonl").read_bytes() == before


def test_classes_of_another_set(run_dir, tmp_path, refused):
    write_pictures(tmp_path / "pictures", count=1)
    other = ["--dataset", "imagefolder", "--data-dir", "pictures"]
    refused(["--evaluate", run_dir, *other], "the 10 classes of", "are not the 2 of the data", "give its own --dataset")
    refused(["--resume", run_dir, *other], "--dataset imagefolder contradicts", "was trained with digits; leave it out")
