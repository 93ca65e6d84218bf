// A job's events as the server sends them; a lost connection goes on after the last event that came.

const KINDS = ["state", "progress", "remark", "artefact", "log"];
const ENDS = ["succeeded", "failed", "cancelled"];
const AGAIN_MS = 3000;

export class Events {
  /** `happened(event)` gets every event once, in order; `connected(bool)` tells of the line. */
  constructor(job, { happened, connected }) {
    Object.assign(this, { job, happened, connected });
    this.last = 0;
    this.isOver = false; // by the last event; a retry makes it go on
  }

  open() {
    this.close();
    this.source = new EventSource(`/v1/jobs/${this.job}/events?after=${this.last}`);
    this.source.onopen = () => this.connected(true);
    this.source.onerror = () => {
      // The server ends the stream after an end; an open source would ask for it again and again.
      if (this.isOver) {
        this.close();
        return;
      }
      this.connected(false);
      // The browser tries again by itself unless it was turned away.
      if (this.source?.readyState === EventSource.CLOSED) this.timer = setTimeout(() => this.open(), AGAIN_MS);
    };
    for (const kind of KINDS) this.source.addEventListener(kind, (message) => this.take(JSON.parse(message.data)));
  }

  take(event) {
    if (event.number <= this.last) return;
    this.last = event.number;
    if (event.kind === "state") this.isOver = ENDS.includes(event.data.state);
    this.happened(event);
  }

  close() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  }
}
