// Pictures of any size as the network takes them.

const DRAWN = 20 / 28; // of the network's image, what a digit takes in MNIST: its longest side

function canvasOf(width, height) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  return context;
}

// The largest central region of a picture, resized to the network's size. `source`: an image, a video or a canvas.
export function fit(source, width, height) {
  const [w, h] = [source.videoWidth ?? source.width, source.videoHeight ?? source.height];
  const scale = Math.min(w / width, h / height);
  const [regionWidth, regionHeight] = [scale * width, scale * height];
  const context = canvasOf(width, height);
  context.fillStyle = "white"; // behind what is transparent
  context.fillRect(0, 0, width, height);
  context.drawImage(source, (w - regionWidth) / 2, (h - regionHeight) / 2, regionWidth, regionHeight, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

// A drawing, white on black, as MNIST has its digits: its longest side 20 pixels of 28, its centre of mass in the
// middle. null where nothing is drawn.
export function fitDrawing(pad, width, height) {
  const { data } = pad.getContext("2d").getImageData(0, 0, pad.width, pad.height);
  let [left, top, right, bottom, mass, sumX, sumY] = [Infinity, Infinity, -1, -1, 0, 0, 0];
  for (let i = 0, y = 0; y < pad.height; ++y)
    for (let x = 0; x < pad.width; ++x, i += 4) {
      if (!data[i]) continue;
      [left, right] = [Math.min(left, x), Math.max(right, x)];
      [top, bottom] = [Math.min(top, y), Math.max(bottom, y)];
      [mass, sumX, sumY] = [mass + data[i], sumX + data[i] * x, sumY + data[i] * y];
    }
  if (!mass) return null;
  const scale = (DRAWN * Math.min(width, height)) / Math.max(right - left + 1, bottom - top + 1);
  const context = canvasOf(width, height);
  context.fillRect(0, 0, width, height);
  const place = [width / 2 - scale * (sumX / mass + 0.5), height / 2 - scale * (sumY / mass + 0.5)];
  context.drawImage(pad, ...place, scale * pad.width, scale * pad.height);
  return context.getImageData(0, 0, width, height);
}

// Dark where it was light.
export function invert(image) {
  for (let i = 0; i < image.data.length; ++i) if (i % 4 !== 3) image.data[i] = 255 - image.data[i];
  return image;
}

// Pixels [height][width][4] to floats [channels][height][width], (x / 255 - mean) / std; grey as Pillow computes it.
export function normalized(image, { input_size: [channels, height, width], mean, std }) {
  const { data } = image;
  const plane = height * width;
  const floats = new Float32Array(channels * plane);
  for (let p = 0; p < plane; ++p) {
    const [r, g, b] = data.subarray(4 * p, 4 * p + 3);
    const values = channels === 1 ? [(r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16] : [r, g, b];
    for (let c = 0; c < channels; ++c) floats[c * plane + p] = (values[c] / 255 - mean[c]) / std[c];
  }
  return floats;
}
