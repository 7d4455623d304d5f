"""The training kernels compiled for GPUs that need not be there."""

import os

import pytest

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter replaces the compiler", allow_module_level=True)

from test_triton_compile import compiled, own_cache  # noqa: F401  a fixture that is used by all

from quantize.kernels.cuda import signs as training

POINTERS = {"values": "*bf16", "x": "*bf16", "positive": "*i32", "inside": "*i32"}
GRADIENTS = {"gradient": "*bf16", "inside": "*i32", "result": "*bf16"}
FILTERS = {"weight": "*fp32", "gradient": "*fp32", "result": "*fp32"}


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("closed", [False, True])
def test_signs(capability, closed):
    code = compiled(training.sign_kernel, capability, {"CLOSED": closed, "WORDS": training.WORDS}, POINTERS)
    assert "st.global" in code.asm["ptx"]
    bits_alone = {"CLOSED": False, "WORDS": training.WORDS, "values": None, "inside": None}
    assert len(compiled(training.sign_kernel, capability, bits_alone, POINTERS).asm["ptx"]) < len(code.asm["ptx"])


@pytest.mark.parametrize("capability", [80, 90])
def test_gradients(capability):
    words = {"WORDS": training.WORDS}
    assert compiled(training.signs_kernel, capability, words, POINTERS).asm["cubin"]
    assert compiled(training.pass_kernel, capability, words, GRADIENTS).asm["cubin"]


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize(("inputs", "taps"), [(512, 9), (1, 25), (4096, 1)])
def test_filters(capability, inputs, taps, gradient):
    blocks = [1 << (n - 1).bit_length() for n in (inputs, taps)]
    constants = {"INPUTS": inputs, "TAPS": taps, "CENTER": True, "BLOCK_I": blocks[0], "BLOCK_T": blocks[1]}
    constants |= {} if gradient else {"gradient": None}
    assert compiled(training.scaled_sign_kernel, capability, constants, FILTERS, num_warps=8).asm["cubin"]
