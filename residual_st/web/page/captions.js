// Live captions: what the microphone hears goes to every model while it is spoken, and text grows.

import { asked } from "./direction.js";
import { open } from "./microphone.js";

const LATEST = 60; // seconds that a text may be behind: the sound that waits for it is kept

// Captions of all models until `stop()`; `fail(error)` is told what ends them before. A model gives `stream(direction, rate, show)` of
// sound at its `soundRate`, with `feed(samples)`, `finish()`, `close()`, which gives it up, and the promise `done`.
export async function caption(models, fail) {
  const microphone = await open(), streams = [], starts = [];
  let isOver = false, failed = null;
  const end = async () => {
    isOver = true;
    await microphone.stop();
  };
  const giveUp = error => {
    if (isOver) return;
    failed = error;
    end();
    streams.forEach(stream => stream.close());
    fail(error);
  };
  try {
    for (const { card, soundRate, stream: begin } of models) {
      const sound = await microphone.sound(soundRate), view = new View(card);
      const stream = await begin(asked(card), sound.rate, update => view.show(update));
      streams.push(stream);
      stream.done.catch(giveUp);
      starts.push(() => sound.start(samples => {
        stream.feed(samples);
        view.heard += samples.length / sound.rate;
        if (view.behind > LATEST) giveUp(new Error(`The text is more than ${LATEST} s behind: choose a smaller model.`));
      }));
    }
    if (!failed) starts.forEach(start => start());
  } catch (error) {
    giveUp(error);
  }
  if (failed) throw failed;
  return {
    async stop() {
      await end();
      await Promise.all(streams.map(stream => stream.finish()));
      for (const { card } of models) {
        const text = card.querySelector(".text");
        if (!text.textContent) text.textContent = "(no speech)";
      }
    },
  };
}

// A line for each window; of the open one what stands is plain, and faint what may still be revised.
class View {
  constructor(card) {
    Object.assign(this, { heard: 0, shown: 0, time: card.querySelector(".time"), open: line(), tail: document.createElement("span") });
    this.tail.className = "tail";
    card.querySelector(".text").replaceChildren(this.open);
    this.time.textContent = "";
  }

  get behind() {
    return this.heard - this.shown;
  }

  show({ seconds, closed, text, tail }) {
    for (const segment of closed) this.open.before(line(segment.text));
    this.tail.textContent = tail;
    this.open.replaceChildren(text, this.tail);
    this.shown = seconds;
    this.time.textContent = `${seconds.toFixed(1)} s heard, ${Math.max(0, this.behind).toFixed(1)} s behind`;
  }
}

function line(text = "") {
  const made = document.createElement("div");
  made.textContent = text;
  return made;
}
