// The list of jobs, asked for again while it is looked at.

import { account } from "./account.js";
import { call } from "./api.js";
import { byId, fill, h, tell } from "./dom.js";
import { duration, running, size, when } from "./format.js";
import { KINDS, STATES, hasEnded, jobName, stateName } from "./names.js";
import { submitForm } from "./submit.js";

const PAGE = 50;
const BUSY_MS = 1500;
const IDLE_MS = 6000;

const list = byId("jobs");
let shown = PAGE;
let known = new Map(); // id -> state, to say what has changed
let timer;
let turn = 0;

const wanted = () => document.querySelector("#states input:checked").value;

async function fetchJobs(limit) {
  const found = [];
  let before = null;
  while (found.length < limit) {
    const query = new URLSearchParams({ limit: Math.min(PAGE, limit - found.length) });
    for (const state of wanted().split(",").filter(Boolean)) query.append("state", state);
    if (before) query.set("before", before);
    const page = await call(`/v1/jobs?${query}`);
    found.push(...page.jobs);
    before = page.next;
    if (!before) break;
  }
  return { found, more: Boolean(before) };
}

async function refresh() {
  clearTimeout(timer);
  const mine = ++turn;
  let pause = IDLE_MS;
  try {
    const { found, more } = await fetchJobs(shown);
    if (mine !== turn) return; // asked again meanwhile
    show(found, more);
    tell(byId("jobs-problem"), "");
    if (found.some((job) => !hasEnded(job))) pause = BUSY_MS;
  } catch (problem) {
    tell(byId("jobs-problem"), problem.message);
  }
  if (!document.hidden) timer = setTimeout(refresh, pause);
}

function show(jobs, more) {
  const rows = new Map([...list.children].map((row) => [row.dataset.id, row]));
  const news = [];
  const next = jobs.map((job) => {
    if (known.has(job.id) && known.get(job.id) !== job.state) news.push(`${jobName(job)}: ${STATES[job.state]}`);
    const text = JSON.stringify([job, hasEnded(job) ? 0 : Math.floor(Date.now() / 1000)]);
    const old = rows.get(job.id);
    if (old?.dataset.text === text) return old;
    if (old) {
      // The link stays the same element, so that focus stays on it.
      old.querySelector(".row").replaceWith(row(job, old.querySelector("a")));
      old.dataset.text = text;
      return old;
    }
    return h("li", { "data-id": job.id, "data-text": text }, row(job));
  });
  known = new Map(jobs.map((job) => [job.id, job.state]));
  const order = [...list.children];
  if (next.length !== order.length || next.some((item, index) => item !== order[index])) fill(list, next);
  list.setAttribute("aria-busy", "false");
  list.hidden = !jobs.length;
  byId("older").hidden = !more;
  if (news.length) byId("jobs-news").textContent = news.join(". ");
  showEmpty(!jobs.length);
}

function row(job, link = h("a", { href: `/jobs/${job.id}` })) {
  const focused = document.activeElement === link;
  link.textContent = jobName(job);
  const asked = job.request.parameters;
  const facts = [KINDS[asked.kind]];
  if (asked.budget_gb) facts.push(size(asked.budget_gb * 1e9));
  if (job.owner && job.owner !== me?.name) facts.push(job.owner);
  facts.push(when(job.created_at));
  const made = h(
    "div",
    { class: "row" },
    link,
    h("span", { class: `state ${job.state}` }, stateName(job)),
    h("span", { class: "facts" }, facts.join(" · ")),
    h("span", { class: "when" }, job.started_at ? running(job) : ""),
    job.state === "running" && job.progress ? going(job.progress) : null,
    job.fault ? h("span", { class: "fault", title: job.fault.message }, job.fault.message) : null,
  );
  if (focused) queueMicrotask(() => link.focus());
  return made;
}

function going({ stage, done, total, seconds_left: left }) {
  return h(
    "span",
    { class: "going" },
    h("span", {}, stage),
    h("progress", { max: total || 1, value: total ? done : null, "aria-label": stage }),
    h("span", {}, left == null ? "" : `${duration(left)} left`),
  );
}

function showEmpty(isEmpty) {
  const place = byId("jobs-empty");
  place.hidden = !isEmpty;
  if (!isEmpty) return;
  const text = wanted()
    ? "No job is in this state."
    : "No job yet. Name a model and a budget under “New job”; what is measured once is solved for any other budget on the job’s page.";
  fill(place, h("p", {}, text));
}

let me;
account().then((found) => {
  me = found;
  refresh();
});
submitForm();
byId("states").addEventListener("change", () => {
  shown = PAGE;
  known = new Map();
  refresh();
});
byId("older").addEventListener("click", () => {
  shown += PAGE;
  refresh();
});
document.addEventListener("visibilitychange", () => document.hidden || refresh());
