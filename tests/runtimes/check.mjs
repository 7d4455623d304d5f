// What check.py does, in JavaScript: node check.mjs FOLDER PACKAGE, where PACKAGE is onnxruntime-node or onnxruntime-web
// (the runtime of browsers, compiled to WebAssembly), installed in the current directory.
import { readFileSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const TOLERANCE = 1e-4; // of the largest value

function readFloats(file) {
  const bytes = readFileSync(file);
  const start = 10 + bytes.readUInt16LE(8); // of the numbers, in version 1.0 of numpy's format
  const header = bytes.toString("latin1", 10, start);
  if (!header.includes("'<f4'") || !header.includes("'fortran_order': False")) throw new Error(`${file}: ${header}`);
  const dims = header.match(/'shape': \(([^)]*)\)/)[1].split(",").filter((size) => size.trim()).map(Number);
  return { dims, values: new Float32Array(bytes.buffer.slice(bytes.byteOffset + start, bytes.byteOffset + bytes.length)) };
}

async function difference(ort, file) {
  const session = await ort.InferenceSession.create(file);
  const [input, output] = ["input", "output"].map((which) => readFloats(file.replace(/onnx$/, `${which}.npy`)));
  const feeds = { [session.inputNames[0]]: new ort.Tensor("float32", input.values, input.dims) };
  const found = (await session.run(feeds))[session.outputNames[0]].data;
  if (found.length !== output.values.length) throw new Error(`${found.length} numbers for ${output.values.length}`);
  const largest = output.values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return output.values.reduce((most, value, i) => Math.max(most, Math.abs(value - found[i])), 0) / largest;
}

const [folder, name] = process.argv.slice(2);
const require = createRequire(join(process.cwd(), "anything.js"));
const ort = require(name);
const files = readdirSync(folder).filter((file) => file.endsWith(".onnx")).sort();
let passed = files.length > 0;
for (const file of files) {
  let verdict;
  try {
    const found = await difference(ort, join(folder, file));
    const right = found <= TOLERANCE; // not so where it is NaN
    passed &&= right;
    verdict = `${right ? "right" : "WRONG"}, off by ${found.toExponential(1)}`;
  } catch (error) {
    passed = false;
    verdict = `refused: ${error.message}`;
  }
  console.log(`${name} ${ort.env.versions.common}  ${file.replace(/\.onnx$/, "").padEnd(25)}  ${verdict}`);
}
process.exit(passed ? 0 : 1);
