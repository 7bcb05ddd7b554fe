// Models that run on this page's server.

import { wav } from "./audio.js";

const NO_ANSWER = "The server does not answer. Is it still running?";

export async function load(model) {
  return {
    rate: model.sample_rate,
    stream: (...options) => stream(model.number, ...options),
    async translate(samples, direction) {
      const query = new URLSearchParams(Object.entries(direction).filter(([, value]) => value !== null));
      const response = await fetch(`translate/${model.number}?${query}`, {
        method: "POST", headers: { "Content-Type": "audio/wav" }, body: wav(samples, model.sample_rate),
      }).catch(() => { throw new Error(NO_ANSWER); });
      const answer = await response.json().catch(() => ({ error: `The server answered ${response.status}.` }));
      if (!response.ok) throw new Error(answer.error);
      return answer;
    },
  };
}

// Text of live samples at any rate, by residual_st/web/captions.py.
async function stream(number, direction, rate, show) {
  const address = new URL(`captions/${number}`, location.href);
  address.protocol = address.protocol.replace("http", "ws");
  const socket = new WebSocket(address);
  const done = new Promise((resolve, reject) => {
    socket.addEventListener("message", ({ data }) => {
      const update = JSON.parse(data);
      if (update.error) reject(new Error(update.error));
      else show(update);
    });
    socket.addEventListener("close", ({ code }) => (code === 1000 ? resolve() : reject(new Error(NO_ANSWER))));
  });
  await Promise.race([done, new Promise(resolve => { socket.addEventListener("open", resolve); })]);
  const send = message => { if (socket.readyState === WebSocket.OPEN) socket.send(message); };
  send(JSON.stringify({ rate, ...direction }));
  return {
    done,
    feed: send,
    close: () => socket.close(),
    finish() {
      send(JSON.stringify({ end_of_stream: true }));
      return done;
    },
  };
}
