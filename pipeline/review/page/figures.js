// What the figures of a row mean, in a line each.

import { build, count, css, foreign, measure, words } from "./text.js";

const percent = (value) => (typeof value === "number" ? `${(100 * value).toFixed(1)} %` : "–");
const plain = (value) => measure(value);
const whole = (value) => (typeof value === "number" ? count(value) : "–");

const OF_ROW = [
  ["quality", "Quality", "How good the mask probably is, 0 to 1: the stability of its least stable class", plain],
  ["background_fraction", "Background", "Share of the pixels that show no class", percent],
  ["ignore_fraction", "Undecided", "Share of the pixels that are neither class nor background", percent],
  ["margin_mean", "Margin", "How far the best class leads the second best, mean of all pixels", plain],
  ["entropy_mean", "Entropy", "How undecided the pixels are, 0 (sure) to 1 (all classes alike)", plain],
];

const OF_CLASS = [
  ["presence", "Presence", "Probability that the image shows the class", plain],
  ["presence_std", "Spread of presence", "How much the views of the image disagree on presence", plain],
  ["area_fraction", "Area", "Share of the pixels in the mask", percent],
  ["confidence_mean", "Confidence", "Mean of the class map inside the mask, 0 to 1", plain],
  ["stability", "Stability", "How little the area changes when the threshold moves by 0.1; 1 is best", plain],
  ["view_agreement", "Agreement of views", "How well the masks of single views overlap (IoU)", plain],
  ["head_agreement", "Agreement of heads", "How well attention and activation overlap (IoU)", plain],
  ["raw_peak", "Raw peak", "Highest value of the map before it is scaled; low: the model is unsure", plain],
  ["components", "Regions", "Number of connected regions", whole],
];

function definition([, name, meaning, format], value) {
  return build("div", { className: "datum" },
    build("dt", {}, name), build("dd", { className: "figure" }, format(value)), build("p", {}, meaning));
}

function list(rows, record) {
  const shown = rows.filter(([name]) => record[name] !== undefined && record[name] !== null);
  return build("dl", { className: "data" }, ...shown.map((row) => definition(row, record[row[0]])));
}

function tagList(title, names, className) {
  if (!names.length) return null;
  return build("div", { className: "tag-line" }, build("span", { className: "tag-title" }, title),
    ...names.map((name) => build("span", { className: `tag ${className}` }, foreign(name))));
}

/** Build the panel of a row: why it was rejected, its tags, its figures, those of its classes, where it is. */
export function buildFacts(row, run, decision) {
  const nameOf = (id) => run.classById.get(id)?.name ?? `class ${id}`;
  const parts = [];
  if (row.status !== "labelled") {
    parts.push(build("div", { className: "notice", role: "note" },
      build("strong", {}, `No mask: ${words(row.reason ?? row.status)}`),
      row.error ? build("p", {}, foreign(row.error)) : null));
  }
  if (decision?.decision) parts.push(buildDecision(decision));
  if (row.corrected?.tool) parts.push(buildCorrection(row.corrected));
  parts.push(build("section", {},
    tagList("Tags", row.tags ?? [], ""),
    tagList("Doubtful", (row.doubtful_class_ids ?? []).map(nameOf), "doubtful"),
    tagList("The model also sees", (row.suggested_class_ids ?? []).map(nameOf), "suggested"),
    tagList("Not in the vocabulary", row.tags_unknown ?? [], "unknown")));
  if (row.status === "labelled") parts.push(build("section", {}, build("h3", {}, "The mask"), list(OF_ROW, row)));
  for (const one of row.classes ?? []) parts.push(buildClass(one, run));
  parts.push(buildOrigin(row));
  return parts;
}

function buildDecision(decision) {
  const names = (decision.classes ?? []).map((name) => foreign(name, "tag"));
  const by = decision.reviewer ? build("p", {}, "by ", foreign(decision.reviewer), decision.time ? ` at ${words(String(decision.time))}` : "") : null;
  return build("div", { className: "notice decided", role: "note" },
    build("strong", {}, `Decided: ${words(decision.decision)}${decision.isUnsaved ? " (not saved yet)" : ""}`),
    names.length ? build("p", {}, ...names) : null, decision.note ? build("p", {}, foreign(decision.note)) : null, by);
}

function buildCorrection({ tool, source, annotator, time }) {
  const by = annotator ? [" by ", foreign(annotator)] : [];
  return build("div", { className: "notice corrected", role: "note" },
    build("strong", {}, "Corrected"), build("p", {}, "in ", foreign(tool), ...by, " at ", words(String(time)), ", from ", foreign(source)));
}

function buildClass(one, run) {
  const known = run.classById.get(one.class_id);
  const swatch = build("span", { className: "swatch" });
  if (known) swatch.style.backgroundColor = css(known.colour);
  const title = build("h3", {}, swatch, foreign(known?.name ?? `class ${one.class_id}`));
  return build("section", {}, title, list(OF_CLASS, one));
}

function buildOrigin(row) {
  const orientation = row.orientation ?? row.exif_orientation ?? 1;
  const size = row.width ? `${count(row.width)} × ${count(row.height)} pixels as stored` : "unknown size";
  const turned = orientation > 1 ? `, turned upright (orientation ${orientation})` : "";
  const line = (name, text) => build("div", { className: "datum" }, build("dt", {}, name), build("dd", {}, foreign(text, "whole")));
  return build("section", {}, build("h3", {}, "Where it is from"), build("dl", { className: "data" },
    line("Key", row.key), line("Shard", row.shard), line("Row", String(row.index)), line("Image", size + turned),
    row.image_uri ? line("File", row.image_uri) : null, row.image_sha256 ? line("SHA-256", row.image_sha256) : null));
}
