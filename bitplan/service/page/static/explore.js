// A cost table under other budgets: slider, curve, heat map, layers and changes, kept together.

import { post } from "./api.js";
import { BudgetInput } from "./budget.js";
import { changedLayers, showChanges } from "./changes.js";
import { byId, fill, h } from "./dom.js";
import { count, nats, plural, signed, size } from "./format.js";
import { Frontier } from "./frontier.js";
import { HeatMap } from "./heatmap.js";
import { Keeping } from "./keeping.js";
import { Layers } from "./layers.js";
import { margins } from "./plot.js";
import { Resolver } from "./resolve.js";

const POINTS = 50;
const START_SHARE = 0.28; // of the largest plan, where no job says a budget: about 4.5 bits per weight

const byLayer = (plan) => new Map(plan.choices.map((choice) => [choice.layer.name, choice]));

export class Explore {
  constructor() {
    this.heatmap = new HeatMap(byId("heatmap"), byId("heat-legend"));
    this.layers = new Layers(byId("layers"));
    this.frontier = new Frontier({ chosen: (bytes) => this.budget.set(this.budget.scale.clamp(bytes)) });
    this.keeping = new Keeping();
    this.budget = new BudgetInput({
      range: byId("budget-range"),
      number: byId("budget"),
      unit: byId("budget-unit"),
      moved: (bytes) => this.resolver.ask(bytes),
    });
    byId("budget-reset").addEventListener("click", () => this.reset());
    const align = () => {
      const { l, r } = margins();
      // The thumb's middle is half a thumb inside the slider's ends.
      byId("budget-range").style.margin = `0 ${r - 8}px 0 ${l - 8}px`;
      byId("budget-range").style.width = `calc(100% - ${l + r - 16}px)`;
    };
    align();
    addEventListener("resize", align);
  }

  /** A job's plan, before or without its table. */
  showPlan(plan) {
    byId("explore").hidden = false;
    this.base = this.current = plan;
    this.baseChoices = byLayer(plan);
    this.heatmap.build(plan.choices.map((choice) => choice.layer));
    this.layers.build(plan.choices.map((choice) => choice.layer));
    this.update(plan);
  }

  /** No table: a plan is what it is. */
  withoutTable() {
    for (const id of ["frontier-section", "budget-bar", "changes-section"]) byId(id).hidden = true;
    byId("layer-changed-field").hidden = true;
  }

  /** Open a table by its digest; gives back what /v1/frontier says. */
  async open({ table, constraints, model }) {
    byId("explore").hidden = false;
    Object.assign(this, { table, constraints, model });
    this.resolver = new Resolver({
      table,
      constraints,
      waiting: () => byId("readout").classList.add("late"),
      solved: (answer, how) => this.solved(answer.plan, how),
      refused: (problem) => this.refused(problem),
    });
    const answer = await post("/v1/frontier", { table, points: POINTS, constraints });
    const sizes = answer.points.map((point) => point.bytes);
    const [smallest, largest] = [Math.min(...sizes), Math.max(...sizes)];
    this.budget.span(smallest, largest, this.base?.budget_bytes ?? START_SHARE * largest);
    byId("budget-reset").disabled = false;
    await this.drawFrontier(answer);
    if (this.base) this.settle(this.base);
    else this.resolver.ask(this.budget.value);
    return answer;
  }

  /** The job's plan came after its table. */
  redraw() {
    if (this.answer) this.drawFrontier(this.answer);
    if (this.budget.scale) this.reset();
  }

  async drawFrontier(answer) {
    this.answer = answer;
    try {
      await this.frontier.show({
        answer,
        scale: this.budget.scale,
        evidence: this.base?.evidence,
        budgetBytes: this.base?.budget_bytes,
        here: this.current,
      });
    } catch (error) {
      byId("frontier").setAttribute("aria-busy", "false");
      fill(byId("frontier"), h("p", { class: "note" }, error.message));
    }
  }

  reset() {
    if (!this.base) return;
    this.budget.set(this.budget.scale.clamp(this.base.budget_bytes), { quietly: true });
    this.resolver.drop();
    this.settle(this.base);
  }

  settle(plan) {
    this.update(plan);
    fill(byId("readout"), this.figures(plan), h("span", { class: "late" }, "as the job solved it"));
  }

  solved(plan, { ms, isFinal }) {
    if (!this.base) {
      // The first plan of a table is what the others are told against.
      if (!isFinal) return;
      this.showPlan(plan);
    }
    this.update(plan);
    const how = isFinal && plan.gap === 0 ? "proven optimal" : `within ${(100 * plan.gap).toFixed(2)} % of the optimum`;
    const time = h("span", { class: "late", id: "solve-time", "data-ms": ms.toFixed(1) }, `${how}, ${Math.round(ms)} ms`);
    fill(byId("readout"), this.figures(plan), time);
  }

  refused(problem) {
    byId("readout").classList.remove("late");
    fill(byId("readout"), h("span", { class: "refused" }, problem.message));
  }

  update(plan) {
    this.current = plan;
    const choices = byLayer(plan);
    const changed = changedLayers(this.baseChoices, choices);
    byId("readout").classList.remove("late");
    this.changed = changed.length;
    this.heatmap.show(choices, plan === this.base ? null : this.baseChoices);
    this.layers.show(choices, plan === this.base ? null : this.baseChoices);
    showChanges(byId("changes"), changed, plan.choices.map((choice) => choice.layer), this.against());
    this.frontier.moveTo(plan);
    this.keeping.offer(changed.length ? { plan, table: this.table, constraints: this.constraints, model: this.model } : null);
  }

  against() {
    return `the plan of ${size(this.base.budget_bytes)}`;
  }

  figures(plan) {
    const loss = plan.predicted_kl - this.base.predicted_kl;
    const changed = plural(this.changed, "layer");
    return [
      h("span", {}, h("b", {}, size(plan.bytes)), ` ${count(plan.bytes)} bytes`),
      h("span", {}, "predicted KL ", h("b", {}, nats(plan.predicted_kl)), this.changed ? ` (${signed(loss)})` : ""),
      h("span", {}, this.changed ? `${changed} change` + (this.changed === 1 ? "s" : "") : "no layer changes"),
    ];
  }
}
