// Bits by block and kind of layer: a table whose cells can be pointed at and walked through by keys.

import { fill, h } from "./dom.js";
import { count, nats } from "./format.js";
import { kinds } from "./kinds.js";
import { STEPS, label, step, weights } from "./schemes.js";
import { Tip } from "./tip.js";

const TURNED = { ArrowRight: "ArrowDown", ArrowDown: "ArrowRight", ArrowLeft: "ArrowUp", ArrowUp: "ArrowLeft" };

export class HeatMap {
  constructor(element, legend) {
    this.element = element;
    this.cells = [];
    this.tip = new Tip();
    fill(legend, h("li", {}, "bits per weight"), STEPS.map((one) => h("li", { class: `step-${one}` }, String(one))));
    element.addEventListener("keydown", (event) => this.walk(event));
    element.addEventListener("focusin", (event) => this.enter(event.target));
    element.addEventListener("focusout", () => this.tip.hide());
    element.addEventListener("pointerover", (event) => this.point(event.target.closest("td")));
    element.addEventListener("pointerleave", () => this.tip.hide());
    addEventListener("scroll", () => this.tip.hide(), { passive: true, capture: true });
  }

  /** Lay out the cells for the layers of a plan; what they show comes with `show`. */
  build(layers) {
    const names = kinds(layers);
    const blocks = [...new Set(layers.map((layer) => layer.block))].filter((block) => block !== null).sort((a, b) => a - b);
    const members = new Map();
    for (const layer of layers) {
      const key = `${names.get(layer.name)}\n${layer.block}`;
      members.set(key, [...(members.get(key) ?? []), layer]);
    }
    this.cells = [];
    const rows = [...new Set(layers.filter((layer) => layer.block !== null).map((layer) => names.get(layer.name)))];
    const apart = [...new Set(layers.filter((layer) => layer.block === null).map((layer) => names.get(layer.name)))];
    const cell = (kind, block, y, x) => {
      const layersOf = members.get(`${kind}\n${block}`);
      if (!layersOf) return h("td", { role: "gridcell", "aria-label": "none" });
      const element = h("td", { role: "gridcell", tabindex: -1 });
      this.cells.push({ element, kind, block, layers: layersOf, y, x });
      return element;
    };
    const line = (kind, columns, y) =>
      h("tr", { role: "row" }, h("th", { scope: "row", role: "rowheader" }, kind), columns.map((block, x) => cell(kind, block, y, x)));
    const head = h("tr", { role: "row" }, h("td", {}), blocks.map((block) => h("th", { scope: "col", role: "columnheader" }, String(block))));
    const grid = (head, lines, name) =>
      h("table", { class: "heat", role: "grid", "aria-label": name }, head ? h("thead", {}, head) : null, h("tbody", {}, lines));
    fill(
      this.element,
      apart.length ? grid(null, apart.map((kind, y) => line(kind, [null], y - apart.length)), "Layers outside the blocks") : null,
      rows.length ? grid(head, rows.map((kind, y) => line(kind, blocks, y)), "Layers by kind and block") : null,
    );
    this.blocks = rows.length ? this.element.lastElementChild : null;
    this.blocks?.classList.add("blocks");
    this.blocks?.style.setProperty("--blocks", blocks.length);
    if (this.cells.length) this.cells[0].element.tabIndex = 0;
  }

  /** `choices` and `before` are maps of a plan's choices by layer name; `before` may be null. */
  show(choices, before) {
    for (const cell of this.cells) {
      const now = cell.layers.map((layer) => choices.get(layer.name));
      const was = before && cell.layers.map((layer) => before.get(layer.name));
      cell.now = now;
      cell.was = was;
      const bits = mean(now);
      const schemes = [...new Set(now.map((choice) => choice.scheme))];
      const changed = was ? now.some((choice, index) => choice.scheme !== was[index]?.scheme) : false;
      cell.element.className = `step-${step(bits)}${changed ? " changed" : ""}`;
      cell.element.textContent = label(schemes, bits);
      cell.element.setAttribute("aria-label", spoken(cell, changed));
    }
    this.tip.refresh();
  }

  at(element) {
    return this.cells.find((cell) => cell.element === element);
  }

  point(element) {
    const cell = element && this.at(element);
    if (cell) this.tip.show(element, () => details(cell));
    else this.tip.hide();
  }

  enter(element) {
    if (!this.at(element)) return;
    for (const cell of this.cells) cell.element.tabIndex = cell.element === element ? 0 : -1;
    this.point(element);
  }

  walk(event) {
    const here = this.at(document.activeElement);
    if (event.key === "Escape") this.tip.hide();
    if (!here || event.altKey || event.metaKey) return;
    const sameRow = this.cells.filter((cell) => cell.y === here.y);
    const column = (way) => {
      const others = this.cells.filter((cell) => (way > 0 ? cell.y > here.y : cell.y < here.y));
      const rows = others.map((cell) => cell.y);
      const row = way > 0 ? Math.min(...rows) : Math.max(...rows);
      return others.filter((cell) => cell.y === row).sort((a, b) => Math.abs(a.x - here.x) - Math.abs(b.x - here.x))[0];
    };
    const at = sameRow.indexOf(here);
    // On narrow screens the style sheet lays rows out as columns.
    const isTurned = this.blocks?.contains(here.element) && getComputedStyle(this.blocks).display === "grid";
    const target = {
      ArrowRight: () => sameRow[at + 1],
      ArrowLeft: () => sameRow[at - 1],
      ArrowDown: () => column(1),
      ArrowUp: () => column(-1),
      Home: () => (event.ctrlKey ? this.cells[0] : sameRow[0]),
      End: () => (event.ctrlKey ? this.cells.at(-1) : sameRow.at(-1)),
    }[(isTurned && TURNED[event.key]) || event.key]?.();
    if (!target) return;
    event.preventDefault();
    target.element.focus();
  }
}

const sum = (choices, field) => choices.reduce((total, choice) => total + choice[field], 0);

/** Bits per weight of several layers together. */
const mean = (choices) =>
  (8 * sum(choices, "bytes")) / choices.reduce((total, { layer }) => total + weights(layer), 0);

function schemeText(choices) {
  const counts = new Map();
  for (const { scheme } of choices) counts.set(scheme, (counts.get(scheme) ?? 0) + 1);
  if (counts.size === 1) return [...counts.keys()][0];
  return [...counts].map(([scheme, number]) => `${number} × ${scheme}`).join(", ");
}

function spoken({ kind, block, now, was }, changed) {
  const place = block === null ? kind : `block ${block}, ${kind}`;
  const before = changed ? `, was ${schemeText(was)}` : "";
  return `${place}: ${schemeText(now)}, ${mean(now).toFixed(2)} bits per weight, ${count(sum(now, "bytes"))} bytes, loss ${nats(sum(now, "loss"))}${before}`;
}

function details({ layers, now, was }) {
  const pairs = [
    ["scheme", schemeText(now)],
    ["bits per weight", mean(now).toFixed(2)],
    ["bytes", count(sum(now, "bytes"))],
    ["loss", `${nats(sum(now, "loss"))} nats per token`],
  ];
  if (was && schemeText(was) !== schemeText(now)) pairs.push(["was", `${schemeText(was)}, loss ${nats(sum(was, "loss"))}`]);
  return [
    h("p", { class: "mono" }, layers.length === 1 ? layers[0].name : `${layers.length} layers, ${layers[0].name} …`),
    h("dl", {}, pairs.flatMap(([term, value]) => [h("dt", {}, term), h("dd", {}, value)])),
  ];
}
