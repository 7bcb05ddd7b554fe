"""Replace a training manifest's targets by a teacher's translations: sequence-level distillation (arXiv 1606.07947).

    cp mustc/en-de/train_st.tsv mustc/en-de/teach_st.tsv    # a name that does not begin with `train`: no SpecAugment
    fairseq-generate mustc/en-de --gen-subset teach_st --path teacher.pt --results-path teach ...
    python examples/must_c/replace_targets.py mustc/en-de/train_st.tsv teach/generate-teach_st.txt mustc/en-de/train_kd_st.tsv

The new manifest can be used as `train-subset`. Sentences without a translation, or with an empty one, keep their own text.
"""

import argparse
import sys
from pathlib import Path

from manifest import write_manifest
from residual_st.errors import InputError
from residual_st.evaluation.generated import read_generated
from residual_st.fairseq.manifest import read_manifest
from residual_st.printing import print_any_text


def replace_targets(manifest: Path, generated: Path, output: Path) -> tuple[int, int]:
    """Write the manifest with replaced targets. Returns its number of sentences, and how many targets were replaced.

    Raises:
        InputError: if a file cannot be read, or the translations belong to other sentences.
    """
    if output.resolve() == manifest.resolve():
        raise InputError(f"{output} is the manifest itself; name another output")
    rows = read_manifest(manifest)
    columns = list(rows[0])
    sentences = read_generated(generated)
    if max(sentences) >= len(rows) or not any(rows[line]["tgt_text"] == sentence.reference for line, sentence in sentences.items()):
        raise InputError(
            f"{generated} does not belong to {manifest}: their references differ; generate from a copy of that manifest"
        )
    replaced = 0
    for line, sentence in sentences.items():
        if sentence.hypothesis.strip():
            rows[line]["tgt_text"] = sentence.hypothesis
            replaced += 1
    write_manifest(rows, output, columns)
    return len(rows), replaced


def main() -> int:
    print_any_text()
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path, help="the training manifest")
    parser.add_argument("generated", type=Path, help="output of fairseq-generate for a copy of it")
    parser.add_argument("output", type=Path, help="manifest to write")
    args = parser.parse_args()
    try:
        sentences, replaced = replace_targets(args.manifest, args.generated, args.output)
    except InputError as error:
        print(f"replace_targets.py: {error}", file=sys.stderr)
        return 2
    print(f"wrote {args.output}: {sentences} sentences, {replaced} with the teacher's text")
    return 0


if __name__ == "__main__":
    sys.exit(main())
