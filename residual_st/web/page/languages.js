// The words that ask a model for a task and languages: residual_st/languages.py.

export const AUTO = "auto"; // the source language that the model detects
export const TRANSCRIBE = "transcribe"; // Whisper's word for writing the language that is spoken

// In front of a text, of a direction whose source language is known. A direction has `task`, `source_lang` and `target_lang`, null
// where a model has none; the page offers nothing that a model does not have.
export function wordsOf({ tasks = {}, sources = {}, targets = {} }, { task, source_lang: source, target_lang: target }) {
  const asked = [[sources, source], [tasks, task], [task === TRANSCRIBE ? {} : targets, target]];
  return asked.flatMap(([table, name]) => table[name] ?? []);
}
