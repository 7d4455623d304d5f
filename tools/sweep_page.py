"""READMEs/models.md: the results of tools/sweep_models.py as a page."""

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


def report(names: list[str], results: dict[str, dict[str, Any]], page: str = "") -> str:
    """READMEs/models.md; what ``page``, the one that there is, says of a section without results stays."""
    kept = _sections(page)
    sections = []
    for section in SECTIONS:
        own = [name for name in names if name.startswith(f"{section}/")]
        if section in kept and not any(name in results for name in own):
            sections += ["", f"## {section}", "", *kept[section]]
        elif own:
            sections += ["", f"## {section}", "", _versions(section), "", *_table(own, results)]
    statuses = [line.rpartition(" | ")[2].removesuffix(" |") for line in sections if line.startswith("| ")]
    statuses = [status for status in statuses if status != "status"]  # the heads of the tables
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
        "an image of that size; *packed* is the size of the file with 1 bit a binary weight, then against float.",
    ]
    return "\n".join([*lines, *sections]) + "\n"


def _sections(page: str) -> dict[str, list[str]]:
    """The lines under each heading of a page."""
    parts = [part.partition("\n") for part in page.split("\n## ")[1:]]
    return {heading: body.strip().splitlines() for heading, _, body in parts}


def _versions(section: str) -> str:
    packages = ("torch", *SECTIONS[section], "onnxruntime")
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    return f"{versions}; {datetime.date.today()}."


def _table(names: list[str], results: dict[str, dict[str, Any]]) -> list[str]:
    rows = [
        "| model | image | parameters | binary | binary MACs | packed bytes | | status |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for name in names:
        result = results.get(name, {"status": NOT_RUN})
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
