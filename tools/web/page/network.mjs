// A network in stages: onnxruntime-web runs parts in standard operators, our kernels the nodes that they know.
import { Kernels } from "./kernels.mjs";

export class Network {
  // Args: ort, onnxruntime-web; read(name), which gives the bytes of a file of the network's folder;
  // readKernels(), which gives those of kernels.wasm; alone, whether onnxruntime-web is to compute all.
  static async load(ort, read, readKernels, alone = false) {
    const network = new Network();
    network.ort = ort;
    network.about = JSON.parse(new TextDecoder().decode(await read("network.json")));
    const { stages, whole, input, output } = network.about;
    if (stages.length && !alone) await network.loadStages(read, readKernels);
    else network.stages = [await network.part({ file: whole, inputs: [input], outputs: [output] }, read)];
    return network;
  }

  async loadStages(read, readKernels) {
    const [bytes, bits] = await Promise.all([readKernels(), read(this.about.bits)]);
    const kernels = await Kernels.load(bytes);
    this.kernels = kernels;
    this.stages = [];
    for (const facts of this.about.stages)
      this.stages.push(facts.op === "part" ? await this.part(facts, read) : this.node(kernels, facts, bits));
  }

  async part({ file, inputs, outputs }, read) {
    const session = await this.ort.InferenceSession.create(await read(file));
    return async (values) => {
      const found = await session.run(Object.fromEntries(inputs.map((name) => [name, this.tensor(values.get(name))])));
      for (const name of outputs) values.set(name, found[name]);
    };
  }

  node(kernels, facts, bits) {
    const places = Object.entries(facts.tensors);
    const tensors = places.map(([name, [first, length]]) => [name, bits.subarray(first, first + length)]);
    const node = kernels.node(facts, Object.fromEntries(tensors));
    return (values) => values.set(facts.output, node.run(values.get(facts.input)));
  }

  // A value as onnxruntime-web takes it, which copies it before it runs.
  tensor(value) {
    if (value.pointer === undefined) return value;
    const count = value.dims.reduce((product, size) => product * size, 1);
    return new this.ort.Tensor("float32", this.kernels.view(Float32Array, value.pointer, count), value.dims);
  }

  // The outputs for an image, floats [C][H][W] normalized as the network needs them.
  async run(image) {
    const { input, output, input_size } = this.about;
    const values = new Map([[input, new this.ort.Tensor("float32", image, [1, ...input_size])]]);
    for (const stage of this.stages) await stage(values);
    const outputs = this.tensor(values.get(output)).data.slice();
    if (!outputs.every(Number.isFinite)) throw new Error("the network gave an answer that is not a number");
    return outputs;
  }
}

export function softmax(outputs) {
  const largest = outputs.reduce((most, value) => Math.max(most, value), -Infinity);
  const powers = Array.from(outputs, (value) => Math.exp(value - largest));
  const sum = powers.reduce((total, value) => total + value, 0);
  return powers.map((value) => value / sum);
}
