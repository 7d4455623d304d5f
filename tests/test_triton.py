"""Who computes on CUDA tensors, and what is said where nobody can."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from quantize import kernels, packing
from quantize.kernels import ConvGeometry

ROOT = Path(__file__).resolve().parent.parent
GPU = torch.cuda.is_available()


def test_without_triton_the_error_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("quantize.kernels.cuda")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(kernels, "cuda", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setenv("XNORKIT_KERNEL", "triton")  # what a CUDA tensor does
    with pytest.raises(ImportError, match=r"Triton is not installed: pip install triton, or set XNORKIT_KERNEL=ref"):
        kernels.pack(torch.randn(1, 3, 4, 4))


@pytest.mark.skipif(GPU, reason="needs a process without Triton's interpreter and without a GPU")
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter takes CPU tensors")
def test_cpu_tensors_are_refused(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv("XNORKIT_KERNEL", "triton")
    geometry = ConvGeometry(8, 8)
    weights = kernels.prepare_weights(packing.pack_weights(torch.randn(geometry.filters)), geometry)
    for call in (
        lambda: kernels.pack(torch.randn(1, 8, 4, 4)),
        lambda: kernels.conv2d(torch.zeros(1, 4, 4, 1, dtype=torch.int64), weights, geometry),
    ):
        with pytest.raises(ValueError, match="is on cpu; the Triton kernels take CUDA tensors, or CPU tensors through"):
            call()


def test_importing_quantize_does_not_import_triton():
    code = "import sys, quantize; print('quantize.kernels.cuda' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
