// Every layer of a plan as a table that sorts and filters.

import { byId, fill, h } from "./dom.js";
import { count, nats, plural, signed } from "./format.js";
import { byName, kinds } from "./kinds.js";
import { bitsPerWeight } from "./schemes.js";

const FIRST = 200; // rows that are shown before one asks for all

const COLUMNS = [
  { id: "name", title: "Layer", of: (row) => row.layer.name, order: byName },
  { id: "kind", title: "Kind", of: (row) => row.kind, order: byName, style: "wide-only" },
  { id: "block", title: "Block", of: (row) => row.layer.block ?? -1, number: true, style: "wide-only" },
  { id: "shape", title: "Shape", of: (row) => row.layer.shape.reduce((a, b) => a * b, 1), style: "wide-only" },
  { id: "scheme", title: "Scheme", of: (row) => row.now.scheme, order: byName },
  { id: "bits", title: "Bits/weight", of: (row) => bitsPerWeight(row.now.bytes, row.layer), number: true, style: "wide-only" },
  { id: "bytes", title: "Bytes", of: (row) => row.now.bytes, number: true },
  { id: "loss", title: "Loss", of: (row) => row.now.loss, number: true },
  { id: "change", title: "Change", of: (row) => (row.was ? row.now.loss - row.was.loss : 0), number: true, style: "wide-only" },
];

/** A path that breaks after its points where a line is too short for it. */
const breakable = (path) => path.split(".").flatMap((part, index) => (index ? [".", h("wbr"), part] : [part]));

export class Layers {
  constructor(element) {
    this.element = element;
    this.rows = [];
    this.sorting = { column: null, descending: false };
    this.all = false;
    this.search = byId("layer-filter");
    this.scheme = byId("layer-scheme");
    this.changed = byId("layer-changed");
    for (const field of [this.search, this.scheme, this.changed]) field.addEventListener("input", () => this.arrange());
  }

  build(layers) {
    const names = kinds(layers);
    this.rows = layers.map((layer) => {
      const cells = COLUMNS.map(({ id, number, style }) =>
        h(id === "name" ? "th" : "td", { scope: id === "name" ? "row" : null, class: [number && "number", style].filter(Boolean).join(" ") || null }),
      );
      const [name, kind, block, shape] = cells;
      name.append(h("code", {}, breakable(layer.name)));
      if (layer.tied?.length) name.append(h("span", { class: "note" }, ` shared with ${layer.tied.join(", ")}`));
      kind.textContent = names.get(layer.name);
      block.textContent = layer.block ?? "";
      shape.textContent = layer.shape.join(" × ");
      return { layer, kind: names.get(layer.name), cells, element: h("tr", {}, cells) };
    });
    const heads = COLUMNS.map((column) => {
      const button = h("button", { type: "button", class: "sort", onclick: () => this.sort(column) }, column.title);
      return h("th", { scope: "col", class: [column.number && "number", column.style].filter(Boolean).join(" ") || null }, button);
    });
    this.heads = heads;
    this.body = h("tbody");
    this.more = h("button", { type: "button", class: "quiet", hidden: true, onclick: () => this.showAll() });
    fill(this.element, h("table", {}, h("thead", {}, h("tr", {}, heads)), this.body), this.more);
  }

  show(choices, before) {
    for (const row of this.rows) {
      row.now = choices.get(row.layer.name);
      row.was = before?.get(row.layer.name) ?? null;
      row.isChanged = Boolean(row.was && row.was.scheme !== row.now.scheme);
      const [, , , , scheme, bits, bytes, loss, change] = row.cells;
      fill(scheme, row.isChanged ? h("span", { class: "was" }, row.was.scheme) : null, row.now.scheme);
      bits.textContent = bitsPerWeight(row.now.bytes, row.layer).toFixed(2);
      bytes.textContent = count(row.now.bytes);
      loss.textContent = nats(row.now.loss);
      change.textContent = row.isChanged ? signed(row.now.loss - row.was.loss) : "";
    }
    this.listSchemes();
    this.arrange();
  }

  listSchemes() {
    const names = [...new Set(this.rows.map((row) => row.now.scheme))].sort(byName);
    const text = names.join();
    if (this.listed === text) return;
    this.listed = text;
    const kept = names.includes(this.scheme.value) ? this.scheme.value : "";
    fill(this.scheme, h("option", { value: "" }, "All schemes"), names.map((name) => h("option", { value: name }, name)));
    this.scheme.value = kept;
  }

  sort(column) {
    const again = this.sorting.column === column;
    this.sorting = { column, descending: again ? !this.sorting.descending : Boolean(column.number) };
    this.arrange();
  }

  showAll() {
    this.all = true;
    this.arrange();
  }

  arrange() {
    const words = this.search.value.trim().toLowerCase();
    const found = this.rows.filter(
      (row) =>
        (!words || row.layer.name.toLowerCase().includes(words)) &&
        (!this.scheme.value || row.now.scheme === this.scheme.value) &&
        (!this.changed.checked || row.isChanged),
    );
    const { column, descending } = this.sorting;
    if (column) {
      const order = column.order ?? ((a, b) => a - b);
      found.sort((a, b) => (descending ? -1 : 1) * order(column.of(a), column.of(b)));
    }
    this.heads.forEach((head, index) => {
      if (COLUMNS[index] === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    const shown = this.all ? found : found.slice(0, FIRST);
    fill(this.body, shown.length ? shown.map((row) => row.element) : h("tr", {}, h("td", { colspan: COLUMNS.length, class: "same" }, "No layer is like that. Change the filters.")));
    this.more.hidden = shown.length === found.length;
    this.more.textContent = `Show all ${count(found.length)}`;
    byId("layer-count").textContent = found.length === this.rows.length ? plural(found.length, "layer") : `${count(found.length)} of ${plural(this.rows.length, "layer")}`;
  }
}
