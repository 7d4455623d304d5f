"""Write READMEs/zoo.md: the trained networks that come with the package, what they reach, weigh and take.

    python tools/zoo_page.py

Accuracies are those of the registry, which tools/ship.py measured; times those that tools/benchmark.py --network has
kept in READMEs/performance/, one processor beside the other. The picture is drawn by tools/draw_zoo.py.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import models
from models import zoo
from tools.benchmarking.machine import processor
from tools.benchmarking.page.performance_tables import markdown
from tools.benchmarking.result import read_result
from tools.command_line import exit_code, tool_parser
from tools.reproducing.jobs import ALL
from tools.reproducing.kept_logs import READMES

HEADER = """# Trained networks

They come with the package, and are written here by `python tools/zoo_page.py` from `models/weights/registry.json`.

```python
import models
from PIL import Image

network = models.create_model("lenet5_xnornet", pretrained="mnist", packed=True)
about = models.get_pretrained("lenet5_xnornet", "mnist")
digit = network(about.images(Image.new("L", (28, 28)))).argmax()  # any picture, of any size
print(about.classes[digit], about.onnx_path.name)
```

`create_model(name, pretrained=dataset)` returns the *binary* network: in evaluation it has the accuracy below as it is,
and it trains on, from weights made of the bits and their scales. With `packed=True` it is what `quantize.convert` makes
of it, bits that are computed on. `onnx_path` is the packed ONNX file, for `quantize.ort_session` or any onnxruntime.
`python tools/evaluate.py NAME --pretrained DATASET` tests one, and
`python trainer_exp.py --arch NAME --pretrained DATASET` trains it on.

*top-1* is that of the last epoch on the whole test set, of the network built from the files that ship, *float* that
of its float twin, and *published* the best figure that others have reported for such a network. *state* and *ONNX* are
the bytes of the two files, *float bytes* those of the parameters in float32. The times are of one image on one thread:
the packed ONNX file with our kernels, and the float twin in onnxruntime.

![Accuracy against kB and against ms, float and binary](images/zoo.png)
"""

CURVES = """## How they were trained

What is missing to the published figures is length: those took 200 to 320 epochs on a GPU, these a few hours of one
core of a CPU. Test accuracy still rises when the learning rate comes to its end, and training accuracy is hardly
higher than that: nothing is learned by heart yet. Those for CIFAR-10 went on from networks of shorter runs, which is
what their `--pretrained` stands for: `nin_xnornet` from [one of 16 epochs](runs/nin_xnornet_16), [one of
14](runs/nin_xnornet_c) and [one of 9](runs/nin_xnornet_d), `resnet20_bireal` from one of
[30](runs/resnet20_bireal_c), which was no worse than [50 without a teacher](runs/resnet20_bireal_50),
`nin_gc_xnornet` from one of [7](runs/nin_gc_xnornet_7), of [4](runs/nin_gc_xnornet_c), of
[14](runs/nin_gc_xnornet_d), whose SGD moved next to no bit, of [4](runs/nin_gc_xnornet_e) and of
[18](runs/nin_gc_xnornet_f). The last two epochs of that one, at a rate next to 0, gave 81.3 and 80.2%: running
averages of batch norm lag behind signs that still change. So one epoch more ended with averages over 10,000 images
(`--norm-images`). The float twins have had [8 epochs](runs/nin_float_8) and [4](runs/nin_gc_float_4), which is not
their end either. `python tools/reproduce.py NAME --gpu 0` is the way to the rest.

Three seeds of `lenet5_xnornet` reach [99.38](runs/lenet5_xnornet_a), [99.39](runs/lenet5_xnornet_b) and
[99.38%](runs/lenet5_xnornet_c), 99.383% on the average: what ships is the first one. Whitened first filters and batch
norm biases that learn eight times as fast make its 40 epochs more than [60 without](runs/lenet5_xnornet_0).
"""


def curves_file(dataset: str) -> str:
    """The picture of the runs for a set, in READMEs/images/; tools/draw_zoo.py draws it."""
    return f"zoo_{dataset}.png"


def bytes_of(file: str) -> str:
    return f"{(zoo.WEIGHTS / file).stat().st_size:,}"


def float_bytes(entry: zoo.Pretrained) -> int:
    """Of the network's parameters in float32."""
    network = models.create_model(entry.name, pretrained=entry.dataset)
    return sum(4 * parameter.numel() for parameter in network.parameters())


def row(entry: zoo.Pretrained) -> list[str]:
    """One network's cells, but for the times."""
    with_float = "" if entry.float_accuracy is None else f"{entry.float_accuracy:.2f}"
    sizes = [bytes_of(entry.state["file"]), bytes_of(entry.onnx["file"]), f"{float_bytes(entry):,}"]
    log = f"[log](runs/{entry.log})"
    published = ALL[entry.name].published or ""
    accuracies = [f"{entry.accuracy:.2f}", with_float, published]
    return [entry.name, entry.data, *accuracies, *sizes, str(entry.epochs), entry.date, log]


def times() -> list[tuple[str, dict[tuple[str, str], float]]]:
    """Processor -> (network, side) -> microseconds of one image on one thread, for each that has been measured."""
    found = []
    for file in sorted((READMES / "performance").glob("*/networks.json")):
        result = read_result(file)
        rows = [row for group in result.groups.values() for row in group if (row.batch, row.threads) == (1, 1)]
        medians = {(row.case, row.side): row.median_us for row in rows if row.median_us}
        found.append((processor(result.environment), medians))
    return found


def page() -> str:
    """The whole page, Markdown."""
    entries = [models.get_pretrained(*key) for key in models.list_pretrained()]
    measured = times()
    header = ["name", "data", "top-1", "float", "published", "state", "ONNX", "float bytes", "epochs", "date", "log"]
    header += [f"{name}: ms, float ms" for name, _ in measured]

    def cells(entry: zoo.Pretrained) -> list[str]:
        pairs = [[medians.get((entry.name, side)) for side in ("xnorkit_onnx", "ort_float")] for _, medians in measured]
        return row(entry) + [", ".join(f"{us / 1000:.3f}" if us else "-" for us in pair) for pair in pairs]

    commands = [f"* `{entry.command}`: {entry.name}, seed {entry.seed}, commit {entry.commit}" for entry in entries]
    curves = [f"![Top-1 by epoch, {d}](images/{curves_file(d)})" for d in sorted({e.dataset for e in entries})]
    return "\n".join([HEADER, markdown(header, map(cells, entries)), "", CURVES, *commands, "", *curves, ""])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    tool_parser(__doc__).parse_args(argv)
    return exit_code("zoo_page", lambda: (READMES / "zoo.md").write_text(page(), encoding="utf-8") and None)


if __name__ == "__main__":
    sys.exit(main())
