// Fallback rules of Whisper's authors: residual_st/runtime/fallback.py. Rules that are null are off.

export const isGuess = ({ log_prob: least = null }, { score }) => least !== null && score < least;

export async function repeatsItself({ compression_ratio: limit = null }, { tokens }, { eos, symbols }) {
  if (limit === null) return false;
  const size = Math.floor(Math.log2(symbols.length) / 8) + 1;
  const bytesOf = token => Array.from({ length: size }, (_, place) => (token >> (8 * place)) & 255);
  const numbers = Uint8Array.from([...tokens, eos].flatMap(bytesOf));
  return numbers.length / await compressedSize(numbers) > limit;
}

async function compressedSize(bytes) {
  const compressed = new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"));
  return (await new Response(compressed).arrayBuffer()).byteLength;
}
