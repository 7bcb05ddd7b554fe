// How many of the new words are committed, that is, never revised: residual_st/streaming/policies.py.

// Commits words on which two successive steps agree, except the last one.
export class LocalAgreement {
  before = [];

  committed(words) {
    const differs = words.findIndex((word, place) => word !== this.before[place]);
    const agreed = Math.max(0, Math.min(differs < 0 ? words.length : differs, words.length - 1));
    this.before = words.slice(agreed);
    return agreed;
  }
}

// The length of the prefix of `words` that is closest to `text` in edit distance; of several, the longest.
export function covered(words, text) {
  let costs = [0, ...words].map((_, place) => place);
  for (const word of text) {
    const before = costs;
    costs = [before[0] + 1];
    words.forEach((other, place) => {
      costs.push(Math.min(before[place] + (other !== word), before[place + 1] + 1, costs[place] + 1));
    });
  }
  return costs.lastIndexOf(Math.min(...costs));
}

// The position nearest to `here` at which a text can be split at a space; `here` if there is none.
export function betweenWords(words, here, written) {
  if (here === 0 || here === words.length) return here;
  const text = written(words), places = [...words.keys()].slice(1)
    .filter(place => `${written(words.slice(0, place))} ${written(words.slice(place))}` === text);
  return places.reduce((one, other) => (Math.abs(other - here) < Math.abs(one - here) ? other : one), places[0] ?? here);
}
