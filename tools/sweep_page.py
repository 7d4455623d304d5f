"""READMEs/models.md: the results of tools/sweep_models.py as a page."""

import dataclasses
import datetime
import importlib.metadata
from typing import Any

from tools.sweep_networks import TASKS

SCHEME = "xnor"
PASSED, NOT_RUN = "ok", "not run"
# The sections of the page, and the packages that a model of one needs beside torch and onnxruntime.
SECTIONS = {
    "torchvision": ("torchvision",),
    "timm": ("timm",),
    **{f"torchvision-{task}": ("torchvision",) for task in TASKS},
    "transformers": ("transformers",),
}
HEAD = [
    "| model | image | parameters | binary | binary MACs | packed bytes | | run | status |",
    "|---|--:|--:|--:|--:|--:|--:|---|---|",
]


@dataclasses.dataclass
class Section:
    """What a page says of a library.

    Attributes:
        versions: day of a run -> the versions that it ran with.
        rows: model -> its line of the table.
    """

    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    rows: dict[str, str] = dataclasses.field(default_factory=dict)

    def lines(self) -> list[str]:
        """The days that rows are of, with the versions, then the table."""
        days = {_cell(row, -2) for row in self.rows.values()}
        versions = [f"- {day}: {self.versions[day]}" for day in sorted(days & self.versions.keys())]
        return [*versions, "", *HEAD, *self.rows.values()]


def today(name: str) -> dict[str, str]:
    """For a result of the model ``name``: the day of the run and the versions that it ran with."""
    packages = ("torch", *SECTIONS[name.partition("/")[0]], "onnxruntime")
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    return {"run": str(datetime.date.today()), "versions": versions}


def report(names: list[str], results: dict[str, dict[str, Any]], page: str = "") -> str:
    """READMEs/models.md; what ``page``, the one that there is, says of models without a result stays."""
    sections = _sections(page)
    for name in SECTIONS:
        own = [model for model in names if model.startswith(f"{name}/")]
        if own:
            sections[name] = _section(own, results, sections.get(name, Section()))
    shown = [name for name in SECTIONS if name in sections]
    statuses = [_cell(row, -1) for name in shown for row in sections[name].rows.values()]
    not_run = statuses.count(NOT_RUN)
    lines = [
        "# Models of torchvision, timm and transformers",
        "",
        "Written by `python tools/sweep_models.py`: all models of torchvision for classification, detection,",
        "segmentation and video, the smallest model of each timm family, and architectures of transformers in a small",
        f"configuration, with scheme `{SCHEME}` and random weights, through `prepare` with an example input, a forward",
        "and backward pass, `summary`, and ONNX export whose result is compared with PyTorch's. Of a few image sizes",
        "it is the smallest that the network takes; a batch has two images. Detectors take a list of images and are",
        "converted instead of exported.",
        "",
        f"**{statuses.count(PASSED)} of {len(statuses) - not_run} go through**, {not_run} were not run.",
        "",
        "*binary* counts the layers that became binary, of all that hold a matrix or filters (`quantize.plan` gives",
        "the reason for each that did not); *binary MACs* is their share of the multiply-accumulates that layers do on",
        "an image of that size; *packed* is the size of the file with 1 bit a binary weight, then against float; *run*",
        "is the day, for which the versions stand above the table.",
    ]
    for name in shown:
        lines += ["", f"## {name}", "", *sections[name].lines()]
    return "\n".join(lines) + "\n"


def models_of(page: str) -> list[str]:
    """ "torchvision/resnet18", ...: those that a page has a row of."""
    return [f"{library}/{model}" for library, section in _sections(page).items() for model in section.rows]


def _section(names: list[str], results: dict[str, dict[str, Any]], kept: Section) -> Section:
    """Of the models ``names``, in their order: the results' rows, else those that there are."""
    section = Section(dict(kept.versions))
    for name in names:
        model, result = name.partition("/")[2], results.get(name)
        if result is None and model in kept.rows:
            section.rows[model] = kept.rows[model]
        else:
            section.rows[model] = _row(model, result or {"status": NOT_RUN})
        if result is not None and "run" in result:
            section.versions[result["run"]] = result["versions"]
    return section


def _sections(page: str) -> dict[str, Section]:
    """What stands under each heading of a page."""
    sections = {}
    for part in page.split("\n## ")[1:]:
        heading, _, body = part.partition("\n")
        lines = body.strip().splitlines()
        runs = [line.removeprefix("- ").partition(": ") for line in lines if line.startswith("- ")]
        rows = {_cell(line, 0): line for line in lines if line.startswith("| ") and line not in HEAD}
        sections[heading] = Section({day: versions for day, _, versions in runs}, rows)
    return sections


def _row(model: str, result: dict[str, Any]) -> str:
    cells = [model, *_figures(result), result.get("run", ""), result["status"].replace("|", "\\|")]
    return f"| {' | '.join(cells)} |"


def _cell(row: str, number: int) -> str:
    """A cell of a line of a table."""
    return row.removeprefix("| ").removesuffix(" |").split(" | ")[number]


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
