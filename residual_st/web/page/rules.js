// Which words may follow in a text: residual_st/runtime/rules.py.

import { restrict } from "./timestamps.js";

export class Rules {
  constructor(vocabulary, settings, longest, prefix = [], timestamps = null) {
    Object.assign(this, { vocabulary, settings, longest, prefix, timestamps, eos: vocabulary.eos });
  }

  // Log-probabilities of the next words, with -Infinity where they may not follow the text so far.
  allowed(logProbs, tokens) {
    const { pad, unk, eos, suppressed = [], begin_suppressed: beginSuppressed = [] } = this.vocabulary, step = tokens.length;
    logProbs.forEach((value, word) => { if (Number.isNaN(value)) logProbs[word] = -Infinity; });
    const forbid = words => { for (const word of words) logProbs[word] = -Infinity; };
    if (pad !== null) forbid([pad]);
    if (unk !== null) logProbs[unk] -= this.settings.unkpen;
    if (step >= this.longest) return only(logProbs, eos);
    if (step < this.prefix.length) return only(logProbs, this.prefix[step]);
    forbid(suppressed);
    if (step === this.prefix.length) forbid(beginSuppressed);
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
