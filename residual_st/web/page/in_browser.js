// Models that run in this browser, by onnxruntime-web: what is said does not leave it.

import { load as loadModel } from "./model.js";
import { Stream } from "./stream.js";
import { translate } from "./translator.js";

export async function load({ path, lengths }) {
  const model = await loadModel(path), rate = model.description.sample_rate;
  return {
    rate,
    soundRate: rate,
    translate: (samples, direction) => translate(model, lengths, samples, direction),
    stream: (direction, _, show) => new Stream(model, lengths, direction, show),
  };
}
