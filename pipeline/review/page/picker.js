// The choice of classes for "wrong tag" and "missing tag": by typing, by number, by arrow keys.

import { build, byId, css, foreign } from "./text.js";

const MAX_SHOWN = 60;

/**
 * Ask for classes; resolves to their names, or null if the reviewer goes back.
 * `classes`: [{name, colour, hint}] in the order to offer.
 */
export function pickClasses(title, classes, noneText) {
  const dialog = byId("picker");
  return new Promise((resolve) => {
    const chosen = new Set(classes.length === 1 ? [classes[0].name] : []);
    const search = build("input", { type: "search", id: "picker-search", placeholder: "Type to find a class", "aria-label": "Find a class", autocomplete: "off", spellcheck: false });
    const list = build("div", { className: "picker-list", role: "group", "aria-label": "Classes" });
    const more = build("p", { className: "picker-more" });
    const done = build("button", { type: "submit", className: "primary" });
    const back = build("button", { type: "button", textContent: "Back (Esc)" });
    const form = build("form", {}, build("h2", { id: "picker-title" }, title), search, list, more, build("div", { className: "picker-foot" }, back, done));
    let isDone = false;
    const finish = (answer) => {
      if (isDone) return;
      isDone = true;
      if (dialog.open) dialog.close();
      resolve(answer);
    };

    const show = () => {
      const wanted = search.value.trim().toLocaleLowerCase();
      const found = classes.filter((one) => one.name.toLocaleLowerCase().includes(wanted));
      list.replaceChildren(...found.slice(0, MAX_SHOWN).map((one) => option(one)));
      const hidden = found.length - MAX_SHOWN;
      more.textContent = found.length ? (hidden > 0 ? `${hidden} more: type to find them` : "") : "No class has this name";
      done.textContent = chosen.size ? `Save (${chosen.size})` : noneText;
      return found;
    };
    const option = (one) => {
      const box = build("input", { type: "checkbox", checked: chosen.has(one.name) });
      box.addEventListener("change", () => {
        chosen[box.checked ? "add" : "delete"](one.name);
        done.textContent = chosen.size ? `Save (${chosen.size})` : noneText;
      });
      const swatch = build("span", { className: "swatch" });
      if (one.colour) swatch.style.backgroundColor = css(one.colour);
      return build("label", { className: "option" }, box, swatch, foreign(one.name), one.hint ? build("em", {}, one.hint) : null);
    };
    search.addEventListener("input", show);
    form.addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown" || event.key === "ArrowUp") {
        event.preventDefault();
        const stops = [search, ...list.querySelectorAll("input")];
        const place = stops.indexOf(document.activeElement) + (event.key === "ArrowDown" ? 1 : -1);
        stops[Math.max(0, Math.min(stops.length - 1, place))].focus();
      }
      if (event.key === "Enter" && event.target === search) {
        // Enter on a search takes its first class; on an empty one it saves.
        const found = show();
        if (search.value.trim()) {
          event.preventDefault();
          if (found.length) chosen.add(found[0].name);
          search.value = "";
          show();
        }
      } else if (event.key === "Enter" && event.target.type === "checkbox") {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      finish(classes.map((one) => one.name).filter((name) => chosen.has(name)));
    });
    back.addEventListener("click", () => finish(null));
    dialog.oncancel = (event) => {
      event.preventDefault();
      finish(null);
    };
    // The event of closing comes later: the next question may be open by then.
    dialog.onclose = () => !dialog.open && finish(null);
    dialog.replaceChildren(form);
    show();
    dialog.showModal();
    search.focus();
  });
}

/** The classes to offer for a decision about a row: its own for a wrong tag, the others for a missing one. */
export function classesFor(decision, row, run) {
  const suggested = new Set(row.suggested_class_ids ?? []);
  const doubtful = new Set(row.doubtful_class_ids ?? []);
  const tags = new Set(row.tags ?? []);
  if (decision === "wrong_tag") {
    const byName = new Map(run.classes.map((one) => [one.name, one]));
    const own = [...tags].map((name) => byName.get(name) ?? { name });
    const offered = own.map((one) => ({ ...one, hint: doubtful.has(one.id) ? "doubtful" : "" }));
    return offered.sort((one, two) => Number(Boolean(two.hint)) - Number(Boolean(one.hint)));
  }
  const others = run.classes.filter((one) => !tags.has(one.name) && run.classById.has(one.id));
  const offered = others.map((one) => ({ ...one, hint: suggested.has(one.id) ? "the model sees it" : "" }));
  return offered.sort((one, two) => Number(Boolean(two.hint)) - Number(Boolean(one.hint)));
}
