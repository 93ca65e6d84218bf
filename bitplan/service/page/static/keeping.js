// A plan of another budget: to take away, to keep on the server, to make a checkpoint of.

import { idempotencyKey, post } from "./api.js";
import { byId, fill, h } from "./dom.js";
import { download } from "./files.js";
import { size } from "./format.js";

export class Keeping {
  constructor() {
    this.offered = null;
    byId("take").addEventListener("click", () => this.take());
    byId("keep").addEventListener("click", () => this.keep());
    byId("make").addEventListener("click", () => this.make());
  }

  /** `found` is {plan, table, constraints, model}, or null where nothing differs from the job's plan. */
  offer(found) {
    this.offered = found;
    byId("changes-actions").hidden = !found;
    byId("make").hidden = !found?.model;
    fill(byId("kept"));
  }

  async take() {
    await this.during(byId("take"), async () => {
      const name = `plan-${size(this.offered.plan.budget_bytes).replace(" ", "")}.json`;
      // Its text as the server wrote it: numbers written anew would not fit the digest.
      const answer = await fetch(`/v1/plans/${await this.save()}`);
      if (!answer.ok) throw new Error("The plan could not be fetched. Try again.");
      download(name, await answer.text());
    });
  }

  async save() {
    const { plan, table, constraints } = this.offered;
    // Solved once more by the server: it keeps no plan that a browser made.
    const answer = await post("/v1/plans", { table, budget_gb: plan.budget_bytes / 1e9, constraints, save: true });
    return answer.digest;
  }

  async keep() {
    await this.during(byId("keep"), async () => {
      const digest = await this.save();
      fill(byId("kept"), "Kept as ", h("a", { href: `/v1/plans/${digest}`, download: "plan.json" }, digest.slice(0, 12)), ".");
      document.dispatchEvent(new CustomEvent("plans-changed"));
    });
  }

  async make() {
    await this.during(byId("make"), async () => {
      const digest = await this.save();
      const { model } = this.offered;
      const body = { parameters: { kind: "apply", model, plan: digest } };
      const job = await post("/v1/jobs", body, { headers: { "Idempotency-Key": idempotencyKey() } });
      location.assign(`/jobs/${job.id}`);
    });
  }

  async during(button, work) {
    button.disabled = true;
    try {
      await work();
    } catch (problem) {
      fill(byId("kept"), problem.message);
    } finally {
      button.disabled = false;
    }
  }
}
