// Masks and class maps as pixels: colours by class, outlines with a light halo that shows on dark photos.

const IGNORED = 255;
const HALO = [255, 255, 255];

const fillColour = (pixels, place, [red, green, blue], alpha) => {
  pixels[place] = red;
  pixels[place + 1] = green;
  pixels[place + 2] = blue;
  pixels[place + 3] = alpha;
};

/**
 * Draw a mask {width, height, values} into a canvas of its size.
 * `only`: the id of the one class to draw, or null. `opacity` of the areas, 0 to 1; outlines are opaque.
 */
export function drawMask(canvas, mask, classById, { only, opacity, outline }) {
  const { width, height } = mask;
  const [canvasWidth, canvasHeight] = [width, height];
  Object.assign(canvas, { width: canvasWidth, height: canvasHeight });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const colours = [...Array(256)].map((_, id) => classById.get(id)?.colour ?? null);
  const alpha = Math.round(255 * opacity);
  const values = only === null ? mask.values : mask.values.map((value) => (value === only ? value : 0));
  for (let place = 0; place < values.length; place += 1) {
    const value = values[place];
    if (!value) continue;
    if (colours[value]) fillColour(image.data, 4 * place, colours[value], alpha);
    else fillColour(image.data, 4 * place, [235, 235, 235], hatch(place, width, alpha));
  }
  if (outline) drawOutlines(image.data, values, width, height, colours);
  context.putImageData(image, 0, 0);
}

/** Undecided pixels, and values of no class of the run, are hatched: a colour would pass for a class. */
const hatch = (place, width, alpha) => (((place % width) + Math.floor(place / width)) % 8 < 2 ? alpha : 0);

function drawOutlines(pixels, values, width, height, colours) {
  const radius = Math.max(1, Math.round(Math.max(width, height) / 700));
  const edge = findEdges(values, width, height, colours);
  const core = dilate(edge, width, height, radius - 1);
  const halo = dilate(core, width, height, radius);
  for (let place = 0; place < values.length; place += 1) {
    if (core[place]) fillColour(pixels, 4 * place, colours[core[place]], 255);
    else if (halo[place]) fillColour(pixels, 4 * place, HALO, 230);
  }
}

/** The class of each pixel that has a neighbour of another value; 0 elsewhere. */
function findEdges(values, width, height, colours) {
  const edge = new Uint8Array(values.length);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const place = y * width + x;
      const value = values[place];
      if (!value || !colours[value]) continue;
      const differs =
        (x > 0 && values[place - 1] !== value) || (x < width - 1 && values[place + 1] !== value) ||
        (y > 0 && values[place - width] !== value) || (y < height - 1 && values[place + width] !== value);
      if (differs) edge[place] = value;
    }
  }
  return edge;
}

/** Spread values to empty neighbours, `steps` pixels far. */
function dilate(from, width, height, steps) {
  let spread = from;
  for (let step = 0; step < steps; step += 1) {
    const next = spread.slice();
    for (let place = 0; place < spread.length; place += 1) {
      if (!spread[place]) continue;
      const x = place % width;
      if (x > 0 && !next[place - 1]) next[place - 1] = spread[place];
      if (x < width - 1 && !next[place + 1]) next[place + 1] = spread[place];
      if (place >= width && !next[place - width]) next[place - width] = spread[place];
      if (place + width < next.length && !next[place + width]) next[place + width] = spread[place];
    }
    spread = next;
  }
  return spread;
}

/** Draw a class map (255: the class is surely there) as light on the photo. */
export function drawMap(canvas, map, { opacity }) {
  Object.assign(canvas, { width: map.width, height: map.height });
  const context = canvas.getContext("2d");
  const image = context.createImageData(map.width, map.height);
  for (let place = 0; place < map.values.length; place += 1) {
    const value = map.values[place] / 255;
    // From violet over orange to pale yellow: brighter is more, also without colours.
    const colour = [80 + 175 * Math.min(1, 1.4 * value), 20 + 225 * value * value, 120 * (1 - value) + 100 * value ** 4];
    fillColour(image.data, 4 * place, colour, Math.round(255 * opacity * (0.15 + 0.85 * value)));
  }
  context.putImageData(image, 0, 0);
}

/** Ids of the classes that a mask has pixels of. */
export function listIds(mask) {
  const seen = new Uint8Array(256);
  for (const value of mask.values) seen[value] = 1;
  return [...seen.keys()].filter((id) => seen[id] && id !== 0 && id !== IGNORED);
}
