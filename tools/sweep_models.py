"""Put the models of torchvision and timm through prepare, training, summary and ONNX export; write READMEs/models.md.

    python tools/sweep_models.py                          run what has no result yet, then write the table
    python tools/sweep_models.py --models 'timm/*vit*'    only these, afresh
    python tools/sweep_models.py --report                 only write the table

Every classification model of torchvision, and of timm the smallest model of each family, that is of each
module that timm lists. Weights are random, nothing is downloaded. Each model has a process of its own with
limited time and memory; a result is one line of JSON in --results, so that a cut run goes on where it was.
"""

import argparse
import datetime
import fnmatch
import importlib.metadata
import json
import multiprocessing
import resource
import signal
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "READMEs" / "models.md"
RESULTS = ROOT / "runs" / "sweep_models.jsonl"
PACKAGES = ("torch", "torchvision", "timm", "onnxruntime")

SCHEME = "xnor"
BATCH = 2
# The first of them, or else the model's own, that the model takes in evaluation and in training.
IMAGE_SIZES = (64, 128, 224, 299)
PASSED = "ok"
OUT_OF_MEMORY = ("can't allocate memory", "bad_alloc")  # of torch and of onnxruntime


def model_names(cache: Path) -> list[str]:
    """ "torchvision/resnet18", "timm/resnet10t", ... The smallest of each timm family is kept in ``cache``."""
    import timm
    import torchvision

    smallest = json.loads(cache.read_text()) if cache.exists() else {}
    for family in timm.list_modules():
        if family not in smallest:
            smallest[family] = min(timm.list_models(module=family), key=_parameters)
            cache.write_text(json.dumps(smallest))
    return [
        *(f"torchvision/{name}" for name in torchvision.models.list_models(module=torchvision.models)),
        *(f"timm/{smallest[family]}" for family in timm.list_modules()),
    ]


def _parameters(name: str) -> int:
    import timm
    import torch

    with torch.device("meta"):
        return sum(p.numel() for p in timm.create_model(name, pretrained=False).parameters())


def build(name: str):
    """The model ``name`` with random weights, and a batch of images that it takes."""
    import timm
    import torch
    import torchvision

    library, _, name = name.partition("/")
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
            return model, batch
    raise RuntimeError(f"the float model takes no image of {sizes}: {reason}")


def check(name: str) -> dict[str, Any]:
    """One model through everything; "status" of the result is "ok", or what failed and why."""
    import quantize

    result: dict[str, Any] = {"model": name, "status": PASSED}
    step = "building it"
    try:
        model, batch = build(name)
        result["parameters"] = sum(p.numel() for p in model.parameters())
        result["image"] = batch.shape[-1]
        step = "prepare"
        plan = quantize.plan(model, SCHEME, batch)
        result["binary"], result["layers"] = len(plan.binary), len(plan)
        model = quantize.apply_plan(model, plan)
        step = "training"
        _train_step(model, batch)
        step = "summary"
        cost = quantize.summary(model.eval(), batch)
        for field in ("macs", "binary_macs", "float_bytes", "packed_bytes"):
            result[field] = getattr(cost, field)
        step = "ONNX export"
        with tempfile.TemporaryDirectory() as folder:
            report = quantize.export_onnx(model, Path(folder) / "model.onnx", batch)
        result["difference"] = report.parity.difference
    except Exception as error:
        result["status"] = f"{step}: {' '.join(str(error).split()) or type(error).__name__}"
    return result


def _train_step(model, batch) -> None:
    """Forward and backward; RuntimeError when the weights of a binary layer get no finite gradient."""
    import torch
    from torch.utils._pytree import tree_leaves

    import quantize

    outputs = [y for y in tree_leaves(model.train()(batch)) if isinstance(y, torch.Tensor)]
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


def report(names: list[str], results: dict[str, dict[str, Any]]) -> str:
    """READMEs/models.md."""
    statuses = [results[name]["status"] for name in names if name in results]
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in PACKAGES)
    lines = [
        "# Models of torchvision and timm",
        "",
        "Written by `python tools/sweep_models.py`: every classification model of torchvision and the smallest model",
        f"of each timm family, with scheme `{SCHEME}` and random weights, through `prepare` with an example input, a",
        "forward and backward pass, `summary`, and ONNX export whose result is compared with PyTorch's. Of a few image",
        "sizes it is the smallest that the network takes; a batch has two images.",
        "",
        f"**{statuses.count(PASSED)} of {len(statuses)} go through**, {len(names) - len(statuses)} were not run.",
        f"{versions}; {datetime.date.today()}.",
        "",
        "*binary* counts the layers that became binary, of all that hold a matrix or filters (`quantize.plan` gives",
        "the reason for each that did not); *binary MACs* is their share of the multiply-accumulates that layers do on",
        "an image of that size; *packed* is the size of the file with 1 bit a binary weight, then against float.",
    ]
    for library in ("torchvision", "timm"):
        own = [name for name in names if name.startswith(library)]
        lines += ["", f"## {library}", "", *_table(own, results)]
    return "\n".join(lines) + "\n"


def _table(names: list[str], results: dict[str, dict[str, Any]]) -> list[str]:
    rows = [
        "| model | image | parameters | binary | binary MACs | packed bytes | | status |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for name in names:
        result = results.get(name, {"status": "not run"})
        cells = [name.partition("/")[2], *_figures(result), result["status"].replace("|", "\\|")]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _figures(result: dict[str, Any]) -> list[str]:
    if "packed_bytes" not in result:
        return [str(result.get("image", "")), f"{result['parameters']:,}" if "parameters" in result else "", *[""] * 4]
    share = result["binary_macs"] / max(1, result["macs"] + result["binary_macs"])
    return [
        str(result["image"]),
        f"{result['parameters']:,}",
        f"{result['binary']} of {result['layers']}",
        f"{share:.1%}",
        f"{result['packed_bytes']:,}",
        f"1/{result['float_bytes'] / result['packed_bytes']:.1f}",
    ]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", metavar="PATTERN", help="only these, such as 'timm/*' or 'torchvision/resnet18'")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"default: {RESULTS.relative_to(ROOT)}")
    parser.add_argument("--seconds", type=int, default=300, help="of processor time a model (default: %(default)s)")
    parser.add_argument("--memory", type=float, default=14, help="GiB a model (default: %(default)g)")
    parser.add_argument("--report", action="store_true", help="run nothing, write the table from the results")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    args.results.parent.mkdir(parents=True, exist_ok=True)
    names = model_names(args.results.with_name(f"timm_{importlib.metadata.version('timm')}.json"))
    lines = args.results.read_text().splitlines() if args.results.exists() else []
    results = {result["model"]: result for result in map(json.loads, lines)}
    if args.models:
        wanted = fnmatch.filter(names, args.models)
    else:
        wanted = [name for name in names if name not in results]
    if not args.report:
        warm_up()
        for i, name in enumerate(wanted, 1):
            results[name] = run(name, args.seconds, args.memory)
            with args.results.open("a") as file:
                file.write(json.dumps(results[name]) + "\n")
            print(f"{i}/{len(wanted)} {name}: {results[name]['status'][:200]}", flush=True)
    REPORT.write_text(report(names, results))


if __name__ == "__main__":
    main()
