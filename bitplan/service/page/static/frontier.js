// Size against loss: the best plans, the uniform ones, what was measured, and the budget of the slider.

import { byId, fill, h, table } from "./dom.js";
import { count, nats, size } from "./format.js";
import { Plot, axisName, isSmall, tickText, ticks } from "./plot.js";

const HERE = 0; // index of the trace that moves

export class Frontier {
  /** `chosen(bytes)` is called when a point is clicked. */
  constructor({ chosen }) {
    this.plot = new Plot(byId("frontier"), {
      label: "Size against loss: a curve of the best plans below the points of the uniform plans. The table below has all numbers.",
      clicked: (point) => chosen(Math.floor(point.x * this.scale.factor)),
    });
  }

  /** `answer` as /v1/frontier gives it; `scale` is the slider's; evidence and budget are of the plan, if any. */
  async show({ answer, scale, evidence, budgetBytes, here }) {
    this.scale = scale;
    this.here = here;
    const groups = measured(answer, evidence);
    showMarks(groups, budgetBytes);
    showTable(answer, groups);
    await this.plot.show(({ color }) => this.drawn({ answer, groups, budgetBytes, color }));
  }

  /** The plan of the slider has changed. */
  moveTo(plan) {
    this.here = plan;
    if (!this.scale) return;
    const { x, y } = this.point();
    this.plot.move({ "shapes[0].x0": x[0], "shapes[0].x1": x[0] }, { x: [x], y: [y] }, HERE);
  }

  point() {
    if (!this.here) return { x: [], y: [] };
    return { x: [this.here.bytes / this.scale.factor], y: [positive(this.here.predicted_kl)] };
  }

  drawn({ answer, groups, budgetBytes, color }) {
    const { factor, unit, smallest, largest } = this.scale;
    const [low, high] = [smallest / factor, largest / factor];
    const hover = `%{text}%{x:.4g} ${unit}, %{y:.3g} nats<extra></extra>`;
    const trace = (points, value, text, style) => ({
      x: points.map((point) => point.bytes / factor),
      y: points.map((point) => positive(value(point))),
      text: points.map((point) => `${text(point)}<br>`),
      hovertemplate: hover,
      cliponaxis: false,
      ...style,
    });
    const errors = (points) => ({ type: "data", array: points.map((point) => point.standard_error ?? 0), thickness: 1.2, width: 3 });
    const marker = (symbol, size, fill, line = 0) => ({ mode: "markers", marker: { symbol, size, color: fill, line: { width: line, color: fill } } });
    const traces = [
      { ...this.point(), mode: "markers", marker: { symbol: "circle-open", size: 15, color: color("accent"), line: { width: 2 } }, hoverinfo: "skip", cliponaxis: false },
      trace(answer.points, (point) => point.loss, () => "best plan, predicted", { mode: "lines", line: { color: color("accent"), width: 2 } }),
      trace(answer.uniform, (point) => point.loss, (point) => `uniform ${point.scheme}, predicted`, marker("square-open", 8, color("edge"), 1.5)),
      trace(groups.others, (point) => point.kl, (point) => `${point.name}, measured`, { ...marker("square", 8, color("muted")), error_y: errors(groups.others) }),
      trace(groups.plan, (point) => point.kl, () => "this plan, measured", { ...marker("diamond", 11, color("accent")), error_y: errors(groups.plan) }),
    ];
    const x = ticks(low, high, isSmall() ? 5 : 10);
    const values = traces.flatMap((one) => one.y).filter((value) => value !== null);
    const y = ticks(Math.min(...values), Math.max(...values), 7);
    const at = this.point().x[0] ?? low;
    return {
      traces,
      layout: {
        xaxis: { type: "log", range: [Math.log10(low), Math.log10(high)], tickvals: x, ticktext: x.map(String), title: { text: `whole model, ${unit}`, standoff: 6 } },
        yaxis: { type: "log", tickvals: y, ticktext: y.map(tickText) },
        annotations: [axisName("KL, nats per token")],
        shapes: [
          line(at, color("accent"), "dot"),
          ...(budgetBytes ? [line(budgetBytes / factor, color("edge"), "dash")] : []),
        ],
      },
    };
  }
}

const line = (x, color, dash) => ({ type: "line", xref: "x", yref: "paper", x0: x, x1: x, y0: 0, y1: 1, layer: "below", line: { color, width: 1.2, dash } });

/** A logarithmic axis has no place for what loses nothing. */
const positive = (value) => (value > 0 ? value : null);

/** What was measured, this plan apart. The plan's own evidence says how sure it is. */
function measured(answer, evidence) {
  if (!evidence) return { plan: [], others: answer.measured ?? [] };
  const own = [evidence.plan, evidence.uniform, ...evidence.others].filter(Boolean);
  const known = new Set(own.map((one) => `${one.bytes} ${one.kl}`));
  const rest = (answer.measured ?? []).filter((one) => !known.has(`${one.bytes} ${one.kl}`));
  return { plan: [evidence.plan], others: [...own.slice(1), ...rest] };
}

function showMarks(groups, budgetBytes) {
  const marks = [["line", "best plans, predicted"], ["hollow", "uniform plans, predicted"]];
  if (groups.others.length) marks.push(["square", "other plans, measured"]);
  if (groups.plan.length) marks.push(["diamond", "this plan, measured"]);
  marks.push(["here", "the budget below"]);
  if (budgetBytes) marks.push(["asked", "the job’s budget"]);
  fill(byId("frontier-marks"), marks.map(([style, text]) => h("li", { class: style }, text)));
}

function showTable(answer, groups) {
  const rows = [
    ...groups.plan.map((one) => ["this plan", one.bytes, "", nats(one.kl, one.standard_error)]),
    ...groups.others.map((one) => [one.name, one.bytes, "", nats(one.kl, one.standard_error)]),
    ...answer.uniform.map((one) => [`uniform ${one.scheme}`, one.bytes, nats(one.loss), ""]),
    ...answer.points.map((one) => [`best, ${one.bits.toFixed(2)} bits per weight`, one.bytes, nats(one.loss), ""]),
  ].map(([name, bytes, ...rest]) => [name, h("span", { title: size(bytes) }, count(bytes)), ...rest]);
  fill(byId("frontier-table"), table([["Plan"], ["Bytes", true], ["Predicted KL", true], ["Measured KL", true]], rows));
}
