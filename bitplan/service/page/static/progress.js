// How far a running job is, and how good what it has found.

import { byId, figures, fill } from "./dom.js";
import { count, duration, nats, percent, running } from "./format.js";
import { hasEnded } from "./names.js";

const NEWS_MS = 15_000; // a screen reader is not told of every layer
const MOST_COUNTED = 100_000;

let spoken = { stage: "", at: 0 };

/** Show a job's progress; `left` is when the stage will be done, by its own pace. */
export function showProgress(job) {
  const box = byId("progress");
  box.hidden = hasEnded(job);
  if (box.hidden) return;
  const progress = job.state === "running" ? job.progress : null;
  const bar = byId("stage-bar");
  byId("stage").textContent = progress ? progress.stage : job.state === "queued" ? "Waiting for a worker" : "Starting";
  byId("stage-count").textContent = progress?.total ? far(progress) : "";
  if (progress?.total) {
    bar.max = progress.total;
    bar.value = progress.done;
  } else if (job.state === "queued") {
    bar.max = 1;
    bar.value = 0;
  } else bar.removeAttribute("value");
  byId("stage-note").textContent = note(job, progress);
  speak(progress);
}

/** Steps as they are counted; of too many to be read, as weights are, a share. */
const far = ({ done, total }) => (total > MOST_COUNTED ? percent(done / total) : `${count(done)} of ${count(total)}`);

function note(job, progress) {
  const parts = [];
  if (job.is_cancelling) parts.push("Stops at the next safe point");
  const left = progress?.seconds_left;
  if (left !== null && left !== undefined) parts.push(`about ${duration(left)} left of this stage`);
  if (job.started_at) parts.push(`${running(job)} so far`);
  if (job.attempt > 1) parts.push(`attempt ${job.attempt}`);
  if (progress?.remark) parts.push(progress.remark);
  return parts.join(" · ") || " ";
}

function speak(progress) {
  if (!progress) return;
  const now = Date.now();
  if (progress.stage === spoken.stage && now - spoken.at < NEWS_MS) return;
  spoken = { stage: progress.stage, at: now };
  const share = progress.total ? `, ${Math.round((100 * progress.done) / progress.total)} percent` : "";
  byId("progress-news").textContent = `${progress.stage}${share}`;
}

/** The best KL that was measured so far beside that of the uniform plan. */
export function showBest({ kl, uniform_kl: uniform }) {
  const entries = [];
  if (kl !== null && kl !== undefined) entries.push(["Best KL so far", nats(kl), "nats per token", "ours"]);
  if (uniform !== null && uniform !== undefined) entries.push(["Uniform plan", nats(uniform), "nats per token"]);
  if (entries.length === 2 && uniform > 0)
    entries.push(["Difference", percent(Math.abs(kl - uniform) / uniform), kl <= uniform ? "less than uniform" : "more than uniform"]);
  fill(byId("best"), figures(entries));
  byId("best").hidden = !entries.length;
}
