// Recordings of any length to text: residual_st/runtime/translator.py.

import { AUTO } from "./languages.js";
import { randomFrom } from "./numbers.js";
import { CLOSE, spansBetweenPauses } from "./pauses.js";
import { Search } from "./search.js";
import { text } from "./vocabulary.js";
import { sentences } from "./windows.js";

const SEED = 1; // of texts that are found by chance, anew for each recording

// Mono samples -> their text, and the language that is spoken, `AUTO` where nobody speaks. `model` has a `description` and encodes
// an utterance's samples by `source(samples)`; `lengths` are those that recordings are cut into where it has no time stamps.
export async function translate(model, lengths, samples, asked) {
  const { description } = model, window = Math.trunc(description.longest_seconds * description.sample_rate);
  const spans = await spansOf(description, lengths, samples);
  if (!spans.length) return { text: "", source_lang: asked.source_lang };
  const sourceOf = once((start, end) => model.source(samples.subarray(start, end)));
  const direction = await detected(sourceOf, spans, samples.length, window, asked);
  const withTimes = Boolean(description.timestamps) && samples.length > window;
  const search = new Search(description, direction, withTimes), wordsOf = withTimes ? sentences : piece;
  const texts = [], random = randomFrom(SEED);
  for (const span of spans) {
    for await (const words of wordsOf(description, sourceOf, span, search, random)) texts.push(text(description.vocabulary, words));
  }
  return { text: texts.filter(Boolean).join(" "), source_lang: direction.source_lang };
}

// The direction, with the language of the first window of the recording, or the first one in which somebody speaks.
async function detected(sourceOf, spans, length, window, direction) {
  if (direction.source_lang !== AUTO) return direction;
  const start = spans[0][0] < window ? 0 : spans[0][0];
  const source = await sourceOf(start, Math.min(start + window, length));
  return { ...direction, source_lang: await source.detectedLanguage() };
}

// Yields the words of a span, decoded as one.
async function* piece({ shortest_samples: shortest }, sourceOf, [start, end], search, random) {
  if (end - start < shortest) return;
  const text = await search.believed(await sourceOf(start, end), random);
  if (text) yield text.tokens;
}

// What is decoded: the pieces between pauses or, by time stamps, all that lies between pauses of more than 2 s.
async function spansOf({ sample_rate: rate, timestamps }, lengths, samples) {
  if (!timestamps) return spansBetweenPauses(samples, rate, lengths);
  const whole = samples.length / rate + CLOSE, close = Math.round(CLOSE * rate);
  const spans = await spansBetweenPauses(samples, rate, { longest: whole, joined: whole });
  if (spans.length && spans[0][0] <= close) spans[0][0] = 0;
  if (spans.length && spans.at(-1)[1] >= samples.length - close) spans.at(-1)[1] = samples.length;
  return spans;
}

// What is encoded last is not encoded again.
function once(encode) {
  let last = null, place = null;
  return (start, end) => {
    if (place !== `${start} ${end}`) [last, place] = [encode(start, end), `${start} ${end}`];
    return last;
  };
}
