// What a choice of a plan stores: bits, and the step of the colours that these are.

export const STEPS = [1, 2, 3, 4, 5, 6, 8, 16];

export const weights = (layer) => layer.shape.reduce((product, size) => product * size, 1);

/** All that is stored, scales too, over the number of weights. */
export const bitsPerWeight = (bytes, layer) => (8 * bytes) / weights(layer);

/** The largest step that the bits reach; 4.5 bits per weight are of the step of 4. */
export function step(bits) {
  return STEPS.findLast((one) => bits >= one - 0.25) ?? STEPS[0];
}

/** Bits of a code as a scheme's name tells them: "int4g64" 4, "fp8" 8, "sign" 1; else null. */
export function codeBits(scheme) {
  if (scheme.includes("+")) return null; // sparse: its codes are not all that counts
  if (scheme.startsWith("sign")) return 1;
  return Number(/^[a-z]+(\d+)/.exec(scheme)?.[1]) || null;
}

/** What stands in a cell: the bits of its codes, or of all that it stores where these say more. */
export function label(schemes, bits) {
  const codes = new Set(schemes.map(codeBits));
  return codes.size === 1 && !codes.has(null) ? String([...codes][0]) : bits.toFixed(1);
}
