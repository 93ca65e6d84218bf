// The page of one job.

import { account } from "./account.js";
import { Agreement } from "./agreement.js";
import { call, filePath, idempotencyKey, post } from "./api.js";
import { Compare } from "./compare.js";
import { byId, tell } from "./dom.js";
import { Events } from "./events.js";
import { Explore } from "./explore.js";
import { showFiles } from "./files.js";
import { plural, running, size, when } from "./format.js";
import { logEvent } from "./log.js";
import { KINDS, hasEnded, jobName, stateName } from "./names.js";
import { showBest, showProgress } from "./progress.js";
import { showDescription, showPlan } from "./summary.js";

const RELOAD_MS = 120; // several events of one moment are one reason

const id = location.pathname.split("/").pop();
const explore = new Explore();
const agreement = new Agreement();
const compare = new Compare();
const shown = { plan: null, table: null, description: null };

let job;
let me;

function showHead() {
  const asked = job.request.parameters;
  document.title = `${jobName(job)}, ${stateName(job).toLowerCase()} · bitplan`;
  byId("job-title").textContent = jobName(job);
  const facts = [KINDS[asked.kind]];
  if (asked.budget_gb) facts.push(`budget ${size(asked.budget_gb * 1e9)}`);
  if (job.request.label) facts.push(asked.model);
  facts.push(`${job.owner}, ${when(job.created_at)}`);
  if (hasEnded(job) && job.started_at) facts.push(`took ${running(job)}`);
  if (job.attempt > 1) facts.push(plural(job.attempt, "attempt"));
  byId("job-facts").textContent = facts.join(" · ");
  const state = byId("job-state");
  state.className = `state ${job.state}`;
  if (state.textContent !== stateName(job)) state.textContent = stateName(job);
  const maySubmit = me.scope !== "read";
  byId("cancel").hidden = hasEnded(job) || !maySubmit;
  byId("cancel").disabled = job.is_cancelling;
  byId("cancel").textContent = job.is_cancelling ? "Cancelling …" : "Cancel";
  byId("retry").hidden = !maySubmit || !hasEnded(job) || job.state === "succeeded";
  byId("apply").hidden = !maySubmit || asked.kind !== "allocate" || job.state !== "succeeded" || !artefact("plan.json");
  tell(byId("job-problem"), job.fault?.message);
  showProgress(job);
}

const artefact = (name) => job.artefacts.find((one) => one.name === name);

/** Show what the job has made and is not shown yet. */
async function showArtefacts() {
  showFiles(job);
  const found = { plan: artefact("plan.json"), table: artefact("costs.json"), description: artefact("description.json") };
  const asked = job.request.parameters;
  if (asked.kind === "apply") found.plan = { digest: asked.plan, path: `/v1/plans/${asked.plan}` };
  if (found.description && !shown.description) {
    shown.description = true;
    if (!found.plan && !found.table) showDescription(await call(filePath(id, "description.json")));
  }
  if (found.plan && shown.plan?.digest !== found.plan.digest) {
    shown.plan = { digest: found.plan.digest };
    const plan = await call(found.plan.path ?? filePath(id, "plan.json"));
    shown.plan.plan = plan;
    showPlan(plan);
    explore.showPlan(plan);
    agreement.show(plan, shown.answer?.uniform);
    compare.show(found.plan.digest, job);
    if (shown.table) explore.redraw();
  }
  if (found.table && shown.table !== found.table.digest) {
    shown.table = found.table.digest;
    const model = me.scope === "read" ? null : asked.model;
    shown.answer = await explore.open({ table: found.table.digest, constraints: asked.constraints ?? {}, model });
    agreement.show(shown.plan?.plan, shown.answer.uniform);
  }
  if (found.plan && !found.table && hasEnded(job)) explore.withoutTable();
}

async function reload() {
  try {
    job = await call(`/v1/jobs/${id}`);
    showHead();
    await showArtefacts();
  } catch (problem) {
    tell(byId("job-problem"), problem.message);
    if (!job) byId("job-title").textContent = problem.status === 404 ? "No such job" : "This job cannot be shown";
  }
}

const events = new Events(id, {
  connected: (is) => byId("line").toggleAttribute("hidden", is || hasEnded(job)),
  happened: (event) => {
    logEvent(event);
    if (event.kind === "remark" && event.data.kl != null) showBest(event.data);
    if (event.kind === "progress") drawSoon(event.data);
    if (event.kind === "state" || event.kind === "artefact") reloadSoon();
  },
});

let drawing;

/** A page that is opened late is told of all that was: the last counts. */
function drawSoon(progress) {
  if (!drawing) requestAnimationFrame(draw);
  drawing = progress;
}

function draw() {
  const progress = drawing;
  drawing = null;
  if (hasEnded(job)) return;
  job = { ...job, state: "running", progress };
  showHead();
}

let reloading;

function reloadSoon() {
  clearTimeout(reloading);
  reloading = setTimeout(reload, RELOAD_MS);
}

async function act(button, path) {
  button.disabled = true;
  try {
    job = await post(`/v1/jobs/${id}/${path}`);
    showHead();
    events.open();
  } catch (problem) {
    tell(byId("job-problem"), problem.message);
  } finally {
    button.disabled = false;
    if (job) showHead();
  }
}

byId("cancel").addEventListener("click", (event) => act(event.target, "cancel"));
byId("retry").addEventListener("click", (event) => act(event.target, "retry"));
byId("apply").addEventListener("click", async (event) => {
  event.target.disabled = true;
  try {
    const parameters = { kind: "apply", model: job.request.parameters.model, plan: artefact("plan.json").digest };
    const made = await post("/v1/jobs", { parameters }, { headers: { "Idempotency-Key": idempotencyKey() } });
    location.assign(`/jobs/${made.id}`);
  } catch (problem) {
    tell(byId("job-problem"), problem.message);
    event.target.disabled = false;
  }
});
document.addEventListener("plans-changed", () => shown.plan && compare.show(shown.plan.digest, job));
setInterval(() => job && !hasEnded(job) && showProgress(job), 1000);

me = await account();
await reload();
if (job) events.open();
