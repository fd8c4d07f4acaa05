// Keys of the page, and the list of them.

import { choice } from "./controls.js";
import { build, byId } from "./text.js";
import { decisionOfKey, SIGNS } from "./verdicts.js";

const HELP = [
  ["Everywhere", [
    ...Object.values(SIGNS).map(({ key, word, hint }) => [key, `${word}: ${hint.toLowerCase()}`]),
    ["u", "Undo: take back the last decision"],
    ["j k", "Next, previous image"],
    ["?", "This list"],
  ]],
  ["In the list", [
    ["← → ↑ ↓", "Move"], ["PageUp PageDown", "Move by a screen"], ["Home End", "First, last image"],
    ["Enter", "Open the image"], ["/", "Search by key"], ["f", "Filters"],
  ]],
  ["In an image", [
    ["← →", "Previous, next image"], ["Esc", "Back to the list"], ["v", "Next layer: mask, class map, true mask"],
    ["c", "Compare two layers"], [", .", "Move the divider"], ["0 1…9", "All classes, one class"],
    ["h", "Hide what lies on the photo"], ["o", "Outline"], ["[ ]", "Opacity"], ["+ − z", "Zoom in, out, all or close"],
    ["Shift ← → ↑ ↓", "Move the enlarged image"], ["n", "Note for the decision"],
  ]],
];

export function openHelp() {
  const dialog = byId("help");
  const close = build("button", { type: "button", className: "icon", "aria-label": "Close", textContent: "✕" });
  close.addEventListener("click", () => dialog.close());
  const parts = HELP.map(([title, rows]) =>
    build("section", {}, build("h3", {}, title), build("dl", { className: "keys" },
      ...rows.map(([keys, words]) => build("div", {}, build("dt", {}, ...keys.split(" ").map((key) => build("kbd", {}, key))), build("dd", {}, words))))));
  dialog.replaceChildren(build("div", { className: "help-head" }, build("h2", { id: "help-title" }, "Keys"), close), build("div", { className: "help-body" }, ...parts));
  if (!dialog.open) dialog.showModal();
}

const isTyping = (element) =>
  element instanceof HTMLElement && (element.isContentEditable || element.matches("textarea, select, input:not([type=checkbox], [type=range])"));

/** Keys that belong to the element that has the focus: a slider moves, a button acts. */
const isTaken = (event) => event.target.matches?.("input[type=range]") && /^(Arrow|Home|End|Page)/.test(event.key);

function viewerKeys(page) {
  const { viewer, step } = page;
  const { stage, controls } = viewer;
  const pan = (x, y) => (event) => (event.shiftKey ? stage.panBy(x, y) : undefined);
  return {
    ArrowLeft: (event) => (event.shiftKey ? pan(60, 0)(event) : step(-1)),
    ArrowRight: (event) => (event.shiftKey ? pan(-60, 0)(event) : step(1)),
    ArrowUp: pan(0, 60), ArrowDown: pan(0, -60),
    j: () => step(1), k: () => step(-1),
    v: () => controls.cycle(false), c: () => controls.cycle(true),
    ",": () => stage.setShare(stage.share - 0.05), ".": () => stage.setShare(stage.share + 0.05),
    h: () => controls.set({ isHidden: !choice.isHidden }), o: () => controls.set({ outline: !choice.outline }),
    "[": () => controls.set({ opacity: Math.max(0, choice.opacity - 0.1) }),
    "]": () => controls.set({ opacity: Math.min(1, choice.opacity + 0.1) }),
    "+": () => stage.zoomBy(1.5), "=": () => stage.zoomBy(1.5), "-": () => stage.zoomBy(1 / 1.5), z: () => stage.toggleZoom(),
    n: () => byId("note").focus(),
  };
}

function gridKeys(page) {
  const { grid } = page;
  return {
    ArrowLeft: () => grid.move(-1), ArrowRight: () => grid.move(1),
    ArrowUp: () => grid.move(-grid.columns), ArrowDown: () => grid.move(grid.columns),
    j: () => grid.move(1), k: () => grid.move(-1),
    PageUp: () => grid.move(-grid.pageRows), PageDown: () => grid.move(grid.pageRows),
    Home: () => grid.select(0), End: () => grid.select(Infinity),
    Enter: () => page.open(grid.current),
    "/": () => byId("search").focus(), f: () => page.openFilters(),
  };
}

/** Listen to keys. `page`: {viewer, grid, step, act, openFilters}. */
export function startKeys(page) {
  const [ofViewer, ofGrid] = [viewerKeys(page), gridKeys(page)];
  byId("help-open").addEventListener("click", openHelp);
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || event.isComposing) return;
    if (isTyping(event.target)) {
      if (event.key === "Escape" && event.target.id === "search") page.grid.select(page.grid.current);
      return;
    }
    if (event.key === "Enter" && event.target.closest("button, a, dialog")) return; // It acts by itself.
    if (isTaken(event) || byId("picker").open || byId("help").open) return;
    const act = (page.viewer.isOpen ? ofViewer : ofGrid)[event.key] ?? everywhere(page, event);
    if (!act) return;
    event.preventDefault();
    act(event);
  });
}

function everywhere(page, event) {
  if (event.key === "?") return openHelp;
  if (event.repeat) return null; // A key that is held down decides once.
  if (event.key === "u") return () => page.act("undo");
  const decision = decisionOfKey(event.key);
  if (decision) return () => page.act(decision);
  if (page.viewer.isOpen && /^[0-9]$/.test(event.key)) return () => page.viewer.controls.pick(Number(event.key));
  return null;
}
