"""Put models of torchvision, timm and transformers through prepare, training, summary and ONNX export.

    python tools/sweep_models.py                          run what has no result yet, then write the table
    python tools/sweep_models.py --models 'timm/*vit*'    only these, afresh
    python tools/sweep_models.py --report                 only write the table

It writes READMEs/models.md: every model of torchvision for classification, detection, segmentation and video, of timm
the smallest model of each family, that is of each module that timm lists, and of transformers an architecture each in
a small configuration. Weights are random, nothing is downloaded. Each model has a process of its own with limited time
and memory; a result is one line of JSON in --results, so that a cut run goes on where it was. Rows of the table of
which --results has nothing stay as they are.
"""

import argparse
import fnmatch
import importlib.metadata
import json
import multiprocessing
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import sweep_networks
from tools.sweep_networks import Case
from tools.sweep_page import PASSED, SCHEME, models_of, report, today

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "READMEs" / "models.md"
RESULTS = ROOT / "runs" / "sweep_models.jsonl"

BATCH = 2
# The first of them, or else the model's own, that the model takes in evaluation and in training.
IMAGE_SIZES = (64, 128, 224, 299)
OTHERS = ("torchvision", "transformers")  # libraries other than timm
OUT_OF_MEMORY = ("can't allocate memory", "bad_alloc")  # of torch and of onnxruntime


def model_names(timm_names: Iterable[str]) -> list[str]:
    """ "torchvision/resnet18", "timm/resnet10t", ...: all of the other libraries, and ``timm_names`` between them."""
    import torchvision

    return [
        *(f"torchvision/{name}" for name in torchvision.models.list_models(module=torchvision.models)),
        *timm_names,
        *sweep_networks.names(),
    ]


def smallest_of_timm(cache: Path) -> list[str]:
    """ "timm/resnet10t", ...: one a family.

    Every model of timm is built for this, which takes many minutes; what was found is kept in ``cache``.
    """
    import timm

    smallest = json.loads(cache.read_text()) if cache.exists() else {}
    for family in timm.list_modules():
        if family not in smallest:
            smallest[family] = min(timm.list_models(module=family), key=_parameters)
            cache.write_text(json.dumps(smallest))
    return [f"timm/{smallest[family]}" for family in timm.list_modules()]


def _parameters(name: str) -> int:
    import timm
    import torch

    with torch.device("meta"):
        return sum(p.numel() for p in timm.create_model(name, pretrained=False).parameters())


def build(name: str) -> Case:
    """The model ``name`` with random weights, and what it takes; of a classifier the smallest images."""
    import timm
    import torch
    import torchvision

    library, _, own = name.partition("/")
    if library not in ("torchvision", "timm"):
        return sweep_networks.build(name)
    name = own
    torch.manual_seed(0)
    if library == "timm":
        model = timm.create_model(name, pretrained=False)
        sizes = sorted({*IMAGE_SIZES[:2], model.default_cfg["input_size"][-1]})
    else:
        model, sizes = torchvision.models.get_model(name, weights=None), IMAGE_SIZES
    for size in sizes:
        batch = torch.randn(BATCH, 3, size, size)
        try:
            with torch.no_grad():
                model.eval()(batch)
                model.train()(batch)
        except Exception as error:  # a model's own checks raise what they like
            reason = error
        else:
            return Case(model, batch, str(size))
    raise RuntimeError(f"the float model takes no image of {sizes}: {reason}")


def check(name: str) -> dict[str, Any]:
    """One model through everything; "status" of the result is "ok", or what failed and why."""
    import quantize

    result: dict[str, Any] = {"model": name, "status": PASSED}
    step = "building it"
    try:
        case = build(name)
        model = case.model
        result["parameters"] = sum(p.numel() for p in model.parameters())
        result["image"] = int(case.size) if case.size.isdigit() else case.size
        step = "prepare"
        plan = quantize.plan(model.eval(), SCHEME, case.example)
        result["binary"], result["layers"] = len(plan.binary), len(plan)
        model = quantize.apply_plan(model, plan)
        step = "training"
        _train_step(model, case.example if case.training is None else case.training)
        step = "summary"
        cost = quantize.summary(model.eval(), case.example)
        for field in ("macs", "binary_macs", "float_bytes", "packed_bytes"):
            result[field] = getattr(cost, field)
        if case.unexported:
            step = "convert"
            quantize.convert(model, case.example)
            result["unexported"] = case.unexported
            return result
        step = "ONNX export"
        with tempfile.TemporaryDirectory() as folder:
            report = quantize.export_onnx(model, Path(folder) / "model.onnx", case.example)
        result["difference"] = report.parity.difference
    except Exception as error:
        result["status"] = f"{step}: {' '.join(str(error).split()) or type(error).__name__}"
    return result


def _train_step(model, example) -> None:
    """Forward and backward; RuntimeError when the weights of a binary layer get no finite gradient."""
    import torch

    import quantize
    from quantize.calling import call_arguments, tensors_in

    args, kwargs = call_arguments(example)
    outputs = [y for y in tensors_in(model.train()(*args, **kwargs)) if y.is_floating_point() and y.requires_grad]
    torch.stack([y.float().square().mean() for y in outputs]).sum().backward()
    for layer_name, layer in model.named_modules():
        if isinstance(layer, quantize.BinaryLayer):
            gradient = layer.weight.grad
            if gradient is None or not gradient.isfinite().all():
                raise RuntimeError(f"layer {layer_name!r} gets {'no' if gradient is None else 'an infinite'} gradient")
    model.zero_grad(set_to_none=True)


def warm_up() -> None:
    """Import and set up what every model needs, so that the processes forked from this one need not."""
    import timm
    import torch
    import torchvision  # noqa: F401

    import quantize

    torch.set_num_threads(1)  # threads do not survive a fork
    warnings.simplefilter("ignore")
    model, batch = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(3))), torch.randn(BATCH, 4)
    with tempfile.TemporaryDirectory() as folder:
        quantize.export_onnx(quantize.prepare(model, SCHEME), Path(folder) / "model.onnx", batch, check=False)
    timm.create_model("resnet10t", pretrained=False)


def run(name: str, seconds: int, memory: float) -> dict[str, Any]:
    """The result of ``name``, computed in a process of its own."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, name, seconds, memory))
    process.start()
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:
        process.join()
        limit = process.exitcode == -signal.SIGXCPU
        ended = (
            f"not done after {seconds} s of processor time" if limit else f"the process ended with {process.exitcode}"
        )
        result = {"model": name, "status": ended}
    process.join()
    return result


def _work(sender, name: str, seconds: int, memory: float) -> None:
    import torch

    resource.setrlimit(resource.RLIMIT_DATA, (int(memory * 2**30),) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 60))
    # A fork has to make torch's pool of threads anew: here, before two threads of autograd try it at once and abort.
    torch.set_num_threads(1)
    start = time.process_time()
    result = check(name)
    if any(sign in result["status"] for sign in OUT_OF_MEMORY):
        result["status"] = f"{result['status'].partition(':')[0]}: {memory:g} GiB of memory are not enough"
    sender.send({**result, "seconds": round(time.process_time() - start, 1)})


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models", metavar="PATTERN", help="only these, such as 'transformers/*' or 'torchvision/resnet18'"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"default: {RESULTS.relative_to(ROOT)}")
    parser.add_argument("--seconds", type=int, default=300, help="of processor time a model (default: %(default)s)")
    parser.add_argument("--memory", type=float, default=14, help="GiB a model (default: %(default)g)")
    parser.add_argument("--report", action="store_true", help="run nothing, write the table from the results")
    return parser.parse_args()


def _timm_names(args: argparse.Namespace, known: list[str]) -> list[str]:
    """All that may be run, or, where none of timm is, those of ``known``, which are in the table already."""
    if args.report or (args.models or "").startswith(OTHERS):
        return [name for name in dict.fromkeys(known) if name.startswith("timm/")]
    return smallest_of_timm(args.results.with_name(f"timm_{importlib.metadata.version('timm')}.json"))


def main() -> None:
    args = parse_arguments()
    args.results.parent.mkdir(parents=True, exist_ok=True)
    lines = args.results.read_text().splitlines() if args.results.exists() else []
    results = {result["model"]: result for result in map(json.loads, lines)}
    page = REPORT.read_text() if REPORT.exists() else ""
    names = model_names(_timm_names(args, [*models_of(page), *results]))
    if args.models:
        wanted = fnmatch.filter(names, args.models)
    else:
        wanted = [name for name in names if name not in results]
    if not args.report:
        warm_up()
        for i, name in enumerate(wanted, 1):
            results[name] = {**run(name, args.seconds, args.memory), **today(name)}
            with args.results.open("a") as file:
                file.write(json.dumps(results[name]) + "\n")
            print(f"{i}/{len(wanted)} {name}: {results[name]['status'][:200]}", flush=True)
    REPORT.write_text(report(names, results, page))


if __name__ == "__main__":
    main()
