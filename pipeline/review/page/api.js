// The only access to the server: addresses, JSON in and out, errors in words.

const NAME_OF_TOKEN = "tagmask-review-token";
let token = takeToken();

/** Take the token out of the address: it is in no bookmark and no screenshot. */
function takeToken() {
  const query = new URLSearchParams(location.search);
  const given = query.get("token");
  try {
    if (given) sessionStorage.setItem(NAME_OF_TOKEN, given);
    if (given) history.replaceState(history.state, "", location.pathname + location.hash);
    return given ?? sessionStorage.getItem(NAME_OF_TOKEN);
  } catch {
    return given; // A browser that stores nothing: the token lives as long as the page.
  }
}

export class ApiError extends Error {
  constructor(text, status) {
    super(text);
    this.status = status;
  }

  /** Whether the same request may succeed later. */
  get isTransient() {
    return this.status === 0 || this.status === 408 || this.status === 429 || this.status >= 500;
  }
}

async function request(path, options = {}) {
  let reply;
  try {
    reply = await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("the server does not answer", 0);
  }
  if (reply.ok) return reply;
  let text = `the server answered ${reply.status}`;
  try {
    text = (await reply.json()).error || text;
  } catch {
    // The body is no JSON, as that of a proxy: the status says enough.
  }
  if (reply.status === 401 || reply.status === 403) {
    text += "; open the page again by the address that the command printed";
  }
  throw new ApiError(text, reply.status);
}

async function requestJson(path, options) {
  const reply = await request(path, options);
  try {
    return await reply.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("the reply of the server is incomplete", 0);
  }
}

const segment = (id) => encodeURIComponent(id);

/** Parameters of the filters that both rows and facets take. */
function filterQuery(filters) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(filters)) if (value) query.set(name, value);
  return query;
}

export async function getRun(signal) {
  const run = await requestJson("/api/run", { signal });
  token = run.token ?? token;
  return run;
}

export function getRows(filters, order, offset, limit, signal) {
  const query = filterQuery(filters);
  query.set("order", order);
  query.set("offset", offset);
  query.set("limit", limit);
  return requestJson(`/api/rows?${query}`, { signal });
}

export const getFacets = (filters, signal) => requestJson(`/api/facets?${filterQuery(filters)}`, { signal });
export const getRow = (id, signal) => requestJson(`/api/row/${segment(id)}`, { signal });

export const imageAddress = (id, size) => `/api/image/${segment(id)}${size ? `?size=${size}` : ""}`;
export const overlayAddress = (id) => `/api/mask/${segment(id)}?run=0&overlay=1&size=320`;
export const maskAddress = (id, run) => `/api/mask/${segment(id)}?run=${run}`;
export const truthAddress = (id) => `/api/truth/${segment(id)}`;
export const correctedAddress = (id) => `/api/corrected/${segment(id)}`;
export const mapsAddress = (id, classId) => `/api/maps/${segment(id)}?class=${classId}`;

export async function getBytes(address, signal) {
  const reply = await request(address, { signal });
  try {
    return new Uint8Array(await reply.arrayBuffer());
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("the reply of the server is incomplete", 0);
  }
}

/** Why an image cannot be shown: elements of images do not say it. */
export async function explainImage(address, signal) {
  try {
    await (await request(address, { signal })).body?.cancel();
    return "the browser cannot show this image";
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return error.message;
  }
}

const writeHeaders = () => ({ "Content-Type": "application/json", ...(token ? { "X-Tagmask-Token": token } : {}) });

export async function postDecision({ id, decision, classes, note }) {
  const body = JSON.stringify({ id, decision, classes: classes ?? [], note: note ?? "" });
  const stored = await requestJson("/api/decisions", { method: "POST", headers: writeHeaders(), body });
  return stored.decision && typeof stored.decision === "object" ? stored.decision : stored;
}

export async function deleteDecision(id) {
  try {
    await request(`/api/decisions/${segment(id)}`, { method: "DELETE", headers: writeHeaders() });
  } catch (error) {
    if (error.status !== 404) throw error; // No decision is there: what was wanted.
  }
}
