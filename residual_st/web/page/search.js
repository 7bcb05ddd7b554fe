// The search for texts in one direction, with fallback: residual_st/runtime/search.py.

import { search as beamSearch } from "./beam_search.js";
import { isGuess, repeatsItself } from "./fallback.js";
import { wordsOf } from "./languages.js";
import { Rules } from "./rules.js";
import { draw } from "./sampling.js";
import { opening } from "./vocabulary.js";

// as in residual_st/runtime/settings.py
const FAIRSEQ = { beam: 5, lenpen: 1, unkpen: 0, max_len_a: 0, max_len_b: 200, min_len: 1, early_stopping: true };

export class Search {
  // `description` is a folder's, `direction` fully known; `withTimes`: whether texts have the model's timestamps.
  constructor(description, direction, withTimes) {
    const { prompt, prefix } = opening(description.vocabulary, wordsOf(description.languages, direction));
    this.vocabulary = description.vocabulary;
    this.settings = { ...FAIRSEQ, ...description.settings };
    this.timestamps = withTimes ? description.timestamps : null;
    this.fallback = description.fallback ?? {};
    this.silence = description.timestamps?.silence;
    this.prompt = prompt.filter(word => word !== this.timestamps?.none);
    this.prefix = prefix;
  }

  // The best text of an encoded utterance that begins with the words `earlier`.
  best(source, earlier = []) {
    return beamSearch(source.decoding(this.settings.beam), this.rules(source, earlier), this.settings, this.prompt);
  }

  // A sampled text; at temperature 0 greedy.
  sampled(source, temperature, random, earlier = []) {
    return draw(source.decoding(1), this.rules(source, earlier), this.prompt, temperature, random);
  }

  // The first text that the fallback rules accept, else the likeliest text unless it is a repetition loop, else null.
  async accepted(source, random, earlier = []) {
    const { fallback } = this, hasTimes = this.timestamps !== null;
    let likeliest = null;
    for (const temperature of fallback.temperatures ?? [0]) {
      // with timestamps, probabilities are normalised over the allowed words, as Whisper's authors do
      const isSampled = temperature || (hasTimes && this.settings.beam === 1);
      const text = await (isSampled ? this.sampled(source, temperature, random, earlier) : this.best(source, earlier));
      // without timestamps the likeliest text may be a guess
      const guessed = isGuess(fallback, text) && Boolean(temperature || hasTimes);
      if (guessed && hasTimes && Math.exp((await source.firstWords())[this.silence]) > (fallback.no_speech ?? Infinity)) return null;
      if (await repeatsItself(fallback, text, this.vocabulary)) continue;
      if (!guessed) return text;
      if (!temperature) likeliest = text;
    }
    return likeliest;
  }

  rules(source, earlier) {
    const longest = source.longestText(this.settings, this.prompt.length);
    return new Rules(this.vocabulary, this.settings, longest, this.prefix, this.timestamps, earlier);
  }
}
