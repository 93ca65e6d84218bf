// A budget as a slider and as a number, kept together.

import { size } from "./format.js";
import { Scale } from "./scale.js";

export class BudgetInput {
  /** `moved(bytes)` is called as the slider moves or the number is typed. */
  constructor({ range, number, unit, moved }) {
    Object.assign(this, { range, number, unit, moved });
    this.scale = null;
    this.value = null;
    range.addEventListener("input", () => this.set(this.scale.bytes(range.valueAsNumber), { from: range }));
    number.addEventListener("input", () => {
      const typed = number.valueAsNumber * (this.scale?.factor ?? 1e9);
      if (Number.isFinite(typed) && typed > 0) this.set(Math.round(typed), { from: number });
      else this.value = null;
    });
  }

  /** Between what bytes it is useful; a value of before is kept where it fits. */
  span(smallest, largest, fallback) {
    this.scale = new Scale(smallest, largest);
    this.unit.textContent = this.scale.unit;
    this.range.disabled = this.number.disabled = false;
    const fits = this.value !== null && this.value >= smallest && this.value <= largest;
    this.set(fits ? this.value : this.scale.clamp(fallback), { quietly: true });
  }

  /** Nothing is known of the model: the number is taken in GB. */
  forget() {
    this.scale = null;
    this.unit.textContent = "GB";
    this.range.disabled = true;
    if (this.value !== null) this.number.value = trimmed(this.value / 1e9);
  }

  set(bytes, { from, quietly = false } = {}) {
    this.value = bytes;
    if (this.scale) {
      if (from !== this.range) this.range.value = this.scale.step(bytes);
      this.range.setAttribute("aria-valuetext", size(bytes));
    }
    if (from !== this.number) this.number.value = trimmed(bytes / (this.scale?.factor ?? 1e9));
    if (!quietly) this.moved?.(bytes);
  }
}

/** Five digits are finer than the slider. */
const trimmed = (amount) => String(Number(amount.toPrecision(5)));
