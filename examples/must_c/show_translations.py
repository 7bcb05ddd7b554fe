"""Print some translations with their references, and the score, from the output of fairseq-generate."""

import argparse
import sys

from residual_st.printing import print_any_text


def main() -> int:
    print_any_text()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=argparse.FileType(encoding="utf-8"), help="output of fairseq-generate")
    parser.add_argument("--count", type=int, default=5, help="number of translations (default: 5)")
    args = parser.parse_args()
    lines = args.output.read().split("\n")
    references = dict(line[2:].split("\t", 1) for line in lines if line.startswith("T-"))
    scored = [line[2:].split("\t", 2) for line in lines if line.startswith("D-")]
    translations = {number: text for number, _score, text in scored}
    score = [line for line in lines if line.startswith("Generate ")]
    if not translations or not score:
        print(f"{args.output.name} is not a complete output of fairseq-generate", file=sys.stderr)
        return 2
    for utterance in sorted(translations, key=int)[: args.count]:
        print(f"  reference  {references[utterance]}\n  model      {translations[utterance]}\n")
    print(score[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
