// What a job made, to take away.

import { filePath } from "./api.js";
import { byId, fill, h } from "./dom.js";
import { plural, size } from "./format.js";

const TITLES = {
  "plan.json": "Plan",
  "costs.json": "Cost table",
  "report.html": "Report",
  "description.json": "Description",
};

export function showFiles(job) {
  const model = job.artefacts.filter((one) => one.name.startsWith("model/"));
  const single = job.artefacts.filter((one) => !one.name.startsWith("model/"));
  byId("files-section").hidden = !job.artefacts.length;
  const items = single
    .sort((a, b) => order(a) - order(b))
    .map((one) => item(filePath(job.id, one.name), one.name, TITLES[one.name] ?? one.name, size(one.bytes)));
  if (model.length) {
    const bytes = model.reduce((sum, one) => sum + one.bytes, 0);
    items.push(item(`/v1/jobs/${job.id}/model.tar`, "model.tar", "Checkpoint", `${size(bytes)}, ${plural(model.length, "file")}`));
  }
  fill(byId("files"), items);
}

const item = (href, name, title, note) =>
  h("li", {}, h("a", { href, download: name.split("/").pop() }, title), h("span", { class: "note" }, note));

function order(artefact) {
  const at = Object.keys(TITLES).indexOf(artefact.name);
  return at < 0 ? Infinity : at;
}

/** Hand a text over as a file of the browser. */
export function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const anchor = h("a", { href: url, download: name });
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
