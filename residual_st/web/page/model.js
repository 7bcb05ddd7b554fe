// The graphs of an exported model: residual_st/runtime/model.py.

import * as ort from "./ort/ort.wasm.min.mjs";
import { encode } from "./decoding.js";

const GRAPHS = ["encoder.onnx", "cross_attention.onnx", "decoder.onnx"];

ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
ort.env.wasm.numThreads = 1; // more threads need HTTP headers that static hosts do not send

// Loads the model of a folder, given by its URL.
export async function load(path) {
  const description = await (await fetched(`${path}model.json`)).json();
  const sessions = [];
  for (const name of GRAPHS) {
    const bytes = await (await fetched(path + name)).arrayBuffer();
    await check(name, bytes, description.files[name]);
    sessions.push(await ort.InferenceSession.create(new Uint8Array(bytes), { executionProviders: ["wasm"] }));
  }
  return { description, source: samples => encode(sessions, description, samples) };
}

async function fetched(url) {
  const response = await fetch(url).catch(() => { throw new Error(`${url} cannot be fetched. Is the server still running?`); });
  if (!response.ok) throw new Error(`${url} cannot be fetched: status ${response.status}.`);
  return response;
}

async function check(name, bytes, written) {
  if (!crypto.subtle) return; // only available on https and localhost
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const hex = [...digest].map(byte => byte.toString(16).padStart(2, "0")).join("");
  if (hex !== written.sha256) throw new Error(`${name} was changed after export: its checksum differs.`);
}
