// The form for a new job.

import { call, idempotencyKey, post } from "./api.js";
import { BudgetInput } from "./budget.js";
import { describeAsTyped } from "./description.js";
import { byId, fill, h, tell } from "./dom.js";
import { parameters, plural, size } from "./format.js";
import { KIND_NOTES } from "./names.js";

const STANDARD_SHARE = 0.28; // of the model in 16 bits: about 4.5 bits per weight

export function submitForm() {
  const form = byId("submit");
  const facts = byId("model-facts");
  const empty = facts.textContent;
  const budget = new BudgetInput({ range: byId("budget-range"), number: byId("budget"), unit: byId("budget-unit") });

  describeAsTyped(form.elements.model, ({ description, problem, waiting }) => {
    form.elements.model.toggleAttribute("aria-invalid", false);
    if (waiting) facts.textContent = "Reading its layers …";
    else if (description) {
      facts.textContent = described(description);
      budget.span(description.smallest_bytes, description.largest_bytes, STANDARD_SHARE * description.bytes);
      byId("budget-facts").textContent =
        `Plans range from ${size(description.smallest_bytes)} to ${size(description.largest_bytes)}.`;
    } else {
      if (problem) form.elements.model.setAttribute("aria-invalid", "true");
      facts.textContent = problem ? problem.message : empty;
      budget.forget();
      byId("budget-facts").textContent = "Its range is filled in once the model is described.";
    }
  });
  form.elements.kind.addEventListener("change", () => showFields(form));
  showFields(form);
  fillModels();
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send(form, budget);
  });
}

const described = (found) =>
  `${parameters(found.parameters)}, ${size(found.bytes)}, ${plural(found.layers, "layer")}` +
  (found.blocks ? ` in ${plural(found.blocks, "block")}.` : ".");

function showFields(form) {
  const kind = form.elements.kind.value;
  byId("kind-note").textContent = KIND_NOTES[kind];
  const plans = kind === "allocate" || kind === "compress";
  for (const id of ["budget-field", "runtime-field", "fuse-field", "verify-field"]) byId(id).hidden = !plans;
  byId("effort-field").hidden = kind === "describe";
  for (const name of ["tune-field", "block-field"]) byId(name).hidden = kind !== "compress";
}

async function fillModels() {
  const { models, organisations, demo } = await call("/v1/models");
  if (demo) models.unshift({ name: "the demo’s model", path: "demo" });
  fill(byId("models"), models.map((model) => h("option", { value: model.path }, model.bytes ? `${model.name}, ${size(model.bytes)}` : model.name)));
  const field = byId("model");
  if (models.length) field.placeholder = models[0].path;
  else if (organisations.length) field.placeholder = `${organisations[0]}/...`;
}

/** What the fields say, as a JobRequest; empty fields are left to the server. */
export function request(form, budgetBytes) {
  const fields = form.elements; // `fields.length` is how many there are: named ones by namedItem
  const kind = fields.kind.value;
  const sent = { kind, model: fields.model.value.trim() };
  if (kind !== "describe") {
    for (const name of ["sequences", "length", "seed"]) put(sent, name, number(fields.namedItem(name)));
    put(sent, "calibration", fields.calibration.value.trim());
    sent.effort = fields.effort.value;
  }
  if (kind === "allocate" || kind === "compress") {
    sent.budget_gb = budgetBytes / 1e9;
    sent.verify = fields.verify.checked;
    const constraints = {};
    put(constraints, "runtime", fields.runtime.value.trim());
    if (fields.fuse.checked) constraints.fuse = true;
    if (Object.keys(constraints).length) sent.constraints = constraints;
  }
  if (kind === "compress") for (const name of ["tune_epochs", "block_epochs"]) put(sent, name, number(fields.namedItem(name)));
  const limits = {};
  for (const name of ["time_s", "memory_gb"]) put(limits, name, number(fields.namedItem(name)));
  return { parameters: sent, limits, label: fields.label.value.trim(), priority: number(fields.priority) ?? 0 };
}

const number = (field) => (Number.isFinite(field.valueAsNumber) ? field.valueAsNumber : undefined);

function put(target, name, value) {
  if (value !== undefined && value !== "") target[name] = value;
}

let sending = { text: "", key: "" };

async function send(form, budget) {
  const wrong = missing(form, budget);
  if (wrong) {
    refuse(wrong.message);
    wrong.field.focus();
    return;
  }
  const body = request(form, budget.value);
  const text = JSON.stringify(body);
  // Pressed again after an answer got lost: the same request, so the same job.
  if (text !== sending.text) sending = { text, key: idempotencyKey() };
  const button = form.querySelector("button[type=submit]");
  button.disabled = true;
  refuse("");
  try {
    const job = await post("/v1/jobs", body, { headers: { "Idempotency-Key": sending.key } });
    location.assign(`/jobs/${job.id}`);
  } catch (problem) {
    refuse(problem.message);
    byId("submit-problem").focus();
    button.disabled = false;
  }
}

function missing(form, budget) {
  const fields = form.elements;
  if (!fields.model.value.trim())
    return { field: fields.model, message: "No model is given. Name a folder, a .gguf file or a hub id." };
  if (!byId("budget-field").hidden && !budget.value)
    return { field: fields.budget, message: "No budget is given. Say how much memory the whole model may take." };
  const wrong = [...fields].find((field) => !field.closest("[hidden]") && field.id !== "budget" && !field.checkValidity());
  return wrong && { field: wrong, message: `${wrong.labels[0]?.textContent}: ${wrong.validationMessage}` };
}

const refuse = (message) => tell(byId("submit-problem"), message);
