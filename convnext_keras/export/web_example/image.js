// Images as the library prepares them: Pillow's antialiased resize, in its fixed-point arithmetic, and a center crop.
// Rows come before columns; versions of Pillow that take the other order for some sizes differ by one level of 255.

const PRECISION = 2 ** 22; // of a weight, as in Pillow's Resample.c
const FILTERS = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { support: 2, weight: cubic },
};

function cubic(x) {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

// For each position of the result: the first position of the source that counts, and the weights from there on.
function resizeWeights(from, to, filter) {
  const scale = from / to, filterScale = Math.max(scale, 1), support = filter.support * filterScale;
  return Array.from({ length: to }, (_, position) => {
    const center = (position + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const end = Math.min(from, Math.trunc(center + support + 0.5));
    const weights = Array.from({ length: end - first }, (_, x) => filter.weight((x + first - center + 0.5) / filterScale));
    const sum = weights.reduce((a, b) => a + b, 0);
    return { first, weights: weights.map((w) => Math.trunc((w / sum) * PRECISION + (w < 0 ? -0.5 : 0.5))) };
  });
}

const clip = (sum) => Math.min(255, Math.max(0, Math.floor((sum + PRECISION / 2) / PRECISION)));

// An image is {width, height, channels, data}, with the channels of a pixel beside each other.
export function resize(image, width, height, interpolation) {
  const filter = FILTERS[interpolation];
  const rows = width === image.width ? image : resizeRows(image, width, filter);
  return height === rows.height ? rows : transpose(resizeRows(transpose(rows), height, filter));
}

function resizeRows(image, width, filter) {
  const { height, channels, data } = image, result = new Uint8Array(width * height * channels);
  const table = resizeWeights(image.width, width, filter);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const { first, weights } = table[x];
      for (let c = 0; c < channels; c++) {
        let sum = 0;
        for (let k = 0; k < weights.length; k++) sum += weights[k] * data[(y * image.width + first + k) * channels + c];
        result[(y * width + x) * channels + c] = clip(sum);
      }
    }
  return { width, height, channels, data: result };
}

function transpose({ width, height, channels, data }) {
  const result = new Uint8Array(data.length);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      for (let c = 0; c < channels; c++)
        result[(x * height + y) * channels + c] = data[(y * width + x) * channels + c];
  return { width: height, height: width, channels, data: result };
}

// Half a pixel is rounded to the even side, as Python does.
function roundHalfEven(value) {
  const floor = Math.floor(value);
  return value - floor === 0.5 ? floor + (floor % 2) : Math.round(value);
}

function crop(image, width, height) {
  const { channels, data } = image, result = new Uint8Array(width * height * channels);
  const left = roundHalfEven((image.width - width) / 2), top = roundHalfEven((image.height - height) / 2);
  for (let y = 0; y < height; y++) {
    const start = ((top + y) * image.width + left) * channels;
    result.set(data.subarray(start, start + width * channels), y * width * channels);
  }
  return { width, height, channels, data: result };
}

// Luma of ITU-R 601-2, as Pillow computes it.
export function toGray({ width, height, data }) {
  const result = new Uint8Array(width * height);
  for (let i = 0; i < result.length; i++)
    result[i] = (data[3 * i] * 19595 + data[3 * i + 1] * 38470 + data[3 * i + 2] * 7471 + 0x8000) >> 16;
  return { width, height, channels: 1, data: result };
}

// The pixels that a model takes, from an RGB image; `settings` is the object `image` in model.json.
export function prepare(image, settings) {
  const [height, width] = settings.size, [rows, columns] = settings.resize;
  if (settings.channels === 1) image = toGray(image);
  let target = [columns, rows];
  if (settings.resize_mode === "shortest") {
    const portrait = image.width <= image.height;
    const longer = Math.trunc((rows * Math.max(image.width, image.height)) / Math.min(image.width, image.height));
    target = portrait ? [rows, longer] : [longer, rows];
  }
  return crop(resize(image, ...target, settings.interpolation), width, height);
}

// The RGB pixels of a file, turned as its EXIF orientation says.
export async function decode(blob) {
  const bitmap = await createImageBitmap(blob, { premultiplyAlpha: "none", colorSpaceConversion: "none" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const rgba = context.getImageData(0, 0, bitmap.width, bitmap.height).data;
  const data = new Uint8Array((rgba.length / 4) * 3);
  for (let i = 0; i < rgba.length / 4; i++) data.set(rgba.subarray(4 * i, 4 * i + 3), 3 * i);
  return { width: bitmap.width, height: bitmap.height, channels: 3, data };
}
