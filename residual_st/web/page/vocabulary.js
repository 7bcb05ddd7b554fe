// The vocabulary of residual_st/runtime/vocabulary.py.

// The decoder's prompt before the search, and the words that a text begins with; `selecting` are the words for task and languages.
export function opening({ start, begin, prompted }, selecting) {
  const words = [...selecting, ...begin];
  return prompted ? { prompt: [start, ...words], prefix: [] } : { prompt: [start], prefix: words };
}

// The text of words, without surrounding spaces.
export function text({ symbols, pieces, hidden, replaced = [] }, tokens) {
  const hiddenOnes = new Set(hidden);
  const kept = tokens.filter(token => !hiddenOnes.has(token)).map(token => symbols[token]);
  if (pieces === "words") return kept.join(" ");
  let joined = pieces === "bytes" ? joinedLetters(kept) : joinedPieces(kept);
  for (const [what, byWhat] of replaced) joined = joined.replaceAll(what, byWhat);
  return joined.replace(/^ +| +$/g, "");
}

// The text of sentencepiece's pieces. A byte outside any valid character becomes U+FFFD.
function joinedPieces(pieces) {
  let joined = "", bytes = [];
  for (const piece of [...pieces, ""]) {
    const byte = /^<0x([0-9A-F]{2})>$/.exec(piece);
    if (byte) {
      bytes.push(parseInt(byte[1], 16));
      continue;
    }
    joined += lettersOf(bytes) + piece.replaceAll("\u2581", " ");
    bytes = [];
  }
  return joined;
}

function lettersOf(bytes) {
  let letters = "";
  for (let at = 0; at < bytes.length;) {
    const length = bytes[at] < 0xc0 ? 1 : bytes[at] < 0xe0 ? 2 : bytes[at] < 0xf0 ? 3 : 4;
    try {
      letters += decoded(bytes.slice(at, at + length), true);
      at += length;
    } catch {
      letters += "\ufffd";
      at++;
    }
  }
  return letters;
}

// The text of words whose letters stand for bytes. An added word with other letters is used as it is.
function joinedLetters(words) {
  const bytes = words.flatMap(word => {
    const letterBytes = [...word].map(letter => BYTES.get(letter));
    return letterBytes.includes(undefined) ? [...new TextEncoder().encode(word)] : letterBytes;
  });
  return decoded(bytes, false);
}

function decoded(bytes, fatal) {
  return new TextDecoder("utf-8", { fatal, ignoreBOM: true }).decode(Uint8Array.from(bytes));
}

// GPT-2's letters for bytes: a visible character stands for itself, and the other bytes are numbered from 256.
const BYTES = new Map();
{
  const isSeen = byte => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  let others = 256;
  for (let byte = 0; byte < 256; byte++) BYTES.set(String.fromCodePoint(isSeen(byte) ? byte : others++), byte);
}
