"""The operators of domain "xnorkit" as ONNX functions: what a packed layer is in operators of the standard.

A runtime without our library inlines these bodies and is exact. onnxruntime with the library registered keeps
the calls and runs its kernels. Between calls of ours, +-1 values are floats in the bodies; the kernels put bits
into the same tensors, see quantize/csrc/ort_ops.cc.
"""

import functools

import onnx

DOMAIN = "xnorkit"
VERSION = 1  # of the domain: a node of a later one may mean something else
OPSET = 21

_CONV = ("kernel_shape", "strides", "pads", "dilations", "group", "filter_shape", "filter_bits", "size_hint")

# `used`: the first {count} bits of each row of {bytes}, 0 or 1.
_BITS = """
  shifts = Constant <value = uint8[8] {{0, 1, 2, 3, 4, 5, 6, 7}}> ()
  bit = Constant <value = uint8[1] {{1}}> ()
  byte_axis = Constant <value_ints = [2]> ()
  split = Unsqueeze ({bytes}, byte_axis)
  shifted = BitShift <direction = "RIGHT"> (split, shifts)
  bits = BitwiseAnd (shifted, bit)
  rows_shape = Constant <value_ints = [0, -1]> ()
  rows = Reshape (bits, rows_shape)
  start = Constant <value_ints = [0]> ()
  end = Constant <value_ints: ints = @{count}> ()
  axis = Constant <value_ints = [1]> ()
  used = Slice (rows, start, end, axis)
"""

_WEIGHT = (
    _BITS.format(bytes="weight_bits", count="filter_bits")
    + """
  filter_shape = Constant <value_ints: ints = @filter_shape> ()
  filters = Reshape (used, filter_shape)
  ordered = Transpose <perm = [0, 3, 1, 2]> (filters)
  zero_one = Cast <to = 1> (ordered)
  zero_two = Add (zero_one, zero_one)
  weight = Sub (zero_two, plus)
"""
)

# A layer that stores codes: y is the low-bit weight.
_LEVELS = (
    _BITS.format(bytes="codes", count="filter_bits")
    + """
  code_shape = Constant <value_ints: ints = @code_shape> ()
  code_bits = Reshape (used, code_shape)
  code_parts = Cast <to = 7> (code_bits)
  values = Constant <value_ints: ints = @bit_values> ()
  parts = Mul (code_parts, values)
  last = Constant <value_ints = [-1]> ()
  places = ReduceSum <keepdims = 0> (parts, last)
  weights = Gather (levels, places)
  shape = Constant <value_ints: ints = @filter_shape> ()
  y = Reshape (weights, shape)
"""
)

_CONSTANTS = """
  plus = Constant <value = float {1.0}> ()
  minus = Constant <value = float {-1.0}> ()
  a_channel = Constant <value_ints = [1, -1, 1, 1]> ()
"""

# {to} = sign({x}): +1 where x turn >= threshold.
_SIGN = """
  {to}_turn = Reshape ({turn}, a_channel)
  {to}_threshold = Reshape ({threshold}, a_channel)
  {to}_turned = Mul ({x}, {to}_turn)
  {to}_above = GreaterOrEqual ({to}_turned, {to}_threshold)
  {to} = Where ({to}_above, plus, minus)
"""

# The scale comes first: onnxruntime folds the factor of Mul(sums, scale) into the weights, whose sums are rounded.
_SUMS = """
  sums = Conv <kernel_shape: ints = @kernel_shape, strides: ints = @strides, pads: ints = @pads,
               dilations: ints = @dilations, group: int = @group> ({x}, weight)
  scales = Reshape (scale, a_channel)
  scaled = Mul (scales, sums)
"""

# y of (N, C, H, W) as (N, {groups}, C / {groups}, H, W).
_SPLIT = """
  {y}_size = Shape ({y})
  {y}_pixels = Shape <start = 2> ({y})
  {y}_scalar = Constant <value_int: int = @{groups}> ()
  {y}_one = Constant <value_ints = [1]> ()
  {y}_groups = Reshape ({y}_scalar, {y}_one)
  {y}_batch = Constant <value_ints = [0]> ()
  {y}_rest = Constant <value_ints = [-1]> ()
  {y}_shape = Concat <axis = 0> ({y}_batch, {y}_groups, {y}_rest, {y}_pixels)
  {y}_split = Reshape ({y}, {y}_shape)
"""

_INPUT_SCALE = """
  k_axis = Constant <value_ints = [2]> ()
  k = Unsqueeze (input_scale, k_axis)
  scaled_k = Mul (scaled_split, k)
  scaled_twice = Reshape (scaled_k, scaled_size)
"""

_BIAS = """
  biases = Reshape (bias, a_channel)
  biased = Add ({x}, biases)
"""

_SHUFFLE = """
  shuffled = Transpose <perm = [0, 2, 1, 3, 4]> (finished_split)
  y = Reshape (shuffled, finished_size)
"""

_MAX_POOL = """
  a_channel = Constant <value_ints = [1, -1, 1, 1]> ()
  turns = Reshape (turn, a_channel)
  turned = Mul (x, turns)
  largest = MaxPool <kernel_shape: ints = @kernel_shape, strides: ints = @strides, pads: ints = @pads,
                     dilations: ints = @dilations, ceil_mode: int = @ceil_mode> (turned)
  y = Mul (largest, turns)
"""


def conv_name(from_bits: bool, to_bits: bool, relu: bool, scaled: bool, shuffle: bool) -> str:
    """The operator that does these: the names of its parts in this order."""
    ends = "ToBits" * to_bits + "Relu" * relu + "Scaled" * scaled + "Shuffle" * shuffle
    return "BinaryConv" + "FromBits" * from_bits + ends


@functools.cache
def function(name: str) -> onnx.FunctionProto:
    """The body of an operator of ours."""
    if name == "BinaryMaxPool":
        attributes = ("kernel_shape", "strides", "pads", "dilations", "ceil_mode")
        return _parse(name, attributes, ("x", "turn"), _MAX_POOL)
    if name == "BinaryWeight":
        return _parse(name, ("filter_shape", "filter_bits", "code_shape", "bit_values"), ("codes", "levels"), _LEVELS)
    parts = name.removeprefix("BinaryConv")
    from_bits, to_bits, scaled = ("FromBits" in parts), ("ToBits" in parts), ("Scaled" in parts)
    inputs = ["x", "weight_bits", "scale", "bias"]
    inputs += [] if from_bits else ["threshold", "turn"]
    inputs += ["output_threshold", "output_turn"] if to_bits else []
    inputs += ["input_scale"] if scaled else []
    body = _CONSTANTS + _WEIGHT
    if not from_bits:
        body += _SIGN.format(x="x", to="signs", threshold="threshold", turn="turn")
    body += _SUMS.format(x="x" if from_bits else "signs")
    if scaled:
        body += _SPLIT.format(y="scaled", groups="group") + _INPUT_SCALE
    body += _BIAS.format(x="scaled_twice" if scaled else "scaled")
    return _parse(name, _CONV + ("shuffle",) * ("Shuffle" in parts), inputs, body + _ending(parts))


def _ending(parts: str) -> str:
    """From ``biased`` to ``y``."""
    result = "finished" if "Shuffle" in parts else "y"
    if "ToBits" in parts:
        end = _SIGN.format(x="biased", to=result, threshold="output_threshold", turn="output_turn")
    else:
        end = f"  {result} = {'Relu' if 'Relu' in parts else 'Identity'} (biased)\n"
    return end + (_SPLIT.format(y="finished", groups="shuffle") + _SHUFFLE if "Shuffle" in parts else "")


def _parse(name: str, attributes, inputs, body: str) -> onnx.FunctionProto:
    head = f'<domain: "{DOMAIN}", opset_import: ["": {OPSET}]>\n'
    signature = f"{name} <{', '.join(attributes)}> ({', '.join(inputs)}) => (y)"
    return onnx.parser.parse_function(f"{head}{signature}\n{{{body}}}")
