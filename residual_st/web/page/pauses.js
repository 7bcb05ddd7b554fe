// Cutting recordings at pauses: the algorithm of residual_st/audio/pauses.py, with the same voice-activity detector.

import * as ort from "./ort/ort.wasm.min.mjs";
import { resample as resampleHere } from "./audio.js";

export const RATE = 16000, FRAME = 512; // the detector's sample rate in Hz, and samples per frame
const CONTEXT = 64, BLOCK_FRAMES = 4096, STATE = [1, 1, 128], PEAK = 0.5;
const BEGIN = 0.5, END = 0.35, LEAST = 4, STEP = 128, SILENCE = 1e-6, AROUND = 9;
export const PAUSE = 7, MARGIN = 3; // frames: minimum pause between two segments, and pause kept at each end of a segment
export const CLOSE = 2, SHORT = 1; // seconds: segments further apart are not joined; shorter segments are joined to a neighbour
const steps = seconds => Math.floor(seconds * RATE / STEP);
let detector = null, resample = resampleHere;

// Sets the resampling function; workers cannot resample themselves.
export function resampleBy(other) {
  resample = other;
}

// Mono samples at `rate` -> [first sample, sample after the last] of each segment with speech.
// `lengths` are `longest` and `joined` in seconds. If the recording continues (`isPartial`), its last segment is not joined for
// being short.
export async function spansBetweenPauses(samples, rate, lengths, isPartial = false) {
  if (!samples.length) return [];
  const given = await resample(samples, rate, RATE), filled = new Float32Array(Math.ceil(given.length / FRAME) * FRAME);
  const loudest = given.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  filled.set(loudest ? given.map(value => value * Math.fround(PEAK / loudest)) : given);
  const energy = Array.from({ length: filled.length / STEP }, (_, step) =>
    filled.subarray(step * STEP, (step + 1) * STEP).reduce((sum, value) => sum + value * value, 0));
  const silence = SILENCE * percentile(energy, 95);
  const spans = spoken(await probabilities(filled)).map(span => audible(energy, silence, span.map(at => at * FRAME / STEP)));
  const around = energy.map((_, step) =>
    energy.slice(Math.max(0, step - (AROUND - 1) / 2), step + (AROUND + 1) / 2).reduce((sum, value) => sum + value, 0));
  const scale = rate * STEP / RATE;
  return join(spans, lengths, isPartial).flatMap(span => {
    const cuts = cutLong(around, span, Math.max(8, steps(lengths.longest)));
    return cuts.slice(1).map((end, index) => [Math.round(cuts[index] * scale), Math.min(Math.round(end * scale), samples.length)]);
  });
}

// Interpolates between the two nearest values, as numpy does.
function percentile(values, percent) {
  const sorted = Float64Array.from(values).sort(), at = (sorted.length - 1) * percent / 100, below = Math.floor(at);
  return sorted[below] + (at - below) * ((sorted[below + 1] ?? sorted[below]) - sorted[below]);
}

// The probability of speech in each frame of 32 ms.
async function probabilities(samples) {
  detector ??= ort.InferenceSession.create(new URL("./silero_vad.onnx", import.meta.url).href, { executionProviders: ["wasm"] });
  const session = await detector, result = [], frames = samples.length / FRAME;
  const empty = () => new ort.Tensor("float32", new Float32Array(128), STATE);
  const padded = new Float32Array(CONTEXT + samples.length), size = CONTEXT + FRAME;
  padded.set(samples, CONTEXT);
  for (let start = 0, h = empty(), c = empty(); start < frames; start += BLOCK_FRAMES) {
    const count = Math.min(BLOCK_FRAMES, frames - start), input = new Float32Array(count * size);
    for (let frame = 0; frame < count; frame++) {
      input.set(padded.subarray((start + frame) * FRAME, (start + frame) * FRAME + size), frame * size);
    }
    const { speech_probs, hn, cn } = await session.run({ input: new ort.Tensor("float32", input, [count, size]), h, c });
    result.push(...speech_probs.data);
    [h, c] = [hn, cn];
  }
  return result;
}

function spoken(probabilities) {
  const spans = [];
  let speaking = false;
  probabilities.forEach((probability, frame) => {
    speaking = probability >= (speaking ? END : BEGIN);
    if (!speaking) return;
    const last = spans.at(-1);
    if (last && frame - last.end < PAUSE) {
      last.end = frame + 1;
      last.count++;
    } else {
      spans.push({ start: frame, end: frame + 1, count: 1 });
    }
  });
  return spans.filter(({ count }) => count >= LEAST)
    .map(({ start, end }) => [Math.max(0, start - MARGIN), Math.min(probabilities.length, end + MARGIN)]);
}

// A span of steps, with digital silence at its ends removed.
function audible(energy, silence, [start, end]) {
  let [first, last] = [start, end];
  while (first < last && !(energy[first] > silence)) first++;
  while (last > first && !(energy[last - 1] > silence)) last--;
  return first < last ? [first, last] : [start, end];
}

function join(spans, { longest, joined }, isPartial) {
  const result = [], isShort = ([start, end]) => end - start < steps(SHORT);
  spans.forEach(([start, end], place) => {
    const last = result.at(-1), isGrowing = isPartial && place === spans.length - 1;
    const most = last && (isShort(last) || (isShort([start, end]) && !isGrowing)) ? longest : joined;
    if (last && start - last[1] <= steps(CLOSE) && end - last[0] <= steps(most)) last[1] = end;
    else result.push([start, end]);
  });
  return result;
}

// Cuts between segments of at most `longest` steps; new cuts are at the quietest place in the middle half of a segment.
function cutLong(energy, [start, end], longest) {
  if (end - start <= longest) return [start, end];
  const quarter = Math.floor((end - start) / 4);
  let middle = start + quarter;
  for (let step = middle; step < end - quarter; step++) if (energy[step] < energy[middle]) middle = step;
  return [...cutLong(energy, [start, middle], longest), ...cutLong(energy, [middle, end], longest).slice(1)];
}
