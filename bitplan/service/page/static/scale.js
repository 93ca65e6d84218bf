// A slider's steps as bytes, evenly spaced in their logarithm: half the size is as far at each end.

const STEPS = 1000;

export class Scale {
  constructor(smallest, largest) {
    this.smallest = Math.ceil(smallest);
    this.largest = Math.max(Math.ceil(largest), this.smallest + 1);
    // Megabytes for what is not a gigabyte: fields with many zeros are easily misread.
    [this.unit, this.factor] = this.largest >= 1e9 ? ["GB", 1e9] : this.largest >= 1e6 ? ["MB", 1e6] : ["kB", 1e3];
  }

  bytes(step) {
    if (step <= 0) return this.smallest;
    if (step >= STEPS) return this.largest;
    return Math.round(this.smallest * (this.largest / this.smallest) ** (step / STEPS));
  }

  step(bytes) {
    const share = Math.log(bytes / this.smallest) / Math.log(this.largest / this.smallest);
    return Math.round(STEPS * Math.min(1, Math.max(0, share)));
  }

  clamp(bytes) {
    return Math.min(this.largest, Math.max(this.smallest, bytes));
  }
}
