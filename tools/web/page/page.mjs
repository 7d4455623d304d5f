// The page: where pictures come from, and what is shown of the answers.
import * as ort from "./onnxruntime/ort.wasm.bundle.min.mjs";
import { Network, softmax } from "./network.mjs";
import { fit, fitDrawing, invert, normalized } from "./picture.mjs";

const SHOWN = 10; // classes
const MEASURED = 20; // times
const [WARM_UP, TOGETHER] = [700, 20]; // milliseconds at least, before and each time
const PEN = 22; // pixels of the pad, 280 wide
const CLOSE = 1e-4; // of the largest output: what rounding may do
const NAMES = { kernels: "our kernels", alone: "onnxruntime-web alone" };
const element = (id) => document.getElementById(id);

ort.env.wasm.numThreads = 1; // several need a server that isolates the page
ort.env.logLevel = "error";

const networks = new Map(); // by who computes: "kernels" or "alone"
let about, source, last, running, again;

async function read(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path}: the server says ${answer.status}`);
  return new Uint8Array(await answer.arrayBuffer());
}

async function networkOf(who) {
  if (!networks.has(who)) {
    const start = performance.now();
    const load = (alone) => Network.load(ort, (name) => read(`network/${name}`), () => read("kernels.wasm"), alone);
    const network = await load(who === "alone");
    await network.run(new Float32Array(network.about.input_size.reduce((product, size) => product * size)));
    networks.set(who, { network, loaded: performance.now() - start });
  }
  return networks.get(who);
}

function say(text) {
  element("message").textContent = text;
}

function milliseconds(time) {
  return `${time.toFixed(time < 10 ? 2 : 1)} ms`;
}

function kilobytes(bytes) {
  return `${(bytes / 1000).toFixed(bytes < 100000 ? 1 : 0)} kB`;
}

function describe() {
  const { name, file_bytes, float_bytes, input_size, stages } = about;
  document.title = name;
  element("name").textContent = name;
  const smaller = (float_bytes / file_bytes).toFixed(1);
  element("size").textContent =
    `${kilobytes(file_bytes)}; its parameters in float ${kilobytes(float_bytes)}` +
    (float_bytes > 1.05 * file_bytes ? `, ${smaller} times as much` : "");
  [element("seen").width, element("seen").height] = [input_size[2], input_size[1]];
  if (!stages.length) element("who").options[0].remove();
}

function show(outputs, time) {
  const shares = softmax(outputs);
  const order = shares.map((_, i) => i).sort((a, b) => shares[b] - shares[a]);
  const rows = order.slice(0, SHOWN).map((i) => {
    const row = document.createElement("li");
    row.dataset.class = i;
    row.dataset.probability = shares[i];
    const [label, meter, share] = ["span", "meter", "span"].map((name) => row.appendChild(document.createElement(name)));
    [label.className, share.className] = ["label", "share"];
    label.textContent = label.title = about.classes?.[i] ?? `class ${i}`;
    meter.value = shares[i];
    share.textContent = `${(100 * shares[i]).toFixed(1)} %`;
    return row;
  });
  element("classes").replaceChildren(...rows);
  element("time").textContent = milliseconds(time);
}

// Computes the last picture; where one comes meanwhile, that one after it.
async function classify(image) {
  if (!image) return;
  last = image;
  again = true;
  if (running) return;
  running = true;
  element("classes").ariaBusy = "true";
  try {
    while (again) {
      again = false;
      element("seen").getContext("2d").putImageData(last, 0, 0);
      const { network, loaded } = await networkOf(element("who").value);
      const floats = normalized(last, about);
      const start = performance.now();
      const outputs = await network.run(floats);
      show(outputs, performance.now() - start);
      element("loaded").textContent = milliseconds(loaded);
      say("");
    }
  } catch (error) {
    say(`This did not work: ${error.message}`);
  } finally {
    running = false;
    element("classes").ariaBusy = "false";
  }
}

function turned(image) {
  return element("inverted").checked ? invert(image) : image;
}

function look() {
  const [, height, width] = about.input_size;
  if (source === "draw") return classify(fitDrawing(element("pad"), width, height));
  if (source === "picture" && element("picture").naturalWidth) return classify(turned(fit(bitmap, width, height)));
  if (source === "camera" && element("video").videoWidth) return classify(turned(fit(element("video"), width, height)));
}

let bitmap; // of the picture that was chosen, as its file has the colours

async function take(file) {
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    return say(`${file.name} is no picture that this browser can read.`);
  }
  choose("picture");
  const url = new FileReader();
  url.onload = () => (element("picture").src = url.result);
  url.readAsDataURL(file);
}

async function film() {
  const video = element("video");
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    return say(`There is no camera for this page: ${error.message}.`);
  }
  choose("camera");
  await video.play();
  const next = async () => {
    if (source !== "camera") return;
    await look();
    requestAnimationFrame(next);
  };
  next();
}

function choose(kind) {
  source = kind;
  const video = element("video");
  if (kind !== "camera" && video.srcObject) {
    for (const track of video.srcObject.getTracks()) track.stop();
    video.srcObject = null;
  }
  for (const [id, mine] of [["pad", "draw"], ["picture", "picture"], ["video", "camera"]])
    element(id).hidden = mine !== kind;
  for (const [id, mine] of [["draw", "draw"], ["choose", "picture"], ["camera", "camera"]])
    element(id).setAttribute("aria-pressed", mine === kind);
}

function clearPad() {
  const context = element("pad").getContext("2d", { willReadFrequently: true });
  context.fillRect(0, 0, element("pad").width, element("pad").height);
  element("classes").replaceChildren();
  choose("draw");
}

function drawLines() {
  const pad = element("pad");
  const context = pad.getContext("2d", { willReadFrequently: true });
  Object.assign(context, { lineWidth: PEN, lineCap: "round", lineJoin: "round", strokeStyle: "white" });
  pad.onpointerdown = (event) => {
    pad.setPointerCapture(event.pointerId);
    context.beginPath();
    context.moveTo(event.offsetX, event.offsetY);
  };
  pad.onpointermove = (event) => {
    if (!pad.hasPointerCapture(event.pointerId)) return;
    context.lineTo(event.offsetX, event.offsetY);
    context.stroke();
    look();
  };
}

// All ways in turn, so that they see the same machine: the median of each. Browsers' clocks tick in tenths of a
// millisecond, so short runs are timed together; and they compile anew what runs often, so that comes first.
async function measure() {
  const ways = [...element("who").options].map((option) => option.value);
  const times = ways.map(() => []);
  const answers = [];
  for (const way of ways) await timed(way, WARM_UP);
  for (let i = 0; i < MEASURED; ++i)
    for (const [w, way] of ways.entries()) {
      const { answer, time } = await timed(way, TOGETHER);
      answers[w] = answer;
      times[w].push(time);
    }
  const found = ways.map((way, w) => ({ way, image: median(times[w]) }));
  const texts = found.map(({ way, image }) => `${NAMES[way]} ${milliseconds(image)}`);
  if (!answers.every((answer) => same(answer, answers[0]))) texts.push("and they do not give the same answers");
  element("measured").dataset.found = JSON.stringify(found);
  element("measured").textContent = texts.join(", ");
}

// Milliseconds of a run, of as many as take `together` of them, and the answer.
async function timed(way, together) {
  const { network } = await networkOf(way);
  const image = new Float32Array(about.input_size.reduce((product, size) => product * size)).map((_, i) => Math.sin(i * i));
  const start = performance.now();
  for (let runs = 1; ; ++runs) {
    const answer = await network.run(image);
    const time = performance.now() - start;
    if (time >= together) return { answer, time: time / runs };
  }
}

function median(list) {
  return list.sort((a, b) => a - b)[list.length >> 1];
}

function same(a, b) {
  const largest = a.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return a.every((value, i) => Math.abs(value - b[i]) <= CLOSE * largest);
}

function listen() {
  const drop = element("drop");
  drop.ondragover = (event) => (event.preventDefault(), drop.classList.add("over"));
  drop.ondragleave = () => drop.classList.remove("over");
  drop.ondrop = (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (file) take(file);
  };
  element("choose").onclick = () => element("file").click();
  element("file").onchange = () => element("file").files[0] && take(element("file").files[0]);
  element("camera").onclick = film;
  element("draw").onclick = () => (choose("draw"), look());
  element("clear").onclick = clearPad;
  element("inverted").onchange = look;
  element("who").onchange = look;
  element("measure").onclick = measure;
  element("picture").onload = look;
  drawLines();
}

// The network as it is computed at first: without our kernels where the browser cannot load them.
async function firstNetwork() {
  try {
    return await networkOf(element("who").value);
  } catch (error) {
    if (!(error instanceof WebAssembly.CompileError || error instanceof WebAssembly.LinkError)) throw error;
    element("who").options[0].remove();
    return networkOf("alone");
  }
}

async function start() {
  about = JSON.parse(new TextDecoder().decode(await read("network/network.json")));
  describe();
  listen();
  clearPad();
  const { loaded, network } = await firstNetwork();
  element("loaded").textContent = milliseconds(loaded);
  document.documentElement.dataset.ready = network.kernels?.name ?? "alone";
}

start().catch((error) => say(`This page could not load its network: ${error.message}`));
