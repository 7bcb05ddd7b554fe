// Sums and random numbers.

export const most = values => values.reduce((one, other) => (other > one ? other : one), -Infinity);

// The logarithm of a sum, from the logarithms of its terms.
export function logOfSum(values) {
  const largest = most(values);
  return largest === -Infinity ? largest : largest + Math.log(values.reduce((sum, value) => sum + Math.exp(value - largest), 0));
}

// A random number generator from 0 to 1, reproducible by its seed: mulberry32 by Tommy Ettinger (public domain).
export function randomFrom(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), seed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
