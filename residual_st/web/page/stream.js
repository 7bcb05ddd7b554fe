// Speech as it comes, and its text as it grows: residual_st/streaming/stream.py, by local agreement.

import { randomFrom } from "./numbers.js";
import { FRAME, MARGIN, PAUSE, RATE, CLOSE, SHORT, spansBetweenPauses } from "./pauses.js";
import { LocalAgreement, betweenWords, covered } from "./policies.js";
import { Texts } from "./texts.js";
import { text } from "./vocabulary.js";

const CHUNK = 1, KEPT = 1; // seconds: of new sound in each step, and of what came before speech
const JOINED = 0.5; // of the length to which a recording's pieces are joined
const BEHIND = (PAUSE - MARGIN) * FRAME / RATE; // seconds of quiet behind a piece
const SEED = 1;

// Text of one speaker's stream. `model` and `lengths` are those of `translate`; `show` is told as much as a line of `listen --json`.
export class Stream {
  constructor(model, lengths, asked, show) {
    const { sample_rate: rate } = model.description;
    Object.assign(this, { model, show, rate, lengths: { longest: lengths.longest, joined: JOINED * lengths.joined } });
    Object.assign(this, { texts: new Texts(model.description, asked), random: randomFrom(SEED), before: 0 });
    this.waiting = this.held = new Float32Array(0);
    this.done = new Promise((resolve, reject) => Object.assign(this, { resolve, reject }));
    this.open([]);
  }

  feed(samples) {
    this.waiting = joined(this.waiting, samples);
    this.work();
  }

  // The promise of the last update.
  finish() {
    this.isEnding = true;
    this.work();
    return this.done;
  }

  // Gives the rest up.
  close() {
    this.isClosed = true;
    this.resolve();
  }

  // One step after the other, each of all chunks that are whole by then, or of as many as a window holds.
  async work() {
    if (this.isWorking) return;
    this.isWorking = true;
    const chunk = Math.round(CHUNK * this.rate), most = Math.max(chunk, Math.round(this.lengths.longest * this.rate));
    try {
      while (!this.isClosed && this.waiting.length >= chunk) {
        this.show(await this.step(Math.floor(Math.min(this.waiting.length, most) / chunk) * chunk, false));
      }
      if (!this.isClosed && this.isEnding) {
        this.show(await this.step(this.waiting.length, true));
        this.resolve();
      }
    } catch (error) {
      this.reject(error);
    }
    this.isWorking = false;
  }

  // A new window, in which these words stand already.
  open(words) {
    Object.assign(this, { policy: new LocalAgreement(), words, text: whole(this.written(words)) });
    this.start = this.heard = null; // samples of the stream from which on and up to which its words were found
    Object.assign(this, { states: 0, tail: "" }); // of the step before
  }

  async step(count, isLast) {
    this.held = joined(this.held, this.waiting.subarray(0, count));
    this.waiting = this.waiting.slice(count);
    let spans = await spansBetweenPauses(this.held, this.rate, this.lengths, !isLast), tail = "";
    const closed = [];
    if (this.heard !== null && this.words.length) {
      // what was taken for speech stays it, though something louder came behind it
      const start = this.start - this.before, heard = this.heard - this.before;
      if (spans.length && spans[0][0] < heard) spans[0][0] = Math.min(start, spans[0][0]);
      else spans.unshift([start, heard]);
    }
    while (spans.length && (spans.length > 1 || isLast || this.isOver(spans[0]))) {
      const [start, end] = spans.shift(), segment = await this.end(start, end);
      if (segment.text) closed.push(segment);
      this.drop(end);
      spans = spans.map(span => span.map(place => place - end));
    }
    if (spans.length) tail = await this.grow(spans[0]);
    else this.drop(this.held.length - Math.round(KEPT * this.rate));
    return { seconds: (this.before + this.held.length) / this.rate, closed, text: this.text, tail };
  }

  // Whether the last window ends with its speech: a short one may go on behind its pause.
  isOver([start, end]) {
    const isWhole = end - start >= Math.max(SHORT, this.lengths.joined) * this.rate;
    return this.held.length - end >= (isWhole ? BEHIND : CLOSE) * this.rate;
  }

  // Finds more words of the open window -> the text of those that do not stand.
  async grow([start, end]) {
    const source = await this.source(start, end);
    if (!source) return "";
    const states = this.statesOf(source, end - start), [first, heard] = [this.start, this.heard];
    [this.start, this.heard] = [this.before + start, this.before + end];
    // there is more sound, and no whole state of it: two steps in a row would be one
    if (this.start === first && states === this.states && this.heard > heard) return this.tail;
    this.states = states;
    const found = await this.texts.found(source, this.words), standing = this.policy.standing(found);
    this.words = [...this.words, ...found.slice(0, standing)];
    this.text = this.grown(this.words);
    const rest = found.slice(standing), all = this.written([...this.words, ...rest]);
    this.tail = all.startsWith(this.text) ? all.slice(this.text.length) : this.written(rest);
    return this.tail;
  }

  // Ends the window, and begins the next one with those words that stand and are of what comes behind.
  async end(start, end) {
    const source = await this.source(start, end);
    let words = this.words, later = [];
    if (source) {
      if (this.heard !== null && this.heard > this.before + end) { // speech without a pause was cut
        const anew = await this.texts.last(source, [], this.random);
        const here = betweenWords(words, covered(words, anew), some => this.written(some));
        [words, later] = [words.slice(0, here), words.slice(here)];
      }
      if (!later.length) words = [...words, ...await this.texts.last(source, words, this.random)];
      await this.texts.windowEnded(source);
    }
    const said = later.length ? this.written(words) : this.grown(words);
    this.open(later);
    return { start: (this.before + start) / this.rate, end: (this.before + end) / this.rate, text: said };
  }

  async source(start, end) {
    return end - start < this.model.description.shortest_samples ? null : this.model.source(this.held.subarray(start, end));
  }

  // That are of so many samples: Whisper's are always those of its longest window.
  statesOf(source, samples) {
    const { arch, longest_seconds: longest } = this.model.description;
    return arch === "whisper" ? Math.max(1, Math.round(source.states * samples / (longest * this.rate))) : source.states;
  }

  drop(samples) {
    this.held = this.held.slice(Math.max(0, samples));
    this.before += Math.max(0, samples);
  }

  written(words) {
    return text(this.model.description.vocabulary, words);
  }

  // Text of words that stand, which begins with the text before.
  grown(words) {
    const made = whole(this.written(words));
    return made.startsWith(this.text) ? made : this.text;
  }
}

// A text without half a letter at its end.
const whole = text => text.replace(/\ufffd+$/, "");

function joined(one, other) {
  const all = new Float32Array(one.length + other.length);
  all.set(one);
  all.set(other, one.length);
  return all;
}
