// Images of tiles: a few at a time, so that decisions never wait behind slow photos; cancelled when scrolled past.

const MAX_LOADING = 4; // Browsers open six connections to a server of HTTP/1.1: two stay free.

const waiting = new Map(); // image element -> {address, done}
const loading = new Map();

/** Load an address into an image element; `done(ok)` is called at the end, not if it is cancelled. */
export function loadImage(element, address, done) {
  cancelImage(element);
  waiting.set(element, { address, done });
  startNext();
}

/** Stop loading an element's image, and forget what it shows. */
export function cancelImage(element) {
  waiting.delete(element);
  element.onload = element.onerror = null;
  element.removeAttribute("src");
  if (loading.delete(element)) startNext();
}

function startNext() {
  for (const [element, job] of waiting) {
    if (loading.size >= MAX_LOADING) return;
    waiting.delete(element);
    loading.set(element, job);
    element.onload = () => finish(element, job, true);
    element.onerror = () => finish(element, job, false);
    element.src = job.address;
  }
}

function finish(element, job, ok) {
  element.onload = element.onerror = null;
  loading.delete(element);
  startNext();
  job.done(ok);
}
