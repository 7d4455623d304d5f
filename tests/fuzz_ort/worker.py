"""Runs mutants, in a process of its own that may crash: `-m fuzz_ort.worker DIRECTORY LIBRARY FIRST END`.

Before each step it prints "number step", after it "number verdict": the driver sees where it died or hangs.
"""

import os
import pickle
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from .mutations import mutant

TOLERANCE = 1e-4  # of the largest value: the bodies' scales and biases may be rounded elsewhere


def session(data: bytes, library: str | None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 2 if library else 1
    if library:
        options.register_custom_ops_library(library)
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def feeds(one: onnxruntime.InferenceSession, known: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The model's own inputs; of another shape where the mutant wants one."""
    given = {}
    for value in one.get_inputs():
        x = known.get(value.name, known["x"])
        fixed = all(isinstance(dim, int) for dim in value.shape)
        if fixed and tuple(value.shape) != x.shape and np.prod(value.shape) < 1e6:
            x = np.resize(x, value.shape)
        given[value.name] = x
    return given


def outcome(data: bytes, library: str | None, known: dict[str, np.ndarray]) -> np.ndarray | str:
    """The output, or the message of the error."""
    try:
        one = session(data, library)
        return one.run(None, feeds(one, known))[0]
    except Exception as error:  # onnxruntime's exceptions have no common base
        return str(error) or "an error without a message"


def same_functions(data: bytes, original: bytes) -> bool:
    """Whether the bodies are those of the valid file: else kernels and bodies compute different things by right."""
    try:
        found = onnx.load_from_string(data).functions
    except Exception:
        return False
    return [f.SerializeToString() for f in found] == [
        f.SerializeToString() for f in onnx.load_from_string(original).functions
    ]


def verdict(ours: np.ndarray | str, standard: np.ndarray | str) -> str:
    if isinstance(ours, str):
        return "refused"
    if isinstance(standard, str):
        return f"WRONG: ran where the standard operators fail: {standard}"
    if ours.shape != standard.shape:
        return f"WRONG: shape {ours.shape}, the standard operators give {standard.shape}"
    if np.isnan(ours).any():
        return "not a number"
    with np.errstate(all="ignore"):
        close = np.isclose(ours, standard, rtol=0, atol=TOLERANCE * np.nan_to_num(abs(standard)).max(initial=1e-30))
    return "agrees" if (close | (ours == standard)).all() else f"WRONG: {ours.flat[:4]} instead of {standard.flat[:4]}"


def main() -> None:
    directory, library = Path(sys.argv[1]), sys.argv[2]
    first, end = int(sys.argv[3]), int(sys.argv[4])
    models, inputs = pickle.loads((directory / "models.pickle").read_bytes())
    report = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # onnxruntime prints to the standard output too
    for number in range(first, end):
        name, _, data = mutant(models, number)
        print(number, "kernels", file=report)
        ours = outcome(data, library, inputs[name])
        if isinstance(ours, str) or not same_functions(data, models[name]):
            print(number, "refused" if isinstance(ours, str) else "ran", file=report)
            continue
        print(number, "standard", file=report)
        print(number, verdict(ours, outcome(data, None, inputs[name])).replace("\n", " "), file=report)


if __name__ == "__main__":
    main()
