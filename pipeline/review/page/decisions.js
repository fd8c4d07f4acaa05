// What was decided: by the server, by this page and not saved yet; undo; the counters of the session.

import { Outbox } from "./outbox.js";
import { SIGNS } from "./verdicts.js";
import { announce, build, byId, count } from "./text.js";

const known = (decision) => (typeof decision === "string" ? { decision, classes: [], note: "" } : decision) || null;

export class Decisions {
  /** `onSettled(id, stored)` when the server has a decision; `onShown(id)` when what is shown changes. */
  constructor(run, { onSettled, onShown }) {
    this.run = run;
    this.onShown = onShown;
    this.stored = new Map(); // id -> what the server has, by its last answer
    this.history = []; // {id, before}
    this.counts = new Map(); // id -> decision of this session
    this.outbox = new Outbox(run, {
      onSaved: (id, stored) => {
        this.stored.set(id, stored);
        this.wasSaved = true;
        onSettled(id, stored);
        onShown(id);
      },
      onChange: () => this.showState(),
    });
    byId("saving-retry").addEventListener("click", () => this.outbox.retry());
    byId("saving-discard").addEventListener("click", () => this.discard());
    this.showState();
    this.showCounts();
    this.outbox.send();
  }

  /** The decision of a row as the reviewer sees it; `isUnsaved` while the server lacks it. */
  of(row) {
    const waiting = this.outbox.get(row.id);
    if (waiting) return { ...(waiting.decision ?? { decision: null }), isUnsaved: true };
    return this.stored.has(row.id) ? this.stored.get(row.id) : known(row.decision);
  }

  decide(row, decision, classes = [], note = "") {
    const before = this.of(row);
    this.history.push({ id: row.id, before: before?.decision ? before : null });
    this.counts.set(row.id, decision);
    this.outbox.put(row.id, { decision, classes, note });
    this.showCounts();
    this.onShown(row.id);
  }

  /** Take back the last decision of this session; returns the id of its row, null if there is none. */
  undo() {
    const last = this.history.pop();
    if (!last) return null;
    const { id, before } = last;
    this.outbox.put(id, before && { decision: before.decision, classes: before.classes ?? [], note: before.note ?? "" });
    const earlier = this.history.some((one) => one.id === id);
    if (earlier && before) this.counts.set(id, before.decision);
    else this.counts.delete(id);
    this.showCounts();
    this.onShown(id);
    announce("Taken back");
    return id;
  }

  /** A row came with a decision that is newer than what is known. */
  learn(row) {
    if (!this.counts.has(row.id)) this.stored.delete(row.id); // A reply may be older than what this page saved.
  }

  discard() {
    for (const id of this.outbox.discard()) {
      this.counts.delete(id);
      this.history = this.history.filter((one) => one.id !== id);
      this.onShown(id);
    }
    this.showCounts();
  }

  showState() {
    if (!this.outbox) return;
    const { state, error, refused, retryAt } = this.outbox;
    const num = this.outbox.list().length;
    const box = byId("saving");
    const texts = {
      idle: this.wasSaved ? "All saved" : "",
      saving: `Saving ${count(num)}…`,
      waiting: `${count(num)} not saved: ${error}. Next try in ${Math.max(1, Math.round(((retryAt ?? 0) - Date.now()) / 1000))} s`,
      refused: `${count(refused.size)} not saved: ${error}`,
    };
    box.dataset.state = state;
    byId("saving-text").textContent = texts[state];
    byId("saving-retry").hidden = state !== "waiting" && state !== "refused";
    byId("saving-discard").hidden = state !== "refused";
    clearTimeout(this.ticking);
    if (state === "waiting") this.ticking = setTimeout(() => this.showState(), 1000);
  }

  showCounts() {
    const totals = {};
    for (const decision of this.counts.values()) totals[decision] = (totals[decision] ?? 0) + 1;
    const parts = Object.keys(SIGNS).filter((name) => totals[name]);
    byId("session").replaceChildren(
      `${count(this.counts.size)} decided in this session`,
      ...parts.map((name) =>
        build("span", { className: "tally", title: SIGNS[name].word, dataset: { decision: name } }, `${SIGNS[name].sign} ${count(totals[name])}`),
      ),
    );
  }
}
