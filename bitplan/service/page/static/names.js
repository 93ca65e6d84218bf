// What jobs and states are called.

export const STATES = {
  queued: "Waiting",
  running: "Running",
  succeeded: "Succeeded",
  failed: "Failed",
  cancelled: "Cancelled",
};

export const KINDS = {
  allocate: "Plan",
  compress: "Plan and checkpoint",
  measure: "Cost table",
  describe: "Description",
  apply: "Checkpoint",
};

export const KIND_NOTES = {
  allocate: "Measures the model, then gives each layer the scheme that loses least within the budget.",
  compress: "The same, and writes the compressed model as a checkpoint.",
  measure: "Measures what each scheme does to each layer. Any budget is solved from that in no time.",
  describe: "Layers and bytes, from the files alone.",
};

export const hasEnded = (job) => !["queued", "running"].includes(job.state);

/** The last part of a path or of a hub id. */
export const modelName = (model) => model.replace(/\/+$/, "").split("/").pop() || model;

export const jobName = (job) => job.request.label || modelName(job.request.parameters.model);

/** What to say of a state: a job that is to be cancelled still runs. */
export const stateName = (job) =>
  job.is_cancelling && !hasEnded(job) ? "Cancelling" : STATES[job.state];
