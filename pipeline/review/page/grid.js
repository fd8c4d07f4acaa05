// The list of images: a million tiles to scroll through, a few dozen elements.

import { announce, byId, count, measure, printable } from "./text.js";
import { Tile } from "./tile.js";

const GAP_PX = 12;
const MIN_TILE_PX = 190;
const MIN_PHONE_TILE_PX = 148;
const FOOT_PX = 62;
const OVERSCAN_LINES = 1;
const SETTLE_MS = 90;
// Browsers limit the height of elements, Firefox to 17.9 million pixels: a taller list is scrolled by parts.
const MAX_HEIGHT_PX = 8_000_000;

export class Grid {
  /** `open(place)` shows an image in full; `run` is the run's record; `decisionOf(row)` what was decided. */
  constructor({ open, run, decisionOf }) {
    Object.assign(this, { open, run, decisionOf });
    this.list = byId("list");
    this.grid = byId("grid");
    this.tiles = new Map(); // place -> Tile
    this.spare = [];
    this.rows = null;
    this.current = 0;
    this.shift = 0; // pixels of the whole list above the scrolled height
    this.lastTop = 0;
    this.list.addEventListener("scroll", () => this.onScroll(), { passive: true });
    new ResizeObserver(() => this.measure()).observe(this.list);
  }

  show(rows, { keepPlace = false } = {}) {
    this.rows = rows;
    for (const place of [...this.tiles.keys()]) this.drop(place);
    if (!keepPlace) {
      this.current = 0;
      this.list.scrollTop = this.shift = this.lastTop = 0;
    }
    rows.want(this.current, this.current + 1);
    this.measure();
  }

  measure() {
    const style = getComputedStyle(this.list);
    const width = this.list.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    const least = width < 500 ? MIN_PHONE_TILE_PX : MIN_TILE_PX;
    const top = this.lineHeight ? Math.floor(this.top / this.lineHeight) * this.columns : 0;
    this.pad = parseFloat(style.paddingTop);
    this.columns = Math.max(1, Math.floor((width + GAP_PX) / (least + GAP_PX)));
    this.tileWidth = Math.floor((width - GAP_PX * (this.columns - 1)) / this.columns);
    this.tileHeight = Math.round(this.tileWidth * 0.75) + FOOT_PX;
    this.lineHeight = this.tileHeight + GAP_PX;
    this.resize();
    if (top) this.scrollTo(Math.floor(top / this.columns) * this.lineHeight);
    this.render(true);
  }

  resize() {
    const lines = Math.ceil((this.rows?.total ?? 0) / this.columns);
    this.height = Math.max(0, lines * this.lineHeight - GAP_PX);
    this.scrolled = Math.min(this.height, MAX_HEIGHT_PX);
    this.grid.style.height = `${this.scrolled}px`;
  }

  /** Pixels of the whole list above the visible part. */
  get top() {
    return this.list.scrollTop + this.shift;
  }

  get maxTop() {
    return Math.max(0, this.height + 2 * this.pad - this.list.clientHeight);
  }

  /** Where the scroll bar should stand for a place in the whole list. */
  barFor(top) {
    const range = Math.max(0, this.scrolled + 2 * this.pad - this.list.clientHeight);
    return this.maxTop ? Math.round((top / this.maxTop) * range) : 0;
  }

  onScroll() {
    const bar = this.list.scrollTop;
    const range = Math.max(1, this.list.scrollHeight - this.list.clientHeight);
    if (this.height > this.scrolled && Math.abs(bar - this.lastTop) > 2 * this.list.clientHeight) {
      this.shift = (bar / range) * this.maxTop - bar; // The bar was dragged: its place is a share of the list.
    }
    this.lastTop = bar;
    clearTimeout(this.settling);
    this.settling = setTimeout(() => this.settle(), SETTLE_MS);
    this.render(false);
  }

  /** At rest the bar moves to the share of the list that is above, and what is visible is requested. */
  settle() {
    const bar = this.barFor(this.top);
    if (this.height > this.scrolled && bar !== this.list.scrollTop) this.scrollTo(this.top);
    this.render(true);
  }

  scrollTo(top) {
    const wanted = Math.min(Math.max(0, top), this.maxTop);
    const bar = this.barFor(wanted);
    this.shift = wanted - bar;
    this.lastTop = this.list.scrollTop = bar;
    this.lastTop = this.list.scrollTop;
    this.shift = this.height > this.scrolled ? wanted - this.lastTop : 0;
  }

  /** The places that are visible, with a line around them. */
  visible() {
    const first = Math.floor((this.top - this.pad) / this.lineHeight) - OVERSCAN_LINES;
    const end = Math.ceil((this.top - this.pad + this.list.clientHeight) / this.lineHeight) + OVERSCAN_LINES;
    const total = this.rows?.total ?? 0;
    return [Math.max(0, first * this.columns), Math.min(total, Math.max(0, end) * this.columns)];
  }

  /** Draw the tiles of the visible places; if the list is at rest, request what they lack. */
  render(isAtRest) {
    if (!this.rows || !this.columns) return;
    const [first, end] = this.visible();
    for (const place of [...this.tiles.keys()]) {
      if (place < first || place >= end) this.drop(place);
    }
    for (let place = first; place < end; place += 1) this.draw(place, isAtRest);
    if (isAtRest && end > first) this.rows.want(first, end);
  }

  drop(place) {
    const tile = this.tiles.get(place);
    const isKept = tile.element.contains(document.activeElement) && place < (this.rows?.total ?? 0);
    tile.cancel();
    if (isKept && place === this.current) return; // The focus stays: the keys go on from there.
    this.tiles.delete(place);
    tile.element.remove();
    this.spare.push(tile);
  }

  draw(place, isAtRest) {
    let tile = this.tiles.get(place);
    if (!tile) {
      tile = this.spare.pop() ?? new Tile(this);
      this.tiles.set(place, tile);
      tile.place = place;
      const follower = [...this.tiles.keys()].filter((other) => other > place).sort((one, two) => one - two)[0];
      this.grid.insertBefore(tile.element, follower === undefined ? null : this.tiles.get(follower).element);
    }
    const [line, column] = [Math.floor(place / this.columns), place % this.columns];
    tile.move(column * (this.tileWidth + GAP_PX), line * this.lineHeight - this.shift, this.tileWidth, this.tileHeight);
    tile.show(place, this.rows, { isAtRest, isCurrent: place === this.current });
  }

  /** Rows arrived, failed or were decided. */
  refresh() {
    this.resize();
    this.current = Math.min(this.current, Math.max(0, (this.rows?.total ?? 1) - 1));
    this.render(true);
  }

  /** Make a place the current one: in view, with the focus if the list has it. */
  select(place, { focus = true } = {}) {
    const total = this.rows?.total ?? 0;
    if (!total) return;
    this.current = Math.min(Math.max(0, place), total - 1);
    const lineTop = Math.floor(this.current / this.columns) * this.lineHeight;
    const lowest = lineTop + this.tileHeight + 2 * this.pad - this.list.clientHeight;
    if (this.top > lineTop) this.scrollTo(lineTop);
    else if (this.top < lowest) this.scrollTo(lowest);
    this.render(true);
    if (focus) this.tiles.get(this.current)?.button.focus({ preventScroll: true });
  }

  move(step) {
    const inList = this.grid.contains(document.activeElement);
    this.select(inList ? this.current + step : this.current);
  }

  get pageRows() {
    return Math.max(1, Math.floor(this.list.clientHeight / this.lineHeight)) * this.columns;
  }

  announceCurrent(before = "") {
    const row = this.rows?.get(this.current);
    const next = row ? `${printable(row.key)}, quality ${measure(row.quality)}` : "";
    announce(`${before} ${count(this.current + 1)} of ${count(this.rows?.total)}: ${next}`.trim());
  }
}
