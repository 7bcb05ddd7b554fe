// Rules for which words may come next in a text: residual_st/runtime/rules.py.

import { restrict } from "./timestamps.js";

export class Rules {
  // `earlier` are words after the prefix, from the text of an earlier step.
  constructor(vocabulary, settings, longest, prefix = [], timestamps = null, earlier = []) {
    const forced = [...prefix, ...earlier];
    Object.assign(this, { vocabulary, settings, longest, start: prefix.length, forced, timestamps, eos: vocabulary.eos });
  }

  // Log-probabilities of the next words, with -Infinity for words that may not follow the text so far.
  allowed(logProbs, tokens) {
    const { pad, unk, eos, suppressed = [], begin_suppressed: beginSuppressed = [] } = this.vocabulary, step = tokens.length;
    logProbs.forEach((value, word) => { if (Number.isNaN(value)) logProbs[word] = -Infinity; });
    const forbid = words => { for (const word of words) logProbs[word] = -Infinity; };
    if (pad !== null) forbid([pad]);
    if (unk !== null) logProbs[unk] -= this.settings.unkpen;
    if (step >= this.longest) return only(logProbs, eos);
    if (step < this.forced.length) return only(logProbs, this.forced[step]);
    forbid(suppressed);
    if (step === this.start) forbid(beginSuppressed);
    if (step < this.settings.min_len) forbid([eos]);
    if (this.timestamps) restrict(this.timestamps, logProbs, tokens, eos);
    return logProbs;
  }
}

function only(logProbs, word) {
  const kept = logProbs[word];
  logProbs.fill(-Infinity)[word] = kept;
  return logProbs;
}
