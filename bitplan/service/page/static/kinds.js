// Layers that do the same work in every block: q_proj, k_proj, ..., embedding. As in bitplan's report.

/** Kind by layer name: the last word of its path, or all of it where that alone is ambiguous. */
export function kinds(layers) {
  const paths = new Map(layers.map((layer) => [layer.name, path(layer)]));
  const homes = new Map();
  for (const words of paths.values()) {
    const last = words.at(-1);
    homes.set(last, (homes.get(last) ?? new Set()).add(words.join(".")));
  }
  const names = new Map();
  for (const [name, words] of paths)
    names.set(name, homes.get(words.at(-1)).size === 1 ? words.at(-1) : words.join("."));
  const embeddings = layers.filter((layer) => layer.kind === "embedding");
  if (embeddings.length === 1) names.set(embeddings[0].name, "embedding");
  return names;
}

function path(layer) {
  let words = layer.name.split(".");
  const at = layer.block === null ? -1 : words.indexOf(String(layer.block));
  if (at >= 0) words = words.slice(at + 1);
  const named = words.filter((word) => !/^\d+$/.test(word));
  return named.length ? named : [layer.name];
}

/** Text by which names sort as people count: block 2 before block 10. */
export const byName = new Intl.Collator("en", { numeric: true }).compare;
