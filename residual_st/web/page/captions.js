// Live captions: audio from the microphone is sent to every model, and the text grows.

import { directionOf } from "./direction.js";
import { open } from "./microphone.js";

const LATEST = 60; // maximum delay of a text in seconds, since waiting audio is kept in memory

// Captions of all models until `stop()`; `fail(error)` is called if they end before. A model has `stream(direction, rate, show)` for
// audio at its `soundRate`; a stream has `feed(samples)`, `finish()`, `close()` (discards the rest) and the promise `done`.
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
      const stream = await begin(directionOf(card), sound.rate, update => view.show(update));
      streams.push(stream);
      stream.done.catch(giveUp);
      starts.push(() => sound.start(samples => {
        stream.feed(samples);
        view.received += samples.length / sound.rate;
        if (view.behind > LATEST) giveUp(new Error(`The text is more than ${LATEST} s late: choose a smaller model.`));
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

// One line per window. In the open window, committed text is plain, and text that may still be revised is faint.
class View {
  constructor(card) {
    Object.assign(this, { received: 0, shown: 0, time: card.querySelector(".time"), open: line(), tail: document.createElement("span") });
    this.tail.className = "tail";
    card.querySelector(".text").replaceChildren(this.open);
    this.time.textContent = "";
  }

  get behind() {
    return this.received - this.shown;
  }

  show({ seconds, closed, text, tail }) {
    for (const segment of closed) this.open.before(line(segment.text));
    this.tail.textContent = tail;
    this.open.replaceChildren(text, this.tail);
    this.shown = seconds;
    this.time.textContent = `${seconds.toFixed(1)} s transcribed, ${Math.max(0, this.behind).toFixed(1)} s behind`;
  }
}

function line(text = "") {
  const element = document.createElement("div");
  element.textContent = text;
  return element;
}
