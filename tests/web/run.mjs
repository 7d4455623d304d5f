// Runs networks whose nodes are all ours, without onnxruntime: node run.mjs FOLDER. Each folder in FOLDER has a network as
// tools/web/folder.py writes it, and images one behind the other in input.bin; their answers go to output.bin.
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const page = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "tools", "web", "page");
const { Network } = await import(join(page, "network.mjs"));

const [folder] = process.argv.slice(2);
const ort = { Tensor: class { constructor(type, data, dims) { Object.assign(this, { data, dims }); } } };
const kernels = new Uint8Array(readFileSync(join(page, "kernels.wasm")));

async function answers(place) {
  const read = async (name) => new Uint8Array(readFileSync(join(place, name)));
  const network = await Network.load(ort, read, async () => kernels);
  const bytes = await read("input.bin");
  const images = new Float32Array(bytes.buffer);
  const count = network.about.input_size.reduce((product, size) => product * size);
  const outputs = [];
  for (let first = 0; first < images.length; first += count)
    outputs.push(...(await network.run(images.slice(first, first + count))));
  writeFileSync(join(place, "output.bin"), new Uint8Array(new Float32Array(outputs).buffer));
  return network.kernels.name;
}

for (const name of readdirSync(folder)) {
  try {
    console.log(name, await answers(join(folder, name)));
  } catch (error) {
    console.log(name, `failed: ${error.message}`);
  }
}
