// Numbers and times as people read them. 1 MB is 10^6 bytes and 1 GB is 10^9, as everywhere in bitplan.

export const NOTHING = "–";

/** Bytes in the largest unit that leaves a digit before the point: "71.30 MB". */
export function size(bytes) {
  if (bytes === null || bytes === undefined) return NOTHING;
  for (const [unit, factor] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]])
    if (Math.abs(bytes) >= factor) return `${(bytes / factor).toFixed(2)} ${unit}`;
  return `${bytes} bytes`;
}

export const count = (number) => Math.round(number).toLocaleString("en-US");

/** "134.5 million parameters". */
export function parameters(number) {
  for (const [unit, factor] of [["billion", 1e9], ["million", 1e6]])
    if (number >= factor) return `${(number / factor).toFixed(1)} ${unit} parameters`;
  return `${count(number)} parameters`;
}

/** A KL in nats per token. */
export function nats(value, standardError) {
  if (value === null || value === undefined) return NOTHING;
  const text = short(value);
  return standardError === null || standardError === undefined ? text : `${text} ±\u00a0${short(standardError)}`;
}

/** A difference with its sign; a true minus, which is as wide as a plus. */
export const signed = (value, text = nats) =>
  value > 0 ? `+${text(value)}` : value < 0 ? `−${text(-value)}` : "0";

function short(value) {
  if (value === 0) return "0";
  return Math.abs(value) >= 0.0005 ? value.toFixed(4) : value.toExponential(1);
}

export const percent = (share) => `${(100 * share).toFixed(1)} %`;

/** Seconds as "48 s", "3 min 20 s", "2 h 5 min". */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return minutes < 10 && whole % 60 ? `${minutes} min ${whole % 60} s` : `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
}

/** A time of this day as "14:05", of another as "28 Nov, 14:05". */
export function when(text) {
  const date = new Date(text);
  const clock = date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  if (date.toDateString() === new Date().toDateString()) return clock;
  return `${date.toLocaleDateString("en-GB", { day: "numeric", month: "short" })}, ${clock}`;
}

/** How long a job has run, or ran; nothing before it has begun. */
export function running(job) {
  if (!job.started_at) return "";
  return duration((new Date(job.ended_at ?? Date.now()) - new Date(job.started_at)) / 1000);
}

export const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
