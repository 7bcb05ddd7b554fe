// Models that run in this browser with onnxruntime-web; audio does not leave it. They run in a worker to keep the page responsive.

import { resample } from "./audio.js";
import { connect } from "./calls.js";

const shows = new Map(); // stream -> callback for its updates
const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
const ask = connect(worker, { resample, show: (stream, update) => shows.get(stream)(update) });

export async function load({ path, lengths }) {
  const { number, rate } = await ask("load", path, lengths);
  return {
    rate,
    soundRate: rate,
    translate: (samples, direction) => ask("translate", number, samples, direction),
    async stream(direction, _, show) {
      const stream = await ask("stream", number, direction);
      shows.set(stream, show);
      return {
        done: ask("done", stream),
        feed: samples => ask("feed", stream, samples),
        finish: () => ask("finish", stream),
        close: () => ask("close", stream),
      };
    },
  };
}
