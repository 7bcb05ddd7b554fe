// The beam search of residual_st/runtime/beam_search.py, for one utterance.

// The best text: its words, and their mean log-probability. `step` takes last words and the rows they continue, and returns
// log-probabilities, row by row; `rules`, `settings` and `prompt` are as there.
export async function search(step, rules, settings, prompt) {
  const { beam, lenpen, early_stopping: earlyStopping } = settings, { eos, longest } = rules;
  const order = Array.from({ length: beam }, (_, index) => index);
  for (const word of prompt.slice(0, -1)) await step(order.map(() => word), order);
  let finished = [], rows = order.map(origin => ({ tokens: [], score: 0, origin }));
  for (let length = 0; length <= longest; length++) {
    const logProbs = await step(rows.map(row => row.tokens.at(-1) ?? prompt.at(-1)), rows.map(row => row.origin));
    const size = logProbs.length / beam;
    const alive = length === 0 ? rows.slice(0, 1) : rows; // all hypotheses are identical at first
    const candidates = best(2 * beam, alive.map(({ tokens, score }, row) => (
      { score, logProbs: rules.allowed(logProbs.subarray(row * size, (row + 1) * size), tokens) })));
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
    while (going.length < beam) going.push({ ...going[0], score: -Infinity }); // after a prefix there is only one
    rows = going.map(({ word, row, score }) => ({ tokens: [...rows[row].tokens, word], score, origin: row }));
  }
  return finished[0];
}

// The `count` best continuations of rows with their scores so far, in descending order.
function best(count, rows) {
  const sorted = [];
  rows.forEach(({ score: soFar, logProbs }, row) => logProbs.forEach((logProb, word) => {
    const score = soFar + logProb;
    if ((sorted.length === count && score <= sorted.at(-1).score) || score === -Infinity) return;
    let at = sorted.length;
    while (at > 0 && sorted[at - 1].score < score) at--;
    sorted.splice(at, 0, { word, row, score });
    if (sorted.length > count) sorted.pop();
  }));
  return sorted;
}
