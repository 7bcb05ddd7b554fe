// Text of a live audio stream, with the policy local-agreement: residual_st/streaming/stream.py.

import { randomFrom } from "./numbers.js";
import { FRAME, MARGIN, PAUSE, RATE, CLOSE, SHORT, spansBetweenPauses } from "./pauses.js";
import { LocalAgreement, betweenWords, covered } from "./policies.js";
import { Texts } from "./texts.js";
import { text } from "./vocabulary.js";

const CHUNK = 1, KEPT = 1; // seconds: new audio per step, and audio kept from before speech begins
const JOINED = 0.5; // relative to `lengths.joined` of recordings
const BEHIND = (PAUSE - MARGIN) * FRAME / RATE; // seconds of silence after a segment, beyond its margin
const SEED = 1;

// Text of one stream. `model` and `lengths` are those of `translate`; `show` is called with updates in the form of `listen --json`.
export class Stream {
  constructor(model, lengths, direction, show) {
    const { sample_rate: rate } = model.description;
    Object.assign(this, { model, show, rate, lengths: { longest: lengths.longest, joined: JOINED * lengths.joined } });
    Object.assign(this, { texts: new Texts(model.description, direction), random: randomFrom(SEED), before: 0 });
    this.waiting = this.held = new Float32Array(0);
    this.done = new Promise((resolve, reject) => Object.assign(this, { resolve, reject }));
    this.open([]);
  }

  feed(samples) {
    this.waiting = joined(this.waiting, samples);
    this.work();
  }

  // Returns the promise of the last update.
  finish() {
    this.isEnding = true;
    this.work();
    return this.done;
  }

  // Discards the rest.
  close() {
    this.isClosed = true;
    this.resolve();
  }

  // One step after another, each with all chunks that are complete by then, up to the length of a window.
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

  // Begins a new window, in which `words` are already committed.
  open(words) {
    Object.assign(this, { policy: new LocalAgreement(), words, text: whole(this.written(words)) });
    this.start = this.decodedTo = null; // first and last sample of the stream that its words were decoded from
    Object.assign(this, { states: 0, tail: "" }); // from the last step
  }

  async step(count, isLast) {
    this.held = joined(this.held, this.waiting.subarray(0, count));
    this.waiting = this.waiting.slice(count);
    let spans = await spansBetweenPauses(this.held, this.rate, this.lengths, !isLast), tail = "";
    const closed = [];
    if (this.decodedTo !== null && this.words.length) {
      // audio classified as speech stays speech, even if louder audio follows
      const start = this.start - this.before, decoded = this.decodedTo - this.before;
      if (spans.length && spans[0][0] < decoded) spans[0][0] = Math.min(start, spans[0][0]);
      else spans.unshift([start, decoded]);
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

  // Whether the last window has ended: a short window may continue after its pause.
  isOver([start, end]) {
    const isWhole = end - start >= Math.max(SHORT, this.lengths.joined) * this.rate;
    return this.held.length - end >= (isWhole ? BEHIND : CLOSE) * this.rate;
  }

  // Decodes the open window and commits words; returns the text of the uncommitted words.
  async grow([start, end]) {
    const source = await this.source(start, end);
    if (!source) return "";
    const states = this.statesOf(source, end - start), [first, decoded] = [this.start, this.decodedTo];
    [this.start, this.decodedTo] = [this.before + start, this.before + end];
    // no new complete state: comparing with the last step would compare it with itself
    if (this.start === first && states === this.states && this.decodedTo > decoded) return this.tail;
    this.states = states;
    const candidate = await this.texts.candidate(source, this.words), committed = this.policy.committed(candidate);
    this.words = [...this.words, ...candidate.slice(0, committed)];
    this.text = this.grown(this.words);
    const rest = candidate.slice(committed), all = this.written([...this.words, ...rest]);
    this.tail = all.startsWith(this.text) ? all.slice(this.text.length) : this.written(rest);
    return this.tail;
  }

  // Ends the window, and begins the next one with the committed words that belong to later audio.
  async end(start, end) {
    const source = await this.source(start, end);
    let words = this.words, later = [];
    if (source) {
      if (this.decodedTo !== null && this.decodedTo > this.before + end) { // speech without a pause was cut
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

  // Number of states for `samples` samples; Whisper always returns the states of its longest window.
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

  // Text of committed words, which begins with the earlier text.
  grown(words) {
    const made = whole(this.written(words));
    return made.startsWith(this.text) ? made : this.text;
  }
}

// A text without an incomplete character at its end.
const whole = text => text.replace(/\ufffd+$/, "");

function joined(one, other) {
  const all = new Float32Array(one.length + other.length);
  all.set(one);
  all.set(other, one.length);
  return all;
}
