// The prompt words that select a task and languages: residual_st/languages.py.

export const AUTO = "auto"; // the source language that the model detects
export const TRANSCRIBE = "transcribe"; // Whisper's name of the task

// Prompt words for a direction whose source language is known. A direction has `task`, `source_lang` and `target_lang`, null if
// the model has none; the page offers only what a model has.
export function wordsOf({ tasks = {}, sources = {}, targets = {} }, { task, source_lang: source, target_lang: target }) {
  const selected = [[sources, source], [tasks, task], [task === TRANSCRIBE ? {} : targets, target]];
  return selected.flatMap(([table, name]) => table[name] ?? []);
}
