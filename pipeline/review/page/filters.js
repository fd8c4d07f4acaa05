// The chips that choose rows, with counts; search and order.

import { getFacets } from "./api.js";
import { getState, setFilter, setState, clearFilters } from "./state.js";
import { build, byId, count, css, foreign, printable, words } from "./text.js";
import { SIGNS } from "./verdicts.js";

const SEARCH_MS = 250;
const AGAIN_MS = 1500;
const MAX_CLASSES = 24;

const FLAGS = [
  ["doubtful", "Doubtful tag", "The model does not see the class of a tag"],
  ["suggested", "Suggested class", "The model sees a class that no tag names"],
  ["disagree", "Tag against model", "Tags and model differ, one way or the other"],
];

export class Filters {
  constructor(run) {
    this.run = run;
    this.facets = null;
    this.isLong = false;
    this.wanted = "";
    this.element = byId("filters");
    byId("search").addEventListener("input", () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => setFilter("search", byId("search").value), SEARCH_MS);
    });
    byId("order").addEventListener("change", () => setState({ order: byId("order").value, row: null, at: null }));
    byId("filters-toggle").addEventListener("click", () => this.toggle());
    this.show();
  }

  toggle(isOpen = !this.element.classList.contains("open")) {
    this.element.classList.toggle("open", isOpen);
    byId("filters-toggle").setAttribute("aria-expanded", String(isOpen));
  }

  /** Request the counts for the chosen filters; those of before stay until then. */
  async load() {
    this.abort?.abort();
    this.abort = new AbortController();
    clearTimeout(this.later);
    this.show();
    try {
      this.facets = await getFacets(getState().filters, this.abort.signal);
      this.error = "";
    } catch (error) {
      if (error.name === "AbortError") return;
      this.error = error.message;
      this.later = setTimeout(() => this.load(), 5 * AGAIN_MS);
    }
    this.show();
  }

  /** Decisions change the counts: ask again when the reviewer pauses. */
  loadLater() {
    clearTimeout(this.later);
    this.later = setTimeout(() => this.load(), AGAIN_MS);
  }

  show() {
    const { filters, order } = getState();
    if (document.activeElement !== byId("search")) byId("search").value = filters.search ?? "";
    byId("order").value = order;
    const num = Object.values(filters).filter(Boolean).length;
    byId("filters-count").textContent = num ? ` (${num})` : "";
    const focused = this.element.contains(document.activeElement) ? document.activeElement.dataset.place : null;
    const facets = this.facets ?? {};
    const groups = [
      this.group("Decision", "decision", ["none", ...Object.keys(SIGNS)].map((name) => [name, SIGNS[name]?.word ?? "Undecided", facets.decision?.[name], SIGNS[name]?.sign])),
      this.flags(filters, facets),
      this.group("Status", "status", (this.run.statuses ?? []).map((name) => [name, words(name), facets.status?.[name]])),
      this.reasons(filters, facets),
      this.classes(filters, facets),
    ];
    const clear = build("button", { type: "button", className: "link clear", textContent: "Clear all filters", hidden: !num, dataset: { place: "clear" } });
    clear.addEventListener("click", clearFilters);
    const error = this.error ? build("p", { className: "filter-error" }, `No counts: ${printable(this.error)}`) : null;
    const { scrollTop } = this.element;
    this.element.replaceChildren(...[clear, error, ...groups].filter(Boolean));
    this.element.scrollTop = scrollTop;
    if (focused) [...this.element.querySelectorAll("[data-place]")].find((one) => one.dataset.place === focused)?.focus();
  }

  chip(name, value, label, num, { colour = null, sign = null, title = null } = {}) {
    const isOn = getState().filters[name] === String(value);
    const button = build("button", { type: "button", className: "chip", title, "aria-pressed": String(isOn), dataset: { place: `${name} ${value}` } });
    if (colour) {
      const swatch = build("span", { className: "swatch" });
      swatch.style.backgroundColor = css(colour);
      button.append(swatch);
    }
    if (sign) button.append(build("span", { className: "sign", "aria-hidden": "true" }, sign));
    button.append(foreign(label, "chip-name"));
    if (num !== undefined) button.append(build("span", { className: "figure chip-count" }, count(num)));
    button.classList.toggle("none", num === 0 && !isOn);
    button.addEventListener("click", () => setFilter(name, isOn ? null : String(value)));
    return button;
  }

  group(title, name, values, extra = null) {
    if (!values.length) return null;
    const chips = values.map(([value, label, num, sign]) => this.chip(name, value, label, num ?? (this.facets ? 0 : undefined), { sign }));
    return build("section", {}, build("h2", {}, title), build("div", { className: "chips" }, ...chips), extra);
  }

  flags(filters, facets) {
    const chips = FLAGS.map(([name, label, title]) => this.chip(name, 1, label, facets[name], { title }));
    return build("section", {}, build("h2", {}, "Tags and model"), build("div", { className: "chips" }, ...chips));
  }

  /** Reasons that occur: most runs have few of them. */
  reasons(filters, facets) {
    const occurring = Object.entries(facets.reason ?? {}).filter(([name, num]) => num || filters.reason === name);
    const missing = filters.reason && !occurring.some(([name]) => name === filters.reason) ? [[filters.reason, 0]] : [];
    return this.group("Why no mask", "reason", [...occurring, ...missing].map(([name, num]) => [name, words(name), num]));
  }

  classes(filters, facets) {
    const num = (one) => facets.class?.[one.id] ?? (this.facets ? 0 : undefined);
    const wanted = this.wanted.trim().toLocaleLowerCase();
    const all = [...this.run.classById.values()].sort((one, two) => (num(two) ?? 0) - (num(one) ?? 0) || one.id - two.id);
    const found = all.filter((one) => one.name.toLocaleLowerCase().includes(wanted));
    const shown = this.isLong || wanted ? found.slice(0, 500) : found.slice(0, MAX_CLASSES);
    const chosen = all.find((one) => String(one.id) === filters.class);
    if (chosen && !shown.includes(chosen)) shown.unshift(chosen);
    const chips = shown.map((one) => this.chip("class", one.id, one.name, num(one), { colour: one.colour }));
    const parts = [build("h2", {}, "Class")];
    if (all.length > MAX_CLASSES) {
      const search = build("input", { type: "search", placeholder: "Find a class", "aria-label": "Find a class", value: this.wanted, dataset: { place: "class search" } });
      search.addEventListener("input", () => {
        this.wanted = search.value;
        this.show();
      });
      parts.push(search);
    }
    parts.push(build("div", { className: "chips" }, ...chips));
    if (found.length > shown.length || this.isLong) {
      const more = build("button", { type: "button", className: "link", textContent: this.isLong ? "Fewer" : `All ${count(found.length)} classes`, dataset: { place: "class more" } });
      more.addEventListener("click", () => {
        this.isLong = !this.isLong;
        this.show();
      });
      parts.push(more);
    }
    return build("section", {}, ...parts);
  }
}
