// Recordings of any length to text: residual_st/runtime/translator.py.

import { AUTO } from "./languages.js";
import { randomFrom } from "./numbers.js";
import { CLOSE, spansBetweenPauses } from "./pauses.js";
import { Search } from "./search.js";
import { text } from "./vocabulary.js";
import { sentences } from "./windows.js";

const SEED = 1; // random seed for sampled texts, reset for each recording

// Mono samples -> their text and the spoken language, `AUTO` without speech. `model` has a `description` and encodes an utterance's
// samples with `source(samples)`; `lengths` are the segment lengths for models without timestamps.
export async function translate(model, lengths, samples, direction) {
  const { description } = model, window = Math.trunc(description.longest_seconds * description.sample_rate);
  const spans = await spansOf(description, lengths, samples);
  if (!spans.length) return { text: "", source_lang: direction.source_lang };
  const sourceOf = once((start, end) => model.source(samples.subarray(start, end)));
  const known = await detected(sourceOf, spans, samples.length, window, direction);
  const withTimes = Boolean(description.timestamps) && samples.length > window;
  const search = new Search(description, known, withTimes), wordsOf = withTimes ? sentences : piece;
  const texts = [], random = randomFrom(SEED);
  for (const span of spans) {
    for await (const words of wordsOf(description, sourceOf, span, search, random)) texts.push(text(description.vocabulary, words));
  }
  return { text: texts.filter(Boolean).join(" "), source_lang: known.source_lang };
}

// The direction, with the language of the recording's first window, or of the first one with speech.
async function detected(sourceOf, spans, length, window, direction) {
  if (direction.source_lang !== AUTO) return direction;
  const start = spans[0][0] < window ? 0 : spans[0][0];
  const source = await sourceOf(start, Math.min(start + window, length));
  return { ...direction, source_lang: await source.detectedLanguage() };
}

// Yields the words of a span, decoded as a whole.
async function* piece({ shortest_samples: shortest }, sourceOf, [start, end], search, random) {
  if (end - start < shortest) return;
  const text = await search.accepted(await sourceOf(start, end), random);
  if (text) yield text.tokens;
}

// Spans to decode: the segments between pauses or, with timestamps, all audio between pauses of more than 2 s.
async function spansOf({ sample_rate: rate, timestamps }, lengths, samples) {
  if (!timestamps) return spansBetweenPauses(samples, rate, lengths);
  const whole = samples.length / rate + CLOSE, close = Math.round(CLOSE * rate);
  const spans = await spansBetweenPauses(samples, rate, { longest: whole, joined: whole });
  if (spans.length && spans[0][0] <= close) spans[0][0] = 0;
  if (spans.length && spans.at(-1)[1] >= samples.length - close) spans.at(-1)[1] = samples.length;
  return spans;
}

// Caches the last encoded span.
function once(encode) {
  let last = null, place = null;
  return (start, end) => {
    if (place !== `${start} ${end}`) [last, place] = [encode(start, end), `${start} ${end}`];
    return last;
  };
}
