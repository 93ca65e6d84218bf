// A small note beside what is pointed at or has the focus.

import { fill, h } from "./dom.js";

const ROOM = 8;

export class Tip {
  constructor() {
    // Everything in it is in the label of what it is beside.
    this.element = h("div", { class: "tip", role: "presentation", "aria-hidden": "true", hidden: true });
    document.body.append(this.element);
  }

  /** `content()` gives the nodes, again each time that what they tell changes. */
  show(anchor, content) {
    this.anchor = anchor;
    this.content = content;
    this.element.hidden = false;
    this.refresh();
  }

  refresh() {
    if (this.element.hidden) return;
    fill(this.element, this.content());
    const box = this.anchor.getBoundingClientRect();
    const { width, height } = this.element.getBoundingClientRect();
    const left = Math.min(Math.max(ROOM, box.left + box.width / 2 - width / 2), innerWidth - width - ROOM);
    const above = box.top - height - ROOM;
    this.element.style.left = `${left}px`;
    this.element.style.top = `${above >= ROOM ? above : box.bottom + ROOM}px`;
  }

  hide() {
    this.element.hidden = true;
  }
}
