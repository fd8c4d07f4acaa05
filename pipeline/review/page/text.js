// Foreign text made safe to show, and small helpers that build elements. No text becomes HTML anywhere in the page.

const CONTROLS = /[\u0000-\u001f\u007f]/gu;
const DIRECTION = /[\u200e\u200f\u202a-\u202e\u2066-\u2069\u061c]/gu;

/** Show control characters and marks of direction as symbols: they cannot move what stands beside them. */
export function printable(text) {
  return String(text ?? "")
    .replace(CONTROLS, (one) => (one === "\u007f" ? "␡" : String.fromCodePoint(0x2400 + one.codePointAt(0))))
    .replace(DIRECTION, (one) => `⟨U+${one.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
}

/** Build an element: properties, then children. A key with a dash or `role` is an attribute. */
export function build(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.includes("-") || name === "role" || name === "for") element.setAttribute(name, value);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Build an isolated span of foreign text; its full text is the title. */
export function foreign(text, className = "") {
  const shown = printable(text);
  return build("bdi", { className, title: shown, textContent: shown });
}

const whole = new Intl.NumberFormat("en");

export const count = (number) => whole.format(number ?? 0);

/** Format a share or a measure with digits that stay in place; a dash if there is none. */
export function measure(value, digits = 2) {
  return typeof value === "number" && Number.isFinite(value) ? value.toFixed(digits) : "–";
}

export const words = (name) => printable(name).replaceAll("_", " ");

export const css = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;

export const byId = (id) => document.getElementById(id);

let announcing = 0;

/** Tell readers of screens what happened. */
export function announce(text) {
  clearTimeout(announcing);
  announcing = setTimeout(() => (byId("announcer").textContent = text), 60);
}
