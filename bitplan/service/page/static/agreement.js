// What the cost table predicted against what the real model lost.

import { byId, fill, h, table } from "./dom.js";
import { count, nats, size } from "./format.js";
import { Plot, axisName, tickText, ticks } from "./plot.js";

export class Agreement {
  constructor() {
    this.plot = new Plot(byId("agreement"), {
      label: "Predicted against measured KL; points on the diagonal agree. The table beside has all numbers.",
    });
  }

  /** `uniform` as /v1/frontier gives it, or nothing. Hidden where nothing was measured. */
  show(plan, uniform = []) {
    byId("agreement-section").hidden = !plan?.evidence;
    if (!plan?.evidence) return;
    const { evidence } = plan;
    const predictions = new Map(uniform.map((one) => [`uniform ${one.scheme.replace(/^uniform /, "")}`, one.loss]));
    const rows = [
      { ...evidence.plan, ours: true, name: "this plan", predicted: plan.predicted_kl },
      ...[evidence.uniform, ...evidence.others].filter(Boolean).map((one) => ({ ...one, predicted: predictions.get(one.name) ?? null })),
    ];
    byId("agreement-note").textContent = `On ${count(evidence.tokens)} held-out tokens, with one standard error. Losses of layers do not add up exactly: what counts is the measured one.`;
    const head = [["Plan"], ["Bytes", true, "wide-only"], ["Predicted KL", true], ["Measured KL", true], ["Perplexity", true]];
    const cells = rows.map((row) => [named(row), count(row.bytes), nats(row.predicted), nats(row.kl, row.standard_error), row.perplexity?.toFixed(2) ?? "–"]);
    cells.push(["reference", "", "", "0", evidence.reference_perplexity?.toFixed(2) ?? "–"]);
    fill(byId("agreement-table"), table(head, cells, { style: (row) => (row ? null : "ours") }));
    const points = rows.filter((row) => row.predicted > 0 && row.kl > 0);
    byId("agreement").hidden = !points.length;
    if (points.length) this.plot.show(({ color }) => drawn(points, color)).catch(() => (byId("agreement").hidden = true));
  }
}

/** On a phone the size stands below the name, in place of a column of its own. */
const named = ({ name, bytes }) => [name, h("small", { class: "note narrow-only" }, size(bytes))];

function drawn(points, color) {
  const values = points.flatMap((point) => [point.predicted, point.kl]);
  const [low, high] = [Math.min(...values) / 1.6, Math.max(...values) * 1.6];
  const marks = ticks(low, high, 5);
  const axis = { type: "log", range: [Math.log10(low), Math.log10(high)], tickvals: marks, ticktext: marks.map(tickText) };
  const one = (wanted, fill, symbol) => {
    const some = points.filter((point) => Boolean(point.ours) === wanted);
    return {
      x: some.map((point) => point.predicted),
      y: some.map((point) => point.kl),
      text: some.map((point) => point.name),
      hovertemplate: "%{text}<br>predicted %{x:.3g}, measured %{y:.3g}<extra></extra>",
      mode: "markers",
      marker: { color: fill, symbol, size: wanted ? 11 : 8 },
      error_y: { type: "data", array: some.map((point) => point.standard_error), thickness: 1.2, width: 3 },
    };
  };
  return {
    traces: [
      { x: [low, high], y: [low, high], mode: "lines", line: { color: color("edge"), width: 1.2, dash: "dot" }, hoverinfo: "skip" },
      one(false, color("muted"), "square"),
      one(true, color("accent"), "diamond"),
    ],
    layout: {
      xaxis: { ...axis, title: { text: "predicted KL, nats per token", standoff: 6 } },
      yaxis: axis,
      annotations: [axisName("measured KL, nats per token")],
    },
  };
}
