// The decoder's input, and its state between steps: residual_st/runtime/decoding.py, for one utterance.

import * as ort from "./ort/ort.wasm.min.mjs";

const integers = (values, shape) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), shape);

// Encodes an utterance's samples with a model's graphs.
export async function encode([encoder, crossAttention, decoder], description, samples) {
  const { states, state_lengths } = await encoder.run({
    samples: new ort.Tensor("float32", samples, [1, samples.length]), lengths: integers([samples.length], [1]),
  });
  return new Source(decoder, description, samples.length, states.dims[1], { ...await crossAttention.run({ states }), state_lengths });
}

// An encoded utterance, as the decoder reads it.
class Source {
  constructor(decoder, description, samples, states, values) {
    Object.assign(this, { decoder, description, samples, states, values });
  }

  // Maximum number of words in a text after a prompt of `prompt` words.
  longestText(settings, prompt) {
    const { sample_rate: rate, shortest_samples: shortest, longest_words: most } = this.description;
    const frames = Math.max(1, 1 + Math.floor((this.samples - shortest) / Math.floor(rate / 100)));
    return Math.min(Math.trunc(settings.max_len_a * frames + settings.max_len_b), most - prompt);
  }

  // The decoder before its first step, with `beam` hypotheses, as a function: last words and the rows that they continue ->
  // log-probabilities, row by row.
  decoding(beam) {
    const { layers, heads, head_width: width } = this.description.decoder;
    let cache = {}, steps = 0;
    for (let layer = 0; layer < layers; layer++) {
      for (const name of ["keys", "values"]) {
        cache[`${name}.${layer}`] = new ort.Tensor("float32", new Float32Array(0), [beam, heads, 0, width]);
      }
    }
    return async (tokens, order) => {
      const inputs = { tokens: integers(tokens, [1, beam]), order: integers(order, [beam]), step: integers([steps++], []) };
      const outputs = await this.decoder.run({ ...inputs, ...this.values, ...cache });
      cache = Object.fromEntries(Object.keys(cache).map(name => [name, outputs[`next_${name}`]]));
      return outputs.log_probs.data;
    };
  }

  // Log-probabilities of the word after the first word of a prompt.
  firstWords() {
    this.first ??= this.decoding(1)([this.description.vocabulary.start], [0]);
    return this.first;
  }

  // The language of the utterance: the model's likeliest language word after the first word of a prompt.
  async detectedLanguage() {
    const logProbs = await this.firstWords();
    const likelier = (one, other) => (logProbs[other[1][0]] > logProbs[one[1][0]] ? other : one);
    return Object.entries(this.description.languages.sources).reduce(likelier)[0];
  }
}
