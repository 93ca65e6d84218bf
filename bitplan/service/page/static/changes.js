// What one plan changes against another: the moves from scheme to scheme, and what each adds.

import { fill, h, table } from "./dom.js";
import { plural, signed, size } from "./format.js";
import { kinds } from "./kinds.js";

/** Layers whose scheme differs: [{layer, before, after}] from two maps by layer name. */
export function changedLayers(before, after) {
  const found = [];
  for (const [name, now] of after) {
    const was = before.get(name);
    if (was && was.scheme !== now.scheme) found.push({ layer: now.layer, before: was, after: now });
  }
  return found;
}

export function showChanges(element, changed, layers, against) {
  if (!changed.length) return fill(element, h("p", { class: "note" }, `Nothing: all layers are as in ${against}. Move the budget to see what it changes.`));
  const names = kinds(layers);
  const moves = new Map();
  for (const { layer, before, after } of changed) {
    const key = `${before.scheme} → ${after.scheme}`;
    const move = moves.get(key) ?? { bytes: 0, loss: 0, kinds: new Map() };
    move.bytes += after.bytes - before.bytes;
    move.loss += after.loss - before.loss;
    const kind = names.get(layer.name);
    move.kinds.set(kind, (move.kinds.get(kind) ?? 0) + 1);
    moves.set(key, move);
  }
  const rows = [...moves]
    .sort(([, a], [, b]) => Math.abs(b.loss) - Math.abs(a.loss))
    .map(([key, move]) => [
      h("span", { class: "mono" }, key),
      [...move.kinds].map(([kind, number]) => (number > 1 ? `${number}\u00a0× ${kind}` : kind)).join(", "),
      signed(move.bytes, size),
      signed(move.loss),
    ]);
  const caption = `${plural(changed.length, "layer")} against ${against}, by what they lose or win.`;
  return fill(element, table([["Scheme"], ["Layers"], ["Bytes", true], ["Predicted KL", true]], rows, { caption }));
}
