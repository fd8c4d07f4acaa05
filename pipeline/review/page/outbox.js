// Decisions on their way to the server. Each lies in the browser's storage until the server has it: neither a closed
// page nor a dead server loses one. Other tabs share the storage; the newest decision of a row is the one that is sent.

import { deleteDecision, postDecision } from "./api.js";

const FIRST_WAIT_MS = 1000;
const LONGEST_WAIT_MS = 30_000;

export class Outbox {
  /** `onSaved(id, stored)` for each decision that the server has; `onChange()` when the state changes. */
  constructor(run, { onSaved, onChange }) {
    this.prefix = `tagmask-review ${run.runs[0].uri} ${run.reviewer ?? ""} `;
    Object.assign(this, { onSaved, onChange });
    this.memory = new Map(); // What a browser without storage, or with a full one, keeps as long as the page lives.
    this.refused = new Map(); // id -> error of the server that another try does not mend
    this.wait = FIRST_WAIT_MS;
    this.retryAt = null;
    this.error = "";
    this.isSending = false;
    addEventListener("online", () => this.retry());
    addEventListener("beforeunload", (event) => {
      if (this.list().length) event.preventDefault();
    });
  }

  /** Ids of all decisions that are not saved, oldest first. */
  list() {
    const found = [...this.memory].map(([id, item]) => [id, item.time]);
    try {
      for (const name of Object.keys(localStorage)) {
        if (!name.startsWith(this.prefix)) continue;
        const id = name.slice(this.prefix.length);
        if (!this.memory.has(id)) found.push([id, this.get(id)?.time ?? 0]);
      }
    } catch {
      // No storage: what is in memory is all there is.
    }
    return found.sort((one, two) => one[1] - two[1]).map(([id]) => id);
  }

  get(id) {
    if (this.memory.has(id)) return this.memory.get(id);
    try {
      return JSON.parse(localStorage.getItem(this.prefix + id));
    } catch {
      return null;
    }
  }

  /** Keep a decision (null: take back what there is) and send it. */
  put(id, decision) {
    const item = { time: Date.now(), nonce: Math.random(), decision };
    this.refused.delete(id);
    this.memory.delete(id);
    try {
      localStorage.setItem(this.prefix + id, JSON.stringify(item));
    } catch {
      this.memory.set(id, item);
    }
    this.onChange();
    this.send();
  }

  remove(id, item) {
    if (this.get(id)?.nonce !== item.nonce) return false; // Decided again meanwhile.
    this.memory.delete(id);
    try {
      localStorage.removeItem(this.prefix + id);
    } catch {
      // It was in memory.
    }
    return true;
  }

  async send() {
    if (this.isSending || this.retryAt) return;
    this.isSending = true;
    try {
      for (let id = this.next(); id !== undefined; id = this.next()) {
        this.onChange();
        if (!(await this.sendOne(id))) break;
      }
    } finally {
      this.isSending = false;
      this.onChange();
    }
  }

  next() {
    return this.list().find((id) => !this.refused.has(id));
  }

  /** Send the decision of a row; false if it is better to wait. */
  async sendOne(id) {
    const item = this.get(id);
    if (!item) return this.remove(id, { nonce: undefined }) || !this.refused.set(id, "unreadable");
    try {
      const stored = item.decision ? await postDecision({ id, ...item.decision }) : await deleteDecision(id);
      this.wait = FIRST_WAIT_MS;
      this.error = "";
      if (this.remove(id, item)) this.onSaved(id, item.decision ? { ...item.decision, ...stored } : null);
      return true;
    } catch (error) {
      this.error = error.message;
      if (error.isTransient === false) {
        this.refused.set(id, error.message);
        return true;
      }
      this.retryAt = Date.now() + this.wait;
      this.timer = setTimeout(() => this.retry(), this.wait);
      this.wait = Math.min(2 * this.wait, LONGEST_WAIT_MS);
      return false;
    }
  }

  /** Try again at once, also what the server refused. */
  retry() {
    clearTimeout(this.timer);
    this.retryAt = null;
    this.refused.clear();
    this.send();
  }

  /** Forget the decisions that the server refused; returns their ids. */
  discard() {
    const ids = [...this.refused.keys()];
    for (const id of ids) {
      const item = this.get(id);
      if (item) this.remove(id, item);
    }
    this.refused.clear();
    this.error = "";
    this.onChange();
    return ids;
  }

  get state() {
    if (this.refused.size) return "refused";
    if (this.retryAt) return "waiting";
    return this.isSending || this.list().length ? "saving" : "idle";
  }
}
