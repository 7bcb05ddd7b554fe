// The models, and streams of them, in a worker: what in_browser.js asks for.

import { connect } from "./calls.js";
import { load } from "./model.js";
import { resampleBy } from "./pauses.js";
import { Stream } from "./stream.js";
import { translate } from "./translator.js";

const models = [], streams = new Map();
let count = 0;

const ask = connect(self, {
  async load(path, lengths) {
    const model = await load(path);
    return { number: models.push([model, lengths]) - 1, rate: model.description.sample_rate };
  },
  translate: (number, samples, direction) => translate(...models[number], samples, direction),
  stream(number, direction) {
    const id = count++;
    streams.set(id, new Stream(...models[number], direction, update => ask("show", id, update)));
    return id;
  },
  done: id => streams.get(id).done.finally(() => streams.delete(id)),
  feed: (id, samples) => streams.get(id)?.feed(samples), // the page may not know yet that it is over
  finish: id => streams.get(id)?.finish(),
  close: id => streams.get(id)?.close(),
});
resampleBy((...given) => ask("resample", ...given));
