"""The modules whose mutants are tried, and the tests that have to notice, the nearest first."""

_CONVERT = ("convert", "convert_neighbours", "convert_own", "converted_layers", "packed")
_PLAN = ("plan", "plan_errors", "obstacles", "roles")

NEAREST: dict[str, tuple[str, ...]] = {
    "quantize/packed/convert.py": _CONVERT,
    "quantize/packed/flow.py": ("convert_neighbours", "convert_own", "convert"),
    "quantize/packed/fold.py": ("convert_neighbours", "convert", "kernels_shuffle"),
    "quantize/packed/check.py": ("convert_check", "convert_own"),
    "quantize/planning/observe.py": ("observe", *_PLAN),
    "quantize/planning/topology.py": ("observe", *_PLAN),
    "quantize/planning/plan.py": (*_PLAN, "peft"),
    "quantize/packing.py": ("packing", "packed_state", "convert_neighbours", "convert_check"),
    "quantize/binary/threshold.py": ("thresholds", "plan"),
    "training/data/__init__.py": ("training_data", "training_folders"),
    "training/data/augment.py": ("training_data", "fast_training"),
    "training/data/datasets.py": ("training_data", "training_folders"),
    "training/data/imagefolder.py": ("training_folders", "training_data"),
    "training/data/loaders.py": ("training_data", "training_folders", "partial_epochs", "fast_training"),
    "training/data/mixing.py": ("mixing",),
    "training/data/normalization.py": ("training_data",),
}


def nearest(module: str) -> list[str]:
    """The test files of ``module``, by their paths in the repository."""
    return [f"tests/test_{name}.py" for name in NEAREST[module]]
