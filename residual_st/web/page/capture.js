// Runs in the browser's audio thread: posts the microphone's samples, a tenth of a second at a time, and null at the end.

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Float32Array(Math.ceil(sampleRate / 10));
    this.filled = 0;
    this.isOver = false;
    this.port.onmessage = () => {
      this.isOver = true;
      this.pass();
      this.port.postMessage(null);
    };
  }

  process([[samples]]) {
    if (this.isOver) return false;
    if (samples) { // there are none before the microphone is connected
      if (this.filled + samples.length > this.block.length) this.pass();
      this.block.set(samples, this.filled);
      this.filled += samples.length;
    }
    return true;
  }

  pass() {
    this.port.postMessage(this.block.slice(0, this.filled));
    this.filled = 0;
  }
}

registerProcessor("capture", Capture);
