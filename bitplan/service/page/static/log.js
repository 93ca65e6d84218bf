// What happened to a job, line by line; progress is shown elsewhere.

import { byId, h } from "./dom.js";
import { size } from "./format.js";
import { STATES } from "./names.js";

const MOST = 500;

export function logEvent(event) {
  const text = line(event);
  if (!text) return;
  const list = byId("log");
  const clock = new Date(event.at).toLocaleTimeString("en-GB");
  list.append(h("li", {}, h("time", { datetime: event.at }, clock), h("span", {}, text)));
  if (list.children.length > MOST) list.firstChild.remove();
}

function line({ kind, data }) {
  if (kind === "state") return data.fault ? `${STATES[data.state]}: ${data.fault.message}` : STATES[data.state];
  if (kind === "artefact") return `Made ${data.name}, ${size(data.bytes)}, sha256 ${data.digest}`;
  if (kind === "remark") return `${data.stage}: ${data.text}`;
  if (kind === "log") return data.message;
  return "";
}
