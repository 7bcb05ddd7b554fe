// Models that run in this browser, by onnxruntime-web: what is said does not leave it.

import * as ort from "./ort/ort.wasm.min.mjs";
import { search } from "./beam_search.js";
import { spansBetweenPauses } from "./pauses.js";
import { opening, text } from "./vocabulary.js";

const GRAPHS = ["encoder.onnx", "cross_attention.onnx", "decoder.onnx"];
// as in residual_st/runtime/beam_search.py
const FAIRSEQ = { beam: 5, lenpen: 1, max_len_b: 200, min_len: 1, early_stopping: true };

ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
ort.env.wasm.numThreads = 1; // more need headers that static hosts do not send

export async function load(model) {
  const description = await (await fetched(`${model.path}model.json`)).json();
  const sessions = [];
  for (const name of GRAPHS) {
    const bytes = await (await fetched(model.path + name)).arrayBuffer();
    await check(name, bytes, description.files[name]);
    sessions.push(await ort.InferenceSession.create(new Uint8Array(bytes), { executionProviders: ["wasm"] }));
  }
  const { vocabulary, languages = {} } = description, settings = { ...FAIRSEQ, ...description.settings };
  return {
    rate: description.sample_rate,
    languages: Object.keys(languages.targets ?? {}),
    async translate(samples, language) {
      const texts = [];
      for (const [start, end] of await spansBetweenPauses(samples, description.sample_rate, model.lengths)) {
        const piece = samples.subarray(start, end);
        if (piece.length < description.shortest_samples) continue;
        const { prompt, prefix } = opening(vocabulary, language ? languages.targets[language] : []);
        const longest = Math.min(settings.max_len_b, description.longest_words - prompt.length);
        const step = await decoder(sessions, description.decoder, piece, settings.beam);
        texts.push(text(vocabulary, await search(step, vocabulary, settings, { longest, prompt, prefix })));
      }
      return texts.filter(Boolean).join(" ");
    },
  };
}

async function fetched(url) {
  const response = await fetch(url).catch(() => { throw new Error(`${url} cannot be fetched. Is the server still running?`); });
  if (!response.ok) throw new Error(`${url} is not there (${response.status}).`);
  return response;
}

async function check(name, bytes, written) {
  if (!crypto.subtle) return; // pages that are not on https or this machine have none
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const hex = [...digest].map(byte => byte.toString(16).padStart(2, "0")).join("");
  if (hex !== written.sha256) throw new Error(`${name} is not what was exported: its checksum differs.`);
}

// The decoder before its first step, as a function: last words and the rows that they continue -> log-probabilities.
async function decoder([encoder, crossAttention, decoder], { layers, heads, head_width: width }, samples, beam) {
  const integers = (values, shape) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), shape);
  const { states, state_lengths } = await encoder.run({
    samples: new ort.Tensor("float32", samples, [1, samples.length]), lengths: integers([samples.length], [1]),
  });
  const source = { ...await crossAttention.run({ states }), state_lengths };
  let cache = {}, steps = 0;
  for (let layer = 0; layer < layers; layer++) {
    for (const name of ["keys", "values"]) {
      cache[`${name}.${layer}`] = new ort.Tensor("float32", new Float32Array(0), [beam, heads, 0, width]);
    }
  }
  return async (tokens, order) => {
    const inputs = { tokens: integers(tokens, [1, beam]), order: integers(order, [beam]), step: integers([steps++], []) };
    const outputs = await decoder.run({ ...inputs, ...source, ...cache });
    cache = Object.fromEntries(Object.keys(cache).map(name => [name, outputs[`next_${name}`]]));
    return outputs.log_probs.data;
  };
}
