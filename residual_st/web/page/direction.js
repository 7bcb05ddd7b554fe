// Menus below a model's name for its task, its spoken language and the language of the text.

import { TRANSCRIBE } from "./languages.js";

const selectsOf = card => Object.fromEntries([...card.querySelectorAll(".direction select")].map(select => [select.name, select]));

// Fills the menus with a model's tasks and languages from models.json.
export function offer(card, { tasks, sources, targets, default: own }) {
  const selects = selectsOf(card);
  const offered = { task: Object.fromEntries(tasks.map(name => [name, name])), source_lang: sources, target_lang: targets };
  for (const [name, table] of Object.entries(offered)) {
    const choices = Object.entries(table);
    selects[name].append(...choices.map(([code, label]) => new Option(label, code)));
    selects[name].disabled = choices.length < 2;
    choose(card, name, own[name]);
  }
}

// Selects a value if the model offers it.
export function choose(card, name, value) {
  const selects = selectsOf(card);
  if ([...selects[name].options].some(option => option.value === value)) selects[name].value = value;
  for (const select of Object.values(selects)) select.closest("label").hidden = !select.options.length;
  if (selects.task.value === TRANSCRIBE) selects.target_lang.closest("label").hidden = true;
}

// The selected values, null for hidden menus, in the form that `wordsOf` and the server take.
export function directionOf(card) {
  const selects = Object.entries(selectsOf(card));
  return Object.fromEntries(selects.map(([name, select]) => [name, select.closest("label").hidden ? null : select.value]));
}

// The displayed name of a model's source language.
export function nameOf(card, source) {
  return [...selectsOf(card).source_lang.options].find(option => option.value === source).text;
}
