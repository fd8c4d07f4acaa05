// The controls under the photo: what lies on it, how strongly, of which class.

import { build, css, foreign, printable } from "./text.js";

/** What the reviewer chose; it stays from image to image. */
export const choice = { left: "run0", right: "", only: null, opacity: 0.5, outline: true, isHidden: false };

export class Controls {
  /** `onChange()` when a choice changed; `stage` for zooming. */
  constructor(element, stage, onChange) {
    Object.assign(this, { element, stage, onChange });
    this.layers = this.select("Layer", "v", (value) => (choice.left = value));
    this.others = this.select("Compare with", "c", (value) => (choice.right = value));
    this.opacity = build("input", { type: "range", min: 0, max: 100, step: 5, id: "opacity" });
    this.opacity.addEventListener("input", () => this.set({ opacity: this.opacity.value / 100 }));
    this.outline = build("input", { type: "checkbox", id: "outline" });
    this.outline.addEventListener("change", () => this.set({ outline: this.outline.checked }));
    this.hide = this.button("Hide", "Hide what lies on the photo (h)", () => this.set({ isHidden: !choice.isHidden }));
    this.classes = build("div", { className: "classes", role: "group", "aria-label": "Classes that are shown" });
    const zoom = build("span", { className: "zoom", role: "group", "aria-label": "Zoom" },
      this.button("−", "Smaller (-)", () => stage.zoomBy(1 / 1.5)), this.button("+", "Larger (+)", () => stage.zoomBy(1.5)),
      this.button("Fit", "All of the image (z)", () => stage.fit()));
    element.append(
      build("div", { className: "control-row" }, this.layers.label, this.others.label,
        build("label", { className: "control" }, "Opacity ", this.opacity),
        build("label", { className: "control" }, this.outline, " Outline"), this.hide, zoom),
      this.classes);
    this.show();
  }

  button(text, title, act) {
    const button = build("button", { type: "button", textContent: text, title, "aria-label": title });
    button.addEventListener("click", act);
    return button;
  }

  select(name, key, take) {
    let byPointer = false;
    const select = build("select", { title: `${name} (${key})` });
    select.addEventListener("change", () => {
      take(select.value);
      this.set({});
      if (byPointer) this.stage.element.focus(); // Chosen with the mouse: the keys of the page work on.
      byPointer = false;
    });
    select.addEventListener("pointerdown", () => (byPointer = true));
    select.addEventListener("keydown", () => (byPointer = false));
    return { select, label: build("label", { className: "control" }, `${name} `, select) };
  }

  set(changes) {
    Object.assign(choice, changes);
    this.show();
    this.onChange();
  }

  /** Offer the layers and classes of a row: [{id, name}], [{id, name, colour}]. */
  offer(layers, classes) {
    this.offered = { layers, classes };
    const options = (list) => list.map((layer) => build("option", { value: layer.id, textContent: printable(layer.name).slice(0, 80) }));
    this.layers.select.replaceChildren(...options([...layers, { id: "", name: "Photo alone" }]));
    this.others.select.replaceChildren(...options([{ id: "", name: "Nothing" }, ...layers]));
    this.others.label.hidden = layers.length < 2;
    this.show();
  }

  show() {
    const { layers, classes } = this.offered ?? { layers: [], classes: [] };
    const has = (id) => layers.some((layer) => layer.id === id);
    this.layers.select.value = has(choice.left) ? choice.left : "";
    this.others.select.value = has(choice.right) ? choice.right : "";
    this.opacity.value = Math.round(100 * choice.opacity);
    this.outline.checked = choice.outline;
    this.hide.textContent = choice.isHidden ? "Show" : "Hide";
    this.hide.setAttribute("aria-pressed", String(choice.isHidden));
    const buttons = classes.map((one, place) => this.classButton(one, place));
    this.classes.hidden = !classes.length;
    // The focus stays on the button of the same class.
    const focused = [...this.classes.children].indexOf(document.activeElement);
    this.classes.replaceChildren(this.classButton(null, -1), ...buttons);
    if (focused >= 0) this.classes.children[Math.min(focused, buttons.length)].focus();
  }

  classButton(one, place) {
    const id = one?.id ?? null;
    const button = build("button", { type: "button", className: "chip", "aria-pressed": String(choice.only === id), title: one ? `${printable(one.name)}${place < 9 ? ` (${place + 1})` : ""}` : "All classes (0)" });
    if (one) {
      const swatch = build("span", { className: "swatch" });
      swatch.style.backgroundColor = css(one.colour);
      button.append(swatch, foreign(one.name));
    } else {
      button.append("All classes");
    }
    button.addEventListener("click", () => this.set({ only: id }));
    return button;
  }

  /** Go to the next layer; with `compared`, turn the comparison on and off. */
  cycle(compared) {
    const ids = this.offered.layers.map((layer) => layer.id);
    if (compared) return this.set({ right: ids.includes(choice.right) ? "" : (ids.find((id) => id !== choice.left) ?? "") });
    const all = [...ids, ""];
    return this.set({ left: all[(all.indexOf(choice.left) + 1) % all.length] });
  }

  /** Show the class of a number key; 0: all. */
  pick(number) {
    if (number === 0) this.set({ only: null });
    else if (this.offered.classes[number - 1]) this.set({ only: this.offered.classes[number - 1].id });
  }
}
