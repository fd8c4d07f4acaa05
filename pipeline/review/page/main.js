// The page put together: the run, the list, the image in full, decisions.

import { getRun } from "./api.js";
import { Decisions } from "./decisions.js";
import { Filters } from "./filters.js";
import { Grid } from "./grid.js";
import { startKeys } from "./keys.js";
import { classesFor, pickClasses } from "./picker.js";
import { RowList } from "./rows.js";
import { closeRow, getState, onState, setState } from "./state.js";
import { startTheme } from "./theme.js";
import { announce, build, byId, count, printable } from "./text.js";
import { SIGNS } from "./verdicts.js";
import { Viewer } from "./viewer.js";

const POLL_MS = 2000;

class Page {
  constructor(run) {
    this.run = run;
    this.decisions = new Decisions(run, {
      onSettled: (id, stored) => this.onSettled(id, stored),
      onShown: () => this.showDecision(),
    });
    const decisionOf = (row) => this.decisions.of(row);
    this.grid = new Grid({ open: (place) => this.open(place), run, decisionOf });
    this.act = (name) => this.decide(name);
    this.step = (by) => this.move(by);
    this.viewer = new Viewer(run, { act: this.act, step: this.step, close: () => this.leave(), decisionOf });
    this.addNote();
    this.filters = new Filters(run);
    onState((state, before) => this.onState(state, before));
    startKeys(this);
    byId("skip").addEventListener("click", (event) => {
      event.preventDefault();
      this.grid.select(this.grid.current);
    });
    byId("indexing-refresh").addEventListener("click", () => this.load());
    this.load();
    this.showRow();
    this.watchIndex();
  }

  addNote() {
    this.note = build("input", { type: "text", id: "note", maxLength: 1000, placeholder: "Note (n)", "aria-label": "Note for the decision", autocomplete: "off" });
    this.note.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.preventDefault();
      event.stopPropagation();
      byId("stage").focus();
    });
    byId("decide").append(this.note);
  }

  openFilters() {
    this.filters.toggle(true);
    byId("filters").querySelector("button:not([hidden])")?.focus();
  }

  /** Open the list of the chosen filters and order. */
  load({ keepPlace = false } = {}) {
    this.rows?.close();
    const { filters, order } = getState();
    this.seen = null;
    this.rows = new RowList(filters, order, {
      onChange: () => this.onRows(),
      onReply: (reply) => this.onReply(reply),
    });
    byId("indexing-refresh").hidden = true;
    this.showMessage("Loading…");
    this.grid.show(this.rows, { keepPlace });
    this.filters.load();
  }

  onRows() {
    const { total, error } = this.rows;
    byId("total").textContent = total === null ? "" : `${count(total)} ${total === 1 ? "image" : "images"}`;
    if (error) this.showMessage(printable(error), "Try again", () => this.load());
    else if (total === 0) this.showMessage("No image passes these filters.");
    else this.showMessage("");
    this.grid.refresh();
    this.showRow();
  }

  onReply(reply) {
    // Decisions of other reviewers come with the rows; what this page knows of older ones is out of date.
    for (const row of reply.rows) if (row.decision) this.decisions.learn(row);
    if (reply.indexed) this.showIndex(reply.indexed);
  }

  showMessage(text, action = "", act = null) {
    const box = byId("message");
    box.hidden = !text;
    box.firstElementChild.textContent = text;
    const button = box.lastElementChild;
    button.hidden = !action;
    button.textContent = action;
    button.onclick = act;
  }

  /** How much of the run is in the list; what came later is shown when the reviewer asks, or has not begun. */
  showIndex({ shards, of }) {
    const isWhole = shards >= of;
    this.seen ??= shards;
    this.isIndexing = !isWhole;
    byId("indexing").hidden = isWhole && this.seen >= shards;
    byId("indexing-text").textContent = isWhole ? "All shards are read." : `${count(shards)} of ${count(of)} shards read`;
    if (shards <= this.seen) return;
    const isUntouched = this.grid.top === 0 && !getState().row && !this.decisions.history.length && this.grid.current === 0;
    if (isUntouched) this.load();
    else byId("indexing-refresh").hidden = false;
  }

  async watchIndex() {
    try {
      const run = await getRun();
      if (run.indexed) this.showIndex(run.indexed);
    } catch {
      this.isIndexing = true; // Saving and lists say when the server is away; here it is only asked again.
    }
    if (this.isIndexing) setTimeout(() => this.watchIndex(), POLL_MS);
  }

  onState(state, before) {
    const isSame = JSON.stringify(state.filters) === JSON.stringify(before.filters) && state.order === before.order;
    if (!isSame) this.load();
    if (state.row !== before.row || !isSame) this.showRow();
    if (before.row && !state.row) this.grid.select(this.place ?? this.grid.current);
  }

  /** The place of the open row in the list; null if it is not known. */
  placeOf(id, at) {
    if (at !== null && this.rows.get(at)?.id === id) return at;
    return this.rows.find(id);
  }

  /** Show the image that the address names. */
  showRow() {
    const { row: id, at } = getState();
    if (!id) {
      if (this.viewer.isOpen) this.viewer.close();
      return;
    }
    if (at !== null && !this.rows.get(at) && this.rows.total !== null && at < this.rows.total) this.rows.load(Math.floor(at / 100));
    const place = this.placeOf(id, at);
    const row = place === null ? { id } : this.rows.get(place);
    if (this.viewer.row?.id !== id) this.note.value = (place === null ? "" : this.decisions.of(row)?.note) ?? "";
    this.place = place;
    this.viewer.showAt(this.viewer.row?.id === id ? this.viewer.row : row, place, this.rows.total);
  }

  open(place, { replace = false } = {}) {
    const row = this.rows.get(place);
    if (row) setState({ row: row.id, at: place }, { replace });
  }

  leave() {
    closeRow();
  }

  /** Go to another image; waits for its row if it is not there yet. */
  async move(by) {
    if (!this.viewer.isOpen) return this.grid.move(by);
    const place = Math.max(0, (this.place ?? -1) + by);
    if (place >= this.rows.total) return announce("This is the last image");
    if (place === this.place) return announce("This is the first image");
    const from = getState().row;
    if (!this.rows.get(place)) await this.rows.load(Math.floor(place / 100));
    if (getState().row !== from) return undefined;
    if (!this.rows.get(place)) {
      this.rows.retry(place);
      return announce("The next image is not loaded");
    }
    this.open(place, { replace: true });
    return this.grid.select(place, { focus: false });
  }

  get chosenRow() {
    if (this.viewer.isOpen) return { ...this.viewer.row, ...this.viewer.full };
    return this.rows.get(this.grid.current);
  }

  async decide(name) {
    if (name === "undo") return this.undo();
    const row = this.chosenRow;
    if (!row || row.status === undefined) return announce("The image is not loaded yet");
    let classes = [];
    if (name === "wrong_tag" || name === "missing_tag") {
      const offered = classesFor(name, row, this.run);
      if (name === "wrong_tag" && !offered.length) return announce("This image has no tag of the vocabulary");
      if (name === "wrong_tag" && offered.length === 1) classes = [offered[0].name];
      else {
        const title = name === "wrong_tag" ? "Which tags are wrong?" : "Which classes are missing?";
        classes = await pickClasses(title, offered, "Save without naming one");
        if (classes === null || this.chosenRow?.id !== row.id) return undefined;
      }
    }
    this.rows.note(this.rows.get(this.rows.find(row.id) ?? -1) ?? row);
    this.decisions.decide(row, name, classes, this.viewer.isOpen ? this.note.value.trim() : "");
    return this.goOn(name);
  }

  goOn(name) {
    const word = SIGNS[name].word;
    if (this.viewer.isOpen) {
      announce(`${word}.`);
      return this.move(1);
    }
    this.grid.select(this.grid.current + 1);
    return this.grid.announceCurrent(`${word}.`);
  }

  undo() {
    const id = this.decisions.undo();
    if (id === null) return announce("Nothing to take back");
    const place = this.rows.decided.get(id)?.place ?? this.rows.find(id);
    if (this.viewer.isOpen) return setState({ row: id, at: place }, { replace: true });
    if (place !== null) this.grid.select(place);
    return undefined;
  }

  showDecision() {
    this.grid?.render(true);
    if (this.viewer?.isOpen) this.viewer.showWords();
  }

  onSettled(id, stored) {
    this.rows?.settle(id, stored);
    this.filters?.loadLater();
  }
}

async function start() {
  startTheme();
  const box = byId("message");
  try {
    const run = await getRun();
    run.classById = new Map(run.classes.filter((one) => one.id > 0 && one.id < 255).map((one) => [one.id, one]));
    const name = run.runs.map((one) => printable(one.name || one.uri)).join(" | ");
    byId("run-name").textContent = byId("run-name").title = name;
    document.title = `${name} – tagmask review`;
    new Page(run);
  } catch (error) {
    box.hidden = false;
    box.firstElementChild.textContent = `The run cannot be shown: ${printable(error.message)}`;
    box.lastElementChild.hidden = false;
    box.lastElementChild.textContent = "Try again";
    box.lastElementChild.onclick = () => location.reload();
    if (!error.status && error.status !== 0) throw error;
  }
}

start();
