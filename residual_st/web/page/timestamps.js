// Whisper's timestamps: residual_st/runtime/timestamps.py. `timestamps` is the entry of a folder's description.

import { logOfSum, most } from "./numbers.js";

// Sets the log-probabilities of words that may not follow the text so far to -Infinity.
export function restrict({ none, first, latest_start: latest }, logProbs, tokens, eos) {
  logProbs[none] = -Infinity;
  if (!tokens.length) {
    logProbs.fill(-Infinity, 0, first);
    if (latest !== null) logProbs.fill(-Infinity, first + latest + 1);
  } else {
    const last = tokens.at(-1) >= first, before = tokens.length < 2 || tokens.at(-2) >= first;
    if (last && before) logProbs.fill(-Infinity, first);
    if (last && !before) logProbs.fill(-Infinity, 0, eos);
    const time = tokens.findLast(token => token >= first);
    if (time !== undefined) logProbs.fill(-Infinity, first, time + (last && !before ? 0 : 1));
  }
  const times = logProbs.subarray(first), others = logProbs.subarray(0, first);
  if (logOfSum(times) > most(others)) others.fill(-Infinity);
}

// The sentences of a window that lasts `seconds`, each [start, end, words without timestamps], and the seconds done.
export function segments({ first, seconds: step }, tokens, seconds) {
  const isTime = tokens.map(token => token >= first), time = token => (token - first) * step;
  const words = some => some.filter(token => token < first);
  const endsWithOne = isTime.length > 1 && isTime.at(-1) && !isTime.at(-2);
  const cuts = tokens.map((_, place) => place).filter(place => isTime[place - 1] && isTime[place]);
  if (!cuts.length) {
    const last = tokens.findLast(token => token > first);
    return { sentences: [[0, last === undefined ? seconds : time(last), words(tokens)]], done: seconds };
  }
  const done = endsWithOne ? seconds : time(tokens[cuts.at(-1) - 1]);
  if (endsWithOne) cuts.push(tokens.length);
  const sentences = cuts.map((end, index) => tokens.slice(index && cuts[index - 1], end))
    .map(some => [time(some[0]), time(some.at(-1)), words(some)]);
  return { sentences, done };
}
