// How many of the words that were just found stand: residual_st/streaming/policies.py.

// Words stand that two steps in a row have found.
export class LocalAgreement {
  before = [];

  standing(words) {
    const differs = words.findIndex((word, place) => word !== this.before[place]);
    const agreed = differs < 0 ? words.length : differs;
    this.before = words.slice(agreed);
    return agreed;
  }
}

// How many of the first words a text has: those to which its edit distance is least, and of several numbers the largest.
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
