// Light, dark, or as the system: chosen by a button, kept by the browser.

import { byId } from "./text.js";

const NAME = "tagmask-review-theme";
const THEMES = [
  ["system", "◐", "Colours of the system"],
  ["light", "☀", "Light colours"],
  ["dark", "☾", "Dark colours"],
];

function stored() {
  try {
    return localStorage.getItem(NAME) ?? "system";
  } catch {
    return "system";
  }
}

function apply(name) {
  const [theme, sign, words] = THEMES.find((one) => one[0] === name) ?? THEMES[0];
  document.documentElement.dataset.theme = theme;
  byId("theme").textContent = sign;
  byId("theme").setAttribute("aria-label", words);
  byId("theme").title = words;
}

export function startTheme() {
  apply(stored());
  byId("theme").addEventListener("click", () => {
    const place = THEMES.findIndex((one) => one[0] === document.documentElement.dataset.theme);
    const next = THEMES[(place + 1) % THEMES.length][0];
    apply(next);
    try {
      localStorage.setItem(NAME, next);
    } catch {
      // A browser that stores nothing: the choice lives as long as the page.
    }
  });
}
