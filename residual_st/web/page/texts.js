// Decoding of a window's words after the committed words: residual_st/streaming/texts.py.

import { repeatsItself } from "./fallback.js";
import { AUTO } from "./languages.js";
import { Search } from "./search.js";

export class Texts {
  // A language to be detected is that of the first complete window.
  constructor(description, direction) {
    Object.assign(this, { description, direction, search: direction.source_lang === AUTO ? null : new Search(description, direction, false) });
  }

  // The search's words for an open window; none if its text is a repetition loop.
  async candidate(source, words) {
    const search = await this.searchOf(source), best = await search.best(source, words);
    return await repeatsItself(search.fallback, best, search.vocabulary) ? [] : behind(search, words, best);
  }

  // The remaining words of a complete window, decoded like `translate` does.
  async last(source, words, random) {
    const search = await this.searchOf(source), text = await search.accepted(source, random, words);
    return text ? behind(search, words, text) : [];
  }

  async windowEnded(source) {
    this.search = await this.searchOf(source);
  }

  async searchOf(source) {
    return this.search ?? new Search(this.description, { ...this.direction, source_lang: await source.detectedLanguage() }, false);
  }
}

const behind = (search, words, { tokens }) => tokens.slice(search.prefix.length + words.length);
