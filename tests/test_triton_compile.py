"""The Triton kernels compiled for GPUs that need not be there: the machine code uses the int8 tensor cores."""

import os
import re

import pytest

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter replaces the compiler", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from quantize.kernels.cuda import bits, convolution, max_pool, tuning  # noqa: E402

POINTERS = {
    **{"words": "*i32", "weights": "*i32", "scale": "*fp32", "bias": "*fp32", "input_scale": "*fp32"},
    **{"threshold": "*fp32", "flip": "*u8", "x": "*fp32"},
}
RESULTS = {"bits": "*i32", "int32": "*i32", "float32": "*fp32", "signs": "*i8"}
TENSOR_CORES = {
    80: r"mma\.sync\.aligned\.m16n8k32\.row\.col\.satfinite\.s32\.s8\.s8\.s32",
    90: r"wgmma\.mma_async\.sync\.aligned\.m64n\d+k32\.s32\.s8\.s8",
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def compiled(kernel, capability: int, constants: dict, pointers: dict | None = None, **options):
    """The kernel for ``sm_<capability>``: arguments that are no constants and have no type here are integers."""
    types = {**POINTERS, **(pointers or {})}
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name].startswith("*")}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    options["enable_fp_fusion"] = False
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def conv_constants(channels=256, out=256, groups=1, kind="bits", **changes) -> dict:
    row, out_row = bits.row_words(channels), bits.row_words(out)
    return {
        **{"CHANNELS": channels, "OUT_CHANNELS": out, "GROUPS": groups, "H": 14, "W": 14, "OH": 14, "OW": 14},
        **{"KH": 3, "KW": 3, "SH": 1, "SW": 1, "TOP": 1, "LEFT": 1, "DH": 1, "DW": 1, "ROW": row, "OUT_ROW": out_row},
        **{"FILTER": -(-9 * channels // groups // 32), "KIND": kind, "NHWC": True, "RELU": False, "SHUFFLE": 1},
        **changes,
    }


def compiled_conv(capability: int, config, **constants):
    fixed = conv_constants(**constants)
    meta = config.all_kwargs()
    tile = {name: meta.pop(name) for name in ("BLOCK_P", "BLOCK_O", "BLOCK_K")}
    result = {"result": RESULTS[fixed["KIND"]]}
    kernel = convolution.conv_kernel.fn
    return compiled(kernel, capability, {**fixed, **tile}, result, **meta)


@pytest.mark.parametrize("capability", TENSOR_CORES)
@pytest.mark.parametrize("config", [tuning.CONFIGS[i] for i in (0, 5, -1)], ids=str)
def test_products_are_int8_on_the_tensor_cores(capability, config):
    """And a quad of bits costs three instructions: no byte is moved by itself."""
    ptx = compiled_conv(capability, config).asm["ptx"]
    small = config.kwargs["BLOCK_P"] < 64  # of one warp group: the older instruction
    assert re.search(TENSOR_CORES[80 if small else capability], ptx)
    assert not re.search(r"st\.shared(\.v\d)?\.[bus]8", ptx[: ptx.rindex("mma")])
    assert not re.search(r"fma\.rn\.f32", ptx)  # a product and a sum are rounded each


CASES = {
    "unaligned groups": {"channels": 48, "out": 36, "groups": 4, "kind": "signs"},
    "a tail": {"channels": 70, "out": 33, "kind": "float32", "NHWC": False, "RELU": True},
    "bare sums": {"kind": "int32", **dict.fromkeys(("scale", "bias", "input_scale", "threshold", "flip"))},
    "a shuffle": {"kind": "float32", "SHUFFLE": 4},
}


@pytest.mark.parametrize("capability", TENSOR_CORES)
@pytest.mark.parametrize("case", CASES)
def test_every_path_compiles(capability, case):
    assert compiled_conv(capability, tuning.CONFIGS[5], **CASES[case]).asm["cubin"]


def test_half_floats_are_rounded_to_nearest(monkeypatch):
    monkeypatch.setitem(RESULTS, "float32", "*bf16")
    assert "cvt.rn.bf16" in compiled_conv(90, tuning.CONFIGS[5], kind="float32").asm["ptx"]


@pytest.mark.parametrize("capability", TENSOR_CORES)
def test_packing_and_pooling_compile(capability):
    tile = {"BLOCK_P": 64, "BLOCK_W": 2}
    for source in ("*fp32", "*bf16", "*i8"):
        assert compiled(bits.pack_kernel, capability, {"CHANNELS": 70, "ROW": 4, **tile}, {"x": source}).asm["cubin"]
    names = ("H", "W", "OH", "OW", "KH", "KW", "SH", "SW", "TOP", "LEFT", "DH", "DW")
    sizes = dict(zip(names, (9, 8, 5, 4, 3, 3, 2, 2, 1, 1, 1, 1), strict=True))
    assert compiled(max_pool.pool_kernel, capability, {"CHANNELS": 70, "ROW": 4, **sizes, **tile}, {"result": "*i32"})


def test_the_estimate_prefers_tiles_that_fit():
    """256 -> 256, 3 x 3, 14 x 14, batch 256 against one row of a linear layer."""
    large = {"pixels": 256 * 196, "CHANNELS": 256, "OUT_CHANNELS": 256, "GROUPS": 1, "KH": 3, "KW": 3}
    row = {"pixels": 1, "CHANNELS": 512, "OUT_CHANNELS": 1000, "GROUPS": 1, "KH": 1, "KW": 1}
    best = [min(tuning.CONFIGS, key=lambda c: tuning.estimate(**s, **c.all_kwargs())).kwargs for s in (large, row)]
    assert best[0] == {"BLOCK_P": 128, "BLOCK_O": 128, "BLOCK_K": 128}
    assert best[1]["BLOCK_P"] <= 64
    products = 256 * 196 * 256 * 256 * 9 / (132 * 4096)  # cycles of the tensor cores at their peak
    assert tuning.estimate(**large, **tuning.CONFIGS[0].all_kwargs()) >= products
