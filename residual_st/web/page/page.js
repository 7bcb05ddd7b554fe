// The page: a recording is sent to each model in turn.

import { decode } from "./audio.js";
import { caption } from "./captions.js";
import { directionOf, choose, nameOf, offer } from "./direction.js";
import { AUTO } from "./languages.js";
import { record } from "./microphone.js";

const element = id => document.getElementById(id);
const status = (text, isError = false) => {
  element("status").textContent = text;
  element("status").classList.toggle("error", isError);
};
const INPUTS = ["record", "live", "file"];
const enable = (...ids) => { for (const id of INPUTS) element(id).disabled = !ids.includes(id); };
const models = [];

async function start() {
  const listing = await fetch("models.json").catch(() => { throw new Error("The server does not answer. Is it still running?"); });
  const { engine, models: listed } = await listing.json().catch(() => { throw new Error("models.json beside this page cannot be read."); });
  element("where").textContent = engine === "browser"
    ? "The models run in this browser. What you say does not leave it." : "The models run on this page's server.";
  const { load } = await import(engine === "browser" ? "./in_browser.js" : "./on_server.js");
  for (const model of listed) {
    status(`Loading ${model.name}…`);
    const card = element("model").content.cloneNode(true).firstElementChild;
    card.querySelector("h2").textContent = model.name;
    card.querySelector(".size").textContent = `${model.megabytes.toFixed(1)} MB`;
    element("models").append(card);
    const loaded = await load(model).catch(error => { throw new Error(`${model.name} cannot be loaded: ${error.message}`); });
    offer(card, model.languages);
    models.push({ card, ...loaded });
  }
  enable(...INPUTS);
  status("Ready.");
}

// A choice for one model is made for all models that offer it.
element("models").addEventListener("change", ({ target }) => {
  for (const { card } of models) choose(card, target.name, target.value);
});

async function translate(blob) {
  status("Translating…");
  enable();
  element("playback").hidden = false;
  if (element("playback").src) URL.revokeObjectURL(element("playback").src);
  element("playback").src = URL.createObjectURL(blob);
  for (const { card } of models) card.querySelectorAll(".text, .time").forEach(line => { line.textContent = ""; });
  try {
    const buffer = await blob.arrayBuffer();
    for (const model of models) {
      const samples = await decode(buffer.slice(0), model.rate);
      const direction = directionOf(model.card), began = performance.now();
      const { text, source_lang: spoken } = await model.translate(samples, direction);
      const seconds = (performance.now() - began) / 1000, length = samples.length / model.rate;
      model.card.querySelector(".text").textContent = text || "(no speech)";
      model.card.querySelector(".time").textContent =
        (spoken !== AUTO && direction.source_lang === AUTO ? `Detected: ${nameOf(model.card, spoken)}. ` : "") +
        `${seconds.toFixed(2)} s for ${length.toFixed(1)} s of speech, ${(length / seconds).toFixed(1)} times real time`;
    }
    status("Done.");
  } catch (error) {
    status(error.message, true);
  } finally {
    enable(...INPUTS);
  }
}

// A button that starts something with `begin(fail)` and ends it when pressed again; `fail(error)` reports that it ended by itself.
function toggle(id, begin, end) {
  const button = element(id), label = button.textContent;
  let running = null;
  const show = () => {
    button.textContent = running ? "Stop" : label;
    button.setAttribute("aria-pressed", Boolean(running));
  };
  const press = async () => {
    const ended = running;
    running = null;
    enable();
    show();
    try {
      if (ended) {
        await end(ended);
      } else {
        running = await begin(fail);
        status("Listening…");
      }
    } catch (error) {
      status(error.message, true);
    }
    show();
    enable(...running ? [id] : INPUTS);
  };
  const fail = error => {
    running = null;
    show();
    enable(...INPUTS);
    status(error.message, true);
  };
  button.addEventListener("click", press);
}

toggle("record", record, async recording => translate(await recording.stop()));
toggle("live", fail => caption(models, fail), async captions => {
  await captions.stop();
  status("Done.");
});
element("file").addEventListener("change", event => {
  if (event.target.files.length) translate(event.target.files[0]);
  event.target.value = "";
});
for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  element("drop").addEventListener(name, event => {
    event.preventDefault();
    element("drop").classList.toggle("over", over);
    if (name === "drop" && event.dataTransfer.files.length && !element("file").disabled) translate(event.dataTransfer.files[0]);
  });
}
start().catch(error => status(error.message, true));
