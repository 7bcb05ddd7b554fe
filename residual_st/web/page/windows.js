// Decoding of recordings of any length in windows with a model's timestamps: residual_st/runtime/windows.py.

import { segments } from "./timestamps.js";

// Yields the words of each sentence in a span of a recording. Each window begins where the last sentence before it ended.
// `sourceOf` encodes the samples from one position to another.
export async function* sentences(description, sourceOf, [start, stop], search, random) {
  const { sample_rate: rate, longest_seconds: longest, shortest_samples: shortest, timestamps } = description;
  while (stop - start >= shortest) {
    const end = Math.min(start + Math.trunc(longest * rate), stop);
    const text = await search.accepted(await sourceOf(start, end), random);
    let done = end - start;
    if (text) {
      const cut = segments(timestamps, text.tokens, done / rate);
      for (const [, , words] of cut.sentences) yield words;
      done = Math.round(cut.done * rate) || done;
    }
    start += done;
  }
}
