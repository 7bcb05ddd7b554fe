// Greedy decoding or sampling of one text: residual_st/runtime/sampling.py.

import { logOfSum } from "./numbers.js";

// The likeliest words at temperature 0; sampled words above it. `step` and `prompt` are those of a search with one hypothesis. The
// score is the mean log-probability of the words and the end, normalised over the allowed words.
export async function draw(step, rules, prompt, temperature, random) {
  for (const word of prompt.slice(0, -1)) await step([word], [0]);
  const tokens = [];
  for (let total = 0, word = prompt.at(-1);;) {
    const logProbs = rules.allowed(await step([word], [0]), tokens);
    word = temperature ? byChance(logProbs, temperature, random) : likeliest(logProbs);
    total += logProbs[word] - logOfSum(logProbs);
    if (word === rules.eos) return { tokens, score: total / (tokens.length + 1) };
    tokens.push(word);
  }
}

const likeliest = values => values.reduce((best, value, word) => (value > values[best] ? word : best), 0);

// Gumbel noise: the maximum then falls on each word with its probability.
function byChance(logProbs, temperature, random) {
  return likeliest(logProbs.map(value => value / temperature - Math.log(-Math.log(random()))));
}
