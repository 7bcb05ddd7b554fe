// Models that run on the server that this page came from.

import { wav } from "./audio.js";

export async function load(model) {
  return {
    rate: model.sample_rate,
    async translate(samples, direction) {
      const query = new URLSearchParams(Object.entries(direction).filter(([, value]) => value !== null));
      const response = await fetch(`translate/${model.number}?${query}`, {
        method: "POST", headers: { "Content-Type": "audio/wav" }, body: wav(samples, model.sample_rate),
      }).catch(() => { throw new Error("The server does not answer. Is it still running?"); });
      const answer = await response.json().catch(() => ({ error: `The server answered ${response.status}.` }));
      if (!response.ok) throw new Error(answer.error);
      return answer;
    },
  };
}
