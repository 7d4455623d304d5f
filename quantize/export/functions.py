"""The operators of domain "xnorkit" as ONNX functions: what a packed layer is in operators of the standard.

A runtime without our library inlines these bodies and is exact. onnxruntime with the library registered keeps
the calls and runs its kernels. Between calls of ours, a bit is a float in the bodies, +1/2 or -1/2, and weights are
+2 or -2: so the float of a bit is one subtraction. The kernels put bits into the same tensors, see
quantize/csrc/ort/operators.cc.

onnxruntime 1.18, the first that knows the opset, and all later ones compute the bodies right (make test-runtimes).
Hence no arithmetic of bytes, which came with 1.21; and no DequantizeLinear: 1.21 rounds the float weights of the
operator after one to 8 bits.
"""

import functools

import onnx

DOMAIN = "xnorkit"
DOMAIN_VERSION = 1  # that files import
VERSION = 3  # of the operators: a node of a later one may mean something else; see quantize/csrc/ort/operators.cc
OPSET = 21  # of the standard operators, in the bodies and in the files


_WINDOW = ("kernel_shape", "strides", "pads", "dilations", "group")
_NUMBERS_CONV = (*_WINDOW, "filter_shape")
_CONV = (*_NUMBERS_CONV, "filter_bits", "size_hint")

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
  half_signs = Sub (zero_one, half)
  four = Constant <value = float {4.0}> ()
  weight = Mul (half_signs, four)
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

# A weight of signs, a row a filter.
_SIGNS = (
    _BITS.format(bytes="weight_bits", count="filter_bits")
    + """
  zero_one = Cast <to = 1> (used)
  half = Constant <value = float {0.5}> ()
  half_signs = Sub (zero_one, half)
  two = Constant <value = float {2.0}> ()
  filter_rows = Mul (half_signs, two)
"""
)

_SIGN_MATMUL = (
    _SIGNS
    + """
  signs = Transpose <perm = [1, 0]> (filter_rows)
  y = MatMul (x, signs)
"""
)

# A layer of a few bits: `weight`, odd whole numbers, is the sum of its planes of signs times their values.
_LEVEL_WEIGHT = (
    _BITS.format(bytes="weight_bits", count="filter_bits")
    + """
  zero_one = Cast <to = 1> (used)
  half = Constant <value = float {0.5}> ()
  half_signs = Sub (zero_one, half)
  values = Constant <value_ints: ints = @bit_values> ()
  planes = Shape (values)
  others = Constant <value_ints = [-1]> ()
  row_size = Constant <value_ints: ints = @filter_bits> ()
  by_plane_shape = Concat <axis = 0> (planes, others, row_size)
  by_plane = Reshape (half_signs, by_plane_shape)
  integers = Cast <to = 1> (values)
  a_plane = Constant <value_ints = [-1, 1, 1]> ()
  factors = Reshape (integers, a_plane)
  weighted = Mul (by_plane, factors)
  first_axis = Constant <value_ints = [0]> ()
  half_rows = ReduceSum <keepdims = 0> (weighted, first_axis)
  two = Constant <value = float {2.0}> ()
  filter_rows = Mul (half_rows, two)
"""
)

# The scale comes first: onnxruntime folds the factor of Mul(sums, scale) into the weights, whose sums are rounded.
_SCALED = """
  scales = Reshape ({scale}, a_channel)
  scaled = Mul (scales, sums)
"""

# In the order of ConvTranspose: (C, out / group, kh, kw).
_TRANSPOSED_FILTERS = """
  filter_shape = Constant <value_ints: ints = @filter_shape> ()
  one = Constant <value_ints = [1]> ()
  end_of_all = Constant <value_ints = [4]> ()
  filter_size = Slice (filter_shape, one, end_of_all)
  group_scalar = Constant <value_int: int = @group> ()
  groups = Reshape (group_scalar, one)
  by_group_shape = Concat <axis = 0> (groups, others, filter_size)
  by_group = Reshape (filter_rows, by_group_shape)
  ordered = Transpose <perm = [0, 4, 1, 2, 3]> (by_group)
  of_a_group = Shape <start = 2> (ordered)
  weight_shape = Concat <axis = 0> (others, of_a_group)
  weight = Reshape (ordered, weight_shape)
"""

_TRANSPOSED_SUMS = (
    """
  sums = ConvTranspose <kernel_shape: ints = @kernel_shape, strides: ints = @strides, pads: ints = @pads,
                        output_padding: ints = @output_padding, group: int = @group> ({x}, weight)
"""
    + _SCALED
)

# An input of a few bits, as numbers from 0 to the largest. A NaN is the lowest, as it is of signs: a Clip keeps it.
_LEVEL_NUMBERS = """
  lowest = Constant <value = float {0.0}> ()
  highest = Constant <value = float {1.0}> ()
  is_positive = Greater (x, lowest)
  positive = Where (is_positive, x, lowest)
  clipped = Min (positive, highest)
  largest_integer = Constant <value_int: int = @input_largest> ()
  largest = Cast <to = 1> (largest_integer)
  steps = Mul (clipped, largest)
  number = Round (steps)
"""

_LEVEL_SIGNS = """
  zero = Constant <value = float {0.0}> ()
  is_positive = GreaterOrEqual (x, zero)
  zeros_and_ones = Cast <to = 1> (is_positive)
  half_numbers = Sub (zeros_and_ones, half)
  number = Mul (half_numbers, two)
"""

_HALF = """
  half = Constant <value = float {0.5}> ()
"""

_A_CHANNEL = """
  a_channel = Constant <value_ints = [1, -1, 1, 1]> ()
"""

_A_CHANNEL_OF_VOLUMES = """
  a_channel = Constant <value_ints = [1, -1, 1, 1, 1]> ()
"""

_COMPARE = """
  {to}_threshold = Reshape ({threshold}, a_channel)
  {to} = GreaterOrEqual ({x}, {to}_threshold)
"""

_TURN = """
  turns = Reshape ({turn}, a_channel)
  {to} = Mul ({x}, turns)
"""

# In onnxruntime a Where of floats would take three times as long.
_HALF_SIGN = """
  {to}_zero_one = Cast <to = 1> ({x})
  {to} = Sub ({to}_zero_one, half)
"""

_SUMS = (
    """
  sums = Conv <kernel_shape: ints = @kernel_shape, strides: ints = @strides, pads: ints = @pads,
               dilations: ints = @dilations, group: int = @group> ({x}, weight)
"""
    + _SCALED
)

# A bit is y turn >= threshold: -y is y with the scale and the bias negated, whatever is rounded.
_OUTPUT_TURN = """
  scale_turned = Mul (scale, output_turn)
  bias_turned = Mul (bias, output_turn)
"""

# scaled of (N, C, H, W) as (N, group, C / group, H, W), times K.
_INPUT_SCALE = """
  scaled_size = Shape (scaled)
  pixels = Shape <start = 2> (scaled)
  group_scalar = Constant <value_int: int = @group> ()
  an_axis = Constant <value_ints = [1]> ()
  groups = Reshape (group_scalar, an_axis)
  same = Constant <value_ints = [0]> ()
  rest = Constant <value_ints = [-1]> ()
  split_shape = Concat <axis = 0> (same, groups, rest, pixels)
  scaled_split = Reshape (scaled, split_shape)
  k_axis = Constant <value_ints = [2]> ()
  k = Unsqueeze (input_scale, k_axis)
  scaled_k = Mul (scaled_split, k)
  scaled_twice = Reshape (scaled_k, scaled_size)
"""

_BIAS = """
  biases = Reshape ({bias}, a_channel)
  biased = Add ({x}, biases)
"""

# Channel g n + i of x to i shuffle + g of y. All but the last line are constants.
_SHUFFLE = """
  first = Constant <value_int = 0> ()
  step = Constant <value_int = 1> ()
  channels = Gather (filter_shape, first)
  channel = Range (first, channels, step)
  shuffle_scalar = Constant <value_int: int = @shuffle> ()
  a_size = Constant <value_ints = [1]> ()
  all_others = Constant <value_ints = [-1]> ()
  shuffle_groups = Reshape (shuffle_scalar, a_size)
  by_group_shape = Concat <axis = 0> (shuffle_groups, all_others)
  by_group = Reshape (channel, by_group_shape)
  by_place = Transpose <perm = [1, 0]> (by_group)
  order = Reshape (by_place, all_others)
  {to} = Gather <axis = 1> ({x}, order)
"""

# A layer of 8 bits: x as whole numbers of steps, and its filters as whole numbers of theirs. Their sums are exact in
# floats up to 2^24: those of 518 products, however large.
_NUMBERS = """
  steps = Mul (x, x_inverse)
  whole_steps = Round (steps)
  shifted = Add (whole_steps, x_zero)
  lowest = Constant <value = float {0.0}> ()
  highest = Constant <value = float {255.0}> ()
  number = Clip (shifted, lowest, highest)
  centred = Sub (number, x_zero)
  stored = Cast <to = 1> (numbers)
  middle = Constant <value = float {128.0}> ()
  filter_rows = Sub (stored, middle)
"""

_FILTERS = """
  filter_shape = Constant <value_ints: ints = @filter_shape> ()
  filters = Reshape (filter_rows, filter_shape)
  weight = Transpose <perm = [0, 3, 1, 2]> (filters)
"""

_FILTERS_OF_VOLUMES = _FILTERS.replace("[0, 3, 1, 2]", "[0, 4, 1, 2, 3]")

_ROW_SUMS = """
  weight = Transpose <perm = [1, 0]> (filter_rows)
  sums = MatMul ({x}, weight)
  scaled = Mul (scale, sums)
  biased = Add (scaled, bias)
"""

# As the standard's convolution has it, bias and all, so that a runtime that inlines the body rounds as it does there.
_FLOAT_SUMS = """
  sums = Conv <kernel_shape: ints = @kernel_shape, strides: ints = @strides, pads: ints = @pads,
               dilations: ints = @dilations, group: int = @group> (x, weight, bias)
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
    if name == "SignMatMul":
        return _parse(name, ("filter_shape", "filter_bits"), ("x", "weight_bits"), _SIGN_MATMUL)
    if name == "SignConv":
        body = _SIGNS + _A_CHANNEL + _FILTERS + _SUMS.format(x="x", scale="scale")
        body += _BIAS.format(x="scaled", bias="bias") + _ending("")
        return _parse(name, _CONV, ("x", "weight_bits", "scale", "bias"), body)
    if name.startswith("Int8"):
        return _int8_function(name)
    if name == "FloatConvToBits":
        body = _A_CHANNEL + _HALF + _FLOAT_SUMS + _TURN.format(x="sums", turn="output_turn", to="biased")
        operands = ("x", "weight", "bias", "output_threshold", "output_turn")
        return _parse(name, _WINDOW, operands, body + _ending(name))
    if name.startswith("Level"):
        return _level_function(name)
    parts = name.removeprefix("BinaryConv")
    from_bits, to_bits, scaled = ("FromBits" in parts), ("ToBits" in parts), ("Scaled" in parts)
    inputs = ["x", "weight_bits", "scale", "bias"]
    inputs += [] if from_bits else ["threshold", "turn"]
    inputs += ["output_threshold", "output_turn"] if to_bits else []
    inputs += ["input_scale"] if scaled else []
    body = _HALF + _A_CHANNEL + _WEIGHT
    if not from_bits:
        body += _TURN.format(x="x", turn="turn", to="turned")
        body += _COMPARE.format(x="turned", to="bits_in", threshold="threshold")
        body += _HALF_SIGN.format(x="bits_in", to="signs")
    scale, bias = ("scale_turned", "bias_turned") if to_bits else ("scale", "bias")
    body += _OUTPUT_TURN * to_bits + _SUMS.format(x="x" if from_bits else "signs", scale=scale)
    body += _INPUT_SCALE * scaled + _BIAS.format(x="scaled_twice" if scaled else "scaled", bias=bias)
    return _parse(name, _CONV + ("shuffle",) * ("Shuffle" in parts), inputs, body + _ending(parts))


def _int8_function(name: str) -> onnx.FunctionProto:
    inputs = ["x", "numbers", "scale", "bias", "x_inverse", "x_zero"]
    if name.startswith("Int8Linear"):
        return _parse(name, ("filter_shape",), inputs, _NUMBERS + _ROW_SUMS.format(x="centred") + _ending(name))
    to_bits = name.endswith("ToBits")
    scale, bias = ("scale_turned", "bias_turned") if to_bits else ("scale", "bias")
    body = _A_CHANNEL + (_HALF + _OUTPUT_TURN) * to_bits + _NUMBERS + _FILTERS
    body += _SUMS.format(x="centred", scale=scale)
    inputs += ["output_threshold", "output_turn"] if to_bits else []
    return _parse(name, _NUMBERS_CONV, inputs, body + _BIAS.format(x="scaled", bias=bias) + _ending(name))


def level_name(operation: str, signs: bool) -> str:
    """The operator of an input of signs, or else of numbers: of a Conv, Conv3d, ConvTranspose or Linear."""
    return f"Level{operation}" + "OfSigns" * signs


def _level_function(name: str) -> onnx.FunctionProto:
    signs = name.endswith("OfSigns")
    inputs, attributes = ["x", "weight_bits", "scale", "bias"], ["filter_shape", "filter_bits", "bit_values"]
    attributes += [] if signs else ["input_largest"]
    body = _LEVEL_WEIGHT + (_LEVEL_SIGNS if signs else _LEVEL_NUMBERS)
    if name.startswith("LevelLinear"):
        return _parse(name, attributes, inputs, body + _ROW_SUMS.format(x="number") + _ending(""))
    attributes += ["kernel_shape", "strides", "pads", "group"]
    if name.startswith("LevelConvTranspose"):
        attributes += ["output_padding"]
        body += _A_CHANNEL + _TRANSPOSED_FILTERS + _TRANSPOSED_SUMS.format(x="number", scale="scale")
    else:
        attributes += ["dilations", "size_hint"]
        volumes = name.startswith("LevelConv3d")
        body += _A_CHANNEL_OF_VOLUMES + _FILTERS_OF_VOLUMES if volumes else _A_CHANNEL + _FILTERS
        body += _SUMS.format(x="number", scale="scale")
    return _parse(name, attributes, inputs, body + _BIAS.format(x="scaled", bias="bias") + _ending(""))


def _ending(parts: str) -> str:
    """From ``biased`` to ``y``."""
    shuffle, to_bits = "Shuffle" in parts, "ToBits" in parts
    end, result = "", "biased"
    if to_bits:
        end, result = _COMPARE.format(x=result, to="bits_out", threshold="output_threshold"), "bits_out"
    elif "Relu" in parts:
        end, result = f"  positive = Relu ({result})\n", "positive"
    if shuffle:
        end, result = end + _SHUFFLE.format(x=result, to="shuffled"), "shuffled"
    return end + (_HALF_SIGN.format(x=result, to="y") if to_bits else f"  y = Identity ({result})\n")


def _parse(name: str, attributes, inputs, body: str) -> onnx.FunctionProto:
    head = f'<domain: "{DOMAIN}", opset_import: ["": {OPSET}]>\n'
    signature = f"{name} <{', '.join(attributes)}> ({', '.join(inputs)}) => (y)"
    return onnx.parser.parse_function(f"{head}{signature}\n{{{body}}}")
