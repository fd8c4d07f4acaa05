// One image in full: photo, layers, figures, decisions.

import { correctedAddress, getBytes, getRow, imageAddress, mapsAddress, maskAddress, truthAddress, explainImage } from "./api.js";
import { choice, Controls } from "./controls.js";
import { drawMap, drawMask, listIds } from "./drawing.js";
import { buildFacts } from "./figures.js";
import { decodePng, resample } from "./png.js";
import { Stage } from "./stage.js";
import { build, byId, count, measure, printable, words } from "./text.js";
import { SIGNS } from "./verdicts.js";

const MAX_SIDE_PX = 1400;

export class Viewer {
  /** `act(name)` decides; `step(by)` goes to another row; `close()` leaves; `decisionOf(row)`. */
  constructor(run, { act, step, close, decisionOf }) {
    Object.assign(this, { run, decisionOf });
    this.dialog = byId("viewer");
    this.stage = new Stage(byId("stage"));
    this.controls = new Controls(byId("controls"), this.stage, () => this.draw());
    this.stage.again.addEventListener("click", () => this.reload());
    this.dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      close();
    });
    this.dialog.addEventListener("close", () => this.row && close());
    byId("viewer-close").addEventListener("click", close);
    byId("viewer-previous").addEventListener("click", () => step(-1));
    byId("viewer-next").addEventListener("click", () => step(1));
    this.buttons = new Map();
    for (const [name, { key, word, sign, hint }] of Object.entries(SIGNS)) this.addButton(name, key, word, sign, hint, act);
    this.addButton("undo", "u", "Undo", "↶", "Take back the last decision", act);
    this.row = null;
  }

  addButton(name, key, word, sign, hint, act) {
    const button = build("button", { type: "button", className: "verdict-button", title: `${hint} (${key})`, "aria-keyshortcuts": key, dataset: { decision: name } },
      build("span", { "aria-hidden": "true", className: "sign" }, sign), build("span", {}, word), build("kbd", { "aria-hidden": "true" }, key));
    button.addEventListener("click", () => act(name));
    this.buttons.set(name, button);
    byId("decide").append(button);
  }

  get isOpen() {
    return this.dialog.open;
  }

  /** Show a row of the list; `row` may be only {id} while the list is not there. */
  async open(row, place, total) {
    const isNew = this.row?.id !== row.id;
    this.row = row;
    if (!this.dialog.open) {
      // What is saved, and what readers of screens hear, is in the dialog: all else is out of reach while it is open.
      this.dialog.querySelector(".viewer-head").after(byId("status"));
      this.dialog.showModal();
    }
    byId("viewer-place").textContent = place === null ? "" : `${count(place + 1)} of ${count(total)}`;
    if (!isNew) return this.showWords();
    this.abort?.abort();
    this.abort = new AbortController();
    this.cache = new Map(); // address -> promise of a layer
    this.ids = new Set(); // classes that its masks have pixels of
    this.full = null;
    if (choice.only !== null && row.class_ids && !row.class_ids.includes(choice.only)) choice.only = null;
    this.stage.fit();
    this.showWords();
    this.showPhoto();
    this.offer();
    this.draw();
    byId("facts").scrollTop = 0;
    return this.loadFull();
  }

  close() {
    this.row = null;
    this.abort?.abort();
    this.stage.photo.removeAttribute("src");
    this.clearLayers();
    if (this.dialog.open) this.dialog.close();
    document.querySelector("header").after(byId("status"));
  }

  reload() {
    const row = this.row;
    this.row = null;
    this.open(row, ...this.lastPlace);
  }

  showAt(row, place, total) {
    this.lastPlace = [place, total];
    return this.open(row, place, total);
  }

  async loadFull() {
    const { signal } = this.abort;
    const { id } = this.row;
    try {
      const full = await getRow(id, signal);
      if (this.row?.id !== id) return;
      this.full = full;
      if (this.row.key === undefined) this.showPhoto();
      this.offer();
      this.draw();
    } catch (error) {
      if (error.name === "AbortError" || this.row?.id !== id) return;
      this.stage.setNote(`The figures of this image are not there: ${error.message}`, true);
    }
    this.showWords();
  }

  /** Words, figures and marks of decisions; also after a decision. */
  showWords() {
    const row = { ...this.row, ...this.full };
    const decision = this.decisionOf(row);
    const key = byId("viewer-key");
    key.replaceChildren(build("bdi", { title: printable(row.key) }, printable(row.key ?? row.id)));
    byId("facts").replaceChildren(...buildFacts(row, this.run, decision));
    for (const [name, button] of this.buttons) {
      if (name !== "undo") button.setAttribute("aria-pressed", String(decision?.decision === name));
    }
    const facts = row.status === "rejected" ? `rejected: ${words(row.reason)}` : `quality ${measure(row.quality)}`;
    byId("stage").setAttribute("aria-label", `${printable(row.key ?? row.id)}, ${facts}`);
  }

  showPhoto() {
    const { photo } = this.stage;
    const row = { ...this.row, ...this.full };
    const turned = (row.orientation ?? row.exif_orientation ?? 1) >= 5;
    this.stage.setSize(...(turned ? [row.height, row.width] : [row.width, row.height]));
    this.stage.setNote("");
    this.stage.element.dataset.state = "loading";
    photo.onload = () => {
      this.stage.element.dataset.state = "ready";
      if (!row.width) this.stage.setSize(photo.naturalWidth, photo.naturalHeight);
    };
    photo.onerror = () => this.explainPhoto(row.id);
    photo.src = imageAddress(row.id);
  }

  async explainPhoto(id) {
    const { signal } = this.abort;
    this.stage.element.dataset.state = "failed";
    this.stage.photo.removeAttribute("src");
    try {
      const text = await explainImage(imageAddress(id), signal);
      if (this.row?.id === id) this.stage.setNote(`The photo cannot be shown: ${printable(text)}`, true);
    } catch {
      // Another image is shown meanwhile.
    }
  }

  offer() {
    const row = { ...this.row, ...this.full };
    const layers = [];
    if (row.status === "labelled") {
      const names = this.run.runs.map((run, place) => (this.run.runs.length > 1 ? `Mask of ${run.name || `run ${place + 1}`}` : "Mask"));
      names.forEach((name, place) => layers.push({ id: `run${place}`, name }));
      if (this.run.has_maps && row.class_ids?.length) layers.push({ id: "map", name: "Class map" });
    }
    if (row.corrected) layers.push({ id: "corrected", name: "Corrected mask" });
    if (this.run.has_truth && row.id) layers.push({ id: "truth", name: "True mask" });
    const ids = new Set([...(row.class_ids ?? []), ...this.ids]);
    const classes = [...ids].map((id) => this.run.classById.get(id)).filter(Boolean);
    this.controls.offer(layers, classes);
  }

  /** The classes of masks that arrived join those of the tags. */
  async fetchLayer(id) {
    const { row } = this;
    const only = choice.only ?? row.class_ids?.[0] ?? this.full?.class_ids?.[0];
    const addresses = { map: mapsAddress(row.id, only), truth: truthAddress(row.id), corrected: correctedAddress(row.id) };
    const address = addresses[id] ?? maskAddress(row.id, id.slice(3));
    if (!this.cache.has(address)) this.cache.set(address, this.decode(id, address, this.abort.signal));
    const { cache } = this;
    try {
      return await cache.get(address);
    } catch (error) {
      cache.delete(address); // The next look asks again.
      throw error;
    }
  }

  async decode(id, address, signal) {
    const decoded = await decodePng(await getBytes(address, signal));
    const mask = id === "map" ? decoded : resample(decoded, MAX_SIDE_PX);
    if (signal.aborted) return { mask };
    if (id !== "map") for (const found of listIds(mask)) this.ids.add(found);
    this.offer();
    return { mask };
  }

  clearLayers() {
    for (const canvas of [this.stage.left, this.stage.right]) canvas.width = canvas.height = 1;
  }

  async draw() {
    if (!this.row) return;
    const offered = new Map(this.controls.offered.layers.map((layer) => [layer.id, layer.name]));
    const sides = [[this.stage.left, choice.left], [this.stage.right, choice.right]];
    const isDivided = offered.has(choice.right);
    const nameOf = (id) => (offered.has(id) ? printable(offered.get(id)) : "Photo alone");
    this.stage.divide(isDivided, nameOf(choice.left), nameOf(choice.right));
    this.stage.element.classList.toggle("bare", choice.isHidden);
    this.drawing = (this.drawing ?? 0) + 1;
    const drawing = this.drawing;
    await Promise.all(sides.map(([canvas, id]) => this.drawSide(canvas, offered.has(id) ? id : "", drawing)));
    if (drawing === this.drawing) this.stage.element.dataset.drawn = `${this.row?.id} ${drawing}`;
  }

  async drawSide(canvas, id, drawing) {
    const { row } = this;
    if (canvas.dataset.row !== row.id || !id) canvas.width = canvas.height = 1; // Never the mask of another image.
    canvas.dataset.row = row.id;
    if (!id) return;
    try {
      const { mask } = await this.fetchLayer(id);
      if (this.row !== row || drawing !== this.drawing) return;
      if (id === "map") drawMap(canvas, mask, choice);
      else drawMask(canvas, mask, this.run.classById, choice);
      canvas.dataset.layer = id;
    } catch (error) {
      if (error.name === "AbortError" || this.row !== row) return;
      canvas.width = canvas.height = 1;
      this.stage.setNote(printable(error.message), true);
    }
  }
}
