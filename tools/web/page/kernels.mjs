// Our kernels in WebAssembly: quantize/csrc behind its C interface, xnorkit.h, one image at a time on one thread.
//
// A value of a network is a tensor of floats, {dims, data}, or lies in the memory of the kernels, {dims, pointer}: floats
// [C][H][W], or bits [H][W][words of 64 channels]. dims is [1, C, H, W].

const FLOATS = 0, BITS = 2, NCHW = 0; // xk_output_kind and xk_layout
const ALIGNMENT = 64; // a cache line

export class Kernels {
  // Raises an Error where this browser has no SIMD or exceptions in WebAssembly.
  static async load(bytes) {
    const nothing = () => 0;
    const imports = {
      env: { emscripten_notify_memory_growth: nothing },
      wasi_snapshot_preview1: new Proxy({}, { get: () => nothing }), // output and the environment: there are none
    };
    const { instance } = await WebAssembly.instantiate(bytes, imports);
    instance.exports._initialize();
    return new Kernels(instance.exports);
  }

  constructor(exports) {
    this.exports = exports;
  }

  get name() {
    return this.text(this.exports.xk_kernel_name(this.exports.xk_kernel_count() - 1));
  }

  // Memory grows when it is needed, and what looked into it before is empty then: every view is made anew.
  view(Type, pointer, length) {
    return new Type(this.exports.memory.buffer, pointer, length);
  }

  allocate(bytes) {
    const pointer = this.exports.malloc(bytes + ALIGNMENT);
    if (!pointer) throw new Error(`there is no memory for ${bytes} bytes`);
    return Math.ceil(pointer / ALIGNMENT) * ALIGNMENT;
  }

  put(array) {
    const pointer = this.allocate(array.byteLength);
    this.view(Uint8Array, pointer, array.byteLength).set(new Uint8Array(array.buffer, array.byteOffset, array.byteLength));
    return pointer;
  }

  text(pointer) {
    const bytes = this.view(Uint8Array, pointer);
    return new TextDecoder().decode(bytes.slice(0, bytes.indexOf(0)));
  }

  check(status) {
    if (status) throw new Error(this.text(this.exports.xk_last_error()));
  }

  // A node of the network: `facts` of it as tools/web/stages.py writes them, and its tensors in bytes.
  node(facts, tensors) {
    return new { conv: Conv, pool: Pool, average: AveragePool }[facts.op](this, facts, tensors);
  }
}

// What nodes have in common. The first input sets the size of all: the input of a network has one.
class Node {
  constructor(kernels, facts, tensors) {
    this.kernels = kernels;
    this.facts = facts;
    this.pointers = Object.fromEntries(Object.entries(tensors).map(([name, bytes]) => [name, kernels.put(bytes)]));
    this.shape = kernels.allocate(16 * 8); // an xk_conv_shape or an xk_pool_shape
  }

  // The output of the node for `value`.
  run(value) {
    if (!this.dims) {
      const [batch, channels] = value.dims;
      this.channels ??= channels;
      if (value.dims.length !== 4 || batch !== 1 || channels !== this.channels) this.refuse(value.dims);
      this.dims = value.dims;
      this.prepare();
    }
    if (String(this.dims) !== String(value.dims)) this.refuse(value.dims);
    const input = value.pointer ?? this.copy(value.data);
    this.kernels.check(this.compute(input));
    return { dims: this.outputDims, pointer: this.output };
  }

  refuse(dims) {
    const needed = this.dims ?? [1, this.channels, "height", "width"];
    throw new Error(`${this.facts.output}: an input of ${dims.join("x")} came; it must be ${needed.join("x")}`);
  }

  copy(data) {
    this.kernels.view(Float32Array, this.input, data.length).set(data);
    return this.input;
  }

  // Both structures begin with the input's size; then they have the window, as ONNX names its numbers.
  write(...parts) {
    const { strides, dilations, pads } = this.facts;
    const numbers = parts.flatMap((part) => (part === "window" ? [...strides, ...dilations, ...pads] : part));
    this.kernels.view(BigInt64Array, this.shape, numbers.length).set(numbers.map(BigInt));
  }
}

class Conv extends Node {
  constructor(kernels, facts, tensors) {
    super(kernels, facts, tensors);
    [this.outputs] = facts.filter_shape;
    this.channels = facts.group * facts.filter_shape[3];
    this.epilogue = kernels.put(new Uint32Array([this.pointers.scale, this.pointers.bias, 0, Number(facts.relu)]));
    this.binarize = kernels.put(new Uint32Array([this.pointers.threshold ?? 0, this.pointers.flip ?? 0]));
    this.writeShape(0, 0);
    this.pack(tensors.weights.byteLength);
  }

  writeShape(height, width) {
    const { kernel_shape, group } = this.facts;
    this.write([1, this.channels, height, width, this.outputs], kernel_shape, "window", group);
  }

  // Puts the weights into the order of the kernel.
  pack(bytes) {
    const { exports } = this.kernels;
    const size = this.kernels.allocate(4);
    this.kernels.check(exports.xk_weights_size(this.shape, 0, size));
    [this.weightsBytes] = this.kernels.view(Uint32Array, size, 1);
    this.weights = this.kernels.allocate(this.weightsBytes);
    const { weights } = this.pointers;
    this.kernels.check(exports.xk_weights_pack(this.shape, 0, weights, bytes, this.weights, this.weightsBytes));
  }

  prepare() {
    const { kernels, facts } = this;
    const [, channels, height, width] = this.dims;
    this.writeShape(height, width);
    const size = kernels.allocate(2 * 8);
    kernels.check(kernels.exports.xk_output_size(this.shape, size, size + 8));
    const [outHeight, outWidth] = [...kernels.view(BigInt64Array, size, 2)].map(Number);
    this.outputDims = [1, this.outputs, outHeight, outWidth];
    const pixels = outHeight * outWidth;
    if (!facts.from_bits) this.input = kernels.allocate(4 * channels * height * width);
    this.output = kernels.allocate(facts.to_bits ? 8 * pixels * Math.ceil(this.outputs / 64) : 4 * pixels * this.outputs);
    this.describeOutput();
  }

  // An xk_output: data, kind, layout, binarize, and behind 4 empty bytes the shuffle.
  describeOutput() {
    const { facts, pointers } = this;
    const words = [this.output, facts.to_bits ? BITS : FLOATS, NCHW];
    words.push(pointers.output_threshold ?? 0, pointers.output_flip ?? 0, 0, facts.shuffle, 0);
    this.described = this.kernels.put(new Uint32Array(words));
  }

  compute(input) {
    const { exports } = this.kernels;
    const rest = [this.weights, this.weightsBytes, this.epilogue, this.described, 0];
    return this.facts.from_bits
      ? exports.xk_conv(this.shape, input, ...rest)
      : exports.xk_conv_float(this.shape, input, NCHW, this.binarize, ...rest);
  }
}

class Pool extends Node {
  constructor(kernels, facts, tensors) {
    super(kernels, facts, tensors);
    this.channels = tensors.flip?.byteLength; // or those of the first input
  }

  prepare() {
    const output = [0, 1].map((axis) => extent(this, axis));
    this.write(this.dims, this.facts.kernel_shape, "window", output);
    this.outputDims = [1, this.channels, ...output];
    this.output = this.kernels.allocate(output[0] * output[1] * this.pixelBytes());
  }

  pixelBytes() {
    return 8 * Math.ceil(this.channels / 64);
  }

  compute(input) {
    return this.kernels.exports.xk_max_pool(this.shape, input, this.pointers.flip, this.output, 0);
  }
}

// The average of what a node of ours gives, in floats: between two of ours it spares the way to onnxruntime-web and back.
class AveragePool extends Pool {
  pixelBytes() {
    return 4 * this.channels;
  }

  compute(input) {
    return this.kernels.exports.xk_average_pool(this.shape, input, this.output, 0);
  }
}

// Of the output of a pooling, as ONNX counts: with ceil_mode a last window that starts behind the input is left out.
function extent({ facts, dims }, axis) {
  const { kernel_shape, strides, dilations, pads, ceil_mode } = facts;
  const [size, before, stride] = [dims[2 + axis], pads[axis], strides[axis]];
  const room = size + before + pads[2 + axis] - dilations[axis] * (kernel_shape[axis] - 1) - 1;
  const count = Math.floor((room + (ceil_mode ? stride - 1 : 0)) / stride) + 1;
  return ceil_mode && (count - 1) * stride >= size + before ? count - 1 : count;
}
