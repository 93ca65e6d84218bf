// Solves the table again as the budget moves. One question at a time; of those that wait, the last.

import { post } from "./api.js";

const PAUSE_MS = 100; // between two questions of a moving slider: ten a second
const SETTLE_MS = 250; // at rest it may search for longer
const PROVE_S = 2;

export class Resolver {
  /** `solved(answer, {bytes, ms, isFinal})` and `refused(problem)` are called with the newest answers alone. */
  constructor({ table, constraints, solved, refused, waiting }) {
    Object.assign(this, { table, constraints, solved, refused, waiting });
    this.wanted = null; // {bytes, isFinal} to ask next
    this.busy = false;
  }

  /** The budget has moved: solve quickly now, and to the optimum once it rests. */
  ask(bytes) {
    this.newest = bytes;
    clearTimeout(this.settling);
    this.wanted = { bytes, isFinal: false };
    this.settling = setTimeout(() => {
      this.wanted = { bytes, isFinal: true };
      this.next();
    }, SETTLE_MS);
    this.next();
  }

  /** Nothing is asked any more, and what is on its way is not wanted. */
  drop() {
    clearTimeout(this.settling);
    this.wanted = null;
    this.newest = null;
  }

  async next() {
    if (this.busy || !this.wanted) return;
    const { bytes, isFinal } = this.wanted;
    this.wanted = null;
    this.busy = true;
    const begin = performance.now();
    try {
      this.waiting?.();
      const question = { table: this.table, budget_gb: bytes / 1e9, constraints: this.constraints };
      if (isFinal) question.time_limit_s = PROVE_S; // else the server gives what milliseconds allow
      const answer = await post("/v1/plans", question);
      const ms = performance.now() - begin;
      const stale = this.newest === null || (isFinal && bytes !== this.newest);
      if (!stale) this.solved(answer, { bytes, ms, isFinal });
    } catch (problem) {
      if (bytes === this.newest) this.refused(problem);
    }
    const rest = Math.max(0, PAUSE_MS - (performance.now() - begin));
    setTimeout(() => {
      this.busy = false;
      this.next();
    }, rest);
  }
}
