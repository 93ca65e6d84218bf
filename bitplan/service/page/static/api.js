// Speaks to the HTTP API. What it refuses comes as a Problem, whose message says what to do.

export class Problem extends Error {
  constructor(status, body, requestId) {
    const wrong = (body.errors ?? []).map(({ where, message }) => `${where}: ${message}`);
    super([body.detail || body.title || `The server answers with ${status}.`, ...wrong].join("\n"));
    this.status = status;
    this.requestId = body.request_id ?? requestId;
  }
}

let isLeaving = false;

/** Send a request and read JSON. Without a token that holds, the page for signing in takes over. */
export async function call(path, { method = "GET", body, headers = {}, signal } = {}) {
  const sent = { method, headers: { Accept: "application/json", ...headers }, credentials: "same-origin", signal };
  if (body !== undefined) {
    sent.headers["Content-Type"] = "application/json";
    sent.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, sent);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { detail: "The server does not answer. It may be restarting; this page tries again." });
  }
  if (response.status === 401 && location.pathname !== "/login") {
    // Several requests may be told so: the first goes, and none breaks off its way.
    if (!isLeaving) location.replace(`/login?next=${encodeURIComponent(location.pathname)}`);
    isLeaving = true;
    return new Promise(() => {}); // the page is on its way out
  }
  if (response.ok) return response.status === 204 ? null : response.json();
  const text = await response.text();
  throw new Problem(response.status, parsed(text), response.headers.get("X-Request-ID"));
}

export const post = (path, body, more = {}) => call(path, { method: "POST", body, ...more });

/** The file of an artefact: paths inside of it stay paths. */
export const filePath = (job, name) =>
  `/v1/jobs/${job}/artefacts/${name.split("/").map(encodeURIComponent).join("/")}`;

/** A key that makes sending a request twice the same as sending it once. */
export function idempotencyKey() {
  // randomUUID is there on https and loopback alone.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function parsed(text) {
  try {
    const body = JSON.parse(text);
    return typeof body === "object" && body !== null ? body : {};
  } catch {
    return {};
  }
}
