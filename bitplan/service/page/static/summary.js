// What a plan comes to: its figures and, in a sentence, how it does beside uniform.

import { byId, figures, fill, tell } from "./dom.js";
import { count, nats, parameters, percent, plural, size } from "./format.js";

export function showPlan(plan) {
  const { evidence } = plan;
  const entries = [
    ["Budget", size(plan.budget_bytes), `${count(plan.budget_bytes)} bytes`],
    ["Used", size(plan.bytes), `${percent(plan.bytes / plan.budget_bytes)} of the budget`],
    ["Predicted KL", nats(plan.predicted_kl), "nats per token"],
  ];
  if (evidence) {
    entries.push(["Measured KL", nats(evidence.plan.kl), `± ${nats(evidence.plan.standard_error)} nats per token`, "ours"]);
    if (evidence.uniform)
      entries.push([schemeOf(evidence.uniform.name), nats(evidence.uniform.kl), `± ${nats(evidence.uniform.standard_error)}, ${size(evidence.uniform.bytes)}`]);
    if (evidence.plan.perplexity)
      entries.push(["Perplexity", evidence.plan.perplexity.toFixed(2), perplexities(evidence)]);
  }
  show(entries, verdict(plan));
}

/** What a description says of a model. */
export function showDescription(found) {
  const kinds = new Map();
  for (const { layer } of found.layers) kinds.set(layer.kind, (kinds.get(layer.kind) ?? 0) + 1);
  const blocks = new Set(found.layers.map(({ layer }) => layer.block).filter((block) => block !== null));
  show(
    [
      ["Size", size(found.bytes), `${count(found.bytes)} bytes, ${found.dtype}`],
      ["Layers", count(found.layers.length), blocks.size ? `in ${plural(blocks.size, "block")}` : ""],
      ["Smallest plan", size(found.smallest_bytes), `${count(found.smallest_bytes)} bytes`],
      ["Largest plan", size(found.largest_bytes), `${count(found.largest_bytes)} bytes`],
    ],
    `${found.architecture}: ${parameters(found.parameters)}. Layers: ` +
      `${[...kinds].map(([kind, number]) => `${count(number)} ${kind}`).join(", ")}.`,
  );
}

function show(entries, sentence) {
  fill(byId("figures"), figures(entries));
  byId("figures").hidden = false;
  tell(byId("verdict"), sentence);
}

const schemeOf = (name) => name.replace(/^uniform/, "Uniform");

const perplexities = ({ reference_perplexity: reference, uniform }) =>
  [reference && `reference ${reference.toFixed(2)}`, uniform?.perplexity && `uniform ${uniform.perplexity.toFixed(2)}`]
    .filter(Boolean)
    .join(", ");

function verdict({ evidence }) {
  if (!evidence) return "This plan was not measured on the real model: its KL is a prediction.";
  const tokens = `on ${count(evidence.tokens)} tokens that neither calibration nor search has seen`;
  const { plan, uniform } = evidence;
  if (!uniform) return `No uniform plan fits this budget. The plan was measured ${tokens}.`;
  if (uniform.kl <= 0) return `Measured ${tokens}.`;
  const change = (uniform.kl - plan.kl) / uniform.kl;
  if (change <= 0) return `No plan beat ${uniform.name}, the best uniform plan that fits, ${tokens}.`;
  return `${percent(change)} less KL than ${uniform.name}, the best uniform plan that fits, ${tokens}.`;
}
