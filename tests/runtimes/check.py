"""Do the ONNX files of a folder compute PyTorch's answers in this onnxruntime? It and numpy are all that this needs.

`python check.py FOLDER` prints the largest difference of each file, relative to the largest value, and fails where one
is larger than TOLERANCE or a file does not run. Before 1.24 onnxruntime may refuse a file of format "int8".
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime

TOLERANCE = 1e-4  # of the largest value
SIGNED_CONV_INTEGER = (1, 24)  # the first version that has one: with bytes of 0 and more it takes three times as long


def difference(file: Path) -> float:
    """Of the file's answers from those beside it."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    images, expected = (np.load(file.with_suffix(f".{which}.npy")) for which in ("input", "output"))
    (found,) = session.run(None, {session.get_inputs()[0].name: images})
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def verdict(file: Path) -> tuple[bool, str]:
    """(whether it is as it should be, how it is)."""
    version = tuple(map(int, onnxruntime.__version__.split(".")[:2]))
    try:
        found = difference(file)
    except Exception as error:  # onnxruntime's exceptions have no common base
        reason = str(error).partition("\n")[0]
        expected = file.stem.endswith("int8") and version < SIGNED_CONV_INTEGER and "ConvInteger" in reason
        return expected, f"refused{', as expected' * expected}: {reason}"
    right = found <= TOLERANCE  # not so where it is NaN
    return right, f"{'right' if right else 'WRONG'}, off by {found:.1e}"


def main(folder: Path) -> int:
    files = sorted(folder.glob("*.onnx"))
    passed = bool(files)
    for file in files:
        fine, text = verdict(file)
        passed &= fine
        print(f"onnxruntime {onnxruntime.__version__}  {file.stem:25}  {text}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
