// The photo with what lies on it: zoom, pan, two layers with a divider between them.

import { build } from "./text.js";

const MAX_ZOOM = 32;

export class Stage {
  constructor(element) {
    this.element = element;
    this.photo = build("img", { className: "stage-photo", alt: "", draggable: false });
    this.left = build("canvas", { className: "layer" });
    this.right = build("canvas", { className: "layer", hidden: true });
    this.frame = build("div", { className: "frame" }, this.photo, this.left, this.right);
    this.divider = build("div", { className: "divider", role: "slider", tabIndex: 0, hidden: true, "aria-label": "Divider between the two layers", "aria-valuemin": 0, "aria-valuemax": 100 });
    this.names = [build("span", { className: "side-name left" }), build("span", { className: "side-name right" })];
    this.note = build("p", { className: "stage-note", hidden: true });
    this.again = build("button", { type: "button", className: "stage-again", textContent: "Try again", hidden: true });
    element.append(this.frame, this.divider, ...this.names, this.note, this.again);
    this.pointers = new Map();
    this.share = 0.5; // where the divider stands, of the width of the stage
    this.size = [4, 3];
    this.fit();
    this.listen();
    new ResizeObserver(() => this.place()).observe(element);
  }

  listen() {
    const { element, divider } = this;
    element.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY / 400), event.clientX, event.clientY);
    }, { passive: false });
    element.addEventListener("pointerdown", (event) => this.onDown(event));
    element.addEventListener("pointermove", (event) => this.onMove(event));
    for (const kind of ["pointerup", "pointercancel"]) element.addEventListener(kind, (event) => this.pointers.delete(event.pointerId));
    element.addEventListener("dblclick", (event) => this.toggleZoom(event.clientX, event.clientY));
    divider.addEventListener("pointerdown", (event) => {
      event.stopPropagation();
      divider.setPointerCapture(event.pointerId);
    });
    divider.addEventListener("pointermove", (event) => {
      if (!divider.hasPointerCapture(event.pointerId)) return;
      event.stopPropagation();
      const box = element.getBoundingClientRect();
      this.setShare((event.clientX - box.left) / box.width);
    });
    divider.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -0.05, ArrowRight: 0.05, Home: -1, End: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      this.setShare(this.share + step);
    });
  }

  onDown(event) {
    if (event.target.closest("button")) return;
    this.element.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
  }

  onMove(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const now = [event.clientX, event.clientY];
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
    this.pointers.set(event.pointerId, now);
    if (other) {
      const distance = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]) || 1;
      this.zoomBy(distance(now) / distance(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    } else {
      this.panBy(now[0] - before[0], now[1] - before[1]);
    }
  }

  /** Set the size of the upright image, in pixels. */
  setSize(width, height) {
    this.size = [width || 4, height || 3];
    this.place();
  }

  fit() {
    [this.zoom, this.x, this.y] = [1, 0, 0];
    this.place();
  }

  /** Pixels of the screen for a pixel of the image when all of it is visible. */
  get fitScale() {
    const { clientWidth, clientHeight } = this.element;
    return Math.min(clientWidth / this.size[0], clientHeight / this.size[1]) || 1;
  }

  toggleZoom(clientX, clientY) {
    if (this.zoom > 1.01) return this.fit();
    const box = this.element.getBoundingClientRect();
    const target = Math.max(2, 1 / this.fitScale);
    return this.zoomBy(target / this.zoom, clientX ?? box.left + box.width / 2, clientY ?? box.top + box.height / 2);
  }

  zoomBy(factor, clientX, clientY) {
    const box = this.element.getBoundingClientRect();
    const [fromX, fromY] = [
      (clientX ?? box.left + box.width / 2) - box.left - box.width / 2 - this.x,
      (clientY ?? box.top + box.height / 2) - box.top - box.height / 2 - this.y,
    ];
    const zoom = Math.min(MAX_ZOOM, Math.max(1, this.zoom * factor));
    const ratio = zoom / this.zoom;
    this.zoom = zoom;
    this.panBy(fromX * (1 - ratio), fromY * (1 - ratio));
  }

  panBy(x, y) {
    this.x += x;
    this.y += y;
    this.place();
  }

  setShare(share) {
    this.share = Math.min(1, Math.max(0, share));
    this.place();
  }

  /** Move everything to where it belongs; the image never leaves the stage. */
  place() {
    const { clientWidth, clientHeight } = this.element;
    const scale = this.fitScale * this.zoom;
    const [width, height] = [this.size[0] * scale, this.size[1] * scale];
    const slack = (length, room) => Math.max(0, (length - room) / 2);
    this.x = Math.min(slack(width, clientWidth), Math.max(-slack(width, clientWidth), this.x));
    this.y = Math.min(slack(height, clientHeight), Math.max(-slack(height, clientHeight), this.y));
    const left = (clientWidth - width) / 2 + this.x;
    Object.assign(this.frame.style, {
      width: `${width}px`,
      height: `${height}px`,
      transform: `translate(${left}px, ${(clientHeight - height) / 2 + this.y}px)`,
    });
    this.frame.classList.toggle("enlarged", scale > 2);
    this.divider.style.left = `${100 * this.share}%`;
    this.divider.setAttribute("aria-valuenow", Math.round(100 * this.share));
    const cut = Math.min(1, Math.max(0, (this.share * clientWidth - left) / (width || 1)));
    this.left.style.clipPath = this.isDivided ? `inset(0 ${100 * (1 - cut)}% 0 0)` : "none";
    this.right.style.clipPath = `inset(0 0 0 ${100 * cut}%)`;
  }

  /** Show two layers with a divider, or one. Names are those of the sides. */
  divide(isDivided, leftName = "", rightName = "") {
    this.isDivided = isDivided;
    this.divider.hidden = this.right.hidden = !isDivided;
    this.names[0].textContent = isDivided ? leftName : "";
    this.names[1].textContent = isDivided ? rightName : "";
    this.place();
  }

  setNote(text, canRetry = false) {
    this.note.hidden = !text;
    this.note.textContent = text;
    this.again.hidden = !canRetry;
  }
}
