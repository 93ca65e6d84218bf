// What another plan does otherwise.

import { call, post } from "./api.js";
import { byId, fill, h, table } from "./dom.js";
import { count, nats, plural, signed, size, when } from "./format.js";
import { jobName } from "./names.js";

const FIRST = 200;

export class Compare {
  constructor() {
    this.select = byId("compare-with");
    this.select.addEventListener("change", () => this.compare());
  }

  /** Offer the plans that the server has beside that of this job, those of the same model first. */
  async show(digest, job) {
    this.digest = digest;
    const [{ plans }, { jobs }] = await Promise.all([
      call("/v1/plans?limit=100"),
      call("/v1/jobs?limit=200&kind=allocate&kind=compress"),
    ]);
    const makers = new Map(jobs.map((one) => [one.id, one]));
    const others = plans.filter((other) => other.digest !== digest).map((other) => ({ ...other, maker: makers.get(other.job) }));
    const isSame = (other) => other.maker?.request.parameters.model === job.request.parameters.model;
    const groups = [
      ["Of the same model", others.filter(isSame)],
      ["Kept", others.filter((other) => !other.job)],
      ["Of other models", others.filter((other) => other.job && !isSame(other))],
    ].filter(([, found]) => found.length);
    byId("compare-section").hidden = false;
    this.select.disabled = !others.length;
    fill(
      this.select,
      h("option", { value: "" }, others.length ? "Choose a plan" : "No other plan yet"),
      groups.map(([label, found]) => h("optgroup", { label }, found.map((other) => h("option", { value: other.digest }, described(other))))),
    );
    fill(byId("compare"), others.length ? null : h("p", { class: "note" }, "Plans of other jobs, and those that you keep above, can be compared here."));
  }

  async compare() {
    const chosen = this.select.value;
    const place = byId("compare");
    if (!chosen) return fill(place);
    place.setAttribute("aria-busy", "true");
    try {
      const answer = await post("/v1/plans/diff", { a: this.digest, b: chosen });
      if (chosen === this.select.value) fill(place, difference(answer));
    } catch (problem) {
      if (chosen === this.select.value) fill(place, h("p", { class: "problem", role: "alert" }, problem.message));
    } finally {
      place.setAttribute("aria-busy", "false");
    }
  }
}

const described = (plan) =>
  [
    plan.maker && jobName(plan.maker),
    plan.maker && size(plan.maker.request.parameters.budget_gb * 1e9),
    when(plan.created_at),
    plan.digest.slice(0, 8),
  ]
    .filter(Boolean)
    .join(" · ");

function difference({ bytes, loss, changed }) {
  const summary = h(
    "p",
    {},
    changed.length ? `${plural(changed.length, "layer")} differ${changed.length === 1 ? "s" : ""}. ` : "No layer differs. ",
    `The other has ${size(bytes[1])} (${signed(bytes[1] - bytes[0], size)}) and a predicted KL of ${nats(loss[1])} (${signed(loss[1] - loss[0])}).`,
  );
  if (!changed.length) return [summary];
  const rows = changed
    .slice(0, FIRST)
    .map((one) => [h("code", {}, one.layer), one.a, one.b, signed(one.bytes_b - one.bytes_a, count), signed(one.loss_b - one.loss_a)]);
  const head = [["Layer"], ["This plan"], ["The other"], ["Bytes", true], ["Loss", true]];
  const view = h("div", { class: "scroll bounded", tabindex: 0, role: "group", "aria-label": "Layers that differ" }, table(head, rows));
  return [summary, view, changed.length > FIRST ? h("p", { class: "note" }, `The first ${FIRST} are shown.`) : null];
}
