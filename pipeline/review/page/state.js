// What is shown, kept in the hash of the address: links lead to it and the button "back" works.

export const FILTERS = ["class", "status", "reason", "doubtful", "suggested", "disagree", "decision", "search"];
export const ORDERS = ["quality", "-quality", "key"];

const listeners = new Set();
let isClosing = false;
let current = parse(location.hash);

function parse(hash) {
  const query = new URLSearchParams(hash.replace(/^#/, ""));
  const filters = {};
  for (const name of FILTERS) if (query.get(name)) filters[name] = query.get(name);
  const order = ORDERS.includes(query.get("order")) ? query.get("order") : "quality";
  const at = Number.parseInt(query.get("at") ?? "", 10);
  return { filters, order, row: query.get("row"), at: Number.isInteger(at) && at >= 0 ? at : null };
}

function write({ filters, order, row, at }) {
  const query = new URLSearchParams();
  for (const name of FILTERS) if (filters[name]) query.set(name, filters[name]);
  if (order !== "quality") query.set("order", order);
  if (row) query.set("row", row);
  if (row && at !== null) query.set("at", at);
  return `#${query}`;
}

export const getState = () => current;

/** Call `listener(state, before)` after each change. */
export const onState = (listener) => listeners.add(listener);

function change(next) {
  const before = current;
  current = next;
  for (const listener of listeners) listener(current, before);
}

/** Change some of the state. A new entry of the history, unless `replace`. */
export function setState(changes, { replace = false } = {}) {
  const next = { ...current, ...changes };
  const hash = write(next);
  if (hash === write(current)) return;
  // How deep the image was opened from the list: closing it goes back instead of adding an entry.
  const opened = Boolean(next.row) && (replace ? Boolean(history.state?.opened) : !current.row);
  history[replace ? "replaceState" : "pushState"]({ opened }, "", hash);
  change(next);
}

export function setFilter(name, value) {
  setState({ filters: { ...current.filters, [name]: value || undefined }, row: null, at: null });
}

export const clearFilters = () => setState({ filters: {}, row: null, at: null });

/** Leave the image: back to the entry of the list if there is one. */
export function closeRow() {
  if (!current.row || isClosing) return;
  isClosing = Boolean(history.state?.opened); // Going back takes a moment; a second step would leave the page.
  if (isClosing) history.back();
  else setState({ row: null, at: null }, { replace: true });
}

addEventListener("popstate", () => {
  isClosing = false;
  change(parse(location.hash));
});
