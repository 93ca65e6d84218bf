// The model that is being typed, described by the server; answers that come late are dropped.

import { call } from "./api.js";

const PAUSE_MS = 350;

/** Call `told({description} | {problem} | {waiting} | {})` as the field's model becomes known. */
export function describeAsTyped(field, told) {
  let timer;
  let flight;
  let last = "";
  const ask = async () => {
    const model = field.value.trim();
    if (model === last) return;
    last = model;
    flight?.abort();
    if (!model) return told({});
    flight = new AbortController();
    told({ waiting: true });
    try {
      const query = new URLSearchParams({ model });
      const description = await call(`/v1/models/description?${query}`, { signal: flight.signal });
      if (model === last) told({ description });
    } catch (problem) {
      if (model === last && problem.name !== "AbortError") told({ problem });
    }
  };
  field.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(ask, PAUSE_MS);
  });
  field.addEventListener("change", () => {
    clearTimeout(timer);
    ask();
  });
  return ask;
}
