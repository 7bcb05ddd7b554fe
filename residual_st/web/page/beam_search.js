// The beam search of residual_st/runtime/beam_search.py, for one utterance.

// The words of the best text. `step` takes last words and the rows that they continue, and returns log-probabilities, row by row.
// `longest`, `prompt` and `prefix` are as there, and `settings` are complete.
export async function search(step, vocabulary, settings, { longest, prompt, prefix }) {
  const { symbols, pad, eos, suppressed = [], begin_suppressed: beginSuppressed = [] } = vocabulary;
  const { beam, lenpen, min_len: minLen, early_stopping: earlyStopping } = settings;
  const never = new Set([...suppressed, pad]), notFirst = new Set(beginSuppressed);
  const size = symbols.length, order = Array.from({ length: beam }, (_, index) => index);
  for (const word of prompt.slice(0, -1)) await step(order.map(() => word), order);
  let finished = [], rows = order.map(origin => ({ tokens: [], score: 0, origin }));
  for (let length = 0; length <= longest; length++) {
    const logProbs = await step(rows.map(row => row.tokens.at(-1) ?? prompt.at(-1)), rows.map(row => row.origin));
    const allowed = word => {
      if (length === longest) return word === eos;
      if (length < prefix.length) return word === prefix[length];
      return !(never.has(word) || (length === prefix.length && notFirst.has(word)) || (word === eos && length < minLen));
    };
    const candidates = best(logProbs, size, length === 0 ? rows.slice(0, 1) : rows, 2 * beam, allowed);
    const weight = (length + 1) ** lenpen;
    for (const { word, row, score } of candidates.slice(0, beam)) {
      if (word !== eos || (earlyStopping && finished.length === beam)) continue;
      finished.push({ tokens: rows[row].tokens, score: score / weight });
      finished = finished.sort((one, other) => other.score - one.score).slice(0, beam);
    }
    const going = candidates.filter(candidate => candidate.word !== eos).slice(0, beam);
    if (length === longest || !going.length) break;
    const better = !earlyStopping && beam > 1 && going[0].score / weight > finished.at(-1)?.score;
    if (finished.length === beam && !better) break;
    while (going.length < beam) going.push({ ...going[0], score: -Infinity }); // behind a prefix there is one
    rows = going.map(({ word, row, score }) => ({ tokens: [...rows[row].tokens, word], score, origin: row }));
  }
  return finished[0].tokens;
}

// The `count` best continuations, from above.
function best(logProbs, size, rows, count, allowed) {
  const found = [];
  rows.forEach((row, index) => {
    for (let word = 0; word < size; word++) {
      const score = row.score + logProbs[index * size + word];
      if ((found.length === count && score <= found.at(-1).score) || !(score > -Infinity) || !allowed(word)) continue;
      let at = found.length;
      while (at > 0 && found[at - 1].score < score) at--;
      found.splice(at, 0, { word, row: index, score });
      if (found.length > count) found.pop();
    }
  });
  return found;
}
