// Recordings as mono samples, decoded by the browser.

const CANCELLED = 0.01; // relative to the loudest channel's energy

// A recording in any format that the browser reads -> mono Float32Array at `rate` Hz.
export async function decode(buffer, rate) {
  // decoding in a context of this rate resamples once, or not at all for a file of this rate
  return mixed(await new OfflineAudioContext(1, 1, rate).decodeAudioData(buffer).catch(() => {
    throw new Error("The browser cannot read this file as audio.");
  }));
}

// Mono samples at one rate -> at another rate.
export async function resample(samples, rate, wanted) {
  if (rate === wanted) return samples;
  const offline = new OfflineAudioContext(1, Math.max(1, Math.ceil(samples.length / rate * wanted)), wanted);
  const source = offline.createBufferSource();
  source.buffer = new AudioBuffer({ length: Math.max(1, samples.length), numberOfChannels: 1, sampleRate: rate });
  source.buffer.copyToChannel(samples, 0);
  source.connect(offline.destination);
  source.start();
  return (await offline.startRendering()).getChannelData(0);
}

// The mean of the channels, or the loudest channel if they cancel each other: `mixed` of residual_st/audio/reading.py.
function mixed(decoded) {
  const channels = Array.from({ length: decoded.numberOfChannels }, (_, index) => decoded.getChannelData(index));
  const mean = new Float32Array(decoded.length);
  for (const channel of channels) channel.forEach((value, index) => { mean[index] += value / channels.length; });
  const energy = values => values.reduce((sum, value) => sum + value * value, 0);
  const loudest = channels.reduce((one, other) => (energy(other) > energy(one) ? other : one));
  return energy(mean) >= CANCELLED * energy(loudest) ? mean : loudest;
}

// Mono samples as a 16-bit wav.
export function wav(samples, rate) {
  const bytes = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (at, value) => [...value].forEach((letter, index) => bytes.setUint8(at + index, letter.charCodeAt(0)));
  text(0, "RIFF"); bytes.setUint32(4, 36 + 2 * samples.length, true); text(8, "WAVEfmt ");
  bytes.setUint32(16, 16, true); bytes.setUint16(20, 1, true); bytes.setUint16(22, 1, true);
  bytes.setUint32(24, rate, true); bytes.setUint32(28, 2 * rate, true); bytes.setUint16(32, 2, true); bytes.setUint16(34, 16, true);
  text(36, "data"); bytes.setUint32(40, 2 * samples.length, true);
  samples.forEach((value, index) => bytes.setInt16(44 + 2 * index, Math.max(-1, Math.min(1, value)) * 32767, true));
  return new Blob([bytes], { type: "audio/wav" });
}
