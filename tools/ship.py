"""Put a finished run's network into the zoo that comes with the package: its files, its registry entry, its log.

    python tools/ship.py runs/lenet5_xnornet --float runs/lenet5_float
    python tools/ship.py runs/nin_xnornet --dataset cifar10 --data "CIFAR-10 (98 of 60,000 images from JPEG)"

What ships is the run's last network (the average with --ema), not the best one on the test set. It is built anew from
the files written and tested on the run's own test set, and the figure found goes into the registry. Both files and the
log replace older ones of the same name. Afterwards tools/draw_zoo.py draws the picture, and tools/zoo_page.py writes
the page, anew.
Exit codes: 0 done, 1 the files would not compute what the run's network computes, 2 something that cannot be used.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn

import models
import quantize
from models import zoo
from tools.command_line import exit_code, tool_parser
from tools.reproducing.kept_logs import READMES, keep, read_run
from training.checkpoint import LAST, find_checkpoint
from training.config.defaults import effective_scheme
from training.data import Data
from training.evaluation import Trained, onnx_metadata, open_checkpoint

ROOT = Path(__file__).resolve().parent.parent
TOLERANCE = 0.05  # points of accuracy between the run's last epoch and the files, which round differently


def ship(flags: argparse.Namespace) -> str:
    """Write what the flags ask for; a line for each file. Raises ValueError or OSError, in one sentence."""
    run = read_run(flags.run)
    trained = open_checkpoint(find_checkpoint(flags.run, LAST), {}, test_only=True)
    name, dataset = _name(trained), flags.dataset or run["run"]["config"]["dataset"]
    if trained.info.epoch != run["run"]["config"]["epochs"]:
        raise ValueError(f"{str(flags.run)!r} stopped after epoch {trained.info.epoch}; finish it with --resume")
    with tempfile.TemporaryDirectory(dir=zoo.WEIGHTS.parent) as folder:
        state, onnx = (Path(folder, f"{name}-{dataset}{suffix}") for suffix in (".pt", ".onnx"))
        model = _write_state(trained, state)
        right = _right(model, trained.data)
        accuracy = round(100 * float(right.double().mean()), 2)
        if abs(accuracy - trained.info.acc1) > TOLERANCE:
            raise ValueError(f"the network of the files reaches {accuracy:.2f}%, the run's {trained.info.acc1:.2f}%")
        info = dataclasses.replace(trained.info, acc1=accuracy)
        images, _ = next(iter(trained.data.test))
        quantize.export_onnx(model, onnx, images, metadata={**onnx_metadata(info), "dataset": dataset})
        entry = zoo.Pretrained(
            name=name, dataset=dataset, accuracy=accuracy,
            sample=int(right[:: zoo.SAMPLE_STEP].sum()),
            float_accuracy=None if flags.float is None else read_run(flags.float)["result"]["last_acc1"],
            data=flags.data or dataset, classes=info.classes, input_size=info.input_size,
            mean=info.normalization.mean, std=info.normalization.std, command=run["command"],
            seed=run["run"]["config"]["seed"], epochs=info.epoch, commit=_commit(),
            date=run["run"]["environment"]["date"][:10], log=run["name"],
            state=_described(state), onnx=_described(onnx),
        )  # fmt: skip
        zoo.WEIGHTS.mkdir(exist_ok=True)
        for file in (state, onnx):
            os.replace(file, zoo.WEIGHTS / file.name)
    _register(entry)
    for kept in (flags.run, flags.float):
        if kept is not None:
            keep(kept, READMES)
    sizes = (f"{file}: {(zoo.WEIGHTS / file).stat().st_size:,} bytes" for file in (state.name, onnx.name))
    return "\n".join((*sizes, f"{name} for {dataset}: {accuracy:.2f}%"))


def _name(trained: Trained) -> str:
    """The network's name, which has to say its scheme, since nothing else does when it is built again."""
    name, scheme = trained.info.arch, trained.info.scheme
    if scheme is None:
        raise ValueError(f"{name!r} is a float network; the zoo holds binary ones")
    if effective_scheme(name) != scheme:
        raise ValueError(f"{name!r} was trained with --scheme {scheme}, which its name does not say; train --arch ...")
    return name


def _write_state(trained: Trained, path: Path) -> nn.Module:
    """Write plan and compact state; the network that they make."""
    model, info = trained.model, trained.info
    plan = torch.load(info.path, weights_only=True)["plan"]
    torch.save({"plan": plan, "state": quantize.compact_state(model)}, path)
    contents = torch.load(path, weights_only=True)
    again = models.create_model(info.arch, len(info.classes), info.input_size[0])
    again = quantize.apply_plan(again, quantize.Plan.from_list(contents["plan"]), inplace=True).eval()
    quantize.load_compact_state(again, contents["state"])
    return again


@torch.inference_mode()
def _right(model: nn.Module, data: Data) -> Tensor:
    """Which of the test images it gets right, in their order."""
    return torch.cat([model(images).argmax(1) == labels for images, labels in data.test])


def _commit() -> str:
    """Of the code that this is run with, "+" where it has been changed."""
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "*.py"], cwd=ROOT, check=False).returncode
    return head.stdout.strip() + "+" * bool(changed)


def _described(path: Path) -> dict[str, str]:
    return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _register(entry: zoo.Pretrained) -> None:
    """One network a line, sorted, so that a change of one is a change of one line."""
    file = zoo.WEIGHTS / zoo.REGISTRY
    rows = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    rows = [row for row in rows if (row["name"], row["dataset"]) != (entry.name, entry.dataset)]
    rows = sorted((*rows, dataclasses.asdict(entry)), key=lambda row: (row["name"], row["dataset"]))
    file.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    parser = tool_parser(__doc__)
    parser.add_argument("run", type=Path, help="the directory of a finished run")
    parser.add_argument("--dataset", help="what the zoo calls its set; default: that of the run")
    parser.add_argument("--data", help="the set in words; default: its name")
    parser.add_argument("--float", type=Path, metavar="RUN", help="the finished run of its float twin")
    flags = parser.parse_args(argv)
    try:
        return exit_code("ship", lambda: print(ship(flags)))
    except quantize.ExportMismatch as error:
        print(f"ship: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
