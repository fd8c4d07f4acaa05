// One image of the list: thumbnail with its mask, key, quality, classes, decision.

import { explainImage, imageAddress, overlayAddress } from "./api.js";
import { cancelImage, loadImage } from "./loader.js";
import { build, count, css, measure, printable, words } from "./text.js";
import { SIGNS } from "./verdicts.js";

const MAX_SWATCHES = 6;

export class Tile {
  constructor(grid) {
    this.grid = grid;
    this.photo = build("img", { className: "photo", alt: "", draggable: false, decoding: "async" });
    this.overlay = build("img", { className: "overlay", alt: "", draggable: false, decoding: "async" });
    this.note = build("span", { className: "tile-note" });
    this.verdict = build("span", { className: "verdict", hidden: true });
    this.key = build("bdi", { className: "tile-key" });
    this.quality = build("span", { className: "quality figure" });
    this.flags = build("span", { className: "flags" });
    this.swatches = build("span", { className: "swatches" });
    this.picture = build("span", { className: "picture" }, this.photo, this.overlay, this.note, this.verdict);
    const facts = build("span", { className: "tile-facts" }, this.quality, this.swatches, this.flags);
    const foot = build("span", { className: "tile-foot" }, this.key, facts);
    this.button = build("button", { type: "button", className: "tile-button" }, this.picture, foot);
    this.retry = build("button", { type: "button", className: "tile-retry", textContent: "Try again", hidden: true });
    this.element = build("div", { className: "tile", role: "listitem" }, this.button, this.retry);
    this.button.addEventListener("click", () => grid.open(this.place));
    this.button.addEventListener("focus", () => (grid.current = this.place));
    this.retry.addEventListener("click", () => this.tryAgain());
    this.shown = null;
  }

  move(x, y, width, height) {
    const style = this.element.style;
    style.transform = `translate(${x}px, ${y}px)`;
    style.width = `${width}px`;
    style.height = `${height}px`;
  }

  /** Stop its requests; what it shows is loaded again when it is visible again. */
  cancel() {
    this.abort?.abort();
    cancelImage(this.photo);
    cancelImage(this.overlay);
    this.shown = null;
    this.setPicture("waiting");
  }

  setPicture(state, text = "") {
    this.picture.dataset.state = state;
    this.note.textContent = text;
    this.note.title = text;
    this.retry.hidden = state !== "failed";
  }

  show(place, rows, { isAtRest, isCurrent }) {
    this.place = place;
    this.rows = rows;
    const row = rows.get(place);
    this.element.setAttribute("aria-posinset", place + 1);
    this.element.setAttribute("aria-setsize", rows.total);
    this.element.classList.toggle("current", isCurrent);
    this.button.tabIndex = isCurrent ? 0 : -1;
    if (!row) this.showMissing(place, rows);
    else this.showRow(row, isAtRest);
  }

  showMissing(place, rows) {
    const error = rows.errorAt(place);
    if (this.shown) this.cancel();
    for (const part of [this.key, this.quality, this.flags, this.swatches]) part.textContent = "";
    this.verdict.hidden = true;
    this.setPicture(error ? "failed" : "waiting", error ? printable(error) : "");
    this.element.classList.toggle("empty", !error);
    this.button.setAttribute("aria-label", `${count(place + 1)}: ${error ? `not loaded, ${printable(error)}` : "loading"}`);
  }

  showRow(row, isAtRest) {
    const decision = this.grid.decisionOf(row);
    this.element.classList.remove("empty");
    if (this.shown !== row.id) {
      if (this.shown) this.cancel();
      this.fill(row);
      if (!isAtRest) {
        // Scrolled through: words at once, pictures at rest.
        this.setPicture("waiting");
      } else {
        this.shown = row.id;
        this.load(row);
      }
    }
    this.showDecision(row, decision);
  }

  fill(row) {
    this.key.textContent = this.key.title = printable(row.key);
    const isRejected = row.status !== "labelled";
    this.quality.textContent = isRejected ? words(row.reason ?? row.status) : measure(row.quality);
    this.quality.classList.toggle("rejected", isRejected);
    const ids = row.class_ids ?? [];
    this.swatches.replaceChildren(...ids.slice(0, MAX_SWATCHES).map((id) => this.swatch(id)));
    if (ids.length > MAX_SWATCHES) this.swatches.append(`+${ids.length - MAX_SWATCHES}`);
    const flags = [];
    if (row.doubtful_class_ids?.length) flags.push(build("span", { className: "flag doubtful", textContent: "?", title: "A tag is doubtful" }));
    if (row.suggested_class_ids?.length) flags.push(build("span", { className: "flag suggested", textContent: "+", title: "The model sees another class" }));
    if (row.corrected) flags.push(build("span", { className: "flag corrected", textContent: "corrected", title: "A corrected mask was brought back" }));
    this.flags.replaceChildren(...flags);
  }

  swatch(id) {
    const known = this.grid.run.classById.get(id);
    const mark = build("span", { className: "swatch", title: printable(known?.name ?? id) });
    if (known) mark.style.backgroundColor = css(known.colour);
    return mark;
  }

  showDecision(row, decision) {
    const name = decision?.decision;
    this.verdict.hidden = !name;
    this.verdict.textContent = name ? SIGNS[name]?.sign ?? "•" : "";
    this.verdict.dataset.decision = name ?? "";
    this.verdict.classList.toggle("unsaved", Boolean(decision?.isUnsaved));
    this.verdict.title = name ? words(name) : "";
    const names = (row.class_ids ?? []).map((id) => printable(this.grid.run.classById.get(id)?.name ?? id));
    const facts = row.status === "labelled" ? `quality ${measure(row.quality)}` : `rejected, ${words(row.reason ?? "")}`;
    const parts = [printable(row.key), facts, names.join(", "), name ? `decided: ${words(name)}` : ""];
    this.button.setAttribute("aria-label", parts.filter(Boolean).join("; "));
  }

  load(row) {
    this.setPicture("loading");
    const address = imageAddress(row.id, 320);
    loadImage(this.photo, address, (ok) => (ok ? this.setPicture("ready") : this.explain(row, address)));
    if (row.status === "labelled") loadImage(this.overlay, overlayAddress(row.id), () => {});
  }

  async explain(row, address) {
    this.setPicture("failed", row.error ? printable(row.error) : "");
    this.abort = new AbortController();
    try {
      const text = await explainImage(address, this.abort.signal);
      if (this.shown === row.id) this.setPicture("failed", printable(text));
    } catch {
      // Scrolled past meanwhile.
    }
  }

  tryAgain() {
    const row = this.rows.get(this.place);
    this.shown = null;
    if (row) this.showRow(row, true);
    else this.rows.retry(this.place);
    this.button.focus();
  }
}
