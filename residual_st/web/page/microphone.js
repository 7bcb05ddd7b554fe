// The microphone: a recording, or live samples. Error messages say what to do.

const NO_MICROPHONE = {
  NotAllowedError: "Access to the microphone was denied: allow it for this page in the browser's settings",
  NotFoundError: "No microphone was found: connect one",
  NotReadableError: "The microphone cannot be opened, perhaps because another program uses it: close that program",
};

async function opened(isSupported, audio) {
  if (!window.isSecureContext) {
    throw new Error("Browsers allow the microphone only on https or localhost: open this page there, or choose a recording.");
  }
  if (!navigator.mediaDevices?.getUserMedia || !isSupported) {
    throw new Error("This browser cannot record: use another browser, or choose a recording.");
  }
  return navigator.mediaDevices.getUserMedia({ audio }).catch(error => {
    throw new Error(`${NO_MICROPHONE[error.name] ?? `The microphone cannot be used (${error.name})`}, or choose a recording.`);
  });
}

const close = stream => stream.getTracks().forEach(track => track.stop());

// Records from the microphone until `stop()`, which returns the bytes of a file.
export async function record() {
  const stream = await opened(window.MediaRecorder, true);
  const recorder = new MediaRecorder(stream), parts = [];
  recorder.ondataavailable = event => parts.push(event.data);
  const done = new Promise(resolve => { recorder.onstop = resolve; });
  recorder.start();
  return {
    async stop() {
      recorder.stop();
      await done;
      close(stream);
      return new Blob(parts, { type: recorder.mimeType });
    },
  };
}

// The microphone until `stop()`, for several readers: `sound(rate)` gives its samples at that rate, or at the browser's own.
export async function open() {
  // no noise or echo suppression: models are trained on unprocessed audio, and `residual-st listen` uses it too
  const stream = await opened(window.AudioWorkletNode, { echoCancellation: false, noiseSuppression: false, autoGainControl: false });
  const sounds = [];
  return {
    async sound(rate) {
      sounds.push(await sound(stream, rate));
      return sounds.at(-1);
    },
    async stop() {
      await Promise.all(sounds.map(each => each.end()));
      close(stream);
    },
  };
}

// Mono samples of a stream at `rate`, passed to the callback of `start`, a tenth of a second at a time and the rest at the end.
async function sound(stream, wanted) {
  const context = new AudioContext(wanted ? { sampleRate: wanted } : {});
  await context.audioWorklet.addModule(new URL("./capture.js", import.meta.url));
  const node = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
  const over = new Promise(resolve => { node.port.addEventListener("message", ({ data }) => { if (data === null) resolve(); }); });
  return {
    rate: context.sampleRate,
    start(receive) {
      node.port.addEventListener("message", ({ data }) => { if (data !== null) receive(data); });
      node.port.start();
      source(context, stream).connect(node);
    },
    async end() {
      node.port.start();
      node.port.postMessage("end");
      await over;
      await context.close();
    },
  };
}

function source(context, stream) {
  try {
    return context.createMediaStreamSource(stream);
  } catch { // some browsers do not resample a microphone
    throw new Error(`This browser cannot record at ${context.sampleRate} Hz: use another browser, or choose a recording.`);
  }
}
