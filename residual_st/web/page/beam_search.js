// The beam search of residual_st/runtime/beam_search.py, for one utterance.

// The words of the best text. `step` takes last words and the rows that they go on from, and returns log-probabilities, row by row.
export async function search(step, { symbols, start, pad, eos }, { beam, longest, prefix }) {
  const size = symbols.length, finished = [];
  let rows = Array.from({ length: beam }, (_, index) => ({ tokens: [], score: 0, origin: index }));
  for (let length = 0; length <= longest; length++) {
    const logProbs = await step(rows.map(row => row.tokens.at(-1) ?? start), rows.map(row => row.origin));
    const allowed = word => {
      if (length === longest) return word === eos;
      if (length < prefix.length) return word === prefix[length];
      return word !== pad && !(word === eos && length === 0);
    };
    const candidates = best(logProbs, size, length === 0 ? rows.slice(0, 1) : rows, 2 * beam, allowed);
    for (const { word, row, score } of candidates.slice(0, beam)) {
      if (word === eos && finished.length < beam) finished.push({ tokens: rows[row].tokens, score: score / (length + 1) });
    }
    if (finished.length === beam || length === longest) break;
    const going = candidates.filter(candidate => candidate.word !== eos).slice(0, beam);
    while (going.length < beam) going.push({ ...going[0], score: -Infinity }); // behind a prefix there is one
    rows = going.map(({ word, row, score }) => ({ tokens: [...rows[row].tokens, word], score, origin: row }));
  }
  return finished.reduce((one, other) => (other.score > one.score ? other : one)).tokens;
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
