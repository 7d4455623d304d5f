"""A checkpoint beside a test set, and its way into the files that ship: packed, and ONNX."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

import models
import quantize
from quantize.planning.plan import LEARNED_FROM_ZERO, NO_THRESHOLD, ZERO

from .checkpoint import BEST, PACKED, find_checkpoint, give_source, read_checkpoint, read_trained
from .config import TrainConfig
from .config.resume import check_same_classes, config_of, refuse_contradictions
from .data import Data, Share, load_data
from .engine import evaluate
from .errors import RunStopped
from .execution import select_device
from .model import TIMM, ModelInfo, example_images, load_model, rebuild
from .objective import LOSSES
from .processes.distributed import gather, is_first, process_count, rank
from .run import Session
from .watch.console import complexity_lines, result_words, say, skipped_lines
from .watch.metrics import Metrics
from .watch.runlog import append

ONNX = "model.onnx"  # where --export names no file

# What makes the model: a checkpoint says it, a flag may only repeat it.
MODEL_FLAGS = ("arch", "scheme", "keep_float", "overrides", "img_size", "normalize", "mean", "std")

# ONNX formats that are made of a prepared model, which a packed file no longer holds.
FORMATS_OF_WEIGHTS = ("standard", "qonnx")


class Trained(NamedTuple):
    """A checkpoint's model beside the set it is tested on.

    Attributes:
        model: in evaluation mode, on the device that ``config`` asks for.
        info: what the checkpoint says of it.
        data: normalized as in training.
        config: the checkpoint's configuration under the flags given.
    """

    model: nn.Module
    info: ModelInfo
    data: Data
    config: TrainConfig


def open_checkpoint(file: Path, flags: dict[str, Any], test_only: bool = False, packed: bool = False) -> Trained:
    """The model of a checkpoint and its data: the set it was trained on, unless the flags name another.

    With ``test_only`` the training images are left alone; with ``packed`` the file may be a packed one.

    Raises ValueError or OSError, in one sentence, where they do not fit.
    """
    saved = (read_trained if packed else read_checkpoint)(file)["config"]
    refuse_contradictions(str(file), saved, {name: flags[name] for name in MODEL_FLAGS if name in flags})
    config = config_of(str(file), saved, flags)
    device = select_device(config.gpu)
    model, info = load_model(file, device)
    mean, std = info.normalization
    config = dataclasses.replace(config, normalize=None, mean=mean, std=std)
    data = load_data(config, info.input_size, device, test_only, Share(rank(), process_count()))
    check_same_classes(info.classes, data.classes, str(file))
    return Trained(model, info, data, config)


def evaluate_checkpoint(flags: dict[str, Any]) -> Metrics:
    """``--evaluate``: print and return what a checkpoint reaches on the test set; writes ONNX where asked.

    The checkpoint is the flag's, else that of ``--resume`` or ``--pretrained``. Raises ValueError or
    OSError, in one sentence.
    """
    path = flags["evaluate"] or flags.get("resume") or flags.get("pretrained")
    if path in (None, TIMM):
        raise ValueError("--evaluate names no checkpoint; write --evaluate CHECKPOINT")
    if (arch := flags.get("arch"), path) in models.list_pretrained():
        tool = f"python tools/evaluate.py {arch} --pretrained {path}"
        raise ValueError(f"{path!r} names weights of the zoo, which {tool} tests; write --evaluate CHECKPOINT")
    file = find_checkpoint(path, BEST)
    model, info, data, config = open_checkpoint(file, flags, test_only=True, packed=True)
    if is_first():
        images, _ = next(iter(data.test))
        say(*complexity_lines(quantize.summary(model, images[:1])))
    result = evaluate(model, data.test, LOSSES[config.loss], config.flip_test)
    say(f"Test:  {result_words(result)}  {result.images:,} images")
    say(*skipped_lines(set().union(*gather(data.skipped))))
    say(f"best_acc1: {result.top1:.2f}", f"checkpoint_path: {file}")
    if "export" in flags and is_first():  # not where the run itself was to export
        export(model, data, info, flags["export"] or file.with_name(ONNX), config.export_format)
    return result


def export(model: nn.Module, data: Data, info: ModelInfo, path: str | Path, format: str) -> int:
    """Write an ONNX file that says what the model is, compared with PyTorch on test images; its bytes.

    Raises ValueError where a packed file has no such format, and RunStopped where the ONNX file disagrees with
    PyTorch; there is none then.
    """
    from quantize.export import ExportMismatch, export_onnx

    check_exportable(info, format)
    images, _ = next(iter(data.test))
    try:
        report = export_onnx(model.cpu(), path, images.cpu(), format=format, metadata=onnx_metadata(info))
    except ExportMismatch as error:
        raise RunStopped(str(error)) from error
    say(f"==> ONNX: {report}")
    return report.size


def check_exportable(info: ModelInfo, format: str) -> None:
    """Raises ValueError, with the file to give instead, where the model of a packed file has no such ONNX format."""
    if info.packed and format in FORMATS_OF_WEIGHTS:
        raise ValueError(
            f"{str(info.path)!r} is packed, and an ONNX file of format {format!r} is made of weights that it no longer "
            f"holds; {give_source(info.path)}"
        )


def onnx_metadata(info: ModelInfo) -> dict[str, Any]:
    """What an ONNX file says of itself."""
    mean, std = info.normalization
    return {
        "arch": info.arch,
        "dataset": info.config["dataset"],
        "classes": info.classes,
        "input_size": info.input_size,
        "input_normalization": {"mean": mean, "std": std},
        "acc1": info.acc1,
    }


def export_best(session: Session) -> None:
    """``--export``: the best checkpoint of a run, to the file given or ``model.onnx`` in its directory."""
    model, info = load_model(session.run_dir / BEST)
    config = session.config
    size = export(model, session.data, info, config.export or session.run_dir / ONNX, config.export_format)
    append(session.run_dir, "export", bytes=size)


_KEPT = (
    *("arch", "scheme", "plan", "classes", "input_size", "normalization"),
    *("config", "epoch", "acc1", "versions"),
)
_NONE = (NO_THRESHOLD, ZERO)


def pack(checkpoint: dict[str, Any], path: str) -> tuple[nn.Module, dict[str, Any]]:
    """(the packed model, the contents of its file) of a checkpoint that was read from ``path``.

    A packed file is a checkpoint (:mod:`training.checkpoint`) for inference: a trained network with one bit a binary
    weight, and all that is needed to load it without its data. ``packed`` is the state_dict of what
    :func:`quantize.convert` made of the model, the other entries are the checkpoint's.

    Raises ValueError, in one sentence, for a float network, or one whose packed form does not load into the
    network that its name and plan make.
    """
    model = rebuild(checkpoint, path)
    packed = quantize.convert(model, example_images(checkpoint))
    contents = {key: checkpoint[key] for key in _KEPT} | {"plan": _plan_of(model, checkpoint["plan"])}
    contents[PACKED] = packed.state_dict()
    rebuild(contents, path)
    return packed, contents


def _plan_of(model: nn.Module, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """``rows`` with the thresholds that the layers have: weights that training started from may have brought some."""
    plan = quantize.Plan.from_list(rows)

    def actual(row: quantize.LayerPlan) -> quantize.LayerPlan:
        learned = row.binary and model.get_submodule(row.name).threshold is not None
        return dataclasses.replace(row, threshold=LEARNED_FROM_ZERO) if learned and row.threshold in _NONE else row

    return quantize.Plan(map(actual, plan)).to_list()
