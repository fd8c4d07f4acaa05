// PNG files as values: a canvas would give colours, and two classes may have the same one.

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const MAX_PIXELS = 400_000_000;

/** Decode a PNG of one channel into {width, height, values}: one byte a pixel. Throws an Error for any other file. */
export async function decodePng(bytes) {
  if (SIGNATURE.some((value, place) => bytes[place] !== value)) throw new Error("this is no PNG");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let header = null;
  const packed = [];
  for (let place = 8; place + 8 <= bytes.length; ) {
    const length = view.getUint32(place);
    const kind = String.fromCharCode(...bytes.subarray(place + 4, place + 8));
    if (kind === "IHDR") header = readHeader(view, place + 8);
    if (kind === "IDAT") packed.push(bytes.subarray(place + 8, place + 8 + length));
    if (kind === "IEND") break;
    place += 12 + length;
  }
  if (!header || !packed.length) throw new Error("the PNG is incomplete");
  return { width: header.width, height: header.height, values: unpack(await inflate(packed), header) };
}

function readHeader(view, place) {
  const [width, height] = [view.getUint32(place), view.getUint32(place + 4)];
  const [depth, colour, interlaced] = [view.getUint8(place + 8), view.getUint8(place + 9), view.getUint8(place + 12)];
  if (![0, 3].includes(colour) || depth > 8 || interlaced) throw new Error("the PNG has no plain values of one channel");
  if (width * height > MAX_PIXELS) throw new Error("the PNG is too large");
  return { width, height, depth };
}

async function inflate(parts) {
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Undo the filters of the lines, then take the pixels out of their bytes. */
function unpack(data, { width, height, depth }) {
  const stride = Math.ceil((width * depth) / 8);
  if (data.length < (stride + 1) * height) throw new Error("the PNG is truncated");
  const values = new Uint8Array(width * height);
  let above = new Uint8Array(stride);
  for (let y = 0; y < height; y += 1) {
    const start = y * (stride + 1);
    const line = data.subarray(start + 1, start + 1 + stride);
    unfilter(data[start], line, above);
    if (depth === 8) values.set(line, y * width);
    else spread(line, depth, values.subarray(y * width, (y + 1) * width));
    above = line;
  }
  return values;
}

function unfilter(kind, line, above) {
  for (let x = 0; x < line.length; x += 1) {
    const left = x ? line[x - 1] : 0;
    if (kind === 1) line[x] += left;
    else if (kind === 2) line[x] += above[x];
    else if (kind === 3) line[x] += (left + above[x]) >> 1;
    else if (kind === 4) line[x] += paeth(left, above[x], x ? above[x - 1] : 0);
  }
}

function paeth(left, up, corner) {
  const [toLeft, toUp, toCorner] = [Math.abs(up - corner), Math.abs(left - corner), Math.abs(left + up - 2 * corner)];
  if (toLeft <= toUp && toLeft <= toCorner) return left;
  return toUp <= toCorner ? up : corner;
}

function spread(line, depth, row) {
  const highest = (1 << depth) - 1;
  for (let x = 0; x < row.length; x += 1) {
    const bit = x * depth;
    row[x] = (line[bit >> 3] >> (8 - depth - (bit & 7))) & highest;
  }
}

/**
 * Give a mask about `side` pixels on its longer side, each with the nearest value: outlines are as fine on masks of a few
 * pixels as on large ones. Small masks grow by whole factors only: their pixels stay alike.
 */
export function resample(mask, side) {
  const scale = side / Math.max(mask.width, mask.height);
  const factor = scale < 1 ? scale : Math.floor(scale);
  if (factor === 1) return mask;
  const [width, height] = [Math.max(1, Math.round(mask.width * factor)), Math.max(1, Math.round(mask.height * factor))];
  const values = new Uint8Array(width * height);
  const columns = Uint32Array.from({ length: width }, (_, x) => Math.floor(((x + 0.5) * mask.width) / width));
  for (let y = 0; y < height; y += 1) {
    const from = Math.floor(((y + 0.5) * mask.height) / height) * mask.width;
    for (let x = 0; x < width; x += 1) values[y * width + x] = mask.values[from + columns[x]];
  }
  return { width, height, values };
}
