// Recordings of any length in windows, by a model's own time stamps: residual_st/runtime/windows.py.

import { segments } from "./timestamps.js";

// Yields the words of each sentence in a span of a recording; a window begins where the last sentence of the one before ended.
// `sourceOf` encodes samples from one place to another.
export async function* sentences(description, sourceOf, [start, stop], search, random) {
  const { sample_rate: rate, longest_seconds: longest, shortest_samples: shortest, timestamps } = description;
  while (stop - start >= shortest) {
    const end = Math.min(start + Math.trunc(longest * rate), stop);
    const text = await search.believed(await sourceOf(start, end), random);
    let done = end - start;
    if (text) {
      const cut = segments(timestamps, text.tokens, done / rate);
      for (const [, , words] of cut.found) yield words;
      done = Math.round(cut.done * rate) || done;
    }
    start += done;
  }
}
