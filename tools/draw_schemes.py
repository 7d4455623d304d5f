"""Draw what every scheme does to an input and to a weight, with its gradients, from the code itself.

    python tools/draw_schemes.py                     to READMEs/images/schemes.png
    python tools/draw_schemes.py --out FILE.png

One row a scheme. Left: the layer's input before and after the scheme, and the gradient that reaches it. Right: the
same for one weight of a filter of 101 that are spread evenly over [-2, 2]. Annealed schemes are drawn at the start,
the middle and the end of training. Exit codes: 0 done, 2 something that cannot be used.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn

import quantize
from tools.command_line import exit_code, tool_parser

OUT = Path(__file__).resolve().parent.parent / "READMEs" / "images" / "schemes.png"
SPREAD = torch.linspace(-2, 2, 101)
# Label -> progress of training, colour.
GRADIENT = {"gradient": (1.0, "C0")}
ANNEALED = {f"gradient at {progress:.0%} of training": (progress, f"C{i}") for i, progress in enumerate((0, 0.5, 1), 1)}


def layer_of(scheme: str, progress: float) -> quantize.BinaryLinear:
    """One output whose filter is the spread, at this progress of training."""
    layer = nn.Linear(len(SPREAD), 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(SPREAD)
    layer = quantize.prepare(layer, scheme, keep_float=()).eval()
    quantize.set_progress(layer, progress)
    return layer


def input_curve(scheme: str, progress: float = 1.0) -> tuple[Tensor, Tensor]:
    """(what the layer computes with, gradient) at each input of the spread."""
    layer, x = layer_of(scheme, progress), SPREAD.clone().requires_grad_()
    y = layer.scheme.input(x, layer)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    return y.detach(), gradient


def weight_curve(scheme: str, progress: float = 1.0) -> tuple[Tensor, Tensor]:
    """(quantized weight, its derivative by the same latent weight) at each weight of the spread."""
    layer = layer_of(scheme, progress)
    values, scale = layer.quantized_weight()
    weight = (values if scale is None else values * scale).flatten()
    rows = [torch.autograd.grad(w, layer.weight, retain_graph=True)[0].flatten() for w in weight]
    return weight.detach(), torch.stack(rows).diagonal()


def draw():
    """A matplotlib figure of all schemes."""
    from matplotlib.figure import Figure

    schemes = quantize.list_schemes()
    figure = Figure(figsize=(9, 1.75 * len(schemes)), layout="constrained")
    axes = figure.subplots(len(schemes), 2, sharex=True, squeeze=False)
    for row, name in zip(axes, schemes, strict=True):
        gradients = ANNEALED if quantize.get_scheme(name).annealed else GRADIENT
        for axis, curve in zip(row, (input_curve, weight_curve), strict=True):
            axis.plot(SPREAD, curve(name)[0], color="black", label="value")
            for label, (progress, colour) in gradients.items():
                axis.plot(SPREAD, curve(name, progress)[1], linestyle="--", color=colour, label=label)
            axis.grid(alpha=0.3)
        row[0].set_ylabel(name, fontsize=12)
    axes[0][0].set_title("input")
    axes[0][1].set_title("weight")
    lines = {line.get_label(): line for axis in figure.axes for line in axis.lines}  # one legend, beside all curves
    figure.legend(lines.values(), lines, loc="outside upper center", ncols=len(lines), frameon=False, fontsize="small")
    return figure


def save(path: Path) -> None:
    """Draw into a file. Raises ValueError or OSError where that cannot be."""
    if path.suffix != ".png":
        raise ValueError(f"{str(path)!r} is not a .png file; name one")
    path.parent.mkdir(parents=True, exist_ok=True)
    draw().savefig(path, dpi=80)
    print(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    parser = tool_parser(__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help="default: READMEs/images/schemes.png")
    flags = parser.parse_args(argv)
    return exit_code("draw_schemes", lambda: save(flags.out))


if __name__ == "__main__":
    sys.exit(main())
