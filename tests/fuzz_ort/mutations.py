"""Damage: ways to change a model, each a function of the model and a random stream."""

import random

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

INTEGERS = [
    0,
    1,
    -1,
    2,
    3,
    5,
    7,
    8,
    16,
    63,
    64,
    65,
    1000,
    -8,
    2**15,
    2**31 - 1,
    2**31,
    2**40,
    2**62,
    2**63 - 1,
    -(2**63),
]
FLOATS = [0.0, -0.0, 1.0, -1.0, 2.0, 1e-45, 1e38, -1e38, float("inf"), float("-inf"), float("nan")]


def _ours(model: ModelProto, rng: random.Random) -> NodeProto:
    return rng.choice([node for node in model.graph.node if node.domain == "xnorkit"])


def _attribute(model: ModelProto, rng: random.Random) -> tuple[NodeProto, AttributeProto]:
    node = _ours(model, rng)
    return node, rng.choice(node.attribute)


def _integer(rng: random.Random, old: int) -> int:
    return rng.choice(INTEGERS) if rng.random() < 0.5 else max(-(2**63), min(2**63 - 1, old + rng.randint(-3, 3)))


def attribute_value(model: ModelProto, rng: random.Random) -> None:
    _, attribute = _attribute(model, rng)
    if attribute.type == AttributeProto.INT:
        attribute.i = _integer(rng, attribute.i)
    else:
        at = rng.randrange(len(attribute.ints))
        attribute.ints[at] = _integer(rng, attribute.ints[at])


def attribute_length(model: ModelProto, rng: random.Random) -> None:
    _, attribute = _attribute(model, rng)
    count = rng.choice([0, 1, 2, 3, 5, 1000])
    attribute.ints[:] = (list(attribute.ints) * 1000 + [1] * 1000)[:count]


def attribute_removed(model: ModelProto, rng: random.Random) -> None:
    node, attribute = _attribute(model, rng)
    node.attribute.remove(attribute)


def attribute_renamed(model: ModelProto, rng: random.Random) -> None:
    _, attribute = _attribute(model, rng)
    attribute.name = rng.choice(["", "stride", "\xff\x00", attribute.name * 2, "pads", "group"])


def attribute_type(model: ModelProto, rng: random.Random) -> None:
    node, attribute = _attribute(model, rng)
    value = rng.choice([1.5, [1.5, 2.5], "text", ["a", "b"], 3, [3, 3], numpy_helper.from_array(np.ones(3))])
    changed = helper.make_attribute(attribute.name, value)
    node.attribute.remove(attribute)
    node.attribute.append(changed)


def attributes_of_another_node(model: ModelProto, rng: random.Random) -> None:
    node, other = _ours(model, rng), _ours(model, rng)
    attributes = list(other.attribute)
    del node.attribute[:]
    node.attribute.extend(attributes)


def operator(model: ModelProto, rng: random.Random) -> None:
    _ours(model, rng).op_type = rng.choice([function.name for function in model.functions])


def inputs_of_node(model: ModelProto, rng: random.Random) -> None:
    node = _ours(model, rng) if rng.random() < 0.8 else rng.choice(model.graph.node)
    at = rng.randrange(len(node.input))
    names = [tensor.name for tensor in model.graph.initializer] + [n.output[0] for n in model.graph.node] + ["x", ""]
    change = rng.randrange(4)
    if change == 0:
        node.input[at] = rng.choice(names)
    elif change == 1:
        other = rng.randrange(len(node.input))
        node.input[at], node.input[other] = node.input[other], node.input[at]
    elif change == 2:
        del node.input[at]
    else:
        node.input.append(rng.choice(names))


def _tensor(model: ModelProto, rng: random.Random) -> TensorProto:
    return rng.choice(model.graph.initializer)


def tensor_dims(model: ModelProto, rng: random.Random) -> None:
    tensor = _tensor(model, rng)
    at = rng.randrange(len(tensor.dims))
    tensor.dims[at] = _integer(rng, tensor.dims[at])


def tensor_rank(model: ModelProto, rng: random.Random) -> None:
    tensor = _tensor(model, rng)
    dims = rng.choice([[], [1, *tensor.dims], [*tensor.dims, 1], [int(np.prod(tensor.dims))], list(tensor.dims)[::-1]])
    tensor.dims[:] = dims


def tensor_size(model: ModelProto, rng: random.Random) -> None:
    """Another number of values, and dims that say so."""
    tensor = _tensor(model, rng)
    array = numpy_helper.to_array(tensor)
    axis = rng.randrange(array.ndim)
    size = max(0, array.shape[axis] + rng.choice([-1, 1, 2, -array.shape[axis], array.shape[axis]]))
    tensor.CopyFrom(numpy_helper.from_array(np.take(array, np.arange(size), axis, mode="wrap"), tensor.name))


def tensor_data_length(model: ModelProto, rng: random.Random) -> None:
    tensor = _tensor(model, rng)
    tensor.raw_data = (tensor.raw_data * 3)[: rng.randrange(3 * len(tensor.raw_data) + 1)]


def tensor_type(model: ModelProto, rng: random.Random) -> None:
    _tensor(model, rng).data_type = rng.choice([*range(24), 99, -1])


def tensor_bits(model: ModelProto, rng: random.Random) -> None:
    tensor = _tensor(model, rng)
    data = bytearray(tensor.raw_data)
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    tensor.raw_data = bytes(data)


def tensor_floats(model: ModelProto, rng: random.Random) -> None:
    tensor = rng.choice([t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT])
    array = numpy_helper.to_array(tensor).copy()
    array.flat[rng.randrange(array.size)] = rng.choice(FLOATS)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def tensor_removed(model: ModelProto, rng: random.Random) -> None:
    model.graph.initializer.remove(_tensor(model, rng))


def tensor_as_input(model: ModelProto, rng: random.Random) -> None:
    tensor = _tensor(model, rng)
    model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))


def input_shape(model: ModelProto, rng: random.Random) -> None:
    """The model takes something else; see :func:`feeds`, which gives it that."""
    value = rng.choice(model.graph.input)
    dims = [1 if not d.dim_value else d.dim_value for d in value.type.tensor_type.shape.dim]
    dims[2:] = [6, 7]
    change = rng.randrange(3)
    if change == 0:
        dims[rng.randrange(len(dims))] = rng.choice([0, 1, 2, 3, 6, 40, 64, 200])
    elif change == 1:
        dims.append(2)
    else:
        dims.pop()
    value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, dims))


MUTATIONS = [
    *([attribute_value] * 6 + [tensor_bits, tensor_floats] * 4 + [tensor_dims, tensor_size] * 2 + [inputs_of_node] * 3),
    *(attribute_length, attribute_removed, attribute_renamed, attribute_type, attributes_of_another_node, operator),
    *(tensor_rank, tensor_data_length, tensor_type, tensor_removed, tensor_as_input, input_shape),
]


def damaged_bytes(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed))
        size = rng.randint(1, 8)
        change = rng.randrange(5)
        if change == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif change == 1:
            changed[at : at + size] = rng.randbytes(size)
        elif change == 2:
            changed[at:at] = rng.randbytes(size)
        elif change == 3:
            del changed[at : at + size]
        else:
            changed[at : at + size] = rng.choice([b"\x00", b"\xff", b"\x7f", b"\x80"]) * size
    return bytes(changed) if rng.random() < 0.95 else bytes(changed[: rng.randrange(len(changed))])


def mutant(models: dict[str, bytes], number: int) -> tuple[str, str, bytes]:
    """Mutant `number`: the name of its model, what was done to it, and its bytes. The same on every machine."""
    rng = random.Random(number)
    name = rng.choice(sorted(models))
    if rng.random() < 0.25:
        return name, "bytes", damaged_bytes(models[name], rng)
    model = onnx.load_from_string(models[name])
    done = []
    for change in rng.choices(MUTATIONS, k=1 if rng.random() < 0.8 else 2):
        try:
            change(model, rng)
            done.append(change.__name__)
        except (ValueError, IndexError, TypeError):  # what an earlier change has left cannot be changed so
            continue
    return name, "+".join(done) or "nothing", model.SerializeToString()
