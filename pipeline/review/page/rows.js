// The rows of the chosen filters and order, a page of them at a time: only what is looked at is requested.

import { getRows } from "./api.js";

export const PAGE_ROWS = 100;
const MAX_PAGES = 40;

/** The list as it was when it was opened. Rows that were decided since stay at their places. */
export class RowList {
  /** `onChange(first, end)` is called when rows arrive or fail. `onReply(reply)` with each reply. */
  constructor(filters, order, { onChange, onReply }) {
    Object.assign(this, { filters, order, onChange, onReply });
    this.total = null;
    this.error = null;
    this.pages = new Map(); // number -> {state: "loading" | "ready" | "failed", rows, error, abort}; in order of use
    this.left = new Map(); // place -> row that a decision took out of the server's list
    this.decided = new Map(); // id -> {place, row}: its page may be forgotten before the server has the decision
    this.isClosed = false;
  }

  close() {
    this.isClosed = true;
    for (const page of this.pages.values()) page.abort?.abort();
  }

  /** The row at a place; undefined while it is not there. */
  get(place) {
    return this.left.get(place) ?? this.pages.get(Math.floor(place / PAGE_ROWS))?.rows?.[place % PAGE_ROWS];
  }

  /** Why the row at a place is not there, if its request failed. */
  errorAt(place) {
    const page = this.pages.get(Math.floor(place / PAGE_ROWS));
    return page?.state === "failed" ? page.error : null;
  }

  /** Request what is missing of the places; requests for others are cancelled. */
  want(first, end) {
    const [from, until] = [Math.floor(first / PAGE_ROWS), Math.floor(Math.max(first, end - 1) / PAGE_ROWS)];
    this.wanted = [first, end];
    for (const [number, page] of this.pages) {
      if (page.state === "loading" && (number < from || number > until)) this.cancel(number);
    }
    for (let number = from; number <= until; number += 1) this.load(number);
    for (const number of this.pages.keys()) {
      if (this.pages.size <= MAX_PAGES) break;
      if (number < from || number > until) this.pages.delete(number);
    }
  }

  cancel(number) {
    this.pages.get(number)?.abort?.abort();
    this.pages.delete(number);
  }

  retry(place) {
    const number = Math.floor(place / PAGE_ROWS);
    if (this.pages.get(number)?.state === "failed") this.pages.delete(number);
    this.load(number);
  }

  async load(number) {
    const known = this.pages.get(number);
    if (known) {
      this.pages.delete(number); // The most recently used page is the last.
      this.pages.set(number, known);
      return known.done;
    }
    const page = { state: "loading", rows: null, error: null, abort: new AbortController() };
    this.pages.set(number, page);
    page.done = this.fetch(number, page);
    return page.done;
  }

  async fetch(number, page) {
    const first = number * PAGE_ROWS;
    try {
      const gone = [...this.left.keys()];
      const before = gone.filter((place) => place < first).length;
      const within = gone.filter((place) => place >= first && place < first + PAGE_ROWS).length;
      const wanted = PAGE_ROWS - within;
      const reply = wanted
        ? await getRows(this.filters, this.order, first - before, wanted, page.abort.signal)
        : { rows: [], total: this.total - gone.length };
      if (this.pages.get(number) !== page || this.isClosed) return;
      page.rows = this.place(first, reply.rows);
      page.state = "ready";
      this.total = reply.total + gone.length;
      this.onReply(reply);
    } catch (error) {
      if (error.name === "AbortError" || this.pages.get(number) !== page || this.isClosed) return;
      page.state = "failed";
      page.error = error.message;
    }
    page.abort = null;
    this.error = this.total === null ? page.error : null;
    this.onChange(first, first + PAGE_ROWS);
  }

  /** Put the rows of a reply at the places that no decided row holds. */
  place(first, rows) {
    const placed = [];
    const queue = [...rows];
    for (let place = first; place < first + PAGE_ROWS; place += 1) {
      if (!this.left.has(place)) placed[place - first] = queue.shift();
      if (!queue.length) break;
    }
    return placed;
  }

  /** Find the place of a row among those that are there; null if it is at none. */
  find(id) {
    for (const [place, row] of this.left) if (row.id === id) return place;
    for (const [number, page] of this.pages) {
      const place = page.rows?.findIndex((row) => row?.id === id) ?? -1;
      if (place >= 0) return number * PAGE_ROWS + place;
    }
    return null;
  }

  /** Remember where a row is whose decision is on its way. */
  note(row) {
    const place = this.find(row.id);
    if (place !== null) this.decided.set(row.id, { place, row });
  }

  /**
   * Take in what the server now holds for a row. If the row no longer passes the filter of decisions, the server's
   * list is shorter from there on: later requests ask for less, or rows would be skipped.
   */
  settle(id, decision) {
    const filter = this.filters.decision;
    const { place, row } = this.decided.get(id) ?? {};
    if (!filter || !row) return;
    const passes = filter === "none" ? !decision : decision?.decision === filter;
    if (passes === !this.left.has(place)) return;
    if (passes) {
      this.left.delete(place);
      const page = this.pages.get(Math.floor(place / PAGE_ROWS));
      if (page?.rows) page.rows[place % PAGE_ROWS] = row;
    } else {
      this.left.set(place, row);
    }
    // Replies under way may have been made before or after this decision: ask again.
    for (const [number, page] of [...this.pages]) if (page.state === "loading") this.cancel(number);
    if (this.wanted) this.want(...this.wanted);
  }
}
